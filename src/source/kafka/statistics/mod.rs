//! librdkafka's statistics, as far as they are used, and what follows from them. Pure.

mod fetching;
mod watchdog;

use std::collections::HashMap;

use serde::Deserialize;

pub(crate) use fetching::{Fetching, Trouble};
pub(crate) use watchdog::Watchdog;

/// The statistics of one moment.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Statistics {
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
    /// End of the log for a reader of committed transactions, …
    #[serde(default = "unknown")]
    ls_offset: i64,
    /// … and of all of it.
    #[serde(default = "unknown")]
    hi_offset: i64,
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

/// What is known of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Behind {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    /// `None` while it is not known.
    pub(crate) lag: Option<i64>,
    /// The same where no message is in flight: what is no message at the end of the log is read, and not committed.
    pub(crate) unread: Option<i64>,
    pub(crate) committed: Option<i64>,
    pub(crate) log: Log,
}

/// How far a partition is fetched, and how far its log reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Log {
    /// The next position to fetch.
    pub(crate) next: Option<i64>,
    /// The end for a reader of committed transactions.
    pub(crate) stable: Option<i64>,
    /// The end.
    pub(crate) end: Option<i64>,
    /// So many messages are fetched and not taken.
    pub(crate) queued: u64,
}

fn unknown() -> i64 {
    -1
}

impl Statistics {
    /// Parses them; `None` if `json` is something else.
    pub(crate) fn read(json: &[u8]) -> Option<Self> {
        serde_json::from_slice(json).ok()
    }

    /// Whether the source is a member of its group, and has its assignment.
    pub(crate) fn is_member(&self) -> bool {
        self.cgrp.state == "up" && self.cgrp.join_state == "steady"
    }

    /// Lag and commit of every partition.
    pub(crate) fn behind(&self) -> impl Iterator<Item = Behind> {
        self.topics.iter().flat_map(|(topic, of)| {
            of.partitions.values().filter(|p| p.number >= 0).map(|p| {
                let known = |offset| Some(offset).filter(|offset| *offset >= 0);
                let committed = known(p.committed_offset);
                // Without a commit the lag is everything that the broker still has.
                let from = committed.or(known(p.lo_offset));
                let lag = from.filter(|_| p.ls_offset >= 0).map(|from| (p.ls_offset - from).max(0));
                let read = p.next_offset >= 0 && p.fetchq_cnt == 0;
                let unread = lag.filter(|_| read);
                let unread = unread.map(|lag| lag.min((p.ls_offset - p.next_offset).max(0)));
                let log = Log {
                    next: known(p.next_offset),
                    stable: known(p.ls_offset),
                    end: known(p.hi_offset),
                    queued: p.fetchq_cnt,
                };
                Behind { topic: topic.clone(), partition: p.number, lag, unread, committed, log }
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_lag_and_membership() {
        let json = br#"{"name":"x","cgrp":{"state":"up","join_state":"steady","rebalance_cnt":1},
            "topics":{"orders":{"topic":"orders","partitions":{
                "0":{"partition":0,"lo_offset":0,"ls_offset":120,"hi_offset":130,"next_offset":110,
                    "fetchq_cnt":3,"committed_offset":100,"x":[]},
                "-1":{"partition":-1,"ls_offset":-1001}}}}}"#;
        let statistics = Statistics::read(json).unwrap();
        assert!(statistics.is_member());
        let expected = Behind {
            topic: "orders".into(),
            partition: 0,
            lag: Some(20),
            unread: None,
            committed: Some(100),
            log: Log { next: Some(110), stable: Some(120), end: Some(130), queued: 3 },
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
}
