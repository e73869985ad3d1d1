//! Start positions of partitions without a committed offset, with `start = "latest"`: the brokers are asked on
//! assignment, and the position is committed at once, before a message arrives behind it.
//!
//! librdkafka must not look for a start position itself meanwhile: a late answer to that undoes a seek. So the
//! partition is assigned with its position. One whose leader does not answer is assigned paused, asked for
//! again, and delays no other; until then the source is not ready.

mod history;

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
pub(super) use history::History;
use history::{Begin, Log};

/// Timeout of the first request for one partition, so that the others need not wait for it long.
const ALONE: Duration = Duration::from_millis(500);

/// It doubles with each try, up to this: a leader may be slow, and not silent.
const LONGEST_ALONE: Duration = Duration::from_secs(2);

/// How long leaders have to answer.
#[derive(Clone, Copy)]
pub(crate) struct Patience {
    /// A request for several partitions.
    together: Duration,
    /// One for a single partition, made where that failed.
    alone: Duration,
}

impl Patience {
    /// On assignment. With the time for all, a leader that is silent would take all of it.
    pub(crate) const FIRST: Self = Self { together: ANSWER_TIMEOUT, alone: ALONE };

    /// For partitions that were asked for in vain so often.
    fn again(tries: u32) -> Self {
        let wait = ALONE.saturating_mul(2_u32.saturating_pow(tries)).min(LONGEST_ALONE);
        Self { together: wait, alone: wait }
    }
}

/// How many such requests run at the same time.
const TOGETHER: usize = 64;

/// Asks for the offset of a time or of an end of a partition's log.
struct Query {
    topic: String,
    partition: i32,
    at: Offset,
}

/// Answers by partition: an offset, or `None` if the log has none there. Partitions without an answer are left out.
type Answers = BTreeMap<(String, i32), Option<i64>>;

/// A partition with its start position.
pub(crate) struct Begun {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) position: i64,
    origin: Origin,
}

/// Where a position comes from.
enum Origin {
    /// The group's commit, with this metadata.
    Committed { metadata: String },
    /// Chosen now, `skipped` messages behind the beginning of the log.
    New { begin: Begin, skipped: i64 },
}

impl Begun {
    /// Whether the group has no committed position there.
    pub(crate) fn is_new(&self) -> bool {
        matches!(self.origin, Origin::New { .. })
    }
}

impl Shared {
    /// Where to read these partitions from; those without an answer are left out. Their leaders have `patience`
    /// to answer, and no message is taken meanwhile.
    pub(crate) fn positions(
        &self,
        consumer: &BaseConsumer<impl ConsumerContext>,
        open: &[(String, i32)],
        patience: Patience,
    ) -> Vec<Begun> {
        if open.is_empty() || !self.history().is_loaded() {
            return Vec::new();
        }
        let begun = self.decide(consumer, open, patience).unwrap_or_else(|error| {
            debug!(source = %self.name, %error, "the committed positions of the group are not known yet");
            Vec::new()
        });
        self.alive();
        begun
    }

    /// Asks again for the start positions that were not known on assignment, where that is due.
    pub(crate) fn begin(&self, consumer: &BaseConsumer<impl ConsumerContext>, now: Instant) {
        let assignment = self.assignment();
        let (open, tries) = (assignment.undecided(now), assignment.tries());
        drop(assignment);
        if open.is_empty() {
            return;
        }
        let begun = self.positions(consumer, &open, Patience::again(tries));
        let mut assignment = self.assignment();
        for each in &begun {
            assignment.begin_at(&each.topic, each.partition, each.position, each.is_new());
        }
        assignment.put_off(&open, Instant::now());
        drop(assignment);
        self.begin_with(consumer, &begun);
    }

    /// Commits new start positions, and updates outdated notes of the committed ones.
    pub(crate) fn begin_with(
        &self,
        consumer: &BaseConsumer<impl ConsumerContext>,
        begun: &[Begun],
    ) {
        let history = self.history();
        let mut stale = TopicPartitionList::new();
        for each @ Begun { topic, partition, position, origin } in begun {
            match origin {
                Origin::New { begin, skipped } => self.report(each, *begin, *skipped),
                Origin::Committed { metadata } => {
                    let Some(note) = history.note(topic).filter(|note| note != metadata) else {
                        continue;
                    };
                    let mut element = stale.add_partition(topic, *partition);
                    // The only failure is an offset below zero, which no position has.
                    let _ = element.set_offset(Offset::Offset(*position));
                    element.set_metadata(note);
                }
            }
        }
        drop(history);
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
        patience: Patience,
    ) -> Result<Vec<Begun>, KafkaError> {
        let asked = self.with_positions(open);
        let found = consumer.committed_offsets(asked, ANSWER_TIMEOUT)?;
        let mut history = self.history();
        for element in found.elements() {
            if matches!(element.offset(), Offset::Offset(_)) && element.error().is_ok() {
                history.learn(element.topic(), &metadata(&element));
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
                let metadata = metadata(&element);
                begun.push(Begun {
                    topic,
                    partition,
                    position,
                    origin: Origin::Committed { metadata },
                });
            } else {
                let taking: Vec<_> = self.selection.taking(&topic).collect();
                let begin = history.begin(&topic, partition, &taking);
                of.1 = Some(begin);
                new.push(((topic, partition), begin));
            }
        }
        let now = millis();
        for (topic, (partitions, begin)) in topics {
            history.take(&topic, partitions, begin, now);
        }
        drop(history);
        begun.extend(anew(new, |questions| offsets(consumer, questions, patience)));
        if begun.len() < open.len() {
            debug!(source = %self.name, missing = open.len() - begun.len(), "some start positions are not known yet; asking again");
        }
        Ok(begun)
    }

    /// These partitions, and all others in which the group may have a position.
    fn with_positions(&self, open: &[(String, i32)]) -> TopicPartitionList {
        let history = self.history();
        let open = open.iter().map(|(topic, partition)| (topic.as_str(), *partition));
        let mut all: Vec<_> = history.partitions().chain(open).collect();
        all.sort_unstable();
        all.dedup();
        let mut list = TopicPartitionList::with_capacity(all.len());
        for (topic, partition) in all {
            list.add_partition(topic, partition);
        }
        list
    }

    fn report(&self, begun: &Begun, begin: Begin, skipped: i64) {
        let Begun { topic, partition, position, .. } = begun;
        let (source, starts) = (&self.name, &self.kafka.starts);
        match begin {
            Begin::Beginning => {
                starts.beginning.inc();
                info!(%source, topic, partition, position, "a new partition begins with its first message");
            }
            Begin::Since(_) => {
                starts.since.inc();
                if skipped > 0 {
                    warn!(%source, topic, partition, position, skipped, "a topic new to the group has messages older than its subscription, by their timestamps; skipping them: `start` is \"latest\"");
                } else {
                    info!(%source, topic, partition, position, "a topic new to the group begins with its first message");
                }
            }
            Begin::End => {
                starts.end.inc();
                info!(%source, topic, partition, position, skipped, "the group has no committed position; beginning at the end: `start` is \"latest\"");
            }
        }
    }
}

/// Start positions of partitions without a committed one, from the answers of `ask`.
fn anew(
    mut new: Vec<((String, i32), Begin)>,
    mut ask: impl FnMut(&[Query]) -> Answers,
) -> Vec<Begun> {
    let mut ask = |new: &[((String, i32), Begin)], at: fn(Begin) -> Option<Offset>| {
        let query = |((topic, partition), begin): &'_ ((String, i32), Begin)| {
            Some(Query { topic: topic.clone(), partition: *partition, at: at(*begin)? })
        };
        ask(&new.iter().filter_map(query).collect::<Vec<_>>())
    };
    // The end first: messages written meanwhile are behind it, and not skipped.
    let latest = ask(&new, |_| Some(Offset::End));
    // A partition without an answer is not asked for again here: the others would wait for it each time.
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
        let origin = Origin::New { begin, skipped };
        Some(Begun { topic: at.0, partition: at.1, position, origin })
    };
    new.into_iter().filter_map(begun).collect()
}

/// Now, in milliseconds of the epoch.
pub(crate) fn millis() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// The metadata of a committed position. rdkafka panics where it is not UTF-8, which other clients may commit.
fn metadata(element: &TopicPartitionListElem<'_>) -> String {
    telemetry::unless_it_panics(|| element.metadata().to_owned()).unwrap_or_default()
}

/// The brokers' answers.
fn offsets(
    consumer: &BaseConsumer<impl ConsumerContext>,
    queries: &[Query],
    patience: Patience,
) -> Answers {
    let answers = match ask(consumer, queries, patience.together) {
        Ok(answer) => vec![answer],
        Err(_) if queries.len() == 1 => Vec::new(),
        // One partition without a leader, or with a silent one, fails the request for all.
        Err(_) => queries
            .chunks(TOGETHER)
            .flat_map(|some| alone(consumer, some, patience.alone))
            .collect(),
    };
    let elements = answers.iter().flat_map(TopicPartitionList::elements);
    let said = elements.filter(|element| element.error().is_ok()).map(|element| {
        let offset = match element.offset() {
            Offset::Offset(offset) => Some(offset),
            // No message is that new.
            _ => None,
        };
        ((element.topic().to_owned(), element.partition()), offset)
    });
    said.collect()
}

/// Asks for each partition by itself, at the same time: a silent leader delays no other.
fn alone(
    consumer: &BaseConsumer<impl ConsumerContext>,
    queries: &[Query],
    patience: Duration,
) -> Vec<TopicPartitionList> {
    thread::scope(|scope| {
        let begin = |query| {
            let one = move || ask(consumer, slice::from_ref(query), patience);
            // Without a thread there is no answer; it is asked for again later.
            thread::Builder::new().spawn_scoped(scope, one).ok()
        };
        let asked: Vec<_> = queries.iter().filter_map(begin).collect();
        asked.into_iter().filter_map(|one| one.join().ok()?.ok()).collect()
    })
}

/// Makes one request. The ends of a log are queried like times, as in Kafka's protocol.
fn ask(
    consumer: &BaseConsumer<impl ConsumerContext>,
    queries: &[Query],
    patience: Duration,
) -> Result<TopicPartitionList, KafkaError> {
    if queries.is_empty() {
        return Ok(TopicPartitionList::new());
    }
    let mut list = TopicPartitionList::with_capacity(queries.len());
    for Query { topic, partition, at } in queries {
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
    fn a_slow_leader_gets_more_time_with_each_try() {
        assert_eq!(
            [0, 1, 2, 40].map(|tries| Patience::again(tries).alone.as_millis()),
            [500, 1_000, 2_000, 2_000]
        );
    }

    #[test]
    fn who_does_not_answer_once_is_asked_for_nothing_more() {
        let mut asked = Vec::new();
        let begun = anew(
            vec![(at(0), Begin::Since(7)), (at(1), Begin::Since(7)), (at(2), Begin::End)],
            |queries| {
                let partitions: Vec<i32> = queries.iter().map(|query| query.partition).collect();
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
        let query = |partition| Query { topic: "t".to_owned(), partition, at: Offset::End };
        let all: Vec<_> = (0..4).map(query).collect();
        let deadline = Instant::now() + Duration::from_secs(30);
        // On a busy machine the one that speaks may be late, too.
        loop {
            let said = offsets(&consumer, &all, Patience::again(0));
            assert!(said.keys().all(|(_, partition)| partition % 2 == 0), "{said:?}");
            if said == [(at(0), Some(0)), (at(2), Some(0))].into() {
                break;
            }
            assert!(Instant::now() < deadline, "{said:?}");
        }
    }
}
