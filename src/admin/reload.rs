//! `POST /reload`: reads the configuration again, and answers what came of it. For a peer on loopback that names this
//! machine, and for no one behind a proxy that can be seen, unless a token was shown.
//!
//! Not here: the reload itself, which the bridge does, one at a time; and pages of other sites, which the guard of the
//! port turns away.

use axum::extract::Request;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, post};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use super::status::clean;
use crate::listener::{Peer, hosts, is_loopback};

/// Reloads that may wait; more would do the same.
const MOST_WAITING: usize = 16;

/// Asks for reloads; cheap to clone.
#[derive(Clone, Debug)]
pub struct Reloader(mpsc::Sender<Asked>);

/// A reload that somebody asked for.
#[derive(Debug)]
pub struct Asked(oneshot::Sender<Answer>);

/// What came of a reload.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Of HTTP.
    pub status: u16,
    /// For scripts.
    pub body: Value,
}

/// One who asks for reloads, and what is asked.
pub fn reloader() -> (Reloader, mpsc::Receiver<Asked>) {
    let (sender, asked) = mpsc::channel(MOST_WAITING);
    (Reloader(sender), asked)
}

impl Reloader {
    /// Asks for a reload, behind all that wait already, and waits for its end; `None`: the bridge ends.
    pub async fn reload(&self) -> Option<Answer> {
        let (sender, answer) = oneshot::channel();
        self.0.send(Asked(sender)).await.ok()?;
        answer.await.ok()
    }

    /// As [`reload`](Self::reload), but `None` also when too many wait: strangers must not pile up.
    async fn try_reload(&self) -> Option<Answer> {
        let (sender, answer) = oneshot::channel();
        self.0.try_send(Asked(sender)).ok()?;
        answer.await.ok()
    }
}

impl Asked {
    /// Answers, if somebody still waits for it.
    pub fn answer(self, answer: Answer) {
        drop(self.0.send(answer));
    }
}

/// The route of `/reload`; `token`: whoever comes here has shown one.
pub(super) fn route<S: Clone + Send + Sync + 'static>(
    reloader: Reloader,
    token: bool,
) -> MethodRouter<S> {
    post(move |request: Request| async move {
        let answer = match allowed(&request, token) {
            Ok(()) => reloader.try_reload().await.unwrap_or_else(|| {
                refusal(503, "the bridge is ending, or many reloads wait already; try again")
            }),
            Err(why) => refusal(403, why),
        };
        answer.into_response()
    })
}

/// Whether a reload may be asked for like this, or why not.
fn allowed(request: &Request, token: bool) -> Result<(), &'static str> {
    let peer = request.extensions().get::<Peer>();
    if !peer.is_some_and(|Peer(peer)| peer.ip().to_canonical().is_loopback()) {
        return Err(
            "only a client on this machine may ask for a reload; there, SIGHUP does the same",
        );
    }
    if !hosts(request).all(is_loopback) {
        return Err("a reload is asked for by the name `localhost`, or an address of loopback");
    }
    if !token && is_forwarded(request.headers()) {
        return Err(
            "a proxy may not ask for a reload, unless `[admin]` has a `token`: who is behind it is not known",
        );
    }
    Ok(())
}

/// Whether a proxy says that it asks for somebody else. One that does not say so can't be told from a client.
fn is_forwarded(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| {
        let name = name.as_str();
        matches!(name, "forwarded" | "via" | "x-real-ip") || name.starts_with("x-forwarded")
    })
}

fn refusal(status: u16, why: &str) -> Answer {
    Answer { status, body: json!({ "result": "refused", "problems": [{ "message": why }] }) }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let Self { status, mut body } = self;
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        clean(&mut body);
        let headers = [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")];
        (status, headers, format!("{body}\n")).into_response()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn may(peer: &str, headers: &[(&str, &str)], token: bool) -> bool {
        let mut request = Request::post("/reload");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(axum::body::Body::empty()).unwrap();
        if let Ok(peer) = peer.parse() {
            request.extensions_mut().insert(Peer(peer));
        }
        allowed(&request, token).is_ok()
    }

    #[test]
    fn only_this_machine_may_ask_and_by_its_own_name() {
        const HERE: &str = "127.0.0.1:5000";
        assert!(may("[::1]:5000", &[], false) && may("[::ffff:127.0.0.1]:5000", &[], false));
        for peer in ["10.0.0.1:5000", "[::ffff:10.0.0.1]:5000", "unknown"] {
            assert!(!may(peer, &[("host", "localhost:9464")], true), "{peer}");
        }
        for (host, good) in [
            ("localhost:9464", true),
            ("[::1]:9464", true),
            ("127.0.0.1", true),
            // A name that a page has pointed here.
            ("evil.example:9464", false),
            ("localhost.evil.example", false),
            ("", false),
        ] {
            assert_eq!(may(HERE, &[("host", host)], true), good, "{host}");
        }
        assert!(!may(HERE, &[("host", "localhost"), ("host", "evil.example")], true));
    }

    #[test]
    fn who_is_behind_a_proxy_needs_the_token() {
        for name in ["forwarded", "via", "x-real-ip", "X-Forwarded-For", "x-forwarded-proto"] {
            let headers = [("host", "localhost:9464"), (name, "x")];
            let asked = [false, true].map(|token| may("127.0.0.1:5000", &headers, token));
            assert_eq!(asked, [false, true], "{name}");
        }
    }

    #[tokio::test]
    async fn too_many_are_refused_or_wait_and_an_end_is_no_answer() {
        let (reloader, mut asked) = reloader();
        let wait = || {
            tokio::spawn({
                let reloader = reloader.clone();
                async move { reloader.try_reload().await }
            })
        };
        let first = wait();
        let body = json!({ "generation": 2 });
        asked.recv().await.unwrap().answer(Answer { status: 200, body: body.clone() });
        assert_eq!(first.await.unwrap(), Some(Answer { status: 200, body: body.clone() }));
        let waiting: Vec<_> = (0..MOST_WAITING).map(|_| wait()).collect();
        while asked.len() < MOST_WAITING {
            tokio::task::yield_now().await;
        }
        assert_eq!(reloader.try_reload().await, None);
        // One that can't be told to try again has its turn after them.
        let mut patient = Box::pin(reloader.reload());
        assert_eq!(patient.as_mut().now_or_never(), None);
        for _ in 0..MOST_WAITING {
            asked.recv().await.unwrap();
            assert_eq!(patient.as_mut().now_or_never(), None);
        }
        let last = asked.recv().await.unwrap();
        last.answer(Answer { status: 200, body: body.clone() });
        assert_eq!(patient.await, Some(Answer { status: 200, body }));
        for each in waiting {
            assert_eq!(each.await.unwrap(), None);
        }
        drop(asked);
        assert_eq!(reloader.reload().await, None);
    }
}
