//! What refuses us, and when it is asked again.

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, Instant};

use crate::seeded::{self, Bug};

/// How long a refused namespace rests between two probes.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// Who refuses us: a namespace, or the API as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// The whole API.
    Api,
    /// One namespace of it.
    Namespace(String),
}

/// What refuses us. Nothing goes there but one probe a second, until one is answered otherwise.
#[derive(Debug, Default)]
pub struct Pauses {
    scopes: HashMap<Scope, Pause>,
}

#[derive(Debug)]
struct Pause {
    probe_at: Instant,
    probing: bool,
}

impl Pauses {
    /// Whether a batch for `namespace` has to wait.
    pub fn blocks(&self, namespace: &str, now: Instant) -> bool {
        if self.is_empty() {
            return false;
        }
        let waits = |p: &Pause| p.probing || now < p.probe_at;
        seeded::is(Bug::PauseWholeApi)
            || scopes(namespace).iter().any(|s| self.scopes.get(s).is_some_and(waits))
    }

    /// A batch for `namespace` goes out: if that is paused, it is the probe.
    pub fn sent(&mut self, namespace: &str) {
        self.change(namespace, |pause| pause.probing = true);
    }

    /// A request was refused. True when `scope` was not paused before.
    pub fn refused(&mut self, scope: Scope, now: Instant) -> bool {
        let pause = Pause { probe_at: now + PROBE_EVERY, probing: false };
        self.scopes.insert(scope, pause).is_none()
    }

    /// A request for `namespace` ended without an answer on whether we are refused: probe again.
    pub fn unanswered(&mut self, namespace: &str, now: Instant) {
        self.change(namespace, |pause| {
            *pause = Pause { probe_at: now + PROBE_EVERY, probing: false }
        });
    }

    /// A request for `namespace` was not refused: neither it nor the API is paused. Gives what was.
    pub fn resumed(&mut self, namespace: &str) -> Vec<Scope> {
        if self.is_empty() {
            return Vec::new();
        }
        scopes(namespace).into_iter().filter(|scope| self.scopes.remove(scope).is_some()).collect()
    }

    /// What is due to be probed.
    pub fn due(&self, now: Instant) -> Vec<Scope> {
        let due = |p: &Pause| !p.probing && p.probe_at <= now;
        self.scopes.iter().filter(|(_, p)| due(p)).map(|(scope, _)| scope.clone()).collect()
    }

    /// When the next probe is due, after `now`.
    pub fn next_due(&self, now: Instant) -> Option<Instant> {
        self.scopes.values().filter(|p| !p.probing && p.probe_at > now).map(|p| p.probe_at).min()
    }

    /// Whether nothing is paused.
    pub fn is_empty(&self) -> bool {
        self.scopes.is_empty()
    }

    /// Whether the API as a whole is paused.
    pub fn holds_all(&self) -> bool {
        self.scopes.contains_key(&Scope::Api)
    }

    fn change(&mut self, namespace: &str, change: impl Fn(&mut Pause)) {
        if !self.is_empty() {
            scopes(namespace)
                .iter()
                .filter_map(|s| self.scopes.get_mut(s).map(&change))
                .for_each(drop);
        }
    }
}

/// What a request for `namespace` asks.
fn scopes(namespace: &str) -> [Scope; 2] {
    [Scope::Api, Scope::Namespace(namespace.to_owned())]
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Api => f.write_str("the API"),
            Self::Namespace(name) => write!(f, "namespace `{name}`"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a() -> Scope {
        Scope::Namespace("a".to_owned())
    }

    #[test]
    fn a_refused_namespace_is_probed_once_a_second() {
        let (mut pauses, now) = (Pauses::default(), Instant::now());
        assert!(!pauses.blocks("a", now));
        assert!(pauses.refused(a(), now));
        assert!(pauses.blocks("a", now) && !pauses.blocks("b", now));
        let later = now + PROBE_EVERY;
        assert_eq!(pauses.next_due(now), Some(later));
        assert_eq!(pauses.due(later), [a()]);
        assert!(!pauses.blocks("a", later));
        pauses.sent("a");
        assert!(pauses.blocks("a", later + PROBE_EVERY), "one probe at a time");
        assert!(!pauses.refused(a(), later));
        assert!(pauses.blocks("a", later));
        assert_eq!(pauses.resumed("a"), [a()]);
        assert!(!pauses.blocks("a", later) && pauses.is_empty());
    }

    #[test]
    fn a_refused_api_blocks_every_namespace_and_any_of_them_probes() {
        let (mut pauses, now) = (Pauses::default(), Instant::now());
        pauses.refused(Scope::Api, now);
        assert!(pauses.blocks("a", now) && pauses.blocks("b", now));
        let later = now + PROBE_EVERY;
        assert!(!pauses.blocks("a", later) && !pauses.blocks("b", later));
        pauses.sent("a");
        assert!(pauses.blocks("b", later));
        pauses.unanswered("a", later);
        assert!(pauses.blocks("b", later) && !pauses.blocks("b", later + PROBE_EVERY));
        assert_eq!(pauses.resumed("b"), [Scope::Api]);
    }
}
