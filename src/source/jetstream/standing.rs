//! How the source stands, for people and for `/readyz`: connected or not, and why not. What repeats is said once in a
//! while.

use std::time::{Duration, Instant};

use tracing::{info, warn};

use crate::health::Part;
use crate::message::SourceName;
use crate::metrics::SourceMetrics;
use crate::source::reconnect::Reconnect;

/// The longest first wait before the consumer is asked for again, …
const BASE: Duration = Duration::from_millis(200);

/// … and the longest of all: a stream that is made again should not wait long to be read.
const CAP: Duration = Duration::from_secs(5);

/// How one source stands.
pub(super) struct Standing {
    source: SourceName,
    health: Part,
    metrics: SourceMetrics,
    reconnect: Reconnect<String>,
    bound: Option<bool>,
    /// Since when it is bound, …
    since: Option<Instant>,
    /// … or how long it was.
    held: Option<Duration>,
    draining: bool,
    reason: Option<String>,
}

impl Standing {
    /// Not connected yet.
    pub(super) fn new(source: SourceName, health: Part, metrics: SourceMetrics) -> Self {
        let reconnect = Reconnect::new(BASE);
        Self {
            source,
            health,
            metrics,
            reconnect,
            bound: None,
            since: None,
            held: None,
            draining: false,
            reason: None,
        }
    }

    /// The consumer is bound; why it will deliver nothing all the same, as was said before.
    pub(super) fn bound(&mut self, hindered: Option<&str>) {
        if self.bound == Some(false) {
            self.metrics.reconnects.inc();
            info!(source = %self.source, "the consumer is bound again");
        }
        (self.bound, self.since) = (Some(true), Some(Instant::now()));
        self.metrics.connected.set(1);
        self.set(hindered);
    }

    /// Nothing comes, for this reason.
    pub(super) fn away(&mut self, why: &str) {
        self.bound = self.bound.map(|_| false);
        self.held = self.since.take().map(|since| since.elapsed()).or(self.held);
        self.metrics.connected.set(0);
        self.set(Some(why));
    }

    /// Something failed; it is tried again after this wait.
    pub(super) fn failed(&mut self, why: &str) -> Duration {
        self.away(why);
        let next = self.reconnect.ended(why.to_owned(), self.held.take());
        if next.say {
            warn!(source = %self.source, why, "JetStream does not deliver; trying again");
        }
        next.wait.min(CAP)
    }

    /// The consumer is bound; whether it will deliver nothing all the same.
    pub(super) fn hindered(&mut self, why: Option<&str>) {
        if let Some(why) = why.filter(|why| self.reason.as_deref() != Some(*why)) {
            warn!(source = %self.source, "{why}");
        }
        self.set(why);
    }

    /// The consumer is bound, and the server refuses what nothing works without, which was said.
    pub(super) fn refused(&mut self, why: &str) {
        self.set(Some(why));
    }

    fn set(&mut self, why: Option<&str>) {
        self.reason = why.map(str::to_owned);
        match why {
            _ if self.draining => {}
            None => self.health.ready(),
            Some(why) => self.health.not_ready(why),
        }
    }

    /// The drain has begun.
    pub(super) fn draining(&mut self) {
        self.draining = true;
        self.health.not_ready("draining");
    }

    /// A sign of life.
    pub(super) fn alive(&self) {
        self.health.alive();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::Health;
    use crate::metrics::Metrics;

    #[test]
    fn after_it_was_bound_for_long_the_next_failure_is_the_first() {
        let part = Health::default().register("it", "starting");
        let mut standing = Standing::new("it".into(), part, Metrics::new().source("it"));
        let waits: Vec<_> = (0..100).map(|_| standing.failed("no")).collect();
        assert!(waits.iter().any(|wait| *wait > BASE), "it does not slow down");
        for away in [false, true] {
            standing.bound(None);
            standing.since = Instant::now().checked_sub(Duration::from_mins(1));
            if away {
                standing.away("the connection is lost");
            }
            assert!(standing.failed("no") <= BASE);
            for _ in 0..20 {
                standing.failed("no");
            }
        }
    }
}
