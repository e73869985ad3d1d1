//! Where a group begins with `start = "latest"`: at the end, once. What is born while it lives begins with its
//! first message, whether the bridge runs then or not.

use std::collections::BTreeSet;

use serde_json::json;

use crate::support::PATIENCE;
use crate::support::bridge::{Bridge, Setup};
use crate::support::kafka::Kafka;
use crate::support::kafka::records::Record;
use crate::support::ledger::ids;
use crate::support::shop::{Shop, record, stop};
use crate::support::until;

const PROTOCOLS: [&str; 2] = ["classic", "consumer"];

/// A bridge that begins at the end and sees soon what is new; `topics` as in TOML.
fn latest(shop: &Shop, protocol: &str, topics: &str) -> Setup {
    // What a broker waits for a member that was killed; with the newer protocol that is the broker's to say.
    let session = match protocol {
        "classic" => "session_timeout = \"6s\"\ndrain_timeout = \"5s\"",
        _ => "",
    };
    let source = format!(
        "topics = {topics}\nstart = \"latest\"\nprotocol = \"{protocol}\"\n{session}\n\
         options = {{ \"topic.metadata.refresh.interval.ms\" = 500 }}"
    );
    shop.setup_of(&source, "")
}

/// One bridge after another of one group: the same topics, or others.
fn toml(topics: &[&str]) -> String {
    json!(topics).to_string()
}

async fn write(kafka: &Kafka, topic: &str, partition: i32, ids: std::ops::Range<u64>) {
    let producer = kafka.producer(&[("topic.metadata.refresh.interval.ms", "300")]);
    for id in ids {
        let record = record(id, 8).partition(partition);
        // A partition that was just added is not known everywhere at once.
        until("it is written", PATIENCE, async || producer.put(topic, &record).await.unwrap().ok())
            .await;
    }
}

/// Exactly these have come.
async fn came(shop: &Shop, expected: impl IntoIterator<Item = u64>) {
    let expected: BTreeSet<u64> = expected.into_iter().collect();
    let all = || ids(&shop.ledger.read()).into_iter().collect::<BTreeSet<u64>>();
    until(&format!("{expected:?} came"), PATIENCE, async || {
        all().is_superset(&expected).then_some(())
    })
    .await;
    assert_eq!(all(), expected);
}

/// How often partitions began where the group had no position.
async fn starts(bridge: &Bridge, at: &str) -> f64 {
    bridge.metric(&format!("source_partition_starts_total{{source=\"shop\",at=\"{at}\"}}")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_is_added_begins_with_its_first_message() {
    let kafka = Kafka::shared().await;
    for protocol in PROTOCOLS {
        let shop = Shop::open(kafka, "grown", 1).await;
        write(kafka, &shop.topic, 0, 900..905).await;
        let setup = latest(&shop, protocol, &toml(&[&shop.topic]));
        let bridge = setup.start_ready().await;
        assert_eq!(starts(&bridge, "end").await, 1.0);
        kafka.add_partitions(&shop.topic, 2).await;
        write(kafka, &shop.topic, 1, 0..20).await;
        came(&shop, 0..20).await;
        assert_eq!(starts(&bridge, "beginning").await, 1.0);
        stop(bridge).await;
        // While it is stopped; its messages have times from long ago.
        kafka.add_partitions(&shop.topic, 3).await;
        write(kafka, &shop.topic, 2, 20..21).await;
        let old = record(21, 8).partition(2).timestamp(1_700_000_000_000);
        kafka.producer(&[]).send(&shop.topic, [old]).await;
        let bridge = setup.start_ready().await;
        came(&shop, 0..22).await;
        stop(bridge).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_a_regular_expression_takes_begins_with_its_first_message() {
    let kafka = Kafka::shared().await;
    for protocol in PROTOCOLS {
        let shop = Shop::open(kafka, "born", 1).await;
        let of = |what: &str| format!("{}.{what}", shop.topic);
        kafka.create_topic(&of("old"), 1, &[]).await;
        write(kafka, &of("old"), 0, 900..905).await;
        let pattern = format!("^{}\\..*", shop.topic);
        let setup = latest(&shop, protocol, &toml(&[&pattern]));
        let bridge = setup.start_ready().await;
        kafka.create_topic(&of("new"), 2, &[]).await;
        write(kafka, &of("new"), 1, 0..10).await;
        came(&shop, 0..10).await;
        assert_eq!(
            (starts(&bridge, "end").await, starts(&bridge, "subscription").await),
            (1.0, 2.0)
        );
        stop(bridge).await;
        kafka.create_topic(&of("newer"), 1, &[]).await;
        write(kafka, &of("newer"), 0, 10..20).await;
        write(kafka, &of("old"), 0, 20..22).await;
        write(kafka, &of("new"), 0, 22..23).await;
        let bridge = setup.start_ready().await;
        came(&shop, 0..23).await;
        stop(bridge).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_partition_keeps_its_place_over_a_stop_and_over_a_kill() {
    let kafka = Kafka::shared().await;
    for protocol in PROTOCOLS {
        for kill in [false, true] {
            let shop = Shop::open(kafka, "idle", 2).await;
            write(kafka, &shop.topic, 0, 900..903).await;
            write(kafka, &shop.topic, 1, 903..906).await;
            let setup = latest(&shop, protocol, &toml(&[&shop.topic]));
            let bridge = setup.start_ready().await;
            write(kafka, &shop.topic, 0, 0..1).await;
            came(&shop, 0..1).await;
            until("each partition has a position", PATIENCE, async || {
                (shop.group.committed(&shop.topic).await.len() == 2).then_some(())
            })
            .await;
            if kill {
                bridge.kill();
            } else {
                stop(bridge).await;
            }
            write(kafka, &shop.topic, 0, 1..2).await;
            write(kafka, &shop.topic, 1, 2..3).await;
            let bridge = setup.start().await;
            came(&shop, 0..3).await;
            stop(bridge).await;
        }
    }
}

/// Of what is named later nothing that was there before comes, however young the topic is; what was missing is
/// taken from its first message.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_named_later_begins_at_its_end_and_one_that_was_missing_does_not() {
    let kafka = Kafka::shared().await;
    let shop = Shop::open(kafka, "named", 1).await;
    let of = |what: &str| format!("{}-{what}", shop.topic);
    kafka.create_topic(&of("older"), 1, &[]).await;
    write(kafka, &of("older"), 0, 900..910).await;
    let bridge = latest(&shop, "classic", &toml(&[&shop.topic, &of("missing")])).start().await;
    bridge
        .metric_is("source_partition_starts_total{source=\"shop\",at=\"end\"}", |v| v == 1.0)
        .await;
    write(kafka, &shop.topic, 0, 0..1).await;
    came(&shop, 0..1).await;
    // Younger than the group.
    kafka.create_topic(&of("younger"), 1, &[]).await;
    write(kafka, &of("younger"), 0, 910..920).await;
    stop(bridge).await;
    kafka.create_topic(&of("missing"), 1, &[]).await;
    write(kafka, &of("missing"), 0, 1..4).await;
    let all = toml(&[&shop.topic, &of("missing"), &of("older"), &of("younger")]);
    let bridge = latest(&shop, "classic", &all).start_ready().await;
    assert_eq!((starts(&bridge, "end").await, starts(&bridge, "subscription").await), (2.0, 1.0));
    for (id, what) in [(4, "older"), (5, "younger")] {
        write(kafka, &of(what), 0, id..id + 1).await;
    }
    came(&shop, 0..6).await;
    assert_eq!(bridge.lines(&["beginning at the end", "\"skipped\":10"]).len(), 2);
    stop(bridge).await;
}

/// Records that a producer dates back to before the group are taken for old, in a topic of which nothing else is
/// known; that is said.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_dated_back_in_a_new_topic_is_skipped_and_said() {
    let kafka = Kafka::shared().await;
    let shop = Shop::open(kafka, "dated", 1).await;
    let pattern = format!("^{}(\\..*)?$", shop.topic);
    let bridge = latest(&shop, "classic", &toml(&[&pattern])).start_ready().await;
    let new = format!("{}.new", shop.topic);
    kafka.create_topic(&new, 1, &[]).await;
    let old = (900..903).map(|id| record(id, 8).timestamp(1_700_000_000_000));
    kafka.produce(&new, old.chain([record(0, 8)])).await;
    came(&shop, [0]).await;
    let said = bridge.lines(&["WARN", "skipped", &new, "\"skipped\":3"]);
    assert_eq!(said.len(), 1, "{}", bridge.log());
    stop(bridge).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_that_is_gone_is_followed_by_the_oldest_message() {
    let kafka = Kafka::shared().await;
    let shop = Shop::open(kafka, "gone", 1).await;
    let setup = latest(&shop, "classic", &toml(&[&shop.topic]));
    let bridge = setup.start_ready().await;
    write(kafka, &shop.topic, 0, 0..1).await;
    came(&shop, 0..1).await;
    stop(bridge).await;
    write(kafka, &shop.topic, 0, 900..905).await;
    write(kafka, &shop.topic, 0, 1..6).await;
    kafka.delete_records(&shop.topic, 0, 6).await;
    let bridge = setup.start_ready().await;
    came(&shop, 0..6).await;
    bridge.metric_is("source_offset_gap_total{source=\"shop\"}", |v| v >= 1.0).await;
    stop(bridge).await;
}

/// The topic is removed and made anew, while the bridge runs and while it does not.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_made_anew_begins_with_its_first_message() {
    let kafka = Kafka::shared().await;
    let shop = Shop::open(kafka, "anew", 1).await;
    let again = format!("{}.again", shop.topic);
    kafka.create_topic(&again, 1, &[]).await;
    write(kafka, &again, 0, 900..910).await;
    let setup = latest(&shop, "classic", &toml(&[&shop.topic, &again]));
    let bridge = setup.start_ready().await;
    write(kafka, &again, 0, 0..1).await;
    came(&shop, 0..1).await;
    until("it is committed", PATIENCE, async || {
        (shop.group.committed(&again).await == [(0, 11)].into()).then_some(())
    })
    .await;
    stop(bridge).await;
    kafka.delete_topic(&again).await;
    kafka.create_topic(&again, 1, &[]).await;
    write(kafka, &again, 0, 1..3).await;
    let bridge = setup.start_ready().await;
    came(&shop, 0..3).await;
    kafka.delete_topic(&again).await;
    // Else the last commit of what is gone is taken for one of what is made anew.
    until("it is let go of", PATIENCE, async || {
        (!bridge.lines(&["partitions were assigned", "\"new\":0"]).is_empty()).then_some(())
    })
    .await;
    kafka.create_topic(&again, 1, &[]).await;
    write(kafka, &again, 0, 3..6).await;
    came(&shop, 0..6).await;
    bridge.ready().await;
    stop(bridge).await;
}

/// Whoever gets a partition when: what is written once the group is born comes, and nothing older.
#[tokio::test(flavor = "multi_thread")]
async fn replicas_of_one_group_begin_as_one() {
    let kafka = Kafka::shared().await;
    for protocol in PROTOCOLS {
        let shop = Shop::open(kafka, "share", 4).await;
        for partition in 0..4_u8 {
            write(kafka, &shop.topic, partition.into(), 900..903).await;
        }
        let topics = toml(&[&shop.topic]);
        let setups = [latest(&shop, protocol, &topics), latest(&shop, protocol, &topics)];
        let first = setups[0].start().await;
        let second = setups[1].start().await;
        first.ready().await;
        second.ready().await;
        until("each partition has a position", PATIENCE, async || {
            (shop.group.committed(&shop.topic).await.len() == 4).then_some(())
        })
        .await;
        for partition in 0..4_u8 {
            let id = u64::from(partition);
            write(kafka, &shop.topic, partition.into(), id..id + 1).await;
        }
        came(&shop, 0..4).await;
        kafka.add_partitions(&shop.topic, 6).await;
        first.kill();
        write(kafka, &shop.topic, 4, 4..6).await;
        write(kafka, &shop.topic, 5, 6..8).await;
        second.kill();
        let third = setups[0].start().await;
        came(&shop, 0..8).await;
        stop(third).await;
    }
}

/// Each commit is a record of `__consumer_offsets`, and each reject one of the dead letter: taken in, they would
/// go round for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_regular_expression_takes_neither_internal_topics_nor_its_dead_letters() {
    let kafka = Kafka::start("").await;
    let shop = Shop::open(&kafka, "all", 2).await;
    kafka.create_topic("rejects", 1, &[]).await;
    kafka.create_topic("orders", 3, &[]).await;
    // Makes the broker's own ones.
    let transactions = kafka.transactions("any").await;
    transactions.begin();
    transactions.send("orders", [Record::new("no json").partition(0)]).await;
    transactions.commit().await;
    for (protocol, bad) in PROTOCOLS.into_iter().zip([1, 2]) {
        let tables = format!(
            "[source.shop]\ntype = \"kafka\"\nbrokers = \"{}\"\ngroup = \"{protocol}\"\n\
             topics = \"^.*\"\nprotocol = \"{protocol}\"\n\
             [route.data]\nfrom = \"shop\"\nchannel = \"/shop/dev-{{json.key}}\"\ndead_letter = \"topic\"\n\
             [dead_letter.topic]\ntype = \"kafka\"\nsource = \"shop\"\ntopic = \"rejects\"\n",
            shop.broker
        );
        let setup = Setup::of(&shop.emulator.endpoint, "", &tables, "");
        until("the broker's own topics are left out", PATIENCE, async || {
            let (yes, said) = setup.check().await;
            assert!(yes, "{said}");
            let counted = "1 broker, 2 topics with 5 partitions; left out: 2 internal and 1 of dead letters topics";
            said.contains(counted).then_some(())
        })
        .await;
        let bridge = setup.start_ready().await;
        let rejected = "dead_letters_total{reason=\"invalid_json\"}";
        bridge.metric_is(rejected, |v| v == 1.0).await;
        kafka.produce(&shop.topic, [record(bad, 8)]).await;
        shop.ledger.has_ids(bad as usize, PATIENCE).await;
        until("all is committed", PATIENCE, async || {
            let committed = kafka.group(protocol).committed("orders").await;
            (committed.get(&0).is_some_and(|offset| *offset > 0)).then_some(())
        })
        .await;
        // Two commits more, each of which would have come.
        kafka.produce(&shop.topic, [record(7, 8)]).await;
        bridge.metric_is("source_in_flight{source=\"shop\"}", |v| v == 0.0).await;
        assert_eq!(bridge.metric(rejected).await, 1.0);
        let mine = kafka.group(protocol);
        for topic in ["__consumer_offsets", "rejects"] {
            assert_eq!(mine.committed(topic).await, [].into(), "{topic}");
        }
        stop(bridge).await;
    }
    assert_eq!(kafka.read("rejects").await.len(), 2);
}
