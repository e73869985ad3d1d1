//! Whether the queue answers: what is said of it, and when to try again.
//!
//! All calls of a source share it. What only a person can mend (credentials, a policy, no such queue) pauses the
//! receives, whichever call it stopped: what can't be deleted would be received for ever.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tracing::{info, warn};

use super::queue::Queue;
use crate::aws::sqs::{Call, Kind, Trouble};
use crate::backoff::Backoff;
use crate::health::Part;
use crate::metrics::SourceMetrics;
use crate::repeats::Repeats;
use crate::source::reconnect::CAP;

/// The first wait after a failure, and that of what waits for a person: between once and twice this.
const BASE: Duration = Duration::from_millis(200);
const SLOW: Duration = Duration::from_secs(15);

/// A failure that was not repeated for so long, once it might have been, is over.
const FORGOTTEN: Duration = SLOW.saturating_mul(2);

/// What repeats is said this often.
const SAY_EVERY: Duration = Duration::from_mins(1);

/// The state of the calls to a queue.
#[derive(Debug)]
pub(super) struct Link {
    queue: Queue,
    source: String,
    metrics: SourceMetrics,
    health: Part,
    state: Mutex<State>,
    mended: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Calls that failed last.
    failing: BTreeMap<Call, Failing>,
    said: BTreeMap<(Call, Kind), Repeats>,
    /// The queue was there once.
    known: bool,
    draining: bool,
}

#[derive(Debug)]
struct Failing {
    kind: Kind,
    words: String,
    backoff: Backoff,
    /// It is not worth while before.
    until: Instant,
}

impl Link {
    pub(super) fn new(
        queue: Queue,
        source: String,
        metrics: SourceMetrics,
        health: Part,
    ) -> Arc<Self> {
        let (state, mended) = (Mutex::default(), Notify::new());
        Arc::new(Self { queue, source, metrics, health, state, mended })
    }

    /// A sign of life.
    pub(super) fn alive(&self) {
        self.health.alive();
    }

    /// The queue answers, and nothing is received as long as it lacks something.
    pub(super) fn lacks(&self, words: &str) {
        self.health.not_ready(words);
        self.health.alive();
    }

    /// Nothing is received any more.
    pub(super) fn drains(&self) {
        self.state.lock().draining = true;
        self.health.not_ready("draining");
    }

    /// A call was answered well.
    pub(super) fn worked(&self, call: Call) {
        let mut state = self.state.lock();
        if state.known && state.failing.is_empty() {
            return;
        }
        let serious = state.worked(call, Instant::now());
        if state.failing.iter().any(|(call, failing)| is_serious(*call, failing.kind)) {
            return self.show(&state);
        }
        let again = std::mem::replace(&mut state.known, true);
        let connects = self.metrics.connected.get() == 0;
        self.metrics.connected.set(1);
        if again && connects {
            self.metrics.reconnects.inc();
        }
        if again && serious {
            info!(source = %self.source, "the queue answers again");
        } else if !again {
            info!(source = %self.source, queue = %self.queue.address().url, "connected");
        }
        if !state.draining {
            self.health.ready();
        }
        drop(state);
        self.mended.notify_waiters();
    }

    /// A call failed: says so, unless it was said just now, and gives how long to wait.
    pub(super) async fn failed(&self, call: Call, trouble: &Trouble) -> Duration {
        if trouble.kind == Kind::Credentials && self.queue.refused().await {
            return Duration::ZERO;
        }
        let (words, now) = (self.queue.words(call, trouble), Instant::now());
        let mut state = self.state.lock();
        let failing = state.failing.entry(call).or_insert_with(|| Failing {
            kind: trouble.kind,
            words: String::new(),
            backoff: Backoff::new(BASE, CAP),
            until: now,
        });
        failing.kind = trouble.kind;
        failing.words.clone_from(&words);
        let wait = failing.backoff.next_wait();
        let wait = if trouble.kind.needs_somebody() { SLOW + wait.min(SLOW) } else { wait };
        failing.until = now + wait;
        if is_serious(call, trouble.kind) {
            self.metrics.connected.set(0);
        }
        self.show(&state);
        let said = state.said.entry((call, trouble.kind)).or_default();
        let count = said.again(SAY_EVERY, now);
        drop(state);
        if let Some(count) = count {
            let next_try = format!("in {wait:.1?}");
            warn!(source = %self.source, why = words, count, next_try, "SQS does not do what it is asked; trying again");
        }
        wait
    }

    fn show(&self, state: &State) {
        let mut failing = state.failing.iter();
        let bad = failing.find(|(call, failing)| is_serious(**call, failing.kind));
        if let Some((_, bad)) = bad.filter(|_| !state.draining) {
            self.health.not_ready(bad.words.clone());
        }
    }

    /// Waits until receives make sense: as long as what only a person can mend stops another call, they are made
    /// as seldom as that is tried.
    pub(super) async fn until_mended(&self) {
        loop {
            let mended = self.mended.notified();
            let Some(until) = self.paused_until() else { return };
            tokio::select! {
                () = mended => {}
                () = tokio::time::sleep_until(until.into()) => return,
            }
        }
    }

    fn paused_until(&self) -> Option<Instant> {
        let (state, now) = (self.state.lock(), Instant::now());
        let stopped = state.failing.iter().filter(|(call, failing)| {
            **call != Call::Receive && failing.kind.needs_somebody() && failing.until > now
        });
        stopped.map(|(_, failing)| failing.until).max()
    }
}

impl State {
    /// Forgets what a call that was answered well proves mended, and what nobody has had to ask for since it was
    /// due: there may be no message any more to extend or to delete, but there is always one to receive. Whether
    /// nothing stops the source any more that did.
    fn worked(&mut self, call: Call, now: Instant) -> bool {
        let is = |(failing, state): (&Call, &Failing)| is_serious(*failing, state.kind);
        let before = self.failing.iter().any(is);
        self.failing.remove(&call);
        if call == Call::Receive {
            // It proves the queue, too.
            self.failing.remove(&Call::Attributes);
        }
        let receives = |call: &Call| *call == Call::Receive;
        self.failing.retain(|call, failing| receives(call) || failing.until + FORGOTTEN > now);
        before && !self.failing.iter().any(is)
    }
}

/// Whether nothing comes, or would come to nothing, while it lasts.
fn is_serious(call: Call, kind: Kind) -> bool {
    match call {
        Call::Attributes | Call::Receive => !matches!(kind, Kind::Throttled | Kind::OverLimit),
        // Retried with each message.
        Call::Delete | Call::Visibility | Call::Send => kind.needs_somebody(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_has_to_ask_for_any_more_holds_nothing_up() {
        let (mut state, start) = (State::default(), Instant::now());
        let at = |s| start + Duration::from_secs(s);
        let failing = |until| Failing {
            kind: Kind::Denied,
            words: String::new(),
            backoff: Backoff::new(BASE, CAP),
            until,
        };
        state.failing.insert(Call::Visibility, failing(at(20)));
        assert!(!state.worked(Call::Receive, at(49)), "its next try may come yet");
        assert!(state.worked(Call::Receive, at(50)) && state.failing.is_empty());
        state.failing.insert(Call::Delete, failing(at(60)));
        assert!(!state.worked(Call::Receive, at(61)));
        assert!(state.worked(Call::Delete, at(61)), "at once, if it is what works");
        assert!(!state.worked(Call::Delete, at(61)));
        state.failing.insert(Call::Receive, failing(at(60)));
        assert!(!state.worked(Call::Delete, at(900)), "it is asked for again");
    }
}
