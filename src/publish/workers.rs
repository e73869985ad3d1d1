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
    /// The channel to each worker, with the number of the poster that it has.
    senders: Vec<(u64, Batches)>,
    /// How often the poster was another one.
    renewed: u64,
    /// The idle ones.
    idle: Vec<usize>,
    back: mpsc::UnboundedSender<Ended>,
    ended: mpsc::UnboundedReceiver<Ended>,
}

/// Takes batches to a worker, each with the time when it was sent.
type Batches = mpsc::UnboundedSender<(Batch<Entry>, Instant)>;

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
        let (tasks, senders, idle) = (JoinSet::new(), Vec::new(), Vec::new());
        Self { post, tasks, senders, renewed: 0, idle, back, ended }
    }

    /// Requests in flight, and ended ones whose worker is not free yet.
    pub(super) fn requests(&self) -> usize {
        self.senders.len() - self.idle.len()
    }

    /// Has `batch` posted.
    pub(super) fn send(&mut self, batch: Batch<Entry>, now: Instant) {
        let worker = self.idle.pop().unwrap_or(self.senders.len());
        let known = self.senders.get(worker).is_some_and(|(of, _)| *of == self.renewed);
        if !known {
            self.spawn(worker);
        }
        // Fails only after a panic, which `poll_ended` reports; the batch is dropped, which releases it.
        drop(self.senders[worker].1.send((batch, now)));
    }

    /// Has `post` post from the next batch on. Requests in flight end as they began.
    pub(super) fn renew(&mut self, post: Arc<P>) {
        self.post = post;
        self.renewed += 1;
        for worker in 0..self.idle.len() {
            self.dismiss_if_old(self.idle[worker]);
        }
    }

    /// Ends an idle worker with an earlier poster: it may not be needed again, and holds connections and credentials.
    fn dismiss_if_old(&mut self, worker: usize) {
        let (of, batches) = &mut self.senders[worker];
        if *of != self.renewed {
            *batches = mpsc::unbounded_channel().0;
        }
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
        // While `self` lives, a worker is ended by a panic, or by another one in its place.
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
        self.dismiss_if_old(worker);
    }

    /// Starts a worker of this number; an idle one that has it ends.
    fn spawn(&mut self, worker: usize) {
        let (sender, batches) = mpsc::unbounded_channel();
        let sender = (self.renewed, sender);
        match self.senders.get_mut(worker) {
            Some(old) => *old = sender,
            None => self.senders.push(sender),
        }
        self.tasks.spawn(work(worker, Arc::clone(&self.post), batches, self.back.clone()));
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
