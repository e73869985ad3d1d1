//! Refusals and the bodies of answers, for HTTP and WebSocket. AWS has two texts for the same mistake,
//! so each transport chooses its own items.

use std::borrow::Cow;
use std::fmt::Display;

use axum::body::Body;
use http::{HeaderValue, Response, StatusCode, header};

use super::caller::Caller;
use crate::event_api::wire::{ErrorAnswer, ErrorItem};

/// The message for every caller without rights.
pub(super) const NOT_AUTHORIZED: &str = "You are not authorized to make this call.";

/// A refusal: the item for the client, and the reason and a hint for the log.
pub(super) struct Failure {
    item: ErrorItem,
    why: String,
    hint: &'static str,
}

impl Failure {
    pub(super) fn new(item: ErrorItem, why: impl Display, hint: &'static str) -> Self {
        Self { item, why: why.to_string(), hint }
    }

    /// The client gets the same reason as the log.
    pub(super) fn bad_request(why: impl Into<Cow<'static, str>>, hint: &'static str) -> Self {
        let why = why.into();
        Self::new(item("BadRequestException", why.clone()), why, hint)
    }

    /// Logs that `operation` was refused, and returns the items of its answer.
    pub(super) fn report(
        self,
        caller: Caller,
        operation: &str,
        channel: Option<&str>,
    ) -> Vec<ErrorItem> {
        caller.refused(operation, channel, self.why, self.hint);
        vec![self.item]
    }
}

/// A refusal outside of a publish.
pub(super) fn bad_request(
    status: StatusCode,
    message: impl Into<Cow<'static, str>>,
) -> Response<Body> {
    json_answer(status, &ErrorAnswer { errors: vec![item("BadRequestException", message)] })
}

/// An item of an error answer.
pub(super) fn item(error_type: &'static str, message: impl Into<Cow<'static, str>>) -> ErrorItem {
    ErrorItem {
        error_type: Some(error_type.into()),
        error_code: None,
        message: Some(message.into()),
    }
}

/// The item for a namespace that does not exist: without a message, as AWS sends it.
pub(super) fn unknown_namespace() -> ErrorItem {
    ErrorItem { error_type: Some("UnauthorizedException".into()), ..ErrorItem::default() }
}

/// An answer whose body is JSON.
pub(super) fn json_answer(status: StatusCode, body: &impl serde::Serialize) -> Response<Body> {
    // Plain structs: serialization cannot fail.
    json_text_answer(status, serde_json::to_vec(body).unwrap_or_default())
}

/// An answer whose body is JSON text already.
pub(super) fn json_text_answer(status: StatusCode, body: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("application/json; charset=UTF-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
