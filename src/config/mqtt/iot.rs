//! AWS IoT Core: how its hosts are named, who it lets in where, and what it takes less of than MQTT allows.
//!
//! Sources: "AWS IoT Core message broker and protocol limits and quotas" (AWS General Reference, `iot-core.html`);
//! "Device communication protocols" and "MQTT" (AWS IoT Core Developer Guide, `protocols.html`, `mqtt.html`).

use std::ops::Range;
use std::time::Duration;

use super::address::Address;
use super::filter::{Filter, Qos, overlapping};
use crate::config::api::{Aws, auth};
use crate::config::common::Tls;
use crate::config::endpoint::{is_loopback, is_region};
use crate::config::reader::{
    Kind, Ledger, Located, Problem, Reported, Setting, Table, show_duration, show_size,
};

/// Where the WebSocket is.
const PATH: &str = "/mqtt";

/// `Client ID size`, in bytes.
const CLIENT_ID: usize = 128;
/// `Subscriptions per connection`; AWS raises it on request.
const SUBSCRIPTIONS: usize = 50;
/// `Topic size`, in bytes, of a filter, too.
const FILTER: usize = 256;
/// `Maximum number of slashes in topic and topic filter`.
const SLASHES: usize = 7;
/// Prefixes with slashes that are not counted.
const UNCOUNTED: [&str; 2] = ["$aws/", "$share/"];
/// `Message size`: the largest payload, in bytes.
const PAYLOAD: u64 = 128 << 10;
/// No packet is larger: the payload, 8 KB of user properties, the topic and what else there is.
const PACKET: u64 = PAYLOAD + (9 << 10);
/// `Connection inactivity (keep-alive interval)`: others are taken for the nearest of these.
const KEEP_ALIVE: [Duration; 2] = [Duration::from_secs(30), Duration::from_mins(20)];
/// `Session expiry`: the longest.
const SESSION: Duration = Duration::from_hours(7 * 24);

const OVERLAP: &str = "AWS IoT Core has no subscription identifiers, so each copy of such a message may be published: keep \
                       filters apart";
const NO_QOS_2: &str = "AWS IoT Core has no QoS 2";
const ONCE: &str = "`qos = 1` loses nothing; a message may come twice";

/// The region in the name of an endpoint: `PREFIX.iot.REGION.amazonaws.com`, with `-ats` at the end of the prefix,
/// of China, of FIPS, or of both stacks.
pub(super) fn region(host: &str) -> Option<&str> {
    let domains = [".amazonaws.com", ".amazonaws.com.cn", ".api.aws"];
    let name = domains.iter().find_map(|domain| host.strip_suffix(domain))?;
    let (before, region) = name.rsplit_once('.')?;
    let (prefix, service) = before.rsplit_once('.')?;
    let is_iot = matches!(service, "iot" | "iot-fips") && !prefix.is_empty();
    (is_iot && is_region(region)).then_some(region)
}

/// The path of the handshake that is signed, where the URL has `path`: none is that of IoT Core.
pub(super) fn path(path: &str) -> String {
    match path.strip_prefix('/') {
        Some(query) if query.is_empty() || query.starts_with('?') => format!("{PATH}{query}"),
        _ => path.to_owned(),
    }
}

/// What ALPN has to say at port 443, where not only MQTT is: the port of a WebSocket is left alone. `mqtt` is that of
/// a custom authorizer.
pub(super) fn alpn(host: &str, port: u16, with_certificate: bool) -> Option<&'static str> {
    let asks = port == 443 && region(&host.to_ascii_lowercase()).is_some();
    asks.then_some(if with_certificate { "x-amzn-mqtt-ca" } else { "mqtt" })
}

/// Reads `aws`, with the region of the host where none is named.
pub(super) fn aws(
    table: &mut Table<'_>,
    address: Option<&Located<Address>>,
) -> Result<Option<Located<Aws>>, Reported> {
    let host = address.map(|address| address.value.host.to_ascii_lowercase());
    let told = host.as_deref().and_then(region).zip(address).map(|(region, address)| auth::Told {
        by: "url",
        region,
        span: address.span.clone(),
    });
    let aws = table.table("aws", "aws").then(|table| auth::aws(table.value, told.as_ref()));
    let Some(mut aws) = aws.optional()? else { return Ok(None) };
    if address.is_some() && told.is_none() {
        auth::needs_region(table.ledger, &aws.value, "url", aws.span.clone());
    }
    aws.value.region = aws.value.region.or(told.map(|told| told.region.to_owned()));
    Ok(Some(aws))
}

/// How a connection is secured.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Secured {
    /// Not at all.
    Not,
    /// By TLS, in which the client shows nothing.
    ByTls,
    /// By TLS, and the client shows a certificate.
    ByCertificate,
}

impl Secured {
    /// `None` if `tls` could not be read.
    pub(super) fn read(tls: &Result<Option<Tls>, Reported>) -> Option<Self> {
        tls.as_ref().ok().map(|tls| Self::of(tls.as_ref()))
    }

    fn of(tls: Option<&Tls>) -> Self {
        match tls {
            None => Self::Not,
            Some(Tls { identity: None, .. }) => Self::ByTls,
            Some(Tls { identity: Some(_), .. }) => Self::ByCertificate,
        }
    }
}

/// A source of IoT Core, as far as it could be read.
pub(super) struct Source<'a> {
    pub(super) ledger: &'a Ledger<'a>,
    pub(super) address: &'a Located<Address>,
    pub(super) aws: Option<&'a Located<Aws>>,
    /// `None`: unknown.
    pub(super) secured: Option<Secured>,
    pub(super) client_id: Option<&'a Located<String>>,
    pub(super) filters: &'a [Filter],
    /// That of filters without one of their own.
    pub(super) qos: Option<&'a Setting<Qos>>,
    /// Whether another broker would tell which subscriptions a message is of.
    pub(super) copies: bool,
    pub(super) keep_alive: Option<&'a Setting<Duration>>,
    pub(super) session_expiry: Option<&'a Setting<Duration>>,
    pub(super) max_packet_size: Option<&'a Setting<u64>>,
    pub(super) username: bool,
    pub(super) password: Option<Range<usize>>,
    /// `dangerously_plaintext`.
    pub(super) plaintext: bool,
}

impl Source<'_> {
    /// Reports what IoT Core would refuse, or not do as it is written; nothing of another broker.
    pub(super) fn check(&self) {
        let host = self.address.value.host.to_ascii_lowercase();
        let is_endpoint = region(&host).is_some();
        if let Some(aws) = self.aws {
            self.signed(aws, &host);
        }
        if is_endpoint && self.is_encrypted() {
            self.endpoint();
        }
        if is_endpoint || self.aws.is_some() {
            self.limits();
        }
    }

    fn report(&self, kind: Kind, place: Range<usize>, message: impl Into<String>, hint: &str) {
        self.ledger.report(Problem::new(kind, Some(place), message).help(hint));
    }

    /// `aws` is for the handshake of an encrypted WebSocket, and for nothing else.
    fn signed(&self, aws: &Located<Aws>, host: &str) {
        let place = aws.span.clone();
        if self.address.value.path.is_none() {
            let message = "`aws` signs the handshake of a WebSocket, and `url` is of none";
            let hint = "write `wss://HOST/mqtt`; over `mqtts://` a certificate proves who the bridge is: \
                        `tls = { cert_file, key_file }`";
            self.report(Kind::Impossible, place, message, hint);
        } else if self.secured == Some(Secured::Not) && !self.plaintext && !is_loopback(host) {
            let message =
                "the signature, and the token of a session, would cross the network as plain text";
            let hint = "write `wss://`; to send it all the same, `dangerously_plaintext = true`";
            self.report(Kind::Unsafe, place, message, hint);
        }
        if let Some(password) = &self.password {
            let message =
                "`password` and `aws` are two proofs of who the bridge is, and IoT Core takes one";
            let hint = "leave `password` away: the signature is the proof";
            self.report(Kind::Impossible, password.clone(), message, hint);
        }
    }

    /// Whether there is TLS; IoT Core has nothing else.
    fn is_encrypted(&self) -> bool {
        if self.secured == Some(Secured::Not) {
            let hint = format!("write `{}`", self.address.value.secure_scheme());
            let message = "`url` is of AWS IoT Core, which takes TLS only";
            self.report(Kind::BadValue, self.address.span.clone(), message, &hint);
        }
        self.secured.is_some_and(|secured| secured != Secured::Not)
    }

    /// Port, path and proof fit together.
    fn endpoint(&self) {
        let Located { value: address, span } = self.address;
        let refuse = |message: String, hint: &str| {
            self.report(Kind::Impossible, span.clone(), message, hint);
        };
        let custom = self.username || self.password.is_some();
        if let Some(path) = &address.path {
            if address.port.is_some_and(|port| port != 443) {
                let message = "AWS IoT Core takes WebSockets at port 443 only".to_owned();
                refuse(message, "leave the port away");
            }
            let (path, query) = path
                .split_once('?')
                .map_or((path.as_str(), None), |(path, query)| (path, Some(query)));
            if !matches!(path, "/" | PATH) {
                refuse(
                    format!("AWS IoT Core has its WebSocket at `{PATH}`"),
                    "write `wss://HOST/mqtt`",
                );
            }
            if self.aws.is_none() && !custom && query.is_none() {
                let message =
                    "`url` is of AWS IoT Core over WebSocket, and nothing proves who the bridge is"
                        .to_owned();
                let hint = "`aws = {}` signs with the AWS credentials; a custom authorizer wants `username` and \
                            `password`, or its parameters in the URL";
                refuse(message, hint);
            }
            return;
        }
        let certificate = self.secured == Some(Secured::ByCertificate);
        match address.port.unwrap_or(8883) {
            8883 | 443 if certificate => {}
            443 if custom => {}
            8883 if custom => {
                let message = "AWS IoT Core asks a custom authorizer at port 443 only".to_owned();
                refuse(
                    message,
                    "write `mqtts://HOST:443`, or show a certificate: `tls = { cert_file, key_file }`",
                );
            }
            8883 | 443 => {
                let message =
                    "`url` is of AWS IoT Core, and nothing proves who the bridge is".to_owned();
                let hint = "show a certificate of IoT Core: `tls = { cert_file, key_file }`; with AWS credentials, \
                            `wss://HOST/mqtt` and `aws = {}`";
                refuse(message, hint);
            }
            _ => refuse(
                "AWS IoT Core takes MQTT at the ports 8883 and 443 only".to_owned(),
                "leave the port away: it is 8883",
            ),
        }
    }

    fn limits(&self) {
        if let Some(id) = self.client_id
            && id.value.len() > CLIENT_ID
        {
            let message =
                format!("`client_id` has {} bytes; AWS IoT Core takes {CLIENT_ID}", id.value.len());
            self.report(Kind::BadValue, id.span.clone(), message, "give it a shorter one");
        }
        if let Some(Setting { value: Qos::ExactlyOnce, span: Some(span) }) = self.qos {
            self.report(Kind::BadValue, span.clone(), NO_QOS_2, ONCE);
        }
        if self.copies {
            overlapping(self.ledger, self.filters, OVERLAP);
        }
        for filter in self.filters {
            self.filter(filter);
        }
        if let Some(one_more) = self.filters.get(SUBSCRIPTIONS) {
            let message = format!(
                "AWS IoT Core takes {SUBSCRIPTIONS} subscriptions of a connection, and here are {}",
                self.filters.len()
            );
            let hint = "it ends the connection over one more, unless AWS has raised the quota: write wider \
                        filters, or share them out to several sources";
            self.report(Kind::Warning, one_more.span.clone(), message, hint);
        }
        if let Some(Setting { value, span: Some(span) }) = self.keep_alive {
            let [least, most] = KEEP_ALIVE;
            let hint = format!(
                "it is `\"{}\"` to `\"{}\"` there",
                show_duration(least),
                show_duration(most)
            );
            if *value > most {
                let message = "`keep_alive` is longer than AWS IoT Core waits: it would end the connection in between";
                self.report(Kind::BadValue, span.clone(), message, &hint);
            } else if *value < least {
                let message = "`keep_alive` is shorter than AWS IoT Core takes it: silence is noticed there after half a minute and more";
                self.report(Kind::Warning, span.clone(), message, &hint);
            }
        }
        if let Some(Setting { value, span: Some(span) }) = self.session_expiry
            && *value > SESSION
        {
            let message =
                format!("AWS IoT Core keeps a session for {} at most", show_duration(SESSION));
            let hint = "after a longer outage what it held is lost: write no more than that";
            self.report(Kind::Warning, span.clone(), message, hint);
        }
        if let Some(Setting { value, span: Some(span) }) = self.max_packet_size
            && *value > PACKET
        {
            let message = format!(
                "AWS IoT Core takes and sends no payload of more than {}",
                show_size(PAYLOAD)
            );
            let hint = "leave `max_packet_size` away: nothing of that size comes";
            self.report(Kind::Warning, span.clone(), message, hint);
        }
    }

    fn filter(&self, filter: &Filter) {
        let refuse = |message: String, hint: &str| {
            self.report(Kind::BadValue, filter.span.clone(), message, hint);
        };
        if filter.qos == Some(Qos::ExactlyOnce) {
            refuse(NO_QOS_2.to_owned(), ONCE);
        }
        if filter.text.len() > FILTER {
            let message =
                format!("a filter of {} bytes; AWS IoT Core takes {FILTER}", filter.text.len());
            refuse(message, "write a wider one: `#` takes all that remains");
        }
        let slashes = filter.text.matches('/').count();
        if slashes > SLASHES && !UNCOUNTED.iter().any(|prefix| filter.text.starts_with(prefix)) {
            let message = format!("a filter with {slashes} slashes; AWS IoT Core takes {SLASHES}");
            refuse(message, "write a wider one: `#` takes all that remains");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_region_is_in_the_name_of_an_endpoint() {
        let cases = [
            ("a1b2c3-ats.iot.eu-west-1.amazonaws.com", Some("eu-west-1")),
            ("a1b2c3.iot.us-gov-west-1.amazonaws.com", Some("us-gov-west-1")),
            ("a1b2c3.ats.iot.cn-north-1.amazonaws.com.cn", Some("cn-north-1")),
            ("data.iot-fips.us-east-1.amazonaws.com", Some("us-east-1")),
            ("a1b2c3-ats.iot.eu-west-1.api.aws", Some("eu-west-1")),
            ("iot.eu-west-1.amazonaws.com", None),
            ("a1.iot.eu-west-1.amazonaws.com.example.com", None),
            ("a1.iot.nowhere.amazonaws.com", None),
            ("iot.example.com", None),
        ];
        for (host, expected) in cases {
            assert_eq!(region(host), expected, "{host}");
        }
    }

    #[test]
    fn alpn_is_said_where_not_only_mqtt_is() {
        let host = "A1b2c3-ats.iot.eu-west-1.amazonaws.com";
        assert_eq!(alpn(host, 443, true), Some("x-amzn-mqtt-ca"));
        assert_eq!(alpn(host, 443, false), Some("mqtt"));
        assert_eq!(alpn(host, 8883, true), None);
        assert_eq!(alpn("broker.example", 443, true), None);
    }
}
