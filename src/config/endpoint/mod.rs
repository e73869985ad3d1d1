//! The address of an Event API, and which addresses may not be one.

mod address;

use super::reader::{Kind, Ledger, Located, Problem, Text};
use address::forbidden;
pub(super) use address::is_loopback;
pub use address::{address, forbidden_address};

/// An HTTP endpoint that passed the checks: `https`, or `http` where that was allowed; a path of
/// `/event`; no user info; not an address that nothing is sent to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The whole URL, ending in `/event`.
    pub uri: http::Uri,
    /// The region in the name of a standard domain.
    pub region: Option<String>,
}

/// Why a text is no endpoint: the kind of the problem, a clause, and what to do.
type Refusal = (Kind, String, Option<String>);

/// An `https` URL, or an `http` one where that is allowed, that something secret may be sent to.
#[derive(Clone, Debug)]
pub(super) struct SafeUrl {
    pub(super) uri: http::Uri,
    /// In lower case.
    pub(super) host: String,
}

/// What a URL is for, as far as the hints go.
pub(super) struct Purpose {
    /// How it is written.
    pub(super) form: &'static str,
    /// What to do about user info.
    pub(super) user_info: &'static str,
    /// What to do about plain text off loopback.
    pub(super) plaintext: &'static str,
}

const ENDPOINT: Purpose = Purpose {
    form: "write `\"https://…/event\"`",
    user_info: "the bridge proves itself by `auth`; remove what stands before the `@`",
    plaintext: "write `https://`; for an emulator in another container, `dangerously_plaintext = true`",
};

const WEBSOCKET: Purpose = Purpose {
    form: "write `wss://HOST/event/realtime`",
    user_info: "the bridge proves itself as it does to the API; remove what stands before the `@`",
    plaintext: "write `wss://`; for an emulator in another container, `--dangerously-plaintext`",
};

/// Reads the address of a WebSocket that a command line gives, as one of HTTP; `ws` off loopback only with `plaintext`. An
/// error is a clause and a hint.
pub fn websocket(text: &str, plaintext: bool) -> Result<http::Uri, String> {
    let spelled = match text.split_once("://") {
        Some(("wss", rest)) => format!("https://{rest}"),
        Some(("ws", rest)) => format!("http://{rest}"),
        _ => text.to_owned(),
    };
    let SafeUrl { uri, .. } = SafeUrl::parse(&spelled, plaintext, &WEBSOCKET).map_err(said)?;
    // What stands there may be a token, and errors name the URL. Nothing of AWS has a query there.
    match text.split_once(['?', '#']) {
        Some((before, _)) => Err(format!("has more behind its path; write `{before}`")),
        None => Ok(uri),
    }
}

impl SafeUrl {
    /// Reads the URL of `key`; `http` on loopback only.
    pub(super) fn read(
        ledger: &Ledger<'_>,
        key: &str,
        text: &Located<Text>,
        purpose: &Purpose,
    ) -> Option<Self> {
        Self::read_with(ledger, key, text, false, purpose)
    }

    /// Reads the URL of `key`; `http` off loopback only with `plaintext`.
    pub(super) fn read_with(
        ledger: &Ledger<'_>,
        key: &str,
        text: &Located<Text>,
        plaintext: bool,
        purpose: &Purpose,
    ) -> Option<Self> {
        let read = Self::parse(&text.value.value, plaintext, purpose);
        read.map_or_else(|why| refused(ledger, key, text, why), Some)
    }

    /// Reads a URL that a command line gives; `http` on loopback only. An error is a clause and a hint.
    pub(super) fn of(text: &str, purpose: &Purpose) -> Result<http::Uri, String> {
        Self::parse(text, false, purpose).map(|url| url.uri).map_err(said)
    }

    /// Checks a URL; `http` off loopback only with `plaintext`.
    fn parse(text: &str, plaintext: bool, purpose: &Purpose) -> Result<Self, Refusal> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return form("is not a URL", Some(purpose.form));
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        // No path of such a URL has an `@`.
        no_user_info(rest.split(['?', '#']).next().unwrap_or_default(), purpose)?;
        if !authority.is_ascii() {
            let hint = "write the host's name in letters, digits and hyphens (an international one as `xn--…`)";
            return form("names its host in characters that no host's name has", Some(hint));
        }
        let Ok(uri) = text.parse::<http::Uri>() else {
            return form("is not a URL", Some(purpose.form));
        };
        let host = uri.host().unwrap_or_default().to_ascii_lowercase();
        if host.is_empty() {
            return form("names no host", None);
        }
        if let Some(port) = authority.get(host.len()..).and_then(|rest| rest.strip_prefix(':'))
            && !(port.bytes().all(|b| b.is_ascii_digit())
                && port.parse::<u16>().is_ok_and(|port| port > 0))
        {
            return form(
                "names a port that there is not",
                Some("a port is a number from 1 to 65535"),
            );
        }
        if let Some(what) = forbidden(&host) {
            let hint = "such addresses serve a machine's own credentials, or nobody; name the host that is meant";
            return unsafe_(format!("is {what}"), hint);
        }
        match scheme.to_ascii_lowercase().as_str() {
            "https" => {}
            "http" if plaintext || is_loopback(&host) => {}
            "http" => {
                return unsafe_("is plain `http` off loopback".to_owned(), purpose.plaintext);
            }
            _ => return form("is neither `https` nor `http`", Some(purpose.form)),
        }
        Ok(Self { uri, host })
    }
}

impl Endpoint {
    /// Reads an `endpoint`; `http` off loopback only with `plaintext`.
    pub(super) fn read(ledger: &Ledger<'_>, text: &Located<Text>, plaintext: bool) -> Option<Self> {
        let read = Self::parse(&text.value.value, plaintext);
        read.map_or_else(|why| refused(ledger, "endpoint", text, why), Some)
    }

    fn parse(text: &str, plaintext: bool) -> Result<Self, Refusal> {
        if let Some(arn) = text.strip_prefix("arn:") {
            let region =
                arn.split(':').nth(2).filter(|region| is_region(region)).unwrap_or("REGION");
            let hint = format!(
                "write `https://….appsync-api.{region}.amazonaws.com/event`: \
                 `aws appsync get-api --api-id ID --query api.dns.HTTP` tells its host"
            );
            return form("is an ARN, which names the API and not its address", Some(&hint));
        }
        let (scheme, rest) = text.split_once("://").unwrap_or_default();
        no_user_info(rest, &ENDPOINT)?;
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let is_one_of = |words: [&str; 2]| words.iter().any(|it| scheme.eq_ignore_ascii_case(it));
        let http = if is_one_of(["http", "ws"]) { "http" } else { "https" };
        let published = format!("events are published to `{http}://{authority}/event`");
        if authority.contains(".appsync-realtime-api.") {
            let hint = authority.replace(".appsync-realtime-api.", ".appsync-api.");
            return form(
                "is the realtime endpoint, which takes subscriptions",
                Some(&format!("events are published to `https://{hint}/event`")),
            );
        }
        if is_one_of(["ws", "wss"]) {
            return form("is neither `https` nor `http`", Some(&published));
        }
        let SafeUrl { uri, host } = SafeUrl::parse(text, plaintext, &ENDPOINT)?;
        if text.contains('#') || uri.query().is_some() {
            let hint = format!("write `{scheme}://{authority}/event`");
            return form("has more behind its path", Some(&hint));
        }
        match uri.path() {
            "/event" => {}
            "/graphql" => {
                return form(
                    "is a GraphQL endpoint",
                    Some("an Event API's HTTP endpoint ends in `/event`"),
                );
            }
            "/event/realtime" => {
                let problem = "is the realtime endpoint, which takes subscriptions";
                return form(problem, Some(&published));
            }
            _ => {
                let hint = format!("write `{scheme}://{authority}/event`");
                return form("does not end in `/event`", Some(&hint));
            }
        }
        let region = region(&host);
        Ok(Self { uri: without_default_port(uri), region })
    }

    /// Reads what a command line gives; `http` off loopback only with `plaintext`. An error is a clause and a hint.
    pub fn of(text: &str, plaintext: bool) -> Result<Self, String> {
        Self::parse(text, plaintext).map_err(said)
    }

    /// The host, with its port if that is not the one of the scheme, as a request carries and a signature covers it.
    pub fn authority(&self) -> &str {
        self.uri.authority().map_or("", http::uri::Authority::as_str)
    }
}

/// The port of its scheme goes without saying. A request of HTTP/2 would say it, and another host than what is signed.
fn without_default_port(uri: http::Uri) -> http::Uri {
    let named = matches!(
        (uri.scheme_str(), uri.port_u16()),
        (Some("https"), Some(443)) | (Some("http"), Some(80))
    );
    let host = uri.host().filter(|_| named).and_then(|host| host.parse().ok());
    let mut parts = uri.clone().into_parts();
    parts.authority = host.or(parts.authority);
    http::Uri::from_parts(parts).unwrap_or(uri)
}

/// In one line.
fn said((_, problem, hint): Refusal) -> String {
    match hint {
        Some(hint) => format!("{problem}; {hint}"),
        None => problem,
    }
}

fn form<T>(problem: &str, hint: Option<&str>) -> Result<T, Refusal> {
    Err((Kind::BadValue, problem.to_owned(), hint.map(str::to_owned)))
}

fn unsafe_<T>(problem: String, hint: &str) -> Result<T, Refusal> {
    Err((Kind::Unsafe, problem, Some(hint.to_owned())))
}

/// Refuses what may be a user's name or password: that may hold what ends an authority, too.
fn no_user_info(part: &str, purpose: &Purpose) -> Result<(), Refusal> {
    if part.contains('@') {
        return unsafe_("holds user info (`user@`)".to_owned(), purpose.user_info);
    }
    Ok(())
}

fn refused<T>(
    ledger: &Ledger<'_>,
    key: &str,
    text: &Located<Text>,
    (kind, problem, hint): Refusal,
) -> Option<T> {
    let message = format!("{} {problem}", text.value.subject(key));
    ledger.refuse(Problem::new(kind, Some(text.span.clone()), message).maybe_help(hint))
}

/// The region of `<26 letters or digits>.appsync-api.<region>.amazonaws.com`, or `….com.cn`.
fn region(host: &str) -> Option<String> {
    let (api, rest) = host.split_once(".appsync-api.")?;
    let domain = rest.strip_suffix(".amazonaws.com").or(rest.strip_suffix(".amazonaws.com.cn"))?;
    let id = api.len() == 26 && api.bytes().all(|b| b.is_ascii_alphanumeric());
    let name = is_region(domain);
    (id && name).then(|| domain.to_owned())
}

/// Whether a text can be the name of a region.
pub(super) fn is_region(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    text.contains('-') && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        Endpoint::parse(text, false).unwrap_err().1
    }

    #[test]
    fn takes_standard_and_custom_domains() {
        let standard =
            "https://abcdefghijklmnopqrstuvwxyz.appsync-api.eu-west-1.amazonaws.com/event";
        assert_eq!(Endpoint::parse(standard, false).unwrap().region.as_deref(), Some("eu-west-1"));
        let china =
            "https://abcdefghijklmnopqrstuvwxyz.appsync-api.cn-north-1.amazonaws.com.cn/event";
        assert_eq!(Endpoint::parse(china, false).unwrap().region.as_deref(), Some("cn-north-1"));
        for other in [
            "https://events.example.com/event",
            "https://events.example.com:8443/event",
            "https://short.appsync-api.eu-west-1.amazonaws.com/event",
            "http://localhost:8080/event",
            "http://127.8.0.1/event",
            "http://[::1]:9/event",
        ] {
            assert_eq!(Endpoint::parse(other, false).unwrap().region, None, "{other}");
        }
        assert!(Endpoint::parse("http://emulator:8080/event", true).is_ok());
    }

    #[test]
    fn the_port_of_the_scheme_is_left_out_and_no_other() {
        for (text, authority) in [
            ("https://a.example:443/event", "a.example"),
            ("https://a.example:80/event", "a.example:80"),
            ("http://127.0.0.1:80/event", "127.0.0.1"),
            ("http://[::1]:80/event", "[::1]"),
            ("http://[::1]:443/event", "[::1]:443"),
        ] {
            let endpoint = Endpoint::parse(text, false).unwrap();
            assert_eq!(endpoint.authority(), authority);
            // What HTTP/2 sends.
            assert_eq!(endpoint.uri.authority().unwrap().as_str(), authority);
            assert_eq!(endpoint.uri.path(), "/event");
        }
    }

    #[test]
    fn what_a_command_line_gives_is_refused_with_a_hint() {
        let refused = Endpoint::of("http://events.example/event", false).unwrap_err();
        assert!(refused.contains("off loopback; write `https://`"), "{refused}");
        assert!(Endpoint::of("http://events.example/event", true).is_ok());
    }

    #[test]
    fn a_websocket_has_either_spelling_and_is_as_safe() {
        for text in ["wss://a.example/event/realtime", "https://a.example/event/realtime"] {
            assert_eq!(websocket(text, false).unwrap(), "https://a.example/event/realtime");
        }
        assert_eq!(websocket("ws://127.0.0.1:1/x", false).unwrap(), "http://127.0.0.1:1/x");
        assert!(websocket("ws://emulator:8787/event/realtime", true).is_ok());
        for (text, why) in [
            ("", "wss://HOST"),
            ("a.example", "wss://HOST"),
            ("ftp://a.example/", "neither"),
            ("wss://", "wss://HOST"),
            ("ws://a.example/event/realtime", "off loopback"),
            ("wss://169.254.169.254/event/realtime", "link-local"),
            ("wss://me:secret@a.example/", "user info"),
            (
                "wss://a.example/event/realtime?token=secret",
                "write `wss://a.example/event/realtime`",
            ),
            ("ws://127.0.0.1:9/r#secret", "write `ws://127.0.0.1:9/r`"),
        ] {
            let refused = websocket(text, false).unwrap_err();
            assert!(refused.contains(why) && !refused.contains("secret"), "{text}: {refused}");
        }
    }

    #[test]
    fn refuses_unsafe_ones() {
        for (host, what) in [
            ("169.254.169.254", "is a link-local address"),
            ("[2002:a9fe:a9fe::]", "is a link-local address"),
            ("[64:ff9b:1::a9fe:a9fe]", "is a link-local address"),
            ("2852039166:8443", "is a link-local address"),
            ("100.100.100.200", "is an address of a cloud's metadata service"),
            ("0.0.0.0", "is not the address of one host"),
            ("255.255.255.255", "is not the address of one host"),
            ("metadata.google.internal", "is the name of a cloud's metadata service"),
        ] {
            for scheme in ["https", "http"] {
                let text = format!("{scheme}://{host}/event");
                assert_eq!(Endpoint::parse(&text, true).unwrap_err().1, what, "{text}");
            }
        }
        assert_eq!(refused("http://example.com/event"), "is plain `http` off loopback");
        assert_eq!(refused("http://localhost.example.com/event"), "is plain `http` off loopback");
        assert_eq!(refused("http://127.0.0.1.example.com/event"), "is plain `http` off loopback");
        assert_eq!(refused("https://me:secret@example.com/event"), "holds user info (`user@`)");
    }

    #[test]
    fn refuses_ports_that_there_are_not_and_names_that_nobody_has() {
        for port in ["0", "00", "65536", "99999", "", "+80", "8 0", "x", "1e3", "-1"] {
            for host in ["a.example", "[::1]", "127.0.0.1"] {
                let problem = refused(&format!("https://{host}:{port}/event"));
                let url = problem == "is not a URL";
                assert!(url || problem == "names a port that there is not", "{port}: {problem}");
            }
        }
        for port in [0, 99_999] {
            let problem = refused(&format!("https://a.example:{port}/event"));
            assert_eq!(problem, "names a port that there is not");
        }
        for host in ["１６９.254.169.254", "169。254。169。254", "①②7.0.0.1", "exämple.com"]
        {
            let problem = refused(&format!("https://{host}/event"));
            assert_eq!(problem, "names its host in characters that no host's name has");
        }
        for port in [1, 443, 65_535] {
            assert!(Endpoint::parse(&format!("https://a.example:{port}/event"), false).is_ok());
        }
    }

    #[test]
    fn refuses_other_forms() {
        assert_eq!(refused("example.com/event"), "is not a URL");
        assert_eq!(refused("https:///event"), "is not a URL");
        assert_eq!(refused("https://example.com/event x"), "is not a URL");
        assert_eq!(refused("wss://example.com/event"), "is neither `https` nor `http`");
        assert_eq!(refused("https://example.com"), "does not end in `/event`");
        assert_eq!(refused("https://example.com/event/"), "does not end in `/event`");
        assert_eq!(refused("https://example.com/event?x"), "has more behind its path");
        assert_eq!(refused("https://example.com/event#x"), "has more behind its path");
        assert_eq!(refused("https://example.com/graphql"), "is a GraphQL endpoint");
        assert!(
            refused("https://x.appsync-realtime-api.eu-west-1.amazonaws.com/event")
                .contains("realtime")
        );
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "(https?://)?[\\[\\]0-9a-fx.:%/#?@ é]{0,40}(/event)?") {
            let _ = Endpoint::parse(&text, true);
        }
    }
}
