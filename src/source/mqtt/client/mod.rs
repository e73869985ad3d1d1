//! One connection of either protocol version behind one face.
//!
//! An event loop of the client is one connection: on any error it is dropped and never polled again.
//! That alone keeps events of a dead connection from being taken for those of the next one, and keeps
//! acknowledgements of a dead connection from confirming foreign messages on the next one.

mod blank_session;
mod event;
mod incoming;

use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use rumqttc_v4 as v4;
use rumqttc_v5 as v5;
use tokio::sync::mpsc;

use super::diagnosis::Trouble;
use super::subscriptions::Ask;
use super::transport::{Lingering, Transport};
use crate::config::mqtt::{MqttConfig, MqttVersion, Qos, Subscription, Username};
use blank_session::BlankSession;
pub(super) use event::{Event, Welcome};
use event::{from_v3, from_v5};
pub(super) use incoming::{Ack, Extras, Incoming};

/// So many topics a broker may abbreviate to a number each. The client spells them out again, and keeps
/// them for as long as the connection.
const TOPIC_ALIASES: u16 = 256;

/// The protocol's own maximum: nothing larger can be sent by a broker. The limit of the configuration
/// is applied to the message, which goes to the dead letter: refusing the packet instead means, in
/// 3.1.1, an endless reconnect loop, and in 5, that the broker discards the message without a word.
const PROTOCOL_MAX_PACKET: usize = 268_435_455 + 5;

/// The most packets that the client takes at once from what it has read.
const READ_TOGETHER: usize = 128;

/// A broker has this long to take us, from the look-up of its name to its answer to CONNECT.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// What the client of a mark is not subscribed to. The broker confirms all the same, after it has read
/// what came before; a PINGREQ would do, but the client library keeps that to itself.
const MARK: &str = "appsync-bridge/none";

/// What can be asked of a connection; never waits, from any task.
pub(super) enum Client {
    V3(v4::AsyncClient),
    V5(v5::AsyncClient),
}

/// The event loop of a connection.
pub(super) enum Connection {
    V3(Box<v4::EventLoop>),
    V5(Box<v5::EventLoop>),
}

/// Whether the broker sends its retained messages with a subscription. In 3.1.1 it always does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stored {
    /// When the subscription is new, not at each reconnect.
    WhenNew,
    Never,
}

/// The client is gone, and its connection with it.
#[derive(Debug)]
pub(super) struct Gone;

/// A connection that is not made yet: the first `next` makes it. `closed` is released when it is
/// closed for good.
pub(super) fn open(
    config: &MqttConfig,
    transport: &Transport,
    receive_maximum: u16,
    closed: mpsc::Sender<()>,
) -> (Client, Connection) {
    let keep_alive = u16::try_from(config.keep_alive.as_secs()).unwrap_or(u16::MAX);
    // Only QoS 0 everywhere makes a source without a session.
    let persistent = !config.session_expiry.is_zero();
    // What the two crates have in common but for the types.
    macro_rules! made {
        ($crate_of:ident, $options:ident) => {{
            $options
                .set_keep_alive(keep_alive)
                .set_ack_mode($crate_of::AckMode::Manual)
                .set_read_batch_size(READ_TOGETHER)
                .set_socket_connector(move |address, _| {
                    Lingering::connect(address, closed.clone())
                });
            if let Some(user) = &config.username {
                $options.set_credentials(name(user), password(config));
            }
            if let Some(tls) = &transport.tls {
                let tls = $crate_of::TlsConfiguration::Rustls(Arc::clone(tls));
                $options.set_transport(match transport.url {
                    None => $crate_of::Transport::tls_with_config(tls),
                    Some(_) => $crate_of::Transport::wss_with_config(tls),
                });
            }
            if let Some(signer) = &transport.signer {
                let signer = Arc::clone(signer);
                $options
                    .set_fallible_request_modifier(move |handshake| ready(signer.sign(handshake)));
            }
            $crate_of::AsyncClient::builder($options).unbounded().build()
        }};
    }
    macro_rules! broker {
        ($crate_of:ident) => {{
            let url = transport.url.as_deref().map($crate_of::Broker::websocket);
            match url.and_then(Result::ok) {
                Some(websocket) => websocket,
                // What the client takes for no URL would not fit the transport, and says so when it connects.
                None => $crate_of::Broker::tcp(config.host.clone(), config.port),
            }
        }};
    }
    match config.version {
        MqttVersion::V3 => {
            let mut options = v4::MqttOptions::new(config.client_id.clone(), broker!(v4));
            options
                .set_clean_session(!persistent)
                .set_max_packet_size(PROTOCOL_MAX_PACKET, 1 << 20)
                .set_inflight(1);
            let (client, mut events) = made!(v4, options);
            events.network_options.set_connection_timeout(CONNECT_TIMEOUT.as_secs());
            (Client::V3(client), Connection::V3(Box::new(events)))
        }
        MqttVersion::V5 => {
            let expiry = u32::try_from(config.session_expiry.as_secs()).unwrap_or(u32::MAX);
            let mut options = v5::MqttOptions::new(config.client_id.clone(), broker!(v5));
            if persistent {
                options.set_session_store(BlankSession);
            }
            options
                .set_clean_start(!persistent)
                .set_session_expiry_interval(Some(expiry))
                .set_receive_maximum(Some(receive_maximum))
                .set_outgoing_inflight_upper_limit(1)
                .set_topic_alias_max(Some(TOPIC_ALIASES))
                .set_connect_timeout(CONNECT_TIMEOUT)
                .set_unlimited_incoming_packet_size();
            if config.username.is_none() && config.password.is_some() {
                options.set_password(password(config));
            }
            let (client, events) = made!(v5, options);
            (Client::V5(client), Connection::V5(Box::new(events)))
        }
    }
}

/// The last value read, as of the password.
fn name(user: &Username) -> String {
    match user {
        Username::Fixed(name) => name.clone(),
        Username::Followed(secret) => secret.reveal().to_string(),
    }
}

/// The last value read: the caller reads the file before it connects.
fn password(config: &MqttConfig) -> String {
    config.password.as_ref().map_or_else(String::new, |password| password.reveal().to_string())
}

impl Client {
    /// Queues an acknowledgement. The caller keeps the order.
    pub(super) fn ack(&self, ack: Ack) -> Result<(), Gone> {
        match self {
            Self::V3(client) => {
                let ack = match ack {
                    Ack::PubAck(id) => v4::ManualAck::PubAck(v4::PubAck::new(id)),
                    Ack::PubRec(id) => v4::ManualAck::PubRec(v4::PubRec::new(id)),
                };
                client.try_manual_ack(ack).map_err(|_| Gone)
            }
            Self::V5(client) => {
                let ack = match ack {
                    Ack::PubAck(id) => v5::ManualAck::PubAck(v5::PubAck::new(id, None)),
                    Ack::PubRec(id) => v5::ManualAck::PubRec(v5::PubRec::new(id, None)),
                };
                client.try_manual_ack(ack).map_err(|_| Gone)
            }
        }
    }

    /// Queues a mark: its answer tells that the broker has read what was written before it.
    pub(super) fn mark(&self) -> Result<(), Gone> {
        match self {
            Self::V3(client) => client.try_unsubscribe(MARK).map_err(|_| Gone),
            Self::V5(client) => client.try_unsubscribe(MARK).map_err(|_| Gone),
        }
    }

    /// Queues a SUBSCRIBE.
    pub(super) fn subscribe(&self, ask: &Ask, stored: Stored) -> Result<(), Gone> {
        match self {
            Self::V3(client) => {
                let filter = |s: &Subscription| {
                    let qos = match s.qos {
                        Qos::AtMostOnce => v4::QoS::AtMostOnce,
                        Qos::AtLeastOnce => v4::QoS::AtLeastOnce,
                        Qos::ExactlyOnce => v4::QoS::ExactlyOnce,
                    };
                    v4::SubscribeFilter::new(s.spelled(), qos)
                };
                client.try_subscribe_many(ask.subscriptions.iter().map(filter)).map_err(|_| Gone)
            }
            Self::V5(client) => {
                let filter = |s: &Subscription| {
                    let qos = match s.qos {
                        Qos::AtMostOnce => v5::QoS::AtMostOnce,
                        Qos::AtLeastOnce => v5::QoS::AtLeastOnce,
                        Qos::ExactlyOnce => v5::QoS::ExactlyOnce,
                    };
                    v5::SubscribeFilterInput::new(s.spelled(), qos)
                        .preserve_retain(true)
                        .retain_forward_rule(match stored {
                            Stored::WhenNew => v5::RetainForwardRule::OnNewSubscribe,
                            Stored::Never => v5::RetainForwardRule::Never,
                        })
                };
                let filters = ask.subscriptions.iter().map(filter);
                let asked = match ask.identifier {
                    None => client.try_subscribe_many(filters),
                    Some(identifier) => {
                        let properties = v5::SubscribeProperties {
                            id: usize::try_from(identifier).ok(),
                            user_properties: Vec::new(),
                        };
                        client.try_subscribe_many_with_properties(filters, properties)
                    }
                };
                asked.map_err(|_| Gone)
            }
        }
    }

    /// Queues a DISCONNECT. It may overtake queued PUBACKs: see them written first.
    pub(super) fn disconnect(&self) -> Result<(), Gone> {
        match self {
            Self::V3(client) => client.try_disconnect().map_err(|_| Gone),
            Self::V5(client) => client.try_disconnect().map_err(|_| Gone),
        }
    }
}

impl Connection {
    /// From now on it is silent no longer than this, whatever the broker asked for in CONNACK. Not so where that was 0:
    /// then the client library sends no pings at all.
    pub(super) fn keep_alive(&mut self, keep_alive: Duration) {
        let seconds = u16::try_from(keep_alive.as_secs()).unwrap_or(u16::MAX);
        match self {
            Self::V3(events) => {
                events.mqtt_options.set_keep_alive(seconds);
            }
            Self::V5(events) => {
                events.options.set_keep_alive(seconds);
            }
        }
    }

    /// The next event. After an error the connection is dead: drop it. Dropping the future midway
    /// loses what it read, so only drop it with the connection.
    pub(super) async fn next(&mut self) -> Result<Event, Trouble> {
        match self {
            Self::V3(events) => events.poll().await.map(from_v3).map_err(|e| Trouble::of_v3(&e)),
            Self::V5(events) => {
                let event = events.poll().await.map_err(|e| Trouble::of_v5(&e))?;
                if let v5::Event::Incoming(v5::Packet::ConnAck(_)) = event {
                    // Its work is done, and the client would put a copy of the state together for it before and
                    // after each PUBACK: a tenth of what a backlog costs.
                    events.options.clear_session_store();
                }
                Ok(from_v5(event))
            }
        }
    }
}
