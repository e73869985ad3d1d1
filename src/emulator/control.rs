//! Control requests for tests and people: the list of faults, and the counts of requests. They are on
//! the port of the API, below `/_emulator/`, where AWS has nothing.
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /_emulator/faults` | the list, each fault as it was written, with `asked` (requests in its scope), `struck` and `events` |
//! | `PUT /_emulator/faults` | replaces the list, with all counts at zero, and shows it |
//! | `DELETE /_emulator/faults` | empties the list |
//! | `GET /_emulator/stats` | `connections` with a publish, `requests` to publish, `accepted_requests` and `accepted_events`, all over HTTP; `cut_connections`, closed because they held too much memory for too long |
//!
//! A client that can change the faults can stop the API, so this exists only on the loopback, or on
//! request (`--control`). Requests of browsers from another origin are
//! refused.

use std::time::Instant;

use axum::body::Body;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;

use super::answer::{bad_request, json_answer};
use super::fault::Fault;
use super::service::Service;

/// The paths below it belong to the emulator, not to the API.
pub(super) const PREFIX: &str = "/_emulator/";

const FAULTS: &str = "/_emulator/faults";
const STATS: &str = "/_emulator/stats";

/// The largest list of faults.
const MAX_LIST_BYTES: usize = 1_000_000;

/// Answers a request below [`PREFIX`].
pub(super) async fn answer(service: &Service, request: Request<Incoming>) -> Response<Body> {
    if request.headers().contains_key(http::header::ORIGIN) {
        return bad_request(
            StatusCode::FORBIDDEN,
            "browsers may not send this from another origin",
        );
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
