//! The keys of a source with `type = "mqtt"`.

mod address;
mod filter;
mod iot;
mod overlap;
mod packet_size;

use std::time::Duration;

use serde_json::json;

use super::Secret;
use super::api::Aws;
use super::common::{Client, Common, Own, Settings, Tls, secured};
use super::endpoint::is_loopback;
use super::reader::{
    Field, Kind, Ledger, Located, Problem, Setting, Table, Words, contrast, impossible,
    show_duration,
};
use address::Address;
use filter::{
    FILTERS, Filter, OVERLAP_SHARED, OVERLAP_V3, filters, group, overlapping, qos, retained,
};
pub use filter::{LONGEST_STRING, Qos, Retained, Subscription};
pub(super) use filter::{SEPARATOR, SPELLING};
pub use overlap::FilterTree;
use packet_size::packet_size;

/// `type = "mqtt"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MqttConfig {
    /// Host name or address of the broker.
    pub host: String,
    /// Its port: the URL's, else 1883, or 8883 with TLS; of a WebSocket 80, or 443 with TLS.
    pub port: u16,
    /// The path, with the query, of a WebSocket that carries MQTT.
    pub websocket: Option<String>,
    /// Who signs the handshake of the WebSocket, for AWS IoT Core.
    pub aws: Option<Aws>,
    /// What ALPN says in TLS, where the port needs it: that of AWS IoT Core.
    pub alpn: Option<&'static str>,
    /// How to secure the connection, if at all.
    pub tls: Option<Tls>,
    /// The protocol.
    pub version: MqttVersion,
    /// Who we are to the broker; the session hangs on it. Empty, with `qos` 0 only: the broker chooses
    /// a name, and `session_expiry` is 0.
    pub client_id: String,
    /// What to take.
    pub subscriptions: Vec<Subscription>,
    /// What becomes of the messages that the broker has retained when we subscribe.
    pub retained: Retained,
    /// How long the broker keeps the session without us; whole seconds.
    pub session_expiry: Duration,
    /// The longest silence on the connection.
    pub keep_alive: Duration,
    /// The largest packet taken, in bytes.
    pub max_packet_size: u32,
    /// The user's name.
    pub username: Option<Username>,
    /// The user's password.
    pub password: Option<Secret>,
}

/// The name of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Username {
    /// As it is written.
    Fixed(String),
    /// What a file holds, which may change with the password.
    Followed(Secret),
}

/// The MQTT protocol's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MqttVersion {
    /// 3.1.1.
    V3,
    /// 5.
    V5,
}

impl Settings for MqttConfig {
    fn max_payload(&self) -> usize {
        usize::try_from(self.max_packet_size).unwrap_or(usize::MAX)
    }

    fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    fn asked(&self) -> Vec<&str> {
        self.subscriptions.iter().map(|each| each.filter.as_str()).collect()
    }

    fn client(&self) -> Option<Client> {
        // Without a name it is nobody.
        let name = Some(self.client_id.clone()).filter(|name| !name.is_empty())?;
        let at = vec![format!("{}:{}", self.host, self.port)];
        Some(Client { at, of: String::new(), name, key: "client_id" })
    }

    fn kept_by(&self) -> Option<String> {
        let Self { client_id, host, port, session_expiry, .. } = self;
        let kept = !client_id.is_empty() && !session_expiry.is_zero();
        kept.then(|| format!("the session of `{client_id}` at {host}:{port}"))
    }
}

/// Why a source has a name, for hints.
const CLIENT_ID: &str = "the broker keeps what was not acknowledged under this name: \
                         `client_id = \"appsync-bridge\"`";

const SESSION_EXPIRY: Duration = Duration::from_hours(24);
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// What other products call its keys.
pub(super) const WORDS: Words = &[&[
    (
        "url",
        "broker brokers host address endpoint uri server servers brokerurl hostname addr serverurl",
    ),
    ("subscriptions", "topics topic filters subscribe subscription topicfilters topicfilter"),
    ("aws", "region profile awsregion awsprofile rolearn role externalid sigv4 iam"),
    ("username", "user login"),
    ("password", "pass passwd pwd"),
    ("client_id", "id client clientname"),
    ("qos", "qoslevel qualityofservice defaultqos"),
    ("keep_alive", "keepaliveinterval heartbeat pinginterval"),
    ("version", "protocolversion mqttversion"),
    ("session_expiry", "sessionexpiryinterval sessiontimeout cleansession cleanstart"),
    ("max_packet_size", "maximumpacketsize maxmessagesize messagesizelimit"),
    ("max_in_flight", "receivemaximum maxinflightmessages prefetch prefetchcount maxoutstanding"),
]];

/// Reads what only MQTT sources have.
pub(super) fn read(table: &mut Table<'_>, common: &Common) -> Option<Own<MqttConfig>> {
    let ledger = table.ledger;
    let broker = table.filled("url").then(|text| Address::read(ledger, &text));
    let broker = table.require("url", broker, "the broker: `url = \"mqtts://broker.example\"`");
    let tls = broker.as_ref().map(|broker| {
        let scheme = broker.value.secure_scheme();
        let asks = broker.value.secure.then(|| ("url", scheme, broker.span.clone()));
        secured(ledger, &common.tls, asks)
    });
    let aws = iot::aws(table, broker.as_ref());
    let version = version(table).or_word(MqttVersion::V5, json!(5));
    let qos = qos(table, "qos");
    let qos_known = !matches!(qos, Field::Bad);
    let qos = qos.or_word(Qos::AtLeastOnce, json!(1));
    let filters = filters(table);
    let filters = table.require("subscriptions", filters, FILTERS);
    let share = group(table.ledger, mqtt_string(table, "share")).optional();
    let shared = share.as_ref().is_ok_and(Option::is_some);
    if let (Some(version), Some(filters)) = (&version, &filters) {
        overlap(ledger, &filters.value, version.value, shared);
    }
    let retained = retained(table, shared);
    let keeps = qos.as_ref().is_none_or(|qos| qos.value.is_kept());
    let group = share.as_ref().ok().and_then(Option::as_ref).map(|group| group.value.as_str());
    let subscriptions = filters
        .as_ref()
        .zip(qos.as_ref())
        .map(|(filters, qos)| subscriptions(&filters.value, qos.value, group));
    let held = subscriptions.as_ref().is_some_and(|all| all.iter().any(|each| each.qos.is_kept()));

    let client_id = mqtt_string(table, "client_id").optional();
    // Of filters that can't be read the source's own quality of service tells.
    let keeps = if subscriptions.is_some() { held } else { qos_known && keeps };
    if keeps && matches!(client_id, Ok(None)) {
        table.require("client_id", Field::<()>::absent(), CLIENT_ID);
    }
    let expiry = seconds(table, "session_expiry", 0..=u64::from(u32::MAX)).or(SESSION_EXPIRY);
    let keep_alive = seconds(table, "keep_alive", 1..=65_535).or(KEEP_ALIVE);
    if let (Some(expiry), Some(keep_alive)) = (&expiry, &keep_alive) {
        session(table, expiry, keep_alive, held);
    }
    let websocket = broker.as_ref().is_some_and(|broker| broker.value.path.is_some());
    let packet = packet_size(table, common, websocket);
    let username = username(table).optional();
    let password = table.secret("password").optional();
    let plaintext = common.plaintext.as_ref().is_none_or(|setting| setting.value);
    if let Ok(Some(password)) = &password {
        let open = matches!(tls, Some(Ok(None))) && !plaintext;
        let named = !matches!(username, Ok(None));
        is_usable(ledger, password, broker.as_ref().filter(|_| open), named, version.as_ref());
    }
    if let (Some(address), Ok(aws)) = (&broker, &aws) {
        iot::Source {
            ledger,
            address,
            aws: aws.as_ref(),
            secured: tls.as_ref().and_then(iot::Secured::read),
            client_id: client_id.as_ref().ok().and_then(Option::as_ref),
            filters: filters.as_ref().map_or(&[], |filters| &filters.value),
            qos: qos.as_ref(),
            copies: version.as_ref().is_some_and(|it| it.value == MqttVersion::V5) && !shared,
            keep_alive: keep_alive.as_ref(),
            session_expiry: expiry.as_ref(),
            max_packet_size: packet.as_ref(),
            username: !matches!(username, Ok(None)),
            password: password.as_ref().ok().and_then(Option::as_ref).map(|it| it.span.clone()),
            plaintext,
        }
        .check();
    }
    if !qos_known {
        return None;
    }
    share.ok()?;
    let (broker, tls, client_id) = (broker?.value, tls?.ok()?, client_id.ok()?);
    let aws = aws.ok()?.map(|aws| aws.value);
    let port = broker.port.unwrap_or(default_port(broker.path.is_some(), tls.is_some()));
    // The broker keeps nothing under a name that it makes up for each connection.
    let session_expiry = if client_id.is_some() { expiry?.value } else { Duration::ZERO };
    Some(Own {
        asked: filters?.value.into_iter().map(|filter| filter.span).collect(),
        client: client_id.as_ref().map(|id| id.span.clone()),
        config: MqttConfig {
            alpn: tls
                .as_ref()
                .filter(|_| broker.path.is_none())
                .and_then(|tls| iot::alpn(&broker.host, port, tls.identity.is_some())),
            host: broker.host,
            port,
            websocket: broker.path.map(|path| if aws.is_some() { iot::path(&path) } else { path }),
            aws,
            tls,
            version: version?.value,
            client_id: client_id.map(|id| id.value).unwrap_or_default(),
            subscriptions: subscriptions?,
            retained: retained?,
            session_expiry,
            keep_alive: keep_alive?.value,
            max_packet_size: u32::try_from(packet?.value).ok()?,
            username: username.ok()?.map(|name| name.value),
            password: password.ok()?.map(|password| password.value),
        },
    })
}

/// Warns of filters that bring a message twice, where that can't be told.
fn overlap(ledger: &Ledger<'_>, filters: &[Filter], version: MqttVersion, shared: bool) {
    if shared {
        overlapping(ledger, filters, OVERLAP_SHARED);
    } else if version == MqttVersion::V3 {
        overlapping(ledger, filters, OVERLAP_V3);
    }
}

/// Reports a password that would cross the network to `open` as it is, or that would not be sent without a name.
fn is_usable(
    ledger: &Ledger<'_>,
    password: &Located<Secret>,
    open: Option<&Located<Address>>,
    named: bool,
    version: Option<&Setting<MqttVersion>>,
) {
    if let Some(broker) = open {
        crosses_as_plain_text(ledger, password, broker);
    }
    if !named && version.is_some_and(|version| version.value == MqttVersion::V3) {
        has_no_user(ledger, password);
    }
}

fn crosses_as_plain_text(
    ledger: &Ledger<'_>,
    password: &Located<Secret>,
    broker: &Located<Address>,
) {
    if is_loopback(&broker.value.host) {
        return;
    }
    let message = "the password would cross the network as plain text";
    let problem = Problem::new(Kind::Unsafe, Some(password.span.clone()), message)
        .also(broker.span.clone(), "not encrypted, and not loopback")
        .help(format!(
            "write `{}`; to send it all the same, `dangerously_plaintext = true`",
            broker.value.secure_scheme()
        ));
    ledger.report(problem);
}

fn has_no_user(ledger: &Ledger<'_>, password: &Located<Secret>) {
    let message = "MQTT 3.1.1 sends no password without a user's name";
    let problem = Problem::new(Kind::Impossible, Some(password.span.clone()), message);
    ledger.report(problem.help("add `username`, or use `version = 5`"));
}

/// Each with a quality of service of its own, or the source's.
fn subscriptions(filters: &[Filter], qos: Qos, group: Option<&str>) -> Vec<Subscription> {
    let subscription = |filter: &Filter| Subscription {
        filter: filter.text.clone(),
        qos: filter.qos.unwrap_or(qos),
        share: group.map(str::to_owned),
    };
    filters.iter().map(subscription).collect()
}

fn default_port(websocket: bool, tls: bool) -> u16 {
    match (websocket, tls) {
        (false, false) => 1883,
        (false, true) => 8883,
        (true, false) => 80,
        (true, true) => 443,
    }
}

fn version(table: &mut Table<'_>) -> Field<MqttVersion> {
    let ledger = table.ledger;
    table.integer("version", 0..=u32::MAX).then(|number| match number.value {
        5 => Some(MqttVersion::V5),
        3 => Some(MqttVersion::V3),
        _ => {
            let message = "`version` is 5 or 3";
            let hint = "`version = 3` is MQTT 3.1.1";
            ledger.refuse(Problem::new(Kind::BadValue, Some(number.span), message).help(hint))
        }
    })
}

/// A string that MQTT can carry: not empty, not too long, without control characters.
fn mqtt_string(table: &mut Table<'_>, key: &'static str) -> Field<String> {
    let ledger = table.ledger;
    table.filled(key).then(|text| {
        let Located { value: text, span } = text;
        let problem = if text.value.len() > LONGEST_STRING {
            "is longer than 65,535 bytes"
        } else if text.value.contains(char::is_control) {
            "holds a control character"
        } else {
            return Some(text.value);
        };
        let message = format!("`{key}` {problem}");
        ledger.refuse(Problem::new(Kind::BadValue, Some(span), message))
    })
}

fn username(table: &mut Table<'_>) -> Field<Username> {
    if table.is_from_file("username") {
        return table.secret("username").then(|secret| Some(Username::Followed(secret.value)));
    }
    mqtt_string(table, "username").then(|name| Some(Username::Fixed(name.value)))
}

fn seconds(
    table: &mut Table<'_>,
    key: &'static str,
    range: std::ops::RangeInclusive<u64>,
) -> Field<Duration> {
    let ledger = table.ledger;
    table.duration(key).then(|duration| {
        let refuse = |message: String| {
            let place = Some(duration.span.clone());
            let hint = format!("it is `\"{}s\"` to `\"{}s\"`", range.start(), range.end());
            ledger.refuse(Problem::new(Kind::BadValue, place, message).help(hint))
        };
        if duration.value.subsec_nanos() != 0 {
            return refuse(format!("`{key}` has parts of a second, which MQTT can't say"));
        }
        if !range.contains(&duration.value.as_secs()) {
            return refuse(format!("`{key}` is beyond what MQTT can say"));
        }
        Some(duration.value)
    })
}

fn session(
    table: &Table<'_>,
    expiry: &Setting<Duration>,
    keep_alive: &Setting<Duration>,
    held: bool,
) {
    let ledger = table.ledger;
    if expiry.value.is_zero() {
        if held {
            let message = "`session_expiry` is 0s, but `qos` is 1: \
                           what is not acknowledged would be lost with the connection";
            let hint = "at least once needs a session that outlives the connection: \
                        `session_expiry` > 0, or `qos = 0` where losses are meant";
            let place = expiry.span.clone().or(keep_alive.span.clone());
            ledger.report(Problem::new(Kind::Impossible, place, message).help(hint));
        }
        return;
    }
    if keep_alive.value < expiry.value {
        return;
    }
    let settings = [("keep_alive", keep_alive), ("session_expiry", expiry)];
    let message = contrast(settings, show_duration);
    let problem = impossible(message, expiry, keep_alive, "silence is noticed after this");
    ledger.report(problem.help(
        "`keep_alive` < `session_expiry`: else a session ends before its silent connection is noticed",
    ));
}
