//! The demo's MQTT broker, and the count of what waits in it for the bridge.
//!
//! It keeps its sessions in memory, with room for hours of the fleet: what a bridge that is away has to come back to.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use anyhow::Context as _;
use mqtt5::QoS;
use mqtt5::broker::config::{AuthConfig, BrokerConfig, StorageBackend, StorageConfig};
use mqtt5::broker::{
    BrokerEventHandler, ClientConnectEvent, ClientDisconnectEvent, ClientPublishEvent,
    MessageDeliveredEvent, MqttBroker, PublishAction,
};

use super::messages::Messages;
use super::settings::{BRIDGE, SPOKEN};

/// Messages that the session of a client may hold: half an hour of the fleet and more.
const QUEUE_MESSAGES: usize = 250_000;

/// The same in bytes.
const QUEUE_BYTES: usize = 512 << 20;

/// The broker, bound and not yet running. It tells `traffic` what passes.
pub(super) async fn bind(
    listen: SocketAddr,
    clients: usize,
    traffic: Arc<Traffic>,
) -> anyhow::Result<MqttBroker> {
    let storage = StorageConfig::new()
        .with_backend(StorageBackend::Memory)
        .with_max_queued_messages_per_client(QUEUE_MESSAGES)
        .with_max_queued_bytes_per_client(QUEUE_BYTES);
    let config = BrokerConfig::new()
        .with_bind_address(listen)
        .with_max_clients(clients)
        .with_storage(storage)
        .with_auth(AuthConfig::new().with_allow_anonymous(true))
        .with_sys_topics_enabled(false)
        .with_event_handler(traffic);
    MqttBroker::with_config(config).await.context("the MQTT broker can't start")
}

/// What passed through the broker, counted there.
#[derive(Default)]
pub(super) struct Traffic {
    received: AtomicU64,
    acknowledged: AtomicU64,
    connections: AtomicI64,
    /// What was published by hand.
    pub(super) messages: Messages,
}

/// What passed through the broker so far.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counts {
    /// Messages that were published with QoS 1 or 2, so that the broker keeps them until they are acknowledged.
    pub(super) received: u64,
    /// Those that the bridge has acknowledged.
    pub(super) acknowledged: u64,
    /// Whether the bridge is connected.
    pub(super) connected: bool,
}

impl Counts {
    /// Messages that the broker keeps for the bridge: not sent yet, or sent and not acknowledged.
    pub(super) fn waiting(&self) -> u64 {
        self.received.saturating_sub(self.acknowledged)
    }
}

impl Traffic {
    /// The counts now.
    pub(super) fn counts(&self) -> Counts {
        // This one first: what is received in between would make the difference too large, not too small.
        let acknowledged = self.acknowledged.load(Ordering::SeqCst);
        Counts {
            received: self.received.load(Ordering::SeqCst),
            acknowledged,
            connected: self.connections.load(Ordering::SeqCst) > 0,
        }
    }
}

type Told<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

impl BrokerEventHandler for Traffic {
    fn on_client_connect(&self, event: ClientConnectEvent) -> Told<'_, ()> {
        if &*event.client_id == BRIDGE {
            self.connections.fetch_add(1, Ordering::SeqCst);
        }
        Box::pin(std::future::ready(()))
    }

    fn on_client_disconnect(&self, event: ClientDisconnectEvent) -> Told<'_, ()> {
        if &*event.client_id == BRIDGE {
            self.connections.fetch_sub(1, Ordering::SeqCst);
        }
        Box::pin(std::future::ready(()))
    }

    fn on_client_publish(&self, event: ClientPublishEvent) -> Told<'_, PublishAction> {
        let spoken = event.topic.starts_with(SPOKEN);
        if spoken {
            self.messages.sent(&event.topic, &event.payload);
        }
        // With QoS 0 the broker keeps nothing to be acknowledged.
        if event.qos != QoS::AtMostOnce && (spoken || event.topic.starts_with("fleet/")) {
            self.received.fetch_add(1, Ordering::SeqCst);
        }
        Box::pin(std::future::ready(PublishAction::Continue))
    }

    fn on_message_delivered(&self, event: MessageDeliveredEvent) -> Told<'_, ()> {
        if &*event.client_id == BRIDGE {
            self.acknowledged.fetch_add(1, Ordering::SeqCst);
        }
        Box::pin(std::future::ready(()))
    }
}
