//! `[source.NAME]`: a broker and what to take from it.

use std::path::PathBuf;
use std::time::Duration;

use super::Secret;
use crate::message::SourceName;

/// A checked `[source.NAME]`.
#[derive(Clone, Debug)]
pub struct SourceConfig {
    /// Its name.
    pub name: SourceName,
    /// In flight at most.
    pub limits: Limits,
    /// What becomes of a message that no route takes.
    pub unrouted: Unrouted,
    /// What only this kind of broker needs.
    pub kind: SourceKind,
}

/// What a source may hold between the oldest message not yet acknowledged and the newest taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Messages.
    pub messages: usize,
    /// Bytes of payload and of the events rendered from it.
    pub bytes: usize,
}

/// What becomes of a message that no route takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unrouted {
    /// Counted, and acknowledged.
    Ignore,
    /// Written to the dead letter.
    DeadLetter,
}

/// The kinds of broker.
#[derive(Clone, Debug)]
pub enum SourceKind {
    /// An MQTT broker.
    Mqtt(MqttConfig),
}

/// `type = "mqtt"`.
#[derive(Clone, Debug)]
pub struct MqttConfig {
    /// Host name or address of the broker.
    pub host: String,
    /// Its port: the URL's, else 1883, or 8883 with TLS.
    pub port: u16,
    /// How to secure the connection, if at all.
    pub tls: Option<Tls>,
    /// The protocol.
    pub version: MqttVersion,
    /// Who we are to the broker; the session hangs on it.
    pub client_id: String,
    /// What to take.
    pub subscriptions: Vec<Subscription>,
    /// How long the broker keeps the session without us; whole seconds.
    pub session_expiry: Duration,
    /// The longest silence on the connection.
    pub keep_alive: Duration,
    /// The largest packet taken, in bytes.
    pub max_packet_size: u32,
    /// The user's name.
    pub username: Option<String>,
    /// The user's password.
    pub password: Option<Secret>,
}

/// The MQTT protocol's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MqttVersion {
    /// 3.1.1.
    V3,
    /// 5.
    V5,
}

/// One topic filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// With `+` and `#`.
    pub filter: String,
    /// The quality of service asked for.
    pub qos: Qos,
}

/// The quality of service of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qos {
    /// 0: nothing is acknowledged.
    AtMostOnce,
    /// 1: acknowledged when settled.
    AtLeastOnce,
}

/// `tls = { ca_file, cert_file, key_file }`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// A CA that is trusted beside the system's.
    pub ca_file: Option<PathBuf>,
    /// The client's certificate and key, both PEM.
    pub identity: Option<(PathBuf, PathBuf)>,
}
