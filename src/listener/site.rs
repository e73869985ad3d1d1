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
