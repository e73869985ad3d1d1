//! What is subscribed to: a channel, or all below one.

use std::fmt;

use crate::event_api::{Channel, ChannelError, MAX_SEGMENTS};

/// A channel, or with `/*` behind it all channels below one.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub struct Pattern {
    base: Channel,
    deep: bool,
}

impl Pattern {
    /// Reads a channel that may end in `/*`.
    pub fn parse(text: &str) -> Result<Self, ChannelError> {
        let (base, deep) = match text.strip_suffix("/*") {
            Some(base) => (base, true),
            None => (text, false),
        };
        let base = Channel::parse(base)?;
        if deep && base.segments().count() >= MAX_SEGMENTS {
            return Err(ChannelError::TooManySegments);
        }
        Ok(Self { base, deep })
    }

    /// The first segment.
    pub fn namespace(&self) -> &str {
        self.base.namespace()
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.base, if self.deep { "/*" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_is_the_whole_last_segment() {
        for (text, shown) in
            [("demo/a", "/demo/a"), ("/demo/*", "/demo/*"), ("a/b/c/d/*", "/a/b/c/d/*")]
        {
            assert_eq!(Pattern::parse(text).unwrap().to_string(), shown);
        }
        for text in ["", "/*", "*", "demo/a*", "demo/*/a", "a/b/c/d/e/*", "demo/**"] {
            assert!(Pattern::parse(text).is_err(), "{text}");
        }
    }
}
