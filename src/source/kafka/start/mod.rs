//! Where partitions begin that the group has no position in, with `start = "latest"`: the brokers are asked when
//! they are assigned, and the position is committed at once, before there is a message behind it.
//!
//! librdkafka must not look for a beginning of its own meanwhile: a late answer to that undoes a seek. So the
//! partition is assigned with its position. One that can't be asked for is assigned paused, asked for again, and
//! holds up no other; until then the source is not ready.

mod birth;

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::{Offset, TopicPartitionList};
use tracing::{debug, info, warn};

use super::ANSWER_TIMEOUT;
use super::shared::Shared;
use crate::telemetry;
pub(super) use birth::Births;
use birth::{Begin, Log};

/// One that the others are not to wait for has so long.
const ALONE: Duration = Duration::from_millis(500);

/// A partition, and a time or an end of its log that is asked for.
type Question = (String, i32, Offset);

/// Where a partition is read from.
pub(in crate::source::kafka) struct Begun {
    pub(in crate::source::kafka) topic: String,
    pub(in crate::source::kafka) partition: i32,
    pub(in crate::source::kafka) position: i64,
    /// What stands behind the position that the group has; else why it begins there, and how much it skips.
    was: Result<String, (Begin, i64)>,
}

impl Begun {
    /// Whether the group has no position there.
    pub(in crate::source::kafka) fn is_new(&self) -> bool {
        self.was.is_err()
    }
}

impl Shared {
    /// Where these partitions are to be read from; those are missing that it is not known of yet.
    pub(in crate::source::kafka) fn positions(
        &self,
        consumer: &BaseConsumer<impl ConsumerContext>,
        open: &[(String, i32)],
    ) -> Vec<Begun> {
        if open.is_empty() || !self.births().has_looked() {
            return Vec::new();
        }
        let begun = self.decide(consumer, open).unwrap_or_else(|error| {
            debug!(source = %self.name, %error, "positions of the group are not known yet");
            Vec::new()
        });
        self.alive();
        begun
    }

    /// Decides where partitions begin that could not be decided on when they were assigned, as far as it is
    /// time.
    pub(in crate::source::kafka) fn begin(
        &self,
        consumer: &BaseConsumer<impl ConsumerContext>,
        now: Instant,
    ) {
        let open = self.assignment().undecided(now);
        if open.is_empty() {
            return;
        }
        let begun = self.positions(consumer, &open);
        let mut assignment = self.assignment();
        for each in &begun {
            assignment.begin_at(&each.topic, each.partition, each.position, each.is_new());
        }
        assignment.put_off(&open, Instant::now());
        drop(assignment);
        self.begin_with(consumer, &begun);
    }

    /// Commits where partitions begin, and brings up to date what stands behind the positions that there are.
    pub(in crate::source::kafka) fn begin_with(
        &self,
        consumer: &BaseConsumer<impl ConsumerContext>,
        begun: &[Begun],
    ) {
        let births = self.births();
        let mut stale = TopicPartitionList::new();
        for Begun { topic, partition, position, was } in begun {
            match was {
                Err((begin, skipped)) => self.say(topic, *partition, *begin, *position, *skipped),
                Ok(behind) => {
                    let Some(note) = births.note(topic).filter(|note| note != behind) else {
                        continue;
                    };
                    let mut element = stale.add_partition(topic, *partition);
                    // The only failure is an offset below zero, which no position has.
                    let _ = element.set_offset(Offset::Offset(*position));
                    element.set_metadata(note);
                }
            }
        }
        drop(births);
        if stale.count() > 0
            && let Err(error) = consumer.commit(&stale, CommitMode::Async)
        {
            debug!(source = %self.name, %error, "notes were not committed; the next commit has them");
        }
        if begun.iter().any(Begun::is_new) {
            self.store(consumer);
            if let Err(error) = consumer.commit_consumer_state(CommitMode::Async) {
                debug!(source = %self.name, %error, "first positions were not committed; the next commit has them");
            }
        }
    }

    fn decide(
        &self,
        consumer: &BaseConsumer<impl ConsumerContext>,
        open: &[(String, i32)],
    ) -> Result<Vec<Begun>, KafkaError> {
        let asked = self.with_positions(open);
        let found = consumer.committed_offsets(asked, ANSWER_TIMEOUT)?;
        let mut births = self.births();
        for element in found.elements() {
            if matches!(element.offset(), Offset::Offset(_)) && element.error().is_ok() {
                births.learn(element.topic(), &behind(&element));
            }
        }
        let (mut begun, mut new, mut topics) = (Vec::new(), Vec::new(), BTreeMap::new());
        for (topic, partition) in open {
            let Some(element) = found.find_partition(topic, *partition) else { continue };
            if element.error().is_err() {
                continue;
            }
            let (topic, partition) = (topic.clone(), *partition);
            let of: &mut (i32, Option<Begin>) = topics.entry(topic.clone()).or_default();
            of.0 = of.0.max(partition + 1);
            if let Offset::Offset(position) = element.offset() {
                begun.push(Begun { topic, partition, position, was: Ok(behind(&element)) });
            } else {
                let taking: Vec<_> = self.selection.taking(&topic).collect();
                let begin = births.begin(&topic, partition, &taking);
                of.1 = Some(begin);
                new.push((topic, partition, begin));
            }
        }
        let now = millis();
        for (topic, (partitions, begin)) in topics {
            births.take(&topic, partitions, begin, now);
        }
        drop(births);
        begun.extend(anew(consumer, new));
        if begun.len() < open.len() {
            debug!(source = %self.name, missing = open.len() - begun.len(), "the brokers do not say yet where partitions begin");
        }
        Ok(begun)
    }

    /// Those that are to be decided on, and all that the group may have a position in.
    fn with_positions(&self, open: &[(String, i32)]) -> TopicPartitionList {
        let births = self.births();
        let open = open.iter().map(|(topic, partition)| (topic.as_str(), *partition));
        let mut all: Vec<_> = births.partitions().chain(open).collect();
        all.sort_unstable();
        all.dedup();
        let mut list = TopicPartitionList::with_capacity(all.len());
        for (topic, partition) in all {
            list.add_partition(topic, partition);
        }
        list
    }

    fn say(&self, topic: &str, partition: i32, begin: Begin, position: i64, skipped: i64) {
        let (source, starts) = (&self.name, &self.kafka.starts);
        match begin {
            Begin::Beginning => {
                starts.beginning.inc();
                info!(%source, topic, partition, position, "a new partition begins with its first message");
            }
            Begin::Since(_) => {
                starts.since.inc();
                if skipped > 0 {
                    warn!(%source, topic, partition, position, skipped, "a topic that is new to the group has messages from before it was subscribed to, by their own times; they are skipped: `start` is \"latest\"");
                } else {
                    info!(%source, topic, partition, position, "a topic that is new to the group begins with its first message");
                }
            }
            Begin::End => {
                starts.end.inc();
                info!(%source, topic, partition, position, skipped, "the group has no position; it begins at the end: `start` is \"latest\"");
            }
        }
    }
}

/// Where partitions begin that the group has no position in.
fn anew(
    consumer: &BaseConsumer<impl ConsumerContext>,
    new: Vec<(String, i32, Begin)>,
) -> Vec<Begun> {
    let ask = |at: fn(Begin) -> Option<Offset>| {
        let question = |(topic, partition, begin): &'_ (String, i32, Begin)| {
            Some((topic.clone(), *partition, at(*begin)?))
        };
        offsets(consumer, &new.iter().filter_map(question).collect::<Vec<_>>())
    };
    // In this order: what is written meanwhile is behind the end that was told.
    let latest = ask(|_| Some(Offset::End));
    let since = ask(|begin| match begin {
        Begin::Since(since) => Some(Offset::Offset(since)),
        Begin::Beginning | Begin::End => None,
    });
    let earliest = ask(|_| Some(Offset::Beginning));
    let begun = |(topic, partition, begin): (String, i32, Begin)| {
        let at = (topic, partition);
        let since = match begin {
            Begin::Since(_) => *since.get(&at)?,
            Begin::Beginning | Begin::End => None,
        };
        let log = Log { earliest: (*earliest.get(&at)?)?, latest: (*latest.get(&at)?)?, since };
        let (position, skipped) = begin.position(log);
        Some(Begun { topic: at.0, partition, position, was: Err((begin, skipped)) })
    };
    new.into_iter().filter_map(begun).collect()
}

/// Now, in milliseconds of the epoch.
pub(in crate::source::kafka) fn millis() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// What stands behind a position. rdkafka panics where that is no text, which others may have written.
fn behind(element: &TopicPartitionListElem<'_>) -> String {
    telemetry::unless_it_panics(|| element.metadata().to_owned()).unwrap_or_default()
}

/// What the brokers say: offsets, or that there is none. A partition is missing that they say nothing of.
fn offsets(
    consumer: &BaseConsumer<impl ConsumerContext>,
    questions: &[Question],
) -> BTreeMap<(String, i32), Option<i64>> {
    let deadline = Instant::now() + ANSWER_TIMEOUT;
    let mut answers = BTreeMap::new();
    let mut note = |answer: TopicPartitionList| {
        for element in answer.elements().iter().filter(|element| element.error().is_ok()) {
            let offset = match element.offset() {
                Offset::Offset(offset) => Some(offset),
                // Nothing is as young as that.
                _ => None,
            };
            answers.insert((element.topic().to_owned(), element.partition()), offset);
        }
    };
    match ask(consumer, questions, ANSWER_TIMEOUT) {
        Ok(answer) => note(answer),
        Err(_) if questions.len() == 1 => {}
        // One that has no leader lets the question fail for all.
        Err(_) => {
            for question in questions {
                if Instant::now() + ALONE > deadline + ANSWER_TIMEOUT {
                    break;
                }
                if let Ok(answer) = ask(consumer, std::slice::from_ref(question), ALONE) {
                    note(answer);
                }
            }
        }
    }
    answers
}

/// Kafka takes the ends of a log for times, and so does librdkafka.
fn ask(
    consumer: &BaseConsumer<impl ConsumerContext>,
    questions: &[Question],
    patience: Duration,
) -> Result<TopicPartitionList, KafkaError> {
    if questions.is_empty() {
        return Ok(TopicPartitionList::new());
    }
    let mut list = TopicPartitionList::with_capacity(questions.len());
    for (topic, partition, at) in questions {
        list.add_partition_offset(topic, *partition, *at)?;
    }
    consumer.offsets_for_times(list, patience)
}
