//! The WebSocket side: one conversation a connection, from the upgrade to its close.
//!
//! The credentials of the connection come among the subprotocols or as headers of the upgrade, and
//! are judged only when the client says `connection_init`: Amplify would not hear an earlier
//! `connection_error`. Each `subscribe` and `publish` brings its own.
//!
//! Guesses, as nothing public shows what AWS does:
//!
//! | case | guess |
//! | --- | --- |
//! | an upgrade that does not name `aws-appsync-event-ws` | HTTP 400 |
//! | an operation before `connection_init` | as after it, if the connection may connect |
//! | after `connection_error` | closed with 1000 |
//! | a signature that does not hold, on connect | errorCode 400 beside the seen `BadRequestException` |
//! | a signature of an unknown user | `UnauthorizedException` |
//! | an id that is live already | `subscribe_error` `DuplicatedOperationError` |
//! | more than 200 subscriptions | `subscribe_error` `MaxSubscriptionsReachedError` |
//! | more than 25 publishes a second | `publish_error` `LimitExceededError`; 25 at once, then 25 a second |
//! | a channel, an id or an event that cannot be read, a publish over 1.2 MB | `BadRequestException` |
//! | a frame that cannot be read | `error` `UnsupportedOperation`, the connection stays |
//!
//! The cut after 24 hours is not emulated, nor is the window after a subscription in which AWS may
//! miss events.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::body::Body;
use axum::extract::FromRequestParts as _;
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade, close_code};
use axum::response::IntoResponse as _;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use http::request::Parts;
use http::{HeaderMap, Response, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::access::{Denied, Presented, subprotocol_object};
use super::fanout::{Inbox, Outbox};
use super::http::{NOT_AUTHORIZED, bad_request, item, unknown_namespace};
use super::hub::{ConnectionId, Pattern, Refused};
use super::rate::Rate;
use super::service::{Publish, Refusal, Service};
use super::signature::Signed;
use crate::event_api::wire::{ClientFrame, ErrorItem, ServerFrame};
use crate::event_api::{
    CONNECTION_TIMEOUT_MS, MAX_BODY_BYTES, MAX_ID_CHARS, MAX_SOCKET_PUBLISHES_PER_SECOND,
    SUBPROTOCOL,
};
use crate::shutdown::Shutdown;

/// Bytes of one incoming message. Amplify's publish frame holds its events twice, escaped, so this
/// is well above the limit of a publish.
const MAX_MESSAGE_BYTES: usize = 8 * 1024 * 1024;

/// How long a client may take to answer a close.
const CLOSE_GRACE: Duration = Duration::from_secs(1);

/// Answers an upgrade; the conversation runs as a task of `sockets`.
pub(super) async fn upgrade(
    service: Arc<Service>,
    sockets: TaskTracker,
    shutdown: Shutdown,
    mut parts: Parts,
) -> Response<Body> {
    let upgrade = match WebSocketUpgrade::from_request_parts(&mut parts, &()).await {
        Ok(upgrade) => upgrade.protocols([SUBPROTOCOL]).max_message_size(MAX_MESSAGE_BYTES),
        Err(rejection) => return rejection.into_response(),
    };
    if upgrade.selected_protocol().is_none() {
        let message = "the subprotocol `aws-appsync-event-ws` is missing";
        return bad_request(StatusCode::BAD_REQUEST, message);
    }
    // Taken before the answer, so that a stopping emulator waits for the conversation.
    let token = sockets.token();
    upgrade.max_frame_size(MAX_MESSAGE_BYTES).on_upgrade(async move |socket| {
        converse(service, shutdown, parts.headers, socket).await;
        drop(token);
    })
}

/// Runs a conversation to its end, whoever ends it.
async fn converse(
    service: Arc<Service>,
    shutdown: Shutdown,
    headers: HeaderMap,
    socket: WebSocket,
) {
    let (id, outbox, inbox) = service.fanout.join();
    let close = CancellationToken::new();
    let (sink, frames) = socket.split();
    let mut conversation = Conversation {
        service: &service,
        id,
        outbox: &outbox,
        close: &close,
        connect: connect_credentials(&service, &headers),
        acknowledged: false,
        rate: Rate::new(MAX_SOCKET_PUBLISHES_PER_SECOND, Instant::now()),
    };
    tokio::select! {
        () = conversation.listen(frames) => {}
        () = write(sink, inbox, &close) => {}
        () = outbox.overflowed() => {}
        () = async { shutdown.drain().await; close.cancel(); sleep(CLOSE_GRACE).await } => {}
        () = shutdown.abort() => {}
    }
    service.fanout.leave(id);
}

/// Whether the upgrade may connect: by its auth object, or else by its own headers.
fn connect_credentials(service: &Service, headers: &HeaderMap) -> Result<(), Denied> {
    let object = subprotocol_object(headers);
    let presented = match &object {
        Some(object) => Presented::object(object),
        None => Presented::headers(headers),
    };
    let signed = Signed { presented: &presented, query: "", payload: b"{}" };
    service.access.check(signed, SystemTime::now())
}

/// Writes what is queued, then the close once it is asked for, and lets the client answer that.
async fn write(
    mut sink: SplitSink<WebSocket, Message>,
    mut inbox: Inbox,
    close: &CancellationToken,
) {
    loop {
        let frame = tokio::select! {
            biased;
            Some(frame) = inbox.next() => frame,
            () = close.cancelled() => break,
        };
        if feed(&mut sink, &mut inbox, frame).await.is_err() {
            return;
        }
    }
    // The service closes with 1000 even after failures.
    let normal = CloseFrame { code: close_code::NORMAL, reason: Utf8Bytes::default() };
    if sink.send(Message::Close(Some(normal))).await.is_ok() {
        sleep(CLOSE_GRACE).await;
    }
}

/// Writes `frame` and all that is queued behind it, with one flush.
async fn feed(
    sink: &mut SplitSink<WebSocket, Message>,
    inbox: &mut Inbox,
    frame: Utf8Bytes,
) -> Result<(), axum::Error> {
    sink.feed(Message::Text(frame)).await?;
    while let Some(frame) = inbox.try_next() {
        sink.feed(Message::Text(frame)).await?;
    }
    sink.flush().await
}

/// What a connection is in the middle of.
struct Conversation<'a> {
    service: &'a Service,
    id: ConnectionId,
    outbox: &'a Outbox,
    close: &'a CancellationToken,
    connect: Result<(), Denied>,
    acknowledged: bool,
    rate: Rate,
}

/// What can be told of a frame that is not understood.
#[derive(Deserialize)]
struct Unread {
    r#type: Option<String>,
    id: Option<String>,
}

impl Conversation<'_> {
    /// Reads until the client is gone.
    async fn listen(&mut self, mut frames: SplitStream<WebSocket>) {
        let mut keep_alive = interval(self.service.keep_alive);
        keep_alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let message = tokio::select! {
                message = frames.next() => message,
                _ = keep_alive.tick(), if self.acknowledged => {
                    self.outbox.push(&ServerFrame::Ka);
                    continue;
                }
            };
            let before = self.acknowledged;
            match message {
                // Nothing is done any more for a client that is being sent away.
                Some(Ok(_)) if self.close.is_cancelled() => {}
                Some(Ok(Message::Text(text))) => self.hear(&text),
                Some(Ok(Message::Binary(_))) => self.outbox.push(&not_understood("binary frames")),
                Some(Ok(_)) => {} // pings are answered below us; a close ends the stream
                Some(Err(_)) | None => return,
            }
            if self.acknowledged && !before {
                // The first `ka` stands behind the ack; the next one is due a full period later.
                keep_alive.reset();
            }
        }
    }

    fn hear(&mut self, text: &str) {
        let frame = match serde_json::from_str(text) {
            Ok(frame) => frame,
            Err(e) => return self.misheard(text, &e),
        };
        if let Err(denied) = self.connect {
            let (mut errors, code) = match denied {
                Denied::Signature(_) => (denied_item(denied), 400),
                Denied::Unauthorized | Denied::UnknownUser => (denied_item(denied), 401),
            };
            errors.error_code = Some(code);
            self.outbox.push(&ServerFrame::ConnectionError { errors: vec![errors] });
            self.close.cancel();
            return;
        }
        match frame {
            ClientFrame::ConnectionInit => {
                let connection_timeout_ms = CONNECTION_TIMEOUT_MS;
                self.outbox.push(&ServerFrame::ConnectionAck { connection_timeout_ms });
                self.outbox.push(&ServerFrame::Ka);
                self.acknowledged = true;
            }
            ClientFrame::Subscribe { id, channel, authorization } => {
                if let Err(error) = self.subscribe(&id, &channel, &authorization) {
                    let errors = vec![error];
                    self.outbox.push(&ServerFrame::SubscribeError { id: &id, errors });
                }
            }
            ClientFrame::Unsubscribe { id } => {
                self.outbox.push(&if self.service.fanout.unsubscribe(self.id, &id) {
                    ServerFrame::UnsubscribeSuccess { id: &id }
                } else {
                    let message = format!("Unknown operation id {id}");
                    let errors = vec![item("UnknownOperationError", message)];
                    ServerFrame::UnsubscribeError { id: &id, errors }
                });
            }
            ClientFrame::Publish { id, channel, events, authorization } => {
                if let Err(error) = self.publish(&id, &channel, &events, &authorization) {
                    let errors = vec![error];
                    self.outbox.push(&ServerFrame::PublishError { id: &id, errors });
                }
            }
        }
    }

    /// Answers a frame that cannot be read, by its id where it has one.
    fn misheard(&self, text: &str, why: &serde_json::Error) {
        let errors = || vec![item("BadRequestException", format!("the frame is not whole: {why}"))];
        let frame = serde_json::from_str::<Unread>(text).ok();
        let frame = frame.as_ref().and_then(|f| Some((f.r#type.as_deref()?, f.id.as_deref()?)));
        self.outbox.push(&match frame {
            Some(("subscribe", id)) => ServerFrame::SubscribeError { id, errors: errors() },
            Some(("publish", id)) => ServerFrame::PublishError { id, errors: errors() },
            _ => not_understood("this frame"),
        });
    }

    fn subscribe(
        &self,
        id: &str,
        channel: &str,
        authorization: &Map<String, Value>,
    ) -> Result<(), ErrorItem> {
        check_id(id)?;
        let signed = serde_json::json!({ "channel": channel }).to_string();
        self.check(authorization, &signed)?;
        let pattern = Pattern::parse(channel).map_err(|why| {
            item("BadRequestException", format!("`{channel}` is no channel: {why}"))
        })?;
        if !self.service.has_namespace(pattern.namespace()) {
            return Err(unknown_namespace());
        }
        self.service.fanout.subscribe(self.id, id, pattern).map_err(|refused| match refused {
            Refused::Duplicate => {
                item("DuplicatedOperationError", format!("Duplicated operation id {id}"))
            }
            Refused::TooMany => {
                item("MaxSubscriptionsReachedError", "Max number of 200 subscriptions reached")
            }
        })
    }

    fn publish(
        &mut self,
        id: &str,
        channel: &str,
        events: &[String],
        authorization: &Map<String, Value>,
    ) -> Result<(), ErrorItem> {
        check_id(id)?;
        if !self.rate.admit(Instant::now()) {
            return Err(item("LimitExceededError", "more than 25 publish requests a second"));
        }
        let signed = Payload { channel, events };
        let signed = serde_json::to_string(&signed).unwrap_or_default();
        if signed.len() > MAX_BODY_BYTES {
            return Err(item("BadRequestException", "the payload is larger than 1.2 MB"));
        }
        self.check(authorization, &signed)?;
        let publish = Publish { request: id, transport: "ws", channel, events };
        let answer = self.service.publish(publish).map_err(|refusal| match refusal {
            Refusal::TooManyEvents => item("InvalidInputError", "input exceeded 5 event limit"),
            Refusal::UnknownNamespace => unknown_namespace(),
            Refusal::Ledger(_) => item("InternalFailureException", refusal.to_string()),
            Refusal::NoEvents | Refusal::BadChannel { .. } | Refusal::NotJson { .. } => {
                item("BadRequestException", refusal.to_string())
            }
        })?;
        let (successful, failed) = (answer.successful, answer.failed);
        self.outbox.push(&ServerFrame::PublishSuccess { id, successful, failed });
        Ok(())
    }

    /// Checks the credentials of one operation; a signature covers `payload`, written as
    /// `JSON.stringify` writes it.
    fn check(&self, authorization: &Map<String, Value>, payload: &str) -> Result<(), ErrorItem> {
        let presented = Presented::object(authorization);
        let signed = Signed { presented: &presented, query: "", payload: payload.as_bytes() };
        self.service.access.check(signed, SystemTime::now()).map_err(denied_item)
    }
}

/// What a publish over the socket signs, in this order.
#[derive(serde::Serialize)]
struct Payload<'a> {
    channel: &'a str,
    events: &'a [String],
}

fn check_id(id: &str) -> Result<(), ErrorItem> {
    let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'+');
    if id.is_empty() || id.len() > MAX_ID_CHARS || !id.bytes().all(known) {
        let message = "an id is 1 to 128 letters, digits, `-`, `_` or `+`";
        return Err(item("BadRequestException", message));
    }
    Ok(())
}

fn denied_item(denied: Denied) -> ErrorItem {
    match denied {
        Denied::Unauthorized | Denied::UnknownUser => item("UnauthorizedException", NOT_AUTHORIZED),
        Denied::Signature(_) => item("BadRequestException", "signature mismatch"),
    }
}

fn not_understood(what: &str) -> ServerFrame<'static> {
    ServerFrame::Error {
        errors: vec![item("UnsupportedOperation", format!("{what} is not understood"))],
    }
}
