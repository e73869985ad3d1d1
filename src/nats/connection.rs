//! A connection that keeps itself: made of the settings, tried again for ever, and watched.

use std::future::ready;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use async_nats::{
    Client, ConnectOptions, Event, ReconnectToServer, Server, ServerAddr, ServerError, Statistics,
};
use futures_util::StreamExt as _;
use parking_lot::Mutex;

use super::tries::{Next, Tries};
use super::{BuildError, Trouble, credentials};
use crate::config::Tls;
use crate::config::nats::Connection;
use crate::error_chain;
use crate::outbound::tls;

/// What became of a connection, or of a try to make one.
#[derive(Debug)]
pub enum Change {
    /// It is made; what was subscribed to is asked for again.
    Connected,
    /// It is lost; the next is tried.
    Lost,
    /// One could not be made at `server`; the next try comes after `wait`.
    Failed {
        /// Its address.
        server: String,
        /// Why.
        trouble: Trouble,
        /// How long the next one waits.
        wait: Duration,
    },
    /// The server is about to end, and says so before it closes its connections.
    LameDuck,
    /// The server complains: of what we may not do, or of what ends the connection.
    Complaint(Trouble),
    /// The client has ended: nothing more is told.
    Closed,
    /// The client has dropped messages of a subscription that nobody took in time. No count: some are not told.
    Slow,
}

/// A server has this long to answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A connection on which nothing comes is asked after so long; the third question without an answer is its end.
const PING_EVERY: Duration = Duration::from_secs(10);

/// Begins the subjects of subscriptions that nothing comes to.
const INBOX: &str = "_INBOX.appsync-bridge.";

/// Makes the clients of a server.
#[derive(Clone, Debug)]
pub struct Dialer {
    options: ConnectOptions,
    servers: Vec<ServerAddr>,
}

/// The tries, and the count of connections once there is a client to ask.
struct Retry {
    tries: Mutex<Tries>,
    statistics: OnceLock<Arc<Statistics>>,
}

impl Dialer {
    /// For `config`, as a client of this name; reads the certificates, connects to nothing.
    pub fn new(config: &Connection, name: &str) -> Result<Self, BuildError> {
        let server = |text: &String| text.parse().map_err(|_| BuildError::Server(text.clone()));
        let servers = config.servers.iter().map(server).collect::<Result<_, _>>()?;
        Ok(Self { options: options(config, name)?, servers })
    }

    /// A client that connects by itself, now and whenever the connection is lost, and tells each change to `told`,
    /// which must not wait. `with` has the last word on its options. Returns before there is a connection; what the
    /// client is asked for meanwhile is done when there is one. It ends when all of its clones are dropped.
    pub async fn open(
        &self,
        with: impl FnOnce(ConnectOptions) -> ConnectOptions,
        told: impl Fn(Change) + Send + Sync + 'static,
    ) -> Result<Client, Trouble> {
        let (tries, statistics) = (Mutex::new(Tries::new()), OnceLock::new());
        let retry = Arc::new(Retry { tries, statistics });
        let told = Arc::new(told);
        let (trying, telling) = (Arc::clone(&retry), Arc::clone(&told));
        let next = move |pool: &[Server]| {
            let connects = trying.statistics.get();
            let connects = connects.map_or(0, |known| known.connects.load(Ordering::Relaxed));
            let next = trying.tries.lock().next(pool, connects, Instant::now())?;
            let Next { server, wait, failed } = next;
            if let Some((server, said)) = failed {
                let trouble = said.map_or_else(Trouble::no_host, |said| Trouble::of_words(&said));
                let server = server.as_url_str().to_owned();
                telling(Change::Failed { server, trouble, wait });
            }
            Some(ReconnectToServer { addr: server, delay: Some(wait) })
        };
        let options = watched(self.options.clone(), told)
            .retry_on_initial_connect()
            .reconnect_to_server_callback(move |pool, _| ready(next(&pool)));
        // It does not wait for a server.
        let client = with(options).connect(&self.servers[..]).await;
        let client =
            client.map_err(|error| Trouble::of_words(&error_chain::in_one_line(&error)))?;
        let _ = retry.statistics.set(client.statistics());
        Ok(client)
    }

    /// One try at each server until one takes us, for a visit: nothing is tried again.
    pub async fn visit(
        &self,
        told: impl Fn(Change) + Send + Sync + 'static,
    ) -> Result<Client, Trouble> {
        let options = watched(self.options.clone(), Arc::new(told));
        let client = options.connect(&self.servers[..]).await;
        client.map_err(|error| Trouble::of_words(&error_chain::in_one_line(&error)))
    }
}

/// Waits until the server has done all that it was asked for before, and has said what it thinks of that: there is a
/// question behind it whose answer tells. Without a connection there is none until there is one.
pub async fn confirmed(client: &Client) {
    let statistics = client.statistics();
    let heard = || statistics.in_bytes.load(Ordering::Relaxed);
    let before = heard();
    // The client asks behind the end of a subscription, and ends that when it hears something, or next looks.
    while heard() == before {
        let subject = format!("{INBOX}{:016x}", rand::random::<u64>());
        let Ok(mut nobody) = client.subscribe(subject).await else { return };
        if nobody.drain().await.is_err() {
            return;
        }
        while nobody.next().await.is_some() {}
    }
}

fn watched(
    options: ConnectOptions,
    told: Arc<impl Fn(Change) + Send + Sync + 'static>,
) -> ConnectOptions {
    options.event_callback(move |event| {
        if let Some(change) = change(event) {
            told(change);
        }
        ready(())
    })
}

fn options(config: &Connection, name: &str) -> Result<ConnectOptions, BuildError> {
    let options = match config.auth.clone() {
        None => ConnectOptions::new(),
        Some(auth) => ConnectOptions::with_auth_callback(move |nonce| {
            credentials::answer(auth.clone(), nonce)
        }),
    };
    let tls = match &config.tls {
        Some(Tls { ca_file, identity }) => {
            let identity = identity.as_ref().map(|(c, k)| (c.as_path(), k.as_path()));
            tls::client_config(ca_file.as_deref(), identity)?
        }
        // A server that wants TLS all the same is not trusted, and says so.
        None => tls::trusting_nobody()?,
    };
    let options = options
        .name(format!("appsync-bridge {name}"))
        .require_tls(config.tls.is_some())
        .tls_client_config(tls)
        .connection_timeout(TIMEOUT)
        .ping_interval(PING_EVERY)
        .ignore_discovered_servers()
        .retain_servers_order();
    Ok(if config.tls_first { options.tls_first() } else { options })
}

fn change(event: Event) -> Option<Change> {
    match event {
        Event::Connected => Some(Change::Connected),
        Event::Disconnected => Some(Change::Lost),
        Event::LameDuckMode => Some(Change::LameDuck),
        Event::SlowConsumer(_) | Event::ServerError(ServerError::SlowConsumer(_)) => {
            Some(Change::Slow)
        }
        // Of the question whose answer is waited for: a refusal is one, too.
        Event::ServerError(ServerError::Other(error)) if error.contains(INBOX) => None,
        Event::ServerError(error) => Some(Change::Complaint(Trouble::of_words(&error.to_string()))),
        // A try that failed is known with more words.
        Event::ClientError(_) | Event::Draining => None,
        Event::Closed => Some(Change::Closed),
    }
}
