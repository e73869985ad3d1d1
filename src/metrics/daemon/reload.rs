//! Numbers of the configuration's reloads.

use prometheus_client::metrics::gauge::Gauge;

use crate::metrics::{Labelled, Metrics, label};

/// Which configuration is in force, and what came of the reloads.
#[derive(Clone, Debug)]
pub struct ReloadMetrics {
    /// The number of the configuration in force.
    pub generation: Gauge,
    results: Labelled,
}

impl Metrics {
    /// The numbers of reloads, from zero for each of `results`. To be called once.
    pub fn reloads(&self, results: impl IntoIterator<Item = &'static str>) -> ReloadMetrics {
        let result = |result: &'static str| {
            let help = "Reloads of the configuration by what came of them";
            (result, self.one("config_reloads", help, &label("result", result)))
        };
        let generation = Gauge::default();
        let help = "Number of the configuration in force; that of the start is 1";
        // It has no label, as which a family would have it.
        self.registered.lock().registry.register("config_generation", help, generation.clone());
        ReloadMetrics { generation, results: results.into_iter().map(result).collect() }
    }
}

impl ReloadMetrics {
    /// A reload ended with `result`, one of those the metrics were made with.
    pub fn ended(&self, result: &'static str) {
        if let Some(counter) = self.results.get(result) {
            counter.inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_results_of_reloads_are_known_from_the_start() {
        let metrics = Metrics::new();
        let reloads = metrics.reloads(["applied", "refused"]);
        reloads.generation.set(1);
        reloads.ended("refused");
        let text = metrics.encode();
        for line in [
            "appsync_bridge_config_generation 1",
            r#"appsync_bridge_config_reloads_total{result="applied"} 0"#,
            r#"appsync_bridge_config_reloads_total{result="refused"} 1"#,
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }
}
