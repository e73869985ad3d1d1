//! The MQTT source: 5 and 3.1.1, QoS 0 and 1, a persistent session, PUBACK in the order of receipt
//! and only after the message was settled.
//!
//! Each connection is a generation with an event loop and an in-flight record of its own. What is
//! settled late, for an earlier connection, finds that record and not this one; the broker sends the
//! message again. Nothing slows the source but its in-flight limits: in MQTT 5 they are announced as
//! the receive maximum, and beyond a byte limit the socket is left unread, but for keep-alive.
//! QoS 0 has nothing to withhold: what does not fit is dropped and counted.
//!
//! Not here: QoS 2, the WebSocket transport, shared subscriptions.
//!
//! # The client
//!
//! Chosen by running each hazard against mosquitto 2.0.11 (November 2026), two cores, loopback. *Read*
//! is from the source, not run.
//!
//! | hazard | rumqttc-v5-next, -v4-next 0.34 | rumqttc 0.25.1 | mqtt5 0.49 |
//! | --- | --- | --- | --- |
//! | nothing is acknowledged by itself | 0 PUBACKs for 1,000 held | manual mode | *read*: deferred, MQTT 5 only |
//! | an acknowledgement that is dropped | nothing is sent | nothing is sent | *read*: sends a failing PUBACK, the message is gone |
//! | acknowledgements of a dead connection | 0 of 90 sent (a new event loop each) | sent | not examined |
//! | a new process resumes the session and subscribes | 2,687 of 2,687 (5), 2,694 of 2,694 (3.1.1) came | works | not examined |
//! | a packet above the limit, 3.1.1 | endless reconnects, so the limit is the protocol's | the same | not examined |
//! | clean drain under load, messages sent again | 0 in 19 runs with the lingering close; without it 13 to 2,139 in 10 of 17 | no connector hook | not examined |
//! | the same under TLS with a client certificate | 0 in 8 runs | not run | not examined |
//! | keep-alive while nothing is acknowledged | held at 5 s | held | not examined |
//! | CPU a message, QoS 1 with manual PUBACK | 23.9 µs (5), 20.8 µs (3.1.1) | 10.9, 7.9 µs | not examined |
//! | brings `ring` | no | yes | yes |
//!
//! `rumqttc-next` costs more CPU because it flushes each PUBACK; it was chosen for the hook that makes
//! the lingering close possible, for one rustls provider, and because it is maintained. Its
//! DISCONNECT overtakes queued PUBACKs, so the drain waits until it has seen them written.

mod client;
mod lingering;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustls::ClientConfig;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::InFlight;
use crate::backoff::Backoff;
use crate::config::source::{Limits, MqttConfig, Qos};
use crate::delivery::{Delivery, Intake};
use crate::health::Part;
use crate::message::{Message, SourceName, Topic};
use crate::metrics::SourceMetrics;
use crate::shutdown::Shutdown;
use crate::tls::{self, TlsError};
use client::{Client, Connection, Event, Incoming};

/// The first reconnect waits up to this long.
const BACKOFF_BASE: Duration = Duration::from_millis(100);

/// No reconnect waits longer.
const BACKOFF_CAP: Duration = Duration::from_secs(30);

/// A connection that held this long was a good one: the next failure is the first again. A shorter
/// one counts as a failure, so that two clients of one id don't take over from each other for ever.
const GOOD_AFTER: Duration = Duration::from_secs(10);

/// The source gives a sign of life this often while it is connected.
const ALIVE_EVERY: Duration = Duration::from_secs(10);

/// The broker has this long to confirm our subscriptions.
const SUBACK_TIMEOUT: Duration = Duration::from_secs(15);

/// The last PUBACKs and the DISCONNECT have this long to be written.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(5);

/// A source over one MQTT session.
#[derive(Debug)]
pub struct MqttSource {
    name: SourceName,
    config: MqttConfig,
    limits: Limits,
    tls: Option<Arc<ClientConfig>>,
    metrics: SourceMetrics,
    health: Part,
}

/// One connection, as its poller and its owner share it.
struct Generation {
    client: Client,
    in_flight: Arc<InFlight<u16>>,
    /// Something may be acknowledged, or was released.
    changed: Arc<Notify>,
    /// Room was made, or a PUBACK was written.
    progress: Notify,
    draining: AtomicBool,
    subscribed: AtomicBool,
    released: AtomicU64,
    written: AtomicU64,
}

/// How a connection ended.
enum End {
    /// The drain is over.
    Drained,
    /// To be made again.
    Lost(String),
}

impl MqttSource {
    /// A source for `config`; reads its certificates, connects to nothing.
    pub fn build(
        name: SourceName,
        config: MqttConfig,
        limits: Limits,
        metrics: SourceMetrics,
        health: Part,
    ) -> Result<Self, TlsError> {
        let tls = match &config.tls {
            None => None,
            Some(tls) => {
                let identity = tls.identity.as_ref().map(|(c, k)| (c.as_path(), k.as_path()));
                Some(Arc::new(tls::client_config(tls.ca_file.as_deref(), identity)?))
            }
        };
        Ok(Self { name, config, limits, tls, metrics, health })
    }

    /// Takes messages until the drain, acknowledges what was settled, and says goodbye; on the abort
    /// it leaves at once, and the broker keeps what was not acknowledged.
    pub async fn run(self, intake: Intake, shutdown: Shutdown) {
        let source = Arc::new(self);
        let mut backoff = Backoff::new(BACKOFF_BASE, BACKOFF_CAP);
        let mut connections = 0_u64;
        while !shutdown.is_draining() {
            connections += 1;
            if connections > 1 {
                source.metrics.reconnects.inc();
            }
            let started = Instant::now();
            match source.connect(&intake, &shutdown, connections).await {
                End::Drained => return,
                End::Lost(why) => {
                    source.metrics.connected.set(0);
                    source.health.not_ready(&why);
                    source.health.alive();
                    if started.elapsed() > GOOD_AFTER {
                        backoff.reset();
                    }
                    let wait = backoff.next_wait();
                    // The first failures, and then every tenth: the waits are long by then.
                    if backoff.failures() <= 3 || backoff.failures().is_multiple_of(10) {
                        warn!(source = %source.name, broker = %source.address(), why, "not connected; trying again");
                    }
                    tokio::select! {
                        () = sleep(wait) => {}
                        () = shutdown.drain() => {}
                    }
                }
            }
        }
    }

    /// One connection, from CONNECT to its end.
    async fn connect(self: &Arc<Self>, intake: &Intake, shutdown: &Shutdown, number: u64) -> End {
        let (closed, mut all_closed) = mpsc::channel(1);
        let receive_maximum = u16::try_from(self.limits.messages).unwrap_or(u16::MAX);
        let (client, connection) =
            client::open(&self.config, self.tls.clone(), receive_maximum, closed);
        let changed = Arc::new(Notify::new());
        let generation = Arc::new(Generation {
            client,
            in_flight: InFlight::new(self.limits, self.metrics.clone(), Arc::clone(&changed)),
            changed,
            progress: Notify::new(),
            draining: AtomicBool::new(false),
            subscribed: AtomicBool::new(false),
            released: AtomicU64::new(0),
            written: AtomicU64::new(0),
        });
        // A task of its own: a poll is never cancelled midway but with its whole connection.
        let poll =
            Arc::clone(self).poll(connection, Arc::clone(&generation), intake.clone(), number);
        let mut poller = JoinSet::new();
        poller.spawn(poll);
        let end = self.settle(&generation, &mut poller, shutdown).await;
        // Wait for the connection to be dropped, and to close: a process that exits now would reset
        // it. On the abort nobody waits.
        poller.shutdown().await;
        drop(generation);
        tokio::select! {
            _ = all_closed.recv() => {}
            () = shutdown.abort() => {}
        }
        end
    }

    /// Acknowledges what is settled until the connection is lost or drained.
    async fn settle(
        &self,
        generation: &Generation,
        poller: &mut JoinSet<String>,
        shutdown: &Shutdown,
    ) -> End {
        let mut alive = tokio::time::interval(ALIVE_EVERY);
        loop {
            tokio::select! {
                _ = alive.tick() => self.health.alive(),
                Some(why) = poller.join_next() => return End::Lost(why.unwrap_or_else(|e| e.to_string())),
                () = generation.changed.notified() => {
                    generation.acknowledge();
                    if generation.in_flight.has_released() {
                        return End::Lost("a message was given back; the broker sends it again".to_owned());
                    }
                }
                () = shutdown.drain() => break,
            }
        }
        generation.draining.store(true, Ordering::Release);
        generation.progress.notify_one();
        self.health.not_ready("draining");
        while !generation.in_flight.is_empty() {
            tokio::select! {
                // Lost while draining: what is open is the broker's again, and comes after the restart.
                Some(_) = poller.join_next() => return End::Drained,
                () = generation.changed.notified() => generation.acknowledge(),
                () = shutdown.abort() => break,
            }
            if generation.in_flight.has_released() {
                break;
            }
        }
        let farewell = async {
            while generation.written.load(Ordering::Acquire)
                < generation.released.load(Ordering::Acquire)
            {
                generation.progress.notified().await;
            }
            generation.client.disconnect().is_ok()
        };
        if generation.subscribed.load(Ordering::Acquire)
            && timeout(FAREWELL_TIMEOUT, farewell).await.unwrap_or(false)
        {
            // The poller ends when DISCONNECT is written.
            let _ = timeout(FAREWELL_TIMEOUT, poller.join_next()).await;
        }
        End::Drained
    }

    /// Drives the connection; gives the reason for its end.
    async fn poll(
        self: Arc<Self>,
        mut connection: Connection,
        generation: Arc<Generation>,
        intake: Intake,
        number: u64,
    ) -> String {
        let mut suback_by = None;
        loop {
            let next = connection.next();
            let event = match suback_by {
                None => next.await,
                Some(at) => match tokio::time::timeout_at(at, next).await {
                    Ok(event) => event,
                    Err(_) => return "the broker did not confirm the subscriptions".to_owned(),
                },
            };
            match event {
                Ok(Event::Connected { session_present }) => {
                    self.connected(session_present, number);
                    // Always, resumed or not: an earlier SUBSCRIBE may have been lost.
                    if generation.client.subscribe(&self.config.subscriptions).is_err() {
                        return "the client is gone".to_owned();
                    }
                    suback_by = Some(tokio::time::Instant::now() + SUBACK_TIMEOUT);
                }
                Ok(Event::Subscribed(granted)) => {
                    suback_by = None;
                    generation.subscribed.store(true, Ordering::Release);
                    self.subscribed(&granted);
                }
                Ok(Event::Publish(incoming)) => {
                    self.take(&generation, &intake, &incoming);
                    generation.wait_for_room(self.config.keep_alive / 2).await;
                }
                Ok(Event::AckWritten) => {
                    generation.written.fetch_add(1, Ordering::AcqRel);
                    generation.progress.notify_one();
                }
                Ok(Event::Disconnected) => return "disconnected".to_owned(),
                Ok(Event::Other) => {}
                Ok(Event::Ended(why)) | Err(why) => return why,
            }
        }
    }

    fn connected(&self, session_present: bool, number: u64) {
        self.metrics.connected.set(1);
        self.health.not_ready("waiting for the broker to confirm the subscriptions");
        let lost = number > 1 && !session_present;
        if lost {
            self.metrics.session_lost.inc();
            warn!(source = %self.name, "the broker has forgotten the session: what it held for us is lost");
        } else {
            info!(source = %self.name, session_present, "connected");
        }
    }

    fn subscribed(&self, granted: &[Result<u8, String>]) {
        let mut refused = Vec::new();
        for (subscription, granted) in self.config.subscriptions.iter().zip(granted) {
            let filter = &subscription.filter;
            match granted {
                Err(why) => refused.push(format!("`{filter}` ({why})")),
                Ok(0) if subscription.qos == Qos::AtLeastOnce => {
                    warn!(source = %self.name, filter, "the broker grants QoS 0 only: at most once");
                }
                Ok(_) => {}
            }
        }
        if refused.is_empty() {
            return self.health.ready();
        }
        let why = format!("the broker refuses the subscription {}", refused.join(", "));
        warn!(source = %self.name, why, hint = "check the broker's access list");
        self.health.not_ready(why);
    }

    fn take(&self, generation: &Generation, intake: &Intake, incoming: &Incoming) {
        let size = incoming.payload.len() + incoming.topic.len();
        let at_least_once = incoming.qos > 0;
        // While draining, and not taken, QoS 1 stays with the broker.
        let draining = generation.draining.load(Ordering::Acquire);
        if draining || (!at_least_once && !generation.in_flight.has_room(size)) {
            if !at_least_once {
                self.metrics.dropped.inc();
            }
            return;
        }
        let topic = String::from_utf8_lossy(&incoming.topic);
        let settlement =
            generation.in_flight.take(at_least_once.then_some(incoming.packet_id), size);
        let headers = incoming
            .properties
            .iter()
            .map(|(name, value)| (name.clone(), Bytes::from(value.clone())))
            .collect();
        let message = Message {
            source: Arc::clone(&self.name),
            order: Some(Bytes::copy_from_slice(topic.as_bytes())),
            topic: Topic::new(&*topic, '/'),
            key: None,
            headers,
            payload: Bytes::copy_from_slice(&incoming.payload),
            published: None,
            coordinates: vec![
                ("qos", incoming.qos.to_string()),
                ("retain", incoming.retain.to_string()),
                ("duplicate", incoming.duplicate.to_string()),
            ],
        };
        intake.submit(Delivery { message: Arc::new(message), settlement });
    }

    fn address(&self) -> String {
        format!("{}:{}", self.config.host, self.config.port)
    }
}

impl Generation {
    /// Sends the PUBACKs that are due, in the order of receipt.
    fn acknowledge(&self) {
        for packet_id in self.in_flight.acknowledgeable() {
            self.released.fetch_add(1, Ordering::AcqRel);
            if self.client.ack(packet_id).is_err() {
                // The connection is gone, and its poller says so; the broker sends the message again.
                return;
            }
        }
        self.progress.notify_one();
    }

    /// Leaves the socket unread while nothing more fits, for `at_most` before the connection needs a
    /// sign of life.
    async fn wait_for_room(&self, at_most: Duration) {
        let room = async {
            while !self.in_flight.has_room(0) && !self.draining.load(Ordering::Acquire) {
                self.progress.notified().await;
            }
        };
        let _ = timeout(at_most, room).await;
    }
}
