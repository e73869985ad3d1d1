//! Whether a source is a working member of its group, and if not, why: the reason in `/readyz`. Pure.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// A group that is not steady for less than this is in a rebalance, and the source still counts as ready.
const REBALANCE: Duration = Duration::from_secs(10);

/// Readiness of a source, from the state of its group.
#[derive(Debug, Default)]
pub(super) struct Membership {
    /// It is a member of its group, and has its assignment.
    pub(super) member: bool,
    /// Start of the unsteady time, if the group is unsteady.
    unsteady: Option<Instant>,
    /// The last error since the group was steady.
    pub(super) last_error: Option<String>,
    /// Subscribed topics that can't be read, with the reason.
    pub(super) missing: BTreeSet<(String, String)>,
    /// Partitions whose start position is not known yet.
    pub(super) undecided: usize,
    /// A partition of which nothing is fetched, though it may have messages.
    pub(super) unfetched: Option<(String, i32)>,
    /// Why positions have not been committed for a while.
    pub(super) commits_fail: Option<String>,
    /// The lag grows, and nothing is delivered.
    pub(super) no_progress: bool,
    pub(super) draining: bool,
}

impl Membership {
    /// Notes whether the group is steady. A rebalance takes moments; one that does not end leaves the
    /// source without partitions.
    pub(super) fn seen(&mut self, steady: bool, now: Instant) {
        if steady {
            self.member = true;
            self.unsteady = None;
            self.last_error = None;
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
            return Some(self.last_error.clone().unwrap_or_else(waiting));
        }
        if self.undecided > 0 {
            return Some(format!("waiting to know where {} partitions begin", self.undecided));
        }
        if let Some((topic, why)) = self.missing.first() {
            return Some(format!(
                "the topic `{topic}` can't be read: {why}; check `topics`, and that the user may read it"
            ));
        }
        if let Some((topic, partition)) = &self.unfetched {
            return Some(format!(
                "nothing is fetched of the partition {partition} of `{topic}`; see the log for errors of Kafka, and \
                 whether the user may read the topic"
            ));
        }
        if let Some(why) = &self.commits_fail {
            return Some(format!(
                "positions can't be committed, and after a restart all since then comes again: {why}"
            ));
        }
        self.no_progress.then(|| {
            "the lag grows and nothing is delivered; see the log for errors of Kafka, and the topics for open transactions".to_owned()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rebalance_is_no_absence_unless_it_does_not_end() {
        let (mut membership, start) = (Membership::default(), Instant::now());
        let at = |s| start + Duration::from_secs(s);
        membership.seen(false, at(0));
        assert!(!membership.member, "it never was one");
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
            membership.seen(steady, at(second));
            assert_eq!(membership.member, member, "{second}");
        }
    }

    #[test]
    fn the_first_reason_is_the_one_to_mend_first() {
        let mut membership = Membership::default();
        assert!(membership.reason().unwrap().contains("assign"));
        membership.last_error = Some("no broker answers".into());
        assert_eq!(membership.reason().unwrap(), "no broker answers");
        membership.member = true;
        assert_eq!(membership.reason(), None, "one broker of many may be down");
        membership.undecided = 2;
        assert!(membership.reason().unwrap().contains("begin"));
        membership.undecided = 0;
        membership.no_progress = true;
        membership.missing.insert(("orders".into(), "unknown".into()));
        assert!(membership.reason().unwrap().contains("`orders`"));
        membership.missing.clear();
        assert!(membership.reason().unwrap().contains("lag"));
        membership.commits_fail = Some("not allowed".into());
        assert!(membership.reason().unwrap().contains("committed"));
        membership.unfetched = Some(("orders".into(), 3));
        assert!(membership.reason().unwrap().contains("partition 3 of `orders`"));
    }
}
