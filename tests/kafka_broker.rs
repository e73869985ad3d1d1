//! The Kafka that the tests start: it does what the tests of the source rely on.

use std::path::Path;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::message::{Headers as _, Message as _};

use crate::support::kafka::Kafka;
use crate::support::kafka::groups::Member;
use crate::support::kafka::records::Record;

#[tokio::test]
async fn is_restarted_on_its_data_and_leaves_nothing() {
    let mut kafka = Kafka::start("").await;
    kafka.create_topic("kept", 3, &[("retention.ms", "-1")]).await;
    kafka.stop().await;
    kafka.restart().await;
    kafka.add_partitions("kept", 6).await;
    kafka.kill();
    kafka.restart().await;
    assert_eq!(partitions(&kafka, "kept"), 6);
    kafka.delete_topic("kept").await;
    assert_eq!(partitions(&kafka, "kept"), 0);

    let (pid, directory) = (kafka.pid(), kafka.file(""));
    drop(kafka);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    assert!(!directory.exists());
}

#[tokio::test]
async fn keeps_records_as_they_were_written() {
    let kafka = Kafka::shared().await;
    let topic = kafka.topic("records", 2, &[]).await;
    let full = Record::new("full").key("k").header("a", Some(b"1")).header("none", None);
    let places = kafka.produce(
        &topic,
        [full.partition(1).timestamp(1_700_000_000_000), Record::tombstone("k").partition(1)],
    );
    assert_eq!(places.await, [(1, 0), (1, 1)]);
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let producer = kafka.producer(&[("compression.type", codec)]);
        producer.send(&topic, [Record::new(codec.repeat(1_000)).partition(0)]).await;
    }

    let read = kafka.read(&topic).await;
    let in_partition = |n| read.iter().filter(move |m| m.partition() == n).collect::<Vec<_>>();
    let [full, tombstone] = in_partition(1)[..] else { panic!("{read:?}") };
    assert_eq!((full.key(), full.payload()), (Some(&b"k"[..]), Some(&b"full"[..])));
    assert_eq!(full.timestamp().to_millis(), Some(1_700_000_000_000));
    let headers: Vec<_> = full.headers().unwrap().iter().map(|h| (h.key, h.value)).collect();
    assert_eq!(headers, [("a", Some(&b"1"[..])), ("none", None)]);
    assert_eq!((tombstone.key(), tombstone.payload()), (Some(&b"k"[..]), None));
    let texts: Vec<_> =
        in_partition(0).iter().map(|m| m.payload_view::<str>().unwrap().unwrap()).collect();
    assert_eq!(texts, ["none", "gzip", "snappy", "lz4", "zstd"].map(|codec| codec.repeat(1_000)));
}

#[tokio::test]
async fn hides_what_was_aborted() {
    let kafka = Kafka::shared().await;
    let topic = kafka.topic("transactions", 1, &[]).await;
    let producer = kafka.transactions(&topic).await;
    for (text, good) in [("one", true), ("two", false), ("three", true)] {
        producer.begin();
        producer.send(&topic, [Record::new(text)]).await;
        if good { producer.commit().await } else { producer.abort().await }
    }
    let read = kafka.read(&topic).await;
    let texts: Vec<_> = read.iter().map(|m| m.payload_view::<str>().unwrap().unwrap()).collect();
    assert_eq!(texts, ["one", "three"]);
    // Each end of a transaction takes an offset too.
    assert_eq!(kafka.end_offsets(&topic).await, [(0, 6)].into());
    kafka.delete_records(&topic, 0, 3).await;
    assert_eq!(kafka.read(&topic).await.len(), 1);
}

#[tokio::test]
async fn tells_what_groups_do() {
    let kafka = Kafka::shared().await;
    for protocol in ["classic", "consumer"] {
        let topic = kafka.topic("groups", 2, &[]).await;
        kafka.produce(&topic, (0..10).map(|n| Record::new("x").partition(n % 2))).await;
        let group = kafka.group(&topic);
        assert_eq!(group.committed(&topic).await, [].into());

        let mut config = kafka.client();
        config.set("group.id", &topic).set("group.protocol", protocol).set("client.id", "me");
        config.set("auto.offset.reset", "earliest").set("enable.auto.commit", "false");
        if protocol == "classic" {
            config.set("session.timeout.ms", "6000");
        }
        let consumer: BaseConsumer = config.create().unwrap();
        consumer.subscribe(&[&topic]).unwrap();
        let name = topic.clone();
        let consumer = tokio::task::spawn_blocking(move || {
            let (mut left, deadline) = (10, Instant::now() + Duration::from_secs(60));
            while left > 0 {
                assert!(Instant::now() < deadline, "{left} messages did not come");
                // A rebalance is a `None`.
                left -= consumer.poll(Duration::from_secs(1)).map_or(0, |m| m.map(|_| 1).unwrap());
            }
            consumer.commit_consumer_state(CommitMode::Sync).unwrap();
            consumer
        });
        let consumer = consumer.await.unwrap();
        assert_eq!(group.committed(&topic).await, [(0, 5), (1, 5)].into());
        let both = vec![(name.clone(), 0), (name.clone(), 1)];
        if protocol == "classic" {
            let me = Member { client_id: "me".into(), partitions: both };
            assert_eq!(group.members().await, ("Stable".into(), vec![me]));
        }
        let command = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand";
        let address = kafka.address();
        let server = ["--bootstrap-server", &address];
        let arguments = [&server[..], &["--describe", "--members", "--group", &topic]].concat();
        let told = kafka.tool(command, &arguments).await;
        assert!(told.contains("/127.0.0.1"), "{told}");
        tokio::task::spawn_blocking(move || drop(consumer)).await.unwrap();
        kafka.delete_group(&topic).await;
    }
}

/// How many partitions a topic has; none if there is no such topic.
fn partitions(kafka: &Kafka, topic: &str) -> usize {
    let client: BaseConsumer = kafka.client().create().unwrap();
    let metadata = client.fetch_metadata(Some(topic), Duration::from_secs(10)).unwrap();
    metadata.topics()[0].partitions().len()
}
