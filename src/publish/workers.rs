//! Who posts: as many workers as requests were ever in flight, each with its connection.
//!
//! A worker renders a batch, posts it, and gives it back with what came of it. The last one that came
//! back goes first, so that no more connections are kept busy than are needed; those of the others are
//! closed after a while.

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

/// The workers of one publisher. Dropped, they end where they are, and release what they hold.
pub(super) struct Workers<P> {
    post: Arc<P>,
    tasks: JoinSet<()>,
    /// The way to each of them.
    all: Vec<mpsc::UnboundedSender<(Batch<Entry>, Instant)>>,
    /// Those that have nothing to do.
    idle: Vec<usize>,
    back: mpsc::UnboundedSender<Ended>,
    ended: mpsc::UnboundedReceiver<Ended>,
}

/// A request that has ended.
pub(super) struct Ended {
    /// What was sent.
    pub(super) batch: Batch<Entry>,
    /// When the publisher sent it, which tells it from others of its namespace.
    pub(super) sent: Instant,
    /// What came of it.
    pub(super) result: Result<Answer, Failure>,
    /// Who sent it.
    pub(super) worker: usize,
}

impl<P: Post> Workers<P> {
    /// None yet.
    pub(super) fn new(post: Arc<P>) -> Self {
        let (back, ended) = mpsc::unbounded_channel();
        Self { post, tasks: JoinSet::new(), all: Vec::new(), idle: Vec::new(), back, ended }
    }

    /// Requests in flight, with those that have ended and whose worker is not free yet.
    pub(super) fn requests(&self) -> usize {
        self.all.len() - self.idle.len()
    }

    /// Has `batch` posted.
    pub(super) fn send(&mut self, batch: Batch<Entry>, now: Instant) {
        let worker = self.idle.pop().unwrap_or_else(|| self.hire());
        // One that is gone has panicked, of which `poll_ended` tells; the batch is dropped, which releases it.
        drop(self.all[worker].send((batch, now)));
    }

    /// Puts requests that have ended into `finished`. An error is a panic of a worker, which takes its
    /// batch with it.
    pub(super) fn poll_ended(
        &mut self,
        context: &mut Context<'_>,
        finished: &mut Vec<Ended>,
    ) -> Poll<Result<(), JoinError>> {
        // Never zero: we hold a sender. What was decided counts, whoever panicked meanwhile.
        if self.ended.poll_recv_many(context, finished, AT_ONCE).is_ready() {
            return Poll::Ready(Ok(()));
        }
        // Only a panic ends a worker before we do.
        while let Poll::Ready(Some(ended)) = self.tasks.poll_join_next(context) {
            if let Err(error) = ended {
                return Poll::Ready(Err(error));
            }
        }
        Poll::Pending
    }

    /// A worker whose request is being judged has nothing to do.
    pub(super) fn free(&mut self, worker: usize) {
        self.idle.push(worker);
    }

    fn hire(&mut self) -> usize {
        let worker = self.all.len();
        let (way, batches) = mpsc::unbounded_channel();
        self.all.push(way);
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
