//! Whether a source is a working member of its group, and if not, why: the reason in `/readyz`. Pure.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use serde::Deserialize;

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
        self.no_progress.then(|| {
            "the lag grows and nothing is delivered; see the log for errors of Kafka, and the topics for open transactions".to_owned()
        })
    }
}

/// The part of librdkafka's statistics that is used.
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
    /// End of the log for a reader of committed transactions.
    #[serde(default = "unknown")]
    ls_offset: i64,
    #[serde(default = "unknown")]
    committed_offset: i64,
    #[serde(default = "unknown")]
    lo_offset: i64,
    /// The next one to fetch, behind markers of transactions and what was aborted …
    #[serde(default = "unknown")]
    next_offset: i64,
    /// … and so many messages that were fetched and not taken yet.
    #[serde(default)]
    fetchq_cnt: u64,
}

/// The lag of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Behind {
    pub(super) topic: String,
    pub(super) partition: i32,
    /// `None` while it is not known.
    pub(super) lag: Option<i64>,
    /// The same where no message is in flight: what is no message at the end of the log is read, and not committed.
    pub(super) unread: Option<i64>,
    pub(super) committed: Option<i64>,
}

fn unknown() -> i64 {
    -1
}

impl Statistics {
    /// Parses them; `None` if `json` is something else.
    pub(super) fn read(json: &[u8]) -> Option<Self> {
        serde_json::from_slice(json).ok()
    }

    /// Whether the source is a member of its group, and has its assignment.
    pub(super) fn is_member(&self) -> bool {
        self.cgrp.state == "up" && self.cgrp.join_state == "steady"
    }

    /// Lag and commit of every partition.
    pub(super) fn behind(&self) -> impl Iterator<Item = Behind> {
        self.topics.iter().flat_map(|(topic, of)| {
            of.partitions.values().filter(|p| p.number >= 0).map(|p| {
                let committed = Some(p.committed_offset).filter(|offset| *offset >= 0);
                // Without a commit the lag is everything that the broker still has.
                let from = committed.or(Some(p.lo_offset).filter(|offset| *offset >= 0));
                let lag = from.filter(|_| p.ls_offset >= 0).map(|from| (p.ls_offset - from).max(0));
                let read = p.next_offset >= 0 && p.fetchq_cnt == 0;
                let unread = lag.filter(|_| read);
                let unread = unread.map(|lag| lag.min((p.ls_offset - p.next_offset).max(0)));
                Behind { topic: topic.clone(), partition: p.number, lag, unread, committed }
            })
        })
    }
}

/// Without a settlement for this long, while the lag grows, the source makes no progress.
const PATIENCE: Duration = Duration::from_mins(1);

/// Detects a source without progress.
#[derive(Debug, Default)]
pub(super) struct Watchdog {
    /// When there was progress last, with the count of settled messages and the lag at that time.
    last_progress: Option<(Instant, u64, i64)>,
    no_progress: bool,
}

impl Watchdog {
    /// Takes the lag over all partitions, and the count of messages settled so far. `Some` when the
    /// verdict changes: `true` for no progress.
    pub(super) fn look(&mut self, lag: i64, settled: u64, now: Instant) -> Option<bool> {
        let (since, before, lag_then) = *self.last_progress.get_or_insert((now, settled, lag));
        if settled != before || lag == 0 || lag < lag_then {
            self.last_progress = Some((now, settled, lag));
            return std::mem::take(&mut self.no_progress).then_some(false);
        }
        let grows = lag > lag_then;
        if !self.no_progress && grows && now.duration_since(since) >= PATIENCE {
            self.no_progress = true;
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
    }

    #[test]
    fn reads_lag_and_membership() {
        let json = br#"{"name":"x","cgrp":{"state":"up","join_state":"steady","rebalance_cnt":1},
            "topics":{"orders":{"topic":"orders","partitions":{
                "0":{"partition":0,"lo_offset":0,"ls_offset":120,"committed_offset":100,"x":[]},
                "-1":{"partition":-1,"ls_offset":-1001}}}}}"#;
        let statistics = Statistics::read(json).unwrap();
        assert!(statistics.is_member());
        let expected = Behind {
            topic: "orders".into(),
            partition: 0,
            lag: Some(20),
            unread: None,
            committed: Some(100),
        };
        assert_eq!(statistics.behind().collect::<Vec<_>>(), [expected]);
    }

    #[test]
    fn what_is_read_and_no_message_is_behind_only_while_something_is_in_flight() {
        for (next, queued, unread) in
            [(120, 0, Some(0)), (110, 0, Some(10)), (90, 0, Some(20)), (120, 3, None)]
        {
            let json = format!(
                r#"{{"topics":{{"t":{{"partitions":{{"0":{{"partition":0,"lo_offset":0,"ls_offset":120,
                "committed_offset":100,"next_offset":{next},"fetchq_cnt":{queued}}}}}}}}}}}"#
            );
            let statistics = Statistics::read(json.as_bytes()).unwrap();
            let behind = statistics.behind().next().unwrap();
            assert_eq!((behind.lag, behind.unread), (Some(20), unread), "{next} {queued}");
        }
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
