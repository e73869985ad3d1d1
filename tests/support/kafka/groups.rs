//! What consumer groups have committed, and who is in them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::{Offset, TopicPartitionList};

use super::Kafka;

use crate::support::PATIENCE;

/// A look at a group from outside; it is no member.
#[derive(Clone)]
pub(crate) struct Group {
    client: Arc<BaseConsumer>,
    name: String,
}

/// A member of a group and the partitions that it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) client_id: String,
    pub(crate) partitions: Vec<(String, i32)>,
}

impl Kafka {
    pub(crate) fn group(&self, name: &str) -> Group {
        Group::of(self.client(), name)
    }

    /// Behind the last message of each partition, transactions' markers included.
    pub(crate) async fn end_offsets(&self, topic: &str) -> BTreeMap<i32, i64> {
        let group = self.group("none");
        let topic = topic.to_owned();
        group
            .blocking(move |client, _| {
                let end =
                    |partition| client.fetch_watermarks(&topic, partition, PATIENCE).unwrap().1;
                super::partitions(client, &topic).into_iter().map(|p| (p, end(p))).collect()
            })
            .await
    }
}

impl Group {
    /// As this client sees it.
    pub(crate) fn of(mut client: ClientConfig, name: &str) -> Self {
        let client = client.set("group.id", name).create().unwrap();
        Self { client: Arc::new(client), name: name.to_owned() }
    }

    /// The committed offsets of those partitions of a topic that have one: where the group goes on.
    /// This is quick enough to be asked every 50 ms.
    pub(crate) async fn committed(&self, topic: &str) -> BTreeMap<i32, i64> {
        let topic = topic.to_owned();
        self.blocking(move |client, _| {
            let mut list = TopicPartitionList::new();
            for partition in super::partitions(client, &topic) {
                list.add_partition(&topic, partition);
            }
            // The coordinator is not there at once, neither the first time nor after a restart.
            let deadline = Instant::now() + PATIENCE;
            let committed = loop {
                match client.committed_offsets(list.clone(), Duration::from_secs(5)) {
                    Ok(committed) => break committed,
                    Err(error) => assert!(Instant::now() < deadline, "{error}"),
                }
                sleep(Duration::from_millis(20));
            };
            let mut offsets = BTreeMap::new();
            for element in committed.elements() {
                if let Offset::Offset(offset) = element.offset() {
                    offsets.insert(element.partition(), offset);
                }
            }
            offsets
        })
        .await
    }

    /// The state of a group of the classic protocol, as in `Stable`, and its members. Those of the
    /// consumer protocol only [`tool`](Kafka::tool) tells: `ConsumerGroupCommand`.
    pub(crate) async fn members(&self) -> (String, Vec<Member>) {
        self.blocking(|client, name| {
            let list = client.fetch_group_list(Some(name), PATIENCE).unwrap();
            let Some(group) = list.groups().first() else { return (String::new(), Vec::new()) };
            let member = |member: &rdkafka::groups::GroupMemberInfo| Member {
                client_id: member.client_id().to_owned(),
                partitions: assigned(member.assignment().unwrap_or_default()),
            };
            (group.state().to_owned(), group.members().iter().map(member).collect())
        })
        .await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&BaseConsumer, &str) -> T + Send + 'static,
    ) -> T {
        let Self { client, name } = self.clone();
        tokio::task::spawn_blocking(move || ask(&client, &name)).await.unwrap()
    }
}

/// What a `ConsumerProtocolAssignment` says: a version, then topics with their partitions, all lengths
/// and numbers big-endian.
fn assigned(bytes: &[u8]) -> Vec<(String, i32)> {
    fn take<const N: usize>(bytes: &mut &[u8]) -> [u8; N] {
        let (taken, rest) = bytes.split_first_chunk().unwrap();
        *bytes = rest;
        *taken
    }
    if bytes.is_empty() {
        return Vec::new();
    }
    let mut rest = &bytes[2..];
    let mut partitions = Vec::new();
    for _ in 0..u32::from_be_bytes(take(&mut rest)) {
        let length = u16::from_be_bytes(take(&mut rest));
        let (name, after) = rest.split_at(length.into());
        rest = after;
        let topic = String::from_utf8(name.to_vec()).unwrap();
        for _ in 0..u32::from_be_bytes(take(&mut rest)) {
            partitions.push((topic.clone(), i32::from_be_bytes(take(&mut rest))));
        }
    }
    partitions.sort();
    partitions
}
