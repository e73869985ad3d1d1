//! TLS of the admin port. Certificate and key follow their files, so that they are renewed without a restart; a pair
//! that can't be used changes nothing: the last good one is shown.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::files::regular::{self, Stamp};
use crate::listener::Accepted;

/// A file of certificates or a key holds no more.
const MAX_BYTES: u64 = 1 << 20;

/// Least time between two looks at the files.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A connection waits no longer for a look: a file may be on a mount that does not answer.
const PATIENCE: Duration = Duration::from_millis(500);

/// The two files, and what is shown of them.
#[derive(Debug)]
pub(super) struct Tls {
    chain: PathBuf,
    key: PathBuf,
    shown: Mutex<Shown>,
}

struct Shown {
    acceptor: TlsAcceptor,
    stamps: Stamps,
    looked: Instant,
    looking: bool,
}

type Stamps = [Option<Stamp>; 2];

impl Tls {
    /// Of these files, as they are now. The error names the file.
    pub(super) fn read(chain: &Path, key: &Path) -> Result<Self, String> {
        let stamps = stamps(chain, key);
        let acceptor = acceptor(chain, key)?;
        let shown = Shown { acceptor, stamps, looked: Instant::now(), looking: false };
        let (chain, key) = (chain.to_owned(), key.to_owned());
        Ok(Self { chain, key, shown: Mutex::new(shown) })
    }

    /// The handshake with a client; `None` if it fails, mostly for what the client is.
    pub(super) async fn accept(
        self: Arc<Self>,
        stream: Accepted<TcpStream>,
    ) -> Option<TlsStream<Accepted<TcpStream>>> {
        if self.begin_look(Instant::now()) {
            let this = Arc::clone(&self);
            // One at a time, however long it takes.
            let look = tokio::task::spawn_blocking(move || this.look());
            let _ = timeout(PATIENCE, look).await;
        }
        let acceptor = self.shown.lock().acceptor.clone();
        acceptor.accept(stream).await.ok()
    }

    fn begin_look(&self, now: Instant) -> bool {
        let mut shown = self.shown.lock();
        let due = !shown.looking && now.duration_since(shown.looked) >= LOOK_EVERY;
        shown.looking |= due;
        due
    }

    fn look(&self) {
        let stamps = stamps(&self.chain, &self.key);
        let known = self.shown.lock().stamps == stamps;
        let read = (!known).then(|| acceptor(&self.chain, &self.key));
        let mut shown = self.shown.lock();
        (shown.looked, shown.looking) = (Instant::now(), false);
        match read {
            None => return,
            Some(Ok(acceptor)) => {
                shown.acceptor = acceptor;
                let file = self.chain.display();
                tracing::info!(%file, "the admin port's certificate changed; the new one is shown");
            }
            // One of the two comes first, so this may be over soon.
            Some(Err(why)) => {
                tracing::warn!(%why, "the admin port's certificate can't be used; the last good one stays in force");
            }
        }
        // Said once for each state of the files.
        shown.stamps = stamps;
    }
}

fn stamps(chain: &Path, key: &Path) -> Stamps {
    [chain, key].map(|path| std::fs::metadata(path).ok().map(|metadata| Stamp::of(&metadata)))
}

fn acceptor(chain: &Path, key: &Path) -> Result<TlsAcceptor, String> {
    let named = |path: &Path, why: &dyn std::fmt::Display| {
        format!("`{}` can't be used: {why}", path.display())
    };
    let read = |path: &Path| regular::read(path, MAX_BYTES).map_err(|why| named(path, &why));
    let certificates = CertificateDer::pem_slice_iter(&read(chain)?.bytes)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|why| named(chain, &why))?;
    let private =
        PrivateKeyDer::from_pem_slice(&read(key)?.bytes).map_err(|why| named(key, &why))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(certificates, private))
        .map_err(|why| named(key, &why))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shown(…)")
    }
}
