//! Who may see the page and who may press its buttons. On loopback: no page that was led here by another name, and
//! none of another site that would change something. On another address: to change something, the token of the
//! printed address is needed, too.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use axum::extract::{Request, State};
use axum::http::{HeaderName, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use uuid::Uuid;

use crate::listener::{is_foreign, led_here, strange_host};

/// The header that brings the token. A browser sends it from the page's script alone.
const TOKEN: HeaderName = HeaderName::from_static("x-demo-token");

/// The rules of the page.
#[derive(Debug)]
pub(super) struct Access {
    listen: IpAddr,
    token: Option<String>,
}

impl Access {
    /// Of a page at `listen`; off loopback with a new token.
    pub(super) fn new(listen: SocketAddr) -> Self {
        let listen = listen.ip().to_canonical();
        let token = (!listen.is_loopback()).then(|| Uuid::new_v4().simple().to_string());
        Self { listen, token }
    }

    /// What has to be shown to change something.
    pub(super) fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    fn refusal(&self, request: &Request) -> Option<(StatusCode, &'static str)> {
        if strange_host(self.listen, request).is_some() {
            return Some((StatusCode::FORBIDDEN, "this is no name of the demo: ask `localhost`\n"));
        }
        if led_here(request).is_some() {
            let words = "ask the demo by its address: such a name could be anybody's\n";
            return Some((StatusCode::FORBIDDEN, words));
        }
        if matches!(*request.method(), Method::GET | Method::HEAD) {
            return None;
        }
        if is_foreign(request) {
            return Some((StatusCode::FORBIDDEN, "a page of another site may not ask for this\n"));
        }
        let token = self.token.as_deref()?;
        let shown = request.headers().get(TOKEN).map_or(&b""[..], |shown| shown.as_bytes());
        let wrong = verify_slices_are_equal(token.as_bytes(), shown).is_err();
        let words =
            "the token is missing: open the address that the terminal shows, with all of it\n";
        wrong.then_some((StatusCode::UNAUTHORIZED, words))
    }
}

/// Lets a request through, or answers it.
pub(super) async fn guard(
    State(access): State<Arc<Access>>,
    request: Request,
    next: Next,
) -> Response {
    match access.refusal(&request) {
        Some(refusal) => refusal.into_response(),
        None => next.run(request).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(access: &Access, method: &str, headers: &[(&str, &str)]) -> u16 {
        let mut request = Request::builder().method(method).uri("/break");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(axum::body::Body::empty()).unwrap();
        access.refusal(&request).map_or(200, |(status, _)| status.as_u16())
    }

    #[test]
    fn on_loopback_its_own_page_needs_no_token_and_others_do_not_get_in() {
        let access = Access::new("127.0.0.1:80".parse().unwrap());
        assert_eq!(access.token(), None);
        let own = [("host", "127.0.0.1:80"), ("origin", "http://127.0.0.1:80")];
        assert_eq!(refused(&access, "POST", &own), 200);
        assert_eq!(refused(&access, "GET", &[("host", "evil.example")]), 403);
        let foreign = [("host", "127.0.0.1:80"), ("origin", "http://evil.example")];
        assert_eq!(refused(&access, "POST", &foreign), 403);
        assert_eq!(refused(&access, "GET", &foreign), 200, "a link to the page");
    }

    #[test]
    fn elsewhere_everybody_looks_and_only_the_token_changes_something() {
        let access = Access::new("0.0.0.0:80".parse().unwrap());
        let token = access.token().unwrap().to_owned();
        let own = [("host", "192.0.2.7:80"), ("origin", "http://192.0.2.7:80")];
        assert_eq!(refused(&access, "GET", &own), 200);
        assert_eq!(refused(&access, "POST", &own), 401);
        assert_eq!(refused(&access, "GET", &[("host", "evil.example:80")]), 403);
        let with = |token: &str, origin: &str| {
            let headers = [("host", "192.0.2.7:80"), ("origin", origin), ("x-demo-token", token)];
            refused(&access, "POST", &headers)
        };
        assert_eq!(with(&token, "http://192.0.2.7:80"), 200);
        assert_eq!(with(&token[1..], "http://192.0.2.7:80"), 401);
        assert_eq!(with(&token, "http://evil.example"), 403);
    }
}
