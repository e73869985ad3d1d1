//! Whether a source does its work, and if not, why: what `/readyz` says. Pure.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Out of the steady state for less than this is a rebalance, and no reason to call the source away.
const REBALANCE: Duration = Duration::from_secs(10);

/// What is known of it.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// It is a member of its group, and knows what is assigned to it.
    pub(super) member: bool,
    /// Since when its group was not seen steady.
    unsteady: Option<Instant>,
    /// What went wrong last.
    pub(super) trouble: Option<String>,
    /// Topics that are subscribed to and not there, with the reason.
    pub(super) missing: BTreeSet<(String, String)>,
    /// Of so many partitions it is not known yet where they begin.
    pub(super) undecided: usize,
    /// The lag grows, and nothing is delivered.
    pub(super) stuck: bool,
    pub(super) draining: bool,
}

impl Standing {
    /// The group was seen, steady or not. A rebalance moves partitions and takes moments; one that does
    /// not end leaves the source without them.
    pub(super) fn seen(&mut self, steady: bool, now: Instant) {
        if steady {
            self.member = true;
            self.unsteady = None;
            self.trouble = None;
        } else {
            let since = *self.unsteady.get_or_insert(now);
            self.member &= now.duration_since(since) < REBALANCE;
        }
    }

    /// Why it is not ready; `None` if it is.
    pub(super) fn reason(&self) -> Option<String> {
        if self.draining {
            return Some("draining".to_owned());
        }
        if !self.member {
            let waiting = || "waiting for the group to assign partitions".to_owned();
            return Some(self.trouble.clone().unwrap_or_else(waiting));
        }
        if self.undecided > 0 {
            return Some(format!("waiting to know where {} partitions begin", self.undecided));
        }
        if let Some((topic, why)) = self.missing.first() {
            return Some(format!("the topic `{topic}` can't be read: {why}"));
        }
        self.stuck.then(|| "the lag grows and nothing is delivered".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rebalance_is_no_absence_unless_it_does_not_end() {
        let (mut standing, start) = (Standing::default(), Instant::now());
        let at = |s| start + Duration::from_secs(s);
        standing.seen(false, at(0));
        assert!(!standing.member, "it never was one");
        for (second, steady, member) in [
            (20, true, true),
            (22, false, true),
            (30, false, true),
            (31, true, true),
            (33, false, true),
            (42, false, true),
            (43, false, false),
            (60, false, false),
            (61, true, true),
        ] {
            standing.seen(steady, at(second));
            assert_eq!(standing.member, member, "{second}");
        }
    }

    #[test]
    fn the_first_reason_is_the_one_to_mend_first() {
        let mut standing = Standing::default();
        assert!(standing.reason().unwrap().contains("assign"));
        standing.trouble = Some("no broker answers".into());
        assert_eq!(standing.reason().unwrap(), "no broker answers");
        standing.member = true;
        assert_eq!(standing.reason(), None, "one broker of many may be down");
        standing.undecided = 2;
        assert!(standing.reason().unwrap().contains("begin"));
        standing.undecided = 0;
        standing.stuck = true;
        standing.missing.insert(("orders".into(), "unknown".into()));
        assert!(standing.reason().unwrap().contains("`orders`"));
        standing.missing.clear();
        assert!(standing.reason().unwrap().contains("lag"));
    }
}
