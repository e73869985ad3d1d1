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

/// What refuses us. Nothing goes there but one probe a second, until one that was sent since is answered
/// otherwise: what was under way when the refusal came says nothing of the time after it.
#[derive(Debug, Default)]
pub struct Pauses {
    scopes: HashMap<Scope, Pause>,
    /// When a pause of a namespace last ended.
    lifted: HashMap<String, Instant>,
}

#[derive(Debug)]
struct Pause {
    began: Instant,
    probe_at: Instant,
    /// When the probe that is out was sent.
    probe: Option<Instant>,
}

impl Pauses {
    /// Whether a batch for `namespace` has to wait.
    pub fn blocks(&self, namespace: &str, now: Instant) -> bool {
        if self.is_empty() {
            return false;
        }
        let waits = |p: &Pause| p.probe.is_some() || now < p.probe_at;
        seeded::is(Bug::PauseWholeApi)
            || scopes(namespace).iter().any(|s| self.scopes.get(s).is_some_and(waits))
    }

    /// A batch for `namespace` goes out now: if that is paused, it is the probe.
    pub fn sent(&mut self, namespace: &str, now: Instant) {
        self.change(namespace, |pause| pause.probe = Some(now));
    }

    /// The request for `namespace` that went out at `sent` has ended, in whatever way: if it was the
    /// probe, another one may follow in a second. What the end means is told besides.
    pub fn ended(&mut self, namespace: &str, sent: Instant, now: Instant) {
        self.change(namespace, |pause| {
            if pause.probe == Some(sent) {
                (pause.probe, pause.probe_at) = (None, now + PROBE_EVERY);
            }
        });
    }

    /// A request was refused. True when `scope` was not paused before.
    pub fn refused(&mut self, scope: Scope, now: Instant) -> bool {
        let new = !self.scopes.contains_key(&scope);
        let pause = Pause { began: now, probe_at: now + PROBE_EVERY, probe: None };
        self.scopes.entry(scope).or_insert(pause);
        new
    }

    /// `scope` did not refuse a request that went out at `sent`. True when that ended its pause.
    pub fn taken(&mut self, scope: &Scope, sent: Instant, now: Instant) -> bool {
        let ends = self.scopes.get(scope).is_some_and(|pause| pause.began < sent);
        if ends {
            self.scopes.remove(scope);
            if let Scope::Namespace(name) = scope {
                self.lifted.insert(name.clone(), now);
            }
        }
        ends
    }

    /// Whether a pause of `namespace` has ended since.
    pub fn lifted_since(&self, namespace: &str, since: Instant) -> bool {
        self.lifted.get(namespace).is_some_and(|at| *at > since)
    }

    /// What is due to be probed.
    pub fn due(&self, now: Instant) -> Vec<Scope> {
        let due = |p: &Pause| p.probe.is_none() && p.probe_at <= now;
        self.scopes.iter().filter(|(_, p)| due(p)).map(|(scope, _)| scope.clone()).collect()
    }

    /// When the next probe is due, after `now`.
    pub fn next_due(&self, now: Instant) -> Option<Instant> {
        let due = |p: &&Pause| p.probe.is_none() && p.probe_at > now;
        self.scopes.values().filter(due).map(|p| p.probe_at).min()
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
        pauses.sent("a", later);
        assert!(pauses.blocks("a", later + PROBE_EVERY), "one probe at a time");
        assert!(pauses.due(later + PROBE_EVERY).is_empty());
        pauses.ended("a", later, later);
        assert!(!pauses.refused(a(), later));
        assert!(pauses.blocks("a", later) && !pauses.blocks("a", later + PROBE_EVERY));
        assert!(pauses.taken(&a(), later, later));
        assert!(!pauses.blocks("a", later) && pauses.is_empty());
        assert!(pauses.lifted_since("a", now) && !pauses.lifted_since("a", later));
        assert!(!pauses.lifted_since("b", now));
    }

    #[test]
    fn what_went_out_before_the_refusal_neither_ends_nor_begins_anything() {
        let (mut pauses, now) = (Pauses::default(), Instant::now());
        pauses.refused(a(), now);
        assert!(!pauses.taken(&a(), now, now), "it was sent before");
        let later = now + PROBE_EVERY;
        pauses.sent("a", later);
        pauses.ended("a", now, later);
        assert!(!pauses.refused(a(), later));
        assert!(pauses.blocks("a", later + PROBE_EVERY), "the probe is still out");
        assert!(pauses.taken(&a(), later, later));
    }

    #[test]
    fn a_refused_api_blocks_every_namespace_and_any_of_them_probes() {
        let (mut pauses, now) = (Pauses::default(), Instant::now());
        pauses.refused(Scope::Api, now);
        assert!(pauses.blocks("a", now) && pauses.blocks("b", now));
        let later = now + PROBE_EVERY;
        assert!(!pauses.blocks("a", later) && !pauses.blocks("b", later));
        pauses.sent("a", later);
        assert!(pauses.blocks("b", later));
        pauses.ended("a", later, later);
        assert!(pauses.blocks("b", later) && !pauses.blocks("b", later + PROBE_EVERY));
        assert!(pauses.taken(&Scope::Api, later + PROBE_EVERY, later + PROBE_EVERY));
    }
}
