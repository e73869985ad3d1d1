//! What refuses us, and when it is asked again.

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, Instant};

use crate::event_api::MAX_EVENTS;
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

/// What refuses us. Nothing goes there but one event a second, until one that was sent since is answered
/// otherwise: what was under way when the refusal came says nothing of the time after it.
#[derive(Debug, Default)]
pub struct Pauses {
    scopes: HashMap<Scope, Pause>,
    /// When a pause last ended.
    lifted: HashMap<Scope, Instant>,
}

#[derive(Debug)]
struct Pause {
    began: Instant,
    probe_at: Instant,
    /// When the probe that is out was sent.
    probe: Option<Instant>,
}

impl Pauses {
    /// How many events a request for `namespace` may hold now, if what is asked is `asking`: one if it
    /// is the probe. A namespace that is paused itself goes only when it is its turn, so that it does not
    /// ask for the API in place of others.
    pub fn room(&self, namespace: &str, asking: Option<&Scope>, now: Instant) -> usize {
        if self.is_empty() {
            return MAX_EVENTS;
        }
        let scopes = scopes(namespace);
        if seeded::is(Bug::PauseWholeApi) || scopes.iter().any(|scope| self.waits(scope, now)) {
            return 0;
        }
        let [api, own] = scopes;
        let paused = [own, api].into_iter().find(|scope| self.scopes.contains_key(scope));
        match paused {
            None => MAX_EVENTS,
            Some(scope) => usize::from(asking == Some(&scope)),
        }
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

    /// `scope` refused a request that went out at `sent`. True when a pause began, which what was under
    /// way before the last one ended can't do.
    pub fn refused(&mut self, scope: &Scope, sent: Instant, now: Instant) -> bool {
        let begins = !self.scopes.contains_key(scope) && !self.lifted_since(scope, sent);
        if begins {
            let pause = Pause { began: now, probe_at: now + PROBE_EVERY, probe: None };
            self.scopes.insert(scope.clone(), pause);
        }
        begins
    }

    /// `scope` did not refuse a request that went out at `sent`. True when that ended its pause.
    pub fn taken(&mut self, scope: &Scope, sent: Instant, now: Instant) -> bool {
        let ends = self.scopes.get(scope).is_some_and(|pause| pause.began < sent);
        if ends {
            self.scopes.remove(scope);
            self.lifted.insert(scope.clone(), now);
        }
        ends
    }

    /// Whether a pause of `scope` has ended at that time or since.
    pub fn lifted_since(&self, scope: &Scope, since: Instant) -> bool {
        self.lifted.get(scope).is_some_and(|at| *at >= since)
    }

    /// What is due to be probed: first the API, then namespaces, who waits longest first. Nothing while
    /// the API has to wait.
    pub fn due(&self, now: Instant) -> Vec<Scope> {
        if self.is_empty() || self.waits(&Scope::Api, now) {
            return Vec::new();
        }
        let due = self.scopes.iter().filter(|(scope, _)| !self.waits(scope, now));
        let mut due: Vec<_> =
            due.map(|(scope, p)| (*scope != Scope::Api, p.probe_at, scope)).collect();
        due.sort_by_key(|(namespace, probe_at, _)| (*namespace, *probe_at));
        due.into_iter().map(|(_, _, scope)| scope.clone()).collect()
    }

    /// When the next probe is due, after `now`.
    pub fn next_due(&self, now: Instant) -> Option<Instant> {
        let due = |p: &&Pause| p.probe.is_none() && p.probe_at > now;
        self.scopes.values().filter(due).map(|p| p.probe_at).min()
    }

    /// Who refuses us: the API, if it does, else some namespace.
    pub fn any(&self) -> Option<&Scope> {
        self.scopes.keys().min_by_key(|scope| **scope != Scope::Api)
    }

    /// Whether nothing is paused.
    pub fn is_empty(&self) -> bool {
        self.scopes.is_empty()
    }

    /// Whether `scope` is paused.
    pub fn contains(&self, scope: &Scope) -> bool {
        self.scopes.contains_key(scope)
    }

    /// Whether what is for `namespace` waits for a probe of it or of the API.
    pub fn hold(&self, namespace: &str) -> bool {
        !self.is_empty() && scopes(namespace).iter().any(|scope| self.contains(scope))
    }

    fn waits(&self, scope: &Scope, now: Instant) -> bool {
        self.scopes.get(scope).is_some_and(|p| p.probe.is_some() || now < p.probe_at)
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

    fn of(name: &str) -> Scope {
        Scope::Namespace(name.to_owned())
    }

    #[test]
    fn a_refused_namespace_is_probed_once_a_second() {
        let (mut pauses, now, a) = (Pauses::default(), Instant::now(), of("a"));
        assert_eq!(pauses.room("a", None, now), MAX_EVENTS);
        assert!(pauses.refused(&a, now, now));
        assert_eq!((pauses.room("a", None, now), pauses.room("b", None, now)), (0, MAX_EVENTS));
        let later = now + PROBE_EVERY;
        assert_eq!(pauses.next_due(now), Some(later));
        assert_eq!(pauses.due(later), std::slice::from_ref(&a));
        assert_eq!((pauses.room("a", None, later), pauses.room("a", Some(&a), later)), (0, 1));
        pauses.sent("a", later);
        let long = later + 5 * PROBE_EVERY;
        assert_eq!(pauses.room("a", Some(&a), long), 0, "one probe at a time");
        assert!(pauses.due(long).is_empty());
        pauses.ended("a", later, later);
        assert!(!pauses.refused(&a, later, later));
        assert_eq!(pauses.due(later + PROBE_EVERY), std::slice::from_ref(&a));
        assert!(pauses.due(later).is_empty());
        assert!(pauses.taken(&a, later, later));
        assert_eq!(pauses.room("a", None, later), MAX_EVENTS);
        assert!(pauses.lifted_since(&a, now) && !pauses.lifted_since(&a, long));
        assert!(!pauses.lifted_since(&of("b"), now));
    }

    #[test]
    fn what_went_out_before_neither_ends_a_pause_nor_begins_one() {
        let (mut pauses, now, a) = (Pauses::default(), Instant::now(), of("a"));
        pauses.refused(&a, now, now);
        assert!(!pauses.taken(&a, now, now), "it was sent before");
        let later = now + PROBE_EVERY;
        pauses.sent("a", later);
        pauses.ended("a", now, later);
        assert!(!pauses.refused(&a, now, later));
        assert!(pauses.due(later + PROBE_EVERY).is_empty(), "the probe is still out");
        assert!(pauses.taken(&a, later, later));
        assert!(!pauses.refused(&a, now, later + PROBE_EVERY), "a slow one");
        assert!(pauses.is_empty());
        assert!(pauses.refused(&a, later + PROBE_EVERY, later + PROBE_EVERY));
    }

    #[test]
    fn a_refused_api_is_probed_by_who_is_not_refused_and_else_by_who_waits_longest() {
        let (mut pauses, now) = (Pauses::default(), Instant::now());
        let (a, b) = (of("a"), of("b"));
        pauses.refused(&b, now, now);
        pauses.refused(&a, now, now + PROBE_EVERY);
        pauses.refused(&Scope::Api, now, now);
        let later = now + 3 * PROBE_EVERY;
        assert_eq!(pauses.due(later), [Scope::Api, b.clone(), a.clone()]);
        let room = |pauses: &Pauses, asking| {
            ["a", "b", "c"].map(|namespace| pauses.room(namespace, Some(asking), later))
        };
        assert_eq!(room(&pauses, &Scope::Api), [0, 0, 1]);
        assert_eq!(room(&pauses, &b), [0, 1, 0]);
        pauses.sent("b", later);
        assert_eq!((room(&pauses, &a), pauses.due(later)), ([0, 0, 0], Vec::new()));
        pauses.ended("b", later, later);
        assert!(pauses.due(later).is_empty(), "whoever asks would ask the API");
        assert_eq!(pauses.due(later + PROBE_EVERY), [Scope::Api, a, b]);
        assert_eq!(pauses.any(), Some(&Scope::Api));
        assert!(pauses.hold("c"));
        assert!(pauses.taken(&Scope::Api, later, later));
        assert!(pauses.hold("a") && !pauses.hold("c"));
    }
}
