//! Numbers that only MQTT sources have.

use prometheus_client::metrics::counter::Counter;

use super::{Metrics, label};

/// Numbers of one MQTT source.
#[derive(Clone, Debug)]
pub struct MqttMetrics {
    /// Messages that the broker had retained and that were skipped.
    pub retained_skipped: Counter,
    /// Messages without a payload that were skipped.
    pub tombstones: Counter,
}

impl Metrics {
    /// The numbers of an MQTT source, from zero.
    pub fn mqtt(&self, source: &str) -> MqttMetrics {
        let labels = label("source", source);
        MqttMetrics {
            retained_skipped: self.one(
                "source_retained_skipped",
                "Messages that the broker had retained and that were skipped",
                &labels,
            ),
            tombstones: self.tombstones(&labels),
        }
    }
}
