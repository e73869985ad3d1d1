//! `url` of an MQTT source: where the broker is, and over what MQTT goes there.

use std::ops::Range;

use http::uri::{Authority, PathAndQuery};

use crate::config::reader::{Kind, Ledger, Located, Problem, Text};
use crate::redact;

/// What a URL says of a broker.
pub(super) struct Address {
    /// Without the brackets of IPv6.
    pub(super) host: String,
    pub(super) port: Option<u16>,
    /// Whether the scheme asks for TLS.
    pub(super) secure: bool,
    /// Of a WebSocket: its path, with the query; `/` at least.
    pub(super) path: Option<String>,
}

/// How a URL is written.
const FORM: &str =
    "write `mqtt://HOST`, `mqtts://HOST:PORT`, `ws://HOST:PORT/PATH` or `wss://HOST/PATH`";

impl Address {
    /// Reads a `url`.
    pub(super) fn read(ledger: &Ledger<'_>, text: &Located<Text>) -> Option<Self> {
        let written = &text.value.value;
        if let Some((_, query)) = written.split_once('?') {
            redact::learn_query(query);
        }
        Self::parse(written).map_or_else(
            |(kind, problem, hint)| {
                let message = format!("{} {problem}", text.value.subject("url"));
                let place: Range<usize> = text.span.clone();
                ledger.refuse(Problem::new(kind, Some(place), message).help(hint))
            },
            Some,
        )
    }

    /// The scheme that encrypts, of this one's kind.
    pub(super) fn secure_scheme(&self) -> &'static str {
        if self.path.is_some() { "wss://" } else { "mqtts://" }
    }

    fn parse(text: &str) -> Result<Self, (Kind, &'static str, &'static str)> {
        let refuse = |problem, hint| Err((Kind::BadValue, problem, hint));
        let Some((scheme, rest)) = text.split_once("://") else {
            return refuse("is not a URL", FORM);
        };
        let (secure, websocket) = match scheme.to_ascii_lowercase().as_str() {
            "mqtt" => (false, false),
            "mqtts" => (true, false),
            "ws" => (false, true),
            "wss" => (true, true),
            "tcp" => return refuse("is not an MQTT URL", "`tcp://` is written `mqtt://` here"),
            "ssl" | "tls" => {
                let hint = "`ssl://` and `tls://` are written `mqtts://` here";
                return refuse("is not an MQTT URL", hint);
            }
            _ => return refuse("is not an MQTT URL", FORM),
        };
        let (authority, behind) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        // A password may have a `/` or a `?` in it.
        if rest.contains('@') {
            let hint = "write `username` and `password = { env = \"NAME\" }`; a URL ends up in logs. Of a path or \
                        a query it is written `%40`";
            return Err((Kind::Unsafe, "holds user info (`user:password@`)", hint));
        }
        let path = match (websocket, behind) {
            (false, "" | "/") => None,
            (false, _) => return refuse("has a path, which only a WebSocket has", FORM),
            (true, behind) => {
                if behind.contains('#') {
                    return refuse("has a fragment (`#…`), which is never sent", FORM);
                }
                let path =
                    if behind.starts_with('/') { behind.into() } else { format!("/{behind}") };
                if path.parse::<PathAndQuery>().is_err() {
                    return refuse("has a path that can't be sent", FORM);
                }
                Some(path)
            }
        };
        let Ok(parsed) = authority.parse::<Authority>() else {
            return refuse("is not a URL", FORM);
        };
        let port = authority.get(parsed.host().len()..).and_then(|rest| rest.strip_prefix(':'));
        let port = match port.map(str::parse::<u16>) {
            None => None,
            Some(Ok(port)) if port > 0 => Some(port),
            Some(_) => return refuse("has no usable port", "a port is 1 to 65535"),
        };
        let host = parsed.host().trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return refuse("names no host", FORM);
        }
        Ok(Self { host: host.to_owned(), port, secure, path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_where_and_over_what() {
        let cases = [
            ("mqtt://b", "b", None, false, None),
            ("MQTTS://b:8883/", "b", Some(8883), true, None),
            ("ws://b:9001", "b", Some(9001), false, Some("/")),
            ("ws://b?a=1", "b", None, false, Some("/?a=1")),
            ("wss://[::1]:443/mqtt/x?a=1&b=%2F", "::1", Some(443), true, Some("/mqtt/x?a=1&b=%2F")),
        ];
        for (text, host, port, secure, path) in cases {
            let read = Address::parse(text).unwrap();
            assert_eq!(
                (read.host.as_str(), read.port, read.secure, read.path.as_deref()),
                (host, port, secure, path),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_url_of_a_broker_says_why() {
        let cases = [
            ("b:1883", "is not a URL"),
            ("http://b", "is not an MQTT URL"),
            ("tcp://b", "is not an MQTT URL"),
            ("mqtt://b/path", "has a path"),
            ("mqtts://b?x", "has a path"),
            ("ws://b/mqtt#x", "has a fragment"),
            ("ws://b/a b", "has a path that can't be sent"),
            ("wss://u:p@b/mqtt", "holds user info"),
            ("ws://me:12/secret@host", "holds user info"),
            ("ws://me:12?secret@host", "holds user info"),
            ("ws://me:12/se?cret@host", "holds user info"),
            ("mqtt://me:12/secret@host", "holds user info"),
            ("wss://b:0/mqtt", "has no usable port"),
            ("wss://b:70000", "has no usable port"),
            ("wss:///mqtt", "is not a URL"),
        ];
        for (text, problem) in cases {
            let (_, found, _) = Address::parse(text).err().unwrap();
            assert!(found.starts_with(problem), "{text}: {found}");
        }
    }
}
