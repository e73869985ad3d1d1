//! What the reply subject of a delivery tells: where the message stands in its stream, and how often it came.
//! Pure.
//!
//! It is `$JS.ACK.STREAM.CONSUMER.DELIVERED.STREAM_SEQ.CONSUMER_SEQ.TIME.PENDING`, or the same with the domain
//! and the hash of the account before the stream and perhaps more behind (ADR-15 of the NATS architecture).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What a reply subject tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::source::jetstream) struct Place {
    /// How often the message was delivered, this time included.
    pub(in crate::source::jetstream) delivered: u64,
    /// Its sequence in the stream.
    pub(in crate::source::jetstream) stream: u64,
    /// The sequence of this delivery in the consumer.
    pub(in crate::source::jetstream) consumer: u64,
    /// When it was stored, in nanoseconds since 1970.
    pub(in crate::source::jetstream) stored: u64,
    /// How many messages for the consumer are behind it in the stream.
    pub(in crate::source::jetstream) pending: u64,
}

/// Of the shorter form; the longer has two before its stream and may have some behind.
const TOKENS: usize = 9;

impl Place {
    /// Reads a reply subject; `None` if it is none of a delivery.
    pub(in crate::source::jetstream) fn read(reply: &str) -> Option<Self> {
        let rest = reply.strip_prefix("$JS.ACK.")?.as_bytes();
        let dots = memchr::memchr_iter(b'.', rest).count();
        // The stream and the consumer, and what is before them.
        let before = match dots + 3 {
            TOKENS => 2,
            tokens if tokens >= TOKENS + 2 => 4,
            _ => return None,
        };
        let start = memchr::memchr_iter(b'.', rest).nth(before - 1)? + 1;
        let mut rest = &rest[start..];
        let mut number = || number(&mut rest);
        Some(Self {
            delivered: number()?,
            stream: number()?,
            consumer: number()?,
            stored: number()?,
            pending: number()?,
        })
    }

    /// When the message was stored.
    pub(in crate::source::jetstream) fn published(&self) -> Option<SystemTime> {
        UNIX_EPOCH.checked_add(Duration::from_nanos(self.stored))
    }
}

/// Takes a token, and the dot behind it, as a number. In one pass: it is done five times a message.
fn number(rest: &mut &[u8]) -> Option<u64> {
    let (mut number, mut digits) = (0_u64, 0);
    for byte in rest.iter().take_while(|byte| **byte != b'.') {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number = number.checked_mul(10)?.checked_add(digit)?;
        digits += 1;
    }
    *rest = rest.get(digits + 1..).unwrap_or_default();
    (digits > 0).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read() {
        let place = Place {
            delivered: 2,
            stream: 17,
            consumer: 23,
            stored: 1_700_000_000_123_000_000,
            pending: 5,
        };
        for reply in [
            "$JS.ACK.ORDERS.bridge.2.17.23.1700000000123000000.5",
            "$JS.ACK.hub.ACHASH.ORDERS.bridge.2.17.23.1700000000123000000.5",
            "$JS.ACK._.ACHASH.ORDERS.bridge.2.17.23.1700000000123000000.5.random",
        ] {
            assert_eq!(Place::read(reply), Some(place), "{reply}");
        }
        let at = UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
        assert_eq!(place.published(), Some(at));
    }

    #[test]
    fn anything_else_is_none() {
        for reply in [
            "",
            "_INBOX.a.b",
            "$JS.ACK",
            "$JS.ACK.S.c.1.2.3.4",
            "$JS.ACK.h.S.c.1.2.3.4.5",
            "$JS.ACK.S.c.1.2.3.4.x",
            "$JS.ACK.S.c.1.-2.3.4.5",
            "$JS.ACK.S.c.1..3.4.5",
            "$JS.ACK.S.c.1.18446744073709551616.3.4.5",
            "$JS.ACK.................",
        ] {
            assert_eq!(Place::read(reply), None, "{reply}");
        }
    }
}
