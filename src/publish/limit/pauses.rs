//! Namespaces that refuse us, and when each is asked again.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::seeded::{self, Bug};

/// How long a refused namespace rests between two probes.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// Namespaces that refuse us. Nothing of theirs is sent but one probe a second, until it is answered.
#[derive(Debug, Default)]
pub struct Pauses {
    namespaces: HashMap<String, Pause>,
}

#[derive(Debug)]
struct Pause {
    probe_at: Instant,
    probing: bool,
}

impl Pauses {
    /// Whether a batch for `namespace` has to wait.
    pub fn blocks(&self, namespace: &str, now: Instant) -> bool {
        let paused = self.namespaces.get(namespace).is_some_and(|p| p.probing || now < p.probe_at);
        paused || (seeded::is(Bug::PauseWholeApi) && !self.is_empty())
    }

    /// A batch for `namespace` goes out: if it is paused, that is the probe.
    pub fn sent(&mut self, namespace: &str) {
        if let Some(pause) = self.namespaces.get_mut(namespace) {
            pause.probing = true;
        }
    }

    /// A request for `namespace` was refused. True when it was not paused before.
    pub fn refused(&mut self, namespace: &str, now: Instant) -> bool {
        let pause = Pause { probe_at: now + PROBE_EVERY, probing: false };
        self.namespaces.insert(namespace.to_owned(), pause).is_none()
    }

    /// A request for `namespace` ended without an answer on whether we are refused: probe again.
    pub fn unanswered(&mut self, namespace: &str, now: Instant) {
        if let Some(pause) = self.namespaces.get_mut(namespace) {
            *pause = Pause { probe_at: now + PROBE_EVERY, probing: false };
        }
    }

    /// A request for `namespace` was not refused. True when it was paused before.
    pub fn resumed(&mut self, namespace: &str) -> bool {
        self.namespaces.remove(namespace).is_some()
    }

    /// The namespaces whose next probe is due.
    pub fn due(&self, now: Instant) -> Vec<String> {
        let due = |p: &Pause| !p.probing && p.probe_at <= now;
        self.namespaces.iter().filter(|(_, p)| due(p)).map(|(n, _)| n.clone()).collect()
    }

    /// When the next probe is due, after `now`.
    pub fn next_due(&self, now: Instant) -> Option<Instant> {
        self.namespaces
            .values()
            .filter(|p| !p.probing && p.probe_at > now)
            .map(|p| p.probe_at)
            .min()
    }

    /// Whether nothing is paused.
    pub fn is_empty(&self) -> bool {
        self.namespaces.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_namespace_is_probed_once_a_second() {
        let (mut pauses, now) = (Pauses::default(), Instant::now());
        assert!(!pauses.blocks("a", now));
        assert!(pauses.refused("a", now));
        assert!(pauses.blocks("a", now) && !pauses.blocks("b", now));
        let later = now + PROBE_EVERY;
        assert_eq!(pauses.next_due(now), Some(later));
        assert_eq!(pauses.due(later), ["a"]);
        assert!(!pauses.blocks("a", later));
        pauses.sent("a");
        assert!(pauses.blocks("a", later + PROBE_EVERY), "one probe at a time");
        assert!(!pauses.refused("a", later));
        assert!(pauses.blocks("a", later));
        assert!(pauses.resumed("a"));
        assert!(!pauses.blocks("a", later) && pauses.is_empty());
    }
}
