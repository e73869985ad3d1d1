//! Why a record is in a dead letter, as headers of what it becomes at a broker: `appsync-bridge.reason` and so on.

use std::borrow::Cow;

use bytes::Bytes;

use super::Record;
use super::record::name;
use crate::message::{Message, SourceName};

/// All of ours begin with it, so that they are told from those of the message.
pub(super) const PREFIX: &str = "appsync-bridge.";

/// A reject that was a reject of its own source so often before goes in a circle: over another name of its broker, a mirror
/// that renames topics, or the rejects of another source. Fewer times somebody may have sent it again on purpose.
const ROUNDS: usize = 3;

/// Whether `message` would be read by its own source again, and rejected again, for ever, if it were written to `target`,
/// which `readers` may read.
pub(super) fn goes_in_circles(message: &Message, target: &str, readers: &[SourceName]) -> bool {
    (message.topic.as_str() == target && readers.contains(&message.source)) || circulates(message)
}

/// Whether `message` is a reject of its own source that comes again and again.
fn circulates(message: &Message) -> bool {
    let own = |(name, value): &&(String, Bytes)| {
        name.strip_prefix(PREFIX) == Some("source") && **value == *message.source.as_bytes()
    };
    message.headers.iter().filter(own).count() >= ROUNDS
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
    fn a_reject_that_comes_again_and_again_is_known_by_its_source() {
        let of = |sources: &[&str]| {
            let header = |source: &&str| {
                ("appsync-bridge.source".to_owned(), Bytes::copy_from_slice(source.as_bytes()))
            };
            Message { headers: sources.iter().map(header).collect(), ..message("") }
        };
        let source = message("").source;
        assert!(circulates(&of(&[&source, "another", &source, "another", &source])));
        // Of another source, which this one relays; and sent again by hand, twice.
        assert!(!circulates(&of(&["another"; 9])) && !circulates(&of(&[&source, &source])));
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
