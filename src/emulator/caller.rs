//! Who called and what became of it, for the log: one line a refusal, one at `debug` for what was
//! accepted. Nothing that a client shows as a credential stands in it.

use std::fmt::Display;
use std::net::SocketAddr;

use tracing::{debug, warn};

use crate::error_chain::printable;

/// Characters of a channel or a path that are shown.
const MAX_LOGGED_CHARS: usize = 300;

/// A client's connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller {
    /// Where it comes from.
    pub(super) address: SocketAddr,
    /// `http` or `ws`.
    pub(super) transport: &'static str,
}

impl Caller {
    /// Says that `operation`, perhaps on a `channel`, was refused, and what would be right.
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

    /// Says that `operation`, perhaps on a `channel`, was accepted.
    pub(super) fn accepted(&self, operation: &str, channel: Option<&str>) {
        let Self { address, transport } = self;
        let channel = channel.map(|text| printable(text, MAX_LOGGED_CHARS));
        let channel = channel.as_deref();
        debug!(client = %address, transport, operation, channel, "accepted");
    }
}
