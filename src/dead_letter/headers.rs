//! Why a record is in a dead letter, as headers of a Kafka record: `appsync-bridge.reason` and so on.

use rdkafka::message::{Header, OwnedHeaders};

use super::Record;
use super::record::name;

/// All of ours begin with it, so that they are told from those of the message.
const PREFIX: &str = "appsync-bridge.";

/// The headers of the message, in their order, and behind them ours. A reader that looks for one of ours
/// takes the last of its name: a message that was rejected before has its earlier ones, too.
pub(super) fn headers(record: &Record) -> OwnedHeaders {
    let message = &record.message;
    let mut all = OwnedHeaders::new_with_capacity(message.headers.len() + 10);
    for (key, value) in &message.headers {
        all = all.insert(Header { key, value: Some(&value[..]) });
    }
    let at = humantime::format_rfc3339_millis(record.at).to_string();
    let published = message.published.and_then(name);
    let named = [
        ("reason", Some(record.reason)),
        ("detail", Some(record.detail.as_str())),
        ("source", Some(&*message.source)),
        ("topic", Some(message.topic.as_str())),
        ("route", record.route.as_deref()),
        ("channel", record.channel.as_deref()),
        ("at", Some(at.as_str())),
        ("published", published.as_deref()),
    ];
    let mut add = |name: &str, value: &str| {
        let taken = std::mem::replace(&mut all, OwnedHeaders::new_with_capacity(0));
        all = taken.insert(Header { key: &format!("{PREFIX}{name}"), value: Some(value) });
    };
    for (name, value) in named {
        if let Some(value) = value {
            add(name, value);
        }
    }
    for (name, value) in message.coordinates.named() {
        add(&format!("coordinate.{name}"), &value);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use rdkafka::message::Headers as _;

    use crate::dead_letter::tests::record;
    use crate::message::Message;
    use crate::message::tests::message;

    fn published(published: SystemTime) -> Option<String> {
        let headers = headers(&record(Message { published: Some(published), ..message("") }));
        let found = headers.iter().find(|header| header.key == "appsync-bridge.published")?;
        Some(String::from_utf8(found.value.unwrap().to_vec()).unwrap())
    }

    /// Of a producer that writes microseconds where milliseconds belong, the year is 55840.
    #[test]
    fn a_time_without_a_name_is_left_away() {
        let time = UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
        assert_eq!(published(time).as_deref(), Some("2023-11-14T22:13:20.123000000Z"));
        assert_eq!(published(UNIX_EPOCH + Duration::from_millis(1_700_000_000_123_456)), None);
        assert_eq!(published(UNIX_EPOCH - Duration::from_millis(1)), None);
    }
}
