//! The workers that post: as many as requests were ever in flight, each with its connection.
//!
//! A worker renders a batch, posts it, and gives it back with the result. The worker that became idle last
//! is used first, so that no more connections are kept busy than needed; those of the others are closed
//! after a while.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};

use super::AT_ONCE;
use super::entry::Entry;
use super::lanes::Batch;
use super::post::{Answer, Failure, Post};
use crate::event_api::wire::publish_body;

/// The workers of one publisher. Dropping it cancels them, and releases their entries.
pub(super) struct Workers<P> {
    post: Arc<P>,
    tasks: JoinSet<()>,
    /// The channel to each worker.
    senders: Vec<mpsc::UnboundedSender<(Batch<Entry>, Instant)>>,
    /// The idle ones.
    idle: Vec<usize>,
    back: mpsc::UnboundedSender<Ended>,
    ended: mpsc::UnboundedReceiver<Ended>,
}

/// A request that has ended.
pub(super) struct Ended {
    /// Its batch.
    pub(super) batch: Batch<Entry>,
    /// When the publisher sent it, which identifies it among those of its namespace.
    pub(super) sent: Instant,
    /// Its answer, or why there is none.
    pub(super) result: Result<Answer, Failure>,
    /// The worker that sent it.
    pub(super) worker: usize,
}

impl<P: Post> Workers<P> {
    /// None yet.
    pub(super) fn new(post: Arc<P>) -> Self {
        let (back, ended) = mpsc::unbounded_channel();
        Self { post, tasks: JoinSet::new(), senders: Vec::new(), idle: Vec::new(), back, ended }
    }

    /// Requests in flight, and ended ones whose worker is not free yet.
    pub(super) fn requests(&self) -> usize {
        self.senders.len() - self.idle.len()
    }

    /// Has `batch` posted.
    pub(super) fn send(&mut self, batch: Batch<Entry>, now: Instant) {
        let worker = self.idle.pop().unwrap_or_else(|| self.spawn());
        // Fails only after a panic, which `poll_ended` reports; the batch is dropped, which releases it.
        drop(self.senders[worker].send((batch, now)));
    }

    /// Puts ended requests into `finished`. An error is a panic of a worker, which has dropped its batch.
    pub(super) fn poll_ended(
        &mut self,
        context: &mut Context<'_>,
        finished: &mut Vec<Ended>,
    ) -> Poll<Result<(), JoinError>> {
        // Never closed, since `self` holds a sender. Results come first, even if another worker panicked.
        if self.ended.poll_recv_many(context, finished, AT_ONCE).is_ready() {
            return Poll::Ready(Ok(()));
        }
        // Only a panic ends a worker while `self` lives.
        while let Poll::Ready(Some(ended)) = self.tasks.poll_join_next(context) {
            if let Err(error) = ended {
                return Poll::Ready(Err(error));
            }
        }
        Poll::Pending
    }

    /// Marks a worker as idle again.
    pub(super) fn free(&mut self, worker: usize) {
        self.idle.push(worker);
    }

    fn spawn(&mut self) -> usize {
        let worker = self.senders.len();
        let (sender, batches) = mpsc::unbounded_channel();
        self.senders.push(sender);
        self.tasks.spawn(work(worker, Arc::clone(&self.post), batches, self.back.clone()));
        worker
    }
}

async fn work<P: Post>(
    worker: usize,
    post: Arc<P>,
    mut batches: mpsc::UnboundedReceiver<(Batch<Entry>, Instant)>,
    back: mpsc::UnboundedSender<Ended>,
) {
    let mut connection = P::Connection::default();
    loop {
        let batch = tokio::select! {
            biased;
            batch = batches.recv() => batch,
            never = post.idle(&mut connection) => match never {},
        };
        let Some((batch, sent)) = batch else { return };
        let body = publish_body(&batch.channel, batch.items.iter().map(Entry::event));
        let result = post.post(&mut connection, body).await;
        if back.send(Ended { batch, sent, result, worker }).is_err() {
            return;
        }
    }
}
