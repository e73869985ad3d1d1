//! A topic of numbered messages, bridges that relay it to one endpoint, and what must hold meanwhile.

#![allow(clippy::cast_sign_loss, clippy::cast_possible_wrap)] // partitions and offsets of a test

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::task::JoinHandle;

use super::PATIENCE;
use super::bridge::{Bridge, Setup};
use super::emulator::Emulator;
use super::kafka::Kafka;
use super::kafka::groups::{Group, Member};
use super::kafka::records::{Producer, Record};
use super::ledger::{Accepted, Ledger, Tail, assert_first_in_order, assert_order, ids};
use super::producer::Load;
use super::until;

/// The series of the source's messages in flight.
pub(crate) const IN_FLIGHT: &str = "source_in_flight{source=\"shop\"}";

/// A topic, a group of the same name, and an endpoint whose ledger is written before it answers.
pub(crate) struct Shop {
    pub(crate) topic: String,
    pub(crate) broker: String,
    pub(crate) group: Group,
    pub(crate) emulator: Emulator,
    pub(crate) ledger: Arc<Ledger>,
    partitions: u64,
    _directory: tempfile::TempDir,
}

/// Looks all the time whether something is committed that the endpoint has not accepted, and whether what
/// is committed falls.
pub(crate) struct Watch {
    over: Arc<AtomicBool>,
    task: JoinHandle<usize>,
}

impl Shop {
    /// With an endpoint that answers after 20 ms, as over a network.
    pub(crate) async fn open(kafka: &Kafka, name: &str, partitions: u64) -> Self {
        Self::with(kafka, name, partitions, &["--latency", "20ms"]).await
    }

    /// With such an endpoint.
    pub(crate) async fn with(kafka: &Kafka, name: &str, partitions: u64, args: &[&str]) -> Self {
        let topic = kafka.topic(name, i32::try_from(partitions).unwrap(), &[]).await;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger.jsonl");
        let emulator = Emulator::start(&[&["--ledger", path.to_str().unwrap()], args].concat());
        Self {
            group: kafka.group(&topic),
            broker: kafka.address(),
            topic,
            emulator,
            ledger: Arc::new(Ledger { path }),
            partitions,
            _directory: directory,
        }
    }

    /// A bridge with these lines in its source.
    pub(crate) fn setup(&self, source: &str) -> Setup {
        self.setup_of(&format!("topics = \"{}\"\n{source}", self.topic), "")
    }

    /// As [`setup`](Self::setup), with the topics in `source`, and lines behind `[log]`.
    pub(crate) fn setup_of(&self, source: &str, rest: &str) -> Setup {
        let brokers = if source.contains("brokers =") {
            String::new()
        } else {
            format!("brokers = \"{}\"\n", self.broker)
        };
        let tables = format!(
            "[source.shop]\ntype = \"kafka\"\n{brokers}group = \"{}\"\n{source}\n\
             [route.data]\nfrom = \"shop\"\nchannel = \"/shop/dev-{{json.key}}\"\n",
            self.topic
        );
        Setup::of(&self.emulator.endpoint, "", &tables, rest)
    }

    /// Writes these messages at `rate` a second over `keys` keys, a multiple of the number of partitions,
    /// and returns when the broker has confirmed every one. Message `id` stands in partition
    /// `id % partitions` at offset `id / partitions`, if the topic holds nothing else.
    pub(crate) fn produce(
        &self,
        kafka: &Kafka,
        ids: std::ops::Range<u64>,
        rate: u64,
        keys: u64,
    ) -> impl Future<Output = ()> + use<> {
        let writer = self.writer(kafka, rate, keys);
        async move {
            writer.write(ids.start, |id| id < ids.end).await;
        }
    }

    /// As [`produce`](Self::produce), from message 0 until it is stopped: with the last of a round of
    /// keys, so that every partition has as many.
    pub(crate) fn load(&self, kafka: &Kafka, rate: u64, keys: u64) -> Load {
        let writer = self.writer(kafka, rate, keys);
        Load::running(|stopped| async move {
            writer.write(0, |id| id % keys > 0 || !stopped.load(Ordering::Relaxed)).await
        })
    }

    fn writer(&self, kafka: &Kafka, rate: u64, keys: u64) -> Writer {
        assert_eq!(keys % self.partitions, 0);
        let (producer, topic) = (kafka.producer(&[]), self.topic.clone());
        Writer { producer, topic, partitions: self.partitions, rate, keys }
    }

    /// Watches the group from now on.
    pub(crate) fn watch(&self, every: Duration) -> Watch {
        let over = Arc::new(AtomicBool::new(false));
        let (group, topic, partitions) = (self.group.clone(), self.topic.clone(), self.partitions);
        let mut accepted = Tail::of(&self.ledger);
        let ended = Arc::clone(&over);
        let task = tokio::spawn(async move {
            let mut samples = 0;
            let mut clock = tokio::time::interval(every);
            clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            let mut before = BTreeMap::new();
            // Up to where everything is known to be accepted.
            let mut checked = vec![0_i64; partitions as usize];
            while !ended.load(Ordering::Relaxed) {
                // First what is committed, then what was accepted before that.
                let committed = group.committed(&topic).await;
                for (partition, offset) in &before {
                    let now = committed.get(partition);
                    assert!(
                        now >= Some(offset),
                        "partition {partition} was committed up to {offset}, and is up to {now:?}"
                    );
                }
                before.clone_from(&committed);
                let behind = |p: &i32, offset: &i64| *offset > checked[*p as usize];
                if committed.iter().any(|(p, offset)| behind(p, offset)) {
                    accepted.read_on();
                }
                for (partition, offset) in committed {
                    for at in checked[partition as usize]..offset {
                        let id = at as u64 * partitions + partition as u64;
                        assert!(
                            accepted.ids.contains(&id),
                            "partition {partition} is committed up to {offset}, and {at} was not accepted"
                        );
                    }
                    checked[partition as usize] = offset.max(checked[partition as usize]);
                }
                samples += 1;
                clock.tick().await;
            }
            samples
        });
        Watch { over, task }
    }

    /// Waits until `count` messages are accepted, in order but for `replays` steps back of a key, and
    /// all of them committed. Gives how many came twice.
    pub(crate) async fn is_relayed(&self, count: u64, replays: usize) -> usize {
        let accepted = self.all_relayed(count).await;
        assert_order(&accepted, replays);
        accepted.len() - count as usize
    }

    /// As [`is_relayed`](Self::is_relayed), where a member may have published what was another's by then:
    /// what comes for the first time comes in order, whatever is repeated between.
    pub(crate) async fn is_relayed_by_two(&self, count: u64) -> usize {
        let accepted = self.all_relayed(count).await;
        assert_first_in_order(&accepted);
        accepted.len() - count as usize
    }

    /// How many messages were accepted and are not committed: what comes again after a crash.
    pub(crate) async fn uncommitted(&self) -> u64 {
        let committed = self.group.committed(&self.topic).await.values().sum::<i64>() as u64;
        ids(&self.ledger.read()).len() as u64 - committed
    }

    /// Which partitions each member has, by its `client.id`, once the group of the classic protocol is at
    /// rest.
    pub(crate) async fn shares(&self) -> BTreeMap<String, Vec<i32>> {
        until("the group is stable", PATIENCE, async || {
            let (state, members) = self.group.members().await;
            let share = |member: Member| {
                (member.client_id, member.partitions.into_iter().map(|(_, n)| n).collect())
            };
            (state == "Stable").then(|| members.into_iter().map(share).collect())
        })
        .await
    }

    /// As [`is_relayed`](Self::is_relayed), in whatever order: what was accepted.
    pub(crate) async fn all_relayed(&self, count: u64) -> Vec<Accepted> {
        let mut tail = Tail::of(&self.ledger);
        until(&format!("{count} ids in the ledger"), PATIENCE, async || {
            tail.read_on();
            (tail.ids.len() as u64 >= count).then_some(())
        })
        .await;
        let each = (count / self.partitions) as i64;
        until("all is committed", PATIENCE, async || {
            let committed = self.group.committed(&self.topic).await;
            (committed.len() as u64 == self.partitions && committed.values().all(|o| *o >= each))
                .then_some(())
        })
        .await;
        let accepted = self.ledger.read();
        assert_eq!(ids(&accepted).len() as u64, count);
        accepted
    }
}

/// Writes the messages of a shop.
struct Writer {
    producer: Producer,
    topic: String,
    partitions: u64,
    rate: u64,
    keys: u64,
}

impl Writer {
    /// From `first` on as long as it `goes_on`; gives the number of the last one and one more, when all
    /// are confirmed.
    async fn write(self, first: u64, goes_on: impl Fn(u64) -> bool) -> u64 {
        let (began, mut under_way, mut id) = (Instant::now(), Vec::new(), first);
        while goes_on(id) {
            let due = Duration::from_secs_f64((id - first) as f64 / self.rate as f64);
            if let Some(wait) = due.checked_sub(began.elapsed()).filter(|w| w.as_millis() > 2) {
                tokio::time::sleep(wait).await;
            }
            let partition = i32::try_from(id % self.partitions).unwrap();
            let record = record(id, self.keys).partition(partition);
            under_way.push(self.producer.put(&self.topic, &record));
            id += 1;
        }
        for confirmed in under_way {
            confirmed.await.unwrap().unwrap();
        }
        id
    }
}

impl Watch {
    /// Ends it; gives how often it looked. Panics if something was committed too early.
    pub(crate) async fn end(self) -> usize {
        self.over.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}

/// Message `id` of a load over `keys` keys.
pub(crate) fn record(id: u64, keys: u64) -> Record {
    let (key, seq) = (id % keys, id / keys);
    let payload = json!({ "id": id, "key": key, "seq": seq }).to_string();
    Record::new(payload).key(format!("k{key}"))
}

/// The partitions, of so many, of what came more than once.
pub(crate) fn repeated(accepted: &[Accepted], partitions: u64) -> BTreeSet<i32> {
    let mut seen = BTreeSet::new();
    let ids = accepted.iter().map(|a| a.event["id"].as_u64().unwrap());
    ids.filter(|id| !seen.insert(*id)).map(|id| (id % partitions) as i32).collect()
}

/// Ends a bridge as an operator does, and expects a clean end.
pub(crate) async fn stop(mut bridge: Bridge) {
    bridge.signal("TERM");
    let status = bridge.ended(Duration::from_secs(25)).await;
    assert_eq!(status.code(), Some(0), "{}", bridge.log());
}
