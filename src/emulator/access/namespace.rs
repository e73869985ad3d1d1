//! A namespace, and the ways to show who one is that it takes.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

use crate::event_api::Segment;

/// A way to show who one is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// An API key.
    ApiKey,
    /// A signature.
    Iam,
    /// A token, in place of Cognito, OpenID Connect and a Lambda authorizer.
    Token,
}

/// The words for them.
const WORDS: [(&str, Mode); 3] =
    [("api-key", Mode::ApiKey), ("iam", Mode::Iam), ("token", Mode::Token)];

/// What a client wants to do in a namespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Operation {
    Publish,
    Subscribe,
}

/// A namespace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Namespace {
    name: String,
    /// Empty: every mode, as for subscribing.
    publish: Vec<Mode>,
    subscribe: Vec<Mode>,
}

impl Namespace {
    /// One that takes every mode.
    #[must_use]
    pub fn open(name: &str) -> Self {
        Self { name: name.to_owned(), publish: Vec::new(), subscribe: Vec::new() }
    }

    /// One that takes these modes alone.
    #[must_use]
    pub fn of(name: &str, publish: &[Mode], subscribe: &[Mode]) -> Self {
        Self { name: name.to_owned(), publish: publish.to_vec(), subscribe: subscribe.to_vec() }
    }

    /// The name of the first that takes an API key for everything, or of the first; `demo` if none is named.
    #[must_use]
    pub fn for_examples(namespaces: &[Self]) -> &str {
        let all = [Operation::Publish, Operation::Subscribe];
        let open = |it: &&Self| all.iter().all(|operation| it.takes(Mode::ApiKey, *operation));
        namespaces.iter().find(open).or(namespaces.first()).map_or("demo", Self::name)
    }

    /// The name that two of them have.
    pub(crate) fn twice(namespaces: &[Self]) -> Option<&str> {
        let mut names = HashSet::new();
        namespaces.iter().map(Self::name).find(|name| !names.insert(*name))
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it takes this mode for that.
    pub(crate) fn takes(&self, mode: Mode, operation: Operation) -> bool {
        let modes = match operation {
            Operation::Publish => &self.publish,
            Operation::Subscribe => &self.subscribe,
        };
        modes.is_empty() || modes.contains(&mode)
    }

    /// Its modes in words, for people.
    pub(crate) fn words(&self) -> String {
        let list = |modes: &[Mode]| {
            let words: Vec<_> = modes.iter().map(ToString::to_string).collect();
            if words.is_empty() { "any".to_owned() } else { words.join(", ") }
        };
        format!("publish: {}; subscribe: {}", list(&self.publish), list(&self.subscribe))
    }
}

/// `NAME`, `NAME=MODE+MODE`, or `NAME=publish:MODE+MODE,subscribe:MODE`.
impl FromStr for Namespace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, modes) = text.split_once('=').map_or((text, None), |(n, m)| (n, Some(m)));
        Segment::parse(name).map_err(|e| e.to_string())?;
        let mut namespace = Self::open(name);
        let Some(modes) = modes else { return Ok(namespace) };
        if !modes.contains(':') {
            namespace.publish = list(modes)?;
            namespace.subscribe.clone_from(&namespace.publish);
            return Ok(namespace);
        }
        for part in modes.split(',') {
            let (side, modes) = match part.split_once(':') {
                Some(("publish", modes)) => (&mut namespace.publish, modes),
                Some(("subscribe", modes)) => (&mut namespace.subscribe, modes),
                _ => return Err(format!("`{part}` is neither `publish:…` nor `subscribe:…`")),
            };
            if !side.is_empty() {
                return Err(format!("`{part}` is the second of its kind: join modes by `+`"));
            }
            *side = list(modes)?;
        }
        Ok(namespace)
    }
}

fn list(text: &str) -> Result<Vec<Mode>, String> {
    let mode = |word: &str| WORDS.iter().find(|(known, _)| *known == word).map(|(_, mode)| *mode);
    let read = |word| mode(word).ok_or_else(|| format!("`{word}` is none of api-key, iam, token"));
    text.split('+').map(read).collect()
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(WORDS.iter().find(|(_, mode)| mode == self).map_or("", |(word, _)| word))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spellings_are_read() {
        use Mode::{ApiKey, Iam, Token};
        use Operation::{Publish, Subscribe};
        let takes = |text: &str| {
            let namespace: Namespace = text.parse().unwrap();
            assert_eq!(namespace.name(), "orders");
            [Publish, Subscribe].map(|operation| {
                [ApiKey, Iam, Token].map(|mode| u8::from(namespace.takes(mode, operation)))
            })
        };
        assert_eq!(takes("orders"), [[1, 1, 1], [1, 1, 1]]);
        assert_eq!(takes("orders=iam"), [[0, 1, 0], [0, 1, 0]]);
        assert_eq!(takes("orders=api-key+token"), [[1, 0, 1], [1, 0, 1]]);
        assert_eq!(takes("orders=publish:iam"), [[0, 1, 0], [1, 1, 1]]);
        assert_eq!(takes("orders=publish:iam,subscribe:token+api-key"), [[0, 1, 0], [1, 0, 1]]);
        let words = "orders=publish:iam".parse::<Namespace>().unwrap().words();
        assert_eq!(words, "publish: iam; subscribe: any");
        let named: Vec<Namespace> =
            ["a=publish:iam", "b=token", "c=api-key"].map(|t| t.parse().unwrap()).into();
        assert_eq!(Namespace::for_examples(&named), "c");
        assert_eq!(Namespace::for_examples(&named[..2]), "a");
        assert_eq!(Namespace::for_examples(&[]), "demo");
    }

    #[test]
    fn what_is_none_is_named() {
        for (text, says) in [
            ("a_b", "letters, digits"),
            ("=iam", ""),
            ("a=", "`` is none of"),
            ("a=jwt", "`jwt` is none of api-key, iam, token"),
            ("a=publish:iam,token", "`token` is neither"),
            ("a=read:iam", "`read:iam` is neither"),
            ("a=publish:iam,publish:token", "`publish:token` is the second"),
        ] {
            let error = text.parse::<Namespace>().unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
