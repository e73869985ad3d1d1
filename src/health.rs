//! Whether the process is ready and alive, part by part.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// How long a part may go without a sign of life before the process counts as stuck.
const STUCK_AFTER: Duration = Duration::from_mins(1);

/// The state of every part; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Health {
    parts: Arc<Mutex<BTreeMap<String, State>>>,
    changed: Arc<Notify>,
}

#[derive(Clone, Debug)]
struct State {
    standing: Standing,
    seen: Option<Instant>,
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
    health: Health,
}

impl Health {
    /// Registers a part that is not ready yet, for the reason given.
    #[must_use]
    pub fn register(&self, name: impl Into<String>, not_ready: &str) -> Part {
        let name = name.into();
        let not_ready = Some(not_ready.to_owned());
        let standing = Standing { not_ready, since: SystemTime::now(), pauses: Vec::new() };
        let state = State { standing, seen: None };
        self.parts.lock().insert(name.clone(), state);
        Part { name, health: self.clone() }
    }

    /// The parts that are not ready, each with its reason; empty when all are.
    #[must_use]
    pub fn not_ready(&self) -> Vec<(String, String)> {
        let parts = self.parts.lock();
        let why =
            |(name, s): (&String, &State)| Some((name.clone(), s.standing.not_ready.clone()?));
        parts.iter().filter_map(why).collect()
    }

    /// How a part does; `None` if there is none of this name, or none any more.
    #[must_use]
    pub fn standing(&self, part: &str) -> Option<Standing> {
        self.parts.lock().get(part).map(|state| state.standing.clone())
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
        parts.iter().filter(|(_, s)| late(s)).map(|(name, _)| name.clone()).collect()
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut State)) {
        if let Some(state) = self.parts.lock().get_mut(name) {
            change(state);
        }
    }
}

impl Part {
    /// The part does its work.
    pub fn ready(&self) {
        self.health.change(&self.name, |s| s.standing.become_ready(None));
        self.health.changed.notify_waiters();
    }

    /// The part can't do its work, for the reason given.
    pub fn not_ready(&self, reason: impl Into<String>) {
        self.health.change(&self.name, |s| s.standing.become_ready(Some(reason.into())));
    }

    /// What of the part is held up now, each as its scope, why, and what ends it. What was before goes on.
    pub fn pauses(&self, now: impl IntoIterator<Item = (String, String, String)>) {
        self.health.change(&self.name, |s| s.standing.pause(now));
    }

    /// A sign of life. The first one is a promise to give more.
    pub fn alive(&self) {
        self.health.change(&self.name, |s| s.seen = Some(Instant::now()));
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

impl Drop for Part {
    fn drop(&mut self) {
        self.health.parts.lock().remove(&self.name);
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
        let standing = || health.standing("api main").unwrap();
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
        assert_eq!(health.standing("api main"), None);
    }

    #[test]
    fn only_a_part_that_promised_life_can_be_stuck() {
        let health = Health::default();
        let part = health.register("pipeline", "starting");
        assert!(health.stuck().is_empty());
        part.alive();
        assert!(health.stuck().is_empty());
        let long_ago = Instant::now().checked_sub(STUCK_AFTER * 2);
        health.change("pipeline", |s| s.seen = long_ago);
        assert_eq!(health.stuck(), ["pipeline"]);
    }
}
