//! Core NATS: at most once, with everything counted that is dropped here.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use appsync_bridge::config::{self, Environment};
use appsync_bridge::delivery::{Done, Intake, Outcome};
use appsync_bridge::health::Health;
use appsync_bridge::metrics::Metrics;
use appsync_bridge::shutdown::Shutdown;
use appsync_bridge::source;
use async_nats::Client;
use serde_json::json;

use crate::support::bridge::{Bridge, Setup};
use crate::support::emulator::Emulator;
use crate::support::ledger::{Ledger, assert_order, ids};
use crate::support::nats::Nats;
use crate::support::{PATIENCE, signal, until};

const RECEIVED: &str = "source_received_total{source=\"it\"}";
const DROPPED: &str = "source_dropped_total{source=\"it\"}";
const IN_FLIGHT: &str = "source_in_flight{source=\"it\"}";

/// A server and an endpoint whose ledger is written before it answers.
pub(super) struct Relay {
    pub(super) server: Nats,
    pub(super) emulator: Emulator,
    pub(super) ledger: Ledger,
    _directory: tempfile::TempDir,
}

impl Relay {
    pub(super) async fn open() -> Self {
        Self::of(Nats::start("").await)
    }

    pub(super) fn of(server: Nats) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (emulator, ledger) = Emulator::with_ledger(&directory, &["--latency", "5ms"]);
        Self { server, emulator, ledger, _directory: directory }
    }

    /// A bridge with these lines in its source, which takes from this server unless they say otherwise.
    pub(super) fn setup(&self, source: &str) -> Setup {
        let servers = if source.contains("servers =") {
            String::new()
        } else {
            format!("servers = \"{}\"\n", self.server.url())
        };
        let subjects = if source.contains("subjects =") { "" } else { "subjects = \"in.*\"\n" };
        let tables = format!(
            "[source.it]\ntype = \"nats\"\n{servers}{subjects}{source}\n\
             [route.data]\nfrom = \"it\"\ntopic = \"in.{{device}}\"\nchannel = \"/it/{{device}}\"\n"
        );
        // However long the endpoint is held, nothing is sent again.
        Setup::of(
            &self.emulator.endpoint,
            "timeout = \"3m\"",
            &tables,
            "[shutdown]\ngrace = \"4m\"\n",
        )
    }

    /// Waits until the bridge has nothing in flight, and all of `count` messages were accepted, once and in order.
    pub(super) async fn is_relayed(&self, bridge: &Bridge, count: usize) {
        self.ledger.has_ids(count, PATIENCE).await;
        bridge.metric_is(IN_FLIGHT, |v| v == 0.0).await;
        let accepted = self.ledger.read();
        assert_eq!((ids(&accepted).len(), accepted.len()), (count, count));
        assert_order(&accepted, 0);
    }
}

/// A message of a load over ten subjects.
pub(super) fn message(id: u64, padding: usize) -> (String, Vec<u8>) {
    let payload = json!({ "id": id, "key": id % 10, "seq": id / 10, "x": "x".repeat(padding) });
    (format!("in.{}", id % 10), payload.to_string().into_bytes())
}

/// Sends messages, and waits until the server has them.
pub(super) async fn publish(client: &Client, ids: std::ops::Range<u64>, padding: usize) {
    for (subject, payload) in ids.map(|id| message(id, padding)) {
        client.publish(subject, payload.into()).await.unwrap();
    }
    client.flush().await.unwrap();
}

/// Sends messages at `rate` a second until it is told to stop; gives how many.
async fn load(client: &Client, rate: u32, stop: impl Future<Output = ()>) -> u64 {
    let mut tick = tokio::time::interval(Duration::from_secs(1) / rate);
    let mut id = 0;
    tokio::pin!(stop);
    loop {
        tokio::select! {
            _ = tick.tick() => {
                publish(client, id..id + 1, 0).await;
                id += 1;
            }
            () = &mut stop => return id,
        }
    }
}

/// The most memory that a process ever had, in MiB.
fn peak_mib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

/// T23, with `count` messages and so many bytes in each.
async fn floods(count: u64, padding: usize, source: &str, most_mib: u64) {
    let relay = Relay::open().await;
    let bridge = relay.setup(source).start_ready().await;
    signal(relay.emulator.pid(), "STOP");
    let client = relay.server.client().await;
    publish(&client, 0..count, padding).await;
    until("every message is taken or dropped", PATIENCE, async || {
        let metrics = bridge.metrics().await;
        let of = |series: &str| metrics[&format!("appsync_bridge_{series}")];
        let known = of(RECEIVED) + of(DROPPED);
        assert!(known <= count as f64, "{known} of {count}");
        (known == count as f64).then_some(())
    })
    .await;
    signal(relay.emulator.pid(), "CONT");
    bridge.metric_is(IN_FLIGHT, |v| v == 0.0).await;
    let (dropped, peak) = (bridge.metric(DROPPED).await, peak_mib(bridge.pid()));
    let accepted = relay.ledger.read();
    println!("{count} sent, {} delivered, {dropped} dropped, {peak} MiB at most", accepted.len());
    assert!(dropped > 0.0, "it was no flood");
    assert_eq!(ids(&accepted).len(), accepted.len(), "some came twice");
    assert_eq!(count as f64 - accepted.len() as f64, dropped);
    assert!(peak <= most_mib, "{peak} MiB");
    let said = bridge.lines(&["no room for messages", "max_in_flight"]);
    assert!(!said.is_empty() && said.len() <= 2, "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_is_dropped_to_the_message_and_takes_no_memory() {
    floods(200_000, 0, "", 160).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_large_messages_is_bounded_in_bytes() {
    floods(20_000, 20_000, "max_in_flight_bytes = \"8MiB\"", 160).await;
}

/// What the client drops before anybody could take it.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_dropped_while_nobody_takes_is_counted_to_the_message() {
    const COUNT: u64 = 200_000;
    let relay = Relay::open().await;
    let text = fs::read_to_string(relay.setup("max_in_flight = 1000000").config()).unwrap();
    let loaded = config::parse(&text, Path::new("bridge.toml"), &Environment::of_process());
    let config = loaded.unwrap().config.sources.remove(0);
    let (metrics, health, shutdown) = (Metrics::new(), Health::default(), Shutdown::new());
    let numbers = metrics.source("it");
    let made =
        source::build(&config, &metrics, health.register("it", "connecting"), source::Begin::Start)
            .await
            .unwrap();
    let (handed, busy) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(())));
    let (count, gate) = (Arc::clone(&handed), Arc::clone(&busy));
    let intake = Intake::new(move |delivery| {
        // A thread that is held is what no source has a word against.
        drop(gate.lock().unwrap());
        count.fetch_add(1, Ordering::Relaxed);
        delivery.settle(Outcome::Accepted(Done::Published));
    });
    let stop = shutdown.clone();
    let run = tokio::spawn(async move { made.run(intake, stop).await.unwrap() });
    health.all_ready().await;
    let client = relay.server.client().await;
    tokio::task::block_in_place(|| {
        let _held = busy.lock().unwrap();
        tokio::runtime::Handle::current().block_on(async {
            publish(&client, 0..COUNT, 0).await;
            relay.server.written().await;
        });
    });
    until("all are taken or dropped", PATIENCE, async || {
        let known = handed.load(Ordering::Relaxed) + numbers.dropped.get();
        assert!(known <= COUNT);
        (known == COUNT).then_some(())
    })
    .await;
    assert!(numbers.dropped.get() > 0, "the client dropped nothing");
    println!("{} dropped by the client", numbers.dropped.get());
    shutdown.start_drain();
    run.await.unwrap();
    assert_eq!(handed.load(Ordering::Relaxed) + numbers.dropped.get(), COUNT);
}

/// T05.
#[tokio::test(flavor = "multi_thread")]
async fn of_a_queue_group_a_member_that_is_killed_loses_what_it_held() {
    let relay = Relay::open().await;
    let setups: Vec<_> = (0..3).map(|_| relay.setup("queue = \"bridge\"")).collect();
    let mut bridges = Vec::new();
    for setup in &setups {
        bridges.push(setup.start_ready().await);
    }
    let client = relay.server.client().await;
    let mut held = 0;
    let stop = async {
        relay.ledger.reaches(1_000, PATIENCE).await;
        let accepted = relay.ledger.len() as u64;
        bridges.pop().unwrap().kill();
        until("the server knows", PATIENCE, async || {
            let all = relay.server.monitor("/connz").await;
            (all["connections"].as_array().unwrap().len() == 3).then_some(())
        })
        .await;
        held = client.statistics().out_messages.load(Ordering::Relaxed) - accepted;
        relay.ledger.reaches(relay.ledger.len() + 1_000, PATIENCE).await;
    };
    let sent = load(&client, 500, stop).await;
    for bridge in &bridges {
        until("all is finished", PATIENCE, async || {
            let all = relay.server.monitor("/connz").await;
            let all = all["connections"].as_array().unwrap();
            let idle = all.iter().all(|each| each["pending_bytes"] == 0);
            (idle && bridge.metric(IN_FLIGHT).await == 0.0).then_some(())
        })
        .await;
    }
    let accepted = relay.ledger.read();
    let lost = sent as usize - ids(&accepted).len();
    println!("{sent} sent, {lost} lost with the member, {held} were on their way");
    assert_eq!(ids(&accepted).len(), accepted.len(), "each goes to one member");
    // However slow the machine is, nothing that was sent later is lost.
    assert!(lost as u64 <= held, "{lost} lost");
    for bridge in &bridges {
        assert!(bridge.metric(RECEIVED).await > 300.0, "each has its share");
    }
}

/// T03.
#[tokio::test(flavor = "multi_thread")]
async fn stopped_under_load_it_finishes_what_it_took() {
    let relay = Relay::open().await;
    let setup = relay.setup("");
    let mut bridge = setup.start_ready().await;
    let client = relay.server.client().await;
    let stop = async {
        for _ in 0..3 {
            relay.ledger.reaches(relay.ledger.len() + 300, PATIENCE).await;
            bridge.signal("TERM");
            let status = bridge.ended(Duration::from_secs(25)).await;
            assert_eq!(status.code(), Some(0), "{}", bridge.log());
            bridge = setup.start_ready().await;
        }
    };
    let sent = load(&client, 1_000, stop).await;
    bridge.metric_is(IN_FLIGHT, |v| v == 0.0).await;
    let accepted = relay.ledger.read();
    assert_eq!(ids(&accepted).len(), accepted.len(), "some came twice");
    assert!(accepted.len() < sent as usize, "what comes while nobody listens is lost");
    for key in 0..10 {
        let of_key = accepted.iter().filter(|a| a.event["key"] == key);
        let of_key: Vec<_> = of_key.map(|a| a.event["seq"].as_u64().unwrap()).collect();
        assert!(of_key.is_sorted(), "{key}: {of_key:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_in_a_flood_it_ends() {
    let relay = Relay::open().await;
    let mut bridge = relay.setup("max_in_flight = 2000").start_ready().await;
    let client = relay.server.client().await;
    let flood = async {
        for block in 0.. {
            publish(&client, block * 1_000..(block + 1) * 1_000, 0).await;
        }
    };
    let stop = async {
        bridge.metric_is(DROPPED, |v| v > 0.0).await;
        bridge.signal("TERM");
        let status = bridge.ended(PATIENCE).await;
        assert_eq!(status.code(), Some(0), "{}", bridge.log());
    };
    tokio::select! {
        () = flood => unreachable!("it does not end"),
        () = stop => {}
    }
    let accepted = relay.ledger.read();
    assert_eq!(ids(&accepted).len(), accepted.len(), "some came twice");
}

/// As long as it is refused; a reload of the server that allows it makes its copies the ones that count.
#[tokio::test(flavor = "multi_thread")]
async fn of_subjects_that_overlap_one_that_is_refused_takes_nothing_from_the_others() {
    let lines = |allowed: &str| {
        format!(
            "authorization: {{ users: [ {{ user: \"u\", password: \"p\", permissions: {{ subscribe: [{allowed}] }} }}, \
             {{ user: \"all\", password: \"p\" }} ] }}\nno_auth_user: u"
        )
    };
    let relay = Relay::of(Nats::start(&lines("\"in.>\", \"_INBOX.>\"")).await);
    let all = async_nats::ConnectOptions::with_user_and_password("all".into(), "p".into());
    let client = relay.server.client_of(all).await;
    let bridge = relay.setup("subjects = [\"*.*\", \"in.>\"]").start().await;
    until("one is refused", PATIENCE, async || {
        (!bridge.lines(&["the server complains"]).is_empty()).then_some(())
    })
    .await;
    until("the other is granted", PATIENCE, async || {
        let subscribed = relay.server.monitor("/connz?subs=1").await.to_string();
        subscribed.contains("in.>").then_some(())
    })
    .await;
    publish(&client, 0..100, 0).await;
    relay.is_relayed(&bridge, 100).await;
    assert_eq!(bridge.metric("source_copies_skipped_total{source=\"it\"}").await, 0.0);
    relay.server.configure(&lines("\">\""));
    relay.server.reload().await;
    bridge.ready().await;
    publish(&client, 100..200, 0).await;
    relay.is_relayed(&bridge, 200).await;
    assert_eq!(bridge.metric("source_copies_skipped_total{source=\"it\"}").await, 100.0);
    assert_eq!(bridge.metric(DROPPED).await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_subjects_that_overlap_one_copy_counts() {
    let relay = Relay::open().await;
    let source = "subjects = [\"in.*\", \"in.>\", \"*.*\"]";
    let bridge = relay.setup(source).start_ready().await;
    publish(&relay.server.client().await, 0..100, 0).await;
    relay.is_relayed(&bridge, 100).await;
    let copies = bridge.metric("source_copies_skipped_total{source=\"it\"}").await;
    assert_eq!((copies, bridge.metric(DROPPED).await), (200.0, 0.0));
}
