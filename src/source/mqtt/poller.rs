//! What drives a connection to its end, in the task of its owner.
//!
//! One task for both: what is settled while a message is taken is acknowledged in the same turn, many at a time, and
//! no thread has to be woken for each (QoS 1 behind a backlog, settled at once: half of the CPU a message).

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Fuse};

use super::diagnosis::Trouble;

/// Gives the reason for the end of a connection, once; pending after that. Dropping it drops the connection,
/// midway in whatever it does, so that is the only way to cancel it.
pub(super) struct Poller(Fuse<BoxFuture<'static, Trouble>>);

impl Poller {
    /// Drives `poll`. A panic in it ends the connection and not the source: what it held is released, and comes again.
    pub(super) fn new(poll: impl Future<Output = Trouble> + Send + 'static) -> Self {
        let caught = AssertUnwindSafe(poll).catch_unwind();
        let ended = caught
            .map(|end| end.unwrap_or_else(|_| Trouble::other("the connection's task panicked")));
        Self(ended.boxed().fuse())
    }
}

impl Future for Poller {
    type Output = Trouble;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Trouble> {
        self.0.poll_unpin(context)
    }
}
