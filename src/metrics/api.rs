//! Numbers of APIs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

use super::{Labelled, Metrics, counts, label, with};

const PAUSED: &str = "api_paused";

const PAUSED_HELP: &str =
    "1 while the API or a namespace of it refuses us; with a namespace, of that one";

/// Numbers of one API.
#[derive(Clone, Debug)]
pub struct ApiMetrics {
    /// Events that the API accepted.
    pub accepted: Counter,
    /// Events that a good answer named in neither list.
    pub unconfirmed: Counter,
    /// Events that the API will never take.
    pub rejected: Counter,
    /// How long a request took, in seconds.
    pub seconds: Histogram,
    /// Events a request.
    pub batch: Histogram,
    /// The adaptive limit of requests in flight.
    pub concurrency: Gauge,
    /// Events a second that the rate gate lets out.
    pub rate: Gauge<f64, AtomicU64>,
    /// 1 while the breaker is open: the API does not answer.
    pub breaker: Gauge,
    /// 1 while the API or a namespace of it refuses us.
    pub paused: Gauge,
    /// Events that were of no use any more when their turn came.
    pub expired: Counter,
    /// Events that a newer one of their key replaced before their turn came.
    pub superseded: Counter,
    /// Events that passed a batch-mate of their key that failed alone.
    pub reordered: Counter,
    /// Requests that may have been processed although no answer came.
    pub ambiguous: Counter,
    /// When the credentials or the token in use end, in seconds since 1970; 0 where that is not known.
    pub credentials_expiry: Gauge,
    /// Units of the size that AWS meters by.
    pub metered: Counter,
    /// What these cost, by the tariff.
    pub cost: Counter<f64, AtomicU64>,
    tariff: Arc<Tariff>,
    /// 1 while a namespace that a route publishes to is refused, or the API as a whole.
    namespaces: Arc<Mutex<BTreeMap<String, Gauge>>>,
    requests: Labelled,
    retries: Labelled,
}

/// What publishing costs.
#[derive(Clone, Debug, PartialEq)]
pub struct Tariff {
    /// Of a million units.
    pub per_million: f64,
    /// In this currency.
    pub currency: String,
    /// The size of a unit in bytes; an event has one at least.
    pub unit: u64,
}

impl Default for Tariff {
    /// AWS's price list of September 2026. What a published batch counts is not documented: each event is taken
    /// for an operation, and each 5 KB begun of it.
    fn default() -> Self {
        Self { per_million: 1.0, currency: "USD".to_owned(), unit: 5_000 }
    }
}

impl Metrics {
    /// The numbers of an API, from zero for each of `results` and `faults`.
    pub fn api(
        &self,
        name: &str,
        results: impl IntoIterator<Item = &'static str>,
        faults: impl IntoIterator<Item = &'static str>,
    ) -> ApiMetrics {
        let labels = &label("api", name);
        let events = |outcome: &str| {
            let help = "Events by what the API said of them";
            self.one("publish_events", help, &with(labels, "outcome", outcome))
        };
        let request = |result: &'static str| {
            let help = "Requests by how they ended";
            (result, self.one("publish_requests", help, &with(labels, "result", result)))
        };
        let retry = |fault: &'static str| {
            let help = "Events tried again, by the fault";
            (fault, self.one("publish_retries", help, &with(labels, "fault", fault)))
        };
        let counter = |name, help| -> Counter { self.one(name, help, labels) };
        let gauge = |name, help| -> Gauge { self.one(name, help, labels) };
        let histogram = |name, help, make| self.series(name, help, labels, make);
        let metrics = ApiMetrics {
            accepted: events("accepted"),
            unconfirmed: events("unconfirmed"),
            rejected: events("rejected"),
            requests: results.into_iter().map(request).collect(),
            retries: faults.into_iter().map(retry).collect(),
            seconds: histogram("publish_request_seconds", "Duration of requests", || {
                Histogram::new(exponential_buckets(0.001, 2.0, 15))
            }),
            batch: histogram("publish_batch_events", "Events a request", || {
                Histogram::new([1.0, 2.0, 3.0, 4.0, 5.0])
            }),
            concurrency: gauge("publish_concurrency_limit", "Requests that may be in flight"),
            rate: self.one("publish_rate_limit", "Events a second that may be sent", labels),
            breaker: gauge("publish_breaker_open", "1 while the API does not answer"),
            paused: gauge(PAUSED, PAUSED_HELP),
            credentials_expiry: self.credentials_expiry("api", name),
            metered: counter(
                "metered_units",
                "Units that AWS meters, of events that were published",
            ),
            cost: self.one(
                "estimated_cost",
                "What publishing cost by `[cost]`, without deliveries to subscribers",
                &with(labels, "currency", &self.tariff.currency),
            ),
            tariff: Arc::clone(&self.tariff),
            namespaces: self.made_api(name).map(|api| api.namespaces).unwrap_or_default(),
            expired: counter("expired", "Events too old when their turn came"),
            reordered: counter("reordered", "Events that passed a batch-mate of their key"),
            superseded: counter("superseded", "Events that a newer one of their key replaced"),
            ambiguous: counter(
                "ambiguous",
                "Requests that may have been processed without an answer",
            ),
        };
        self.made.lock().apis.insert(name.to_owned(), metrics.clone());
        metrics
    }

    /// From now on the routes publish to these namespaces of an API that was made: each has a series.
    pub fn namespaces<'n>(&self, api: &str, names: impl IntoIterator<Item = &'n str>) {
        let Some(metrics) = self.made_api(api) else { return };
        let names: BTreeSet<_> = names.into_iter().collect();
        let paused = self.family(PAUSED, PAUSED_HELP, Gauge::default);
        let of = |name: &str| with(&label("api", api), "namespace", name);
        let mut known = metrics.namespaces.lock();
        known.retain(|name, _| names.contains(name.as_str()) || !paused.remove(&of(name)));
        for name in names {
            let gauge = || paused.get_or_create_owned(&of(name));
            known.entry(name.to_owned()).or_insert_with(gauge);
        }
    }

    /// The numbers of an API, if any were made.
    pub fn made_api(&self, name: &str) -> Option<ApiMetrics> {
        self.made.lock().apis.get(name).cloned()
    }
}

impl ApiMetrics {
    /// A request ended with `result`, one of those the metrics were made with.
    pub fn request(&self, result: &'static str) {
        if let Some(counter) = self.requests.get(result) {
            counter.inc();
        }
    }

    /// `events` are tried again because of `fault`, one of those the metrics were made with.
    pub fn retry(&self, fault: &'static str, events: usize) {
        if let Some(counter) = self.retries.get(fault) {
            counter.inc_by(events as u64);
        }
    }

    /// An event of so many bytes was published.
    pub fn meter(&self, bytes: usize) {
        let units = (bytes as u64).div_ceil(self.tariff.unit.max(1)).max(1);
        self.metered.inc_by(units);
        #[allow(clippy::cast_precision_loss)] // money
        self.cost.inc_by(units as f64 * self.tariff.per_million / 1e6);
    }

    /// What a unit costs.
    pub fn tariff(&self) -> &Tariff {
        &self.tariff
    }

    /// Which namespaces are refused: those of which `refused` says so.
    pub fn namespaces_paused(&self, refused: impl Fn(&str) -> bool) {
        for (name, gauge) in &*self.namespaces.lock() {
            gauge.set(i64::from(refused(name)));
        }
    }

    /// The requests by result.
    pub fn requests(&self) -> impl Iterator<Item = (&'static str, u64)> {
        counts(&self.requests)
    }

    /// The events that were tried again, by fault.
    pub fn retries(&self) -> impl Iterator<Item = (&'static str, u64)> {
        counts(&self.retries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_metered_by_the_units_that_it_begins() {
        let tariff = Tariff { per_million: 500_000.0, currency: "EUR".to_owned(), unit: 1_000 };
        let metrics = Metrics::with_tariff(tariff);
        let api = metrics.api("main", [], []);
        for (bytes, units) in [(0, 1), (1_000, 2), (1_001, 4), (12_000, 16)] {
            api.meter(bytes);
            assert_eq!(api.metered.get(), units, "{bytes}");
        }
        let cost = "appsync_bridge_estimated_cost_total{api=\"main\",currency=\"EUR\"} 8.0\n";
        assert!(metrics.encode().contains(cost), "{}", metrics.encode());
        assert_eq!(Tariff::default().unit, 5_000);
    }

    #[test]
    fn a_namespace_has_a_series_as_long_as_a_route_names_it() {
        let metrics = Metrics::new();
        metrics.namespaces("main", ["a"]);
        let api = metrics.api("main", [], []);
        metrics.namespaces("main", ["a", "b", "a"]);
        api.namespaces_paused(|name| name == "b");
        let series = |name: &str, value| {
            let line = format!("api_paused{{api=\"main\",namespace=\"{name}\"}} {value}\n");
            metrics.encode().contains(&line)
        };
        assert!(series("a", 0) && series("b", 1));
        // The API is made anew, as for another endpoint.
        let api = metrics.api("main", [], []);
        metrics.namespaces("main", ["b", "c"]);
        assert!(series("b", 1) && series("c", 0) && !series("a", 0), "{}", metrics.encode());
        api.namespaces_paused(|_| false);
        assert!(series("b", 0));
        assert!(metrics.encode().contains("api_paused{api=\"main\"} 0\n"));
    }
}
