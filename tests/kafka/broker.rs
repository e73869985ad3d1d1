//! The Kafka that the tests start: it does what the tests of the source rely on.

use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::Method;
use rdkafka::ClientConfig;
use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::{Headers as _, Message};
use serde_json::Value;

use crate::support::PATIENCE;
use crate::support::emulator::request;
use crate::support::kafka::Kafka;
use crate::support::kafka::groups::Member;
use crate::support::kafka::records::{Producer, Record};
use crate::support::kafka::security::{Listener, PASSWORD, USER};
use crate::support::kafka::topics::COMPACTED;
use crate::support::tokens::{CLIENT_ID, CLIENT_SECRET, Issuer};
use crate::support::until;

#[tokio::test]
async fn is_restarted_on_its_data_and_leaves_nothing() {
    let mut kafka = Kafka::start("").await;
    kafka.create_topic("kept", 3, &[("retention.ms", "-1")]).await;
    kafka.produce("kept", [Record::new("one").partition(0)]).await;
    kafka.stop().await;
    kafka.restart().await;
    kafka.add_partitions("kept", 6).await;
    kafka.produce("kept", [Record::new("two").partition(0)]).await;
    kafka.kill();
    kafka.restart().await;
    assert_eq!(partitions(&kafka, "kept"), 6);
    assert_eq!(kafka.produce("kept", [Record::new("three").partition(0)]).await, [(0, 2)]);
    assert_eq!(kafka.read("kept").await.len(), 3);
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
async fn leaves_gaps_where_it_compacts() {
    let kafka = Kafka::shared().await;
    let topic = kafka.topic("compacted", 1, COMPACTED).await;
    for n in 0..10 {
        kafka.produce(&topic, [Record::new(n.to_string()).key("same")]).await;
    }
    let offsets = async || {
        // A record that comes later than a segment may last closes that segment.
        kafka.produce(&topic, [Record::new("last").key("last")]).await;
        let read = kafka.read(&topic).await;
        let offsets: Vec<_> = read.iter().map(Message::offset).collect();
        (offsets[0] == 9).then_some(())
    };
    until("compaction", PATIENCE, offsets).await;
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
            let (mut left, deadline) = (10, Instant::now() + Duration::from_mins(1));
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

#[tokio::test]
async fn asks_who_is_there() {
    let kafka = Kafka::shared().await;
    let topic = kafka.topic("security", 1, &[]).await;
    for listener in [Listener::Tls, Listener::Mutual] {
        Producer::new(kafka.client_of(listener)).send(&topic, [Record::new("x")]).await;
    }
    for listener in [Listener::Password, Listener::PasswordInClear] {
        for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
            let mut config = kafka.client_of(listener);
            config.set("sasl.mechanism", mechanism).set("sasl.username", USER);
            config.set("sasl.password", "wrong");
            assert_eq!(refusal(&config), RDKafkaErrorCode::Authentication);
            config.set("sasl.password", PASSWORD);
            Producer::new(config).send(&topic, [Record::new("x")]).await;
        }
    }
    assert_eq!(kafka.read(&topic).await.len(), 8);

    // Without a certificate, and without knowing that of the listener.
    let mut config = kafka.client_of(Listener::Mutual);
    config.remove("ssl.certificate.location");
    config.remove("ssl.key.location");
    // In TLS 1.3 the client has finished before the broker misses its certificate, and hears of it or is
    // cut off.
    let said = refusal(&config);
    assert!(
        matches!(said, RDKafkaErrorCode::SSL | RDKafkaErrorCode::BrokerTransportFailure),
        "{said}"
    );
    let mut config = kafka.client_of(Listener::Tls);
    config.remove("ssl.ca.location");
    assert_eq!(refusal(&config), RDKafkaErrorCode::SSL);
}

#[tokio::test]
async fn takes_tokens_of_its_issuer() {
    struct Bearer(String);
    impl ClientContext for Bearer {
        const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;
        fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
            let lifetime_ms = i64::MAX / 1_000_000;
            Ok(OAuthToken { token: self.0.clone(), principal_name: "me".into(), lifetime_ms })
        }
    }
    impl ConsumerContext for Bearer {}
    let metadata = |kafka: &Kafka, token| {
        let mut config = kafka.client_of(Listener::Token);
        config.set("sasl.mechanism", "OAUTHBEARER");
        let client: BaseConsumer<_> = config.create_with_context(Bearer(token)).unwrap();
        assert!(client.poll(Duration::from_millis(10)).is_none(), "it serves the token");
        client.fetch_metadata(None, Duration::from_secs(3)).map(|_| ())
    };

    let kafka = Kafka::shared().await;
    let issuer = &kafka.security().issuer;
    let endpoint = issuer.serve().await;
    let ask = async |secret: &str| {
        let basic = BASE64_STANDARD.encode(format!("{CLIENT_ID}:{secret}"));
        let headers = [
            ("authorization", &*format!("Basic {basic}")),
            ("content-type", "application/x-www-form-urlencoded"),
        ];
        let form = "grant_type=client_credentials&scope=a+b";
        request(Method::POST, &endpoint.url, &headers, form).await
    };
    assert_eq!(ask("wrong").await.status, 401);
    endpoint.refuse(503);
    assert_eq!(ask(CLIENT_SECRET).await.status, 503);
    endpoint.refuse(0);
    endpoint.lifetime(Duration::from_mins(1));
    let granted: Value = serde_json::from_slice(&ask(CLIENT_SECRET).await.body).unwrap();
    assert_eq!(granted["expires_in"], 60);
    assert_eq!((endpoint.asked(), endpoint.scope().as_str()), (3, "a b"));
    metadata(kafka, granted["access_token"].as_str().unwrap().to_owned()).unwrap();
    let other = Issuer::new().token("me", Duration::from_mins(1));
    metadata(kafka, other).unwrap_err();
}

/// What this client is told first.
fn refusal(config: &ClientConfig) -> RDKafkaErrorCode {
    let client: BaseConsumer = config.clone().set("group.id", "none").create().unwrap();
    client.subscribe(&["none"]).unwrap();
    let told = client.poll(Duration::from_secs(30)).unwrap().map(|_| ());
    told.unwrap_err().rdkafka_error_code().unwrap()
}

/// How many partitions a topic has; none if there is no such topic.
fn partitions(kafka: &Kafka, topic: &str) -> usize {
    let client: BaseConsumer = kafka.client().create().unwrap();
    let metadata = client.fetch_metadata(Some(topic), Duration::from_secs(10)).unwrap();
    metadata.topics()[0].partitions().len()
}
