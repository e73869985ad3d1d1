//! The credentials that a client presents.

use std::borrow::Cow;

use http::HeaderMap;
use serde_json::{Map, Value};

/// HTTP headers, or the fields of an auth object. Names in lower case.
#[derive(Debug, Default)]
pub(crate) struct Presented<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Presented<'a> {
    /// From names and values; the case of the names does not matter.
    pub(crate) fn of(pairs: impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)>) -> Self {
        let lower = |name: Cow<'a, str>| {
            if name.bytes().any(|b| b.is_ascii_uppercase()) {
                Cow::Owned(name.to_ascii_lowercase())
            } else {
                name
            }
        };
        Self(pairs.map(|(name, value)| (lower(name), value)).collect())
    }

    /// From the headers of a request, without values that are not UTF-8: they cannot be signed.
    pub(crate) fn headers(headers: &'a HeaderMap) -> Self {
        let text = |value: &'a http::HeaderValue| std::str::from_utf8(value.as_bytes()).ok();
        Self::of(headers.iter().filter_map(|(n, v)| Some((n.as_str().into(), text(v)?.into()))))
    }

    /// From an auth object, without fields that are not strings.
    pub(crate) fn object(object: &'a Map<String, Value>) -> Self {
        let pairs = object.iter();
        Self::of(pairs.filter_map(|(n, v)| Some((n.as_str().into(), v.as_str()?.into()))))
    }

    /// The only value of `name`, or the first one.
    pub(crate) fn one(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// All values of `name`.
    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(n, _)| n == name).map(|(_, value)| value.as_ref())
    }
}
