//! A payload read as JSON: checked once, and looked into for the fields that routes name.
//!
//! The text itself is what gets published, so it is checked and not rebuilt. Fields are found by
//! walking the text: a key that stands twice on the way to a routing field is refused, because two
//! readers may disagree on which of the two counts.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{Reason, Rejection};

/// How deep a payload may be nested.
const MAX_DEPTH: usize = 64;

/// A payload that is JSON.
#[derive(Debug)]
pub struct Document<'a> {
    root: &'a RawValue,
}

impl<'a> Document<'a> {
    /// Checks encoding, syntax and depth; no recursion, whatever comes.
    pub fn parse(payload: &'a Bytes) -> Result<Self, Rejection> {
        let text = std::str::from_utf8(payload).map_err(|e| {
            Rejection::new(Reason::InvalidUtf8, format!("not UTF-8 at byte {}", e.valid_up_to()))
        })?;
        let root: &RawValue = serde_json::from_str(text)
            .map_err(|e| Rejection::new(Reason::InvalidJson, format!("not a JSON value: {e}")))?;
        if too_deep(root.get().as_bytes()) {
            return Err(Rejection::new(
                Reason::TooDeep,
                format!("nested deeper than {MAX_DEPTH} levels"),
            ));
        }
        Ok(Self { root })
    }

    /// The text of the field at `path`: a string that is not empty, a number or a boolean.
    pub fn field(&self, path: &[String]) -> Result<Cow<'a, str>, Rejection> {
        let missing = || {
            Rejection::new(Reason::NoRouteValue, format!("no usable value at `{}`", path.join(".")))
        };
        let mut value = self.root;
        for name in path {
            value = match child(value, name) {
                Ok(Some(child)) => child,
                Ok(None) => return Err(missing()),
                Err(Twice) => {
                    return Err(Rejection::new(
                        Reason::DuplicateKey,
                        format!("`{name}` stands twice on the way to `{}`", path.join(".")),
                    ));
                }
            };
        }
        let text = value.get();
        match text.as_bytes().first() {
            Some(b'"') => {
                let text = serde_json::from_str::<Text<'a>>(text).map_err(|_| missing())?.0;
                if text.is_empty() { Err(missing()) } else { Ok(text) }
            }
            Some(b'0'..=b'9' | b'-' | b't' | b'f') => Ok(Cow::Borrowed(text)),
            _ => Err(missing()),
        }
    }
}

/// A string that is borrowed where it has no escapes.
#[derive(serde::Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// A key stands twice.
struct Twice;

/// The member `name` of an object, or the item of that number of an array.
fn child<'a>(value: &'a RawValue, name: &str) -> Result<Option<&'a RawValue>, Twice> {
    struct Find<'n>(&'n str);
    type Found<'a> = Result<Option<&'a RawValue>, Twice>;

    impl<'de> Visitor<'de> for Find<'_> {
        type Value = Found<'de>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object or an array")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let (mut found, mut twice) = (None, false);
            while let Some(key) = map.next_key::<Text<'de>>()? {
                if key.0 == self.0 {
                    twice |= found.is_some();
                    found = Some(map.next_value()?);
                } else {
                    map.next_value::<IgnoredAny>()?;
                }
            }
            Ok(if twice { Err(Twice) } else { Ok(found) })
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
            let wanted = self.0.parse::<usize>().ok();
            let (mut found, mut index) = (None, 0);
            while let Some(item) = items.next_element::<&'de RawValue>()? {
                if Some(index) == wanted {
                    found = Some(item);
                }
                index += 1;
            }
            Ok(Ok(found))
        }
    }

    let mut deserializer = serde_json::Deserializer::from_str(value.get());
    match value.get().as_bytes().first() {
        // The text was checked, so what fails here is no object or array with such a member.
        Some(b'{' | b'[') => deserializer.deserialize_any(Find(name)).unwrap_or(Ok(None)),
        _ => Ok(None),
    }
}

/// Whether a text that is known to be JSON is nested deeper than may be.
fn too_deep(text: &[u8]) -> bool {
    // Nearly every payload has fewer brackets than it may have levels, which is seen at a glance.
    let many = memchr::memchr2_iter(b'{', b'[', text).nth(MAX_DEPTH).is_some();
    many && depth(text) > MAX_DEPTH
}

/// The deepest nesting of a text that is known to be JSON.
fn depth(text: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in text {
        match (in_string, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => in_string = !in_string,
            (false, b'{' | b'[') => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            (false, b'}' | b']') => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(payload: impl Into<Bytes>) -> Option<Reason> {
        Document::parse(&payload.into()).err().map(|r| r.reason)
    }

    fn field(payload: &str, path: &str) -> Result<String, Reason> {
        let payload = Bytes::from(payload.to_owned());
        let path: Vec<String> = path.split('.').map(str::to_owned).collect();
        let document = Document::parse(&payload).unwrap();
        document.field(&path).map(Cow::into_owned).map_err(|r| r.reason)
    }

    #[test]
    fn what_is_not_json_says_why() {
        assert_eq!(reason(&b"{\"a\":\"\xff\"}"[..]), Some(Reason::InvalidUtf8));
        for bad in ["", "{\"a\":1,}", "NaN", "{'a':1}", "1 2", "\"a"] {
            assert_eq!(reason(bad), Some(Reason::InvalidJson), "{bad}");
        }
        for good in ["1", "1e999", "\"\\ud800\"", "[{}]", " null "] {
            assert_eq!(reason(good), None, "{good}");
        }
    }

    #[test]
    fn depth_is_limited_without_recursion() {
        let nested = |n: usize| "[".repeat(n) + &"]".repeat(n);
        assert_eq!(reason(nested(64)), None);
        assert_eq!(reason(nested(65)), Some(Reason::TooDeep));
        assert_eq!(reason(nested(100_000)), Some(Reason::TooDeep));
        assert_eq!(reason("[\"".to_owned() + &"[{\\\"".repeat(100) + "\"]"), None);
    }

    #[test]
    fn fields_are_found_by_path() {
        let payload = r#"{"a":{"b":["x",{"c":"y"}]},"e":"\u0061b","n":-12,"t":true,"":1}"#;
        for (path, expected) in [
            ("a.b.0", Ok("x")),
            ("a.b.1.c", Ok("y")),
            ("e", Ok("ab")),
            ("n", Ok("-12")),
            ("t", Ok("true")),
            ("a", Err(Reason::NoRouteValue)),
            ("a.b", Err(Reason::NoRouteValue)),
            ("a.b.2", Err(Reason::NoRouteValue)),
            ("a.x.y", Err(Reason::NoRouteValue)),
            ("n.x", Err(Reason::NoRouteValue)),
        ] {
            assert_eq!(field(payload, path), expected.map(str::to_owned), "{path}");
        }
    }

    #[test]
    fn a_key_that_stands_twice_counts_only_on_the_way_to_the_field() {
        let payload = r#"{"other":1,"other":2,"tenant":"a","x":{"y":1},"x":{"y":2},"\u0074wice":"a","twice":"b"}"#;
        assert_eq!(field(payload, "tenant"), Ok("a".into()));
        assert_eq!(field(payload, "x.y"), Err(Reason::DuplicateKey));
        assert_eq!(field(payload, "twice"), Err(Reason::DuplicateKey));
    }
}
