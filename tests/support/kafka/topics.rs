//! Topics: made, grown, cut and removed.

use std::time::Duration;

use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier,
    TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::{Offset, TopicPartitionList};

use super::Kafka;

/// For a topic that keeps the last record of each key only, and soon.
pub(crate) const COMPACTED: &[(&str, &str)] =
    &[("cleanup.policy", "compact"), ("segment.ms", "100"), ("min.cleanable.dirty.ratio", "0.001")];

impl Kafka {
    /// Creates a topic whose name begins like this and is not used by another test, and returns its
    /// name. `config` is as in `retention.ms` and `60000`.
    pub(crate) async fn topic(
        &self,
        name: &str,
        partitions: i32,
        config: &[(&str, &str)],
    ) -> String {
        let name = format!("{name}-{:08x}", rand::random::<u32>());
        self.create_topic(&name, partitions, config).await;
        name
    }

    /// Creates a topic of this very name.
    pub(crate) async fn create_topic(&self, name: &str, partitions: i32, config: &[(&str, &str)]) {
        let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        for (key, value) in config {
            topic = topic.set(key, value);
        }
        let done = self.admin().create_topics([&topic], &options()).await.unwrap();
        done.into_iter().next().unwrap().unwrap();
    }

    /// Gives a topic more partitions: `partitions` in all.
    pub(crate) async fn add_partitions(&self, topic: &str, partitions: usize) {
        let more = NewPartitions::new(topic, partitions);
        let done = self.admin().create_partitions([&more], &options()).await.unwrap();
        done.into_iter().next().unwrap().unwrap();
    }

    /// Puts these in the place of all that a topic was configured with.
    pub(crate) async fn configure_topic(&self, topic: &str, config: &[(&str, &str)]) {
        let mut new = AlterConfig::new(ResourceSpecifier::Topic(topic));
        for (key, value) in config {
            new = new.set(key, value);
        }
        let done = self.admin().alter_configs([&new], &options()).await.unwrap();
        done.into_iter().next().unwrap().unwrap();
    }

    pub(crate) async fn delete_topic(&self, topic: &str) {
        let done = self.admin().delete_topics(&[topic], &options()).await.unwrap();
        done.into_iter().next().unwrap().unwrap();
    }

    /// Removes what is before `offset` in a partition, as retention does in its time.
    pub(crate) async fn delete_records(&self, topic: &str, partition: i32, offset: i64) {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(offset)).unwrap();
        let done = self.admin().delete_records(&list, &options()).await.unwrap();
        done.elements()[0].error().unwrap();
    }

    /// Forgets what a group has committed; it must have no members.
    pub(crate) async fn delete_group(&self, group: &str) {
        let done = self.admin().delete_groups(&[group], &options()).await.unwrap();
        done.into_iter().next().unwrap().unwrap();
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.client().create().unwrap()
    }
}

fn options() -> AdminOptions {
    let patience = Some(Duration::from_secs(30));
    AdminOptions::new().operation_timeout(patience).request_timeout(patience)
}
