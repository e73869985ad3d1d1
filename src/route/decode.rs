//! A payload read as JSON: checked once, and searched for the fields that routes name.
//!
//! The text itself is what gets published, so it is checked and not rebuilt. Fields are found by
//! walking the text: a key that stands twice on the way to a routing field is refused, because two
//! readers may disagree on which of the two counts. JSON allows half of a surrogate pair (`\ud800`) in a
//! string, which is no text: as a key it is just another name, as a routing value it is refused.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
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
    /// Checks encoding, syntax and depth; without recursion, so that no payload exhausts the stack.
    pub fn parse(payload: &'a Bytes) -> Result<Self, Rejection> {
        let text = std::str::from_utf8(payload).map_err(|e| {
            Rejection::new(Reason::InvalidUtf8, format!("not UTF-8 at byte {}", e.valid_up_to()))
        })?;
        let root: &RawValue = serde_json::from_str(text).map_err(|e| {
            let hint = if is_bare(text) { BARE } else { "" };
            Rejection::new(Reason::InvalidJson, format!("not a JSON value: {e}{hint}"))
        })?;
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
        let unusable = |why: &str| {
            let detail = format!("no usable value at `{}`: {why}", path.join("."));
            Rejection::new(Reason::NoRouteValue, detail)
        };
        let mut value = self.root;
        for name in path {
            value = match child(value, name) {
                Ok(Some(child)) => child,
                Ok(None) => return Err(unusable("there is none")),
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
            Some(b'"') => match serde_json::from_str(text) {
                Ok(Text(text)) if text.is_empty() => Err(unusable("it is empty")),
                Ok(Text(text)) => Ok(text),
                // The syntax is valid, so no other error is left.
                Err(_) => Err(unusable("it holds half of a surrogate pair, which is no text")),
            },
            Some(b'0'..=b'9' | b'-' | b't' | b'f') => Ok(Cow::Borrowed(text)),
            Some(b'n') => Err(unusable("it is null")),
            Some(b'[') => Err(unusable("it is an array")),
            _ => Err(unusable("it is an object")),
        }
    }
}

/// What somebody is told who published plain words.
const BARE: &str =
    "; text is JSON in quotes only: `\"hello\"`, or as a field, `{\"text\":\"hello\"}`";

/// Whether it does not even begin as JSON does: plain words.
fn is_bare(text: &str) -> bool {
    let text = text.trim_start();
    let words = ["true", "false", "null"];
    let json = text.starts_with(|c: char| "{[\"-".contains(c) || c.is_ascii_digit())
        || words.iter().any(|word| text.starts_with(word));
    !text.is_empty() && !json
}

/// A string that is borrowed where it has no escapes.
#[derive(serde::Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Whether a key is this name. Compared as bytes: half of a surrogate pair has some, and is no text.
struct IsNamed<'n>(&'n str);

impl<'de> DeserializeSeed<'de> for IsNamed<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, key: D) -> Result<bool, D::Error> {
        key.deserialize_bytes(self)
    }
}

impl Visitor<'_> for IsNamed<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_bytes<E>(self, key: &[u8]) -> Result<bool, E> {
        Ok(key == self.0.as_bytes())
    }
}

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
            while let Some(is_it) = map.next_key_seed(IsNamed(self.0))? {
                if is_it {
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
        // The text was checked, so a failure here means no object or array with such a member.
        Some(b'{' | b'[') => deserializer.deserialize_any(Find(name)).unwrap_or(Ok(None)),
        _ => Ok(None),
    }
}

/// Whether a text that is known to be JSON is nested deeper than may be.
fn too_deep(text: &[u8]) -> bool {
    // A fast path: nearly every payload has fewer brackets than it may have levels.
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
        looked_up(payload, path).map_err(|rejection| rejection.reason)
    }

    fn looked_up(payload: &str, path: &str) -> Result<String, Rejection> {
        let payload = Bytes::from(payload.to_owned());
        let path: Vec<String> = path.split('.').map(str::to_owned).collect();
        let document = Document::parse(&payload).unwrap();
        document.field(&path).map(Cow::into_owned)
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
    fn why_a_value_is_of_no_use_is_true() {
        let payload =
            r#"{"null":null,"list":[1],"object":{},"empty":"","half":"a\udc00","number":1}"#;
        for (path, why) in [
            ("none", "there is none"),
            ("number.x", "there is none"),
            ("list.7", "there is none"),
            ("null", "it is null"),
            ("list", "it is an array"),
            ("object", "it is an object"),
            ("empty", "it is empty"),
            ("half", "it holds half of a surrogate pair, which is no text"),
        ] {
            let Rejection { reason, detail } = looked_up(payload, path).unwrap_err();
            assert_eq!(reason, Reason::NoRouteValue);
            assert_eq!(detail, format!("no usable value at `{path}`: {why}"));
        }
    }

    #[test]
    fn half_of_a_surrogate_pair_is_a_name_like_another() {
        // Before, behind and beside the way to the field; as key, as value, and below either.
        for payload in [
            r#"{"id":"b","\ud800":"x"}"#,
            r#"{"\ud800":"x","id":"b"}"#,
            r#"{"\udc00\ud800":{"\udfff":["\ud800"]},"id":"b","x":"\udead"}"#,
            r#"{"\ud800":1,"\ud800":2,"\ud800id":3,"id\ud800":4,"id":"b"}"#,
            r#"{"\u0069d":"b","\ud83d\ude00":1,"\ud83d":2}"#,
            r#"{"id":"\u0062","\ud800\u0041":{}}"#,
        ] {
            assert_eq!(field(payload, "id"), Ok("b".into()), "{payload}");
            let nested = format!(r#"{{"\udbff":{payload},"a":[0,{payload}],"\udc00":0}}"#);
            assert_eq!(field(&nested, "a.1.id"), Ok("b".into()), "{nested}");
        }
        assert_eq!(
            field(r#"{"id":"\ud83d\ude00"}"#, "id"),
            Ok("😀".into()),
            "a whole pair is text"
        );
        let twice = r#"{"\ud800":0,"i\u0064":"a","\udc00":0,"\u0069d":"b"}"#;
        assert_eq!(field(twice, "id"), Err(Reason::DuplicateKey));
    }

    #[test]
    fn a_key_that_stands_twice_counts_only_on_the_way_to_the_field() {
        let payload = r#"{"other":1,"other":2,"tenant":"a","x":{"y":1},"x":{"y":2},"\u0074wice":"a","twice":"b"}"#;
        assert_eq!(field(payload, "tenant"), Ok("a".into()));
        assert_eq!(field(payload, "x.y"), Err(Reason::DuplicateKey));
        assert_eq!(field(payload, "twice"), Err(Reason::DuplicateKey));
    }
}
