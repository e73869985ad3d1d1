//! One connection, as its poller and its owner share it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

use super::client::{self, Client, Connection};
use super::diagnosis::Trouble;
use super::pace::{Goodbye, Pace};
use super::transport::Transport;
use crate::config::mqtt::MqttConfig;
use crate::delivery::Settlement;
use crate::source::{InFlight, Room};

/// What is to be driven, and the signal that it is closed for good.
type Made = (Connection, mpsc::Receiver<()>);

/// A connection with its record of what is in flight.
pub(super) struct Generation {
    pub(super) client: Client,
    pub(super) in_flight: Arc<InFlight<u16>>,
    /// Something may be acknowledged, was released, or was left to the broker.
    pub(super) changed: Arc<Notify>,
    made: Mutex<Option<Made>>,
    pace: Mutex<Pace>,
    /// A PUBACK was written, or a mark was answered.
    progress: Notify,
    connected: AtomicBool,
    /// A message was left to the broker: so is every one behind it, or they would come out of order.
    shed: AtomicBool,
    subscribed: OnceLock<Instant>,
}

impl Generation {
    /// A connection that is made when it is first polled, with as large a window as there is room.
    pub(super) fn open(config: &MqttConfig, transport: &Transport, room: &Arc<Room>) -> Self {
        let (closed, all_closed) = mpsc::channel(1);
        let window = u16::try_from(room.messages_left()).unwrap_or(u16::MAX).max(1);
        let (client, connection) = client::open(config, transport, window, closed);
        let changed = Arc::new(Notify::new());
        Self {
            client,
            in_flight: InFlight::new(Arc::clone(room), Arc::clone(&changed)),
            changed,
            made: Mutex::new(Some((connection, all_closed))),
            pace: Mutex::new(Pace::new(config.keep_alive)),
            progress: Notify::new(),
            connected: AtomicBool::new(false),
            shed: AtomicBool::new(false),
            subscribed: OnceLock::new(),
        }
    }

    /// The connection, once.
    pub(super) fn connection(&self) -> Option<Made> {
        self.made.lock().take()
    }

    /// The broker took us.
    pub(super) fn connected(&self) {
        self.connected.store(true, Ordering::Release);
    }

    /// The broker confirmed the subscriptions.
    pub(super) fn subscribed(&self) {
        let _ = self.subscribed.set(Instant::now());
    }

    /// How long ago the subscriptions were confirmed.
    pub(super) fn subscribed_for(&self) -> Option<Duration> {
        self.subscribed.get().map(Instant::elapsed)
    }

    /// Records a message of `bytes`; one of QoS 1 has a packet id. `None` when it is not taken: then it is
    /// left to the broker with all behind it, or of QoS 0 and gone. Only the poller takes and passes, so
    /// nothing comes between a refusal and the mark of it.
    pub(super) fn take(&self, packet_id: Option<u16>, bytes: usize) -> Option<Settlement> {
        if packet_id.is_some() && self.has_shed() {
            return None;
        }
        let settlement = self.in_flight.take(packet_id, bytes);
        if packet_id.is_some() && settlement.is_none() {
            self.shed.store(true, Ordering::Release);
            self.changed.notify_one();
        }
        settlement
    }

    /// Acknowledges a message in its turn that there is nothing else to do with. False when it is left to
    /// the broker.
    pub(super) fn pass(&self, packet_id: u16) -> bool {
        !self.has_shed() && self.in_flight.pass(packet_id)
    }

    /// Whether messages were left to the broker.
    pub(super) fn has_shed(&self) -> bool {
        self.shed.load(Ordering::Acquire)
    }

    /// A PUBACK was written to the socket.
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

    /// Sends the PUBACKs that are due, in the order of receipt, as the broker reads them.
    pub(super) fn acknowledge(&self) {
        let mut pace = self.pace.lock();
        let due = self.in_flight.acknowledgeable_up_to(pace.room());
        pace.released(due.len());
        // If the connection is gone, its poller says so; the broker sends the messages again.
        let sent = due.into_iter().try_for_each(|packet_id| self.client.ack(packet_id));
        if sent.is_ok() && pace.wants_mark(Instant::now()) {
            let _ = self.client.mark();
        }
    }

    /// Waits until the broker has read the last PUBACK, and says goodbye. It may take its time, as long
    /// as the connection lives: the keep-alive judges that. True when it is done, or when the broker had
    /// not taken us yet.
    pub(super) async fn farewell(&self, poller: &mut JoinSet<Trouble>) -> bool {
        if !self.connected.load(Ordering::Acquire) {
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
                _ = poller.join_next() => return false,
            }
        }
        if self.client.disconnect().is_err() {
            return false;
        }
        // The poller ends when DISCONNECT is written.
        poller.join_next().await;
        true
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
        let generation = Generation::open(&config, &transport, &room);
        let first = generation.take(Some(1), 60).unwrap();
        assert!(generation.take(None, 60).is_none(), "dropped, and no reason to shed");
        assert!(!generation.has_shed() && generation.pass(2));
        assert!(generation.take(Some(3), 60).is_none() && generation.has_shed());
        generation.changed.notified().await;
        first.settle(Outcome::Accepted(Done::Published));
        assert_eq!(generation.in_flight.acknowledgeable(), [1, 2]);
        assert!(generation.take(Some(4), 1).is_none() && !generation.pass(5), "3 comes first");
        assert!(generation.take(None, 1).is_some());
        assert_eq!(metrics.received.get(), 2);
    }
}
