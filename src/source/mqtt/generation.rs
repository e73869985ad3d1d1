//! One connection, as its poller and its owner share it.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;

use super::client::{self, Ack, Client, Connection};
use super::diagnosis::Trouble;
use super::pace::{Goodbye, Look, Pace};
use super::poller::Poller;
use super::transport::Transport;
use super::window::{self, Flow};
use crate::config::mqtt::MqttConfig;
use crate::delivery::Settlement;
use crate::source::{InFlight, Room};

/// What is to be driven, and the signal that it is closed for good.
type Made = (Connection, mpsc::Receiver<()>);

/// A connection with its record of what is in flight.
pub(super) struct Generation {
    pub(super) client: Client,
    pub(super) in_flight: Arc<InFlight<Ack>>,
    unacknowledged: PacketIds,
    /// Something may be acknowledged, was released, or was left to the broker.
    pub(super) changed: Arc<Notify>,
    made: Mutex<Option<Made>>,
    /// The receive maximum that it announces.
    window: u16,
    pace: Mutex<Pace>,
    /// An acknowledgement was written, or a mark was answered.
    progress: Notify,
    connected: AtomicBool,
    /// Nothing is taken any more.
    closed: AtomicBool,
    /// The size of the message that was left to the broker, 0 while none was: so is every one behind it, or they would
    /// come out of order.
    shed: AtomicUsize,
    /// They were left for the sake of a wider window.
    widens: AtomicBool,
    subscribed: OnceLock<Instant>,
}

/// The packet ids that a connection has brought and that are not acknowledged yet.
struct PacketIds(Box<[AtomicU64]>);

impl Generation {
    /// A connection that is made when it is first polled, with as large a window as there is room for
    /// messages of `typical` bytes: no broker can be told of the limit in bytes.
    pub(super) fn open(
        config: &MqttConfig,
        transport: &Transport,
        room: &Arc<Room>,
        typical: usize,
    ) -> Self {
        let (closed, all_closed) = mpsc::channel(1);
        let window = window::announced(room.left_for(typical));
        let (client, connection) = client::open(config, transport, window, closed);
        let changed = Arc::new(Notify::new());
        Self {
            client,
            in_flight: InFlight::new(Arc::clone(room), Arc::clone(&changed)),
            unacknowledged: PacketIds::none(),
            changed,
            made: Mutex::new(Some((connection, all_closed))),
            window,
            pace: Mutex::new(Pace::new(config.keep_alive)),
            progress: Notify::new(),
            connected: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            shed: AtomicUsize::new(0),
            widens: AtomicBool::new(false),
            subscribed: OnceLock::new(),
        }
    }

    /// The connection, once.
    pub(super) fn connection(&self) -> Option<Made> {
        self.made.lock().take()
    }

    /// The broker took us. `keep_alive` is in force; `pings`: whether the client library sends any.
    pub(super) fn connected(&self, keep_alive: Duration, pings: bool) {
        self.pace.lock().connected(keep_alive, pings, Instant::now());
        self.connected.store(true, Ordering::Release);
    }

    /// Whether the broker has taken us.
    pub(super) fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Acquire)
    }

    /// When to [look](Self::look) whether the broker still answers, where no pings tell.
    pub(super) fn look_at(&self) -> Option<Instant> {
        self.pace.lock().look_at()
    }

    /// Looks whether the broker still answers, if it is time.
    pub(super) fn look(&self) -> Result<(), Trouble> {
        match self.pace.lock().look(Instant::now()) {
            Look::Alive => Ok(()),
            Look::Mark => self.client.mark().map_err(|_| Trouble::other("the client is gone")),
            Look::Silent => Err(Trouble::silent("the broker does not answer")),
        }
    }

    /// The broker confirmed the subscriptions.
    pub(super) fn subscribed(&self) {
        let _ = self.subscribed.set(Instant::now());
    }

    /// How long ago the subscriptions were confirmed.
    pub(super) fn subscribed_for(&self) -> Option<Duration> {
        self.subscribed.get().map(Instant::elapsed)
    }

    /// Takes nothing more, and is not ready for it.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.in_flight.close();
    }

    /// Whether nothing is taken any more.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Records a message of `bytes`; one of QoS 1 or 2 has something to acknowledge it with. `None` when it
    /// is not taken: then it is left to the broker with all behind it, or of QoS 0 and gone. Only the poller
    /// takes and passes, so nothing comes between a refusal and the mark of it.
    pub(super) fn take(&self, ack: Option<Ack>, bytes: usize) -> Option<Settlement> {
        if ack.is_some() && self.has_shed() {
            return None;
        }
        let settlement = self.in_flight.take(ack, bytes);
        if let Some(ack) = ack {
            if settlement.is_some() {
                self.unacknowledged.insert(ack.packet_id());
            } else {
                self.shed.store(bytes.max(1), Ordering::Release);
                self.changed.notify_one();
            }
        }
        settlement
    }

    /// Acknowledges a message in its turn that there is nothing else to do with. False when it is left to
    /// the broker.
    pub(super) fn pass(&self, ack: Ack) -> bool {
        // Before the owner can acknowledge it, which takes it out.
        self.unacknowledged.insert(ack.packet_id());
        !self.has_shed() && self.in_flight.pass(ack)
    }

    /// Whether a message of this packet id is in flight on this connection.
    pub(super) fn is_unacknowledged(&self, ack: Ack) -> bool {
        self.unacknowledged.has(ack.packet_id())
    }

    /// Whether messages were left to the broker.
    pub(super) fn has_shed(&self) -> bool {
        self.shed() > 0
    }

    /// The size of the first message that was left to the broker; 0: none was.
    pub(super) fn shed(&self) -> usize {
        self.shed.load(Ordering::Acquire)
    }

    /// Leaves all that comes from now on to the broker, though there is room: it is to come over a connection with a wider
    /// window.
    pub(super) fn widen(&self) {
        self.widens.store(true, Ordering::Release);
        self.shed.store(1, Ordering::Release);
        self.changed.notify_one();
    }

    /// Whether messages are left to the broker for want of room.
    pub(super) fn is_full(&self) -> bool {
        self.has_shed() && !self.widens.load(Ordering::Acquire)
    }

    /// How it does, for the width of its window.
    pub(super) fn flow(&self) -> Flow {
        let acknowledged = self.pace.lock().sent();
        Flow { window: self.window, acknowledged, idle: self.in_flight.is_empty() }
    }

    /// An acknowledgement was written to the socket.
    pub(super) fn ack_written(&self) {
        self.pace.lock().ack_written();
        self.progress.notify_one();
    }

    /// A mark was written to the socket.
    pub(super) fn mark_written(&self, packet_id: u16) {
        self.pace.lock().mark_written(packet_id);
    }

    /// The broker has read a mark, and all before it.
    pub(super) fn mark_read(&self, packet_id: u16) {
        if self.pace.lock().mark_read(packet_id, Instant::now()) {
            self.more_may_go();
        }
    }

    /// A ping was written to the socket.
    pub(super) fn ping_written(&self) {
        self.pace.lock().ping_written();
    }

    /// The broker has read a ping, and all before it.
    pub(super) fn ping_read(&self) {
        self.pace.lock().ping_read();
        self.more_may_go();
    }

    fn more_may_go(&self) {
        self.changed.notify_one();
        self.progress.notify_one();
    }

    /// Sends the acknowledgements that are due, in the order of receipt, as the broker reads them.
    pub(super) fn acknowledge(&self) {
        let mut pace = self.pace.lock();
        let due = self.in_flight.acknowledgeable_up_to(pace.room());
        pace.released(due.len());
        // If the connection is gone, its poller says so; the broker sends the messages again.
        let sent = due.into_iter().try_for_each(|ack| {
            // From now on the broker may give the packet id to another message.
            self.unacknowledged.remove(ack.packet_id());
            self.client.ack(ack)
        });
        if sent.is_ok() && pace.wants_mark(Instant::now()) {
            let _ = self.client.mark();
        }
    }

    /// Asks whether the broker has read the last acknowledgements, when all that it sent is acknowledged.
    pub(super) fn confirm(&self) {
        if self.in_flight.owes_nothing() && self.pace.lock().wants_last_mark(Instant::now()) {
            // If the connection is gone, its poller says so.
            let _ = self.client.mark();
        }
    }

    /// The connection is lost or left: nothing more is taken or acknowledged. Gives how many messages the broker sends
    /// again, as far as can be known.
    pub(super) fn abandon(&self) -> usize {
        self.in_flight.abandon();
        self.in_flight.owes() + self.pace.lock().unread()
    }

    /// Waits until the broker has read the last PUBACK, and says goodbye. It may take its time, as long
    /// as the connection lives: the keep-alive judges that. True when it is done, or when the broker had
    /// not taken us yet.
    pub(super) async fn farewell(&self, poller: &mut Poller) -> bool {
        if !self.is_connected() {
            return true;
        }
        loop {
            let next = self.pace.lock().goodbye(Instant::now());
            match next {
                Goodbye::Say => break,
                Goodbye::Mark if self.client.mark().is_err() => return false,
                Goodbye::Mark | Goodbye::Wait => {}
            }
            tokio::select! {
                () = self.progress.notified() => {}
                _ = &mut *poller => return false,
            }
        }
        if self.client.disconnect().is_err() {
            return false;
        }
        // The poller ends when DISCONNECT is written. The client has it wait for the answer to a mark, which a broker
        // that answers pings only may never give: it has read all, so the connection may end without.
        let patience = self.pace.lock().keep_alive();
        let _ = timeout(patience, poller).await;
        true
    }
}

impl PacketIds {
    fn none() -> Self {
        Self((0..1 << 10).map(|_| AtomicU64::new(0)).collect())
    }

    fn insert(&self, id: u16) {
        let (word, bit) = self.place(id);
        word.fetch_or(bit, Ordering::Relaxed);
    }

    fn remove(&self, id: u16) {
        let (word, bit) = self.place(id);
        word.fetch_and(!bit, Ordering::Relaxed);
    }

    fn has(&self, id: u16) -> bool {
        let (word, bit) = self.place(id);
        word.load(Ordering::Relaxed) & bit != 0
    }

    fn place(&self, id: u16) -> (&AtomicU64, u64) {
        (&self.0[usize::from(id >> 6)], 1 << (id & 63))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::mqtt::MqttVersion;
    use crate::config::source::Limits;
    use crate::delivery::{Done, Outcome};
    use crate::metrics::Metrics;
    use crate::source::mqtt::probe::tests::config;

    #[tokio::test]
    async fn what_is_left_to_the_broker_leaves_all_behind_it_there() {
        let config = config(MqttVersion::V5, "test");
        let metrics = Metrics::new().source("s");
        let room = Room::new(Limits { messages: 3, bytes: 100 }, metrics.clone());
        let transport = Transport::build(&config).await.unwrap();
        let generation = Generation::open(&config, &transport, &room, 1);
        let [one, two, three, four, five] = [1, 2, 3, 4, 5].map(Ack::PubAck);
        let first = generation.take(Some(one), 60).unwrap();
        assert!(generation.take(None, 60).is_none(), "dropped, and no reason to shed");
        assert!(!generation.has_shed() && generation.pass(two));
        assert!(generation.take(Some(three), 60).is_none() && generation.has_shed());
        generation.changed.notified().await;
        first.settle(Outcome::Accepted(Done::Published));
        assert_eq!(generation.in_flight.acknowledgeable(), [one, two]);
        assert!(
            generation.take(Some(four), 1).is_none() && !generation.pass(five),
            "3 comes first"
        );
        assert!(generation.take(None, 1).is_some());
        assert_eq!(metrics.received.get(), 2);
    }

    #[tokio::test]
    async fn a_packet_id_is_in_use_until_it_is_acknowledged() {
        let config = config(MqttVersion::V5, "test");
        let transport = Transport::build(&config).await.unwrap();
        let room = Room::new(Limits { messages: 9, bytes: 100 }, Metrics::new().source("s"));
        let generation = Generation::open(&config, &transport, &room, 1);
        let (one, last) = (Ack::PubAck(64), Ack::PubRec(u16::MAX));
        let first = generation.take(Some(one), 1).unwrap();
        assert!(generation.pass(last));
        assert!(generation.is_unacknowledged(one) && generation.is_unacknowledged(last));
        assert!(!generation.is_unacknowledged(Ack::PubAck(65)));
        first.settle(Outcome::Accepted(Done::Published));
        generation.acknowledge();
        assert!(!generation.is_unacknowledged(one) && !generation.is_unacknowledged(last));
    }
}
