//! The way in for tests and people: what to do wrong, and what has come so far. On the port of the
//! API, below `/_emulator/`; nothing of AWS is there.
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /_emulator/faults` | the list, each fault as it was written, with `asked` (requests it was meant for), `struck` and `events` |
//! | `PUT /_emulator/faults` | takes a list in the place of the one before, all counts at zero, and shows it |
//! | `DELETE /_emulator/faults` | takes an empty one |
//! | `GET /_emulator/stats` | `connections` that brought a publish, `requests` to publish, `accepted_requests` and `accepted_events`, all over HTTP; `cut_connections` that held too much for too long |
//!
//! Whoever may change the faults may stop the API, so this is there only on the loopback, or if it was
//! asked for. No browser is allowed in from another origin.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use axum::body::Body;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::fault::Fault;
use super::http::{bad_request, json_answer};
use super::service::Service;

/// Everything below is of the emulator itself.
pub(super) const PREFIX: &str = "/_emulator/";

const FAULTS: &str = "/_emulator/faults";
const STATS: &str = "/_emulator/stats";

/// A list of faults is small.
const MAX_LIST_BYTES: usize = 1_000_000;

/// What has come over HTTP.
#[derive(Default)]
pub(super) struct Stats {
    connections: AtomicU64,
    requests: AtomicU64,
    accepted_requests: AtomicU64,
    accepted_events: AtomicU64,
}

impl Stats {
    /// A request to publish, perhaps the first of its connection.
    pub(super) fn request(&self, first: bool) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.connections.fetch_add(u64::from(first), Ordering::Relaxed);
    }

    /// A request whose events were taken, this many of them.
    pub(super) fn accepted(&self, events: usize) {
        self.accepted_requests.fetch_add(1, Ordering::Relaxed);
        self.accepted_events.fetch_add(events as u64, Ordering::Relaxed);
    }

    fn show(&self, cuts: u64) -> Value {
        let number = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        json!({
            "cut_connections": cuts,
            "connections": number(&self.connections),
            "requests": number(&self.requests),
            "accepted_requests": number(&self.accepted_requests),
            "accepted_events": number(&self.accepted_events),
        })
    }
}

/// Answers a request below [`PREFIX`].
pub(super) async fn answer(service: &Service, request: Request<Incoming>) -> Response<Body> {
    if request.headers().contains_key(http::header::ORIGIN) {
        return bad_request(StatusCode::FORBIDDEN, "no browser is allowed in here");
    }
    let faults = &service.faults;
    match (request.uri().path(), request.method()) {
        (FAULTS, &Method::GET) => {}
        (FAULTS, &Method::DELETE) => faults.replace(Vec::new(), Instant::now()),
        (FAULTS, &Method::PUT) => {
            let body = Limited::new(request.into_body(), MAX_LIST_BYTES).collect().await;
            let Ok(body) = body else {
                return bad_request(StatusCode::PAYLOAD_TOO_LARGE, "the list can't be read");
            };
            match Fault::list(&body.to_bytes()) {
                Ok(list) => faults.replace(list, Instant::now()),
                Err(why) => return bad_request(StatusCode::BAD_REQUEST, why.to_string()),
            }
        }
        (STATS, &Method::GET) => {
            return json_answer(StatusCode::OK, &service.stats.show(service.memory.cuts()));
        }
        (FAULTS | STATS, _) => {
            return bad_request(StatusCode::METHOD_NOT_ALLOWED, "the method is not supported here");
        }
        _ => return bad_request(StatusCode::NOT_FOUND, "there is nothing at this path"),
    }
    json_answer(StatusCode::OK, &faults.show())
}
