//! Numbers that only Kafka sources have. Those of a partition exist while it is assigned to us.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::{HELP_OF_LAG, LAG, Labels, Lag, Metrics, label, with};

/// Numbers of one Kafka source.
#[derive(Clone, Debug)]
pub struct KafkaMetrics {
    /// Changes of what is assigned to us.
    pub rebalances: Counter,
    /// Partitions that are not fetched from for want of room.
    pub paused: Gauge,
    /// Positions that the broker no longer had, or had not yet: what lay between is lost or repeated.
    pub offset_gaps: Counter,
    /// Messages that were settled, or are still to be, after their partition had gone.
    pub late: Counter,
    /// Partitions that were read again from a message that was given back.
    pub rewinds: Counter,
    /// Messages without a payload that were skipped.
    pub tombstones: Counter,
    /// Partitions that were begun without a position of the group.
    pub starts: Starts,
    labels: Labels,
    partitions: Partitions,
}

/// How often partitions began where the group had no position, by where.
#[derive(Clone, Debug)]
pub struct Starts {
    /// New partitions, at their beginning.
    pub beginning: Counter,
    /// New topics, with their first message since they were subscribed to.
    pub since: Counter,
    /// What was there before the group, at its end.
    pub end: Counter,
}

/// Numbers of one assigned partition; gone when dropped.
#[derive(Debug)]
pub struct PartitionMetrics {
    /// Messages that the group has not committed yet.
    pub lag: Gauge,
    /// The offset that the group has committed: of the next message.
    pub committed: Gauge,
    /// The offset of the newest message taken.
    pub received: Gauge,
    labels: Labels,
    partitions: Partitions,
}

/// The families whose series come and go with a partition.
#[derive(Clone, Debug)]
struct Partitions {
    /// Of the source: the sum.
    all: Lag,
    lag: Family<Labels, Gauge>,
    committed: Family<Labels, Gauge>,
    received: Family<Labels, Gauge>,
}

impl Metrics {
    /// The numbers of a Kafka source, from zero.
    pub fn kafka(&self, source: &str) -> KafkaMetrics {
        let labels = label("source", source);
        let start = |place| {
            let help = "Partitions begun where the group had no position";
            self.one("source_partition_starts", help, &with(&labels, "at", place))
        };
        let counter = |name, help| -> Counter { self.one(name, help, &labels) };
        let of_partition = |name, help| self.family(name, help, Gauge::default);
        KafkaMetrics {
            rebalances: counter("source_rebalances", "Changes of the assignment"),
            paused: self.one(
                "source_paused_partitions",
                "Partitions not fetched from for want of room",
                &labels,
            ),
            offset_gaps: counter(
                "source_offset_gap",
                "Positions that the broker did not have, so that it went on elsewhere",
            ),
            late: counter(
                "source_late_settlements",
                "Messages settled after their partition had gone",
            ),
            rewinds: counter(
                "source_rewinds",
                "Partitions read again from a message that was given back",
            ),
            tombstones: self.tombstones(&labels),
            starts: Starts {
                beginning: start("beginning"),
                since: start("subscription"),
                end: start("end"),
            },
            partitions: Partitions {
                all: self.lag_of(source),
                lag: of_partition(LAG, HELP_OF_LAG),
                committed: of_partition(
                    "source_committed_offset",
                    "Offset of the next message to commit",
                ),
                received: of_partition("source_received_offset", "Offset of the newest message"),
            },
            labels,
        }
    }
}

impl KafkaMetrics {
    /// The numbers of a partition that was assigned to us.
    pub fn partition(&self, topic: &str, partition: i32) -> PartitionMetrics {
        let labels = with(&self.labels, "topic", topic);
        let labels = with(&labels, "partition", &partition.to_string());
        let lag = self.partitions.lag.get_or_create_owned(&labels);
        self.partitions.all.add(&lag);
        PartitionMetrics {
            lag,
            committed: self.partitions.committed.get_or_create_owned(&labels),
            received: self.partitions.received.get_or_create_owned(&labels),
            partitions: self.partitions.clone(),
            labels,
        }
    }
}

impl Drop for PartitionMetrics {
    fn drop(&mut self) {
        self.partitions.all.remove(&self.lag);
        self.partitions.lag.remove(&self.labels);
        self.partitions.committed.remove(&self.labels);
        self.partitions.received.remove(&self.labels);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_has_series_while_it_is_ours() {
        let metrics = Metrics::new();
        let kafka = metrics.kafka("shop");
        let partition = kafka.partition("orders", 3);
        partition.lag.set(7);
        let line = r#"appsync_bridge_source_lag{source="shop",topic="orders",partition="3"} 7"#;
        assert!(metrics.encode().contains(line), "{}", metrics.encode());
        assert_eq!((metrics.lag("shop"), metrics.lag("other")), (Some(7), None));
        drop(partition);
        assert_eq!(metrics.lag("shop"), None);
        assert!(!metrics.encode().contains("orders"));
        let line = r#"appsync_bridge_source_rebalances_total{source="shop"} 0"#;
        assert!(metrics.encode().contains(line));
        let _ = metrics.kafka("other");
        assert_eq!(metrics.encode().matches("# HELP appsync_bridge_source_rebalances ").count(), 1);
    }
}
