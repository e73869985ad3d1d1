//! An event that the Event API would take: one JSON value as text, within the size limit.

use bytes::Bytes;

use super::MAX_EVENT_BYTES;

/// The text of one event. The service takes any JSON value and passes the text on as it is, so the
/// bytes of a payload are not copied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    text: Bytes,
    escaped_len: u32,
}

/// Why a text is no event.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EventError {
    /// More than [`MAX_EVENT_BYTES`].
    #[error("the event has {size} bytes, at most {MAX_EVENT_BYTES} are allowed")]
    TooLarge {
        /// Bytes of the refused text.
        size: usize,
    },
    /// Not UTF-8.
    #[error("not UTF-8 at byte {offset}")]
    InvalidUtf8 {
        /// Where the first wrong byte stands.
        offset: usize,
    },
    /// Not JSON.
    #[error("not a JSON value: {0}")]
    InvalidJson(String),
}

impl Event {
    /// Takes a text that somebody parsed as JSON already; only the size is checked here.
    pub fn from_checked_json(text: Bytes) -> Result<Self, EventError> {
        let size = text.len();
        if size > MAX_EVENT_BYTES {
            return Err(EventError::TooLarge { size });
        }
        let escaped_len = u32::try_from(escaped_len(&text)).unwrap_or(u32::MAX);
        Ok(Self { text, escaped_len })
    }

    /// Checks size, encoding and syntax of `text`.
    pub fn parse(text: Bytes) -> Result<Self, EventError> {
        let event = Self::from_checked_json(text)?;
        std::str::from_utf8(&event.text)
            .map_err(|e| EventError::InvalidUtf8 { offset: e.valid_up_to() })?;
        serde_json::from_slice::<serde::de::IgnoredAny>(&event.text)
            .map_err(|e| EventError::InvalidJson(e.to_string()))?;
        Ok(event)
    }

    /// The JSON text.
    #[must_use]
    pub fn text(&self) -> &str {
        // Both makers have seen valid UTF-8. Should that ever be wrong, no text is no JSON: the API
        // would refuse it, and nothing be lost in silence.
        std::str::from_utf8(&self.text).unwrap_or_default()
    }

    /// Bytes of the text, which is what the 240 KB limit is read as.
    #[must_use]
    pub fn len(&self) -> usize {
        self.text.len()
    }

    /// Whether the text is empty: never, as an empty text is not JSON.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// Bytes of the text as a JSON string inside a request body, quotes included.
    #[must_use]
    pub fn escaped_len(&self) -> usize {
        self.escaped_len as usize
    }
}

/// How many bytes `serde_json` writes for `text` as a string.
fn escaped_len(text: &[u8]) -> usize {
    // Counting one thing at a time is something that the compiler makes vector code of.
    let quoted = count(text, |b| b == b'"' || b == b'\\');
    let control = count(text, |b| b < 0x20);
    let short = match control {
        0 => 0,
        _ => count(text, |b| matches!(b, 0x08 | 0x09 | 0x0a | 0x0c | 0x0d)),
    };
    text.len() + quoted + short + 5 * (control - short) + 2
}

fn count(text: &[u8], wanted: impl Fn(u8) -> bool) -> usize {
    // So many as a byte can count, for then sixteen are added at once.
    let of = |part: &[u8]| part.iter().map(|b| u8::from(wanted(*b))).sum::<u8>();
    text.chunks(u8::MAX.into()).map(|part| usize::from(of(part))).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_size_limit_is_exact() {
        let at = format!("\"{}\"", "a".repeat(MAX_EVENT_BYTES - 2));
        assert!(Event::parse(at.into()).is_ok());
        let over = format!("\"{}\"", "a".repeat(MAX_EVENT_BYTES - 1));
        assert_eq!(
            Event::parse(over.into()),
            Err(EventError::TooLarge { size: MAX_EVENT_BYTES + 1 })
        );
    }

    #[test]
    fn any_json_value_is_an_event_and_nothing_else() {
        for good in ["1", "null", "\"x\"", "[1]", "{}", " {\"a\": 1}\n"] {
            assert!(Event::parse(good.to_owned().into()).is_ok(), "{good}");
        }
        for bad in ["", "NaN", "{", "{\"a\":1,}", "1 2"] {
            assert!(
                matches!(Event::parse(bad.to_owned().into()), Err(EventError::InvalidJson(_))),
                "{bad}"
            );
        }
        let bytes = Bytes::from_static(b"\"ab\xff\"");
        assert_eq!(Event::parse(bytes), Err(EventError::InvalidUtf8 { offset: 3 }));
    }

    proptest! {
        #[test]
        fn the_escaped_length_is_what_the_writer_writes(text in any::<String>()) {
            prop_assert_eq!(escaped_len(text.as_bytes()), serde_json::to_string(&text).unwrap().len());
        }
    }
}
