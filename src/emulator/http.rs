//! The HTTP side: `POST /event`, its preflight, and the upgrade to a WebSocket. The query string is
//! ignored, except by a signature.
//!
//! Known from public test suites that ran against AWS: the answer to a publish, the texts for a bad
//! key, for an unknown namespace and for more than five events. Guesses, without a public source:
//!
//! | case | guess |
//! | --- | --- |
//! | status of the known errors | 401 and 400, as the control plane has them |
//! | a wrong signature | 403 `InvalidSignatureException`, as AppSync answers GraphQL requests, with the text of the WebSocket |
//! | a signature of an unknown user, or with another session token | 403 `UnrecognizedClientException` |
//! | an unreadable signature | 403 `IncompleteSignatureException`, with the text of the WebSocket |
//! | a body, a channel or an event that cannot be read | 400 `BadRequestException`, the whole request |
//! | a body that ends early, or whose chunks cannot be read | 400 `BadRequestException` |
//! | a body over 1.2 MB | 413 `BadRequestException` |
//! | a body that takes longer than 30 s | 408 `BadRequestException` |
//! | a mode that the namespace does not take | 401 `UnauthorizedException`, with the text for a bad key |
//! | a ledger that cannot be written | 500 `InternalFailureException` |
//! | another method or path | 405, 404 `BadRequestException` |
//! | `x-amzn-appsync-TokensConsumed` | 1, for every answer |
//!
//! `x-amzn-errortype` is never sent: it makes Amplify send a bad request three times.
//!
//! `fault` decides on the faults of a publish; they are carried out here.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::body::Body;
use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use tokio::time::{sleep, sleep_until, timeout};
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::access::{Denied, Presented, SignatureFault, Signed};
use super::answer::{
    Failure, NOT_AUTHORIZED, bad_request, item, json_answer, json_text_answer, unknown_namespace,
};
use super::caller::Caller;
use super::control;
use super::fault::{Stage, Strike, Subject, answer_body};
use super::memory::{Holding, Side};
use super::realtime;
use super::service::{HTTP, Publish, Refusal, Service};
use crate::event_api::sent::{PublishRequest, Unreadable};
use crate::event_api::wire::{ErrorAnswer, PublishAnswer};
use crate::event_api::{Channel, EVENT_PATH, MAX_BODY_BYTES, REALTIME_PATH};
use crate::shutdown::Shutdown;

/// How much of an oversized body is read and dropped: a client that is still sending would miss the
/// answer.
const MAX_DISCARDED_BYTES: u64 = 16_000_000;

/// Time for a whole body; a slow one occupies a connection.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

const REQUEST_ID: HeaderName = HeaderName::from_static("x-amzn-requestid");

const TOKENS_CONSUMED: HeaderName = HeaderName::from_static("x-amzn-appsync-tokensconsumed");

/// A fault that ends the connection.
#[derive(Debug, thiserror::Error)]
#[error("the connection is cut on demand")]
pub(super) struct Cut;

/// A failure of a publish, and the status of its answer.
struct Rejection {
    status: StatusCode,
    failure: Failure,
}

/// A publish request, and the faults for it.
struct FaultedRequest<'a> {
    service: &'a Service,
    shutdown: &'a Shutdown,
    subject: Subject<'a>,
    /// Headers that faults add to the answer.
    headers: HeaderMap,
}

/// Answers any request; all of them pass here. `first` says whether a publish is the first of its
/// connection.
pub(super) async fn answer(
    service: Arc<Service>,
    sockets: TaskTracker,
    shutdown: Shutdown,
    client: SocketAddr,
    holding: Arc<Holding>,
    first: impl FnOnce() -> bool,
    request: Request<Incoming>,
) -> Result<Response<Body>, Cut> {
    let id = Uuid::new_v4().to_string();
    let caller = Caller { address: client, transport: HTTP };
    let mut response = match (request.uri().path(), request.method()) {
        (EVENT_PATH, &Method::POST) => {
            service.stats.request(first());
            event(&service, &shutdown, caller, &holding, &id, request).await?
        }
        (EVENT_PATH, &Method::OPTIONS) => preflight(request.headers()),
        (REALTIME_PATH, &Method::GET) => {
            let (holding, parts) = (Arc::clone(&holding), request.into_parts().0);
            realtime::upgrade(service, sockets, shutdown, client, holding, parts).await
        }
        // `check --connect` asks so whether anybody is there, and a browser that is pointed here.
        (EVENT_PATH, &Method::GET | &Method::HEAD) => {
            caller.asked();
            bad_request(StatusCode::METHOD_NOT_ALLOWED, "the method is not supported here")
        }
        (path @ (EVENT_PATH | REALTIME_PATH), method) => {
            let hint = "`POST /event` publishes, `GET /event/realtime` opens a WebSocket";
            caller.refused("request", None, format!("{method} {path} does not exist"), hint);
            bad_request(StatusCode::METHOD_NOT_ALLOWED, "the method is not supported here")
        }
        (path, _) if service.control && control::has(path) => {
            let response = control::answer(&service, request).await;
            holding.clear(Side::Read);
            return Ok(response);
        }
        (path, _) => {
            let hint = "the endpoint is `/event`, and `/event/realtime` for a WebSocket";
            caller.refused("request", Some(path), "there is nothing at this path", hint);
            bad_request(StatusCode::NOT_FOUND, "there is nothing at this path")
        }
    };
    // What was read of the request is used or dropped: a connection that lives on starts with nothing.
    holding.clear(Side::Read);
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID, id);
    }
    headers.insert(TOKENS_CONSUMED, HeaderValue::from_static("1"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(
        header::ACCESS_CONTROL_EXPOSE_HEADERS,
        HeaderValue::from_static("x-amzn-RequestId,x-amzn-appsync-TokensConsumed,Date"),
    );
    Ok(response)
}

/// Answers a publish, with its faults.
async fn event(
    service: &Service,
    shutdown: &Shutdown,
    caller: Caller,
    holding: &Holding,
    id: &str,
    request: Request<Incoming>,
) -> Result<Response<Body>, Cut> {
    let (parts, body) = request.into_parts();
    let body = read(Body::new(body), holding).await;
    // Complete and used at once, or dropped.
    holding.clear(Side::Read);
    let body = match body {
        Ok(body) => body,
        Err(rejection) => return Ok(rejection.answer(caller, None)),
    };
    let request = PublishRequest::parse(&body);
    let channel = request.as_ref().ok().and_then(|request| Channel::parse(&request.channel).ok());
    let subject = Subject {
        channel: channel.as_ref(),
        events: request.as_ref().map_or(0, |request| request.events.len()),
    };
    let mut faulted = FaultedRequest { service, shutdown, subject, headers: HeaderMap::new() };
    let clock = service.faults.clock(subject, Instant::now());
    if let Some(clock) = clock {
        let date = HeaderValue::try_from(httpdate::fmt_http_date(clock));
        faulted.headers.extend(date.map(|date| (header::DATE, date)));
    }
    let mut response = if let Some(response) = faulted.strikes(Stage::Arrived).await? {
        response
    } else {
        let now = clock.unwrap_or_else(SystemTime::now);
        let named = request.as_ref().ok().map(|request| request.channel.clone());
        match publish(service, id, &parts, &body, request, now) {
            Ok(answer) => {
                caller.published(named.as_deref().unwrap_or_default(), &answer);
                let wrong = service.faults.wrong(subject, Instant::now());
                json_text_answer(StatusCode::OK, answer_body(answer, wrong))
            }
            Err(rejection) => rejection.answer(caller, named.as_deref()),
        }
    };
    if let Some(instead) = faulted.strikes(Stage::Answered).await? {
        response = instead;
    }
    if !service.latency.is_zero() {
        wait(service.latency, shutdown).await;
    }
    response.headers_mut().extend(faulted.headers);
    Ok(response)
}

impl FaultedRequest<'_> {
    /// Carries out the faults of a stage; returns the answer if one of them sets it.
    async fn strikes(&mut self, stage: Stage) -> Result<Option<Response<Body>>, Cut> {
        let faults = &self.service.faults;
        if faults.is_empty() {
            return Ok(None);
        }
        // Subscribed before the list is read, or a change in between would be missed.
        let mut changes = faults.changes();
        for strike in faults.strikes(stage, self.subject, Instant::now()) {
            match strike {
                Strike::Wait(delay) => wait(delay, self.shutdown).await,
                Strike::Hang(end) => tokio::select! {
                    // A new list ends the other faults of this request, too.
                    _ = changes.changed() => return Ok(None),
                    () = sleep_until_some(end) => {}
                    () = self.shutdown.drain() => return Err(Cut),
                },
                Strike::Cut => return Err(Cut),
                Strike::Answer(answer) => return Ok(Some(answer)),
                Strike::Headers(headers) => self.headers.extend(headers),
            }
        }
        Ok(None)
    }
}

impl Rejection {
    fn bad_request(
        status: StatusCode,
        why: impl Into<Cow<'static, str>>,
        hint: &'static str,
    ) -> Self {
        Self { status, failure: Failure::bad_request(why, hint) }
    }

    /// Logs the refusal and returns the answer.
    fn answer(self, caller: Caller, channel: Option<&str>) -> Response<Body> {
        let errors = self.failure.report(caller, "publish", channel);
        json_answer(self.status, &ErrorAnswer { errors })
    }
}

/// Waits for `delay`, or until the drain, so that a stop is not delayed.
async fn wait(delay: Duration, shutdown: &Shutdown) {
    tokio::select! {
        () = sleep(delay) => {}
        () = shutdown.drain() => {}
    }
}

async fn sleep_until_some(end: Option<Instant>) {
    match end {
        Some(end) => sleep_until(end.into()).await,
        None => std::future::pending().await,
    }
}

fn publish(
    service: &Service,
    id: &str,
    parts: &http::request::Parts,
    body: &Bytes,
    request: Result<PublishRequest, Unreadable>,
    now: SystemTime,
) -> Result<PublishAnswer, Rejection> {
    let presented = Presented::headers(&parts.headers);
    let query = parts.uri.query().unwrap_or_default();
    let own_host = presented.one("host").unwrap_or_default();
    let signed = Signed { presented: &presented, own_host, query, payload: body };
    let mode = service.access.check(signed, now).map_err(|why| denied(&why))?;
    let request = request.map_err(|e| {
        let why = format!("the body is no publish request: {e}");
        let hint = r#"send `{"channel":"/demo/a","events":["{}"]}`: each event is a text of JSON"#;
        Rejection::bad_request(StatusCode::BAD_REQUEST, why, hint)
    })?;
    let publish = Publish {
        request: id,
        transport: HTTP,
        mode: Some(mode),
        channel: &request.channel,
        events: &request.events,
    };
    service.publish(publish).map_err(|refusal| refused(&refusal))
}

async fn read(body: Body, holding: &Holding) -> Result<Bytes, Rejection> {
    let late = |_| {
        let hint = "send the body directly after its head";
        let why = "the body did not come within 30 s";
        Err(Rejection::bad_request(StatusCode::REQUEST_TIMEOUT, why, hint))
    };
    timeout(BODY_TIMEOUT, read_whole(body, holding)).await.unwrap_or_else(late)
}

async fn read_whole(mut body: Body, holding: &Holding) -> Result<Bytes, Rejection> {
    if body.size_hint().lower() <= MAX_BODY_BYTES as u64 {
        match Limited::new(&mut body, MAX_BODY_BYTES).collect().await {
            Ok(whole) => return Ok(whole.to_bytes()),
            Err(e) if e.is::<LengthLimitError>() => {}
            Err(_) => {
                let hint = "send as many bytes as `content-length` says, or whole chunks";
                let why = "the body ended early or cannot be read";
                return Err(Rejection::bad_request(StatusCode::BAD_REQUEST, why, hint));
            }
        }
    }
    discard(body, holding).await;
    let hint = "send fewer or smaller events";
    let why = "the body is larger than 1.2 MB";
    Err(Rejection::bad_request(StatusCode::PAYLOAD_TOO_LARGE, why, hint))
}

async fn discard(mut body: Body, holding: &Holding) {
    let mut left = MAX_DISCARDED_BYTES;
    holding.clear(Side::Read);
    while let Some(Ok(frame)) = body.frame().await {
        holding.clear(Side::Read);
        let size = frame.data_ref().map_or(0, Bytes::len) as u64;
        if size > left {
            return;
        }
        left -= size;
    }
}

fn denied(denied: &Denied) -> Rejection {
    let (status, item) = match denied {
        Denied::NoCredential | Denied::UnknownKey | Denied::UnknownToken => {
            (StatusCode::UNAUTHORIZED, item("UnauthorizedException", NOT_AUTHORIZED))
        }
        Denied::UnknownUser | Denied::OtherSession => {
            let words = "The security token included in the request is invalid.";
            (StatusCode::FORBIDDEN, item("UnrecognizedClientException", words))
        }
        Denied::Signature(fault) => {
            let kind = match fault {
                SignatureFault::Incomplete(_) => "IncompleteSignatureException",
                _ => "InvalidSignatureException",
            };
            (StatusCode::FORBIDDEN, item(kind, fault.to_string()))
        }
    };
    Rejection { status, failure: Failure::new(item, denied, denied.hint()) }
}

fn refused(refusal: &Refusal) -> Rejection {
    let (status, item) = match refusal {
        Refusal::TooManyEvents => {
            (StatusCode::BAD_REQUEST, item("BadRequestException", "Input exceeded 5 event limit"))
        }
        Refusal::UnknownNamespace => (StatusCode::UNAUTHORIZED, unknown_namespace()),
        Refusal::OtherMode { .. } => {
            (StatusCode::UNAUTHORIZED, item("UnauthorizedException", NOT_AUTHORIZED))
        }
        Refusal::Ledger(_) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            item("InternalFailureException", refusal.to_string()),
        ),
        Refusal::NoEvents | Refusal::BadChannel { .. } | Refusal::NotJson { .. } => {
            (StatusCode::BAD_REQUEST, item("BadRequestException", refusal.to_string()))
        }
    };
    Rejection { status, failure: Failure::new(item, refusal, refusal.hint()) }
}

/// Allows the headers that the browser asks for: `*` would not include `authorization`.
fn preflight(asked: &HeaderMap) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST, OPTIONS"));
    if let Some(names) = asked.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
    }
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    response
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::stream::unfold;
    use tokio::time::Instant;

    use super::super::memory::Memory;
    use super::*;

    /// However it drips: time is the clock's of the test, and passes at once.
    #[tokio::test(start_paused = true)]
    async fn a_body_that_takes_too_long_is_refused() {
        let memory = Memory::new(usize::MAX);
        for (pause, in_time) in [(1, false), (3_600, false), (0, true)] {
            let drops = unfold(0, move |sent| async move {
                sleep(Duration::from_secs(pause)).await;
                (sent < 1_000).then_some((Ok::<_, Infallible>(" "), sent + 1))
            });
            let begun = Instant::now();
            let read =
                read(Body::from_stream(drops), &memory.holding("127.0.0.1:1".parse().unwrap()))
                    .await;
            match read {
                Ok(body) => assert!(in_time && body.len() == 1_000, "{pause}"),
                Err(refused) => {
                    assert_eq!((in_time, refused.status), (false, StatusCode::REQUEST_TIMEOUT));
                    assert_eq!(begun.elapsed().as_secs(), 30, "{pause}");
                }
            }
        }
    }
}
