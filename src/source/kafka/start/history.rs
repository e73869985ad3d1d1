//! The history of a group's subscription, and the start of a partition without a committed position. Pure.
//!
//! With `start = "latest"` a group begins a topic at its end, once. Partitions and topics created later begin
//! with their first message: an added partition, a new topic that a regular expression matches, a topic that was
//! missing. A topic older than its entry in `topics` begins at its end. The brokers do not tell when a topic or
//! a partition was created, so the group records it: the metadata of each committed position holds a [`Note`]
//! with the time of the topic's subscription, its number of partitions then, and the time when each entry of
//! `topics` was new.
//!
//! A topic without a position begins with its first record since the matching entry was new, by the records'
//! timestamps. A record with a timestamp too early counts as older, and is skipped: that is logged. A partition
//! beyond the recorded number is new whatever its records' timestamps are.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Buf as _;

/// The first word of a note.
const MARK: &str = "appsync-bridge/1";

/// Longest note, in bytes: it is committed with every position, and brokers accept 4,096 by default.
const LONGEST: usize = 512;

/// Start of a partition without a committed position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begin {
    /// At its beginning: it was added to the topic later.
    Beginning,
    /// With its first record not older than this, in milliseconds of the epoch.
    Since(i64),
    /// At its end.
    End,
}

/// The ends of a partition's log, and its first record since a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Log {
    pub(crate) earliest: i64,
    pub(crate) latest: i64,
    /// `None` if there is none.
    pub(crate) since: Option<i64>,
}

/// When the group subscribed to a topic, and how many partitions that had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Subscribed {
    since: i64,
    partitions: i32,
}

/// The metadata of a committed position.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Note {
    topic: Option<Subscribed>,
    /// By the hash of the entry.
    entries: Vec<(u32, i64)>,
}

/// An entry of `topics`.
#[derive(Clone, Debug)]
struct Entry {
    hash: u32,
    text: String,
    /// When it was new; `None` before the first refresh.
    since: Option<i64>,
    /// The group had it before this process.
    of_group: bool,
}

/// The topics and entries of the group, with the times when they were new.
#[derive(Debug, Default)]
pub(crate) struct History {
    /// A note holds as many as fit, the first ones first.
    entries: Vec<Entry>,
    /// The matching topics, with their partitions: as of the first refresh, …
    first: BTreeMap<String, i32>,
    /// … and as of the last.
    last: BTreeMap<String, i32>,
    topics: BTreeMap<String, Subscribed>,
    /// The brokers refuse notes.
    notes_disabled: bool,
}

impl Begin {
    /// The position in that log, and the count of offsets skipped before it.
    pub(crate) fn position(self, log: Log) -> (i64, i64) {
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

impl History {
    /// Of a source with these entries in its `topics`: regular expressions first, since new topics are
    /// mostly theirs.
    pub(crate) fn new<'e>(entries: impl IntoIterator<Item = &'e str>) -> Self {
        let entry = |text: &str| Entry {
            hash: hash(text),
            text: text.to_owned(),
            since: None,
            of_group: false,
        };
        Self { entries: entries.into_iter().map(entry).collect(), ..Self::default() }
    }

    /// Takes the cluster's matching topics, with their counts of partitions.
    pub(crate) fn refresh(&mut self, taken: BTreeMap<String, i32>, now: i64) {
        if !self.is_loaded() {
            self.first.clone_from(&taken);
            self.entries.iter_mut().for_each(|entry| entry.since = Some(now));
        }
        self.last = taken;
    }

    /// Whether there was a first refresh.
    pub(crate) fn is_loaded(&self) -> bool {
        self.entries.iter().all(|entry| entry.since.is_some())
    }

    /// Every partition of the matching topics, as of the last refresh.
    pub(crate) fn partitions(&self) -> impl Iterator<Item = (&str, i32)> {
        self.last.iter().flat_map(|(topic, count)| (0..*count).map(|n| (topic.as_str(), n)))
    }

    /// Takes the metadata of a position that the group has in this topic.
    pub(crate) fn learn(&mut self, topic: &str, behind: &str) {
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

    /// The start of a partition without a position, whose topic these entries match.
    pub(crate) fn begin(&self, topic: &str, partition: i32, taking: &[&str]) -> Begin {
        if let Some(got) = self.topics.get(topic) {
            return if partition < got.partitions {
                Begin::Since(got.since)
            } else {
                Begin::Beginning
            };
        }
        let all = self.entries.iter().filter(|entry| taking.contains(&entry.text.as_str()));
        // A topic older than a new entry begins at its end.
        let old = all.filter(|entry| entry.of_group || !self.first.contains_key(topic));
        old.filter_map(|entry| entry.since).min().map_or(Begin::End, Begin::Since)
    }

    /// Records the subscription to a topic with at least so many partitions; `begin` is the start of one.
    pub(crate) fn take(&mut self, topic: &str, partitions: i32, begin: Option<Begin>, now: i64) {
        let since = match begin {
            Some(Begin::Since(since)) => since,
            Some(Begin::End | Begin::Beginning) | None => now,
        };
        let partitions = partitions.max(self.first.get(topic).copied().unwrap_or(0));
        self.topics.entry(topic.to_owned()).or_insert(Subscribed { since, partitions });
    }

    /// Writes no notes from now on; `true` the first time.
    pub(crate) fn disable_notes(&mut self) -> bool {
        !std::mem::replace(&mut self.notes_disabled, true)
    }

    /// The note for positions in this topic.
    pub(crate) fn note(&self, topic: &str) -> Option<String> {
        let got = self.topics.get(topic).filter(|_| !self.notes_disabled)?;
        let entries = self.entries.iter().filter_map(|entry| Some((entry.hash, entry.since?)));
        Some(Note { topic: Some(*got), entries: entries.collect() }.write())
    }
}

impl Note {
    /// `None` if it is not one of ours. Unknown words are skipped.
    fn read(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        if words.next() != Some(MARK) {
            return None;
        }
        let mut note = Self::default();
        for word in words {
            if let Some((since, of)) = word.split_once('/') {
                if let (Ok(since), Ok(partitions)) = (since.parse(), of.parse()) {
                    note.topic = Some(Subscribed { since, partitions });
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

    /// `appsync-bridge/1 SINCE/PARTITIONS SINCE:HASH,HASH SINCE:HASH`, as many as fit.
    fn write(&self) -> String {
        let mut text = MARK.to_owned();
        if let Some(Subscribed { since, partitions }) = self.topic {
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

/// Must stay the same in every version of the bridge.
fn hash(text: &str) -> u32 {
    digest(&SHA256, text.as_bytes()).as_ref().get_u32()
}

#[cfg(test)]
#[path = "history_tests.rs"]
mod tests;
