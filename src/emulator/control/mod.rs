//! Control requests for tests and people: the list of faults, the counts of requests, and a page that shows what
//! goes on. They are on the port of the API, at `/` and below `/_emulator/`, where AWS has nothing.
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /` | the page |
//! | `GET /_emulator/view` | what the page shows: channels, subscriptions, the last events, faults, how to connect |
//! | `POST /_emulator/publish` | publishes `{"channel":…,"events":[…]}` without a credential |
//! | `GET /_emulator/faults` | the list, each fault as it was written, with `asked` (requests in its scope), `struck` and `events` |
//! | `PUT /_emulator/faults` | replaces the list, with all counts at zero, and shows it |
//! | `DELETE /_emulator/faults` | empties the list |
//! | `GET /_emulator/stats` | `connections` with a publish, `requests` to publish, `accepted_requests` and `accepted_events`, all over HTTP; `cut_connections`, closed because they held too much memory for too long |
//!
//! A client that can change the faults can stop the API, so this exists only on the loopback, or on
//! request (`--control`). Requests of pages of other sites are refused, on the loopback those to another name, and
//! elsewhere those to a name with a dot, which somebody else's name server may have led here.

use std::time::Instant;

use axum::body::Body;
use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::answer::{bad_request, json_answer};
use super::fault::Fault;
use super::service::{Publish, Service};
use crate::event_api::sent::PublishRequest;
use crate::listener::{is_foreign, led_here, strange_host};

const PREFIX: &str = "/_emulator/";

const FAULTS: &str = "/_emulator/faults";
const STATS: &str = "/_emulator/stats";
const VIEW: &str = "/_emulator/view";
const PUBLISH: &str = "/_emulator/publish";

/// The files of the page, by path: their kind and their text.
const FILES: [(&str, &str, &str); 3] = [
    ("/", "text/html; charset=utf-8", include_str!("page/index.html")),
    ("/_emulator/page.css", "text/css; charset=utf-8", include_str!("page/page.css")),
    ("/_emulator/page.js", "text/javascript; charset=utf-8", include_str!("page/page.js")),
];

/// Only what is served here; in nobody's frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The largest body: a list of faults, or a publish.
const MAX_BYTES: usize = 2_000_000;

/// What a publish from the page is in the ledger and in the last events.
const PAGE: &str = "page";

/// Whether a path belongs to the emulator, not to the API.
pub(super) fn has(path: &str) -> bool {
    path == "/" || path.starts_with(PREFIX)
}

/// Answers a request at one of [these paths](has).
pub(super) async fn answer(service: &Service, request: Request<Incoming>) -> Response<Body> {
    if strange_host(service.local.ip(), &request).is_some() {
        return bad_request(
            StatusCode::FORBIDDEN,
            "this is no name of the emulator: ask `localhost`",
        );
    }
    if led_here(&request).is_some() {
        return bad_request(
            StatusCode::FORBIDDEN,
            "ask the emulator by its address, or by a name without a dot: any other could be anybody's",
        );
    }
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    if !reads && is_foreign(&request) {
        return bad_request(
            StatusCode::FORBIDDEN,
            "browsers may not send this from another origin",
        );
    }
    let file = FILES.iter().find(|(path, ..)| *path == request.uri().path());
    if let Some((_, kind, text)) = file {
        return if reads { file_answer(kind, text) } else { no_method() };
    }
    let faults = &service.faults;
    match (request.uri().path(), request.method()) {
        (FAULTS, &Method::GET) => {}
        (FAULTS, &Method::DELETE) => faults.replace(Vec::new(), Instant::now()),
        (FAULTS, &Method::PUT) => {
            let Some(body) = read(request).await else {
                return bad_request(StatusCode::PAYLOAD_TOO_LARGE, "the list can't be read");
            };
            match Fault::list(&body) {
                Ok(list) => faults.replace(list, Instant::now()),
                Err(why) => return bad_request(StatusCode::BAD_REQUEST, why.to_string()),
            }
        }
        (STATS, &Method::GET) => {
            return json_answer(StatusCode::OK, &service.stats.show(service.memory.cuts()));
        }
        (VIEW, &Method::GET) => return json_answer(StatusCode::OK, &view(service)),
        (PUBLISH, &Method::POST) => return publish(service, request).await,
        (FAULTS | STATS | VIEW | PUBLISH, _) => return no_method(),
        _ => return bad_request(StatusCode::NOT_FOUND, "there is nothing at this path"),
    }
    json_answer(StatusCode::OK, &faults.show())
}

async fn publish(service: &Service, request: Request<Incoming>) -> Response<Body> {
    let body = read(request).await;
    let asked = body.and_then(|body| PublishRequest::parse(&body).ok());
    let Some(asked) = asked else {
        return bad_request(StatusCode::BAD_REQUEST, "a publish has a `channel` and `events`");
    };
    let (channel, events) = (asked.channel.as_str(), asked.events.as_slice());
    match service.publish(Publish { request: PAGE, transport: PAGE, mode: None, channel, events }) {
        Ok(answer) => json_answer(StatusCode::OK, &answer),
        Err(why) => bad_request(StatusCode::BAD_REQUEST, why.to_string()),
    }
}

/// What the page shows.
fn view(service: &Service) -> Value {
    let (last, mut channels) = service.journal.show();
    let (sockets, subscriptions) = service.fanout.show();
    for (name, channel) in &mut channels {
        channel["name"] = json!(name);
        channel["receivers"] = json!(service.fanout.receivers(name));
    }
    channels.sort_by(|(a, _), (b, _)| a.cmp(b));
    let counts = service.journal.counts();
    let namespaces = service.namespaces.iter();
    let namespaces = namespaces.map(|it| json!({ "name": it.name(), "modes": it.words() }));
    let subscriptions = subscriptions.into_iter();
    let subscriptions =
        subscriptions.map(|(channel, count)| json!({ "channel": channel, "count": count }));
    json!({
        "endpoint": service.endpoint,
        "any_jwt": service.access.any_jwt,
        "verify_signatures": service.access.verify_signatures,
        "amplify": { "browser": service.amplify.browser, "node": service.amplify.node },
        "namespaces": namespaces.collect::<Vec<_>>(),
        "publishes": counts.publishes,
        "events": counts.events,
        "deliveries": counts.deliveries,
        "sockets": sockets,
        "subscriptions": subscriptions.collect::<Vec<_>>(),
        "channels": channels.into_iter().map(|(_, channel)| channel).collect::<Vec<_>>(),
        "last": last,
        "faults": service.faults.show(),
    })
}

async fn read(request: Request<Incoming>) -> Option<Bytes> {
    let body = Limited::new(request.into_body(), MAX_BYTES).collect().await;
    body.ok().map(http_body_util::Collected::to_bytes)
}

fn no_method() -> Response<Body> {
    bad_request(StatusCode::METHOD_NOT_ALLOWED, "the method is not supported here")
}

fn file_answer(kind: &'static str, text: &'static str) -> Response<Body> {
    let mut answer = Response::new(Body::from(text));
    for (name, value) in [
        (CONTENT_TYPE, kind),
        (CACHE_CONTROL, "no-cache"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
    ] {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    answer
}
