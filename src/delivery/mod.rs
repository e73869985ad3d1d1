//! A message and its duty, which is settled once and fails closed.
//!
//! A [`Settlement`], or a [`Delivery`] with its part of one, that is dropped, by a bug, a panic or an
//! abort, reports [`Outcome::Released`]: the message was not done. Success takes an explicit call. Split
//! over several events, the worst outcome wins, and is reported to the source when the last part is settled: by itself,
//! or with others that end in the same moment ([`Endings`]).

mod endings;
mod intake;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use endings::Now;
pub use endings::{Ended, Endings};
pub use intake::{Gate, Intake};

use crate::message::Message;
pub use crate::message::OrderKey;
use crate::metrics::OUTCOMES;
use crate::seeded_bugs::{self, Bug};
use crate::trace::{MessageTrace, Tracer};

/// How a duty ended; the later one is the worse one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// Done, and in which way.
    Accepted(Done),
    /// Never to be done, and left to the broker.
    Rejected,
    /// Not done, given back.
    Released,
}

/// In which way a duty was done; the later one is the worse one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Done {
    /// The API accepted it.
    Published,
    /// No route takes it.
    Unrouted,
    /// A rule of the operator takes it out, like that for tombstones.
    Filtered,
    /// A newer one of its key replaced it.
    Superseded,
    /// A success of the API named it in neither list. It is not sent again.
    Unconfirmed,
    /// It was too old when its turn came.
    Expired,
    /// It can't be published, and the operator chose to drop such messages.
    Discarded,
    /// It can't be published, and a dead letter has confirmed it.
    DeadLettered,
}

impl Outcome {
    /// Every outcome by its [`rank`](Self::rank).
    pub const ALL: [Self; 10] = [
        Self::Accepted(Done::Published),
        Self::Accepted(Done::Unrouted),
        Self::Accepted(Done::Filtered),
        Self::Accepted(Done::Superseded),
        Self::Accepted(Done::Unconfirmed),
        Self::Accepted(Done::Expired),
        Self::Accepted(Done::Discarded),
        Self::Accepted(Done::DeadLettered),
        Self::Rejected,
        Self::Released,
    ];

    /// How bad it is: 0 is the best.
    pub const fn rank(self) -> u8 {
        match self {
            Self::Accepted(done) => done as u8,
            Self::Rejected => Done::DeadLettered as u8 + 1,
            Self::Released => Done::DeadLettered as u8 + 2,
        }
    }

    /// The word in metrics and traces.
    pub fn word(self) -> &'static str {
        OUTCOMES[usize::from(self.rank())]
    }

    /// Whether something of the message is not where it was to go, and not because it was of no use any more.
    pub fn is_bad(self) -> bool {
        self > Self::Accepted(Done::Expired)
    }

    fn from_rank(rank: u8) -> Self {
        Self::ALL.get(usize::from(rank)).copied().unwrap_or(Self::Released)
    }
}

/// Receives the outcome of each duty: a source's record of its messages in flight.
pub trait Tracker: Send + Sync {
    /// The duty of the message that `token` stands for has ended. Called once a token, this or
    /// [`settled_together`](Self::settled_together).
    fn settled(&self, token: u64, outcome: Outcome);

    /// A message was published, so long after its time: that at the broker, or else that of its arrival. Several
    /// may share a token.
    fn published(&self, took: Duration) {
        let _ = took;
    }

    /// Several duties have ended, in this order: [`published`](Self::published) and [`settled`](Self::settled) for
    /// each. What can be done once for all of them, like taking a lock, is done once.
    fn settled_together(&self, ended: &[Ended]) {
        for ended in ended {
            if let Some(took) = ended.published {
                self.published(took);
            }
            self.settled(ended.token, ended.outcome);
        }
    }

    /// What was made of that message takes so many bytes more, until it leaves.
    fn charge(&self, token: u64, bytes: usize);
}

/// The duty to settle a message, before that is handed over.
#[must_use = "a settlement that is dropped reports the message as not done"]
pub struct Settlement {
    /// `None` once it is settled.
    tracker: Option<Arc<dyn Tracker>>,
    token: u64,
}

/// A message with its duty, or with a part of it.
#[must_use = "a delivery that is dropped reports the message as not done"]
pub struct Delivery {
    carried: Arc<Carried>,
    settled: bool,
}

/// The state that all parts of a delivery share: the last one dropped ends the duty.
struct Carried {
    message: Message,
    settlement: Settlement,
    worst: AtomicU8,
    /// Of a message whose broker tells no time.
    arrived: Option<Instant>,
    rare: Option<Box<Rare>>,
}

/// What few deliveries have.
#[derive(Default)]
struct Rare {
    unreadable: Option<Box<str>>,
    trace: Option<MessageTrace>,
}

/// The state that the duties of several messages share which came as one.
struct Share {
    whole: Settlement,
    worst: AtomicU8,
    /// Of those, how many have not ended.
    left: AtomicUsize,
}

impl Settlement {
    /// A duty that is reported to `tracker` under `token`.
    pub fn new(tracker: Arc<dyn Tracker>, token: u64) -> Self {
        Self { tracker: Some(tracker), token }
    }

    /// Ends the duty.
    pub fn settle(mut self, outcome: Outcome) {
        self.end(outcome);
    }

    /// The duty of one that brings several messages, as a duty for each, under the same token. It ends with the
    /// last of them, and the worst outcome wins; without any it is not done.
    pub fn share(self, count: usize) -> Vec<Self> {
        match count {
            0 => Vec::new(),
            1 => vec![self],
            _ => {
                let token = self.token;
                let (worst, left) = (AtomicU8::new(0), AtomicUsize::new(count));
                let share = Arc::new(Share { whole: self, worst, left });
                (0..count).map(|_| Self::new(share.clone(), token)).collect()
            }
        }
    }

    /// So many bytes more are held for the message until its duty has ended, as with [`Delivery::charge`].
    pub fn charge(&self, bytes: usize) {
        if let Some(tracker) = &self.tracker {
            tracker.charge(self.token, bytes);
        }
    }

    /// A message that it is of was published.
    fn published(&self, took: Duration) {
        if let Some(tracker) = &self.tracker {
            tracker.published(took);
        }
    }

    fn end(&mut self, outcome: Outcome) {
        if let Some(tracker) = self.tracker.take() {
            tracker.settled(self.token, outcome);
        }
    }
}

impl Tracker for Share {
    fn settled(&self, _: u64, outcome: Outcome) {
        // The last one sees it: the reference count orders the two.
        self.worst.fetch_max(outcome.rank(), Ordering::Relaxed);
        self.left.fetch_sub(1, Ordering::Relaxed);
    }

    fn published(&self, took: Duration) {
        self.whole.published(took);
    }

    fn charge(&self, _: u64, bytes: usize) {
        self.whole.charge(bytes);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        // One that nobody told of is not done.
        let told = *self.left.get_mut() == 0;
        let worst = Outcome::from_rank(*self.worst.get_mut());
        self.whole.end(if told { worst } else { Outcome::Released });
    }
}

impl Drop for Settlement {
    fn drop(&mut self) {
        self.end(Outcome::Released);
    }
}

impl Delivery {
    /// `message` with all of its duty.
    pub fn new(message: Message, settlement: Settlement) -> Self {
        Self::made(message, settlement, None)
    }

    /// A message that its source can't read, and why: no route gets to see what is in it, and it goes where the
    /// rejects of its topic go.
    pub fn unreadable(message: Message, settlement: Settlement, why: impl Into<Box<str>>) -> Self {
        let rare = Rare { unreadable: Some(why.into()), trace: None };
        Self::made(message, settlement, Some(Box::new(rare)))
    }

    fn made(message: Message, settlement: Settlement, rare: Option<Box<Rare>>) -> Self {
        let arrived = message.published.is_none().then(Instant::now);
        let carried = Carried { message, settlement, worst: AtomicU8::new(0), arrived, rare };
        Self { carried: Arc::new(carried), settled: false }
    }

    /// The facts.
    pub fn message(&self) -> &Message {
        &self.carried.message
    }

    /// Why its source can't read it, if so.
    pub fn why_unreadable(&self) -> Option<&str> {
        self.carried.rare.as_ref()?.unreadable.as_deref()
    }

    /// A span of `tracer` goes with it to the end of its duty, if the message is traced. To be called before it is
    /// split; `system` is what conventions call its broker.
    pub fn begin_trace(&mut self, tracer: &Tracer, system: &'static str) {
        let Some(carried) = Arc::get_mut(&mut self.carried) else { return };
        if let Some(trace) = tracer.begin(&carried.message, system) {
            carried.rare.get_or_insert_default().trace = Some(trace);
        }
    }

    /// Its span, if it is traced.
    pub fn trace(&self) -> Option<&MessageTrace> {
        self.carried.rare.as_ref()?.trace.as_ref()
    }

    /// Its token at the tracker.
    pub fn token(&self) -> u64 {
        self.carried.settlement.token
    }

    /// The same message with a further part of its duty.
    pub fn split(&self) -> Self {
        if seeded_bugs::is(Bug::AckBeforePublish) {
            return Self::new(self.message().clone(), Settlement { tracker: None, token: 0 });
        }
        Self { carried: Arc::clone(&self.carried), settled: false }
    }

    /// So many bytes more are held for the message, until all of its duty has ended: its source takes the
    /// less. Whoever makes something of a message that waits with it charges it once.
    pub fn charge(&self, bytes: usize) {
        self.carried.settlement.charge(bytes);
    }

    /// Ends this part of the duty.
    pub fn settle(mut self, outcome: Outcome) {
        self.end(outcome);
    }

    /// Ends this part of the duty. If it is the last one, the source is told of it with `others`.
    pub fn settle_with(mut self, outcome: Outcome, others: &mut Endings) {
        self.end(outcome);
        // Of two parts that end at the same time in two threads perhaps neither is seen to be the last; then the one
        // that is dropped last tells the source by itself.
        if let Some((tracker, ended)) =
            Arc::get_mut(&mut self.carried).and_then(|carried| carried.end(|| others.now()))
        {
            others.add(tracker, ended);
        }
    }

    fn end(&mut self, outcome: Outcome) {
        let settled = std::mem::replace(&mut self.settled, true);
        // Nearly every part has the best outcome, which is the initial value.
        if !settled && outcome.rank() > 0 {
            // The last part sees it: the reference count orders the two.
            self.carried.worst.fetch_max(outcome.rank(), Ordering::Relaxed);
        }
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        self.end(Outcome::Released);
    }
}

impl Carried {
    /// Ends the duty, and gives who is to be told; `None` if it has ended before. `now` is asked if it counts.
    fn end(&mut self, now: impl FnOnce() -> Now) -> Option<(Arc<dyn Tracker>, Ended)> {
        self.settlement.tracker.as_ref()?;
        let (token, outcome) = (self.settlement.token, Outcome::from_rank(*self.worst.get_mut()));
        let published = (outcome == Outcome::Accepted(Done::Published)).then(|| self.took(now()));
        if let Some(trace) = self.rare.take().and_then(|rare| rare.trace) {
            trace.end(outcome.word(), outcome.is_bad());
        }
        // At last: until here whatever fails leaves the duty with its settlement.
        let tracker = self.settlement.tracker.take()?;
        Some((tracker, Ended { token, outcome, published }))
    }

    /// How long after its time it is. A time to come, of a clock that is ahead, counts as none.
    fn took(&self, now: Now) -> Duration {
        match (self.message.published, self.arrived) {
            (Some(published), _) => now.system.duration_since(published).unwrap_or_default(),
            (None, Some(arrived)) => now.instant.saturating_duration_since(arrived),
            (None, None) => Duration::ZERO,
        }
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        if let Some((tracker, ended)) = self.end(Now::read) {
            tracker.settled_together(&[ended]);
        }
    }
}

impl fmt::Debug for Settlement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Settlement")
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Delivery").field(self.message()).finish()
    }
}

#[cfg(test)]
pub(crate) mod tests;
