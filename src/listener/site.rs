//! What a browser says of the page that sends a request: by which name it was led here, and whether that page is of
//! this site. A port on loopback is reached by every page that its user opens; this tells them apart.

use std::net::IpAddr;

use http::header::{HOST, ORIGIN};
use http::uri::Authority;
use http::{HeaderMap, HeaderName, Request};

/// A browser's word of whether the page that asks is of this site.
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The hosts that a request names. A target in absolute form is what counts, and who sends one can send any `Host`
/// beside it.
pub fn hosts<B>(request: &Request<B>) -> impl Iterator<Item = &str> {
    values(request.headers(), &HOST).chain(request.uri().authority().map(Authority::as_str))
}

/// Whether a `Host` names this machine, whatever a name server says.
#[must_use]
pub fn is_loopback(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    authority.host().trim_end_matches('.').eq_ignore_ascii_case("localhost")
        || address(host).is_some_and(|ip| ip.is_loopback())
}

/// The first host by which a port that listens on `listen` should not be asked: on loopback, each that is no name
/// of this machine, as that of a page whose name was led here.
pub fn strange_host<B>(listen: IpAddr, request: &Request<B>) -> Option<&str> {
    let is_own = |host: &str| is_loopback(host) || address(host) == Some(listen);
    if listen.is_loopback() { hosts(request).find(|host| !is_own(host)) } else { None }
}

/// The first host of a request that somebody else's name server may have led here: a name with a dot in it. Without a
/// dot it is a name of this network (of a container, a machine), and an address is what it is.
pub fn led_here<B>(request: &Request<B>) -> Option<&str> {
    let is_own = |host: &str| {
        let Ok(authority) = host.parse::<Authority>() else { return false };
        let name = authority.host().trim_end_matches('.');
        is_loopback(host) || address(host).is_some() || !(name.is_empty() || name.contains('.'))
    };
    hosts(request).find(|host| !is_own(host))
}

/// Whether a browser says that a page of another site asks: by any of the values, if there are several.
pub fn is_foreign<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    let own_site = |site: &str| matches!(site, "same-origin" | "none");
    let own_origin = |origin: &str| {
        let host = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        let mut hosts = hosts(request).peekable();
        host.is_some_and(|own| {
            hosts.peek().is_some() && hosts.all(|host| host.eq_ignore_ascii_case(own))
        })
    };
    !values(headers, &FETCH_SITE).all(own_site) || !values(headers, &ORIGIN).all(own_origin)
}

/// The address that a `Host` is.
fn address(host: &str) -> Option<IpAddr> {
    let authority = host.parse::<Authority>().ok()?;
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    Some(name.parse::<IpAddr>().ok()?.to_canonical())
}

/// All values of a header; one that is no text is none that is good.
fn values<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers.get_all(name).iter().map(|value| value.to_str().unwrap_or("?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_name_with_a_dot_may_have_been_led_here() {
        let led = |host: &str| {
            let request = Request::builder().uri("/").header(HOST, host).body(()).unwrap();
            led_here(&request).is_some()
        };
        for own in ["emulator:8787", "box", "192.0.2.7:80", "[2001:db8::1]:80", "localhost", "BOX."]
        {
            assert!(!led(own), "{own}");
        }
        for other in ["evil.example:8787", "box.local", "a.b.", "192.0.2.7.evil.example", "", "a b"]
        {
            assert!(led(other), "{other}");
        }
        let absolute = Request::get("http://evil.example/").header(HOST, "box").body(()).unwrap();
        assert_eq!(led_here(&absolute), Some("evil.example"));
        assert_eq!(led_here(&Request::get("/").body(()).unwrap()), None);
    }
}
