//! What every source has to do, whatever its broker: one suite, a row a broker. What only one of them does
//! has a file of its own.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use appsync_bridge::config::{self, Environment};
use appsync_bridge::delivery::{Done, Intake, Outcome};
use appsync_bridge::health::Health;
use appsync_bridge::metrics::Metrics;
use appsync_bridge::shutdown::Shutdown;
use appsync_bridge::source;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::support::PATIENCE;
use crate::support::bridge::{Bridge, Setup};
use crate::support::broker::{Broker, CoreNats, Mqtt, OfKafka, OfSqs, Sent};
use crate::support::emulator::Emulator;
use crate::support::jetstream::JetStream;
use crate::support::ledger::{Ledger, assert_order, ids};
use crate::support::{runs_elsewhere_with, signal, until};

macro_rules! contract {
    ($($name:ident: $broker:ty, $lines:literal;)*) => {$(
        mod $name {
            #[allow(unused_imports)] // not every broker
            use super::*;

            contract!(@tests $broker, $lines: every_message_arrives_once_and_in_order,
                nothing_is_acknowledged_before_the_answer,
                what_can_not_be_published_is_kept_and_its_neighbours_go_on,
                what_is_given_back_comes_again_with_what_is_behind_it,
                the_limit_in_flight_holds, stopped_under_load_nothing_comes_twice,
                killed_under_load_nothing_is_lost, a_bridge_that_froze_goes_on, a_broker_that_was_killed_is_found_again,
                what_is_known_of_a_message_reaches_the_route,
                a_dead_endpoint_ends_the_drain_at_the_grace_and_loses_nothing);
        }
    )*};
    (@tests $broker:ty, $lines:literal: $($test:ident),*) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $test() {
            super::$test::<$broker>($lines).await;
        }
    )*};
}

/// Brokers that keep nothing: what they owe nobody is left out.
macro_rules! at_most_once {
    ($($name:ident: $broker:ty, $lines:literal;)*) => {$(
        mod $name {
            #[allow(unused_imports)] // not every broker
            use super::*;

            contract!(@tests $broker, $lines: every_message_arrives_once_and_in_order,
                what_can_not_be_published_is_kept_and_its_neighbours_go_on,
                a_broker_that_was_killed_is_found_again,
                what_is_known_of_a_message_reaches_the_route);
        }
    )*};
}

contract! {
    mqtt_5: Mqtt, "version = 5";
    mqtt_3: Mqtt, "version = 3";
    mqtt_5_qos_2: Mqtt, "version = 5\nqos = 2";
    mqtt_3_qos_2: Mqtt, "version = 3\nqos = 2";
    mqtt_5_shared: Mqtt, "version = 5\nshare = \"group\"";
    mqtt_5_over_tls_and_websocket: Mqtt, "version = 5 # over wss";
    mqtt_3_over_websocket: Mqtt, "version = 3 # over ws";
    kafka: OfKafka, "session_timeout = \"6s\"\ndrain_timeout = \"2s\"\ngroup_instance_id = \"one\"";
    jetstream: JetStream, "";
    kafka_by_the_broker: OfKafka, "protocol = \"consumer\"\ndrain_timeout = \"2s\"";
    sqs_fifo: OfSqs, "wait_time = \"1s\"\nvisibility_timeout = \"5s\"";
}

at_most_once! {
    nats: CoreNats, "";
    nats_in_a_group: CoreNats, "queue = \"bridge\"";
}

const IN_FLIGHT: &str = "source_in_flight{source=\"it\"}";

/// A broker and an endpoint whose ledger is written before it answers.
struct Relay<B> {
    broker: B,
    emulator: Emulator,
    ledger: Ledger,
    _directory: tempfile::TempDir,
}

impl<B: Broker> Relay<B> {
    async fn open(lines: &'static str) -> Self {
        Self::of(B::start(lines, false).await)
    }

    /// With an endpoint that answers after 20 ms, as over a network.
    fn of(broker: B) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger.jsonl");
        let emulator = Emulator::start(&["--latency", "20ms", "--ledger", path.to_str().unwrap()]);
        Self { broker, emulator, ledger: Ledger { path }, _directory: directory }
    }

    fn setup(&self, source: &str) -> Setup {
        self.setup_of(source, "", "channel = \"/it/dev-{json.key}\"\n", "")
    }

    fn setup_of(&self, source: &str, api: &str, route: &str, rest: &str) -> Setup {
        let tables =
            format!("{}{source}\n[route.data]\nfrom = \"it\"\n{route}", self.broker.source());
        let setup = Setup::of(&self.emulator.endpoint, api, &tables, rest);
        B::VARIABLES.iter().fold(setup, |setup, (name, value)| setup.env(name, value))
    }

    async fn is_acknowledged(&self, count: u64) {
        until(&format!("{count} are acknowledged"), PATIENCE, async || {
            (self.broker.acknowledged().await == count).then_some(())
        })
        .await;
    }

    /// Waits until all of `count` messages are accepted and acknowledged, in order but for `replays` steps
    /// back of a key. Gives how many came twice.
    async fn is_relayed(&self, bridge: &Bridge, count: u64, replays: usize) -> usize {
        self.ledger.has_ids(count as usize, PATIENCE).await;
        bridge.metric_is(IN_FLIGHT, |v| v == 0.0).await;
        let accepted = self.ledger.read();
        assert_eq!(ids(&accepted).len() as u64, count);
        assert_order(&accepted, replays);
        accepted.len() - count as usize
    }
}

/// Messages over `keys` keys, each key's numbered from 0.
fn numbered(ids: std::ops::Range<u64>, keys: u64) -> Vec<Sent> {
    let message = |id: u64| {
        let (key, seq) = (id % keys, id / keys);
        let payload = json!({ "id": id, "key": key, "seq": seq }).to_string().into_bytes();
        Sent { key, payload }
    };
    ids.map(message).collect()
}

async fn every_message_arrives_once_and_in_order<B: Broker>(lines: &'static str) {
    let relay = Relay::<B>::open(lines).await;
    let bridge = relay.setup("").start_ready().await;
    relay.broker.produce(5_000, numbered(0..900, 9)).await;
    assert_eq!(relay.is_relayed(&bridge, 900, 0).await, 0, "some came twice");
    relay.is_acknowledged(900).await;
    assert_eq!(bridge.metric("source_received_total{source=\"it\"}").await, 900.0);
}

async fn nothing_is_acknowledged_before_the_answer<B: Broker>(lines: &'static str) {
    let relay = Relay::<B>::open(lines).await;
    let bridge = relay.setup("").start_ready().await;
    signal(relay.emulator.pid(), "STOP");
    relay.broker.produce(5_000, numbered(0..30, 3)).await;
    let held = relay.broker.in_flight_of(30, 30);
    bridge.metric_is(IN_FLIGHT, |v| v == held).await;
    // Offsets are committed every second; a PUBACK would be there at once.
    let until = Instant::now() + Duration::from_millis(2_500);
    while Instant::now() < until {
        assert_eq!(relay.broker.acknowledged().await, 0);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    signal(relay.emulator.pid(), "CONT");
    relay.is_acknowledged(30).await;
    assert_eq!(relay.is_relayed(&bridge, 30, 3).await, 0);
}

async fn what_can_not_be_published_is_kept_and_its_neighbours_go_on<B: Broker>(
    lines: &'static str,
) {
    let relay = Relay::<B>::open(lines).await;
    let setup = relay.setup("");
    let bridge = setup.start_ready().await;
    let mut messages = numbered(0..20, 1);
    messages.insert(7, Sent { key: 0, payload: b"no json".to_vec() });
    let bytes = if B::CARRIES_BYTES { &[0xff][..] } else { b"nor this" };
    messages.insert(13, Sent { key: 0, payload: bytes.to_vec() });
    relay.broker.produce(5_000, messages).await;
    assert_eq!(relay.is_relayed(&bridge, 20, 0).await, 0);
    relay.is_acknowledged(22).await;
    let rejects = setup.rejects();
    let payloads: Vec<_> =
        rejects.iter().map(|r| (&r["payload"], &r["payload_base64"], &r["source"])).collect();
    let (it, none) = (json!("it"), Value::Null);
    let (text, encoded) = (json!("nor this"), json!("/w=="));
    let second = if B::CARRIES_BYTES { (&none, &encoded, &it) } else { (&text, &none, &it) };
    assert_eq!(payloads, [(&json!("no json"), &none, &it), second]);
}

/// A task that panics gives its message back, and does not jam the source.
async fn what_is_given_back_comes_again_with_what_is_behind_it<B: Broker>(lines: &'static str) {
    // The source runs in this process.
    if runs_elsewhere_with(B::VARIABLES) {
        return;
    }
    let relay = Relay::<B>::open(lines).await;
    let text = fs::read_to_string(relay.setup("").file("bridge.toml")).unwrap();
    let loaded = config::parse(&text, Path::new("bridge.toml"), &Environment::of_process());
    let source = loaded.unwrap().config.sources.remove(0);
    let (metrics, health, shutdown) = (Metrics::new(), Health::default(), Shutdown::new());
    let (numbers, part) = (metrics.source("it"), health.register("source it", "connecting"));
    let (deliveries, mut queue) = mpsc::unbounded_channel();
    let intake = Intake::new(move |delivery| drop(deliveries.send(delivery)));
    let stop = shutdown.clone();
    let made = source::build(&source, &metrics, part, source::Begin::Start).await.unwrap();
    let run = tokio::spawn(async move { made.run(intake, stop).await.unwrap() });
    health.all_ready().await;
    relay.broker.produce(5_000, numbered(0..20, 1)).await;
    let mut sequence = Vec::new();
    let mut panicked = false;
    let all_came = |sequence: &[u64]| {
        let last = if B::GIVES_BACK_ALONE { 7 } else { 19 };
        sequence.contains(&7) && sequence.contains(&19) && sequence.last() == Some(&last)
    };
    while !all_came(&sequence) {
        let delivery = tokio::time::timeout(PATIENCE, queue.recv()).await.unwrap().unwrap();
        let event: Value = serde_json::from_slice(&delivery.message().payload).unwrap();
        let seq = event["seq"].as_u64().unwrap();
        if seq == 7 && !panicked {
            panicked = true;
            let task = tokio::spawn(async move {
                let _held = delivery;
                panic!("a bug, on purpose");
            });
            assert!(task.await.unwrap_err().is_panic());
            continue;
        }
        sequence.push(seq);
        delivery.settle(Outcome::Accepted(Done::Published));
    }
    assert_eq!(sequence.iter().filter(|s| **s == 7).count(), 1);
    let again = sequence.iter().position(|s| *s == 7).unwrap();
    let behind = if B::GIVES_BACK_ALONE { 8 } else { 20 };
    assert_eq!(sequence[again..], (7..behind).collect::<Vec<_>>(), "{sequence:?}");
    shutdown.start_drain();
    run.await.unwrap();
    relay.is_acknowledged(20).await;
    assert_eq!(numbers.settled[usize::from(Outcome::Released.rank())].get(), 1);
}

async fn the_limit_in_flight_holds<B: Broker>(lines: &'static str) {
    let relay = Relay::<B>::open(lines).await;
    let bridge = relay.setup("max_in_flight = 50").start_ready().await;
    signal(relay.emulator.pid(), "STOP");
    relay.broker.produce(5_000, numbered(0..500, 5)).await;
    let most = relay.broker.in_flight_of(50, 500);
    bridge.metric_is(IN_FLIGHT, |v| v == most).await;
    for _ in 0..20 {
        assert!(bridge.metric(IN_FLIGHT).await <= most);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    signal(relay.emulator.pid(), "CONT");
    assert_eq!(relay.is_relayed(&bridge, 500, 0).await, 0, "some came twice");
    relay.is_acknowledged(500).await;
}

async fn stopped_under_load_nothing_comes_twice<B: Broker>(lines: &'static str) {
    const COUNT: u64 = 6_000;
    let relay = Relay::<B>::open(lines).await;
    let setup = relay.setup("");
    let mut bridge = setup.start_ready().await;
    let stop = async {
        for _ in 0..2 {
            relay.ledger.reaches(relay.ledger.len() + 500, PATIENCE).await;
            bridge.signal("TERM");
            let status = bridge.ended(Duration::from_secs(25)).await;
            assert_eq!(status.code(), Some(0), "{}", bridge.log());
            assert!(relay.ledger.len() < COUNT as usize, "stopped after the load");
            bridge = setup.start_ready().await;
        }
    };
    tokio::join!(relay.broker.produce(1_000, numbered(0..COUNT, 30)), stop);
    assert_eq!(relay.is_relayed(&bridge, COUNT, 0).await, 0, "some came twice");
}

async fn killed_under_load_nothing_is_lost<B: Broker>(lines: &'static str) {
    const COUNT: u64 = 6_000;
    let relay = Relay::<B>::open(lines).await;
    let setup = relay.setup("");
    let mut bridge = Some(setup.start_ready().await);
    let kill = async {
        for _ in 0..2 {
            relay.ledger.reaches(relay.ledger.len() + 500, PATIENCE).await;
            bridge.take().unwrap().kill();
            assert!(relay.ledger.len() < COUNT as usize, "killed after the load");
            bridge = Some(setup.start().await);
        }
    };
    tokio::join!(relay.broker.produce(1_000, numbered(0..COUNT, 30)), kill);
    let repeats = relay.is_relayed(&bridge.unwrap(), COUNT, 2).await;
    assert!(repeats > 0, "nothing was unacknowledged at a kill: it proves nothing");
}

/// T04: longer than the broker waits for a sign of it, with messages in flight. In the long tier a minute.
async fn a_bridge_that_froze_goes_on<B: Broker>(lines: &'static str) {
    let seconds = if std::env::var_os("LONG_TESTS").is_some() { 60 } else { 9 };
    let relay = Relay::<B>::open(lines).await;
    let bridge = relay.setup(&format!("{}\nmax_in_flight = 200", B::IMPATIENT)).start_ready().await;
    signal(relay.emulator.pid(), "STOP");
    relay.broker.produce(5_000, numbered(0..500, 5)).await;
    bridge.metric_is(IN_FLIGHT, |v| v > 0.0).await;
    bridge.signal("STOP");
    // Nothing of a frozen process can be awaited.
    let thaw = tokio::time::sleep(Duration::from_secs(seconds));
    tokio::join!(relay.broker.produce(5_000, numbered(500..1_000, 5)), thaw);
    assert_eq!(relay.broker.acknowledged().await, 0, "nothing was answered");
    bridge.signal("CONT");
    signal(relay.emulator.pid(), "CONT");
    // A bridge that slept past its `timeout` sends a key's request that was out again, and the endpoint has taken it.
    let timed_out = usize::from(seconds >= 10);
    let repeats = relay.is_relayed(&bridge, 1_000, 1 + timed_out).await;
    // What was in flight comes again: a window of it, what a broker without one sent all the same, and those requests.
    let borne = bridge.metric("source_over_limit_total{source=\"it\"}").await;
    let requests = bridge.metric("ambiguous_total{api=\"main\"}").await;
    let most = 200.0 + borne + 5.0 * requests;
    println!("frozen for {seconds} s: {repeats} repeats, {most} explained");
    assert!(repeats as f64 <= most, "{repeats} repeats, {most} explained");
    relay.is_acknowledged(1_000).await;
    bridge.ready().await;
}

async fn a_broker_that_was_killed_is_found_again<B: Broker>(lines: &'static str) {
    let mut relay = Relay::of(B::start(lines, true).await);
    let bridge = relay.setup("").start_ready().await;
    for round in 0..2 {
        relay.broker.produce(2_000, numbered(round * 300..(round + 1) * 300, 6)).await;
        relay.broker.kill().await;
        bridge.metric_is("source_connected{source=\"it\"}", |v| v == 0.0).await;
        assert_eq!(bridge.get("/readyz").await.0, 503);
        relay.broker.restart().await;
        bridge.ready().await;
    }
    relay.is_relayed(&bridge, 600, 2).await;
    assert!(bridge.metric("source_reconnects_total{source=\"it\"}").await >= 2.0);
}

async fn what_is_known_of_a_message_reaches_the_route<B: Broker>(lines: &'static str) {
    let relay = Relay::<B>::open(lines).await;
    let metadata = relay.broker.metadata();
    let setup = relay.setup_of("", "", metadata.route, "");
    let bridge = setup.start_ready().await;
    let messages =
        ["no json", "{\"id\":1}"].map(|payload| Sent { key: 7, payload: payload.into() });
    relay.broker.produce(5_000, messages.to_vec()).await;
    relay.ledger.has_ids(1, PATIENCE).await;
    relay.is_acknowledged(2).await;
    assert_eq!(relay.ledger.read()[0].channel, metadata.channel);
    let [reject] = &setup.rejects()[..] else { panic!("{:?}", setup.rejects()) };
    for (name, value) in metadata.record.as_object().unwrap() {
        assert_eq!(&reject[name], value, "{name} of {reject}");
    }
    drop(bridge);
}

/// T03.
async fn a_dead_endpoint_ends_the_drain_at_the_grace_and_loses_nothing<B: Broker>(
    lines: &'static str,
) {
    let mut relay = Relay::<B>::open(lines).await;
    let address = relay.emulator.host().to_owned();
    let setup = relay.setup_of(
        "",
        "timeout = \"1s\"",
        "channel = \"/it/dev-{json.key}\"\n",
        "[shutdown]\ngrace = \"2s\"\n",
    );
    let mut bridge = setup.start_ready().await;
    signal(relay.emulator.pid(), "KILL");
    relay.broker.produce(5_000, numbered(0..100, 4)).await;
    let held = relay.broker.in_flight_of(100, 100);
    bridge.metric_is(IN_FLIGHT, |v| v == held).await;
    let asked = Instant::now();
    bridge.signal("TERM");
    let status = bridge.ended(PATIENCE).await;
    assert_eq!(status.code(), Some(1));
    assert!(asked.elapsed() >= Duration::from_secs(2), "the grace was not used");
    assert!(bridge.log().contains("drain was not done"), "{}", bridge.log());

    // The same, with somebody in a hurry.
    let mut bridge = setup.start().await;
    bridge.metric_is(IN_FLIGHT, |v| v == held).await;
    bridge.signal("TERM");
    until("draining", PATIENCE, async || bridge.log().contains("draining").then_some(())).await;
    bridge.signal("TERM");
    assert_eq!(bridge.ended(PATIENCE).await.code(), Some(130));
    assert_eq!(relay.broker.acknowledged().await, 0);

    let path = relay.ledger.path.to_str().unwrap();
    relay.emulator = Emulator::start_at(&address, &["--ledger", path]);
    let bridge = setup.start_ready().await;
    // Nothing was accepted before, so nothing comes twice.
    assert_eq!(relay.is_relayed(&bridge, 100, 0).await, 0);
    relay.is_acknowledged(100).await;
}
