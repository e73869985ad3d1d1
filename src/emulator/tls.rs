//! TLS for the emulator: a certificate from files, or one generated at start.
//!
//! A generated certificate is signed by an authority that is generated with it. The authority's
//! certificate is written to a file for clients to trust; its key is never written and is dropped at
//! once, so that it cannot sign anything later. Both are valid for a year.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::warn;

use crate::repeats::Repeats;

/// The file of a generated authority.
const CA_FILE: &str = "ca.pem";

/// Some clients refuse a server's certificate with a longer one.
const LIFE: Duration = Duration::from_hours(365 * 24);

/// The least time between two log lines about handshakes.
const LOG_INTERVAL: Duration = Duration::from_mins(1);

const DAY: Duration = Duration::from_hours(24);

/// The source of the certificate.
#[derive(Clone, Debug)]
pub enum Tls {
    /// Generated at start for `localhost`, the loopback addresses and the listening address.
    Generated {
        /// Gets the authority's certificate as `ca.pem`, in place of an older one.
        directory: PathBuf,
    },
    /// From PEM files.
    Files {
        /// The server's certificate, then its intermediates.
        cert: PathBuf,
        /// Its private key.
        key: PathBuf,
    },
}

/// A chain and its key.
type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl Tls {
    /// The authority's file, if one is generated.
    #[must_use]
    pub fn ca_file(&self) -> Option<PathBuf> {
        match self {
            Self::Generated { directory } => Some(directory.join(CA_FILE)),
            Self::Files { .. } => None,
        }
    }

    /// The words for a chain and a key that were read and are of no use.
    fn unusable(&self, why: &rustls::Error) -> io::Error {
        let Self::Files { cert, key } = self else { return io::Error::other(why.clone()) };
        let (cert, key) = (cert.display(), key.display());
        io::Error::other(match why {
            rustls::Error::InconsistentKeys(_) => format!(
                "the private key `{key}` (`--tls-key`) does not belong to the certificate `{cert}` (`--tls-cert`); \
                 name the two that were made together, and in a chain the server's own certificate first"
            ),
            rustls::Error::NoCertificatesPresented => format!(
                "`{cert}` (`--tls-cert`) holds no certificate; one in PEM begins with `-----BEGIN CERTIFICATE-----`"
            ),
            why => format!(
                "the certificate `{cert}` (`--tls-cert`) and the private key `{key}` (`--tls-key`) can't be used: {why}"
            ),
        })
    }

    /// Reads or generates the certificate; errors name the file.
    pub(super) fn acceptor(&self, listen: IpAddr) -> io::Result<Acceptor> {
        let (chain, key) = match self {
            Self::Generated { directory } => generate(&directory.join(CA_FILE), listen)?,
            Self::Files { cert, key } => load(cert, key)?,
        };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(|why| self.unusable(&why))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let trust = match self.ca_file() {
            Some(file) => format!("it has to trust `{}`", file.display()),
            None => "it has to trust the authority of the certificate".to_owned(),
        };
        let tls = TlsAcceptor::from(Arc::new(config));
        Ok(Acceptor { tls, trust: trust.into(), broken: Arc::default() })
    }
}

/// The server's side of the handshakes.
#[derive(Clone)]
pub(super) struct Acceptor {
    tls: TlsAcceptor,
    /// The remedy for a client that does not trust the certificate.
    trust: Arc<str>,
    broken: Arc<Mutex<Repeats>>,
}

impl Acceptor {
    /// A handshake. One that fails for what the client sends is logged, once a minute at most; a connection that ends
    /// is not: that may be a look whether the port is open.
    pub(super) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        client: SocketAddr,
    ) -> Option<TlsStream<S>> {
        let error = match self.tls.accept(stream).await {
            Ok(stream) => return Some(stream),
            Err(error) => error,
        };
        let why = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>())?;
        let hint = match why {
            rustls::Error::AlertReceived(_) => &*self.trust,
            rustls::Error::InvalidMessage(_) => {
                "`http://` and `ws://` to a port with TLS look like this: write `https://` and `wss://`"
            }
            _ => "it has to speak TLS 1.2 or 1.3",
        };
        let count = self.broken.lock().again(LOG_INTERVAL, Instant::now())?;
        warn!(%client, count, %why, hint, "a client broke off the TLS handshake");
        None
    }
}

fn load(cert: &Path, key: &Path) -> io::Result<Identity> {
    let named = |path: &Path, e: pem::Error| {
        let kind = match &e {
            pem::Error::Io(e) => e.kind(),
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, format!("cannot read `{}`: {e}", path.display()))
    };
    let chain = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| named(cert, e))?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|e| named(key, e))?;
    Ok((chain, key))
}

fn generate(ca_file: &Path, listen: IpAddr) -> io::Result<Identity> {
    let (ca, issuer) = authority().map_err(io::Error::other)?;
    let identity = identity(&issuer, listen).map_err(io::Error::other)?;
    let directory = ca_file.parent().unwrap_or(Path::new("."));
    let written = std::fs::create_dir_all(directory).and_then(|()| std::fs::write(ca_file, ca));
    written.map_err(|e| {
        io::Error::new(e.kind(), format!("cannot write `{}`: {e}", ca_file.display()))
    })?;
    Ok(identity)
}

fn authority() -> Result<(String, Issuer<'static, KeyPair>), rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    limit_life(&mut params);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, "appsync-bridge emulator, local authority");
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    Ok((certificate.pem(), Issuer::new(params, key)))
}

fn identity(issuer: &Issuer<'_, KeyPair>, listen: IpAddr) -> Result<Identity, rcgen::Error> {
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    if !listen.is_unspecified() && !listen.is_loopback() {
        names.push(listen.to_string());
    }
    let mut params = CertificateParams::new(names)?;
    limit_life(&mut params);
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.distinguished_name.push(DnType::CommonName, "appsync-bridge emulator");
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, issuer)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    Ok((vec![certificate.der().clone()], key))
}

/// Valid for a year, from yesterday on, for clients with a slow clock.
fn limit_life(params: &mut CertificateParams) {
    let now = SystemTime::now();
    params.not_before = (now - DAY).into();
    params.not_after = (now + LIFE).into();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_authority_is_written_without_its_key() {
        let directory = tempfile::tempdir().unwrap();
        let tls = Tls::Generated { directory: directory.path().to_owned() };
        tls.acceptor("127.0.0.1".parse().unwrap()).unwrap();
        let file = tls.ca_file().unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.starts_with("-----BEGIN CERTIFICATE-----"));
        assert!(!text.contains("KEY"));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_chain_and_a_key_are_read_from_files_and_must_fit() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: String| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let cert = write("cert.pem", params.self_signed(&key).unwrap().pem());
        let other = write("other.pem", KeyPair::generate().unwrap().serialize_pem());
        let key = write("key.pem", key.serialize_pem());
        let listen = "127.0.0.1".parse().unwrap();
        let refused = |cert: &Path, key: &Path| {
            let tls = Tls::Files { cert: cert.to_owned(), key: key.to_owned() };
            tls.acceptor(listen).err().map(|why| why.to_string())
        };
        assert_eq!(refused(&cert, &key), None);
        let words = refused(&cert, &other).unwrap();
        for said in ["cert.pem` (`--tls-cert`)", "other.pem` (`--tls-key`)", "made together"] {
            assert!(words.contains(said), "{said}: {words}");
        }
        let words = refused(&key, &key).unwrap();
        assert!(words.contains("key.pem` (`--tls-cert`) holds no certificate"), "{words}");
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let missing = PathBuf::from("/nowhere/cert.pem");
        let tls = Tls::Files { cert: missing.clone(), key: missing };
        let Err(error) = tls.acceptor("127.0.0.1".parse().unwrap()) else { panic!("accepted") };
        assert!(error.to_string().contains("/nowhere/cert.pem"), "{error}");
    }
}
