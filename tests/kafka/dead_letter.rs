//! Dead letters in a Kafka topic, on a real Kafka.

use rdkafka::message::{Headers as _, Message as _, OwnedMessage};

use crate::support::PATIENCE;
use crate::support::bridge::{Bridge, Setup};
use crate::support::kafka::Kafka;
use crate::support::kafka::records::Record;
use crate::support::ledger::ids;
use crate::support::shop::{IN_FLIGHT, Shop, stop};
use crate::support::until;

/// A bridge that relays the shop's topic and keeps what can't be published in `topic`, on the cluster of
/// source `home`; `more` are other tables.
fn setup(shop: &Shop, home: &str, topic: &str, more: &str) -> Setup {
    let tables = format!(
        "[source.shop]\ntype = \"kafka\"\nbrokers = \"{}\"\ngroup = \"{}\"\ntopics = \"{}\"\n\
         [route.data]\nfrom = \"shop\"\nchannel = \"/shop/{{json.tenant}}\"\ndead_letter = \"topic\"\n\
         [dead_letter.topic]\ntype = \"kafka\"\nsource = \"{home}\"\ntopic = \"{topic}\"\n{more}\n",
        shop.broker, shop.topic, shop.topic
    );
    Setup::of(&shop.emulator.endpoint, "", &tables, "")
}

fn good(id: u64) -> Record {
    Record::new(format!("{{\"id\":{id},\"tenant\":\"a\"}}"))
}

/// The last header of a name, as text.
fn header(message: &OwnedMessage, name: &str) -> Option<String> {
    let headers = message.headers()?;
    let last = headers.iter().filter(|header| header.key == name).last()?;
    Some(String::from_utf8(last.value?.to_vec()).unwrap())
}

/// Waits for `/readyz` to say this of the dead letter.
async fn is_held(bridge: &Bridge, why: &str) {
    until(why, PATIENCE, async || {
        let (status, text) = bridge.get("/readyz").await;
        let line =
            text.lines().any(|line| line.contains("dead_letter topic") && line.contains(why));
        (status == 503 && line).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reject_is_there_as_it_came_with_its_reason() {
    let kafka = Kafka::shared().await;
    let shop = Shop::open(kafka, "rejecting", 1).await;
    let rejects = kafka.topic("rejects", 2, &[]).await;
    let bytes = (0..=255).collect::<Vec<u8>>();
    let key = b"\xffkey".to_vec();
    let bad = Record::new(bytes.clone())
        .key(key.clone())
        .header("tenant", Some(b"\xfe\x00"))
        .header("appsync-bridge.reason", Some(b"an earlier one"))
        .timestamp(1_700_000_000_123);
    let bare = Record::new("{\"tenant\":\"../x\"}");
    kafka.produce(&shop.topic, [good(0), bad, good(1), bare, good(2)]).await;

    let setup = setup(&shop, "shop", &rejects, "");
    let (yes, said) = setup.check().await;
    let found = format!("dead_letter topic: connected: the topic `{rejects}` with 2 partitions");
    assert!(yes && said.contains(&found), "{said}");
    let bridge = setup.start_ready().await;
    shop.ledger.has_ids(3, PATIENCE).await;
    bridge.metric_is("dead_letters_total{reason=\"bad_channel_segment\"}", |v| v == 1.0).await;
    bridge.metric_is("dead_letters_total{reason=\"invalid_utf8\"}", |v| v == 1.0).await;
    until("all is committed", PATIENCE, async || {
        (shop.group.committed(&shop.topic).await == [(0, 5)].into()).then_some(())
    })
    .await;

    let kept = kafka.read(&rejects).await;
    assert_eq!(kept.len(), 2, "{kept:?}");
    let full = kept.iter().find(|kept| kept.key().is_some()).unwrap();
    let bare = kept.iter().find(|kept| kept.key().is_none()).unwrap();
    assert_eq!((full.key(), full.payload()), (Some(&key[..]), Some(&bytes[..])));
    let first: Vec<_> =
        full.headers().unwrap().iter().take(2).map(|header| (header.key, header.value)).collect();
    assert_eq!(
        first,
        [("tenant", Some(&b"\xfe\x00"[..])), ("appsync-bridge.reason", Some(b"an earlier one"))]
    );
    let of_full = |name: &str| header(full, &format!("appsync-bridge.{name}"));
    assert_eq!(of_full("reason").as_deref(), Some("invalid_utf8"));
    assert_eq!(of_full("source").as_deref(), Some("shop"));
    assert_eq!(of_full("topic").as_deref(), Some(&*shop.topic));
    assert_eq!(of_full("route").as_deref(), Some("data"));
    assert_eq!(of_full("coordinate.partition").as_deref(), Some("0"));
    assert_eq!(of_full("coordinate.offset").as_deref(), Some("1"));
    assert_eq!(of_full("published").as_deref(), Some("2023-11-14T22:13:20.123000000Z"));
    assert!(of_full("at").unwrap().starts_with("20") && of_full("channel").is_none());
    // Not the message's own time, by which a topic would forget it.
    assert!(full.timestamp().to_millis().unwrap() > 1_700_000_100_000);
    assert_eq!(bare.payload(), Some(&b"{\"tenant\":\"../x\"}"[..]));
    assert_eq!(header(bare, "appsync-bridge.reason").as_deref(), Some("bad_channel_segment"));
    assert!(header(bare, "appsync-bridge.detail").unwrap().contains("`../x`"));
    stop(bridge).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_broker_messages_are_held_and_none_is_lost() {
    const BAD: i64 = 300;
    let kafka = Kafka::shared().await;
    let mut away = Kafka::start("").await;
    let shop = Shop::open(kafka, "held", 1).await;
    away.create_topic("rejects", 1, &[]).await;
    away.create_topic("nothing", 1, &[]).await;
    let home = format!(
        "[source.home]\ntype = \"kafka\"\nbrokers = \"{}\"\ngroup = \"g\"\ntopics = \"nothing\"\n\
         unrouted = \"ignore\"\n",
        away.address()
    );
    let bridge = setup(&shop, "home", "rejects", &home).start_ready().await;
    away.kill();
    let bad = |id: i64| Record::new(format!("no json {id}")).key(id.to_string());
    kafka.produce(&shop.topic, [good(0)]).await;
    kafka.produce(&shop.topic, (0..BAD).map(bad)).await;
    kafka.produce(&shop.topic, [good(1)]).await;
    // What is good goes on; what is behind the first bad one is not committed.
    shop.ledger.has_ids(2, PATIENCE).await;
    is_held(&bridge, "Connection refused").await;
    bridge.metric_is(IN_FLIGHT, |v| v == (BAD + 1) as f64).await;
    assert!(shop.group.committed(&shop.topic).await.get(&0).is_none_or(|offset| *offset == 1));
    assert_eq!(bridge.metric("dead_letters_total{reason=\"invalid_json\"}").await, 0.0);
    let said = bridge.log().matches("dead letters can't be written").count();
    assert_eq!(said, 1, "{}", bridge.log());

    away.restart().await;
    bridge.metric_is("dead_letters_total{reason=\"invalid_json\"}", |v| v == BAD as f64).await;
    until("all is committed", PATIENCE, async || {
        (shop.group.committed(&shop.topic).await == [(0, BAD + 2)].into()).then_some(())
    })
    .await;
    bridge.ready().await;
    let kept = away.read("rejects").await;
    let mut keys: Vec<i64> = kept
        .iter()
        .map(|kept| std::str::from_utf8(kept.key().unwrap()).unwrap().parse().unwrap())
        .collect();
    let count = keys.len();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys, (0..BAD).collect::<Vec<_>>());
    println!("{BAD} dead letters over a broker that was away: {} repeats", count - keys.len());
    assert_eq!(ids(&shop.ledger.read()).len(), 2);
    stop(bridge).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_topic_is_said_before_the_first_reject_and_taken_when_it_is_there() {
    let kafka = Kafka::shared().await;
    let shop = Shop::open(kafka, "unwritten", 1).await;
    let rejects = format!("{}-rejects", shop.topic);
    let setup = setup(&shop, "shop", &rejects, "");
    let (yes, said) = setup.check().await;
    let line = format!("dead_letter topic: the topic `{rejects}` can't be written");
    assert!(!yes && said.matches(&line).count() == 1, "{said}");
    assert!(said.contains("create it, or check `topic`"), "{said}");
    let bridge = setup.start().await;
    is_held(&bridge, &rejects).await;
    let said = bridge.log().matches(&rejects).count();
    assert_eq!(said, 1, "{}", bridge.log());
    kafka.produce(&shop.topic, [Record::new("no json"), good(0)]).await;
    shop.ledger.has_ids(1, PATIENCE).await;
    bridge.metric_is(IN_FLIGHT, |v| v == 2.0).await;

    kafka.create_topic(&rejects, 1, &[]).await;
    bridge.metric_is("dead_letters_total{reason=\"invalid_json\"}", |v| v == 1.0).await;
    bridge.ready().await;
    assert_eq!(kafka.read(&rejects).await.len(), 1);
    stop(bridge).await;
}

/// Its neighbours are written once, however often it is tried.
#[tokio::test(flavor = "multi_thread")]
async fn one_too_large_for_the_topic_is_held_whole_until_the_topic_takes_it() {
    let kafka = Kafka::shared().await;
    let shop = Shop::open(kafka, "large", 1).await;
    let rejects = kafka.topic("small", 1, &[("max.message.bytes", "20000")]).await;
    let large = "x".repeat(60_000);
    let small = |n: u64| Record::new(format!("no json {n} {}", "y".repeat(3_000)));
    kafka.produce(&shop.topic, (0..10).map(small)).await;
    kafka.produce(&shop.topic, [Record::new(large.clone())]).await;
    kafka.produce(&shop.topic, (10..20).map(small)).await;
    let bridge = setup(&shop, "shop", &rejects, "").start().await;
    is_held(&bridge, "raise its `max.message.bytes`").await;
    let tried = bridge.log().matches("max.message.bytes").count();
    assert_eq!(tried, 1, "{}", bridge.log());
    bridge.metric_is("dead_letters_total{reason=\"invalid_json\"}", |v| v == 10.0).await;
    until("what is before it is committed", PATIENCE, async || {
        (shop.group.committed(&shop.topic).await == [(0, 10)].into()).then_some(())
    })
    .await;
    kafka.configure_topic(&rejects, &[("max.message.bytes", "100000")]).await;
    bridge.metric_is("dead_letters_total{reason=\"invalid_json\"}", |v| v == 21.0).await;
    let kept = kafka.read(&rejects).await;
    assert_eq!(kept.len(), 21, "some were written twice");
    assert!(kept.iter().any(|kept| kept.payload() == Some(large.as_bytes())));
    bridge.ready().await;
    stop(bridge).await;
}

/// A regular expression would take the topic of the dead letters in, and leaves it out.
#[tokio::test(flavor = "multi_thread")]
async fn what_comes_from_the_dead_letter_does_not_go_round() {
    let kafka = Kafka::shared().await;
    let shop = Shop::open(kafka, "round", 1).await;
    let rejects = format!("{}-rejects", shop.topic);
    kafka.create_topic(&rejects, 1, &[]).await;
    let setup = setup(&shop, "shop", &rejects, "");
    let config = std::fs::read_to_string(setup.file("bridge.toml")).unwrap();
    let names = format!("topics = \"{}\"", shop.topic);
    assert!(config.contains(&names));
    let all = format!("topics = \"^{}.*\"", shop.topic);
    std::fs::write(setup.file("bridge.toml"), config.replace(&names, &all)).unwrap();
    let bridge = setup.start_ready().await;
    kafka.produce(&shop.topic, [Record::new("no json")]).await;
    bridge.metric_is("dead_letters_total{reason=\"invalid_json\"}", |v| v == 1.0).await;
    kafka.produce(&shop.topic, [good(0)]).await;
    shop.ledger.has_ids(1, PATIENCE).await;
    until("all is committed", PATIENCE, async || {
        (shop.group.committed(&shop.topic).await == [(0, 2)].into()).then_some(())
    })
    .await;
    assert_eq!(kafka.read(&rejects).await.len(), 1);
    assert_eq!(shop.group.committed(&rejects).await, [].into(), "it is read");
    bridge.ready().await;
    stop(bridge).await;
}
