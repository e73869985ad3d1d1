//! What a source reads from librdkafka's statistics: whether it is in its group, and how far behind.

use std::collections::HashMap;

use serde::Deserialize;

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

#[cfg(test)]
mod tests {
    use super::*;

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
}
