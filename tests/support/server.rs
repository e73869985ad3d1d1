//! Servers inside of the test that do to their connections what servers do, over TLS if wanted, and a
//! proxy that makes tunnels. What they answer is what an Event API answers.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::response::Response;
use bytes::Bytes;
use h2::Reason;
use h2::server::SendResponse;
use http::request::Parts;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

use super::stub::{Accepted, Asked};

/// A running server; its connections are cut when it is dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) seen: Arc<Seen>,
    tls: Arc<Mutex<Option<TlsAcceptor>>>,
    task: AbortHandle,
}

/// What came, and what was done about it.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) accepted: Accepted,
    connections: AtomicU64,
    handshakes: AtomicU64,
    refused: AtomicU64,
    goaways: AtomicU64,
    silent: AtomicU64,
}

/// How connections are treated.
#[derive(Clone, Copy)]
pub(crate) enum Manner {
    /// HTTP/1.1; each connection is closed after up to so long, as soon as no request is under way.
    Http1 { life: Option<Duration> },
    /// HTTP/2; a GOAWAY after so many requests, and requests refused with this probability. After none: as each
    /// connection begins, but for every fiftieth.
    Http2 { goaway_after: u64, refuse: f64 },
    /// HTTP/2; so many requests at a time.
    Http2Streams(u32),
}

/// A certificate authority of a test.
pub(crate) struct Authority {
    pub(crate) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = params(&[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// A certificate for these names, and its key, both in PEM.
    pub(crate) fn issue(&self, names: &[&str]) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = params(names).signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    /// Takes TLS connections with a certificate of this authority for these names.
    pub(crate) fn acceptor(
        &self,
        names: &[&str],
        protocol: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let mut params = params(names);
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        acceptor(certificate.der().clone(), &key, protocol)
    }
}

/// Takes TLS connections with a certificate that nobody signed but itself.
pub(crate) fn self_signed(names: &[&str]) -> TlsAcceptor {
    let key = KeyPair::generate().unwrap();
    let certificate = params(names).self_signed(&key).unwrap();
    acceptor(certificate.der().clone(), &key, "http/1.1")
}

fn params(names: &[&str]) -> CertificateParams {
    let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    // An authority is looked up by its name: no two have the same one.
    params.distinguished_name.push(DnType::CommonName, format!("test {}", rand::random::<u64>()));
    params
}

fn acceptor(chain: CertificateDer<'static>, key: &KeyPair, protocol: &str) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![chain], key)
        .unwrap();
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

impl Server {
    pub(crate) async fn start(tls: Option<TlsAcceptor>, manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::<Seen>::default();
        let tls = Arc::new(Mutex::new(tls));
        let (shared, shown) = (Arc::clone(&seen), Arc::clone(&tls));
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let ordinal = shared.connections.fetch_add(1, Ordering::SeqCst) + 1;
                let (tls, seen) = (shown.lock().unwrap().clone(), Arc::clone(&shared));
                connections.spawn(async move {
                    let Some(tls) = tls else { return serve(stream, manner, ordinal, seen).await };
                    if let Ok(stream) = tls.accept(stream).await {
                        seen.handshakes.fetch_add(1, Ordering::SeqCst);
                        serve(stream, manner, ordinal, seen).await;
                    }
                });
            }
        });
        Self { address, seen, tls, task: task.abort_handle() }
    }

    /// Takes new connections with another certificate.
    pub(crate) fn show(&self, tls: TlsAcceptor) {
        *self.tls.lock().unwrap() = Some(tls);
    }

    /// The endpoint, under a name of the loopback.
    pub(crate) fn endpoint(&self, scheme: &str) -> String {
        format!("{scheme}://localhost:{}/event", self.address.port())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Seen {
    pub(crate) fn connections(&self) -> u64 {
        self.connections.load(Ordering::SeqCst)
    }

    /// TLS handshakes that were completed; before that no client sends a request.
    pub(crate) fn handshakes(&self) -> u64 {
        self.handshakes.load(Ordering::SeqCst)
    }

    /// Streams of HTTP/2 that were refused.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::SeqCst)
    }

    pub(crate) fn goaways(&self) -> u64 {
        self.goaways.load(Ordering::SeqCst)
    }

    /// The connections of now never answer again; new ones do.
    pub(crate) fn silence(&self) {
        self.silent.store(self.connections(), Ordering::SeqCst);
    }

    async fn answer(&self, head: Parts, body: Bytes, connection: u64) -> Response {
        if connection <= self.silent.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        sleep(Duration::from_millis(2)).await;
        let body = String::from_utf8(body.to_vec()).unwrap();
        self.accepted.answer(&Asked { headers: head.headers, body }, None)
    }
}

async fn serve<S>(stream: S, manner: Manner, ordinal: u64, seen: Arc<Seen>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    match manner {
        Manner::Http1 { life } => http1(stream, life, ordinal, seen).await,
        Manner::Http2 { goaway_after, refuse } => {
            let builder = h2::server::Builder::new();
            http2(stream, &builder, (goaway_after, refuse), ordinal, seen).await;
        }
        Manner::Http2Streams(most) => {
            let mut builder = h2::server::Builder::new();
            builder.max_concurrent_streams(most);
            http2(stream, &builder, (u64::MAX, 0.0), ordinal, seen).await;
        }
    }
}

async fn http1<S>(stream: S, life: Option<Duration>, ordinal: u64, seen: Arc<Seen>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let seen = Arc::clone(&seen);
        async move {
            let (head, body) = request.into_parts();
            let body = to_bytes(Body::new(body), 1 << 20).await.unwrap_or_default();
            Ok::<_, Infallible>(seen.answer(head, body, ordinal).await)
        }
    });
    let server = hyper::server::conn::http1::Builder::new();
    let mut connection = pin!(server.serve_connection(TokioIo::new(stream), service));
    let life = life.map(|longest| longest.mul_f64(rand::random()));
    tokio::select! {
        _ = connection.as_mut() => return,
        () = async { sleep(life.unwrap_or(Duration::MAX)).await } => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}

async fn http2<S>(
    stream: S,
    builder: &h2::server::Builder,
    (goaway_after, refuse): (u64, f64),
    ordinal: u64,
    seen: Arc<Seen>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Ok(mut connection) = builder.handshake(lingering(stream)).await else { return };
    let mut streams = JoinSet::new();
    let mut count = 0;
    if goaway_after == 0 && !ordinal.is_multiple_of(50) {
        seen.goaways.fetch_add(1, Ordering::SeqCst);
        connection.graceful_shutdown();
    }
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        count += 1;
        if rand::random_bool(refuse) {
            seen.refused.fetch_add(1, Ordering::SeqCst);
            respond.send_reset(Reason::REFUSED_STREAM);
        } else {
            streams.spawn(stream_of_http2(request, respond, ordinal, Arc::clone(&seen)));
        }
        if count == goaway_after {
            seen.goaways.fetch_add(1, Ordering::SeqCst);
            connection.graceful_shutdown();
        }
    }
}

/// The other end of a stream that is closed as servers should: it goes on to take what comes until the
/// client closes. A reset in place of that takes answers back that the client has not read yet.
fn lingering<S>(stream: S) -> DuplexStream
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let (mut from_server, mut to_server) = tokio::io::split(ours);
    let (mut from_client, mut to_client) = tokio::io::split(stream);
    tokio::spawn(async move {
        let _ = tokio::io::copy(&mut from_server, &mut to_client).await;
        let _ = to_client.shutdown().await;
    });
    tokio::spawn(async move {
        let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
        let _ = tokio::io::copy(&mut from_client, &mut tokio::io::sink()).await;
    });
    theirs
}

async fn stream_of_http2(
    request: http::Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
    ordinal: u64,
    seen: Arc<Seen>,
) {
    let (head, mut body) = request.into_parts();
    let mut bytes = Vec::new();
    while let Some(chunk) = body.data().await {
        let Ok(chunk) = chunk else { return };
        let _ = body.flow_control().release_capacity(chunk.len());
        bytes.extend_from_slice(&chunk);
    }
    let (head, body) = seen.answer(head, bytes.into(), ordinal).await.into_parts();
    let body = to_bytes(body, 1 << 20).await.unwrap();
    let head = http::Response::from_parts(head, ());
    if let Ok(mut stream) = respond.send_response(head, false) {
        let _ = stream.send_data(body, true);
    }
}

/// A proxy that makes tunnels where it is asked to, and remembers by what words.
pub(crate) struct Tunnels {
    pub(crate) address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    task: AbortHandle,
}

impl Tunnels {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let heads = Arc::clone(&asked);
        let task = tokio::spawn(async move {
            let mut tunnels = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                tunnels.spawn(tunnel(client, Arc::clone(&heads)));
            }
        });
        Self { address, asked, task: task.abort_handle() }
    }

    /// The heads of the requests.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Tunnels {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn tunnel(mut client: TcpStream, asked: Arc<Mutex<Vec<String>>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = client.read_u8().await else { return };
        head.push(byte);
    }
    let head = String::from_utf8(head).unwrap();
    asked.lock().unwrap().push(head.clone());
    let Some(to) = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()) else {
        return;
    };
    let mut server = TcpStream::connect(to).await.unwrap();
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
}
