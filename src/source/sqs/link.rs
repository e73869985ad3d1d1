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

/// Receives that are refused for so long, as too many or too fast, are more than a pause.
const TOO_LONG: Duration = Duration::from_mins(1);

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
    /// None has worked since.
    since: Instant,
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
        let now = Instant::now();
        let serious = state.worked(call, now);
        self.mended.notify_waiters();
        if state.serious(now).is_some() {
            return self.show(&state, now);
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
    }

    /// A call failed: says so, unless it was said just now, and gives how long to wait.
    pub(super) async fn failed(&self, call: Call, trouble: &Trouble) -> Duration {
        if trouble.kind == Kind::Credentials && self.queue.refused().await {
            return Duration::ZERO;
        }
        let (words, now) = (self.queue.words(call, trouble), Instant::now());
        let mut state = self.state.lock();
        let wait = state.failed(call, trouble.kind, &words, now);
        if state.failing.get(&call).is_some_and(|failing| failing.is_serious(call, now)) {
            self.metrics.connected.set(0);
        }
        self.show(&state, now);
        let said = state.said.entry((call, trouble.kind)).or_default();
        let count = said.again(SAY_EVERY, now);
        drop(state);
        if let Some(count) = count {
            let next_try = format!("in {wait:.1?}");
            warn!(source = %self.source, why = words, count, next_try, "SQS does not do what it is asked; trying again");
        }
        wait
    }

    fn show(&self, state: &State, now: Instant) {
        if let Some(bad) = state.serious(now).filter(|_| !state.draining) {
            self.health.not_ready(bad.words.clone());
        }
    }

    /// Waits as long as a call that failed rests; one to which no answer came, until another of its kind is answered.
    pub(super) async fn rest(&self, call: Call, kind: Kind, wait: Duration) {
        let answered = async {
            loop {
                let mended = self.mended.notified();
                if kind.is_unheard() && !self.state.lock().failing.contains_key(&call) {
                    return;
                }
                mended.await;
            }
        };
        let _ = tokio::time::timeout(wait, answered).await;
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
    /// A call failed: gives how long to wait.
    fn failed(&mut self, call: Call, kind: Kind, words: &str, now: Instant) -> Duration {
        let failing = self.failing.entry(call).or_insert_with(|| Failing {
            kind,
            words: String::new(),
            backoff: Backoff::new(BASE, CAP),
            since: now,
            until: now,
        });
        failing.kind = kind;
        words.clone_into(&mut failing.words);
        // Calls that fail at the same time, as at the end of a connection, are one failure.
        let again = now >= failing.until;
        let wait = if again { failing.backoff.next_wait() } else { failing.backoff.another_wait() };
        let wait = if kind.needs_somebody() { SLOW + wait.min(SLOW) } else { wait };
        if again || kind.needs_somebody() {
            failing.until = failing.until.max(now + wait);
        }
        wait
    }

    /// A call for whose failure nothing comes, or would come to nothing.
    fn serious(&self, now: Instant) -> Option<&Failing> {
        let mut failing = self.failing.iter();
        failing.find(|(call, failing)| failing.is_serious(**call, now)).map(|(_, failing)| failing)
    }

    /// Forgets what a call that was answered well proves mended, and what nobody has had to ask for since it was
    /// due: there may be no message any more to extend or to delete, but there is always one to receive. Whether
    /// nothing stops the source any more that did.
    fn worked(&mut self, call: Call, now: Instant) -> bool {
        let before = self.serious(now).is_some();
        self.failing.remove(&call);
        if call == Call::Receive {
            // It proves the queue, too.
            self.failing.remove(&Call::Attributes);
        }
        let receives = |call: &Call| *call == Call::Receive;
        self.failing.retain(|call, failing| receives(call) || failing.until + FORGOTTEN > now);
        before && self.serious(now).is_none()
    }
}

impl Failing {
    /// Whether nothing comes, or would come to nothing, while it lasts.
    fn is_serious(&self, call: Call, now: Instant) -> bool {
        match call {
            Call::Attributes | Call::Receive => {
                !self.kind.is_throttle() || now.duration_since(self.since) >= TOO_LONG
            }
            // Retried with each message.
            Call::Delete | Call::Visibility | Call::Send => self.kind.needs_somebody(),
        }
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
            since: start,
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

    #[test]
    fn calls_that_fail_together_are_one_failure() {
        let (mut state, start) = (State::default(), Instant::now());
        let failed = |state: &mut State, ms| {
            let now = start + Duration::from_millis(ms);
            let wait = state.failed(Call::Delete, Kind::Unreachable, "", now);
            (wait, state.failing[&Call::Delete].backoff.failures())
        };
        failed(&mut state, 0);
        let until = state.failing[&Call::Delete].until;
        for _ in 0..16 {
            let (wait, failures) = failed(&mut state, 0);
            assert!(wait <= BASE && failures == 1, "{wait:?} after {failures}");
        }
        assert_eq!(state.failing[&Call::Delete].until, until);
        assert_eq!(failed(&mut state, 200).1, 2, "it was tried again");
    }

    #[test]
    fn receives_that_are_refused_for_a_minute_are_serious() {
        for kind in [Kind::Throttled, Kind::OverLimit] {
            let (mut state, start) = (State::default(), Instant::now());
            let seriously = |state: &mut State, call, s| {
                let now = start + Duration::from_secs(s);
                state.failed(call, kind, "slower", now);
                state.serious(now).map(|failing| failing.words.clone())
            };
            assert_eq!(seriously(&mut state, Call::Receive, 0), None);
            assert_eq!(seriously(&mut state, Call::Receive, 59), None);
            assert_eq!(seriously(&mut state, Call::Receive, 60).as_deref(), Some("slower"));
            assert!(state.worked(Call::Receive, start + Duration::from_secs(61)), "one came");
            assert_eq!(seriously(&mut state, Call::Receive, 62), None);
            state.worked(Call::Receive, start + Duration::from_secs(63));
            assert_eq!(seriously(&mut state, Call::Delete, 64), None);
            assert_eq!(seriously(&mut state, Call::Delete, 900), None, "messages come");
        }
    }
}
