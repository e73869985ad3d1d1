//! Whether a broker can be reached, lets us in and grants the subscriptions: for `check --connect`.
//!
//! A running bridge is not disturbed. The client has a name of its own, so that it takes over no session, and a
//! session that ends with the connection, so that nothing is kept for it. It acknowledges nothing. What is live
//! comes to it as to one subscriber more; what is retained does not come in MQTT 5, and in 3.1.1 with QoS 0. All of it
//! is dropped, and the next thing said after the last answer is goodbye.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::timeout;

use super::client::{self, Client, Connection, Event, Stored};
use super::diagnosis::{Kind, Stage, Trouble};
use super::subscriptions::{Change, Subscriptions};
use super::transport::Transport;
use crate::config::mqtt::{MqttConfig, MqttVersion, Qos};
use crate::probe::{Complaint, Step};

/// The broker has this long in all.
const PATIENCE: Duration = Duration::from_secs(15);

/// And this long to hear the goodbye.
const FAREWELL: Duration = Duration::from_secs(1);

/// Says what is there, or why the source could not work: a clause, and a hint where there is one.
pub async fn probe(config: &MqttConfig) -> Result<String, Complaint> {
    let unusable = |step, words: String| Complaint::of_words(step, &words);
    let transport = Transport::build(config).await;
    let transport = transport.map_err(|error| unusable(Step::Tls, error.to_string()))?;
    transport.prepare().await.map_err(|error| unusable(Step::Login, error.to_string()))?;
    let guest = guest(config);
    let (closing, mut closed) = mpsc::channel(1);
    let (client, connection) = client::open(&guest, &transport, 1, closing);
    let mut visit = Visit { client, connection, stage: Stage::Connecting };
    let asked = match timeout(PATIENCE, visit.ask(&guest)).await {
        Ok(asked) => asked.map_err(|trouble| trouble.at(visit.stage)),
        Err(_) => Err(Trouble::silent("the broker does not answer").at(visit.stage)),
    };
    // One that failed is dead, and not to be polled again.
    if asked.is_ok() {
        let _ = timeout(FAREWELL, visit.leave()).await;
    }
    drop(visit);
    // A process that exits now would reset the connection.
    let _ = timeout(FAREWELL, closed.recv()).await;
    asked.map_err(|trouble| complaint(&trouble, config, &guest))?.said(config, &guest)
}

/// One connection, and how far it came.
struct Visit {
    client: Client,
    connection: Connection,
    stage: Stage,
}

/// What the broker said of the subscriptions.
struct Answered {
    granted: usize,
    /// With QoS 0, where 1 was asked for.
    at_most_once: usize,
    refused: Vec<String>,
}

impl Visit {
    /// Asks for every subscription.
    async fn ask(&mut self, guest: &MqttConfig) -> Result<Answered, Trouble> {
        // Copies are not told apart: they are dropped.
        let mut subscriptions = Subscriptions::new(&guest.subscriptions, false);
        let mut at_most_once = 0;
        loop {
            match self.connection.next().await? {
                Event::Connected(_) => {
                    self.stage = Stage::Subscribing;
                    for ask in subscriptions.due(Instant::now()) {
                        let asked = self.client.subscribe(&ask, Stored::Never);
                        asked.map_err(|_| Trouble::other("the client is gone"))?;
                    }
                }
                Event::Asked(packet_id) => subscriptions.written(packet_id),
                Event::Subscribed(packet_id, answers) => {
                    let changes = subscriptions.answered(packet_id, answers, Instant::now());
                    let lower = |change: &&Change| matches!(change, Change::AtMostOnce(_));
                    at_most_once += changes.iter().filter(lower).count();
                }
                _ => {}
            }
            if self.stage > Stage::Connecting && subscriptions.all_answered() {
                let refused = subscriptions.refused();
                let granted = guest.subscriptions.len() - refused.len();
                return Ok(Answered { granted, at_most_once, refused });
            }
        }
    }

    /// Says goodbye, which ends the session and its subscriptions.
    async fn leave(&mut self) {
        if self.client.disconnect().is_ok() {
            while !matches!(self.connection.next().await, Ok(Event::Disconnected) | Err(_)) {}
        }
    }
}

impl Answered {
    fn said(self, config: &MqttConfig, guest: &MqttConfig) -> Result<String, Complaint> {
        if !self.refused.is_empty() {
            let s = if self.refused.len() == 1 { "" } else { "s" };
            return Err(Complaint::new(
                Step::Allowed,
                format!("the broker refuses the subscription{s} {}", self.refused.join(", ")),
                format!("check the broker's access list{}", by_name(config, guest)),
            ));
        }
        let version = match config.version {
            MqttVersion::V3 => "MQTT 3.1.1",
            MqttVersion::V5 => "MQTT 5",
        };
        let s = if self.granted == 1 { "" } else { "s" };
        let lower = match self.at_most_once {
            0 => String::new(),
            count => format!(", {count} of them with QoS 0 only: at most once"),
        };
        Ok(format!("{version}, {} subscription{s} granted{lower}", self.granted))
    }
}

/// A `client_id` is never longer where a broker limits it more than the protocol does: AWS IoT Core's 128 bytes.
const SHORTEST_LIMIT: usize = 128;

/// The source as a client of its own that leaves nothing behind.
fn guest(config: &MqttConfig) -> MqttConfig {
    let mut guest = config.clone();
    let suffix = format!("-check-{:08x}", rand::random::<u32>());
    // Without a name the broker makes one up.
    if !guest.client_id.is_empty() {
        let room = SHORTEST_LIMIT - suffix.len();
        guest.client_id.truncate(guest.client_id.floor_char_boundary(room));
        guest.client_id.push_str(&suffix);
    }
    guest.session_expiry = Duration::ZERO;
    // In the group it would be given messages that others are to have.
    for group in guest.subscriptions.iter_mut().filter_map(|each| each.share.as_mut()) {
        group.push_str(&suffix);
    }
    // What is retained comes, and needs no answer.
    if guest.version == MqttVersion::V3 {
        guest.subscriptions.iter_mut().for_each(|each| each.qos = Qos::AtMostOnce);
    }
    guest
}

fn complaint(trouble: &Trouble, config: &MqttConfig, guest: &MqttConfig) -> Complaint {
    let (what, hint) = (trouble.what.as_str(), trouble.hint(config));
    let of_client = match trouble.kind {
        Kind::Credentials | Kind::ClientId => true,
        Kind::Closed => trouble.stage > Stage::Connecting,
        _ => false,
    };
    let by_name = if of_client { by_name(config, guest) } else { String::new() };
    let remedy = format!("{hint}{by_name}");
    Complaint::new(step(trouble), what, remedy.trim_start_matches("; "))
}

/// Where a connection ended.
fn step(trouble: &Trouble) -> Step {
    match trouble.kind {
        Kind::Certificate | Kind::Identity | Kind::NotTls => Step::Tls,
        _ if trouble.stage > Stage::Connecting => Step::Allowed,
        Kind::Credentials
        | Kind::ClientId
        | Kind::Version
        | Kind::NoIdentifiers
        | Kind::TakenOver
        | Kind::Forbidden
        | Kind::Clock => Step::Login,
        _ => Step::Reach,
    }
}

/// That the name may be the cause of a refusal.
fn by_name(config: &MqttConfig, guest: &MqttConfig) -> String {
    if config.client_id.is_empty() {
        return String::new();
    }
    let group = guest.subscriptions.iter().find_map(|each| each.share.as_ref());
    let (in_group, or_group) = match group {
        Some(group) => (format!(" of the group `{group}`"), " or group"),
        None => (String::new(), ""),
    };
    format!(
        "; tried as client `{}`{in_group}, so as not to disturb a running bridge: a broker that allows clients by \
         `client_id`{or_group} may refuse this one only",
        guest.client_id
    )
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::config::mqtt::{Retained, Subscription};

    pub(in super::super) fn config(version: MqttVersion, client_id: &str) -> MqttConfig {
        MqttConfig {
            host: "localhost".to_owned(),
            port: 1883,
            websocket: None,
            aws: None,
            alpn: None,
            tls: None,
            version,
            client_id: client_id.to_owned(),
            subscriptions: vec![Subscription {
                filter: "a/#".to_owned(),
                qos: Qos::AtLeastOnce,
                share: None,
            }],
            retained: Retained::Take,
            session_expiry: Duration::from_hours(24),
            keep_alive: Duration::from_secs(30),
            max_packet_size: 300_000,
            username: None,
            password: None,
        }
    }

    #[test]
    fn a_guest_is_in_no_group_of_others() {
        let mut config = config(MqttVersion::V5, "bridge");
        config.subscriptions[0].share = Some("group".to_owned());
        let spelled = guest(&config).subscriptions[0].spelled();
        assert!(spelled.starts_with("$share/group-check-") && spelled.ends_with("/a/#"));
    }

    #[test]
    fn a_guest_takes_no_name_of_a_session_and_leaves_none() {
        for version in [MqttVersion::V3, MqttVersion::V5] {
            for name in ["bridge", &"é".repeat(32_767)] {
                let first = guest(&config(version, name));
                assert_ne!(first.client_id, name);
                assert_ne!(first.client_id, guest(&config(version, name)).client_id);
                assert!(first.client_id.len() <= SHORTEST_LIMIT);
                assert_eq!(first.session_expiry, Duration::ZERO);
            }
        }
        assert_eq!(guest(&config(MqttVersion::V5, "")).client_id, "");
    }
}
