//! Whether the process is ready and alive, part by part.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How long a part may go without a sign of life before the process counts as stuck.
const STUCK_AFTER: Duration = Duration::from_mins(1);

/// The state of every part; cheap to clone.
#[derive(Clone, Debug)]
pub struct Health {
    parts: Arc<Mutex<Parts>>,
    changed: Arc<Notify>,
    /// Whether the parts that are registered here count.
    counts: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
struct Parts {
    registered: u64,
    /// By name the part, and behind it those that take its place when it is gone.
    by_name: BTreeMap<String, Vec<State>>,
}

#[derive(Debug)]
struct State {
    number: u64,
    standing: Standing,
    seen: Option<Instant>,
    counts: Arc<AtomicBool>,
}

/// How a part does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Why it is not ready; `None`: it is.
    pub not_ready: Option<String>,
    /// When it became ready, or ceased to be.
    pub since: SystemTime,
    /// What of it is held up, though the rest may work.
    pub pauses: Vec<Pause>,
}

/// A piece of a part that is held up, such as a namespace of an API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pause {
    /// Which one.
    pub scope: String,
    /// Why, as the other side says it.
    pub why: String,
    /// What ends it.
    pub hint: String,
    /// When it began.
    pub since: SystemTime,
}

/// One part's own view: a source, an API, the pipeline. Dropped, the part is forgotten.
pub struct Part {
    name: String,
    number: u64,
    health: Health,
}

impl Health {
    /// Registers a part that is not ready yet, for the reason given. While another has its name, that one speaks.
    #[must_use]
    pub fn register(&self, name: impl Into<String>, not_ready: &str) -> Part {
        let (name, not_ready) = (name.into(), Some(not_ready.to_owned()));
        let standing = Standing { not_ready, since: SystemTime::now(), pauses: Vec::new() };
        let mut parts = self.parts.lock();
        parts.registered += 1;
        let number = parts.registered;
        let state = State { number, standing, seen: None, counts: Arc::clone(&self.counts) };
        parts.by_name.entry(name.clone()).or_default().push(state);
        drop(parts);
        Part { name, number, health: self.clone() }
    }

    /// The same, for parts that do not count before [`count`](Self::count).
    #[must_use]
    pub fn aside(&self) -> Self {
        Self { counts: Arc::default(), ..self.clone() }
    }

    /// Parts that were registered here count from now on.
    pub fn count(&self) {
        self.counts.store(true, Ordering::Relaxed);
        self.changed.notify_waiters();
    }

    /// The parts of this name are leaving: how they do is nobody's business any more.
    pub fn retire(&self, name: &str) {
        for state in self.parts.lock().by_name.get_mut(name).into_iter().flatten() {
            state.counts = Arc::default();
        }
        self.changed.notify_waiters();
    }

    /// Of the parts of this name that count, the last one speaks from now on, though others are not gone yet.
    pub fn supersede(&self, name: &str) {
        let mut parts = self.parts.lock();
        let states = parts.by_name.get_mut(name).into_iter().flatten();
        let mut counting: Vec<_> = states.filter(|state| state.counts()).collect();
        counting.pop();
        for state in counting {
            state.counts = Arc::default();
        }
        drop(parts);
        self.changed.notify_waiters();
    }

    /// The parts that are not ready, each with its reason; empty when all are.
    #[must_use]
    pub fn not_ready(&self) -> Vec<(String, String)> {
        let parts = self.parts.lock();
        let why =
            |(name, s): (&String, &State)| Some((name.clone(), s.standing.not_ready.clone()?));
        parts.all().filter_map(why).collect()
    }

    /// How each part does that is there, all at one moment.
    #[must_use]
    pub fn standings(&self) -> BTreeMap<String, Standing> {
        let parts = self.parts.lock();
        parts.all().map(|(name, state)| (name.clone(), state.standing.clone())).collect()
    }

    /// Waits until every part is ready.
    pub async fn all_ready(&self) {
        loop {
            let changed = self.changed.notified();
            if self.not_ready().is_empty() {
                return;
            }
            changed.await;
        }
    }

    /// The parts that promised signs of life and gave none for a minute.
    #[must_use]
    pub fn stuck(&self) -> Vec<String> {
        let parts = self.parts.lock();
        let late = |s: &State| s.seen.is_some_and(|seen| seen.elapsed() > STUCK_AFTER);
        parts.all().filter(|(_, s)| late(s)).map(|(name, _)| name.clone()).collect()
    }
}

impl Default for Health {
    fn default() -> Self {
        Self { parts: Arc::default(), changed: Arc::default(), counts: Arc::new(true.into()) }
    }
}

impl Parts {
    /// Of each name the part that speaks.
    fn all(&self) -> impl Iterator<Item = (&String, &State)> {
        self.by_name.iter().filter_map(|(name, s)| Some((name, s.iter().find(|s| s.counts())?)))
    }
}

impl State {
    fn counts(&self) -> bool {
        self.counts.load(Ordering::Relaxed)
    }
}

impl Part {
    /// The part does its work.
    pub fn ready(&self) {
        self.change(|s| s.standing.become_ready(None));
        self.health.changed.notify_waiters();
    }

    /// The part can't do its work, for the reason given.
    pub fn not_ready(&self, reason: impl Into<String>) {
        self.change(|s| s.standing.become_ready(Some(reason.into())));
    }

    /// What of the part is held up now, each as its scope, why, and what ends it. What was before goes on.
    pub fn pauses(&self, now: impl IntoIterator<Item = (String, String, String)>) {
        self.change(|s| s.standing.pause(now));
    }

    /// A sign of life. The first one is a promise to give more.
    pub fn alive(&self) {
        self.change(|s| s.seen = Some(Instant::now()));
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut parts = self.health.parts.lock();
        let states = parts.by_name.get_mut(&self.name).into_iter().flatten();
        if let Some(state) = states.into_iter().find(|state| state.number == self.number) {
            change(state);
        }
    }
}

impl Standing {
    fn become_ready(&mut self, not_ready: Option<String>) {
        if self.not_ready.is_some() != not_ready.is_some() {
            self.since = SystemTime::now();
        }
        self.not_ready = not_ready;
    }

    fn pause(&mut self, now: impl IntoIterator<Item = (String, String, String)>) {
        let before = std::mem::take(&mut self.pauses);
        let pause = |(scope, why, hint): (String, String, String)| {
            let same = before.iter().find(|pause| pause.scope == scope);
            let since = same.map_or_else(SystemTime::now, |pause| pause.since);
            Pause { scope, why, hint, since }
        };
        self.pauses = now.into_iter().map(pause).collect();
    }
}

/// Nobody is told: a part that a reload takes away was retired before, and one that ends by itself makes nothing ready.
impl Drop for Part {
    fn drop(&mut self) {
        let mut parts = self.health.parts.lock();
        let Some(states) = parts.by_name.get_mut(&self.name) else { return };
        states.retain(|state| state.number != self.number);
        if states.is_empty() {
            parts.by_name.remove(&self.name);
        }
    }
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Part({})", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_not_ready_until_it_says_so_and_is_forgotten_when_dropped() {
        let health = Health::default();
        let part = health.register("source plant", "connecting");
        assert_eq!(health.not_ready(), [("source plant".to_owned(), "connecting".to_owned())]);
        part.ready();
        assert!(health.not_ready().is_empty());
        part.not_ready("gone");
        assert_eq!(health.not_ready().len(), 1);
        drop(part);
        assert!(health.not_ready().is_empty());
    }

    #[test]
    fn a_standing_is_as_old_as_its_last_change() {
        let health = Health::default();
        let part = health.register("api main", "starting");
        let standing = || health.standings().remove("api main").unwrap();
        let began = standing().since;
        part.not_ready("still starting");
        assert_eq!(
            (standing().since, standing().not_ready.unwrap().as_str()),
            (began, "still starting")
        );
        part.ready();
        assert!(standing().since > began && standing().not_ready.is_none());

        let pause = |scope: &str, why: &str| (scope.to_owned(), why.to_owned(), "ask".to_owned());
        part.pauses([pause("a", "403"), pause("b", "404")]);
        let before = standing().pauses;
        part.pauses([pause("a", "401"), pause("c", "403")]);
        let after = standing().pauses;
        assert_eq!((after[0].since, after[0].why.as_str()), (before[0].since, "401"));
        assert!(after[1].scope == "c" && after[1].since > before[1].since);
        part.pauses([]);
        assert!(standing().pauses.is_empty());
        drop(part);
        assert_eq!(health.standings().remove("api main"), None);
    }

    #[test]
    fn only_a_part_that_promised_life_can_be_stuck() {
        let health = Health::default();
        let part = health.register("pipeline", "starting");
        assert!(health.stuck().is_empty());
        part.alive();
        assert!(health.stuck().is_empty());
        let long_ago = Instant::now().checked_sub(STUCK_AFTER * 2);
        part.change(|s| s.seen = long_ago);
        assert_eq!(health.stuck(), ["pipeline"]);
        health.retire("pipeline");
        assert!(health.stuck().is_empty());
    }

    #[test]
    fn of_two_of_a_name_the_second_speaks_when_the_first_is_gone_or_retired() {
        let health = Health::default();
        let why = || health.not_ready().into_iter().map(|(_, why)| why).collect::<Vec<_>>();
        let first = health.register("source plant", "first");
        let second = health.register("source plant", "second");
        assert_eq!(why(), ["first"]);
        first.ready();
        second.not_ready("still second");
        assert_eq!(why(), [""; 0]);
        drop(first);
        assert_eq!(why(), ["still second"]);
        health.retire("source plant");
        let third = health.register("source plant", "third");
        assert_eq!(why(), ["third"]);
        drop(second);
        assert_eq!(why(), ["third"]);
        drop(third);
        assert_eq!((why(), health.standings().remove("source plant")), (vec![], None));
    }

    #[test]
    fn of_those_of_a_name_the_last_one_speaks_that_counts() {
        let health = Health::default();
        let why = || health.not_ready().into_iter().map(|(_, why)| why).collect::<Vec<_>>();
        health.supersede("source plant");
        let parts = ["first", "second", "third"].map(|why| health.register("source plant", why));
        let _staged = health.aside().register("source plant", "staged");
        assert_eq!(why(), ["first"]);
        for _ in 0..2 {
            health.supersede("source plant");
            assert_eq!(why(), ["third"]);
        }
        drop(parts);
        assert_eq!(why(), [""; 0]);
    }

    #[test]
    fn a_part_that_was_registered_aside_counts_when_it_is_told() {
        let health = Health::default();
        let (aside, other) = (health.aside(), health.aside());
        let _part = aside.register("source new", "connecting");
        let never = other.register("source never", "connecting");
        assert!(health.not_ready().is_empty() && !health.standings().contains_key("source new"));
        drop(never);
        aside.count();
        assert_eq!(health.not_ready(), [("source new".to_owned(), "connecting".to_owned())]);
    }
}
