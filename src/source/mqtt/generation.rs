//! One connection, as its poller and its owner share it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

use super::client::{self, Client, Connection};
use crate::config::source::MqttConfig;
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
    /// A PUBACK was written.
    wrote: Notify,
    connected: AtomicBool,
    subscribed: OnceLock<Instant>,
    released: AtomicU64,
    written: AtomicU64,
}

impl Generation {
    /// A connection that is made when it is first polled, with as large a window as there is room.
    pub(super) fn open(
        config: &MqttConfig,
        tls: Option<Arc<ClientConfig>>,
        room: &Arc<Room>,
    ) -> Self {
        let (closed, all_closed) = mpsc::channel(1);
        let window = u16::try_from(room.messages_left()).unwrap_or(u16::MAX).max(1);
        let (client, connection) = client::open(config, tls, window, closed);
        let changed = Arc::new(Notify::new());
        Self {
            client,
            in_flight: InFlight::new(Arc::clone(room), Arc::clone(&changed)),
            changed,
            made: Mutex::new(Some((connection, all_closed))),
            wrote: Notify::new(),
            connected: AtomicBool::new(false),
            subscribed: OnceLock::new(),
            released: AtomicU64::new(0),
            written: AtomicU64::new(0),
        }
    }

    /// The connection, once.
    pub(super) fn connection(&self) -> Option<Made> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).take()
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

    /// A PUBACK was written to the socket.
    pub(super) fn ack_written(&self) {
        self.written.fetch_add(1, Ordering::AcqRel);
        self.wrote.notify_one();
    }

    /// Sends the PUBACKs that are due, in the order of receipt.
    pub(super) fn acknowledge(&self) {
        for packet_id in self.in_flight.acknowledgeable() {
            self.released.fetch_add(1, Ordering::AcqRel);
            if self.client.ack(packet_id).is_err() {
                // The connection is gone, and its poller says so; the broker sends the message again.
                return;
            }
        }
    }

    /// Sees the last PUBACKs written, which DISCONNECT would overtake, and says goodbye. True when
    /// both were done, or when the broker had not taken us yet.
    pub(super) async fn farewell(&self, poller: &mut JoinSet<String>) -> bool {
        if !self.connected.load(Ordering::Acquire) {
            return true;
        }
        while self.written.load(Ordering::Acquire) < self.released.load(Ordering::Acquire) {
            tokio::select! {
                () = self.wrote.notified() => {}
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
