//! An event that the Event API would take: one JSON value as text, within the size limit.

use super::MAX_EVENT_BYTES;

/// The text of one event, which the service passes on as it is: it is never copied but into a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event<'a> {
    text: &'a [u8],
    escaped_len: EscapedLen,
}

/// How long an event is as a JSON string, quotes included. Nobody has one but of an event that was
/// checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EscapedLen(u32);

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

impl<'a> Event<'a> {
    /// Takes a text that somebody parsed as JSON already; only the size is checked here.
    pub fn from_checked_json(text: &'a [u8]) -> Result<Self, EventError> {
        let size = text.len();
        if size > MAX_EVENT_BYTES {
            return Err(EventError::TooLarge { size });
        }
        let escaped_len = u32::try_from(escaped_len(text)).unwrap_or(u32::MAX);
        Ok(Self { text, escaped_len: EscapedLen(escaped_len) })
    }

    /// Checks size, encoding and syntax of `text`.
    pub fn parse(text: &'a [u8]) -> Result<Self, EventError> {
        let event = Self::from_checked_json(text)?;
        std::str::from_utf8(text)
            .map_err(|e| EventError::InvalidUtf8 { offset: e.valid_up_to() })?;
        serde_json::from_slice::<serde::de::IgnoredAny>(text)
            .map_err(|e| EventError::InvalidJson(e.to_string()))?;
        Ok(event)
    }

    /// The event that `text` was when it was checked, of which only its escaped length was kept.
    #[must_use]
    pub(crate) fn known(text: &'a [u8], escaped_len: EscapedLen) -> Self {
        Self { text, escaped_len }
    }

    /// The JSON text, which is UTF-8.
    #[must_use]
    pub fn text(&self) -> &'a [u8] {
        self.text
    }

    /// Its bytes inside a request body.
    #[must_use]
    pub fn escaped_len(&self) -> EscapedLen {
        self.escaped_len
    }

    /// Appends the text as a JSON string, quotes included.
    pub fn escape(&self, into: &mut Vec<u8>) {
        into.push(b'"');
        let (chunks, rest) = self.text.as_chunks();
        for chunk in chunks {
            escape_chunk(chunk, into);
        }
        for byte in rest {
            escape_byte(*byte, into);
        }
        into.push(b'"');
    }
}

impl EscapedLen {
    /// In bytes.
    #[must_use]
    pub fn bytes(self) -> usize {
        self.0 as usize
    }
}

/// Appends a chunk as a part of a JSON string: where there is no white space in it, without a branch a
/// byte, which no processor could foresee.
fn escape_chunk(chunk: &[u8; 16], into: &mut Vec<u8>) {
    if has(chunk, is_control) {
        return chunk.iter().for_each(|byte| escape_byte(*byte, into));
    }
    if !has(chunk, is_quoted) {
        return into.extend_from_slice(chunk);
    }
    let (mut escaped, mut len) = ([b'\\'; 32], 0);
    for byte in chunk {
        len += usize::from(is_quoted(*byte));
        escaped[len % 32] = *byte;
        len += 1;
    }
    into.extend_from_slice(&escaped[..len]);
}

fn has(chunk: &[u8; 16], is: impl Fn(u8) -> bool) -> bool {
    chunk.iter().fold(false, |any, byte| any | is(*byte))
}

/// Appends a byte as a part of a JSON string. Of the control characters, a JSON text has the white space
/// only.
fn escape_byte(byte: u8, into: &mut Vec<u8>) {
    let short = match byte {
        0x08 => b'b',
        b'\t' => b't',
        b'\n' => b'n',
        0x0c => b'f',
        b'\r' => b'r',
        _ if is_quoted(byte) => byte,
        _ if is_control(byte) => {
            return into.extend_from_slice(format!("\\u{byte:04x}").as_bytes());
        }
        _ => return into.push(byte),
    };
    into.extend_from_slice(&[b'\\', short]);
}

fn is_quoted(byte: u8) -> bool {
    byte == b'"' || byte == b'\\'
}

fn is_control(byte: u8) -> bool {
    byte < 0x20
}

/// How many bytes [`Event::escape`] writes for `text`.
fn escaped_len(text: &[u8]) -> usize {
    // Counting one thing at a time is something that the compiler makes vector code of.
    let quoted = count(text, is_quoted);
    let control = count(text, is_control);
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
        assert!(Event::parse(at.as_bytes()).is_ok());
        let over = format!("\"{}\"", "a".repeat(MAX_EVENT_BYTES - 1));
        assert_eq!(
            Event::parse(over.as_bytes()),
            Err(EventError::TooLarge { size: MAX_EVENT_BYTES + 1 })
        );
    }

    #[test]
    fn any_json_value_is_an_event_and_nothing_else() {
        for good in ["1", "null", "\"x\"", "[1]", "{}", " {\"a\": 1}\n"] {
            assert!(Event::parse(good.as_bytes()).is_ok(), "{good}");
        }
        for bad in ["", "NaN", "{", "{\"a\":1,}", "1 2"] {
            let parsed = Event::parse(bad.as_bytes());
            assert!(matches!(parsed, Err(EventError::InvalidJson(_))), "{bad}");
        }
        assert_eq!(Event::parse(b"\"ab\xff\""), Err(EventError::InvalidUtf8 { offset: 3 }));
    }

    proptest! {
        #[test]
        fn a_text_is_escaped_as_serde_does_and_the_length_is_known(
            text in prop::collection::vec(
                prop_oneof![any::<char>(), prop::char::range('\0', '\u{7f}'), Just('"'), Just('\\')],
                0..100,
            )
        ) {
            let text = String::from_iter(text);
            let event = Event::from_checked_json(text.as_bytes()).unwrap();
            let mut escaped = Vec::new();
            event.escape(&mut escaped);
            prop_assert_eq!(event.escaped_len().bytes(), escaped.len());
            prop_assert_eq!(String::from_utf8(escaped).unwrap(), serde_json::to_string(&text).unwrap());
        }
    }
}
