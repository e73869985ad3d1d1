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

use std::time::Instant;

use axum::body::Body;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;

use super::answer::{bad_request, json_answer};
use super::fault::Fault;
use super::service::Service;

/// Everything below is of the emulator itself.
pub(super) const PREFIX: &str = "/_emulator/";

const FAULTS: &str = "/_emulator/faults";
const STATS: &str = "/_emulator/stats";

/// A list of faults is small.
const MAX_LIST_BYTES: usize = 1_000_000;

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
