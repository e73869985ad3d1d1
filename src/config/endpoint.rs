//! The address of an Event API, and which addresses may not be one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An HTTP endpoint that passed the checks: `https`, or `http` where that was allowed; a path of
/// `/event`; no user info; not link-local.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The whole URL, ending in `/event`.
    pub uri: http::Uri,
    /// The region in the name of a standard domain.
    pub region: Option<String>,
}

/// Why a text is no endpoint: a clause, and what to do.
pub(super) type Refusal = (Reason, String, Option<String>);

/// What a refusal is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// It is no such URL.
    Form,
    /// It would be unsafe.
    Safety,
}

impl Endpoint {
    /// Checks a URL; `http` off loopback only with `plaintext`.
    pub(super) fn parse(text: &str, plaintext: bool) -> Result<Self, Refusal> {
        let form = |problem: &str, hint: Option<&str>| {
            Err((Reason::Form, problem.to_owned(), hint.map(str::to_owned)))
        };
        let unsafe_ = |problem: &str, hint: &str| {
            Err((Reason::Safety, problem.to_owned(), Some(hint.to_owned())))
        };
        let Some((scheme, rest)) = text.split_once("://") else {
            return form("is not a URL", Some("write `\"https://…/event\"`"));
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        if authority.contains('@') {
            return unsafe_(
                "holds user info (`user@`)",
                "the bridge proves itself by `auth`; remove what stands before the `@`",
            );
        }
        let Ok(uri) = text.parse::<http::Uri>() else {
            return form("is not a URL", Some("write `\"https://…/event\"`"));
        };
        let host = uri.host().unwrap_or_default().to_ascii_lowercase();
        if host.is_empty() {
            return form("names no host", None);
        }
        let address = address(&host);
        if address.is_some_and(is_link_local) {
            return unsafe_(
                "is a link-local address",
                "such addresses serve an instance's own credentials, no Event API",
            );
        }
        match scheme.to_ascii_lowercase().as_str() {
            "https" => {}
            "http" if plaintext || is_loopback(&host) => {}
            "http" => {
                return unsafe_(
                    "is plain `http` off loopback",
                    "write `https://`; for an emulator in another container, `dangerously_plaintext = true`",
                );
            }
            _ => return form("is neither `https` nor `http`", Some("write `\"https://…/event\"`")),
        }
        if host.contains(".appsync-realtime-api.") {
            let hint = host.replace(".appsync-realtime-api.", ".appsync-api.");
            return form(
                "is the realtime endpoint, which takes subscriptions",
                Some(&format!("events are published to `https://{hint}/event`")),
            );
        }
        if text.contains('#') || uri.query().is_some() {
            return form("has more behind its path", Some("it ends in `/event`"));
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
                return form(
                    "is the realtime endpoint, which takes subscriptions",
                    Some("events are published to the HTTP endpoint, which ends in `/event`"),
                );
            }
            path => {
                let hint =
                    format!("its path is exactly `/event`, not {}", super::problem::quoted(path));
                return form("does not end in `/event`", Some(&hint));
            }
        }
        let region = region(&host);
        Ok(Self { uri, region })
    }

    /// The host with its port if the URL names one, as the `host` header carries it.
    pub fn authority(&self) -> &str {
        let authority = self.uri.authority().map_or("", http::uri::Authority::as_str);
        match (self.uri.scheme_str(), self.uri.port_u16()) {
            (Some("https"), Some(443)) | (Some("http"), Some(80)) => {
                self.uri.host().unwrap_or(authority)
            }
            _ => authority,
        }
    }
}

/// Whether a host is this machine: 127.0.0.0/8, `::1` or `localhost`.
pub(super) fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || address(host).is_some_and(|address| match address {
            IpAddr::V4(v4) => v4.is_loopback(),
            IpAddr::V6(v6) => v6.is_loopback(),
        })
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

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => {
            let [first, second, ..] = v6.segments();
            v6.is_unicast_link_local() || (first == 0xfd00 && second == 0x0ec2)
        }
    }
}

/// A host's address in any spelling a resolver takes: `169.254.169.254`, `0xa9fea9fe`, `2852039166`,
/// `[::ffff:a9fe:a9fe]`. An IPv4 address inside of an IPv6 one counts as what it stands for.
fn address(host: &str) -> Option<IpAddr> {
    let host = host.strip_suffix('.').unwrap_or(host);
    if let Some(inner) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        let inner = inner.split('%').next().unwrap_or(inner);
        return inner.parse::<Ipv6Addr>().ok().map(unwrapped);
    }
    if let Ok(v6) = host.parse::<Ipv6Addr>() {
        return Some(unwrapped(v6));
    }
    let parts: Vec<u32> = host.split('.').map(number).collect::<Option<_>>()?;
    let (last, leading) = parts.split_last()?;
    if leading.len() > 3 || leading.iter().any(|part| *part > 255) {
        return None;
    }
    let room = 8 * (4 - u32::try_from(leading.len()).ok()?);
    if room < 32 && last >> room != 0 {
        return None;
    }
    let high = leading.iter().zip([24, 16, 8]).fold(0, |sum, (part, shift)| sum | part << shift);
    Some(Ipv4Addr::from(high | last).into())
}

fn unwrapped(v6: Ipv6Addr) -> IpAddr {
    let translated = v6.segments()[..6] == [0x64, 0xff9b, 0, 0, 0, 0];
    let compatible = v6.segments()[..6] == [0; 6] && !v6.is_loopback();
    let [.., a, b, c, d] = v6.octets();
    match v6.to_ipv4_mapped() {
        Some(v4) => v4.into(),
        None if translated || compatible => Ipv4Addr::new(a, b, c, d).into(),
        None => v6.into(),
    }
}

/// A number as C reads it: decimal, `0x…`, or octal behind a `0`.
fn number(text: &str) -> Option<u32> {
    if !text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'x') {
        return None;
    }
    if let Some(hex) = text.strip_prefix("0x") {
        return if hex.is_empty() { Some(0) } else { u32::from_str_radix(hex, 16).ok() };
    }
    let radix = if text.len() > 1 && text.starts_with('0') { 8 } else { 10 };
    u32::from_str_radix(text, radix).ok()
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
    fn refuses_unsafe_ones() {
        for host in [
            "169.254.169.254",
            "169.254.1.1",
            "2852039166",
            "0xa9fea9fe",
            "0xA9.254.0xa9.254",
            "0251.0376.0251.0376",
            "169.254.43518",
            "169.16689662",
            "169.254.169.254.",
            "[fe80::1]",
            "[febf::1]",
            "[fd00:ec2::254]",
            "[::ffff:169.254.169.254]",
            "[::ffff:a9fe:a9fe]",
            "[::169.254.169.254]",
            "[64:ff9b::a9fe:a9fe]",
        ] {
            for scheme in ["https", "http"] {
                let text = format!("{scheme}://{host}/event");
                let problem = Endpoint::parse(&text, true).unwrap_err().1;
                assert_eq!(problem, "is a link-local address", "{text}");
            }
        }
        assert_eq!(refused("http://example.com/event"), "is plain `http` off loopback");
        assert_eq!(refused("http://localhost.example.com/event"), "is plain `http` off loopback");
        assert_eq!(refused("http://127.0.0.1.example.com/event"), "is plain `http` off loopback");
        assert_eq!(refused("https://me:secret@example.com/event"), "holds user info (`user@`)");
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
