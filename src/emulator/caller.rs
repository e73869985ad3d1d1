//! The log lines of a client's operations: a warning for each refusal, a line at `info` for each acceptance and for
//! the end of a WebSocket. They hold no credentials.

use std::fmt::Display;
use std::net::SocketAddr;

use tracing::{info, warn};

use crate::error_chain::printable;

/// Characters of a channel or a path that are logged.
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
        warn!(client = %address, transport, operation, channel, %why, hint, "refused");
    }

    /// Logs that `operation`, perhaps on a `channel` and with so many events, was accepted.
    pub(super) fn accepted(&self, operation: &str, channel: Option<&str>, events: Option<usize>) {
        let Self { address, transport } = self;
        let channel = channel.map(|text| printable(text, MAX_LOGGED_CHARS));
        let channel = channel.as_deref();
        info!(client = %address, transport, operation, channel, events, "accepted");
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
