//! A record as a line of JSON, and back: the format that the file target writes and `replay` reads.

use std::borrow::Cow;
use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::{First, Record};
use crate::message::{Coordinates, Message, Topic};

/// The first second of the year 10000, which RFC 3339 can't name.
const END_OF_TIME: u64 = 253_402_300_800;

/// A parsed record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The message as received.
    pub message: Message,
    /// The route that failed; `None` when no route matched.
    pub route: Option<Arc<str>>,
    /// The channel, if it was known.
    pub channel: Option<String>,
    /// The kind of reason.
    pub reason: String,
    /// The reason in words.
    pub detail: String,
    /// When it was rejected, to the millisecond.
    pub at: SystemTime,
    /// The first rejection, if it was a dead letter before.
    pub first: Option<First>,
}

/// Why a line is no record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NoRecord(String);

/// The line for a record, without the line break.
pub fn line(record: &Record) -> Value {
    let message = &record.message;
    let headers: Vec<Value> = message
        .headers
        .iter()
        .map(|(name, value)| {
            let mut header = Map::from_iter([("name".to_owned(), json!(name))]);
            put_bytes(&mut header, "value", value);
            Value::Object(header)
        })
        .collect();
    let coordinates: Map<String, Value> =
        message.coordinates.named().into_iter().map(|(n, v)| (n.into_owned(), json!(v))).collect();
    let mut line = Map::new();
    line.insert("at".into(), json!(humantime::format_rfc3339_millis(record.at).to_string()));
    line.insert("reason".into(), json!(record.reason));
    line.insert("detail".into(), json!(record.detail));
    if let Some(First { reason, detail, at }) = &record.first {
        let at = humantime::format_rfc3339_millis(*at).to_string();
        line.insert("first".into(), json!({ "at": at, "reason": reason, "detail": detail }));
    }
    line.insert("source".into(), json!(&*message.source));
    line.insert("route".into(), json!(record.route.as_deref()));
    line.insert("channel".into(), json!(record.channel));
    line.insert("topic".into(), json!(message.topic.as_str()));
    if let Some(key) = &message.key {
        put_bytes(&mut line, "key", key);
    }
    // Left out where the topic is the ordering key, as with MQTT.
    match &message.order {
        Some(order) if **order == *message.topic.as_str().as_bytes() => {}
        Some(order) => put_bytes(&mut line, "order", order),
        None => drop(line.insert("order".into(), Value::Null)),
    }
    if let Some(published) = message.published.and_then(name) {
        line.insert("published".into(), json!(published));
    }
    line.insert("headers".into(), Value::Array(headers));
    line.insert("coordinates".into(), Value::Object(coordinates));
    put_bytes(&mut line, "payload", &message.payload);
    Value::Object(line)
}

/// Parses a line of [`line()`]. `separator` parts the levels of the source's topics. Unknown members are
/// ignored.
pub fn parse(text: &[u8], separator: impl Fn(&str) -> char) -> Result<Kept, NoRecord> {
    let Value::Object(object) = serde_json::from_slice(text).map_err(why)? else {
        return Err(NoRecord("the line is no JSON object".to_owned()));
    };
    let mut line = Line(object);
    let source = line.text("source")?;
    let topic = Topic::new(line.text("topic")?, separator(&source));
    let order = match line.0.get("order") {
        Some(Value::Null) => None,
        _ => Some(line.bytes("order")?.map_or_else(|| topic.order_key(), |order| order[..].into())),
    };
    let published = match line.optional_text("published")? {
        Some(text) => Some(time("published", &text)?),
        None => None,
    };
    let payload =
        line.bytes("payload")?.ok_or_else(|| NoRecord("there is no `payload`".to_owned()))?;
    let message = Message {
        source: source.into(),
        topic,
        key: line.bytes("key")?.map(|key| key[..].into()),
        headers: line.headers()?,
        payload,
        order,
        published,
        expires: None,
        coordinates: line.coordinates()?,
    };
    Ok(Kept {
        message,
        route: line.optional_text("route")?.map(Into::into),
        channel: line.optional_text("channel")?,
        reason: line.text("reason")?,
        detail: line.optional_text("detail")?.unwrap_or_default(),
        at: time("at", &line.text("at")?)?,
        first: line.first()?,
    })
}

/// Bytes as text where they are text, else under `NAME_base64`.
fn put_bytes(object: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => object.insert(name.to_owned(), json!(text)),
        Err(_) => object.insert(format!("{name}_base64"), json!(STANDARD.encode(bytes))),
    };
}

/// A time from outside, as text; `None` where RFC 3339, or its formatter, can't express it.
pub(super) fn name(time: SystemTime) -> Option<String> {
    let end = UNIX_EPOCH + Duration::from_secs(END_OF_TIME);
    (UNIX_EPOCH..end).contains(&time).then(|| humantime::format_rfc3339(time).to_string())
}

fn time(name: &str, text: &str) -> Result<SystemTime, NoRecord> {
    humantime::parse_rfc3339(text).map_err(|e| NoRecord(format!("`{name}` is no time: {e}")))
}

fn why(error: impl Display) -> NoRecord {
    NoRecord(error.to_string())
}

/// The members of an object, taken out one by one.
struct Line(Map<String, Value>);

impl Line {
    fn text(&mut self, name: &str) -> Result<String, NoRecord> {
        self.optional_text(name)?.ok_or_else(|| NoRecord(format!("there is no `{name}`")))
    }

    fn optional_text(&mut self, name: &str) -> Result<Option<String>, NoRecord> {
        match self.0.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(NoRecord(format!("`{name}` is no string"))),
        }
    }

    fn bytes(&mut self, name: &str) -> Result<Option<Bytes>, NoRecord> {
        if let Some(text) = self.optional_text(name)? {
            return Ok(Some(text.into()));
        }
        let name = format!("{name}_base64");
        let Some(text) = self.optional_text(&name)? else { return Ok(None) };
        match STANDARD.decode(text) {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(error) => Err(NoRecord(format!("`{name}` is no base64: {error}"))),
        }
    }

    fn first(&mut self) -> Result<Option<First>, NoRecord> {
        let mut first = match self.0.remove("first") {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::Object(first)) => Self(first),
            Some(_) => return Err(NoRecord("`first` is no object".to_owned())),
        };
        Ok(Some(First {
            reason: first.text("reason")?,
            detail: first.optional_text("detail")?.unwrap_or_default(),
            at: time("at", &first.text("at")?)?,
        }))
    }

    fn headers(&mut self) -> Result<Vec<(String, Bytes)>, NoRecord> {
        let wrong = || NoRecord("`headers` is no list of names and values".to_owned());
        let headers = match self.0.remove("headers") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(headers)) => headers,
            Some(_) => return Err(wrong()),
        };
        let read = |header| {
            let Value::Object(header) = header else { return Err(wrong()) };
            let mut header = Line(header);
            Ok((header.text("name")?, header.bytes("value")?.ok_or_else(wrong)?))
        };
        headers.into_iter().map(read).collect()
    }

    fn coordinates(&mut self) -> Result<Coordinates, NoRecord> {
        let wrong = || NoRecord("`coordinates` is no object of strings".to_owned());
        let coordinates = match self.0.remove("coordinates") {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(coordinates)) => coordinates,
            Some(_) => return Err(wrong()),
        };
        let read = |(name, value)| match value {
            Value::String(value) => Ok((Cow::Owned(name), value)),
            _ => Err(wrong()),
        };
        coordinates.into_iter().map(read).collect::<Result<_, _>>().map(Coordinates::Named)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn bytes() -> impl Strategy<Value = Bytes> {
        // As often text as not.
        prop_oneof![
            any::<String>().prop_map(Bytes::from),
            proptest::collection::vec(any::<u8>(), 0..64).prop_map(Bytes::from),
        ]
    }

    prop_compose! {
        fn message()(
            source in "[a-z]{1,8}",
            topic in any::<String>(),
            key in proptest::option::of(bytes()),
            headers in proptest::collection::vec((any::<String>(), bytes()), 0..4),
            payload in bytes(),
            order in proptest::option::of(bytes()),
            by_topic in any::<bool>(),
            published in proptest::option::of((0..END_OF_TIME, 0..1_000_000_000_u32)),
            coordinates in proptest::collection::btree_map(any::<String>(), any::<String>(), 0..4),
        ) -> Message {
            let coordinates: BTreeMap<String, String> = coordinates;
            Message {
                source: source.into(),
                order: if by_topic { Some(topic.as_bytes().into()) } else { order.map(|o| o[..].into()) },
                topic: Topic::new(topic, '/'),
                key: key.map(|key| key[..].into()),
                headers,
                payload,
                published: published.map(|(s, n)| UNIX_EPOCH + Duration::new(s, n)),
                expires: None,
                coordinates: Coordinates::Named(
                    coordinates.into_iter().map(|(n, v)| (n.into(), v)).collect(),
                ),
            }
        }
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_back(
            message in message(),
            route in proptest::option::of("[a-z]{1,8}"),
            channel in proptest::option::of(any::<String>()),
            detail in any::<String>(),
            at in 0..END_OF_TIME * 1_000,
            again in any::<bool>(),
        ) {
            let at = UNIX_EPOCH + Duration::from_millis(at);
            let first = First { reason: "r".to_owned(), detail: detail.clone(), at };
            let record = Record {
                message: Arc::new(message),
                route: route.map(Into::into),
                channel,
                reason: "refused",
                detail,
                at,
                first: again.then_some(first),
            };
            let text = line(&record).to_string();
            prop_assert!(!text.contains('\n'));
            let Record { message, route, channel, reason, detail, at, first } = record;
            let message = Arc::unwrap_or_clone(message);
            let reason = reason.to_owned();
            let expected = Kept { message, route, channel, reason, detail, at, first };
            prop_assert_eq!(parse(text.as_bytes(), |_| '/').unwrap(), expected);
        }

        #[test]
        fn no_line_is_too_strange_to_be_refused(text in any::<Vec<u8>>()) {
            let _ = parse(&text, |_| '/');
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let good = r#"{"at":"2026-11-22T10:31:16.123Z","reason":"r","source":"s","topic":"a","payload":"p"}"#;
        let kept = parse(good.as_bytes(), |_| '/').unwrap();
        assert_eq!(kept.message.order.as_deref(), Some(&b"a"[..]));
        for (from, to, said) in [
            (r#","payload":"p""#, "", "there is no `payload`"),
            (r#""payload":"p""#, r#""payload_base64":"*""#, "`payload_base64` is no base64"),
            ("2026", "soon", "`at` is no time"),
            (r#""topic":"a""#, r#""topic":1"#, "`topic` is no string"),
            (r#""source":"s""#, r#""source":null"#, "there is no `source`"),
            ("}", r#","headers":[1]}"#, "`headers` is no list"),
            ("}", r#","first":[]}"#, "`first` is no object"),
            ("}", r#","first":{"at":"2026-11-22T10:31:16Z"}}"#, "there is no `reason`"),
            ("}", "", "EOF"),
            (good, "[]", "no JSON object"),
        ] {
            let error = parse(good.replace(from, to).as_bytes(), |_| '/').unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
        }
    }

    #[test]
    fn a_time_without_a_name_is_left_away() {
        let time = UNIX_EPOCH + Duration::from_secs(END_OF_TIME);
        assert_eq!(name(time), None);
        let last = name(time - Duration::from_nanos(1));
        assert_eq!(last.as_deref(), Some("9999-12-31T23:59:59.999999999Z"));
        assert_eq!(name(UNIX_EPOCH - Duration::from_nanos(1)), None);
        assert_eq!(name(UNIX_EPOCH).as_deref(), Some("1970-01-01T00:00:00Z"));
    }
}
