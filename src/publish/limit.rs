//! How much may be asked of an API at once. Pure: policies that are told what happened.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How long a refused namespace rests between two probes.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// Requests in flight: one more a round trip while the limit is reached, fewer on overload.
#[derive(Debug)]
pub struct Concurrency {
    limit: f64,
    ceiling: f64,
    last_cut: Option<Instant>,
}

impl Concurrency {
    /// Starts low, and never passes `ceiling`.
    pub fn new(ceiling: usize) -> Self {
        let ceiling = f64::from(u32::try_from(ceiling.max(1)).unwrap_or(u32::MAX));
        Self { limit: ceiling.min(4.0), ceiling, last_cut: None }
    }

    /// Whether one more request may go out beside `in_flight`.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // 1 ≤ limit ≤ u32::MAX
    pub fn allows(&self, in_flight: usize) -> bool {
        in_flight < self.limit as usize
    }

    /// The limit, rounded down.
    #[allow(clippy::cast_possible_truncation)] // 1 ≤ limit ≤ u32::MAX
    pub fn limit(&self) -> i64 {
        self.limit as i64
    }

    /// A request was answered in order; `in_flight` were out beside it.
    pub fn succeeded(&mut self, in_flight: usize) {
        if !self.allows(in_flight + 1) {
            self.limit = (self.limit + 1.0 / self.limit).min(self.ceiling);
        }
    }

    /// A request that went out at `sent` met an overload. Those that were out together cut once.
    pub fn overloaded(&mut self, sent: Instant, now: Instant) {
        if self.last_cut.is_none_or(|cut| sent >= cut) {
            self.limit = (self.limit * 0.7).max(1.0);
            self.last_cut = Some(now);
        }
    }
}

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
        self.namespaces.get(namespace).is_some_and(|p| p.probing || now < p.probe_at)
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
    fn concurrency_grows_when_used_and_is_cut_once_a_round_trip() {
        let mut concurrency = Concurrency::new(64);
        assert!(concurrency.allows(3) && !concurrency.allows(4));
        concurrency.succeeded(0);
        assert_eq!(concurrency.limit(), 4, "an idle limit does not grow");
        for _ in 0..10_000 {
            concurrency.succeeded(63);
        }
        assert_eq!(concurrency.limit(), 64);
        let sent = Instant::now();
        let later = sent + Duration::from_millis(10);
        concurrency.overloaded(sent, later);
        concurrency.overloaded(sent, later);
        assert_eq!(concurrency.limit(), 44);
        for n in 1..100 {
            concurrency.overloaded(later + Duration::from_secs(n), later + Duration::from_secs(n));
        }
        assert!(concurrency.allows(0), "one may always go");
    }

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
