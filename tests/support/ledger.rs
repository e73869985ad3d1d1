//! What the endpoint accepted, in its order: the judge of the tests.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::PATIENCE;
use super::bridge::Bridge;
use super::{until, whole_lines};

/// The ledger of an emulator.
pub(crate) struct Ledger {
    pub(crate) path: PathBuf,
}

/// An accepted event.
#[derive(Clone, Debug)]
pub(crate) struct Accepted {
    pub(crate) channel: String,
    pub(crate) event: Value,
}

/// Any line: an event that was accepted or failed.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) request: String,
    pub(crate) event: Value,
    /// Of an event that failed.
    pub(crate) code: Option<String>,
}

impl Line {
    /// A number of the event.
    pub(crate) fn number(&self, name: &str) -> u64 {
        self.event[name].as_u64().unwrap()
    }
}

impl Ledger {
    /// Everything that was answered so far, in the order of the answers.
    pub(crate) fn lines(&self) -> Vec<Line> {
        let line = |line: Value| {
            let text = |name: &str| line[name].as_str().map(str::to_owned);
            Line {
                request: text("request").unwrap(),
                event: serde_json::from_str(&text("event").unwrap()).unwrap(),
                code: text("code"),
            }
        };
        self.values().into_iter().map(line).collect()
    }

    /// Its whole lines. A line that can't be read was once seen in a file that was being written, and by nobody since: it
    /// is read anew, and shown if it stays.
    fn values(&self) -> Vec<Value> {
        let read = || {
            let text = std::fs::read_to_string(&self.path).unwrap_or_default();
            let value = |line| serde_json::from_str(line).map_err(|why| format!("{why}: {line:?}"));
            whole_lines(&text).map(value).collect::<Result<Vec<_>, _>>()
        };
        read().or_else(|why| read().inspect(|_| println!("read anew: {why}"))).unwrap()
    }

    /// Everything accepted so far; a line that is being written does not count.
    pub(crate) fn read(&self) -> Vec<Accepted> {
        self.values()
            .into_iter()
            .filter(|line| line["outcome"] == "accepted")
            .map(|line| Accepted {
                channel: line["channel"].as_str().unwrap().to_owned(),
                event: serde_json::from_str(line["event"].as_str().unwrap()).unwrap(),
            })
            .collect()
    }

    /// How many lines there are.
    pub(crate) fn len(&self) -> usize {
        let text = std::fs::read_to_string(&self.path).unwrap_or_default();
        text.matches('\n').count()
    }

    /// Waits until there are `count` lines.
    pub(crate) async fn reaches(&self, count: usize, patience: Duration) {
        until(&format!("{count} events in the ledger"), patience, async || {
            (self.len() >= count).then_some(())
        })
        .await;
    }

    /// Waits until `count` distinct ids are there.
    pub(crate) async fn has_ids(&self, count: usize, patience: Duration) {
        let what = format!("{count} ids in the ledger");
        until(&what, patience, async || {
            (self.len() >= count && ids(&self.read()).len() >= count).then_some(())
        })
        .await;
    }
}

/// Reads a ledger as it grows: what was read once is not read again.
pub(crate) struct Tail {
    path: PathBuf,
    read: u64,
    pub(crate) ids: BTreeSet<u64>,
}

impl Tail {
    pub(crate) fn of(ledger: &Ledger) -> Self {
        Self { path: ledger.path.clone(), read: 0, ids: BTreeSet::new() }
    }

    /// Adds the ids of what was accepted since.
    pub(crate) fn read_on(&mut self) {
        use std::io::{Read as _, Seek as _, SeekFrom};
        let Ok(mut file) = std::fs::File::open(&self.path) else { return };
        file.seek(SeekFrom::Start(self.read)).unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        let lines = whole_lines(&text);
        for line in lines {
            self.read += line.len() as u64 + 1;
            let line: Value = serde_json::from_str(line).unwrap();
            if line["outcome"] == "accepted" {
                let event: Value = serde_json::from_str(line["event"].as_str().unwrap()).unwrap();
                self.ids.insert(event["id"].as_u64().unwrap());
            }
        }
    }
}

/// The distinct ids.
pub(crate) fn ids(accepted: &[Accepted]) -> BTreeSet<u64> {
    accepted.iter().map(|a| a.event["id"].as_u64().unwrap()).collect()
}

/// Order per key: a step forward is by one, a step back is a replay that goes on by ones. `replays` is
/// how often a key may step back.
pub(crate) fn assert_order(accepted: &[Accepted], replays: usize) {
    let mut keys: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for Accepted { event, .. } in accepted {
        let number = |name: &str| event[name].as_u64().unwrap();
        keys.entry(number("key")).or_default().push(number("seq"));
    }
    for (key, sequence) in keys {
        let (mut last, mut highest, mut back) = (None, None, 0);
        for seq in sequence {
            match last {
                None => assert_eq!(seq, 0, "key {key} begins with a gap"),
                Some(last) if seq == last + 1 => {}
                Some(last) => {
                    assert!(Some(seq) <= highest, "key {key} jumps from {last} to {seq}");
                    back += 1;
                }
            }
            last = Some(seq);
            highest = highest.max(last);
        }
        assert!(
            back <= replays,
            "key {key} stepped back {back} times, at most {replays} are explained"
        );
    }
}

/// Order per key where repeats of two may mix: what comes for the first time comes in order.
pub(crate) fn assert_first_in_order(accepted: &[Accepted]) {
    let mut next: BTreeMap<u64, u64> = BTreeMap::new();
    for Accepted { event, .. } in accepted {
        let number = |name: &str| event[name].as_u64().unwrap();
        let (key, seq) = (number("key"), number("seq"));
        let next = next.entry(key).or_default();
        assert!(seq <= *next, "key {key}: {seq} came before {next}");
        *next = (*next).max(seq + 1);
    }
}

/// Lost nothing, and repeated no more than the ambiguous requests explain; returns repeats and
/// ambiguous requests.
pub(crate) async fn account(bridge: &Bridge, ledger: &Ledger, count: u64) -> (usize, f64) {
    ledger.has_ids(count as usize, PATIENCE).await;
    bridge.nothing_in_flight().await;
    let accepted = ledger.read();
    let distinct = ids(&accepted).len();
    assert_eq!(distinct as u64, count);
    let repeats = accepted.len() - distinct;
    let ambiguous = bridge.metric("ambiguous_total{api=\"main\"}").await;
    assert!(repeats as f64 <= ambiguous * 5.0, "{repeats} repeats, {ambiguous} ambiguous requests");
    (repeats, ambiguous)
}
