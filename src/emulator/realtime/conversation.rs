//! One conversation: the frames of a client and their answers.

use std::error::Error as _;
use std::pin::pin;
use std::time::{Duration, Instant, SystemTime};

use axum::extract::ws::{Message, WebSocket};
use futures_util::StreamExt as _;
use futures_util::stream::SplitStream;
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_tungstenite::tungstenite::{self, error::ProtocolError};
use tokio_util::sync::CancellationToken;

use crate::emulator::access::{Denied, Mode, Operation, Presented, Signed};
use crate::emulator::answer::{Failure, NOT_AUTHORIZED, item, unknown_namespace};
use crate::emulator::caller::Caller;
use crate::emulator::fanout::{ConnectionId, Outbox, Pattern, SubscribeError};
use crate::emulator::memory::{Holding, Side};
use crate::emulator::rate::Rate;
use crate::emulator::realtime::writer::CLOSE_GRACE;
use crate::emulator::service::{Publish, Refusal, Service};
use crate::error_chain::in_one_line;
use crate::event_api::sent::{ClientFrame, Unreadable};
use crate::event_api::wire::{ErrorItem, PublishAnswer, ServerFrame};
use crate::event_api::{CONNECTION_TIMEOUT_MS, MAX_BODY_BYTES, MAX_ID_CHARS};

/// From the upgrade to the first frame. All clients send one at once.
const FIRST_FRAME_TIMEOUT: Duration = Duration::from_secs(30);

/// The state of a connection.
pub(super) struct Conversation<'a> {
    pub(super) service: &'a Service,
    pub(super) caller: Caller,
    pub(super) own_host: &'a str,
    pub(super) id: ConnectionId,
    pub(super) outbox: &'a Outbox,
    pub(super) holding: &'a Holding,
    pub(super) close: &'a CancellationToken,
    pub(super) connect: Result<Mode, Denied>,
    /// A `connection_init` or an operation was accepted.
    pub(super) live: bool,
    pub(super) rate: Rate,
}

/// The fields of an unreadable frame that its answer needs.
#[derive(Default, Deserialize)]
#[serde(default)]
struct FrameHead {
    r#type: Value,
    id: Value,
}

impl Conversation<'_> {
    /// Reads and answers frames until the client disconnects, or until the close after a failure.
    pub(super) async fn read_frames(&mut self, mut frames: SplitStream<WebSocket>) {
        let mut keep_alive = interval(self.service.keep_alive);
        keep_alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut silence = pin!(sleep(FIRST_FRAME_TIMEOUT));
        let mut silent = true;
        loop {
            let message = tokio::select! {
                message = frames.next() => message,
                _ = keep_alive.tick(), if self.live => {
                    self.outbox.push(&ServerFrame::Ka);
                    continue;
                }
                () = silence.as_mut(), if silent => {
                    silent = false;
                    let hint = "send `connection_init` first";
                    self.fail("connect", "no frame came within 30 s", hint);
                    continue;
                }
            };
            // The frame is complete, and used at once.
            self.holding.clear(Side::Read);
            let before = self.live;
            match message {
                // Ignored once the connection is to be closed.
                Some(Ok(_)) if self.close.is_cancelled() => {}
                Some(Ok(Message::Text(text))) => {
                    silent = false;
                    self.answer_frame(&text);
                }
                Some(Ok(Message::Binary(_))) => {
                    silent = false;
                    self.caller.refused("frame", None, "it is binary", "send text frames");
                    self.outbox.push(&not_understood("binary frames", None));
                }
                Some(Ok(_)) => {} // the library answers pings; a close ends the stream
                Some(Err(error)) if is_of_the_client(&error) => {
                    self.fail("frame", &in_one_line(&error), "send masked text of 8 MiB at most");
                    // The rest of the stream has no meaning; the writer closes and ends the conversation, if it is not stuck.
                    return sleep(2 * CLOSE_GRACE).await;
                }
                Some(Err(_)) | None => return,
            }
            if self.live && !before {
                // The first `ka` follows the ack; the next one is due a full period later.
                keep_alive.reset();
            }
        }
    }

    /// Closes the connection for a fault of the client.
    fn fail(&self, operation: &str, why: &str, hint: &str) {
        self.caller.refused(operation, None, why, hint);
        self.close.cancel();
    }

    fn answer_frame(&mut self, text: &str) {
        let frame = match ClientFrame::parse(text.as_bytes()) {
            Ok(frame) => frame,
            Err(e) => return self.answer_unreadable(text, &e),
        };
        if let Err(denied) = &self.connect {
            self.caller.refused("connect", None, denied, denied.hint());
            let mut errors = denied_item(denied);
            errors.error_code =
                Some(if matches!(denied, Denied::Signature(_)) { 400 } else { 401 });
            self.outbox.push(&ServerFrame::ConnectionError { errors: vec![errors] });
            self.close.cancel();
            return;
        }
        match frame {
            ClientFrame::ConnectionInit => {
                let connection_timeout_ms = CONNECTION_TIMEOUT_MS;
                self.outbox.push(&ServerFrame::ConnectionAck { connection_timeout_ms });
                self.outbox.push(&ServerFrame::Ka);
                self.live = true;
                self.caller.accepted("connect", None, None);
            }
            ClientFrame::Subscribe { id, channel, authorization } => {
                match self.subscribe(&id, &channel, &authorization) {
                    Ok(()) => {
                        self.live = true;
                        self.caller.accepted("subscribe", Some(&channel), None);
                    }
                    Err(failure) => {
                        let errors = failure.report(self.caller, "subscribe", Some(&channel));
                        self.outbox.push(&ServerFrame::SubscribeError { id: &id, errors });
                    }
                }
            }
            ClientFrame::Unsubscribe { id } => {
                self.outbox.push(&if self.service.fanout.unsubscribe(self.id, &id) {
                    ServerFrame::UnsubscribeSuccess { id: &id }
                } else {
                    let message = format!("Unknown operation id {id}");
                    let hint = "subscribe first, on this connection";
                    self.caller.refused("unsubscribe", None, "there is no such subscription", hint);
                    let errors = vec![item("UnknownOperationError", message)];
                    ServerFrame::UnsubscribeError { id: &id, errors }
                });
            }
            ClientFrame::Publish { id, channel, events, authorization } => {
                match self.publish(&id, &channel, &events, &authorization) {
                    Ok(answer) => {
                        self.live = true;
                        self.caller.published(&channel, &answer);
                        let PublishAnswer { successful, failed } = answer;
                        let id = &id;
                        self.outbox.push(&ServerFrame::PublishSuccess { id, successful, failed });
                    }
                    Err(failure) => {
                        let errors = failure.report(self.caller, "publish", Some(&channel));
                        self.outbox.push(&ServerFrame::PublishError { id: &id, errors });
                    }
                }
            }
        }
    }

    /// Answers a frame that cannot be read, with its id if it has one.
    fn answer_unreadable(&self, text: &str, why: &Unreadable) {
        let errors =
            || vec![item("BadRequestException", format!("the frame cannot be read: {why}"))];
        let hint = "see the frames of the protocol in the AWS AppSync Events guide";
        self.caller.refused("frame", None, why, hint);
        let head: FrameHead = serde_json::from_str(text).unwrap_or_default();
        self.outbox.push(&match (head.r#type.as_str(), head.id.as_str()) {
            (Some("subscribe"), Some(id)) => ServerFrame::SubscribeError { id, errors: errors() },
            (Some("publish"), Some(id)) => ServerFrame::PublishError { id, errors: errors() },
            (_, id) => not_understood("this frame", id),
        });
    }

    fn subscribe(
        &self,
        id: &str,
        channel: &str,
        authorization: &Map<String, Value>,
    ) -> Result<(), Failure> {
        check_id(id)?;
        let signed = serde_json::json!({ "channel": channel }).to_string();
        let mode = self.check(authorization, &signed)?;
        let pattern = Pattern::parse(channel).map_err(|why| {
            let hint = "a channel has one to five segments, of which the last may be `*`";
            Failure::bad_request(format!("`{channel}` is no channel: {why}"), hint)
        })?;
        let admitted = self.service.admit(pattern.namespace(), Some(mode), Operation::Subscribe);
        admitted.map_err(|refusal| {
            let item = match refusal {
                Refusal::OtherMode { .. } => item("UnauthorizedException", NOT_AUTHORIZED),
                _ => unknown_namespace(),
            };
            Failure::new(item, &refusal, refusal.hint())
        })?;
        self.service.fanout.subscribe(self.id, id, pattern).map_err(|refused| match refused {
            SubscribeError::Duplicate => {
                let words = format!("Duplicated operation id {id}");
                let why = "its id is that of a live subscription";
                Failure::new(item("DuplicatedOperationError", words), why, "choose another id")
            }
            SubscribeError::TooMany => {
                let words = "Max number of 200 subscriptions reached";
                let hint = "open another connection, or end a subscription";
                Failure::new(item("MaxSubscriptionsReachedError", words), words, hint)
            }
        })
    }

    fn publish(
        &mut self,
        id: &str,
        channel: &str,
        events: &[String],
        authorization: &Map<String, Value>,
    ) -> Result<PublishAnswer, Failure> {
        check_id(id)?;
        if !self.rate.admit(Instant::now()) {
            let words = "more than 25 publish requests a second";
            let hint = "publish in bulk over HTTP";
            return Err(Failure::new(item("LimitExceededError", words), words, hint));
        }
        let signed = Payload { channel, events };
        let signed = serde_json::to_string(&signed).unwrap_or_default();
        if signed.len() > MAX_BODY_BYTES {
            let hint = "send fewer or smaller events";
            return Err(Failure::bad_request("the payload is larger than 1.2 MB", hint));
        }
        let mode = Some(self.check(authorization, &signed)?);
        let publish = Publish { request: id, transport: "ws", mode, channel, events };
        self.service.publish(publish).map_err(|refusal| {
            let item = match refusal {
                Refusal::TooManyEvents => item("InvalidInputError", "input exceeded 5 event limit"),
                Refusal::UnknownNamespace => unknown_namespace(),
                Refusal::OtherMode { .. } => item("UnauthorizedException", NOT_AUTHORIZED),
                Refusal::Ledger(_) => item("InternalFailureException", refusal.to_string()),
                Refusal::NoEvents | Refusal::BadChannel { .. } | Refusal::NotJson { .. } => {
                    item("BadRequestException", refusal.to_string())
                }
            };
            Failure::new(item, &refusal, refusal.hint())
        })
    }

    /// Checks the credentials of one operation; a signature covers `payload`, which is in the form of
    /// `JSON.stringify`.
    fn check(&self, authorization: &Map<String, Value>, payload: &str) -> Result<Mode, Failure> {
        let presented = Presented::object(authorization);
        let own_host = self.own_host;
        let payload = payload.as_bytes();
        let signed = Signed { presented: &presented, own_host, query: "", payload };
        let checked = self.service.access.check(signed, SystemTime::now());
        checked.map_err(|denied| Failure::new(denied_item(&denied), &denied, denied.hint()))
    }
}

/// The signed payload of a publish over a socket, in this order.
#[derive(serde::Serialize)]
struct Payload<'a> {
    channel: &'a str,
    events: &'a [String],
}

fn check_id(id: &str) -> Result<(), Failure> {
    let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'+');
    if id.is_empty() || id.len() > MAX_ID_CHARS || !id.bytes().all(known) {
        let message = "an id is 1 to 128 letters, digits, `-`, `_` or `+`";
        return Err(Failure::bad_request(message, "a UUID does"));
    }
    Ok(())
}

/// Whether it is something that the client has sent, not the end of its connection.
fn is_of_the_client(error: &axum::Error) -> bool {
    let error = error.source().and_then(|error| error.downcast_ref::<tungstenite::Error>());
    match error {
        Some(tungstenite::Error::Protocol(error)) => {
            !matches!(error, ProtocolError::ResetWithoutClosingHandshake)
        }
        Some(tungstenite::Error::Capacity(_) | tungstenite::Error::Utf8(_)) => true,
        _ => false,
    }
}

fn denied_item(denied: &Denied) -> ErrorItem {
    match denied {
        Denied::Signature(fault) => item("BadRequestException", fault.to_string()),
        _ => item("UnauthorizedException", NOT_AUTHORIZED),
    }
}

fn not_understood<'a>(what: &str, id: Option<&'a str>) -> ServerFrame<'a> {
    ServerFrame::Error {
        id,
        errors: vec![item("UnsupportedOperation", format!("{what} is not understood"))],
    }
}
