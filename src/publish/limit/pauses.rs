//! The paused parts of an API, which refused the bridge, and when they are probed.

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, Instant};

use crate::event_api::MAX_EVENTS;
use crate::seeded_bugs::{self, Bug};

/// Wait between two probes of a paused scope.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// The scope of a refusal: a namespace, or the API as a whole.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// The whole API.
    Api,
    /// One namespace of it.
    Namespace(String),
}

/// The paused scopes. Only a probe of one event a second goes there, until one sent during the pause is not
/// refused: the answer to an earlier request proves nothing about the time after the refusal.
#[derive(Debug, Default)]
pub struct Pauses {
    scopes: HashMap<Scope, Pause>,
    /// When a pause last ended.
    lifted: HashMap<Scope, Instant>,
    /// When a namespace last probed the API, and how often any did.
    asked: HashMap<String, Instant>,
    asks: u32,
}

#[derive(Debug)]
struct Pause {
    began: Instant,
    probe_at: Instant,
    /// When the probe in flight was sent.
    probe: Option<Instant>,
}

impl Pauses {
    /// The most events that a request for `namespace` may hold now: one if it is a probe. `asker` is the
    /// namespace chosen to probe a paused API.
    pub fn room(&self, namespace: &str, asker: Option<&str>, now: Instant) -> usize {
        if self.is_empty() {
            return MAX_EVENTS;
        }
        let [api, own] = scopes(namespace);
        let elsewhere = self.contains(&api) && asker != Some(namespace);
        let waits = self.waits(&api, now) || self.waits(&own, now);
        if waits || elsewhere || seeded_bugs::is(Bug::PauseWholeApi) {
            return 0;
        }
        if self.contains(&api) || self.contains(&own) { 1 } else { MAX_EVENTS }
    }

    /// A batch for `namespace` is sent now: if that is paused, it is the probe.
    pub fn sent(&mut self, namespace: &str, now: Instant) {
        self.change(namespace, |pause| pause.probe = Some(now));
        if self.contains(&Scope::Api) {
            self.asked.insert(namespace.to_owned(), now);
            self.asks = self.asks.wrapping_add(1);
        }
    }

    /// Notes the end of the request for `namespace` sent at `sent`, whatever its result: if it was the probe,
    /// another one may follow in a second. The result comes in another call.
    pub fn ended(&mut self, namespace: &str, sent: Instant, now: Instant) {
        self.change(namespace, |pause| {
            if pause.probe == Some(sent) {
                (pause.probe, pause.probe_at) = (None, now + PROBE_EVERY);
            }
        });
    }

    /// `scope` refused a request sent at `sent`. True when that began a pause, which a request sent before
    /// the end of the last pause can't do.
    pub fn refused(&mut self, scope: &Scope, sent: Instant, now: Instant) -> bool {
        let begins = !self.contains(scope) && !self.lifted_since(scope, sent);
        if begins {
            let pause = Pause { began: now, probe_at: now + PROBE_EVERY, probe: None };
            self.scopes.insert(scope.clone(), pause);
        }
        begins
    }

    /// `scope` did not refuse a request sent at `sent`. True when that ended its pause.
    pub fn taken(&mut self, scope: &Scope, sent: Instant, now: Instant) -> bool {
        let ends = self.scopes.get(scope).is_some_and(|pause| pause.began < sent);
        if ends {
            self.scopes.remove(scope);
            if *scope == Scope::Api {
                self.asked.clear();
            }
            self.lifted.insert(scope.clone(), now);
        }
        ends
    }

    /// Whether a pause of `scope` has ended since.
    pub fn lifted_since(&self, scope: &Scope, since: Instant) -> bool {
        self.lifted.get(scope).is_some_and(|at| *at > since)
    }

    /// The namespaces due for a probe: none while the API is paused, for which one is chosen.
    pub fn due(&self, now: Instant) -> Vec<String> {
        if self.is_empty() || self.contains(&Scope::Api) {
            return Vec::new();
        }
        let due = self.scopes.keys().filter(|scope| !self.waits(scope, now));
        due.filter_map(|scope| match scope {
            Scope::Api => None,
            Scope::Namespace(name) => Some(name.clone()),
        })
        .collect()
    }

    /// Whether the API is paused, and due for a probe.
    pub fn may_ask_api(&self, now: Instant) -> bool {
        self.contains(&Scope::Api) && !self.waits(&Scope::Api, now)
    }

    /// Orders these namespaces for probing the API: the longest without a probe first, and those not paused
    /// themselves before paused ones, except every fourth time. So a namespace whose answers never end the
    /// pause does not keep others from probing.
    pub fn in_turn<'a>(
        &self,
        namespaces: impl Iterator<Item = &'a str>,
        now: Instant,
    ) -> Vec<String> {
        let may = namespaces.filter(|name| !self.waits(&Scope::of(name), now));
        let mut names: Vec<String> = may.map(str::to_owned).collect();
        let refused_first = self.asks % 4 == 3;
        names.sort_by_cached_key(|name| {
            (self.contains(&Scope::of(name)) != refused_first, self.asked.get(name))
        });
        names
    }

    /// When the next probe is due, after `now`.
    pub fn next_due(&self, now: Instant) -> Option<Instant> {
        let due = |p: &&Pause| p.probe.is_none() && p.probe_at > now;
        self.scopes.values().filter(due).map(|p| p.probe_at).min()
    }

    /// A paused scope: the API, if it is paused, else some namespace.
    pub fn any(&self) -> Option<&Scope> {
        self.scopes.keys().min_by_key(|scope| **scope != Scope::Api)
    }

    /// The paused scopes, in an order that stays.
    pub fn scopes(&self) -> impl Iterator<Item = &Scope> {
        let mut scopes: Vec<_> = self.scopes.keys().collect();
        scopes.sort_unstable();
        scopes.into_iter()
    }

    /// Whether nothing is paused.
    pub fn is_empty(&self) -> bool {
        self.scopes.is_empty()
    }

    /// Since when `scope` is paused.
    pub fn since(&self, scope: &Scope) -> Option<Instant> {
        self.scopes.get(scope).map(|pause| pause.began)
    }

    /// Whether `scope` is paused.
    pub fn contains(&self, scope: &Scope) -> bool {
        self.scopes.contains_key(scope)
    }

    /// Whether events for `namespace` wait for a probe of it or of the API.
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

/// The scopes that a request for `namespace` probes.
fn scopes(namespace: &str) -> [Scope; 2] {
    [Scope::Api, Scope::of(namespace)]
}

impl Scope {
    /// A namespace.
    pub fn of(namespace: &str) -> Self {
        Self::Namespace(namespace.to_owned())
    }
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
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_refused_namespace_is_probed_once_a_second() {
        let (mut pauses, now, a) = (Pauses::default(), Instant::now(), Scope::of("a"));
        assert_eq!(pauses.room("a", None, now), MAX_EVENTS);
        assert!(pauses.refused(&a, now, now));
        assert_eq!((pauses.room("a", None, now), pauses.room("b", None, now)), (0, MAX_EVENTS));
        let later = now + PROBE_EVERY;
        assert_eq!(pauses.next_due(now), Some(later));
        assert_eq!((pauses.due(later), pauses.room("a", None, later)), (vec!["a".to_owned()], 1));
        pauses.sent("a", later);
        let long = later + 5 * PROBE_EVERY;
        assert_eq!(pauses.room("a", None, long), 0, "one probe at a time");
        assert!(pauses.due(long).is_empty());
        pauses.ended("a", later, later);
        assert!(!pauses.refused(&a, later, later));
        assert_eq!(pauses.due(later + PROBE_EVERY), ["a"]);
        assert!(pauses.due(later).is_empty());
        assert!(pauses.taken(&a, later, later));
        assert_eq!(pauses.room("a", None, later), MAX_EVENTS);
        assert!(pauses.lifted_since(&a, now) && !pauses.lifted_since(&a, long));
        assert!(!pauses.lifted_since(&Scope::of("b"), now));
    }

    #[test]
    fn what_went_out_before_neither_ends_a_pause_nor_begins_one() {
        let (mut pauses, now, a) = (Pauses::default(), Instant::now(), Scope::of("a"));
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
    fn a_refused_api_is_asked_in_turn_and_by_the_refused_last() {
        let (mut pauses, now) = (Pauses::default(), Instant::now());
        let all = || ["a", "b", "c", "d"].into_iter();
        pauses.refused(&Scope::of("a"), now, now);
        pauses.refused(&Scope::Api, now, now);
        assert!(!pauses.may_ask_api(now) && pauses.hold("c"));
        let mut asked = Vec::new();
        for second in 1..=4 {
            let at = now + second * PROBE_EVERY;
            assert!(pauses.may_ask_api(at) && pauses.due(at).is_empty());
            let names = pauses.in_turn(all(), at);
            assert_eq!(
                names.iter().position(|name| name == "a"),
                Some(if second == 4 { 0 } else { 3 })
            );
            let name = names[0].clone();
            let room = |asker: &str| all().map(|n| pauses.room(n, Some(asker), at)).sum::<usize>();
            assert_eq!(room(&name), 1, "nobody else");
            pauses.sent(&name, at);
            assert!(!pauses.may_ask_api(at + PROBE_EVERY));
            pauses.ended(&name, at, at);
            asked.push(name);
        }
        assert_eq!(BTreeSet::from_iter(&asked).len(), 4, "{asked:?}");
        let late = now + 9 * PROBE_EVERY;
        assert_eq!(pauses.in_turn(all(), late)[0], asked[0]);
        assert_eq!(pauses.any(), Some(&Scope::Api));
        assert!(pauses.taken(&Scope::Api, late, late));
        assert!(pauses.hold("a") && !pauses.hold("c"));
    }
}
