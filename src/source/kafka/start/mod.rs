//! Where partitions begin that the group has no position in, with `start = "latest"`: the brokers are asked when
//! they are assigned, and the position is committed at once, before there is a message behind it.
//!
//! librdkafka must not look for a beginning of its own meanwhile: a late answer to that undoes a seek. So the
//! partition is assigned with its position. One that can't be asked for is assigned paused, asked for again, and
//! holds up no other; until then the source is not ready.

mod birth;

use std::collections::BTreeMap;
use std::slice;
use std::thread;
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

/// So many are asked for one by one at the same time.
const TOGETHER: usize = 64;

/// A partition, and a time or an end of its log that is asked for.
type Question = (String, i32, Offset);

/// What was said of partitions: an offset, or that there is none. One is missing of which nothing was said.
type Answers = BTreeMap<(String, i32), Option<i64>>;

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
    /// Where these partitions are to be read from; those are missing that it is not known of yet. Their leaders
    /// have `patience` to answer, in which nothing is taken.
    pub(in crate::source::kafka) fn positions(
        &self,
        consumer: &BaseConsumer<impl ConsumerContext>,
        open: &[(String, i32)],
        patience: Duration,
    ) -> Vec<Begun> {
        if open.is_empty() || !self.births().has_looked() {
            return Vec::new();
        }
        let begun = self.decide(consumer, open, patience).unwrap_or_else(|error| {
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
        // They did not answer when there was more time.
        let begun = self.positions(consumer, &open, ALONE);
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
        patience: Duration,
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
                new.push(((topic, partition), begin));
            }
        }
        let now = millis();
        for (topic, (partitions, begin)) in topics {
            births.take(&topic, partitions, begin, now);
        }
        drop(births);
        begun.extend(anew(new, |questions| offsets(consumer, questions, patience)));
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

/// Where partitions begin that the group has no position in, by what `ask` is answered.
fn anew(
    mut new: Vec<((String, i32), Begin)>,
    mut ask: impl FnMut(&[Question]) -> Answers,
) -> Vec<Begun> {
    let mut ask = |new: &[((String, i32), Begin)], at: fn(Begin) -> Option<Offset>| {
        let question = |((topic, partition), begin): &'_ ((String, i32), Begin)| {
            Some((topic.clone(), *partition, at(*begin)?))
        };
        ask(&new.iter().filter_map(question).collect::<Vec<_>>())
    };
    // In this order: what is written meanwhile is behind the end that was told.
    let latest = ask(&new, |_| Some(Offset::End));
    // Who does not answer is not asked for more: the others would wait for it each time.
    new.retain(|(at, _)| latest.get(at).is_some_and(Option::is_some));
    let since = ask(&new, |begin| match begin {
        Begin::Since(since) => Some(Offset::Offset(since)),
        Begin::Beginning | Begin::End => None,
    });
    let earliest = ask(&new, |_| Some(Offset::Beginning));
    let begun = |(at, begin): ((String, i32), Begin)| {
        let since = match begin {
            Begin::Since(_) => *since.get(&at)?,
            Begin::Beginning | Begin::End => None,
        };
        let log = Log { earliest: (*earliest.get(&at)?)?, latest: (*latest.get(&at)?)?, since };
        let (position, skipped) = begin.position(log);
        Some(Begun { topic: at.0, partition: at.1, position, was: Err((begin, skipped)) })
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

/// What the brokers say.
fn offsets(
    consumer: &BaseConsumer<impl ConsumerContext>,
    questions: &[Question],
    patience: Duration,
) -> Answers {
    let answers = match ask(consumer, questions, patience) {
        Ok(answer) => vec![answer],
        Err(_) if questions.len() == 1 => Vec::new(),
        // One that has no leader, or a silent one, lets the question fail for all.
        Err(_) => questions.chunks(TOGETHER).flat_map(|some| alone(consumer, some)).collect(),
    };
    let mut said = Answers::new();
    for element in answers.iter().flat_map(TopicPartitionList::elements) {
        if element.error().is_ok() {
            let offset = match element.offset() {
                Offset::Offset(offset) => Some(offset),
                // Nothing is as young as that.
                _ => None,
            };
            said.insert((element.topic().to_owned(), element.partition()), offset);
        }
    }
    said
}

/// What the brokers say to each by itself, at the same time: one that is silent costs no other its turn.
fn alone(
    consumer: &BaseConsumer<impl ConsumerContext>,
    questions: &[Question],
) -> Vec<TopicPartitionList> {
    thread::scope(|scope| {
        let begin = |question| {
            let one = move || ask(consumer, slice::from_ref(question), ALONE);
            // Without a thread for it there is no answer, and it is asked for again.
            thread::Builder::new().spawn_scoped(scope, one).ok()
        };
        let asked: Vec<_> = questions.iter().filter_map(begin).collect();
        asked.into_iter().filter_map(|one| one.join().ok()?.ok()).collect()
    })
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

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;

    use super::*;
    use crate::source::kafka::positions::tests::client;

    fn at(partition: i32) -> (String, i32) {
        ("t".to_owned(), partition)
    }

    #[test]
    fn who_does_not_answer_once_is_asked_for_nothing_more() {
        let mut asked = Vec::new();
        let begun = anew(
            vec![(at(0), Begin::Since(7)), (at(1), Begin::Since(7)), (at(2), Begin::End)],
            |questions| {
                let partitions: Vec<i32> = questions.iter().map(|question| question.1).collect();
                asked.push(partitions.clone());
                let answers = partitions.into_iter().filter(|partition| *partition != 1);
                answers.map(|partition| (at(partition), Some(5))).collect()
            },
        );
        assert_eq!(asked, [vec![0, 1, 2], vec![0], vec![0, 2]]);
        assert_eq!(begun.iter().map(|begun| begun.partition).collect::<Vec<_>>(), [0, 2]);
    }

    #[test]
    fn a_silent_leader_keeps_no_answer_of_another_one_back() {
        let cluster = MockCluster::new(2).unwrap();
        cluster.create_topic("t", 4, 1).unwrap();
        for partition in 0..4 {
            cluster.partition_leader("t", partition, Some(1 + partition % 2)).unwrap();
        }
        cluster.broker_round_trip_time(2, Duration::from_mins(10)).unwrap();
        let servers = cluster.bootstrap_servers();
        let (_shared, consumer) = client(servers.split(',').next().unwrap());
        let all: Vec<_> = (0..4).map(|n| ("t".to_owned(), n, Offset::End)).collect();
        let deadline = Instant::now() + Duration::from_secs(30);
        // On a busy machine the one that speaks may be late, too.
        loop {
            let said = offsets(&consumer, &all, ALONE);
            assert!(said.keys().all(|(_, partition)| partition % 2 == 0), "{said:?}");
            if said == [(at(0), Some(0)), (at(2), Some(0))].into() {
                break;
            }
            assert!(Instant::now() < deadline, "{said:?}");
        }
    }
}
