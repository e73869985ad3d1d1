//! What becomes of messages under way when their partition is taken away or read again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::json;

use crate::support::PATIENCE;
use crate::support::bridge::Setup;
use crate::support::kafka::Kafka;
use crate::support::ledger::Line;
use crate::support::shop::{IN_FLIGHT, Shop, repeated, stop};
use crate::support::until;

/// A part that breaks off with a message in its hands gives it back: its partition is read again from
/// there, and nothing behind it is committed before.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_was_given_back_is_read_again() {
    let kafka = Kafka::shared().await;
    let shop = Shop::open(kafka, "given-back", 4).await;
    let setup = shop.setup("").env("APPSYNC_BRIDGE_SEEDED_BUG", "DropsMessages");
    let bridge = setup.start_ready().await;
    let watch = shop.watch(Duration::from_millis(50));
    let load = shop.load(kafka, 800, 40);
    let metric = |name| format!("source_{name}_total{{source=\"shop\"}}");
    bridge.metric_is(&metric("rewinds"), |v| v >= 10.0).await;
    let count = load.stop().await;
    let accepted = shop.all_relayed(count).await;
    bridge.metric_is(IN_FLIGHT, |v| v == 0.0).await;
    let (rewinds, late) =
        (bridge.metric(&metric("rewinds")).await, bridge.metric(&metric("late_settlements")).await);
    println!(
        "{count} messages, {rewinds} rewinds, {late} settled late, {} repeats, {} samples",
        accepted.len() as u64 - count,
        watch.end().await
    );
    assert_eq!(bridge.metric("source_paused_partitions{source=\"shop\"}").await, 0.0);
    let ends = bridge.settled("shop").await;
    assert!(ends["published"] >= count as f64 && ends["released"] > 0.0, "{ends:?}");
    assert!(bridge.log().contains("is read again from there"), "{}", bridge.log());
    stop(bridge).await;
}

/// A bridge whose messages all go to one channel, so that a batch has messages of every partition.
fn setup(shop: &Shop, name: &str) -> Setup {
    let tables = format!(
        "[source.shop]\ntype = \"kafka\"\nbrokers = \"{}\"\ngroup = \"{}\"\ntopics = \"{}\"\n\
         drain_timeout = \"1s\"\noptions = {{ \"client.id\" = \"{name}\" }}\n\
         [route.data]\nfrom = \"shop\"\nchannel = \"/shop/all\"\n",
        shop.broker, shop.topic, shop.topic
    );
    Setup::of(&shop.emulator.endpoint, "timeout = \"25s\"", &tables, "")
}

/// What each request brought, in the order in which they were taken.
fn requests(lines: &[Line]) -> BTreeMap<&str, Vec<u64>> {
    let mut requests = BTreeMap::<&str, Vec<u64>>::new();
    for line in lines {
        requests.entry(&line.request).or_default().push(line.number("id"));
    }
    requests
}

/// Under load the endpoint takes full batches and no longer answers; a second member takes half of the
/// partitions away meanwhile, and their drain is over before the answers come.
#[tokio::test(flavor = "multi_thread")]
async fn a_move_in_the_middle_of_full_batches_repeats_only_what_moved() {
    const PARTITIONS: u64 = 12;
    let kafka = Kafka::shared().await;
    // Slow enough for what is fetched at once to be little of each partition, so that batches mix them.
    let shop = Shop::with(kafka, "moves", PARTITIONS, &["--latency", "100ms"]).await;
    let watch = shop.watch(Duration::from_millis(50));
    let setups = ["first", "second"].map(|name| setup(&shop, name));
    let first = setups[0].start_ready().await;
    let load = shop.load(kafka, 400, 480);
    shop.ledger.reaches(1_000, PATIENCE).await;
    shop.emulator.set_faults(json!([{ "fault": { "hang": { "when": "after" } } }])).await;
    // What is taken from now on is answered at the end only.
    let answered = shop.ledger.len();
    shop.ledger.reaches(answered + 25, PATIENCE).await;
    let second = setups[1].start_ready().await;
    until("the first one has let go", PATIENCE, async || {
        (first.lines(&["before all of their messages were settled"]).len() == 1).then_some(())
    })
    .await;
    let under_way = shop.ledger.lines().split_off(answered);
    let in_flight = first.metric(IN_FLIGHT).await;
    let moved: BTreeSet<i32> = until("both have their share", PATIENCE, async || {
        let shares = shop.shares().await;
        (shares.len() == 2).then(|| shares["second"].iter().copied().collect())
    })
    .await;
    until("the second one has published again", PATIENCE, async || {
        (!repeated(&shop.ledger.read(), PARTITIONS).is_empty()).then_some(())
    })
    .await;
    shop.emulator.set_faults(json!([])).await;
    let count = load.stop().await;
    let accepted = shop.all_relayed(count).await;
    let late = first.metric("source_late_settlements_total{source=\"shop\"}").await;
    let twice = repeated(&accepted, PARTITIONS);
    let all = requests(&under_way);
    let full = all.values().filter(|ids| ids.len() == 5).count();
    let partition = |id: &u64| i32::try_from(id % PARTITIONS).unwrap();
    let mixed = all.values().filter(|ids| {
        let moves = ids.iter().filter(|id| moved.contains(&partition(id))).count();
        moves > 0 && moves < ids.len()
    });
    println!(
        "{count} messages; {} of {} requests full, {} with both kinds, {in_flight} in flight, {late} settled late; moved {moved:?}, {} repeats in {twice:?}; {} samples",
        full,
        all.len(),
        mixed.clone().count(),
        accepted.len() as u64 - count,
        watch.end().await
    );
    assert_eq!(moved.len(), 6);
    assert!(full >= 3 && mixed.count() >= 1, "{all:?}");
    assert!(late > 0.0, "nothing was under way when the partitions went");
    // All that was under way of them, and nothing else but what the second one sent before the answers.
    assert_eq!(twice, moved);
    let mut times = BTreeMap::<u64, usize>::new();
    for event in &accepted {
        *times.entry(event.event["id"].as_u64().unwrap()).or_default() += 1;
    }
    let under_way = under_way.iter().map(|line| line.number("id"));
    for id in under_way.filter(|id| moved.contains(&partition(id))) {
        assert_eq!(times[&id], 2, "{id} was under way when its partition moved");
    }
    assert!(times.values().all(|times| *times <= 2));
    stop(first).await;
    stop(second).await;
}
