//! Everything that reads what others wrote: a function each, which panics if what must always hold does not.
//!
//! `cargo +nightly fuzz run NAME` (cargo-fuzz) looks for such an input; `tests/fuzz.rs` of the bridge tries spoilt examples
//! with every run of the tests.

use std::path::Path;
use std::sync::{Arc, LazyLock};

use appsync_bridge::config::api::Endpoint;
use appsync_bridge::config::broker::SourceKind;
use appsync_bridge::config::endpoint::{address, forbidden_address};
use appsync_bridge::config::{self, Environment};
use appsync_bridge::dead_letter::record;
use appsync_bridge::event_api::received::ReceivedFrame;
use appsync_bridge::event_api::sent::{ClientFrame, PublishRequest};
use appsync_bridge::event_api::wire::{ErrorAnswer, PublishAnswer};
use appsync_bridge::event_api::{Channel, MAX_EVENT_BYTES, MAX_SEGMENTS};
use appsync_bridge::message::{Coordinates, Message, Topic};
use appsync_bridge::publish::post::Answer;
use appsync_bridge::publish::verdict::{EventVerdict, Verdict, judge, refusal, why_again};
use appsync_bridge::route::{Document, OrderBy, Pattern, RejectTo, RouteTable, Spec, Template};
use appsync_bridge::source::unwrap;
use appsync_bridge::trace::Parent;
use bytes::Bytes;
use serde_json::Value;

/// Reads any bytes, and tells whether they were what it reads.
pub type Target = fn(&[u8]) -> bool;

/// All of them.
pub const TARGETS: [(&str, Target); 9] = [
    ("configuration", configuration),
    ("endpoint", endpoint),
    ("pattern", pattern),
    ("route", route),
    ("document", document),
    ("answer", answer),
    ("frame", frame),
    ("record", record),
    ("envelope", envelope),
];

/// A configuration: it is loaded, or there is an error that can be shown.
pub fn configuration(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let environment = Environment::of([("HOME", "/nowhere"), ("AWS_REGION", "eu-west-1")]);
    match config::parse(text, Path::new("bridge.toml"), &environment) {
        Ok(loaded) => {
            assert_eq!(loaded.warnings.errors(), 0);
            let _ = (loaded.warnings.render(true), format!("{:?}", loaded.config));
            true
        }
        Err(problems) => {
            assert!(problems.errors() > 0, "refused without a reason");
            assert!(!problems.to_string().is_empty() && !problems.render(true).is_empty());
            false
        }
    }
}

/// The address of an API: what is taken ends in `/event`, and is not where nothing is sent to.
pub fn endpoint(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let Ok(endpoint) = Endpoint::of(text, true) else { return false };
    let uri = &endpoint.uri;
    assert_eq!(uri.path(), "/event");
    assert!(uri.query().is_none() && !endpoint.authority().contains('@'), "{uri}");
    let host = uri.host().expect("an endpoint has a host");
    assert_eq!(address(host).and_then(forbidden_address), None, "{uri}");
    true
}

/// A pattern and a topic, a line each: what a pattern takes begins as the pattern does, and its captures are of the topic.
pub fn pattern(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let (written, name) = text.split_once('\n').unwrap_or((text, ""));
    let mut taken = false;
    for separator in ['/', '.'] {
        if let Some(spelled) = Pattern::spelled(written, separator) {
            assert!(Pattern::parse(&spelled, separator).is_ok(), "{written} becomes {spelled}");
        }
        let pattern = match Pattern::parse(written, separator) {
            Ok(pattern) => pattern,
            Err(fault) => {
                assert!(written.get(fault.span.clone()).is_some(), "{fault:?} of {written:?}");
                continue;
            }
        };
        let topic = Topic::new(name, separator);
        let values = pattern.matches(&topic);
        assert_eq!(values.is_some(), pattern.takes(name, separator), "{written} of {name}");
        let Some(values) = values else { continue };
        let (prefix, whole) = pattern.prefix(separator);
        assert!(if whole { name == prefix } else { name.starts_with(&prefix) }, "{prefix}, {name}");
        assert_eq!(values.len(), pattern.captures().len());
        assert!(values.iter().all(|value| name.contains(value)), "{values:?} of {name}");
        taken = true;
    }
    taken
}

/// A pattern, a channel, a topic and a payload, a line each: a channel never leaves its namespace, and an event is the
/// payload as JSON.
pub fn route(data: &[u8]) -> bool {
    let mut lines = data.splitn(4, |byte| *byte == b'\n');
    let mut text = || std::str::from_utf8(lines.next()?).ok();
    let (Some(written), Some(channel), Some(name)) = (text(), text(), text()) else { return false };
    let payload = lines.next().unwrap_or_default();
    let Ok(topic) = Pattern::parse(written, '/') else { return false };
    let template = match Template::channel(channel, topic.captures()) {
        Ok(template) => template,
        Err(fault) => {
            assert!(channel.get(fault.span.clone()).is_some(), "{fault:?} of {channel:?}");
            return false;
        }
    };
    let namespace = template.namespace().to_owned();
    let spec = Spec {
        name: Arc::from("r"),
        from: vec!["s".into()],
        topic: Some(topic),
        channels: vec![template],
        api: Arc::from("main"),
        order: OrderBy::Source,
        strict_order: false,
        give_up_after: 5,
        dead_letter: RejectTo::Discard,
    };
    let table = RouteTable::new([spec]);
    let mut message = message(name, payload);
    message.key = Some(name.as_bytes().into());
    message.headers = vec![("h".to_owned(), Bytes::copy_from_slice(name.as_bytes()))];
    let mut published = false;
    for decision in table.decide(&message, MAX_EVENT_BYTES) {
        let Ok(rendered) = decision.outcome else { continue };
        published = true;
        assert!(serde_json::from_slice::<&serde_json::value::RawValue>(payload).is_ok());
        for channel in &rendered.channels {
            let text = channel.as_str();
            assert_eq!(channel.namespace(), namespace, "{text}");
            assert!(channel.segments().count() <= MAX_SEGMENTS, "{text}");
            assert_eq!(Channel::parse(text).as_ref(), Ok(channel));
        }
    }
    published
}

/// A path and a JSON text, a line each: a field is what another reader finds there, or it is refused.
pub fn document(data: &[u8]) -> bool {
    let at = data.iter().position(|byte| *byte == b'\n').unwrap_or(0);
    let (path, payload) = data.split_at(at);
    let Ok(path) = std::str::from_utf8(path) else { return false };
    let payload = Bytes::copy_from_slice(payload.strip_prefix(b"\n").unwrap_or(payload));
    let Ok(document) = Document::parse(&payload) else { return false };
    let path: Vec<_> = path.split('.').map(str::to_owned).collect();
    let Ok(found) = document.field(&path) else { return false };
    // Half of a surrogate pair elsewhere in the text: that reader takes none of it.
    let Ok(whole) = serde_json::from_slice::<Value>(&payload) else { return false };
    let value = path.iter().try_fold(&whole, |value, name| match value {
        Value::Array(items) => items.get(name.parse::<usize>().ok()?),
        other => other.get(name),
    });
    match value.expect("the other reader finds it, too") {
        Value::String(text) => assert_eq!(*text, found),
        Value::Bool(flag) => assert_eq!(flag.to_string(), found),
        Value::Number(_) => assert!(found.starts_with(|c: char| c == '-' || c.is_ascii_digit())),
        other => panic!("{other} is no routing value, and was read as {found}"),
    }
    true
}

/// The answer of an Event API: two bytes for the status, one for the number of events, and a body. Every event gets a
/// verdict, or none does.
pub fn answer(data: &[u8]) -> bool {
    let [high, low, events, body @ ..] = data else { return false };
    let status = 100 + u16::from_be_bytes([*high, *low]) % 500;
    let events = usize::from(events % 5) + 1;
    let body = Bytes::copy_from_slice(body);
    let named = std::str::from_utf8(&body).ok().filter(|text| text.len() < 100);
    let _ = (PublishAnswer::parse(&body), ErrorAnswer::parse(&body));
    let mut understood = false;
    for error_type in [None, named] {
        let answer = Answer {
            status,
            error_type: error_type.map(str::to_owned),
            retry_after: None,
            body: body.clone(),
            cut: None,
        };
        let _ = (refusal(&answer), why_again(&answer));
        if let Verdict::Decided(each) = judge(&answer, events) {
            assert_eq!(each.len(), events);
            // Beside an error the lists count if one was accepted, which must not be sent again.
            let accepts = each.contains(&EventVerdict::Accepted);
            assert!((200..300).contains(&status) || accepts, "{status} decides {each:?}");
            understood = true;
        }
    }
    understood
}

/// A frame of the WebSocket, either way, and the body of a publish.
pub fn frame(data: &[u8]) -> bool {
    let received = std::str::from_utf8(data).ok().and_then(ReceivedFrame::parse).is_some();
    let sent = ClientFrame::parse(data).is_ok();
    let published = PublishRequest::parse(data).is_ok();
    received || sent || published
}

/// A line of a file of dead letters.
pub fn record(data: &[u8]) -> bool {
    match record::parse(data, |_| '/') {
        Ok(kept) => {
            let object: Value = serde_json::from_slice(data).expect("a record is JSON");
            assert_eq!(object["topic"].as_str(), Some(kept.message.topic.as_str()));
            true
        }
        Err(why) => {
            assert!(!why.to_string().is_empty());
            false
        }
    }
}

/// A body that a service of AWS put into a queue, in each order of envelopes; and the headers that tell of a trace.
pub fn envelope(data: &[u8]) -> bool {
    static KINDS: LazyLock<Vec<SourceKind>> = LazyLock::new(kinds);
    let message = message("orders", data);
    let mut opened = false;
    for kind in KINDS.iter() {
        if let Ok(inside) = unwrap(kind, &message) {
            for one in &inside {
                let _ = Parent::of(&one.headers);
            }
            assert!(inside.iter().all(|one| one.payload.len() <= data.len()), "it grows");
            opened = true;
        }
    }
    let header = |name: &str| (name.to_owned(), Bytes::copy_from_slice(data));
    let traced = Parent::of(&[header("traceparent"), header("tracestate")]).is_some();
    opened || traced
}

/// A source of SQS for each of these settings.
fn kinds() -> Vec<SourceKind> {
    let lists = ["\"sns\"", "\"eventbridge\"", "\"s3\"", "[\"sns\", \"eventbridge\", \"s3\"]"];
    let all = lists.map(|list| {
        let text = format!(
            "[api.main]\nendpoint = \"http://127.0.0.1/event\"\nauth = {{ type = \"api-key\", key = \"da2-fuzz\" }}\n\
             [source.s]\ntype = \"sqs\"\nqueue = \"https://sqs.eu-west-1.amazonaws.com/111122223333/orders\"\nunwrap = {list}\n\
             [route.r]\nfrom = \"s\"\nchannel = \"/a/b\"\ndead_letter = \"discard\"\n"
        );
        let environment = Environment::of([("HOME", "/nowhere")]);
        let loaded = config::parse(&text, Path::new("bridge.toml"), &environment);
        loaded.unwrap_or_else(|why| panic!("{why}")).config.sources.remove(0).kind
    });
    all.into()
}

fn message(topic: &str, payload: &[u8]) -> Message {
    Message {
        source: "s".into(),
        topic: Topic::new(topic, '/'),
        key: None,
        headers: Vec::new(),
        payload: Bytes::copy_from_slice(payload),
        order: None,
        published: None,
        expires: None,
        coordinates: Coordinates::Unknown,
    }
}
