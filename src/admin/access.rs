//! Who is answered on the admin port: whoever has the token, if there is one; on loopback no page of a browser that
//! is led here by the name of another host, and none of another site that would change something.
//!
//! Not here: whether the connection is encrypted, and what is answered.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_LENGTH, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::config::Secret;
use crate::listener::{is_foreign, strange_host};

/// A probe of Kubernetes has no token: it learns whether, and not why.
const OPEN: [&str; 2] = ["/livez", "/readyz"];

/// Nothing here reads a body.
const MAX_BODY_BYTES: u64 = 8 * 1024;

/// The rules of the port.
#[derive(Debug)]
pub(super) struct Access {
    listen: IpAddr,
    token: Option<Secret>,
}

impl Access {
    /// Of a port that is bound to `listen`.
    pub(super) fn new(listen: SocketAddr, token: Option<Secret>) -> Self {
        Self { listen: listen.ip().to_canonical(), token }
    }

    /// Why a request gets no answer, whoever sends it.
    fn refusal(&self, request: &Request) -> Option<(StatusCode, String)> {
        let headers = request.headers();
        if let Some(other) = strange_host(self.listen, request) {
            let words = format!(
                "`{}` is no name of this port, which listens on loopback: ask `localhost` or `{}`, and let a proxy before it set `Host`\n",
                shown(other),
                self.listen
            );
            return Some((StatusCode::FORBIDDEN, words));
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) && is_foreign(request) {
            let words = "a page of another site may not ask for this\n".to_owned();
            return Some((StatusCode::FORBIDDEN, words));
        }
        let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
        if length.is_some_and(|length| length.parse().map_or(true, |n: u64| n > MAX_BODY_BYTES)) {
            let words = format!("a body has {MAX_BODY_BYTES} bytes at most here\n");
            return Some((StatusCode::PAYLOAD_TOO_LARGE, words));
        }
        None
    }

    /// Whether who is let through has shown a token.
    pub(super) fn asks_for_token(&self) -> bool {
        self.token.is_some()
    }

    /// Whether a request has the token, or none is asked for.
    async fn is_known(&self, headers: &HeaderMap) -> bool {
        let Some(token) = &self.token else { return true };
        let Some(presented) = presented(headers) else { return false };
        // A wrong one is no reason to look at the file sooner: strangers would decide how often it is read.
        same(&token.current().await, &presented)
    }
}

/// Lets a request through, or answers it.
pub(super) async fn guard(
    State(access): State<Arc<Access>>,
    request: Request,
    next: Next,
) -> Response {
    if let Some(refusal) = access.refusal(&request) {
        return refusal.into_response();
    }
    if access.is_known(request.headers()).await {
        return next.run(request).await;
    }
    let open = OPEN.contains(&request.uri().path())
        && matches!(*request.method(), Method::GET | Method::HEAD);
    if !open {
        let challenges = [
            (WWW_AUTHENTICATE, "Bearer realm=\"appsync-bridge\""),
            (WWW_AUTHENTICATE, "Basic realm=\"appsync-bridge\", charset=\"UTF-8\""),
            (CACHE_CONTROL, "no-store"),
        ];
        let words = "the token of `[admin]` is needed: `Authorization: Bearer TOKEN`, or in a browser any user with it as the password\n";
        let challenges = axum::response::AppendHeaders(challenges);
        return (StatusCode::UNAUTHORIZED, challenges, words).into_response();
    }
    let answer = next.run(request).await;
    let status = answer.status();
    let words = if status.is_success() { "yes\n" } else { "no; why is for who has the token\n" };
    (status, words).into_response()
}

/// The token that a request brings.
fn presented(headers: &HeaderMap) -> Option<Vec<u8>> {
    let (scheme, value) = headers.get(AUTHORIZATION)?.to_str().ok()?.trim().split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(value.trim().as_bytes().to_vec());
    }
    let both = scheme.eq_ignore_ascii_case("basic").then(|| STANDARD.decode(value.trim()))?.ok()?;
    let colon = both.iter().position(|byte| *byte == b':')?;
    Some(both[colon + 1..].to_vec())
}

/// In a time that tells neither where they differ nor how long the token is.
fn same(token: &str, presented: &[u8]) -> bool {
    let digests = [token.as_bytes(), presented].map(|text| digest(&SHA256, text));
    verify_slices_are_equal(digests[0].as_ref(), digests[1].as_ref()).is_ok()
}

/// A short text of a stranger's, that can be shown.
fn shown(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_graphic() && *c != '`').take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, target: &str, headers: &[(&str, &str)]) -> Request {
        let mut builder = Request::builder().method(method).uri(target);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(axum::body::Body::empty()).unwrap()
    }

    fn refused(access: &Access, request: &Request) -> u16 {
        access.refusal(request).map_or(200, |(status, _)| status.as_u16())
    }

    #[test]
    fn on_loopback_only_its_own_names_are_answered() {
        let access = |listen: &str| Access::new(listen.parse().unwrap(), None);
        let asked = |listen, host: &str| {
            let host = [("host", host)];
            refused(&access(listen), &request("GET", "/status", &host))
        };
        for listen in ["127.0.0.1:9464", "[::1]:9464", "127.0.0.7:1", "[::ffff:127.0.0.1]:1"] {
            for own in ["localhost", "LOCALHOST.:80", "127.0.0.1", "127.0.0.1:9464", "[::1]:7"] {
                assert_eq!(asked(listen, own), 200, "{own} at {listen}");
            }
            for own in ["[::1]", "[::ffff:127.0.0.1]:9464"] {
                assert_eq!(asked(listen, own), 200, "{own} at {listen}");
            }
            for other in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:9464"] {
                assert_eq!(asked(listen, other), 403, "{other} at {listen}");
            }
            for other in ["192.0.2.1", "", "a b", "localhost, evil", "localhost@evil", "[::2]"] {
                assert_eq!(asked(listen, other), 403, "{other} at {listen}");
            }
        }
        let loopback = access("127.0.0.1:1");
        // Whatever is written into the target, or a second time.
        let absolute = request("GET", "http://evil.example/status", &[("host", "localhost")]);
        assert_eq!(refused(&loopback, &absolute), 403);
        let twice = request("GET", "/", &[("host", "localhost"), ("host", "evil.example")]);
        assert_eq!(refused(&loopback, &twice), 403);
        // No browser leaves it away.
        assert_eq!(refused(&loopback, &request("GET", "/livez", &[])), 200);
        assert_eq!(asked("0.0.0.0:9464", "bridge.example"), 200);
    }

    #[test]
    fn what_changes_something_is_not_for_pages_of_other_sites() {
        let access = Access::new("0.0.0.0:9464".parse().unwrap(), None);
        for (headers, status) in [
            (vec![], 200),
            (vec![("origin", "http://a:9464")], 200),
            (vec![("origin", "http://a:9464"), ("sec-fetch-site", "same-origin")], 200),
            (vec![("origin", "http://a:9465")], 403),
            (vec![("origin", "https://A:9464"), ("origin", "http://a:9464")], 200),
            (vec![("origin", "http://a:9464"), ("origin", "http://evil.example")], 403),
            (vec![("origin", "ftp://a:9464")], 403),
            (vec![("origin", "http://")], 403),
            (vec![("origin", "http://a:9464.evil.example")], 403),
            (vec![("origin", "http://evil.example"), ("host", "evil.example")], 403),
            (vec![("origin", "null")], 403),
            (vec![("sec-fetch-site", "none"), ("sec-fetch-site", "cross-site")], 403),
            (vec![("sec-fetch-site", "cross-site")], 403),
            (vec![("sec-fetch-site", "same-site")], 403),
            (vec![("content-length", "8192")], 200),
            (vec![("content-length", "8193")], 413),
            (vec![("content-length", "99999999999999999999999")], 413),
        ] {
            let headers: Vec<_> = headers.into_iter().chain([("host", "a:9464")]).collect();
            assert_eq!(
                refused(&access, &request("POST", "/reload", &headers)),
                status,
                "{headers:?}"
            );
        }
        let without_host = request("POST", "/reload", &[("origin", "http://")]);
        assert_eq!(refused(&access, &without_host), 403);
        let link = request("GET", "/", &[("host", "a"), ("sec-fetch-site", "cross-site")]);
        assert_eq!(refused(&access, &link), 200, "a link to the page");
    }

    #[tokio::test]
    async fn the_token_is_taken_as_bearer_and_as_a_password() {
        let access = Access::new("0.0.0.0:1".parse().unwrap(), Some(Secret::new("s3:cret token")));
        let known = async |value: &str| {
            let request = request("GET", "/", &[("authorization", value)]);
            access.is_known(request.headers()).await
        };
        let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));
        for good in [
            "Bearer s3:cret token",
            "bearer  s3:cret token ",
            &basic("me:s3:cret token"),
            &basic(":s3:cret token"),
        ] {
            assert!(known(good).await, "{good}");
        }
        for bad in [
            "",
            "Bearer",
            "Bearer ",
            "s3:cret token",
            "Bearer s3:cret",
            "Bearer s3:cret tokenx",
            "Digest s3:cret token",
            "Basic !",
            &basic("s3:cret token"),
            &basic("s3:cret token:"),
        ] {
            assert!(!known(bad).await, "{bad}");
        }
        assert!(!access.is_known(&HeaderMap::new()).await);
    }
}
