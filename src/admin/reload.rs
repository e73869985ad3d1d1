//! `POST /reload`: reads the configuration again, and answers what came of it. For a peer on loopback, and for no page
//! of another site: a browser would carry its request there.
//!
//! Not here: the reload itself, which the bridge does, one at a time.

use std::net::{IpAddr, SocketAddr};

use axum::extract::Request;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, HOST, ORIGIN};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, post};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use super::status::clean;
use crate::listener::Peer;

/// Reloads that may wait; more would do the same.
const MOST_WAITING: usize = 16;

/// Where a browser says whose page asks.
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

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
    /// Asks for a reload, and waits for its end; `None` when there is none, since the bridge ends or too many wait.
    pub async fn reload(&self) -> Option<Answer> {
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

/// The route of `/reload`.
pub(super) fn route<S: Clone + Send + Sync + 'static>(reloader: Reloader) -> MethodRouter<S> {
    post(move |request: Request| async move {
        let peer = request.extensions().get::<Peer>().map(|Peer(peer)| *peer);
        let answer = match allowed(peer, request.headers()) {
            Ok(()) => reloader.reload().await.unwrap_or_else(|| {
                refusal(503, "the bridge is ending, or many reloads wait already; try again")
            }),
            Err(why) => refusal(403, why),
        };
        answer.into_response()
    })
}

/// Whether a reload may be asked for from there, or why not.
fn allowed(peer: Option<SocketAddr>, headers: &HeaderMap) -> Result<(), &'static str> {
    if !peer.is_some_and(|peer| peer.ip().to_canonical().is_loopback()) {
        return Err(
            "only a client on this machine may ask for a reload; there, SIGHUP does the same",
        );
    }
    let text = |name: HeaderName| {
        headers.get_all(name).iter().map(|value| value.to_str().unwrap_or_default())
    };
    let host = text(HOST).next().filter(|host| is_here(host));
    let own = |origin: &str| {
        host.is_some_and(|host| {
            origin.strip_prefix("http://") == Some(host)
                || origin.strip_prefix("https://") == Some(host)
        })
    };
    let own_site = |site: &str| matches!(site, "same-origin" | "none");
    if text(ORIGIN).all(own) && text(FETCH_SITE).all(own_site) {
        Ok(())
    } else {
        Err("a page of another site may not ask for a reload")
    }
}

/// Whether a `host:port` names this machine, whatever a name server says.
fn is_here(host: &str) -> bool {
    let name = host.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok());
    let name = name.map_or(host, |(name, _)| name);
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost")
        || address.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
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
    use super::*;

    fn may(peer: &str, headers: &[(&'static str, &'static str)]) -> bool {
        let pairs = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
        let mut all = HeaderMap::new();
        for (name, value) in pairs {
            all.append(name, value);
        }
        allowed(Some(peer.parse().unwrap()), &all).is_ok()
    }

    #[test]
    fn only_this_machine_may_ask_and_no_page_of_another_site() {
        const HERE: &str = "127.0.0.1:5000";
        assert!(may(HERE, &[("host", "localhost:9464")]));
        assert!(may("[::1]:5000", &[]) && may("[::ffff:127.0.0.1]:5000", &[]));
        assert!(!may("10.0.0.1:5000", &[]) && !may("[::ffff:10.0.0.1]:5000", &[]));
        assert!(allowed(None, &HeaderMap::new()).is_err());

        let from = |host, origin| may(HERE, &[("host", host), ("origin", origin)]);
        assert!(from("localhost:9464", "http://localhost:9464"));
        assert!(from("[::1]:9464", "https://[::1]:9464") && from("127.0.0.1", "http://127.0.0.1"));
        for (host, origin) in [
            ("localhost:9464", "http://evil.example"),
            ("localhost:9464", "null"),
            ("localhost:9464", "http://localhost:8080"),
            ("localhost:9464", "http://localhost:9464.evil.example"),
            // A name that a page has pointed here.
            ("evil.example:9464", "http://evil.example:9464"),
            ("", "http://"),
        ] {
            assert!(!from(host, origin), "{host} {origin}");
        }
        let two = ["http://localhost", "http://evil.example"].map(|origin| ("origin", origin));
        assert!(!may(HERE, &[("host", "localhost"), two[0], two[1]]));
        for (site, good) in
            [("same-origin", true), ("none", true), ("same-site", false), ("cross-site", false)]
        {
            assert_eq!(may(HERE, &[("sec-fetch-site", site)]), good, "{site}");
        }
    }

    #[tokio::test]
    async fn too_many_that_wait_are_refused_and_an_end_is_no_answer() {
        let (reloader, mut asked) = reloader();
        let wait = || {
            tokio::spawn({
                let reloader = reloader.clone();
                async move { reloader.reload().await }
            })
        };
        let first = wait();
        let body = json!({ "generation": 2 });
        asked.recv().await.unwrap().answer(Answer { status: 200, body: body.clone() });
        assert_eq!(first.await.unwrap(), Some(Answer { status: 200, body }));
        let waiting: Vec<_> = (0..MOST_WAITING).map(|_| wait()).collect();
        while asked.len() < MOST_WAITING {
            tokio::task::yield_now().await;
        }
        assert_eq!(reloader.reload().await, None);
        drop(asked);
        for each in waiting {
            assert_eq!(each.await.unwrap(), None);
        }
    }
}
