//! The order of a subject across a crash (T17), and what replicas of one consumer do.

use std::path::Path;
use std::time::Duration;

use appsync_bridge::config::{self, Environment};
use appsync_bridge::delivery::Intake;
use appsync_bridge::health::Health;
use appsync_bridge::metrics::Metrics;
use appsync_bridge::shutdown::Shutdown;
use appsync_bridge::source;
use tokio::sync::mpsc;

use super::{IN_FLIGHT, Site};
use crate::support::ledger::{assert_first_in_order, assert_order, ids};
use crate::support::{PATIENCE, signal};

/// Kills the bridge in the middle of a load, `kills` times, each time with hundreds of messages that are not
/// acknowledged, and starts it at once.
async fn is_kept(site: &Site, source: &str, kills: usize, said: &str) {
    const COUNT: u64 = 12_000;
    /// In the endpoint's requests that it had not read when the bridge was killed.
    const UNREAD: usize = 64 * 5;
    let setup = site.setup(source);
    let mut bridge = Some(setup.start_ready().await);
    let watch = site.watch();
    let mut most = 0;
    let kill = async {
        for _ in 0..kills {
            site.ledger.reaches(site.ledger.len() + 700, PATIENCE).await;
            signal(site.emulator.pid(), "STOP");
            let running = bridge.take().unwrap();
            running.metric_is(IN_FLIGHT, |v| v >= 200.0).await;
            running.kill();
            let floor = site.stream.consumer().await.unwrap().ack_floor.stream_sequence;
            // Messages are numbered from 0, and sequences from 1.
            let again = ids(&site.ledger.read()).into_iter().filter(|id| *id >= floor).count();
            most += again + UNREAD;
            signal(site.emulator.pid(), "CONT");
            let again = setup.start_ready().await;
            assert_eq!(again.lines(&[said]).len(), 1, "{}", again.log());
            bridge = Some(again);
        }
    };
    tokio::join!(site.produce(1_500, 0..COUNT, 30), kill);
    let bridge = bridge.unwrap();
    let repeats = site.is_relayed(&bridge, COUNT).await;
    println!("{repeats} repeats of {most} at most");
    assert!(repeats <= most, "{repeats} repeats, and {most} were accepted and not acknowledged");
    assert_order(&site.ledger.read(), kills);
    watch.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_begins_again_behind_what_was_acknowledged() {
    let site = Site::open("").await;
    Box::pin(is_kept(&site, "", 2, "the consumer begins again")).await;
}

/// Its server gives messages to requests of a process that is gone, for a while.
#[tokio::test(flavor = "multi_thread")]
async fn requests_of_a_former_process_take_nothing_from_the_next() {
    let site = Site::open("leafnodes: { listen: \"127.0.0.1:-1\" }").await;
    Box::pin(is_kept(&site, "", 2, "the consumer begins again")).await;
}

/// As on a server before 2.14.
const NO_RESET: &str = "authorization: { default_permissions: { publish: { deny: \"$JS.API.CONSUMER.RESET.>\" } }, \
                        users: [ { user: \"u\", password: \"p\" } ] }\nno_auth_user: u";

#[tokio::test(flavor = "multi_thread")]
async fn what_is_newer_waits_where_the_consumer_can_not_begin_again() {
    let site = Site::open(NO_RESET).await;
    Box::pin(is_kept(&site, "ack_wait = \"3s\"", 2, "newer ones wait for them")).await;
}

/// Where the bytes are the narrower limit, too.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_newer_leaves_the_older_ones_their_bytes() {
    let site = Site::open(NO_RESET).await;
    let source = "ack_wait = \"3s\"\nmax_in_flight_bytes = \"100KB\"";
    Box::pin(is_kept(&site, source, 2, "newer ones wait for them")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_newer_waits_while_the_server_is_away_too() {
    const AWAY: Duration = Duration::from_secs(9);
    let mut site = Site::open(NO_RESET).await;
    let setup = site.setup("ack_wait = \"6s\"\nmax_in_flight = 500");
    let bridge = setup.start_ready().await;
    signal(site.emulator.pid(), "STOP");
    site.produce(100_000, 0..300, 3).await;
    bridge.metric_is(IN_FLIGHT, |v| v == 300.0).await;
    bridge.kill();
    signal(site.emulator.pid(), "CONT");
    site.produce(100_000, 300..600, 3).await;
    let bridge = setup.start_ready().await;
    assert_eq!(bridge.lines(&["newer ones wait for them"]).len(), 1, "{}", bridge.log());
    bridge.metric_is(IN_FLIGHT, |v| v >= 100.0).await;
    let early = ids(&site.ledger.read()).into_iter().filter(|id| *id >= 300).count();
    assert_eq!(early, 0, "newer ones did not wait until now");
    site.stream.nats.kill();
    // Longer than anything is waited for that can come.
    tokio::time::sleep(AWAY).await;
    site.stream.nats.restart().await;
    site.is_relayed(&bridge, 600).await;
    assert_order(&site.ledger.read(), 1);
    assert!(bridge.lines(&["did not come within"]).is_empty(), "{}", bridge.log());
}

/// The server would go on in its list of last messages behind those that were delivered, or go through all that were
/// replaced.
#[tokio::test(flavor = "multi_thread")]
async fn of_last_messages_none_is_lost_and_none_comes_that_was_replaced() {
    for (keys, in_flight) in [(200, 10), (5, 1000)] {
        let site = Site::open("").await;
        site.produce(100_000, 0..keys * 3, keys).await;
        let source = format!(
            "deliver = \"last-per-subject\"\nack_wait = \"2s\"\nmax_in_flight = {in_flight}"
        );
        let setup = site.setup(&source);
        signal(site.emulator.pid(), "STOP");
        let bridge = setup.start_ready().await;
        let most = keys.min(in_flight) as f64;
        bridge.metric_is(IN_FLIGHT, |v| v == most).await;
        bridge.kill();
        signal(site.emulator.pid(), "CONT");
        let bridge = setup.start_ready().await;
        site.ledger.has_ids(keys as usize, PATIENCE).await;
        bridge.metric_is(IN_FLIGHT, |v| v == 0.0).await;
        let newest = (keys * 2..keys * 3).collect();
        assert_eq!(ids(&site.ledger.read()), newest, "{keys} keys\n{}", bridge.log());
        assert_eq!(bridge.metric("source_consumer_resets_total{source=\"it\"}").await, 0.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_bridge_of_a_consumer_for_one_says_so() {
    let site = Site::open("").await;
    let first = site.setup("").start_ready().await;
    let second = site.setup("").start_ready().await;
    assert_eq!(second.lines(&["another client asks this consumer for messages"]).len(), 1);
    assert!(first.lines(&["another client"]).is_empty(), "it was alone");
}

/// T05.
#[tokio::test(flavor = "multi_thread")]
async fn replicas_of_one_consumer_lose_nothing_when_one_is_killed() {
    const COUNT: u64 = 9_000;
    let site = Site::open("").await;
    let setups = [(); 5].map(|()| site.setup("consumers = \"many\"\nack_wait = \"2s\""));
    let watch = site.watch();
    let mut bridges = Vec::new();
    for setup in &setups[..3] {
        bridges.push(setup.start_ready().await);
    }
    let kill = async {
        for setup in &setups[3..] {
            site.ledger.reaches(site.ledger.len() + 2_000, PATIENCE).await;
            bridges.remove(0).kill();
            bridges.push(setup.start_ready().await);
        }
    };
    tokio::join!(site.produce(1_500, 0..COUNT, 30), kill);
    for bridge in &bridges {
        assert!(bridge.lines(&["newer ones wait"]).is_empty());
        assert!(bridge.lines(&["begins again"]).is_empty());
    }
    site.is_relayed(&bridges[0], COUNT).await;
    let took = bridges[0].metric("source_received_total{source=\"it\"}").await;
    assert!(took > 0.0, "it has no share");
    watch.end().await;
}

/// Where nothing was ever acknowledged, too: what is given back is with the server when the source has ended, and need
/// not wait for its `ack_wait`.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_done_at_a_stop_is_given_back_before_it_ends() {
    let site = Site::open("").await;
    let setup = site.setup("consumers = \"many\"\nack_wait = \"1h\"");
    let text = std::fs::read_to_string(setup.file("bridge.toml")).unwrap();
    site.produce(5_000, 0..500, 10).await;
    // A process ends with its tasks: so does a runtime.
    let source = move || {
        let loaded = config::parse(&text, Path::new("bridge.toml"), &Environment::of_process());
        let source = loaded.unwrap().config.sources.remove(0);
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let (metrics, health, stop) = (Metrics::new(), Health::default(), Shutdown::new());
            let made = source::build(
                &source,
                &metrics,
                health.register("it", "connecting"),
                source::Begin::Start,
            )
            .await;
            let (deliveries, mut queue) = mpsc::unbounded_channel();
            let intake = Intake::new(move |delivery| drop(deliveries.send(delivery)));
            let (made, until) = (made.unwrap(), stop.clone());
            let run = tokio::spawn(async move { made.run(intake, until).await.unwrap() });
            let mut held = Vec::new();
            while held.len() < 500 {
                held.push(tokio::time::timeout(PATIENCE, queue.recv()).await.unwrap().unwrap());
            }
            stop.start_drain();
            // The intake is dropped when the drain has begun.
            assert!(tokio::time::timeout(PATIENCE, queue.recv()).await.unwrap().is_none());
            drop(held);
            run.await.unwrap();
        });
        runtime.shutdown_background();
    };
    tokio::task::spawn_blocking(source).await.unwrap();
    let bridge = setup.start_ready().await;
    assert_eq!(site.is_relayed(&bridge, 500).await, 0);
}

/// Five of five: nothing twice, nothing newer before something older.
#[tokio::test(flavor = "multi_thread")]
async fn stopped_under_load_and_started_again_nothing_comes_twice_or_out_of_order() {
    const COUNT: u64 = 10_000;
    let site = Site::open("").await;
    let setup = site.setup("");
    let mut bridge = setup.start_ready().await;
    let stop = async {
        for _ in 0..5 {
            site.ledger.reaches(site.ledger.len() + 500, PATIENCE).await;
            bridge.signal("TERM");
            let status = bridge.ended(PATIENCE).await;
            assert_eq!(status.code(), Some(0), "{}", bridge.log());
            assert!(site.ledger.len() < COUNT as usize, "stopped after the load");
            bridge = setup.start_ready().await;
        }
    };
    tokio::join!(site.produce(1_000, 0..COUNT, 30), stop);
    assert_eq!(site.is_relayed(&bridge, COUNT).await, 0);
    assert_order(&site.ledger.read(), 0);
    assert_first_in_order(&site.ledger.read());
}
