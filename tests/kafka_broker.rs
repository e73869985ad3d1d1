//! The Kafka that the tests start: it does what the tests of the source rely on.

use std::path::Path;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};

use crate::support::kafka::Kafka;

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

/// How many partitions a topic has; none if there is no such topic.
fn partitions(kafka: &Kafka, topic: &str) -> usize {
    let client: BaseConsumer = kafka.client().create().unwrap();
    let metadata = client.fetch_metadata(Some(topic), Duration::from_secs(10)).unwrap();
    metadata.topics()[0].partitions().len()
}
