//! A topic of numbered messages, bridges that relay it to one endpoint, and what must hold meanwhile.

#![allow(clippy::cast_sign_loss, clippy::cast_possible_wrap)] // partitions and offsets of a test

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::task::JoinHandle;

use super::bridge::{Bridge, Setup};
use super::emulator::Emulator;
use super::kafka::Kafka;
use super::kafka::groups::Group;
use super::kafka::records::Record;
use super::ledger::{Accepted, Ledger, Tail, assert_first_in_order, assert_order, ids};
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

/// Looks all the time whether something is committed that the endpoint has not accepted.
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

    /// Writes the messages from `first` to `end` at `rate` a second over `keys` keys, a multiple of the
    /// number of partitions, and returns when the broker has confirmed every one. Message `id` stands in
    /// partition `id % partitions` at offset `id / partitions`, if the topic holds nothing else.
    pub(crate) fn produce(
        &self,
        kafka: &Kafka,
        ids: std::ops::Range<u64>,
        rate: u64,
        keys: u64,
    ) -> impl Future<Output = ()> + use<> {
        assert_eq!(keys % self.partitions, 0);
        let (producer, topic, partitions) =
            (kafka.producer(&[]), self.topic.clone(), self.partitions);
        async move {
            let mut under_way = Vec::new();
            let (began, first) = (Instant::now(), ids.start);
            for id in ids {
                let due = Duration::from_secs_f64((id - first) as f64 / rate as f64);
                if let Some(wait) = due.checked_sub(began.elapsed()).filter(|w| w.as_millis() > 2) {
                    tokio::time::sleep(wait).await;
                }
                let partition = i32::try_from(id % partitions).unwrap();
                under_way.push(producer.put(&topic, &record(id, keys).partition(partition)));
            }
            for confirmed in under_way {
                confirmed.await.unwrap().unwrap();
            }
        }
    }

    /// Watches the group from now on.
    pub(crate) fn watch(&self, every: Duration) -> Watch {
        let over = Arc::new(AtomicBool::new(false));
        let (group, topic, partitions) = (self.group.clone(), self.topic.clone(), self.partitions);
        let mut accepted = Tail::of(&self.ledger);
        let ended = Arc::clone(&over);
        let task = tokio::spawn(async move {
            let mut samples = 0;
            // Up to where everything is known to be accepted.
            let mut checked = vec![0_i64; partitions as usize];
            while !ended.load(Ordering::Relaxed) {
                // First what is committed, then what was accepted before that.
                let committed = group.committed(&topic).await;
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
                tokio::time::sleep(every).await;
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

    async fn all_relayed(&self, count: u64) -> Vec<Accepted> {
        let mut tail = Tail::of(&self.ledger);
        until(&format!("{count} ids in the ledger"), Duration::from_mins(2), async || {
            tail.read_on();
            (tail.ids.len() as u64 >= count).then_some(())
        })
        .await;
        let each = (count / self.partitions) as i64;
        until("all is committed", Duration::from_secs(30), async || {
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

/// Ends a bridge as an operator does, and expects a clean end.
pub(crate) async fn stop(mut bridge: Bridge) {
    bridge.signal("TERM");
    let status = bridge.ended(Duration::from_secs(25)).await;
    assert_eq!(status.code(), Some(0), "{}", bridge.log());
}
