//! Since when a group has what it reads, and where it begins with a partition that it has no position in.
//! Pure.
//!
//! With `start = "latest"` a group begins with a topic at its end, once. What is born after that begins with
//! its first message: a partition that is added, a topic that a regular expression takes, one that was missing.
//! A topic that was there before `topics` named it begins at its end. The brokers say of neither when it was
//! made, so the group keeps it in mind: behind each position that is committed stands a [`Note`] of when the
//! group got this topic, and how many partitions it had, and of when each entry of `topics` was new.
//!
//! A topic without a position begins with its first record since the entry that takes it was new, by the
//! records' own times. One that a producer dates back is taken for older than it is, and skipped: that is said.
//! A partition beyond those that the topic had is new whatever its records say.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use aws_lc_rs::digest::{SHA256, digest};

/// What a note begins with.
const MARK: &str = "appsync-bridge/1";

/// A note is no longer, in bytes: it is committed with every position, and brokers take 4,096 as a rule.
const LONGEST: usize = 512;

/// Where a partition begins that the group has no position in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::source::kafka) enum Begin {
    /// At its beginning: it is younger than the topic.
    Beginning,
    /// With its first record that is not older, in milliseconds of the epoch.
    Since(i64),
    /// At its end.
    End,
}

/// Where the log of a partition begins and ends, and its first record of a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::source::kafka) struct Log {
    pub(in crate::source::kafka) earliest: i64,
    pub(in crate::source::kafka) latest: i64,
    /// `None` if there is none.
    pub(in crate::source::kafka) since: Option<i64>,
}

/// When the group got a topic, and how many partitions that had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Got {
    since: i64,
    partitions: i32,
}

/// What stands behind a position that is committed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Note {
    topic: Option<Got>,
    /// By the hash of the entry.
    entries: Vec<(u32, i64)>,
}

/// An entry of `topics`.
#[derive(Clone, Debug)]
struct Entry {
    hash: u32,
    text: String,
    /// `None` until the cluster was looked at.
    since: Option<i64>,
    /// The group has it from before this process.
    of_group: bool,
}

/// What the group is known to have, since when.
#[derive(Debug, Default)]
pub(in crate::source::kafka) struct Births {
    /// Those that a note has room for first come first.
    entries: Vec<Entry>,
    /// The topics that are taken, with their partitions: as they were at the first look, …
    first: BTreeMap<String, i32>,
    /// … and at the last one.
    last: BTreeMap<String, i32>,
    topics: BTreeMap<String, Got>,
    /// Brokers refuse notes.
    mute: bool,
}

impl Begin {
    /// The position, in a log like that, and how many messages before it are skipped.
    pub(in crate::source::kafka) fn position(self, log: Log) -> (i64, i64) {
        let position = match self {
            Self::Beginning => log.earliest,
            Self::Since(_) => {
                log.since.unwrap_or(log.latest).clamp(log.earliest, log.latest.max(log.earliest))
            }
            Self::End => log.latest.max(log.earliest),
        };
        (position, position - log.earliest)
    }
}

impl Births {
    /// Of a source with these entries in its `topics`: regular expressions first, since what is born is
    /// theirs as a rule.
    pub(in crate::source::kafka) fn new<'e>(entries: impl IntoIterator<Item = &'e str>) -> Self {
        let entry = |text: &str| Entry {
            hash: hash(text),
            text: text.to_owned(),
            since: None,
            of_group: false,
        };
        Self { entries: entries.into_iter().map(entry).collect(), ..Self::default() }
    }

    /// The cluster was looked at: these topics are taken, with so many partitions.
    pub(in crate::source::kafka) fn looked(&mut self, taken: BTreeMap<String, i32>, now: i64) {
        if !self.has_looked() {
            self.first.clone_from(&taken);
            self.entries.iter_mut().for_each(|entry| entry.since = Some(now));
        }
        self.last = taken;
    }

    /// Whether it was looked at.
    pub(in crate::source::kafka) fn has_looked(&self) -> bool {
        self.entries.iter().all(|entry| entry.since.is_some())
    }

    /// Every partition that is taken, as of the last look.
    pub(in crate::source::kafka) fn partitions(&self) -> impl Iterator<Item = (&str, i32)> {
        self.last.iter().flat_map(|(topic, count)| (0..*count).map(|n| (topic.as_str(), n)))
    }

    /// The group has a position in this topic, and this stands behind it.
    pub(in crate::source::kafka) fn learn(&mut self, topic: &str, behind: &str) {
        let Some(note) = Note::read(behind) else { return };
        if let Some(got) = note.topic {
            let known = self.topics.entry(topic.to_owned()).or_insert(got);
            known.since = known.since.min(got.since);
            known.partitions = known.partitions.min(got.partitions);
        }
        for (hash, since) in note.entries {
            for entry in self.entries.iter_mut().filter(|entry| entry.hash == hash) {
                entry.since = Some(entry.since.map_or(since, |known| known.min(since)));
                entry.of_group = true;
            }
        }
    }

    /// Where a partition begins without a position, if these entries take its topic.
    pub(in crate::source::kafka) fn begin(
        &self,
        topic: &str,
        partition: i32,
        taking: &[&str],
    ) -> Begin {
        if let Some(got) = self.topics.get(topic) {
            return if partition < got.partitions {
                Begin::Since(got.since)
            } else {
                Begin::Beginning
            };
        }
        let all = self.entries.iter().filter(|entry| taking.contains(&entry.text.as_str()));
        // One that is new here takes what was there before it at its end.
        let old = all.filter(|entry| entry.of_group || !self.first.contains_key(topic));
        old.filter_map(|entry| entry.since).min().map_or(Begin::End, Begin::Since)
    }

    /// This topic is the group's from now on, with at least so many partitions, of which one begins there.
    pub(in crate::source::kafka) fn take(
        &mut self,
        topic: &str,
        partitions: i32,
        begin: Option<Begin>,
        now: i64,
    ) {
        let since = match begin {
            Some(Begin::Since(since)) => since,
            Some(Begin::End | Begin::Beginning) | None => now,
        };
        let partitions = partitions.max(self.first.get(topic).copied().unwrap_or(0));
        self.topics.entry(topic.to_owned()).or_insert(Got { since, partitions });
    }

    /// Writes no notes from now on.
    pub(in crate::source::kafka) fn mute(&mut self) -> bool {
        !std::mem::replace(&mut self.mute, true)
    }

    /// What is to stand behind the positions in this topic.
    pub(in crate::source::kafka) fn note(&self, topic: &str) -> Option<String> {
        let got = self.topics.get(topic).filter(|_| !self.mute)?;
        let entries = self.entries.iter().filter_map(|entry| Some((entry.hash, entry.since?)));
        Some(Note { topic: Some(*got), entries: entries.collect() }.write())
    }
}

impl Note {
    /// `None` if it is not one of ours. What it says that is not known here is passed over.
    fn read(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        if words.next() != Some(MARK) {
            return None;
        }
        let mut note = Self::default();
        for word in words {
            if let Some((since, of)) = word.split_once('/') {
                if let (Ok(since), Ok(partitions)) = (since.parse(), of.parse()) {
                    note.topic = Some(Got { since, partitions });
                }
            } else if let Some((since, hashes)) = word.split_once(':')
                && let Ok(since) = since.parse()
            {
                let hashes =
                    hashes.split(',').filter_map(|text| u32::from_str_radix(text, 16).ok());
                note.entries.extend(hashes.map(|hash| (hash, since)));
            }
        }
        Some(note)
    }

    /// `appsync-bridge/1 SINCE/PARTITIONS SINCE:HASH,HASH SINCE:HASH`, as many as there is room for.
    fn write(&self) -> String {
        let mut text = MARK.to_owned();
        if let Some(Got { since, partitions }) = self.topic {
            let _ = write!(text, " {since}/{partitions}");
        }
        let mut last = None;
        for (hash, since) in &self.entries {
            let word = if last == Some(since) {
                format!(",{hash:08x}")
            } else {
                format!(" {since}:{hash:08x}")
            };
            if text.len() + word.len() > LONGEST {
                break;
            }
            last = Some(since);
            text.push_str(&word);
        }
        text
    }
}

/// The same in every version of the bridge.
fn hash(text: &str) -> u32 {
    let all = digest(&SHA256, text.as_bytes());
    all.as_ref().iter().take(4).fold(0, |hash, byte| hash << 8 | u32::from(*byte))
}

#[cfg(test)]
#[path = "birth_tests.rs"]
mod tests;
