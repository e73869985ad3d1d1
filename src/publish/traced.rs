//! The span of a request.

use std::time::Instant;

use super::Publisher;
use super::entry::Entry;
use super::lanes::Batch;
use super::post::{Answer, Failure, Post};
use crate::trace::Request;

impl<P: Post> Publisher<P> {
    /// Makes the span of a request that was sent at `sent`, if some of its events are traced.
    pub(super) fn trace(
        &self,
        batch: &Batch<Entry>,
        result: &Result<Answer, Failure>,
        sent: Instant,
        now: Instant,
    ) {
        let mut traces = batch.items.iter().filter_map(Entry::trace).peekable();
        if traces.peek().is_none() {
            return;
        }
        let result = match result {
            Ok(answer) => Ok(answer.status),
            Err(failure) => Err((failure.fault.word(), failure.why.as_str())),
        };
        let channel = batch.channel.to_string();
        let (api, events) = (&*self.name, batch.items.len());
        let request = Request { api, channel: &channel, events, began: sent, ended: now, result };
        request.trace(traces);
    }
}
