//! The WebSocket side: one conversation a connection, from the upgrade to its close.
//!
//! The credentials of the connection are among the subprotocols or the headers of the upgrade. They are
//! checked at the upgrade, and the result is sent only after `connection_init`: Amplify ignores an
//! earlier `connection_error`. Each `subscribe` and `publish` has credentials of its own.
//!
//! Guesses, without a public source:
//!
//! | case | guess |
//! | --- | --- |
//! | an upgrade that does not name `aws-appsync-event-ws` | HTTP 400 |
//! | an upgrade to another version of the WebSocket | HTTP 426, as RFC 6455 has it |
//! | no frame within 30 s of the upgrade | closed with 1000 |
//! | an operation before `connection_init` | as after it, if the connection may connect; `ka` frames begin with it |
//! | a message over 8 MiB, text that is no UTF-8, a frame without a mask | closed with 1000 |
//! | after `connection_error` | closed with 1000 |
//! | a wrong signature, on connect | errorCode 400 with the known `BadRequestException` |
//! | the texts for an incomplete signature, another scope or time | those of other services; the one for a mismatch is known |
//! | a signature of an unknown user | `UnauthorizedException` |
//! | the id of a live subscription | `subscribe_error` `DuplicatedOperationError` |
//! | more than 200 subscriptions | `subscribe_error` `MaxSubscriptionsReachedError` |
//! | more than 25 publishes a second | `publish_error` `LimitExceededError`; 25 at once, then 25 a second |
//! | a channel, an id or an event that cannot be read, a publish over 1.2 MB | `BadRequestException` |
//! | a frame that cannot be read | `error` `UnsupportedOperation`, the connection stays |
//!
//! Not emulated: the end of a connection after 24 hours, and the moments after a subscription in which
//! AWS may miss events.

mod conversation;
mod writer;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use axum::body::Body;
use axum::extract::FromRequestParts as _;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{WebSocket, WebSocketUpgrade};
use futures_util::StreamExt as _;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::access::{Denied, Mode, Presented, Signed, subprotocol_object};
use super::answer::bad_request;
use super::caller::Caller;
use super::memory::{Holding, Side};
use super::rate::Rate;
use super::service::Service;
use crate::event_api::{MAX_SOCKET_PUBLISHES_PER_SECOND, SUBPROTOCOL};
use crate::shutdown::Shutdown;
use conversation::Conversation;
use writer::CLOSE_GRACE;

/// Bytes of one incoming message. Amplify's publish frame holds its events twice, escaped, so this
/// is well above the limit of a publish.
const MAX_MESSAGE_BYTES: usize = 8 * 1024 * 1024;

/// Bytes that a socket reads ahead.
const READ_BUFFER_BYTES: usize = 16 * 1024;

/// Answers an upgrade; the conversation runs as a task of `sockets`.
pub(super) async fn upgrade(
    service: Arc<Service>,
    sockets: TaskTracker,
    shutdown: Shutdown,
    client: SocketAddr,
    holding: Arc<Holding>,
    mut parts: Parts,
) -> Response<Body> {
    let caller = Caller { address: client, transport: "ws" };
    let upgrade = match WebSocketUpgrade::from_request_parts(&mut parts, &()).await {
        Ok(upgrade) => upgrade
            .protocols([SUBPROTOCOL])
            .max_message_size(MAX_MESSAGE_BYTES)
            .read_buffer_size(READ_BUFFER_BYTES)
            // Each frame is written at once: buffered ones would not be charged.
            .write_buffer_size(0),
        Err(rejection) => {
            caller.refused("connect", None, &rejection, "open it with a WebSocket client");
            return no_upgrade(&rejection);
        }
    };
    if upgrade.selected_protocol().is_none() {
        let message = "the subprotocol `aws-appsync-event-ws` is missing";
        caller.refused("connect", None, message, "name it in `sec-websocket-protocol`");
        return bad_request(StatusCode::BAD_REQUEST, message);
    }
    // Before the answer, so that a stop waits for the conversation.
    let token = sockets.token();
    upgrade.max_frame_size(MAX_MESSAGE_BYTES).on_upgrade(async move |socket| {
        run_conversation(service, shutdown, caller, holding, parts.headers, socket).await;
        drop(token);
    })
}

/// The answer to a request that is no upgrade, or one to another version, which RFC 6455 (4.4) gives a status.
fn no_upgrade(rejection: &WebSocketUpgradeRejection) -> Response<Body> {
    let other = matches!(rejection, WebSocketUpgradeRejection::InvalidWebSocketVersionHeader(_));
    let status = if other { StatusCode::UPGRADE_REQUIRED } else { StatusCode::BAD_REQUEST };
    let mut response = bad_request(status, rejection.body_text());
    if other {
        let headers = response.headers_mut();
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    }
    response
}

/// Runs a conversation until the client, the emulator or the memory limit ends it.
async fn run_conversation(
    service: Arc<Service>,
    shutdown: Shutdown,
    caller: Caller,
    holding: Arc<Holding>,
    headers: HeaderMap,
    socket: WebSocket,
) {
    holding.clear(Side::Read);
    let (id, outbox) = service.fanout.join(Arc::clone(&holding));
    let close = CancellationToken::new();
    let (sink, frames) = socket.split();
    let own_host =
        headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let mut conversation = Conversation {
        service: &service,
        caller,
        own_host,
        id,
        outbox: &outbox,
        holding: &holding,
        close: &close,
        connect: connect_credentials(&service, &headers, own_host),
        live: false,
        rate: Rate::new(MAX_SOCKET_PUBLISHES_PER_SECOND, Instant::now()),
    };
    tokio::select! {
        () = conversation.read_frames(frames) => {}
        () = writer::write(sink, &holding, &close) => {}
        () = holding.cut() => {}
        () = async { shutdown.drain().await; close.cancel(); sleep(CLOSE_GRACE).await } => {}
        () = shutdown.abort() => {}
    }
    let live = conversation.live;
    service.fanout.leave(id);
    if live {
        caller.left();
    }
}

/// Whether the upgrade may connect: by its auth object, or else by its own headers.
fn connect_credentials(
    service: &Service,
    headers: &HeaderMap,
    own_host: &str,
) -> Result<Mode, Denied> {
    let object = subprotocol_object(headers);
    let presented = match &object {
        Some(object) => Presented::object(object),
        None => Presented::headers(headers),
    };
    let signed = Signed { presented: &presented, own_host, query: "", payload: b"{}" };
    service.access.check(signed, SystemTime::now())
}
