//! Whether the process is ready and alive, part by part.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

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
    not_ready: Option<String>,
    seen: Option<Instant>,
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
        let state = State { not_ready: Some(not_ready.to_owned()), seen: None };
        self.parts.lock().insert(name.clone(), state);
        Part { name, health: self.clone() }
    }

    /// The parts that are not ready, each with its reason; empty when all are.
    #[must_use]
    pub fn not_ready(&self) -> Vec<(String, String)> {
        let parts = self.parts.lock();
        parts.iter().filter_map(|(name, s)| Some((name.clone(), s.not_ready.clone()?))).collect()
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
        self.health.change(&self.name, |s| s.not_ready = None);
        self.health.changed.notify_waiters();
    }

    /// The part can't do its work, for the reason given.
    pub fn not_ready(&self, reason: impl Into<String>) {
        self.health.change(&self.name, |s| s.not_ready = Some(reason.into()));
    }

    /// A sign of life. The first one is a promise to give more.
    pub fn alive(&self) {
        self.health.change(&self.name, |s| s.seen = Some(Instant::now()));
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
