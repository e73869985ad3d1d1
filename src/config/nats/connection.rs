//! The way to a NATS server: what core NATS and `JetStream` share.

use toml::de::DeValue;

use super::auth::{self, Auth};
use crate::config::common::{Common, Tls, secured};
use crate::config::endpoint::is_loopback;
use crate::config::reader::{Field, Form, Kind, Ledger, Located, Problem, Table, Text, Word};

/// The servers of one cluster, and how a client of them proves who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// `nats://HOST:PORT` of each; no other is ever connected to.
    pub servers: Vec<String>,
    /// Who we are.
    pub auth: Option<Auth>,
    /// How to secure the connection, if at all.
    pub tls: Option<Tls>,
    /// TLS begins before the server has said a word.
    pub tls_first: bool,
}

/// What other products call the keys of either kind.
pub(super) const WORDS: &[Word] = &[
    ("servers", "url urls server address addresses hosts natsurl uri brokers"),
    ("subjects", "subject topics topic subscriptions filters filtersubjects filtersubject"),
    (
        "auth",
        "token user username password pass nkey nkeyfile creds credsfile credentials credentialsfile jwt authentication",
    ),
    ("tls_first", "handshakefirst tlshandshakefirst"),
];

impl Connection {
    /// Whether both may be of one cluster: they name the same server.
    pub fn may_meet(&self, other: &Self) -> bool {
        let same = |server: &String| other.servers.iter().any(|o| o.eq_ignore_ascii_case(server));
        self.servers.iter().any(same)
    }
}

struct Server {
    host: String,
    port: u16,
    secure: bool,
}

/// Of a server that is named without one.
const DEFAULT_PORT: u16 = 4222;

const SERVERS: &str = "the servers: `servers = [\"nats://nats-1:4222\"]`";

/// Reads `servers`, `auth` and `tls_first`.
pub(super) fn read(table: &mut Table<'_>, common: &Common) -> Option<Connection> {
    let ledger = table.ledger;
    let servers = table.strings("servers").then(|texts| servers(ledger, &texts.value));
    let servers = table.require("servers", servers, SERVERS);
    let auth = table
        .field("auth", Form::Table, |ledger, entry| match entry.value.get_ref() {
            DeValue::Table(inner) => {
                let (title, span) = ("`auth`".to_owned(), entry.value.span());
                auth::read(Table::new(ledger, "nats_auth", title, span, inner))
            }
            other => {
                let wanted = "a table such as `{ token = { env = \"NATS_TOKEN\" } }`";
                ledger.wrong_type("auth", entry.value.span(), wanted, other)
            }
        })
        .optional();
    let first = table.boolean("tls_first").or(false);
    let tls = servers.as_ref().map(|servers| {
        let asks = servers.value.iter().find(|server| server.value.secure);
        secured(ledger, &common.tls, asks.map(|server| ("servers", "tls://", server.span.clone())))
    });
    if let (Some(Ok(None)), Some(first)) = (&tls, first.as_ref().filter(|first| first.value)) {
        let message = "`tls_first` is true, but there is no TLS";
        let problem = Problem::new(Kind::Impossible, first.span.clone(), message);
        ledger.report(problem.help("add `tls = true`, or write `tls://`"));
    }
    if let (Ok(Some(auth)), Some(Ok(None)), Some(servers)) = (&auth, &tls, &servers) {
        in_plain_text(ledger, auth, servers, common);
    }
    let url = |server: Located<Server>| {
        let Server { host, port, .. } = server.value;
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        format!("nats://{host}:{port}")
    };
    Some(Connection {
        servers: servers?.value.into_iter().map(url).collect(),
        auth: auth.ok()?.map(|auth| auth.value),
        tls: tls?.ok()?,
        tls_first: first?.value,
    })
}

/// Reports a secret that would cross the network as plain text. A seed does not: it signs.
fn in_plain_text(
    ledger: &Ledger<'_>,
    auth: &Located<Auth>,
    servers: &Located<Vec<Located<Server>>>,
    common: &Common,
) {
    let what = match auth.value {
        Auth::Token(_) => "token",
        Auth::Login { .. } => "password",
        Auth::Nkey(_) | Auth::Credentials(_) => return,
    };
    let plaintext = common.plaintext.as_ref().is_none_or(|setting| setting.value);
    let far = servers.value.iter().find(|server| !is_loopback(&server.value.host));
    if let Some(far) = far.filter(|_| !plaintext) {
        let message = format!("the {what} would cross the network as plain text");
        let problem = Problem::new(Kind::Unsafe, Some(auth.span.clone()), message)
            .also(far.span.clone(), "not encrypted, and not loopback")
            .help("add `tls = true`; to send it all the same, `dangerously_plaintext = true`");
        ledger.report(problem);
    }
}

fn servers(ledger: &Ledger<'_>, texts: &[Located<Text>]) -> Option<Vec<Located<Server>>> {
    let mut known: Vec<(String, u16)> = Vec::new();
    let mut read = |text: &Located<Text>| {
        let refuse = |kind, problem: &str, hint: &str| {
            let message = format!("{} {problem}", text.value.shown());
            ledger.refuse(Problem::new(kind, Some(text.span.clone()), message).help(hint))
        };
        match server(&text.value.value) {
            Err((kind, problem, hint)) => refuse(kind, problem, hint),
            Ok(server) => {
                let place = (server.host.to_ascii_lowercase(), server.port);
                if known.contains(&place) {
                    return refuse(Kind::BadValue, "is there twice", "once is enough");
                }
                known.push(place);
                Some(Located { value: server, span: text.span.clone() })
            }
        }
    };
    let all: Vec<_> = texts.iter().map(&mut read).collect();
    all.into_iter().collect()
}

fn server(text: &str) -> Result<Server, (Kind, &'static str, &'static str)> {
    let form = "write `nats://HOST:PORT`, `tls://HOST:PORT` or `HOST:PORT`";
    let refuse = |problem, hint| Err((Kind::BadValue, problem, hint));
    let (scheme, rest) = text.split_once("://").unwrap_or(("nats", text));
    let secure = match scheme.to_ascii_lowercase().as_str() {
        "nats" => false,
        "tls" => true,
        "ws" | "wss" => {
            let hint = "this version speaks `nats://` and `tls://`";
            let problem = "is over WebSocket, which is not in this version";
            return Err((Kind::NotInThisVersion, problem, hint));
        }
        "nats+tls" | "nats-tls" | "natss" => {
            return refuse("is no URL of a NATS server", "with TLS it is `tls://HOST:PORT`");
        }
        _ => return refuse("is no URL of a NATS server", form),
    };
    if rest.contains('@') {
        let hint = "who the bridge is says `auth = { user = …, password = … }`, or another of its forms; \
                    a URL ends up in logs";
        return Err((Kind::Unsafe, "holds user info (`user:password@`)", hint));
    }
    if rest.contains(',') {
        return refuse("is several servers", "write a list: `[\"nats-1:4222\", \"nats-2:4222\"]`");
    }
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    let Ok(parsed) = authority.parse::<http::uri::Authority>() else {
        return refuse("is no server", form);
    };
    let host = parsed.host().trim_start_matches('[').trim_end_matches(']');
    let port = authority.get(parsed.host().len()..).and_then(|rest| rest.strip_prefix(':'));
    let port = match port.map(str::parse::<u16>) {
        None => DEFAULT_PORT,
        Some(Ok(port)) if port > 0 => port,
        Some(_) => return refuse("has no usable port", "a port is 1 to 65535"),
    };
    if host.is_empty() {
        return refuse("names no host", form);
    }
    Ok(Server { host: host.to_owned(), port, secure })
}

/// The name that the server knows something by, `what` in words.
pub(super) fn name(table: &mut Table<'_>, key: &'static str, what: &str) -> Field<String> {
    let ledger = table.ledger;
    table.filled(key).then(|text| {
        let Located { value: text, span } = text;
        let bad = |c: char| c.is_whitespace() || c.is_control() || "./\\*>".contains(c);
        let Some(at) = text.value.find(bad) else { return Some(text.value) };
        let length = text.value[at..].chars().next().map_or(0, char::len_utf8);
        let message = format!("{} can't be the name of {what}", text.shown());
        let place = ledger.inside(&span, &text, at..at + length);
        let problem = Problem::new(Kind::BadValue, Some(place), message);
        ledger.refuse(problem.help("a name has no blanks, and none of `.`, `*`, `>`, `/`, `\\`"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_urls_or_hosts_with_ports() {
        for (text, host, port, secure) in [
            ("nats", "nats", 4222, false),
            ("nats-1:4223", "nats-1", 4223, false),
            ("nats://10.0.0.1/", "10.0.0.1", 4222, false),
            ("NATS://a:1", "a", 1, false),
            ("tls://nats.example", "nats.example", 4222, true),
            ("tls://[::1]:4443", "::1", 4443, true),
            ("[::1]", "::1", 4222, false),
        ] {
            let server = server(text).unwrap_or_else(|(_, why, _)| panic!("{text}: {why}"));
            assert_eq!((server.host.as_str(), server.port, server.secure), (host, port, secure));
        }
        for bad in [
            "",
            "nats://",
            "a:0",
            "a:",
            "a:70000",
            "a:x",
            "a,b",
            "u@a",
            "http://a",
            "a b",
            "nats://a/b",
        ] {
            assert!(server(bad).is_err(), "{bad}");
        }
    }
}
