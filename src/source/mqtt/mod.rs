//! The MQTT source: 5 and 3.1.1, QoS 0 to 2, a persistent session, PUBACK and PUBREC in the order of receipt
//! and only after the message was settled.
//!
//! Each connection is a generation with an event loop and an in-flight record of its own. What is
//! settled late, for an earlier connection, finds that record and not this one; the broker sends the
//! message again. Nothing slows the source but its in-flight limits, which all its connections share:
//! in MQTT 5 they are announced as the receive maximum, that in bytes by the size of the last messages. What
//! comes beyond them all the same is held and counted, up to a ceiling: larger messages; 3.1.1, which announces
//! nothing; and mosquitto before 2.0.13 (Debian 12 has 2.0.11), which keeps the window only until the
//! first PUBACK of a backlog and then lets a window's worth out with each (its issue 2301), as it does
//! with retained messages. Beyond the ceiling, QoS 1 and 2 are left to the broker with all behind it, and when
//! what was taken is acknowledged a new connection fetches them in order; QoS 0, with nothing to
//! withhold, is dropped and counted. The connection is always read, or the keep-alive would starve.
//!
//! QoS 2 is at least once, too: PUBREC says that a message was published, and a broker that never got it
//! sends the message again, to this process or the next, which knows nothing of the first time.
//!
//! PUBACKs go out as the broker reads them, and a goodbye waits until it has read the last one: with
//! `autosave_on_changes` mosquitto saves everything after each, and one that it has not read is lost with
//! the connection. To know, requests are put between them whose answer tells (*marks*: an UNSUBSCRIBE of
//! what nobody is subscribed to).
//!
//! What overlaps is subscribed to so that one copy of a message counts, and what is refused is
//! asked again ([`subscriptions`]); what ends a connection is put into words ([`diagnosis`]).
//!
//! A broker that repeats what is in flight over the same connection, as some of 3.1.1 do, is answered once. One
//! that gives a packet id to two messages at once can't be answered truly, so the connection ends.
//!
//! Over what all this goes is the [`transport`]'s business.
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
//! `rumqttc-next` cost more CPU because it flushed each PUBACK; now it flushes those that are due together,
//! which was not measured again. It was chosen for the hook that makes
//! the lingering close possible, for one rustls provider, and because it is maintained. Its
//! DISCONNECT overtakes queued PUBACKs, so the drain waits until it has seen them written.

mod client;
mod diagnosis;
mod generation;
mod overflow;
mod pace;
mod poller;
mod probe;
mod reconnect;
mod session;
mod settling;
mod subscribing;
mod subscriptions;
mod taking;
mod transport;
mod window;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::yield_now;
use tokio::time::sleep;
use tracing::warn;

use super::{Room, Unclean};
use crate::config::mqtt::{MqttConfig, MqttVersion, Username};
use crate::config::source::Limits;
use crate::delivery::Intake;
use crate::health::Part;
use crate::message::SourceName;
use crate::metrics::{MqttMetrics, SourceMetrics};
use crate::shutdown::Shutdown;
use client::{Connection, Event, Welcome};
use diagnosis::{Kind, Stage, Trouble};
use generation::Generation;
use overflow::Overflow;
use poller::Poller;
pub use probe::probe;
use reconnect::{Next, Reconnect};
use settling::End;
use subscriptions::{Foreign, Subscriptions};
use taking::Skipped;
use transport::Transport;
pub use transport::TransportError;
use window::Widening;

/// The source gives a sign of life this often.
const ALIVE_EVERY: Duration = Duration::from_secs(10);

/// After so many messages the owner of a connection has its turn, to acknowledge what is settled.
const TURN: u32 = 64;

/// A source over one MQTT session.
#[derive(Debug)]
pub struct MqttSource {
    name: SourceName,
    config: MqttConfig,
    room: Arc<Room>,
    transport: Transport,
    metrics: SourceMetrics,
    mqtt: MqttMetrics,
    health: Part,
    /// Whether the broker has taken us before.
    known: AtomicBool,
    subscriptions: Mutex<Subscriptions>,
    /// The size of a message, by the last ones; 0 before the first.
    typical: AtomicUsize,
    skipped: Mutex<Skipped>,
    foreign: Mutex<Foreign>,
    /// How long the broker keeps the session without a client.
    kept_for: Mutex<Duration>,
    widening: Mutex<Widening>,
    /// So many messages of lost connections has the broker still to send again, though they are published or will be.
    owed: AtomicUsize,
}

impl MqttSource {
    /// A source for `config`; reads its certificates, connects to nothing.
    pub async fn build(
        name: SourceName,
        config: MqttConfig,
        limits: Limits,
        (metrics, mqtt): (SourceMetrics, MqttMetrics),
        health: Part,
    ) -> Result<Self, TransportError> {
        let transport = Transport::build(&config).await?;
        transport.tell_end(&metrics);
        let room = Room::with_ceiling(limits, overflow::ceiling(limits), metrics.clone());
        let identifiers = config.version == MqttVersion::V5;
        let subscriptions = Mutex::new(Subscriptions::new(&config.subscriptions, identifiers));
        let known = AtomicBool::new(false);
        let kept_for = Mutex::new(config.session_expiry);
        Ok(Self {
            name,
            config,
            room,
            transport,
            metrics,
            mqtt,
            health,
            known,
            subscriptions,
            typical: AtomicUsize::new(0),
            kept_for,
            widening: Mutex::default(),
            owed: AtomicUsize::new(0),
            skipped: Mutex::default(),
            foreign: Mutex::default(),
        })
    }

    /// Takes messages until the drain, acknowledges what was settled, and says goodbye; on the abort
    /// it leaves at once, and the broker keeps what was not acknowledged.
    pub async fn run(self, intake: Intake, shutdown: Shutdown) -> Result<(), Unclean> {
        let source = Arc::new(self);
        let mut reconnect = Reconnect::new();
        let mut overflow = Overflow::default();
        // The size of the message that was left to the broker for want of room, if one was.
        let mut left = 0;
        while !shutdown.is_draining() {
            let ready = async {
                source.wait_for_room(left).await;
                source.look_at_credentials().await;
                source.transport.prepare().await
            };
            let Some(prepared) = source.unless(shutdown.drain(), ready).await else { break };
            let (end, held, closed) = if let Err(why) = prepared {
                (End::Lost(Trouble::other(why.to_string())), None, None)
            } else {
                let generation = Arc::new(source.open());
                let (end, closed) =
                    source.connect(&generation, &intake, &mut overflow, &shutdown).await;
                left = generation.shed();
                (end, generation.subscribed_for(), closed)
            };
            // Before it is closed, which a broker that goes on sending can draw out.
            source.metrics.connected.set(0);
            match &end {
                End::Drained(_) => {}
                End::Full => source.health.not_ready("connecting again for what was left"),
                End::Lost(trouble) => {
                    // A broker that was away may be back with the session as it was before.
                    source.subscriptions.lock().forgotten();
                    let next = reconnect.ended(trouble, held);
                    source.lost(trouble, &next);
                    if trouble.kind == Kind::Forbidden {
                        source.unless(shutdown.drain(), source.transport.refused()).await;
                    }
                    source.unless(shutdown.drain(), sleep(next.wait)).await;
                }
            }
            // A process that exits now would reset it, and two at a time are one too many for the broker. On the abort
            // nobody waits.
            if let Some(mut closed) = closed {
                source.unless(shutdown.abort(), closed.recv()).await;
            }
            if let End::Drained(result) = end {
                return result.and_then(|()| source.drained());
            }
        }
        source.drained()
    }

    /// Nothing is in flight on any connection: what was lost with one may come again all the same.
    fn drained(&self) -> Result<(), Unclean> {
        match self.owed.load(Ordering::Acquire) {
            0 => Ok(()),
            _ => Err(Unclean("the connection was lost before all was acknowledged")),
        }
    }

    /// Waits for `what`, giving signs of life; `None` when `stop` comes first.
    async fn unless<T>(
        &self,
        stop: impl Future<Output = ()>,
        what: impl Future<Output = T>,
    ) -> Option<T> {
        let mut alive = tokio::time::interval(ALIVE_EVERY);
        tokio::pin!(stop, what);
        loop {
            tokio::select! {
                done = &mut what => return Some(done),
                () = &mut stop => return None,
                _ = alive.tick() => self.health.alive(),
            }
        }
    }

    /// Files may have new ones since the last connection. One that holds is not ended over them: the broker does
    /// that, if it wants to.
    async fn look_at_credentials(&self) {
        if let Some(Username::Followed(name)) = &self.config.username {
            name.reread().await;
        }
        if let Some(password) = &self.config.password {
            password.reread().await;
        }
    }

    /// A generation whose connection is not made yet.
    fn open(&self) -> Generation {
        let typical = self.typical.load(Ordering::Relaxed);
        Generation::open(&self.config, &self.transport, &self.room, typical)
    }

    /// One connection, from CONNECT to its end, and the signal that it is closed for good.
    async fn connect(
        self: &Arc<Self>,
        generation: &Arc<Generation>,
        intake: &Intake,
        overflow: &mut Overflow,
        shutdown: &Shutdown,
    ) -> (End, Option<mpsc::Receiver<()>>) {
        let Some((connection, closed)) = generation.connection() else {
            return (End::Lost(Trouble::other("the connection was used before")), None);
        };
        let poll = Arc::clone(self).poll(connection, Arc::clone(generation), intake.clone());
        let mut poller = Poller::new(poll);
        let end = self.settle(generation, &mut poller, overflow, shutdown).await;
        let owed = generation.abandon();
        // What was lost before comes ahead of the subscriptions' answers: by then it is of this connection.
        let before = match generation.subscribed_for() {
            Some(_) => 0,
            None => self.owed.load(Ordering::Acquire),
        };
        self.owed.store(owed.max(before), Ordering::Release);
        drop(poller);
        (end, Some(closed))
    }

    /// Drives the connection; gives the reason for its end.
    async fn poll(
        self: Arc<Self>,
        mut connection: Connection,
        generation: Arc<Generation>,
        intake: Intake,
    ) -> Trouble {
        let mut stage = Stage::Connecting;
        let mut taken = 0_u32;
        loop {
            let event = match self.next(&mut connection, &generation).await {
                Ok(event) => event,
                Err(trouble) => {
                    self.dismissed(&trouble);
                    return trouble.at(stage);
                }
            };
            let mut asked = Ok(());
            match event {
                Event::Connected(welcome) => {
                    self.keep_alive(&mut connection, &generation, &welcome);
                    self.connected(&welcome);
                    stage = Stage::Subscribing;
                    asked = self.subscribe(&generation, &welcome).map(|now| stage = now);
                }
                Event::Asked(packet_id) => self.asked(packet_id),
                Event::Subscribed(packet_id, answers) => {
                    asked = self.answered(&generation, packet_id, answers).map(|now| stage = now);
                }
                Event::Publish(incoming) => {
                    if stage == Stage::Subscribing {
                        self.subscriptions.lock().heard(Instant::now());
                    }
                    asked = self.take(&generation, &intake, *incoming);
                    taken = taken.wrapping_add(1);
                    if taken.is_multiple_of(TURN) {
                        yield_now().await;
                    }
                }
                Event::AckWritten => generation.ack_written(),
                Event::MarkWritten(packet_id) => generation.mark_written(packet_id),
                Event::MarkRead(packet_id) => generation.mark_read(packet_id),
                Event::PingWritten => generation.ping_written(),
                Event::PingRead => generation.ping_read(),
                Event::Disconnected => return Trouble::other("disconnected"),
                Event::Other => {}
            }
            if let Err(trouble) = asked {
                return trouble.at(stage);
            }
        }
    }

    /// The broker took us. Of its keep-alive and ours the shorter one is in force: with a longer one, or none, a
    /// connection that something between us drops in silence would never be found dead.
    fn keep_alive(&self, connection: &mut Connection, generation: &Generation, said: &Welcome) {
        let ours = self.config.keep_alive;
        let theirs = said.keep_alive.filter(|theirs| !theirs.is_zero());
        let keep_alive = theirs.map_or(ours, |theirs| theirs.min(ours));
        connection.keep_alive(keep_alive);
        generation.connected(keep_alive, said.keep_alive != Some(Duration::ZERO));
    }

    /// Says what was held, dropped, left or skipped.
    fn tell(&self, overflow: &mut Overflow) {
        overflow.tell(&self.name, &self.config, &self.metrics);
        self.skipped.lock().tell(&self.name, &self.config, &self.mqtt);
        if let Some((messages, topic)) = self.foreign.lock().news(Instant::now()) {
            let hint = "unsubscribe there from what this `client_id` had before, let the session expire, or use another \
                        `client_id`, which leaves behind what the session holds";
            warn!(
                source = %self.name, messages, topic, hint,
                "messages come by a subscription that the broker's session has and `subscriptions` has not; \
                 they may come twice"
            );
        }
    }

    /// Says that there is no connection, what to look at, and when the next one is tried.
    fn lost(&self, trouble: &Trouble, next: &Next) {
        let hint = next.hint(trouble, &self.config);
        let next_try = format!("in {:.1?}", next.wait);
        let why = &trouble.what;
        let parted = if hint.is_empty() { "" } else { "; " };
        self.health.not_ready(format!("{why}{parted}{hint}; next try {next_try}"));
        if next.say {
            let (source, broker) = (&self.name, self.address());
            warn!(%source, broker, why, hint, next_try, "not connected; trying again");
        }
    }

    fn address(&self) -> String {
        format!("{}:{}", self.config.host, self.config.port)
    }
}
