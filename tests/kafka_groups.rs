//! What is lost, doubled or reordered when members of a group come, go, freeze and die: nothing but
//! repeats, and those only where they are explained.

use std::time::{Duration, Instant};

use crate::support::bridge::{Bridge, Setup};
use crate::support::kafka::Kafka;
use crate::support::shop::{Shop, stop};

/// Sessions as short as these tests are.
const SHORT: &str = "session_timeout = \"6s\"\ndrain_timeout = \"5s\"\n";

/// Waits until `count` more events were accepted.
async fn more(shop: &Shop, count: usize) {
    shop.ledger.reaches(shop.ledger.len() + count, Duration::from_secs(30)).await;
}

/// T05. Each kill moves partitions to others, and the restart moves some back.
#[tokio::test(flavor = "multi_thread")]
async fn three_replicas_of_which_one_after_another_is_killed_lose_nothing() {
    const RATE: u64 = 2_000;
    let long = std::env::var_os("LONG_TESTS").is_some();
    let (count, every) = if long { (200_000, 10) } else { (60_000, 5) };
    // Sessions that end between two kills: the group never rests otherwise.
    let source = "session_timeout = \"2500ms\"\ndrain_timeout = \"2s\"\n\
                  options = { \"heartbeat.interval.ms\" = 500 }";
    let kafka = Kafka::shared().await;
    let shop = Shop::open(kafka, "replicas", 12).await;
    let setups: Vec<_> = (0..3).map(|_| shop.setup(source)).collect();
    let mut bridges = Vec::new();
    for setup in &setups {
        bridges.push(setup.start().await);
    }
    for bridge in &bridges {
        bridge.ready().await;
    }
    let watch = shop.watch(Duration::from_millis(100));
    let began = Instant::now();
    let producer = tokio::spawn(shop.produce(kafka, 0..count, RATE, 48));
    let mut clock = tokio::time::interval(Duration::from_secs(every));
    clock.tick().await;
    let mut kills = 0;
    loop {
        clock.tick().await;
        if producer.is_finished() {
            break;
        }
        bridges.remove(0).kill();
        bridges.push(setups[kills % 3].start().await);
        kills += 1;
    }
    producer.await.unwrap();
    let repeats = shop.is_relayed_by_two(count).await;
    let samples = watch.end().await;
    println!(
        "{count} messages, {kills} kills, {repeats} repeats, {samples} samples, {:?} in all",
        began.elapsed()
    );
    assert!(kills as u64 >= count / RATE / every - 1, "{kills} kills");
    assert!(repeats > 0, "nothing was uncommitted at a kill: it proves nothing");
    for bridge in bridges {
        stop(bridge).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_rebalances_loses_nothing_cooperative() {
    let quick = "options = { \"heartbeat.interval.ms\" = 500 }";
    storm("storm-cooperative", &format!("{SHORT}{quick}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_rebalances_loses_nothing_eager() {
    let eager = "options = { \"heartbeat.interval.ms\" = 500, \"partition.assignment.strategy\" = \"range\" }";
    storm("storm-eager", &format!("{SHORT}{eager}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_rebalances_loses_nothing_consumer_protocol() {
    storm("storm-consumer", "protocol = \"consumer\"\ndrain_timeout = \"5s\"\n").await;
}

/// Members join and leave in an orderly way under load: nothing is lost, and nothing comes twice.
async fn storm(name: &str, source: &str) {
    const COUNT: u64 = 24_000;
    const ROUNDS: usize = 4;
    let kafka = Kafka::shared().await;
    let shop = Shop::open(kafka, name, 6).await;
    let setups: Vec<Setup> = (0..3).map(|_| shop.setup(source)).collect();
    let staying = setups[0].start_ready().await;
    let watch = shop.watch(Duration::from_millis(50));
    let producer = tokio::spawn(shop.produce(kafka, 0..COUNT, 1_200, 24));
    let mut guests: Vec<Bridge> = Vec::new();
    let began = Instant::now();
    for round in 0..ROUNDS {
        let setup = &setups[1 + round % 2];
        if guests.len() > 1 {
            stop(guests.remove(0)).await;
        }
        guests.push(setup.start_ready().await);
        more(&shop, 800).await;
    }
    while let Some(guest) = guests.pop() {
        stop(guest).await;
        more(&shop, 300).await;
    }
    assert!(!producer.is_finished(), "the storm outlasted the load: {:?}", began.elapsed());
    producer.await.unwrap();
    let rebalances = staying.metric("source_rebalances_total{source=\"shop\"}").await;
    assert!(rebalances >= ROUNDS as f64, "{rebalances} rebalances");
    let repeats = shop.is_relayed(COUNT, 0).await;
    println!(
        "{name}: {rebalances} rebalances at the one that stayed, {} samples",
        watch.end().await
    );
    assert_eq!(repeats, 0, "an orderly move repeats nothing");
    assert_eq!(staying.metric("source_paused_partitions{source=\"shop\"}").await, 0.0);
    stop(staying).await;
}

/// A member with a name of its own, so that a restart moves nothing.
const STATIC: &str =
    "session_timeout = \"10s\"\ndrain_timeout = \"5s\"\ngroup_instance_id = \"bridge-0\"\n";

#[tokio::test(flavor = "multi_thread")]
async fn killed_five_times_nothing_is_lost_and_it_is_back_at_once() {
    const COUNT: u64 = 12_000;
    const KILLS: usize = 5;
    let kafka = Kafka::shared().await;
    let shop = Shop::open(kafka, "killed", 4).await;
    let setup = shop.setup(STATIC);
    let mut bridge = setup.start_ready().await;
    let watch = shop.watch(Duration::from_millis(100));
    let producer = tokio::spawn(shop.produce(kafka, 0..COUNT, 1_000, 40));
    let mut back = Vec::new();
    for kill in 1..=KILLS {
        more(&shop, 800).await;
        assert!(!producer.is_finished(), "kill {kill} came after the load");
        bridge.kill();
        let (killed, before) = (Instant::now(), shop.ledger.len());
        bridge = setup.start().await;
        shop.ledger.reaches(before + 1, Duration::from_secs(10)).await;
        back.push(killed.elapsed());
    }
    producer.await.unwrap();
    let repeats = shop.is_relayed(COUNT, KILLS).await;
    watch.end().await;
    println!("{COUNT} messages, {KILLS} kills, {repeats} repeats; the first event after {back:?}");
    assert!(repeats > 0, "nothing was uncommitted at a kill: it proves nothing");
    assert!(back.iter().all(|back| *back < Duration::from_secs(5)), "{back:?}");
    stop(bridge).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frozen_longer_than_its_session_it_commits_nothing_of_others() {
    const COUNT: u64 = 12_000;
    let kafka = Kafka::shared().await;
    let shop = Shop::open(kafka, "frozen", 4).await;
    let setups = [shop.setup(SHORT), shop.setup(SHORT)];
    let frozen = setups[0].start_ready().await;
    let other = setups[1].start_ready().await;
    let watch = shop.watch(Duration::from_millis(100));
    let producer = tokio::spawn(shop.produce(kafka, 0..COUNT, 600, 40));
    more(&shop, 500).await;
    frozen.signal("STOP");
    tokio::time::sleep(Duration::from_secs(9)).await;
    let taken = other.metric("source_rebalances_total{source=\"shop\"}").await;
    frozen.signal("CONT");
    more(&shop, 500).await;
    assert!(!producer.is_finished(), "the freeze outlasted the load");
    producer.await.unwrap();
    let repeats = shop.is_relayed_by_two(COUNT).await;
    watch.end().await;
    println!("{repeats} repeats; {taken} rebalances at the other one before the thaw");
    frozen.ready().await;
    stop(frozen).await;
    stop(other).await;
}
