//! A channel that the Event API would take: one to five segments, the first one the namespace.

use std::fmt;

use smol_str::SmolStr;

use super::{MAX_SEGMENT_CHARS, MAX_SEGMENTS};

/// A channel one can publish to, normalised to a leading slash and none behind: `/demo/van-07`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Channel(SmolStr);

/// One segment of a channel: 1 to 50 of `A-Z a-z 0-9 -`, the first and the last not a `-`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment<'a>(&'a str);

/// Why a text is no channel, or a text no segment.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ChannelError {
    /// Nothing between two slashes, or no text at all.
    #[error("a segment is empty")]
    Empty,
    /// More than [`MAX_SEGMENT_CHARS`].
    #[error("a segment is longer than {MAX_SEGMENT_CHARS} characters")]
    TooLong,
    /// A character outside of `A-Z a-z 0-9 -`.
    #[error("a segment takes letters, digits and `-` only")]
    BadCharacter,
    /// A `-` at the start or the end.
    #[error("a segment starts and ends with a letter or a digit")]
    BadEdge,
    /// More than [`MAX_SEGMENTS`].
    #[error("a channel has at most {MAX_SEGMENTS} segments")]
    TooManySegments,
}

impl<'a> Segment<'a> {
    /// Checks `text` against the grammar; nothing is cleaned up.
    pub fn parse(text: &'a str) -> Result<Self, ChannelError> {
        check(text.as_bytes())?;
        Ok(Self(text))
    }

    /// The segment's text.
    #[must_use]
    pub fn as_str(&self) -> &'a str {
        self.0
    }
}

/// The grammar of a segment.
fn check(segment: &[u8]) -> Result<(), ChannelError> {
    let (Some(first), Some(last)) = (segment.first(), segment.last()) else {
        return Err(ChannelError::Empty);
    };
    if !segment.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-') {
        return Err(ChannelError::BadCharacter);
    }
    if segment.len() > MAX_SEGMENT_CHARS {
        return Err(ChannelError::TooLong);
    }
    if *first == b'-' || *last == b'-' {
        return Err(ChannelError::BadEdge);
    }
    Ok(())
}

impl Channel {
    /// Reads a channel; one slash before and one behind are allowed and mean nothing.
    pub fn parse(text: &str) -> Result<Self, ChannelError> {
        let inner = text.strip_suffix('/').unwrap_or(text);
        let (whole, inner) = match inner.strip_prefix('/') {
            Some(rest) => (Some(inner), rest),
            None => (None, inner),
        };
        let mut count = 0;
        // By bytes, which is quicker than by characters: all that are allowed are ASCII.
        for segment in inner.as_bytes().split(|byte| *byte == b'/') {
            check(segment)?;
            count += 1;
            if count > MAX_SEGMENTS {
                return Err(ChannelError::TooManySegments);
            }
        }
        Ok(Self(whole.map_or_else(|| format!("/{inner}").into(), SmolStr::new)))
    }

    /// The normalised text, with its leading slash.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first segment.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.segments().next().unwrap_or_default()
    }

    /// All segments, the namespace first.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0[1..].split('/')
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slashes_at_the_ends_mean_nothing() {
        for text in ["demo/a", "/demo/a", "demo/a/", "/demo/a/"] {
            assert_eq!(Channel::parse(text).map(|c| c.to_string()), Ok("/demo/a".to_owned()));
        }
    }

    #[test]
    fn the_grammar_of_the_service_is_kept() {
        let fifty = "a".repeat(50);
        for good in ["a", "A-1", "a/b/c/d/e", fifty.as_str(), "0/9"] {
            assert!(Channel::parse(good).is_ok(), "{good}");
        }
        let long = "a".repeat(51);
        for (bad, why) in [
            ("", ChannelError::Empty),
            ("/", ChannelError::Empty),
            ("//a", ChannelError::Empty),
            ("a//b", ChannelError::Empty),
            ("a/b/c/d/e/f", ChannelError::TooManySegments),
            (long.as_str(), ChannelError::TooLong),
            ("a/-b", ChannelError::BadEdge),
            ("a/b-", ChannelError::BadEdge),
            ("a/-", ChannelError::BadEdge),
            ("a/*", ChannelError::BadCharacter),
            ("a/b_c", ChannelError::BadCharacter),
            ("a/..", ChannelError::BadCharacter),
            ("a/\u{430}", ChannelError::BadCharacter),
        ] {
            assert_eq!(Channel::parse(bad), Err(why), "{bad:?}");
        }
    }

    #[test]
    fn the_namespace_is_the_first_segment() {
        let channel = Channel::parse("demo/fleet/van-1").unwrap();
        assert_eq!(channel.namespace(), "demo");
        assert_eq!(channel.segments().collect::<Vec<_>>(), ["demo", "fleet", "van-1"]);
    }
}
