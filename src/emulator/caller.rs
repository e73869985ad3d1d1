//! The log lines of a client's operations: a warning for each refusal, a line at `info` for each acceptance and for
//! the end of a WebSocket. They hold no credentials.

use std::fmt::Display;
use std::net::SocketAddr;

use tracing::{info, warn};

use crate::error_chain::printable;
use crate::event_api::wire::PublishAnswer;

/// Characters of what a client sent that are logged, for each field of a line.
const MAX_LOGGED_CHARS: usize = 300;

/// A client's connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller {
    /// The client's address.
    pub(super) address: SocketAddr,
    /// `http` or `ws`.
    pub(super) transport: &'static str,
}

impl Caller {
    /// Logs that `operation`, perhaps on a `channel`, was refused, with a remedy.
    pub(super) fn refused(
        &self,
        operation: &str,
        channel: Option<&str>,
        why: impl Display,
        hint: &str,
    ) {
        let Self { address, transport } = self;
        let channel = channel.map(|text| printable(text, MAX_LOGGED_CHARS));
        let channel = channel.as_deref();
        let why = printable(&why.to_string(), MAX_LOGGED_CHARS);
        warn!(client = %address, transport, operation, channel, why, hint, "refused");
    }

    /// Logs that `operation`, perhaps on a `channel` and with so many events, was accepted.
    pub(super) fn accepted(&self, operation: &str, channel: Option<&str>, events: Option<usize>) {
        let Self { address, transport } = self;
        let channel = channel.map(|text| printable(text, MAX_LOGGED_CHARS));
        let channel = channel.as_deref();
        info!(client = %address, transport, operation, channel, events, "accepted");
    }

    /// Logs what became of the events of a publish that was not refused as a whole.
    pub(super) fn published(&self, channel: &str, answer: &PublishAnswer) {
        if !answer.successful.is_empty() {
            self.accepted("publish", Some(channel), Some(answer.successful.len()));
        }
        for event in &answer.failed {
            let why = format!("event {}: {}: {}", event.index, event.code, event.message);
            let hint =
                "an event has 240,000 bytes at most; any other failure was asked for, by a fault";
            self.refused("publish", Some(channel), why, hint);
        }
    }

    /// Logs that somebody looked whether the API is there.
    pub(super) fn asked(&self) {
        let Self { address, transport } = self;
        info!(client = %address, transport, "asked whether anybody is here; `POST /event` publishes");
    }

    /// Logs the end of a WebSocket.
    pub(super) fn left(&self) {
        let Self { address, transport } = self;
        info!(client = %address, transport, "left");
    }
}
