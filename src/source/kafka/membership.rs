//! Whether a source does its work, and if not, why: what `/readyz` says. Pure.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use serde::Deserialize;

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

/// The part of them that is read.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Statistics {
    #[serde(default)]
    cgrp: Group,
    #[serde(default)]
    topics: HashMap<String, Topic>,
}

#[derive(Debug, Default, Deserialize)]
struct Group {
    #[serde(default)]
    state: String,
    #[serde(default)]
    join_state: String,
}

#[derive(Debug, Deserialize)]
struct Topic {
    #[serde(default)]
    partitions: HashMap<String, Partition>,
}

#[derive(Debug, Deserialize)]
struct Partition {
    #[serde(rename = "partition")]
    number: i32,
    /// Behind the newest message, of those a reader of committed transactions sees.
    #[serde(default = "unknown")]
    ls_offset: i64,
    #[serde(default = "unknown")]
    committed_offset: i64,
    #[serde(default = "unknown")]
    lo_offset: i64,
}

/// How far behind one partition is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Behind {
    pub(super) topic: String,
    pub(super) partition: i32,
    /// `None` while that is not known.
    pub(super) lag: Option<i64>,
    pub(super) committed: Option<i64>,
}

fn unknown() -> i64 {
    -1
}

impl Statistics {
    /// Reads them; `None` if that is not what they are.
    pub(super) fn read(json: &[u8]) -> Option<Self> {
        serde_json::from_slice(json).ok()
    }

    /// Whether the group has us, and we know what is ours.
    pub(super) fn is_member(&self) -> bool {
        self.cgrp.state == "up" && self.cgrp.join_state == "steady"
    }

    /// Every partition that there is something to say of.
    pub(super) fn behind(&self) -> impl Iterator<Item = Behind> {
        self.topics.iter().flat_map(|(topic, of)| {
            of.partitions.values().filter(|p| p.number >= 0).map(|p| {
                let committed = Some(p.committed_offset).filter(|offset| *offset >= 0);
                // Without a commit everything that the broker still has is left to do.
                let from = committed.or(Some(p.lo_offset).filter(|offset| *offset >= 0));
                let lag = from.filter(|_| p.ls_offset >= 0).map(|from| (p.ls_offset - from).max(0));
                Behind { topic: topic.clone(), partition: p.number, lag, committed }
            })
        })
    }
}

/// Nothing is settled for so long, while the lag does not fall: the source is stuck.
const PATIENCE: Duration = Duration::from_mins(1);

/// What it saw last.
#[derive(Debug, Default)]
pub(super) struct Watchdog {
    /// How many were settled, and how large the lag was, when something was settled last.
    calm: Option<(Instant, u64, i64)>,
    stuck: bool,
}

impl Watchdog {
    /// Looks at the lag over all partitions, and at how many messages were settled so far. `Some` when
    /// the verdict changes: whether the source is stuck.
    pub(super) fn look(&mut self, lag: i64, settled: u64, now: Instant) -> Option<bool> {
        let (since, before, lag_then) = *self.calm.get_or_insert((now, settled, lag));
        if settled != before || lag == 0 || lag < lag_then {
            self.calm = Some((now, settled, lag));
            return std::mem::take(&mut self.stuck).then_some(false);
        }
        let grows = lag > lag_then;
        if !self.stuck && grows && now.duration_since(since) >= PATIENCE {
            self.stuck = true;
            return Some(true);
        }
        None
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

    #[test]
    fn reads_lag_and_membership() {
        let json = br#"{"name":"x","cgrp":{"state":"up","join_state":"steady","rebalance_cnt":1},
            "topics":{"orders":{"topic":"orders","partitions":{
                "0":{"partition":0,"lo_offset":0,"ls_offset":120,"committed_offset":100,"x":[]},
                "-1":{"partition":-1,"ls_offset":-1001}}}}}"#;
        let statistics = Statistics::read(json).unwrap();
        assert!(statistics.is_member());
        let expected =
            Behind { topic: "orders".into(), partition: 0, lag: Some(20), committed: Some(100) };
        assert_eq!(statistics.behind().collect::<Vec<_>>(), [expected]);
    }

    #[test]
    fn what_is_not_known_is_not_guessed() {
        let json =
            br#"{"cgrp":{"state":"up","join_state":"wait-join"},"topics":{"t":{"partitions":{
            "1":{"partition":1,"ls_offset":-1001,"committed_offset":-1001,"lo_offset":-1001},
            "2":{"partition":2,"ls_offset":9,"committed_offset":-1001,"lo_offset":4}}}}}"#;
        let statistics = Statistics::read(json).unwrap();
        assert!(!statistics.is_member());
        let mut behind: Vec<_> = statistics.behind().collect();
        behind.sort_by_key(|b| b.partition);
        assert_eq!((behind[0].lag, behind[1].lag), (None, Some(5)));
        assert!(!Statistics::read(b"{}").unwrap().is_member());
        assert!(Statistics::read(b"?").is_none());
    }

    #[test]
    fn a_growing_lag_without_deliveries_is_noticed_once() {
        let (mut dog, start) = (Watchdog::default(), Instant::now());
        let at = |s| start + Duration::from_secs(s);
        assert_eq!(dog.look(0, 5, at(0)), None);
        for s in 1..60 {
            assert_eq!(dog.look(i64::try_from(s).unwrap(), 5, at(s)), None, "{s}");
        }
        assert_eq!(dog.look(70, 5, at(60)), Some(true));
        assert_eq!(dog.look(80, 5, at(90)), None);
        assert_eq!(dog.look(80, 6, at(91)), Some(false));
        assert_eq!(dog.look(81, 6, at(92)), None);
    }

    #[test]
    fn idle_or_busy_is_not_stuck() {
        let (mut dog, start) = (Watchdog::default(), Instant::now());
        for s in 0..300 {
            assert_eq!(dog.look(0, 5, start + Duration::from_secs(s)), None);
        }
        for s in 300..600 {
            assert_eq!(dog.look(1_000, s, start + Duration::from_secs(s)), None);
        }
    }
}
