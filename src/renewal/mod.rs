//! A value that expires and is renewed ahead of that: AWS credentials, OAuth tokens.
//!
//! One renewal runs at a time, in a task of its own, and callers get the old value meanwhile, as long as it
//! is valid. A failed renewal changes nothing: the old value is used until it expires, and the next try
//! waits. A refused value is renewed too, but seldom: the refusal may have a reason that no new value
//! cures. Times are monotonic, so a clock that jumps changes nothing here.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use rand::RngExt;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::backoff::Backoff;

/// Timeout of a renewal.
const PATIENCE: Duration = Duration::from_secs(20);

/// A renewal starts between once and twice this before the expiry, …
const AHEAD: Duration = Duration::from_mins(5);

/// … or between once and twice this part of the lifetime, if that is shorter.
const AHEAD_PART: u32 = 6;

/// Longest lifetime of a value; a longer one from outside is cut to it, so that additions of times can't
/// overflow.
pub const LONGEST: Duration = Duration::from_hours(366 * 24);

/// A value is renewed after this, even if it is valid for longer.
const RENEWED_AFTER: Duration = Duration::from_hours(24);

/// Assumed lifetime of a value that arrives expired: a clock is wrong, not the value.
const SHORTEST: Duration = Duration::from_secs(1);

/// First and longest backoff after failed renewals.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// Least time between two renewals because of a refusal: the first, doubled each time up to the other, and
/// reset after as long without one. Who gives better ones again is believed within that.
const AFTER_REFUSAL: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(20));

/// A new value, or the reason why there is none.
pub type Fetching<T> = Pin<Box<dyn Future<Output = Result<Fresh<T>, String>> + Send>>;

/// A value that was just fetched.
#[derive(Debug)]
pub struct Fresh<T> {
    /// The value.
    pub value: T,
    /// Its lifetime from now, [`LONGEST`] at most; `None`: until it is refused.
    pub lifetime: Option<Duration>,
}

/// A value in use.
#[derive(Debug)]
pub struct Held<T> {
    /// The value.
    pub value: Arc<T>,
    /// The number of this value among all held so far.
    pub generation: u64,
}

impl<T> Clone for Held<T> {
    fn clone(&self) -> Self {
        Self { value: Arc::clone(&self.value), generation: self.generation }
    }
}

/// Holds a value and renews it.
pub struct Renewal<T>(Arc<Shared<T>>);

struct Shared<T> {
    what: &'static str,
    fetch: Box<dyn Fn() -> Fetching<T> + Send + Sync>,
    state: Mutex<State<T>>,
    ended: watch::Sender<()>,
    /// Told when the value in use ends.
    told: OnceLock<Box<dyn Fn(Option<SystemTime>) + Send + Sync>>,
}

/// Pure: takes the time and decides.
struct State<T> {
    held: Option<Held<T>>,
    /// When to renew it, and when it expires.
    life: Option<(Instant, Instant)>,
    running: bool,
    backoff: Backoff,
    not_before: Option<Instant>,
    /// Why the last renewal failed.
    why: String,
    /// The last renewal because of a refusal, and the wait before the next.
    refusal: Option<(Instant, Duration)>,
}

/// What to do for a caller.
enum Step<T> {
    /// Give the value; if true, start a renewal too.
    Use(Held<T>, bool),
    /// Wait for the renewal; if true, start it.
    Wait(bool),
    /// There is none, and the next try is not due.
    Fail(String),
}

impl<T: PartialEq + Send + Sync + 'static> Renewal<T> {
    /// Holds nothing yet; `what` names the value in the log.
    pub fn new(
        what: &'static str,
        fetch: impl Fn() -> Fetching<T> + Send + Sync + 'static,
    ) -> Self {
        let state = Mutex::new(State::new());
        let ended = watch::Sender::new(());
        let fetch = Box::new(fetch);
        Self(Arc::new(Shared { what, fetch, state, ended, told: OnceLock::new() }))
    }

    /// Tells `told` when the value in use ends, by the clock of this machine, and again with each renewal; `None`: it
    /// has no end that is known. Only the first who asks is told.
    pub fn tell_end(&self, told: impl Fn(Option<SystemTime>) + Send + Sync + 'static) {
        let first = self.0.told.set(Box::new(told)).is_ok();
        let state = self.0.state.lock();
        if first && state.held.is_some() {
            self.0.tell(&state, Instant::now());
        }
    }

    /// A valid value; waits only if there is none. The error is the reason why there is none.
    pub async fn get(&self) -> Result<Held<T>, String> {
        let mut ended = self.0.ended.subscribe();
        let step = self.0.state.lock().step(Instant::now());
        match step {
            Step::Use(held, begin) => {
                if begin {
                    self.begin();
                }
                return Ok(held);
            }
            Step::Wait(begin) => {
                if begin {
                    self.begin();
                }
            }
            Step::Fail(why) => return Err(why),
        }
        // The sender is ours, so it is there.
        let _ = ended.changed().await;
        let state = self.0.state.lock();
        state.good(Instant::now()).cloned().ok_or_else(|| state.why.clone())
    }

    /// Starts to fetch the first value, so that it, or a logged failure, is there before the first call.
    pub fn begin_early(&self) {
        // Not in the condition: the lock would be held while the task is spawned, which may end at once.
        let step = self.0.state.lock().step(Instant::now());
        if let Step::Use(_, true) | Step::Wait(true) = step {
            self.begin();
        }
    }

    /// Notes that the value of this generation was refused. Whether there is a new one.
    pub async fn refused(&self, generation: u64) -> bool {
        let mut ended = self.0.ended.subscribe();
        let step = self.0.state.lock().refused(generation, Instant::now());
        match step {
            Step::Use(..) => return true,
            Step::Fail(_) => return false,
            Step::Wait(begin) => {
                if begin {
                    self.begin();
                }
            }
        }
        let _ = ended.changed().await;
        self.0.state.lock().held.as_ref().is_some_and(|held| held.generation != generation)
    }

    /// Runs a renewal; the state says already that one is running.
    fn begin(&self) {
        let mut running = Running { shared: Arc::clone(&self.0), ended: false };
        tokio::spawn(async move {
            let result = timeout(PATIENCE, (running.shared.fetch)()).await;
            let result = result.unwrap_or_else(|_| Err(format!("no answer within {PATIENCE:?}")));
            running.end(result);
        });
    }
}

/// A renewal that ends in any case: one that panicked has failed.
struct Running<T: PartialEq> {
    shared: Arc<Shared<T>>,
    ended: bool,
}

impl<T: PartialEq> Running<T> {
    fn end(&mut self, result: Result<Fresh<T>, String>) {
        self.shared.end(result);
        // Last, so that waiting callers are notified even if that panics, too.
        self.ended = true;
    }
}

impl<T: PartialEq> Drop for Running<T> {
    fn drop(&mut self) {
        if !self.ended {
            self.shared.end(Err("the renewal broke off".to_owned()));
        }
    }
}

impl<T: PartialEq> Shared<T> {
    fn end(&self, result: Result<Fresh<T>, String>) {
        let mut state = self.state.lock();
        let failing = state.backoff.failures() > 0;
        if let Err(why) = &result
            && !failing
        {
            let fate = if state.good(Instant::now()).is_some() {
                "can't be renewed; the old is used as long as it is good, and it is tried again"
            } else {
                "there is none, and without it nothing goes out; it is tried again"
            };
            tracing::warn!(what = self.what, %why, "{fate}");
        } else if failing && result.is_ok() {
            tracing::info!(what = self.what, "renewed again");
        }
        let (now, renewed) = (Instant::now(), result.is_ok());
        state.ended(result, now);
        if renewed {
            self.tell(&state, now);
        }
        drop(state);
        self.ended.send_replace(());
    }

    fn tell(&self, state: &State<T>, now: Instant) {
        if let Some(told) = self.told.get() {
            told(state.life.map(|(_, end)| SystemTime::now() + end.saturating_duration_since(now)));
        }
    }
}

impl<T: PartialEq> State<T> {
    fn new() -> Self {
        Self {
            held: None,
            life: None,
            running: false,
            backoff: Backoff::new(RETRY.0, RETRY.1),
            not_before: None,
            why: String::new(),
            refusal: None,
        }
    }

    fn good(&self, now: Instant) -> Option<&Held<T>> {
        self.held.as_ref().filter(|_| self.life.is_none_or(|(_, end)| now < end))
    }

    fn step(&mut self, now: Instant) -> Step<T> {
        let may = !self.running && self.not_before.is_none_or(|at| at <= now);
        if let Some(held) = self.good(now).cloned() {
            let begin = may && self.life.is_some_and(|(due, _)| due <= now);
            self.running |= begin;
            return Step::Use(held, begin);
        }
        if !may && !self.running {
            return Step::Fail(self.why.clone());
        }
        self.running |= may;
        Step::Wait(may)
    }

    fn refused(&mut self, generation: u64, now: Instant) -> Step<T> {
        if let Some(held) = self.held.as_ref().filter(|held| held.generation != generation) {
            return Step::Use(held.clone(), false);
        }
        if self.running {
            return Step::Wait(false);
        }
        let (first, last) = AFTER_REFUSAL;
        let wait = match self.refusal {
            Some((at, wait)) if now < at + wait => return Step::Fail(String::new()),
            Some((at, wait)) if now < at + wait + last => (wait * 2).min(last),
            _ => first,
        };
        if self.not_before.is_some_and(|at| now < at) {
            return Step::Fail(String::new());
        }
        self.refusal = Some((now, wait));
        self.running = true;
        Step::Wait(true)
    }

    fn ended(&mut self, result: Result<Fresh<T>, String>, now: Instant) {
        self.running = false;
        match result {
            Ok(Fresh { value, lifetime }) => {
                let same = self.held.as_ref().is_some_and(|held| *held.value == value);
                self.backoff.reset();
                self.not_before = None;
                self.life = lifetime.map(|lifetime| {
                    let lifetime = lifetime.clamp(SHORTEST, LONGEST);
                    let due = lifetime.saturating_sub(ahead(lifetime)).min(RENEWED_AFTER);
                    (now + due, now + lifetime)
                });
                if same {
                    return;
                }
                let generation = self.held.as_ref().map_or(1, |held| held.generation + 1);
                self.held = Some(Held { value: Arc::new(value), generation });
            }
            Err(why) => {
                self.why = why;
                self.not_before = Some(now + self.backoff.next_wait());
            }
        }
    }
}

/// How long before the expiry the renewal starts, at random: bridges that started together do not renew
/// together.
fn ahead(lifetime: Duration) -> Duration {
    AHEAD.min(lifetime / AHEAD_PART).mul_f64(rand::rng().random_range(1.0..=2.0))
}

impl<T> fmt::Debug for Renewal<T> {
    /// Leaves out the value: it is a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Renewal({})", self.0.what)
    }
}

#[cfg(test)]
mod tests;
