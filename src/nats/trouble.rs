//! What goes wrong between the bridge and a NATS server, in words, and what to look at. Pure.
//!
//! async-nats hands on most errors as text, so they are told apart by their words; what is not known is said as it is.

use crate::config::nats::{Auth, Connection};
use crate::error_chain::printable;
use crate::probe::{Complaint, Step};

/// Why there is no connection, or why it is of no use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// A clause.
    pub what: String,
    /// By which it is told from others.
    pub kind: Kind,
}

/// What kind of trouble it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The server does not know us.
    Credentials,
    /// It does, and what it was shown has ended.
    Expired,
    /// It does not let us do this.
    Permission,
    /// What the bridge is to prove itself with can't be used.
    Unusable,
    /// The server has as many clients as it takes.
    Full,
    /// We don't trust its certificate.
    Certificate,
    /// It does not trust ours, or wants one.
    Identity,
    /// What it says is not TLS.
    NotTls,
    /// It closed the connection before it had said a word.
    Wordless,
    /// What it says is not NATS.
    NotNats,
    /// Nobody listens there.
    NobodyListens,
    /// There is no such host.
    NoHost,
    /// It does not answer.
    Silent,
    /// It closed the connection.
    Closed,
    /// Something else, that its words tell.
    Other,
}

/// Characters of an error that are passed on.
const MOST: usize = 300;

/// Words by which errors are told apart, the more particular first; in lower case.
const WORDS: [(&str, Kind); 31] = [
    ("permissions violation", Kind::Permission),
    ("authentication expired", Kind::Expired),
    ("authentication revoked", Kind::Expired),
    ("authorization violation", Kind::Credentials),
    ("authentication timeout", Kind::Credentials),
    ("failed signing nonce", Kind::Unusable),
    ("autherror", Kind::Unusable),
    ("maximum connections exceeded", Kind::Full),
    ("maximum account active connections", Kind::Full),
    ("invalid peer certificate", Kind::Certificate),
    ("certificaterequired", Kind::Identity),
    ("nocertificate", Kind::Identity),
    ("badcertificate", Kind::Identity),
    ("unsupportedcertificate", Kind::Identity),
    ("certificaterevoked", Kind::Identity),
    ("certificateexpired", Kind::Identity),
    ("certificateunknown", Kind::Identity),
    ("unknownca", Kind::Identity),
    ("corrupt message", Kind::NotTls),
    ("invalidcontenttype", Kind::NotTls),
    ("tls handshake eof", Kind::NotTls),
    ("expected info, got nothing", Kind::Wordless),
    ("expected info", Kind::NotNats),
    ("invalid server operation", Kind::NotNats),
    ("connection refused", Kind::NobodyListens),
    ("lookup address", Kind::NoHost),
    ("timed out", Kind::Silent),
    ("unreachable", Kind::Silent),
    ("connection reset", Kind::Closed),
    ("broken pipe", Kind::Closed),
    ("unexpected eof", Kind::Closed),
];

/// What async-nats puts before the words of others.
const PREFIXES: [&str; 5] =
    ["IO error: ", "TLS error: ", "DNS error: ", "nats: ", "failed signing nonce: "];

impl Trouble {
    /// Whether the server lets no answer come to the bridge.
    pub fn refuses_inbox(&self) -> bool {
        self.kind == Kind::Permission && self.what.contains("Subscription to \"_INBOX.")
    }

    /// Of the words of an error, of the client or of the server.
    pub fn of_words(text: &str) -> Self {
        let lower = text.to_ascii_lowercase();
        let kind = WORDS.iter().find(|(words, _)| lower.contains(words));
        let kind = kind.map_or(Kind::Other, |(_, kind)| *kind);
        let mut rest = text.trim();
        while let Some(shorter) = PREFIXES.iter().find_map(|prefix| rest.strip_prefix(prefix)) {
            rest = shorter;
        }
        // The client says some things twice.
        let rest = match rest.split_once(": nats: ") {
            Some((before, again)) if before.eq_ignore_ascii_case(again) => before,
            _ => rest,
        };
        let words = printable(rest, MOST);
        let what = match kind {
            Kind::Credentials => format!("the server does not let the bridge in ({words})"),
            Kind::Unusable => {
                let words = words.trim_start_matches("AuthError(").trim_end_matches(')');
                format!("the bridge can't prove who it is ({words})")
            }
            Kind::Wordless => "the server closed the connection without a word".to_owned(),
            Kind::NotNats => "what answers is no NATS server".to_owned(),
            Kind::Silent => format!("the server does not answer ({words})"),
            _ => words,
        };
        Self { what, kind }
    }

    /// There is no such host: the client says no more.
    pub fn no_host() -> Self {
        Self { what: "the host's name can't be resolved".to_owned(), kind: Kind::NoHost }
    }

    /// The connection ended without a word.
    pub fn closed() -> Self {
        Self { what: "the connection was lost".to_owned(), kind: Kind::Closed }
    }

    /// There is no answer within the time there is.
    pub fn silent(what: &str) -> Self {
        Self { what: what.to_owned(), kind: Kind::Silent }
    }

    /// What to look at; empty where the words say it all.
    pub fn hint(&self, config: &Connection) -> &'static str {
        let tls = config.tls.as_ref();
        match self.kind {
            Kind::Credentials if config.auth.is_none() => {
                "the server wants to know who the bridge is: `auth = { … }`"
            }
            Kind::Credentials => match config.auth {
                Some(Auth::Token(_)) => "check `auth.token`",
                Some(Auth::Nkey(_)) => "check `auth.nkey`: does the server know this user?",
                Some(Auth::Credentials(_)) => {
                    "check `auth.creds_file`: is it of this server's operator, and is the account known there?"
                }
                Some(Auth::Login { .. }) | None => "check `auth.user` and `auth.password`",
            },
            Kind::Expired => "renew what `auth` names; a file is read again with each connection",
            Kind::Permission => "let the bridge's user do so, at the server",
            Kind::Unusable => "check what `auth` names",
            Kind::Full => "raise its limit of connections, or end some of them",
            Kind::Certificate if tls.is_none() => {
                "the server wants TLS: write `tls://`, or add `tls = true`"
            }
            Kind::Certificate if tls.is_some_and(|tls| tls.ca_file.is_none()) => {
                "a CA of your own is `tls = { ca_file = … }`; the name in `servers` has to be in the certificate"
            }
            Kind::Certificate => {
                "is it of the CA in `ca_file`, and is the name in `servers` in it?"
            }
            Kind::Identity if tls.is_none_or(|tls| tls.identity.is_none()) => {
                "the server wants a client's certificate: `tls = { cert_file = …, key_file = … }`"
            }
            Kind::Identity => {
                "does the server trust the issuer of `cert_file`, and is it still valid?"
            }
            Kind::NotTls if config.tls_first => {
                "does the server begin with TLS (`handshake_first`)? if it does not, leave `tls_first` away"
            }
            Kind::NotTls => "does this port speak TLS?",
            Kind::Wordless if tls.is_none() => {
                "does the server begin with TLS (`handshake_first`)? then add `tls = true` and `tls_first = true`; \
                 and is this the port for clients (4222)?"
            }
            Kind::Wordless if !config.tls_first => {
                "a server that begins with TLS (`handshake_first`) needs `tls_first = true`"
            }
            Kind::Wordless => "is this the port for clients (4222)?",
            Kind::NotNats => {
                "is this the port for clients (4222), and not one for monitoring or a cluster?"
            }
            Kind::NobodyListens => "does the server run, and is the port right?",
            Kind::NoHost => "check the name in `servers`",
            Kind::Silent if tls.is_some() && !config.tls_first => {
                "is the network open, and is this the port for clients (4222)? a server that begins with TLS \
                 (`handshake_first`) needs `tls_first = true`"
            }
            Kind::Silent => {
                "is the network open, does the server run, and is this its port for clients (4222)?"
            }
            Kind::Closed | Kind::Other => "",
        }
    }

    /// As what a look ends with.
    pub fn complaint(&self, config: &Connection) -> Complaint {
        let step = match self.kind {
            Kind::Credentials | Kind::Expired | Kind::Unusable | Kind::Full => Step::Login,
            Kind::Permission => Step::Allowed,
            Kind::Certificate | Kind::Identity | Kind::NotTls => Step::Tls,
            _ => Step::Reach,
        };
        Complaint::new(step, self.what.as_str(), self.hint(config))
    }

    /// The clause and the hint.
    pub fn in_words(&self, config: &Connection) -> String {
        self.complaint(config).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_apart_by_their_words() {
        for (text, kind, what) in [
            (
                "authorization violation: nats: authorization violation",
                Kind::Credentials,
                "the server does not let the bridge in (authorization violation)",
            ),
            (
                "failed signing nonce: AuthError(the seed of the nkey is none)",
                Kind::Unusable,
                "the bridge can't prove who it is (the seed of the nkey is none)",
            ),
            (
                "IO error: Connection refused (os error 111)",
                Kind::NobodyListens,
                "Connection refused (os error 111)",
            ),
            (
                "IO error: invalid peer certificate: UnknownIssuer",
                Kind::Certificate,
                "invalid peer certificate: UnknownIssuer",
            ),
            (
                "IO error: received fatal alert: CertificateRequired",
                Kind::Identity,
                "received fatal alert: CertificateRequired",
            ),
            (
                "nats: Permissions Violation for Subscription to \"a\"",
                Kind::Permission,
                "Permissions Violation for Subscription to \"a\"",
            ),
            ("IO error: nats: Weather", Kind::Other, "Weather"),
            ("timed out", Kind::Silent, "the server does not answer (timed out)"),
        ] {
            let trouble = Trouble::of_words(text);
            assert_eq!((trouble.kind, trouble.what.as_str()), (kind, what), "{text}");
        }
    }

    #[test]
    fn every_word_is_in_lower_case() {
        for (words, _) in WORDS {
            assert_eq!(words, words.to_ascii_lowercase());
        }
    }
}
