//! Numbers that only `JetStream` sources have.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

use super::{HELP_OF_LAG, LAG, Metrics, label};

/// Numbers of one `JetStream` source.
#[derive(Clone, Debug)]
pub struct JetStreamMetrics {
    /// Messages of the stream that the consumer has not delivered yet.
    pub lag: Gauge,
    /// Messages that the consumer has delivered, to whomever, and nobody has acknowledged yet.
    pub ack_pending: Gauge,
    /// Deliveries of messages that were delivered before.
    pub redelivered: Counter,
    /// Messages that were removed from the stream before they were delivered, as far as the sequences tell.
    pub gaps: Counter,
    /// Messages that the consumer will not deliver any more, since they were delivered too often.
    pub given_up: Counter,
    /// Times that the consumer began again behind what was acknowledged, to keep the order.
    pub resets: Counter,
    /// 1 while the consumer believes to be ahead of its stream.
    pub ahead: Gauge,
}

impl Metrics {
    /// The numbers of a `JetStream` source, from zero.
    pub fn jetstream(&self, source: &str) -> JetStreamMetrics {
        let labels = &label("source", source);
        let counter = |name, help| -> Counter { self.one(name, help, labels) };
        let gauge = |name, help| -> Gauge { self.one(name, help, labels) };
        let lag = gauge(LAG, HELP_OF_LAG);
        self.lag_of(source).add(&lag);
        JetStreamMetrics {
            lag,
            ack_pending: gauge(
                "source_ack_pending",
                "Messages that the consumer has delivered and nobody has acknowledged",
            ),
            redelivered: counter(
                "source_redelivered",
                "Deliveries of messages that were delivered before",
            ),
            gaps: counter(
                "source_stream_gap",
                "Messages that were removed from the stream before they were delivered",
            ),
            given_up: counter(
                "source_max_deliver_exceeded",
                "Messages that are not delivered any more, because of the consumer's `max_deliver`",
            ),
            resets: counter(
                "source_consumer_resets",
                "Times that the consumer began again behind what was acknowledged",
            ),
            ahead: gauge(
                "source_consumer_ahead",
                "1 while the consumer is ahead of its stream and delivers nothing",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_exist_from_the_start_and_share_the_lag_with_kafka() {
        let metrics = Metrics::new();
        let jetstream = metrics.jetstream("orders");
        jetstream.lag.set(7);
        let _partition = metrics.kafka("shop").partition("t", 0);
        assert_eq!(metrics.lag("orders"), Some(7));
        let text = metrics.encode();
        for line in [
            r#"appsync_bridge_source_lag{source="orders"} 7"#,
            r#"appsync_bridge_source_lag{source="shop",topic="t",partition="0"} 0"#,
            r#"appsync_bridge_source_redelivered_total{source="orders"} 0"#,
            r#"appsync_bridge_source_stream_gap_total{source="orders"} 0"#,
            r#"appsync_bridge_source_ack_pending{source="orders"} 0"#,
            r#"appsync_bridge_source_consumer_ahead{source="orders"} 0"#,
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
        assert_eq!(text.matches("# HELP appsync_bridge_source_lag ").count(), 1);
    }
}
