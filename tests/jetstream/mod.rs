//! What only JetStream does.

mod check;
mod dead_letter;
mod long;
mod order;
mod permissions;
mod source;
mod trouble;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::task::JoinHandle;

use crate::support::bridge::{Bridge, Setup};
use crate::support::broker::{Broker as _, Sent};
use crate::support::emulator::Emulator;
use crate::support::jetstream::JetStream;
use crate::support::ledger::{Ledger, Tail, ids};
use crate::support::{PATIENCE, until};

const IN_FLIGHT: &str = "source_in_flight{source=\"it\"}";

/// A stream, and an endpoint whose ledger is written before it answers.
struct Site {
    stream: JetStream,
    emulator: Emulator,
    ledger: Ledger,
    _directory: tempfile::TempDir,
}

impl Site {
    async fn open(server: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger.jsonl");
        let emulator = Emulator::start(&["--latency", "20ms", "--ledger", path.to_str().unwrap()]);
        let stream = JetStream::on(server, "").await;
        Self { stream, emulator, ledger: Ledger { path }, _directory: directory }
    }

    /// A bridge whose source has these lines.
    fn setup(&self, source: &str) -> Setup {
        self.setup_of(source, "")
    }

    fn setup_of(&self, source: &str, rest: &str) -> Setup {
        let tables = format!(
            "{}{source}\n[route.data]\nfrom = \"it\"\nchannel = \"/it/dev-{{json.key}}\"\n",
            self.stream.source()
        );
        Setup::of(&self.emulator.endpoint, "", &tables, rest)
    }

    async fn produce(&self, rate: u64, ids: Range<u64>, keys: u64) {
        self.stream.produce(rate, numbered(ids, keys)).await;
    }

    /// Waits until these many were accepted and acknowledged; how many came twice.
    async fn is_relayed(&self, bridge: &Bridge, count: u64) -> usize {
        self.ledger.has_ids(usize::try_from(count).unwrap(), PATIENCE).await;
        bridge.metric_is(IN_FLIGHT, |v| v == 0.0).await;
        let accepted = self.ledger.read();
        assert_eq!(ids(&accepted).len() as u64, count);
        accepted.len() - usize::try_from(count).unwrap()
    }

    /// Looks again and again whether the consumer's ack floor is behind what the endpoint accepted, of a stream whose
    /// n-th message has the id n - 1.
    fn watch(&self) -> Watch {
        let (mut tail, url) = (Tail::of(&self.ledger), self.stream.nats.url());
        let samples = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&samples);
        let task = tokio::spawn(async move {
            let client = async_nats::ConnectOptions::new().retry_on_initial_connect();
            let client = client.max_reconnects(None).connect(url).await.unwrap();
            let mut context = async_nats::jetstream::new(client);
            context.set_timeout(Duration::from_secs(1));
            let mut checked = 0;
            loop {
                tokio::time::sleep(Duration::from_millis(50)).await;
                let Ok(stream) = context.get_stream_no_info("IT").await else { continue };
                let Ok(consumer) = stream.consumer_info("bridge").await else { continue };
                let floor = consumer.ack_floor.stream_sequence;
                tail.read_on();
                for id in checked..floor {
                    assert!(
                        tail.ids.contains(&id),
                        "the floor is {floor}, and {id} was not accepted"
                    );
                }
                checked = checked.max(floor);
                let samples = count.fetch_add(1, Ordering::Relaxed) + 1;
                if samples.is_multiple_of(20) {
                    println!("{samples} samples, floor {floor}");
                }
            }
        });
        Watch { task, samples }
    }
}

/// A task that fails when something was acknowledged too early.
struct Watch {
    task: JoinHandle<()>,
    samples: Arc<AtomicU64>,
}

impl Watch {
    /// Ends it when it has looked at what there is now, too; panics if it has ended itself.
    async fn end(self) {
        let before = self.samples.load(Ordering::Relaxed);
        until("it has looked once more", PATIENCE, async || {
            let now = self.samples.load(Ordering::Relaxed);
            (self.task.is_finished() || now >= before + 2).then_some(())
        })
        .await;
        assert!(!self.task.is_finished(), "{:?}", self.task.await);
        assert!(before >= 3, "{before} samples while there was something to see");
        self.task.abort();
    }
}

/// Messages over `keys` keys, each key's numbered from 0.
fn numbered(ids: Range<u64>, keys: u64) -> Vec<Sent> {
    let message = |id: u64| {
        let (key, seq) = (id % keys, id / keys);
        let payload = json!({ "id": id, "key": key, "seq": seq }).to_string().into_bytes();
        Sent { key, payload }
    };
    ids.map(message).collect()
}
