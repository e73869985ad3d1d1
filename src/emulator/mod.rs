//! A local Event API, faithful to AWS as far as AWS is known: `POST /event` and the WebSocket
//! `/event/realtime` on one host and port, over plain HTTP or TLS.
//!
//! It is for development and for tests, those of this bridge included: it verifies signatures, keeps
//! the limits of the service, and has its two sets of error texts, one for HTTP and one for WebSocket.
//! It stores nothing, runs no namespace handlers and has no account quotas.
//!
//! It can produce faults on demand: `fault` has the list of them; `control` changes it while the
//! emulator runs, `--fault` and `--faults` of the command set it at the start.
//!
//! Where the service's behaviour is not public, the emulator guesses, and each part lists its guesses
//! at its top: `http` for the answers, `realtime` for the frames, `fanout::hub` for the patterns,
//! `access` and `access::signature` for the credentials.
//!
//! For Amplify: on a standard AWS domain its client replaces `appsync-api` by `appsync-realtime-api` in
//! the host name, so an emulator under such a name needs both; on `localhost` one is enough. It
//! connects to `wss://` even for an `http://` endpoint, unless the scheme is written `HTTP://`.

mod access;
mod amplify;
mod answer;
mod caller;
mod control;
mod fanout;
mod fault;
mod handle;
mod http;
mod memory;
mod rate;
mod realtime;
mod record;
mod service;
mod tls;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ::http::{Request, Response};
use axum::body::Body;
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_util::io::InspectReader;
use tokio_util::task::TaskTracker;

pub use access::{IamUser, Mode, Namespace};
pub use amplify::AmplifyLines;
pub use fault::{Fault, FaultError};
pub use handle::Handle;
pub use record::{Counts, Published};
pub use service::Watch;
pub use tls::Tls;

use crate::event_api::{EVENT_PATH, REALTIME_PATH};
use crate::files::descriptors;
use crate::listener::{Accepted, Listener, Slot};
use crate::shutdown::Shutdown;
use access::Access;
use fanout::Fanout;
use fault::Faults;
use memory::{Holding, MAX_HELD_BYTES, Memory, Side};
use record::{Journal, Ledger, Stats};
use service::Service;
use tls::Acceptor;

/// An upper limit; the file descriptors may allow fewer. High, as subscribers are its purpose.
const MAX_CONNECTIONS: usize = 4_096;

/// Its connections may take one part in this many of the file descriptors.
const DESCRIPTOR_SHARE: u64 = 3;

/// An API key that is in the documentation, and that hints name: no secret.
pub const PUBLIC_KEY: &str = "da2-local";

/// The configuration of an emulator.
pub struct Settings {
    /// Port 0 takes a free one.
    pub listen: SocketAddr,
    /// The region that signatures must be scoped to; `None` takes any.
    pub region: Option<String>,
    /// The namespaces that exist; empty: every well-formed one does.
    pub namespaces: Vec<Namespace>,
    /// Accepted values of `x-api-key`.
    pub api_keys: Vec<String>,
    /// Accepted values of `authorization`, without the `Bearer ` that a client may put before them: they stand for
    /// those that Cognito, OpenID Connect or a Lambda authorizer would accept.
    pub tokens: Vec<String>,
    /// Every JSON Web Token is accepted, unverified.
    pub any_jwt: bool,
    /// Users whose signatures are accepted.
    pub users: Vec<IamUser>,
    /// `false` accepts every well-formed signature, whatever its key.
    pub verify_signatures: bool,
    /// `None`: plain HTTP.
    pub tls: Option<Tls>,
    /// Time between two `ka` frames; above zero. AWS: 60 s.
    pub keep_alive: Duration,
    /// Delay of the answer to a publish over HTTP, after its events were delivered.
    pub latency: Duration,
    /// A file that gets one JSON line for every answered event, before the answer is sent.
    pub ledger: Option<PathBuf>,
    /// The faults that are active from the start.
    pub faults: Vec<Fault>,
    /// Allow every client to change the faults and read the counts; on the loopback that is always
    /// allowed.
    pub control: bool,
    /// Is told of every publish with accepted events, before their subscribers; must not wait.
    pub watch: Option<Watch>,
}

impl Settings {
    /// Plain HTTP, every namespace, and no accepted credentials yet.
    #[must_use]
    pub fn new(listen: SocketAddr) -> Self {
        Self {
            listen,
            region: None,
            namespaces: Vec::new(),
            api_keys: Vec::new(),
            tokens: Vec::new(),
            any_jwt: false,
            users: Vec::new(),
            verify_signatures: true,
            tls: None,
            keep_alive: Duration::from_mins(1),
            latency: Duration::ZERO,
            ledger: None,
            faults: Vec::new(),
            control: false,
            watch: None,
        }
    }
}

/// A local Event API that has its port and is not running yet.
pub struct Emulator {
    listener: Listener,
    local: SocketAddr,
    tls: Option<Acceptor>,
    ca_file: Option<PathBuf>,
    service: Arc<Service>,
}

impl Emulator {
    /// Takes the port, opens the ledger and makes or reads the certificate. Clients can connect after
    /// this, and are answered once [`run`](Self::run) is called. Errors are those of the system, with
    /// the port or the file named.
    pub fn bind(settings: Settings) -> io::Result<Self> {
        if let Some(name) = Namespace::twice(&settings.namespaces) {
            let words = format!("namespace `{name}` is named twice: join its modes by `+`");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, words));
        }
        let named =
            |what: String| move |e: io::Error| io::Error::new(e.kind(), format!("{what}: {e}"));
        let most = descriptors::share(DESCRIPTOR_SHARE, MAX_CONNECTIONS);
        let listener =
            Listener::bind(settings.listen, "the emulator's port", most).map_err(|e| {
                let listen = settings.listen;
                let words = format!("cannot listen on `{listen}`: {e}; try another `--listen`");
                io::Error::new(e.kind(), words)
            })?;
        let local = listener.local_addr()?;
        let tls = settings.tls.as_ref().map(|tls| tls.acceptor(local.ip())).transpose()?;
        let open = |path: &PathBuf| {
            let what = format!("cannot open the ledger `{}`", path.display());
            Ledger::open(path).map_err(named(what))
        };
        let ledger = settings.ledger.as_ref().map(open).transpose()?;
        let memory = Memory::new(MAX_HELD_BYTES);
        let endpoint = endpoint(settings.tls.is_some(), local);
        let ca_file = settings.tls.as_ref().and_then(Tls::ca_file);
        // What is not public is for nobody else to see.
        let key = settings.api_keys.iter().find(|key| *key == PUBLIC_KEY);
        let key = key.map_or("YOUR-API-KEY", String::as_str);
        let namespace = Namespace::for_examples(&settings.namespaces);
        let amplify = AmplifyLines::new(
            &endpoint,
            settings.region.as_deref(),
            key,
            namespace,
            ca_file.as_deref(),
        );
        let service = Service {
            access: Access {
                api_keys: settings.api_keys,
                tokens: settings.tokens,
                any_jwt: settings.any_jwt,
                users: settings.users,
                region: settings.region,
                verify_signatures: settings.verify_signatures,
            },
            namespaces: settings.namespaces,
            fanout: Fanout::new(Arc::clone(&memory)),
            memory,
            ledger,
            // A timer without a period panics.
            keep_alive: settings.keep_alive.max(Duration::from_millis(1)),
            latency: settings.latency,
            faults: Faults::new(settings.faults, Instant::now()),
            control: settings.control || local.ip().is_loopback(),
            local,
            endpoint,
            amplify,
            stats: Stats::default(),
            journal: Journal::default(),
            watch: settings.watch,
        };
        Ok(Self { listener, local, tls, ca_file, service: Arc::new(service) })
    }

    /// The address it listens on, with the actual port.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// A handle to it from within this process.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle(Arc::clone(&self.service))
    }

    /// The HTTP endpoint, such as `http://127.0.0.1:8787/event`; the loopback's if it listens on all
    /// interfaces.
    #[must_use]
    pub fn endpoint(&self) -> String {
        self.service.endpoint.clone()
    }

    /// The WebSocket endpoint, such as `ws://127.0.0.1:8787/event/realtime`.
    #[must_use]
    pub fn realtime(&self) -> String {
        let scheme = if self.tls.is_some() { "wss" } else { "ws" };
        format!("{scheme}://{}{REALTIME_PATH}", reachable(self.local))
    }

    /// The authority that clients must trust, if the certificate was generated.
    #[must_use]
    pub fn ca_file(&self) -> Option<&PathBuf> {
        self.ca_file.as_ref()
    }

    /// Serves until the drain starts, then lets running requests end and closes the sockets with
    /// 1000; the abort ends both at once.
    pub async fn run(self, shutdown: Shutdown) -> io::Result<()> {
        let tasks = TaskTracker::new();
        loop {
            let stream = tokio::select! {
                stream = self.listener.accept() => stream,
                () = shutdown.drain() => break,
            };
            let client = stream.client();
            let connection = Connection {
                service: Arc::clone(&self.service),
                holding: Arc::new(self.service.memory.holding(client)),
                tasks: tasks.clone(),
                shutdown: shutdown.clone(),
                client,
                published: Arc::default(),
            };
            tasks.spawn(connection.open(stream, self.tls.clone()));
        }
        drop(self.listener);
        tasks.close();
        tokio::select! {
            () = tasks.wait() => {}
            () = shutdown.abort() => {}
        }
        Ok(())
    }
}

fn endpoint(tls: bool, local: SocketAddr) -> String {
    let scheme = if tls { "https" } else { "http" };
    format!("{scheme}://{}{EVENT_PATH}", reachable(local))
}

/// This machine's own, if it listens on all of them.
fn reachable(local: SocketAddr) -> SocketAddr {
    let ip = match local.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, local.port())
}

/// One client's TCP connection.
struct Connection {
    service: Arc<Service>,
    holding: Arc<Holding>,
    tasks: TaskTracker,
    shutdown: Shutdown,
    client: SocketAddr,
    /// Whether it has carried a publish request.
    published: Arc<AtomicBool>,
}

impl Connection {
    async fn open(self, stream: Accepted<TcpStream>, tls: Option<Acceptor>) {
        let slot = Arc::clone(stream.slot());
        let Some(tls) = tls else {
            return self.serve(stream, &slot).await;
        };
        if let Some(Some(stream)) = slot.hold(tls.accept(stream, self.client)).await {
            self.serve(stream, &slot).await;
        }
    }

    async fn serve(
        self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        slot: &Arc<Slot>,
    ) {
        // Bytes are charged as they are read, and cleared by the code that uses them.
        let holding = Arc::clone(&self.holding);
        let stream =
            InspectReader::new(stream, move |read: &[u8]| holding.add(Side::Read, read.len()));
        tokio::select! {
            () = slot.serve(stream, |request| self.answer(request), self.shutdown.drain()) => {}
            () = self.holding.cut() => {}
            () = self.shutdown.abort() => {}
        }
    }

    fn answer(
        &self,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<Body>, http::Cut>> + Send + 'static {
        let service = Arc::clone(&self.service);
        let published = Arc::clone(&self.published);
        let first = move || !published.swap(true, Ordering::Relaxed);
        let (tasks, shutdown) = (self.tasks.clone(), self.shutdown.clone());
        let holding = Arc::clone(&self.holding);
        http::answer(service, tasks, shutdown, self.client, holding, first, request)
    }
}
