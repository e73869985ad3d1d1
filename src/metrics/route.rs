//! Numbers of routes.

use prometheus_client::metrics::counter::Counter;

use super::{Labelled, Metrics, counts, label, with};

/// Numbers of one route.
#[derive(Clone, Debug)]
pub struct RouteMetrics {
    /// Messages the route took.
    pub matched: Counter,
    /// Messages that a program of the route made no event of.
    pub filtered: Counter,
    rejected: Labelled,
}

impl Metrics {
    /// The numbers of a route, from zero for each of `reasons`.
    pub fn route(
        &self,
        name: &str,
        reasons: impl IntoIterator<Item = &'static str>,
    ) -> RouteMetrics {
        let labels = &label("route", name);
        let rejected = |reason: &'static str| {
            let help = "Messages a route could make no event of";
            (reason, self.one("route_rejected", help, &with(labels, "reason", reason)))
        };
        let metrics = RouteMetrics {
            matched: self.one("route_matched", "Messages a route took", labels),
            filtered: self.one("route_filtered", "Messages a route left out on purpose", labels),
            rejected: reasons.into_iter().map(rejected).collect(),
        };
        self.made.lock().routes.insert(name.to_owned(), metrics.clone());
        metrics
    }

    /// The numbers of a route, if any were made.
    pub fn made_route(&self, name: &str) -> Option<RouteMetrics> {
        self.made.lock().routes.get(name).cloned()
    }
}

impl RouteMetrics {
    /// A message is rejected for `reason`, one of those the metrics were made with.
    pub fn reject(&self, reason: &'static str) {
        if let Some(counter) = self.rejected.get(reason) {
            counter.inc();
        }
    }

    /// The rejections by reason.
    pub fn rejected(&self) -> impl Iterator<Item = (&'static str, u64)> {
        counts(&self.rejected)
    }
}
