//! Takes what comes over one connection, and hands it over.
//!
//! The client reads as fast as the network brings, and must not be held: the server would cut it off. So its queues
//! are emptied first, whatever else there is to do. What has room is taken, with a copy of its payload, for the
//! client's own would keep all that it read at once; what has none is dropped, and counted. Then a part of what was
//! taken is handed over, and the queues are looked at again: what waits between the two is in flight, and so bounded
//! in messages and bytes. In the client's queues waits no more than it reads in one turn.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use async_nats::{HeaderMap, Statistics, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::{coop::unconstrained, yield_now};
use tokio::time::{Instant, sleep_until, timeout};

use super::held::Held;
use super::losses::Losses;
use super::standing::Standing;
use crate::config::nats::takes;
use crate::delivery::{Delivery, Intake};
use crate::message::{Coordinates, Message, SourceName, bytes_of_headers};
use crate::metrics::SourceMetrics;
use crate::shutdown::Shutdown;
use crate::source::recent_topics::RecentTopics;

/// So many messages of a subscription are taken before the next has its turn.
const AT_ONCE: usize = 1024;

/// So many messages or bytes are handed over before the queues are looked at again: it takes a millisecond or two.
const HANDED_OVER: usize = 64;
const HANDED_OVER_BYTES: usize = 256 * 1024;

/// The server has this long to hear that the subscriptions end.
pub(super) const FAREWELL: Duration = Duration::from_secs(2);

/// Losses are looked for this often, so that they are told with a count.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// So many looks at the queues find them empty, or the client reads on.
const LOOKS: usize = 64;

/// The subscriptions of one connection, and what was taken from them.
pub(super) struct Taker {
    pub(super) name: SourceName,
    pub(super) subscriptions: Vec<Subscription>,
    pub(super) held: Arc<Held>,
    pub(super) metrics: SourceMetrics,
    pub(super) intake: Intake,
    pub(super) account: Arc<Account>,
    pub(super) topics: RecentTopics,
    pub(super) standing: Arc<Standing>,
    /// Taken and not yet handed over.
    pub(super) waiting: VecDeque<Delivery>,
}

/// What is asked for, and what comes of it.
pub(super) struct Subscription {
    pub(super) subject: String,
    pub(super) subscriber: Subscriber,
    /// Subjects of other subscriptions that bring their own copy of a message.
    pub(super) others: Vec<String>,
}

/// What a client has read, and what was taken out of its queues: the rest it has dropped.
pub(super) struct Account {
    statistics: Arc<Statistics>,
    taken: AtomicU64,
    losses: Mutex<Losses>,
}

impl Account {
    /// Of a client that has read nothing yet.
    pub(super) fn new(statistics: Arc<Statistics>) -> Self {
        Self { statistics, taken: AtomicU64::new(0), losses: Mutex::default() }
    }

    fn read(&self) -> u64 {
        self.statistics.in_messages.load(Ordering::Relaxed)
    }

    /// The queues were empty at some time since the client had `read` so many messages: counts what it has dropped,
    /// and says what is new.
    fn settle(&self, read: u64, name: &SourceName, metrics: &SourceMetrics, last: bool) {
        let mut losses = self.losses.lock();
        metrics.dropped.inc_by(losses.found(read, self.taken.load(Ordering::Relaxed)));
        losses.tell(name, metrics, last);
    }

    /// Nothing comes any more, and nothing is left in the queues.
    pub(super) fn close(&self, name: &SourceName, metrics: &SourceMetrics) {
        self.settle(self.read(), name, metrics, false);
        self.settle(self.read(), name, metrics, true);
    }
}

impl Taker {
    /// Takes until every subscription has ended, as it has them do when the drain begins; hands everything over. Each of
    /// `renewed` takes the place of one that the server has refused.
    pub(super) async fn run(
        mut self,
        mut renewed: UnboundedReceiver<Subscription>,
        shutdown: Shutdown,
    ) {
        let mut tell = Instant::now() + TELL_EVERY;
        let mut end = None;
        loop {
            let now = Instant::now();
            if now >= tell {
                self.settle().await;
                tell = now + TELL_EVERY;
            }
            match end {
                None if shutdown.is_draining() => {
                    end = Some(now + FAREWELL);
                    self.standing.draining();
                    if self.standing.is_connected() {
                        self.drain().await;
                    } else {
                        self.leave().await;
                    }
                }
                Some(end) if now >= end => self.leave().await,
                _ => {}
            }
            while let Some(one) = renewed.try_recv().ok().filter(|_| end.is_none()) {
                self.renew(one);
            }
            if self.waiting.is_empty() {
                // What is there is taken at once: a budget of turns would leave it in the client's queues.
                let more = unconstrained(poll_fn(|context| self.poll(context)));
                tokio::select! {
                    more = more => if !more { return },
                    Some(one) = renewed.recv(), if end.is_none() => self.renew(one),
                    () = sleep_until(tell) => {}
                    () = shutdown.drain(), if end.is_none() => {}
                }
            } else {
                let look = |context: &mut Context<'_>| Poll::Ready(self.poll(context).is_ready());
                unconstrained(poll_fn(look)).await;
                yield_now().await;
            }
            self.hand_over();
        }
    }

    /// What the old one has brought was taken before: its queue was looked at last.
    fn renew(&mut self, one: Subscription) {
        match self.subscriptions.iter_mut().find(|old| old.subject == one.subject) {
            Some(old) => *old = one,
            None => self.subscriptions.push(one),
        }
    }

    /// Has the server send nothing more; what is received by then is still taken.
    async fn drain(&mut self) {
        // The first of those that overlap last: what comes in between comes by it.
        for subscription in self.subscriptions.iter_mut().rev() {
            let _ = timeout(FAREWELL, subscription.subscriber.drain()).await;
        }
    }

    /// Waits for no server: what is in the queues is all there is.
    async fn leave(&mut self) {
        for subscription in &mut self.subscriptions {
            if timeout(FAREWELL, subscription.subscriber.unsubscribe()).await.is_err() {
                // Nobody listens to what the client is asked for.
                self.subscriptions.clear();
                return;
            }
        }
    }

    /// Counts what the client has dropped, if its queues can be emptied.
    async fn settle(&mut self) {
        let read = self.account.read();
        let emptied = unconstrained(poll_fn(|context| {
            Poll::Ready((0..LOOKS).any(|_| self.poll(context).is_pending()))
        }));
        if emptied.await {
            self.account.settle(read, &self.name, &self.metrics, false);
        }
    }

    /// Takes what is there; ready when something was, or with `false` when nothing more will come.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<bool> {
        let mut looked_at = 0;
        let mut at = 0;
        while at < self.subscriptions.len() {
            match self.subscriptions[at].subscriber.poll_next_unpin(context) {
                Poll::Ready(Some(message)) => {
                    self.take(at, &message);
                    looked_at += 1;
                    // Each has its turn.
                    if looked_at % AT_ONCE == 0 {
                        at += 1;
                    }
                }
                Poll::Ready(None) => {
                    self.subscriptions.swap_remove(at);
                }
                Poll::Pending => at += 1,
            }
        }
        match (looked_at, self.subscriptions.is_empty()) {
            (0, true) => Poll::Ready(false),
            (0, false) => Poll::Pending,
            _ => Poll::Ready(true),
        }
    }

    fn take(&mut self, at: usize, message: &async_nats::Message) {
        self.account.taken.fetch_add(1, Ordering::Relaxed);
        let others = &self.subscriptions[at].others;
        let brings =
            |other: &String| takes(other, &message.subject) && !self.standing.is_refused(other);
        if others.iter().any(brings) {
            self.metrics.copies_skipped.inc();
            return;
        }
        let headers = message.headers.as_ref().map_or_else(Vec::new, headers);
        let bytes = message.payload.len() + message.subject.len() + bytes_of_headers(&headers);
        let Some(settlement) = self.held.take(bytes) else {
            self.metrics.dropped.inc();
            return;
        };
        let (topic, order) = self.topics.of(&message.subject);
        let message = Message {
            source: self.name.clone(),
            order: Some(order),
            topic,
            key: None,
            headers,
            payload: Bytes::copy_from_slice(&message.payload),
            published: None,
            expires: None,
            coordinates: Coordinates::Unknown,
        };
        self.waiting.push_back(Delivery::new(message, settlement));
    }

    fn hand_over(&mut self) {
        let mut bytes = 0;
        for _ in 0..HANDED_OVER {
            let Some(delivery) = self.waiting.pop_front() else { return };
            bytes += delivery.message().payload.len();
            self.intake.submit(delivery);
            if bytes >= HANDED_OVER_BYTES {
                return;
            }
        }
    }
}

/// By name, for the client keeps no order of names; values in their order.
fn headers(map: &HeaderMap) -> Vec<(String, Bytes)> {
    let mut all: Vec<_> = map
        .iter()
        .flat_map(|(name, values)| {
            let name = name.to_string();
            values
                .iter()
                .map(move |value| (name.clone(), Bytes::copy_from_slice(value.as_str().as_bytes())))
        })
        .collect();
    all.sort_by(|(one, _), (other, _)| one.cmp(other));
    all
}
