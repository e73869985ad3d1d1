//! SQS.

mod check;
mod dead_letter;
mod fifo;
mod idle;
mod leases;
mod servers;
mod source;
mod trouble;
mod unwrap;

use std::collections::BTreeMap;
use std::ops::Range;

use serde_json::json;

use crate::support::bridge::{Bridge, Setup};
use crate::support::emulator::Emulator;
use crate::support::ledger::{Ledger, ids};
use crate::support::sqs::fake::Fake;
use crate::support::sqs::{CREDENTIALS, Outgoing, Queue, REGION};
use crate::support::{PATIENCE, until};

/// The series of the source's messages in flight.
const IN_FLIGHT: &str = "source_in_flight{source=\"it\"}";

/// An endpoint whose ledger is written before it answers.
struct Relay {
    emulator: Emulator,
    ledger: Ledger,
    _directory: tempfile::TempDir,
}

impl Relay {
    fn open(args: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (emulator, ledger) = Emulator::with_ledger(&directory, args);
        Self { emulator, ledger, _directory: directory }
    }

    /// A source `it` of this queue, with these lines beside.
    fn setup(&self, queue: &Queue, source: &str) -> Setup {
        self.setup_of(&source_of("it", queue, source), "channel = \"/it/dev-{json.key}\"\n", "")
    }

    /// Sources, the lines of a route that takes from `it`, and what stands behind.
    fn setup_of(&self, sources: &str, route: &str, rest: &str) -> Setup {
        let tables = format!("{sources}\n[route.data]\nfrom = \"it\"\n{route}");
        let setup = Setup::of(&self.emulator.endpoint, "", &tables, rest);
        CREDENTIALS.iter().fold(setup, |setup, (name, value)| setup.env(name, value))
    }

    /// Waits until all of these ids are accepted and nothing is in flight any more.
    async fn has_all(&self, bridge: &Bridge, count: u64) {
        self.ledger.has_ids(count as usize, PATIENCE).await;
        bridge.metric_is(IN_FLIGHT, |v| v == 0.0).await;
        assert_eq!(ids(&self.ledger.read()).len() as u64, count);
    }
}

/// `[source.NAME]`; a receive waits for a second, unless it says otherwise.
fn source_of(name: &str, queue: &Queue, lines: &str) -> String {
    let wait = if lines.contains("wait_time") { "" } else { "wait_time = \"1s\"\n" };
    format!(
        "[source.{name}]\ntype = \"sqs\"\nqueue = \"{}\"\naws = {{ region = \"{REGION}\" }}\n{wait}{lines}\n",
        queue.url
    )
}

/// The bodies of messages over `keys` keys, each key's numbered from 0.
fn bodies(ids: Range<u64>, keys: u64) -> impl Iterator<Item = String> {
    ids.map(move |id| json!({ "id": id, "key": id % keys, "seq": id / keys }).to_string())
}

/// The same for a FIFO queue: a group a key.
fn grouped(ids: Range<u64>, keys: u64) -> impl Iterator<Item = Outgoing> {
    let bodies = bodies(ids.clone(), keys);
    ids.zip(bodies)
        .map(move |(id, body)| Outgoing::new(body).group(format!("g{}", id % keys), id.to_string()))
}

/// Waits until all messages of a queue of the fake are deleted, and gives how many were received how often.
async fn all_deleted(fake: &Fake, queue: &Queue) -> BTreeMap<u32, usize> {
    until("all are deleted", PATIENCE, async || {
        fake.history(&queue.name).iter().all(|message| message.deleted).then_some(())
    })
    .await;
    let mut receives = BTreeMap::new();
    for message in fake.history(&queue.name) {
        *receives.entry(message.receives).or_default() += 1;
    }
    receives
}
