//! Numbers of the export to a collector.

use prometheus_client::metrics::counter::Counter;

use crate::metrics::{Metrics, label, with};

/// Numbers of the export.
#[derive(Clone, Debug)]
pub struct OtlpMetrics {
    /// Spans that are lost: there was no room, or the collector would not have them.
    pub dropped: Counter,
    metrics: [Counter; 2],
    traces: [Counter; 2],
}

impl Metrics {
    /// The numbers of the export, from zero.
    pub fn otlp(&self) -> OtlpMetrics {
        let exports = |signal| {
            ["ok", "failed"].map(|result| {
                let labels = with(&label("signal", signal), "result", result);
                self.one("otlp_exports", "Requests to the collector by how they ended", &labels)
            })
        };
        OtlpMetrics {
            dropped: self.one("otlp_dropped", "Spans that were not exported", &Vec::new()),
            metrics: exports("metrics"),
            traces: exports("traces"),
        }
    }
}

impl OtlpMetrics {
    /// A request with metrics ended.
    pub fn metrics(&self, good: bool) {
        self.metrics[usize::from(!good)].inc();
    }

    /// A request with traces ended.
    pub fn traces(&self, good: bool) {
        self.traces[usize::from(!good)].inc();
    }
}
