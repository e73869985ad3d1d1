//! Why a record is in a dead letter, as headers of what it becomes at a broker: `appsync-bridge.reason` and so on.

use std::borrow::Cow;

use bytes::Bytes;

use super::Record;
use super::record::name;
use crate::message::Message;

/// All of ours begin with it, so that they are told from those of the message.
pub(super) const PREFIX: &str = "appsync-bridge.";

/// Whether `message` is a reject of its own source that was read again: broker and topic may be known by two names.
pub(super) fn is_own(message: &Message) -> bool {
    let source = |(name, value): &(String, Bytes)| {
        name.strip_prefix(PREFIX) == Some("source") && **value == *message.source.as_bytes()
    };
    message.headers.iter().any(source)
}

/// Ours, in their order: the reason, the place of the message and what is known of it beside its payload.
pub(super) fn headers(record: &Record) -> Vec<(String, Cow<'_, str>)> {
    let message = &record.message;
    let at = humantime::format_rfc3339_millis(record.at).to_string();
    let published = message.published.and_then(name);
    let named = [
        ("reason", Some(record.reason.into())),
        ("detail", Some(record.detail.as_str().into())),
        ("source", Some((&*message.source).into())),
        ("topic", Some(message.topic.as_str().into())),
        ("route", record.route.as_deref().map(Cow::from)),
        ("channel", record.channel.as_deref().map(Cow::from)),
        ("at", Some(at.into())),
        ("published", published.map(Cow::from)),
    ];
    let named =
        named.into_iter().filter_map(|(name, value)| Some((format!("{PREFIX}{name}"), value?)));
    let coordinates = message.coordinates.named().into_iter();
    let coordinates =
        coordinates.map(|(name, value)| (format!("{PREFIX}coordinate.{name}"), value.into()));
    named.chain(coordinates).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use crate::dead_letter::tests::record;
    use crate::message::tests::message;

    fn published(published: SystemTime) -> Option<String> {
        let record = record(Message { published: Some(published), ..message("") });
        let headers = headers(&record);
        let found = headers.iter().find(|(name, _)| name == "appsync-bridge.published")?;
        Some(found.1.to_string())
    }

    #[test]
    fn a_reject_that_was_read_again_is_known_by_its_source() {
        let with = |source: &'static str| {
            let header =
                ("appsync-bridge.source".to_owned(), Bytes::from_static(source.as_bytes()));
            Message { headers: vec![header], ..message("") }
        };
        let own: &'static str = Box::leak(message("").source.to_string().into_boxed_str());
        assert!(is_own(&with(own)));
        // Of another source: this one may well relay its rejects.
        assert!(!is_own(&with("another")) && !is_own(&message("")));
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
