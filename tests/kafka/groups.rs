//! What is lost, doubled or reordered when members of a group come, go, freeze and die: nothing but
//! repeats, and those only where they are explained.

use std::time::{Duration, Instant};

use crate::support::PATIENCE;
use crate::support::bridge::{Bridge, Setup};
use crate::support::kafka::Kafka;
use crate::support::shop::{Shop, repeated, stop};
use crate::support::until;

/// Sessions as short as these tests are.
const SHORT: &str = "session_timeout = \"6s\"\ndrain_timeout = \"5s\"\n";

/// Waits until `count` more events were accepted.
async fn more(shop: &Shop, count: usize) {
    shop.ledger.reaches(shop.ledger.len() + count, PATIENCE).await;
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
    const ROUNDS: usize = 4;
    let kafka = Kafka::shared().await;
    let shop = Shop::open(kafka, name, 6).await;
    let setups: Vec<Setup> = (0..3).map(|_| shop.setup(source)).collect();
    let staying = setups[0].start_ready().await;
    let watch = shop.watch(Duration::from_millis(50));
    let load = shop.load(kafka, 1_200, 24);
    let mut guests: Vec<Bridge> = Vec::new();
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
    let count = load.stop().await;
    let rebalances = staying.metric("source_rebalances_total{source=\"shop\"}").await;
    assert!(rebalances >= ROUNDS as f64, "{rebalances} rebalances");
    let repeats = shop.is_relayed(count, 0).await;
    println!(
        "{name}: {count} messages, {rebalances} rebalances at the one that stayed, {} samples",
        watch.end().await
    );
    assert_eq!(repeats, 0, "an orderly move repeats nothing");
    assert_eq!(staying.metric("source_paused_partitions{source=\"shop\"}").await, 0.0);
    stop(staying).await;
}

/// A member with a name of its own, so that a restart moves nothing.
const STATIC: &str =
    "session_timeout = \"10s\"\ndrain_timeout = \"5s\"\ngroup_instance_id = \"bridge-0\"\n";

/// Kills a bridge at a moment when some of what it published is not committed; gives how much.
async fn kill_owing(shop: &Shop, bridge: Bridge) -> u64 {
    until("something is published and not committed", PATIENCE, async || {
        bridge.signal("STOP");
        // A commit that is on its way may still arrive, but not for all of so many.
        let owing = shop.uncommitted().await >= 20;
        if !owing {
            bridge.signal("CONT");
        }
        owing.then_some(())
    })
    .await;
    bridge.kill();
    shop.uncommitted().await
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_five_times_nothing_is_lost_and_it_is_back_at_once() {
    const KILLS: usize = 5;
    let kafka = Kafka::shared().await;
    let shop = Shop::open(kafka, "killed", 4).await;
    let setup = shop.setup(STATIC);
    let mut bridge = setup.start_ready().await;
    let watch = shop.watch(Duration::from_millis(100));
    let load = shop.load(kafka, 1_000, 40);
    let (mut back, mut owing) = (Vec::new(), Vec::new());
    for _ in 0..KILLS {
        more(&shop, 800).await;
        owing.push(kill_owing(&shop, bridge).await);
        let (killed, before) = (Instant::now(), shop.ledger.len());
        bridge = setup.start().await;
        shop.ledger.reaches(before + 1, PATIENCE).await;
        back.push(killed.elapsed());
    }
    let count = load.stop().await;
    let repeats = shop.is_relayed(count, KILLS).await;
    watch.end().await;
    println!(
        "{count} messages, {KILLS} kills with {owing:?} not committed, {repeats} repeats; the first event after {back:?}"
    );
    assert!(owing.iter().all(|owing| *owing > 0), "a kill with nothing to repeat proves nothing");
    // What a kill leaves, the next one may find still uncommitted.
    assert!(Some(&(repeats as u64)) >= owing.iter().max(), "what was not committed comes again");
    stop(bridge).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_static_member_that_is_back_in_time_moves_no_partition() {
    let kafka = Kafka::shared().await;
    let shop = Shop::open(kafka, "back", 4).await;
    let setup = |name| {
        shop.setup(&format!(
            "session_timeout = \"30s\"\ndrain_timeout = \"5s\"\n\
             group_instance_id = \"{name}\"\noptions = {{ \"client.id\" = \"{name}\" }}\n"
        ))
    };
    let setups = [setup("killed"), setup("other")];
    let killed = setups[0].start_ready().await;
    let other = setups[1].start_ready().await;
    let load = shop.load(kafka, 600, 40);
    more(&shop, 300).await;
    let shares = shop.shares().await;
    assert_eq!(shares.values().map(Vec::len).collect::<Vec<_>>(), [2, 2]);
    let rebalances = "source_rebalances_total{source=\"shop\"}";
    let before = other.metric(rebalances).await;
    kill_owing(&shop, killed).await;
    let back = setups[0].start_ready().await;
    back.metric_is("source_received_total{source=\"shop\"}", |v| v > 100.0).await;
    assert_eq!(other.metric(rebalances).await, before, "the other one was asked to rebalance");
    assert_eq!(shop.shares().await, shares);
    let count = load.stop().await;
    let repeats = shop.is_relayed(count, 1).await;
    let moved = repeated(&shop.ledger.read(), 4);
    println!("{count} messages, {repeats} repeats in {moved:?}, of {shares:?}");
    assert!(repeats > 0 && moved.iter().all(|p| shares["killed"].contains(p)), "{moved:?}");
    stop(back).await;
    stop(other).await;
}

/// What `deploy/README.md` says of who is scaled away.
#[tokio::test(flavor = "multi_thread")]
async fn a_static_member_that_is_stopped_for_good_is_waited_for() {
    const SESSION: Duration = Duration::from_secs(6);
    let kafka = Kafka::shared().await;
    let shop = Shop::open(kafka, "fewer", 4).await;
    let setups = ["stopped", "other"].map(|name| {
        shop.setup(&format!(
            "session_timeout = \"6s\"\ndrain_timeout = \"2s\"\n\
             group_instance_id = \"{name}\"\noptions = {{ \"client.id\" = \"{name}\" }}\n"
        ))
    });
    let stopped = setups[0].start_ready().await;
    let other = setups[1].start_ready().await;
    until("each has its share", PATIENCE, async || {
        let shares = shop.shares().await;
        (shares.values().map(Vec::len).collect::<Vec<_>>() == [2, 2]).then_some(())
    })
    .await;
    stop(stopped).await;
    let left = Instant::now();
    until("the other one has everything", PATIENCE, async || {
        (shop.shares().await == [("other".to_owned(), vec![0, 1, 2, 3])].into()).then_some(())
    })
    .await;
    let waited = left.elapsed();
    println!("its partitions rested for {waited:?}");
    // It was last heard of at most a heartbeat, a third of the session, before its end.
    assert!(waited > SESSION / 2, "{waited:?}");
    stop(other).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frozen_longer_than_its_session_it_commits_nothing_of_others() {
    let kafka = Kafka::shared().await;
    let shop = Shop::open(kafka, "frozen", 4).await;
    let setups = ["frozen", "other"]
        .map(|name| shop.setup(&format!("{SHORT}options = {{ \"client.id\" = \"{name}\" }}")));
    let frozen = setups[0].start_ready().await;
    let other = setups[1].start_ready().await;
    let watch = shop.watch(Duration::from_millis(100));
    let load = shop.load(kafka, 600, 40);
    more(&shop, 500).await;
    let shares = shop.shares().await;
    assert!(shares["frozen"].len() == 2, "{shares:?}");
    frozen.signal("STOP");
    // Its session ends, and the other one takes over: all of it, and what was in flight.
    until("the other one has everything", PATIENCE, async || {
        (shop.shares().await == [("other".to_owned(), vec![0, 1, 2, 3])].into()).then_some(())
    })
    .await;
    more(&shop, 500).await;
    frozen.signal("CONT");
    more(&shop, 500).await;
    until("it has its share again", PATIENCE, async || {
        (shop.shares().await.get("frozen").map(Vec::len) == Some(2)).then_some(())
    })
    .await;
    let count = load.stop().await;
    let repeats = shop.is_relayed_by_two(count).await;
    watch.end().await;
    let of = repeated(&shop.ledger.read(), 4);
    println!("{count} messages, {repeats} repeats in partitions {of:?}, of {shares:?}");
    frozen.ready().await;
    stop(frozen).await;
    stop(other).await;
}
