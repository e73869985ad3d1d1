//! What happens, as numbers. Every name and every label of a metric stands here once.
//!
//! Labels come from the configuration (source, route, API) or from a fixed list of words; never a
//! topic, a channel or a key. Series with known labels exist from the start, at zero, so that an alert
//! can tell "nothing yet" from "no such thing".

mod jetstream;
mod kafka;
mod lag;
mod mqtt;
#[cfg(feature = "otlp")]
mod otlp;
mod sqs;

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use parking_lot::Mutex;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry};

pub use jetstream::JetStreamMetrics;
pub use kafka::{KafkaMetrics, PartitionMetrics};
use lag::Lag;
pub use mqtt::MqttMetrics;
#[cfg(feature = "otlp")]
pub use otlp::OtlpMetrics;
pub use sqs::SqsMetrics;

/// The content type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The outcomes of a message, the best first: by the rank of `delivery::Outcome`.
pub const OUTCOMES: [&str; 10] = [
    "published",
    "unrouted",
    "filtered",
    "superseded",
    "unconfirmed",
    "expired",
    "discarded",
    "dead_lettered",
    "left_to_broker",
    "released",
];

type Labels = Vec<(&'static str, String)>;

/// What is registered; cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    registered: Arc<Mutex<Registered>>,
    /// What was made with which names: for people, who are shown all that there is.
    made: Arc<Mutex<Made>>,
    dead_letter_files_removed: Counter,
}

/// By name. The labels that only the maker knows are in them.
#[derive(Default)]
struct Made {
    routes: BTreeMap<String, RouteMetrics>,
    apis: BTreeMap<String, ApiMetrics>,
    dead_letters: BTreeMap<String, DeadLetterMetrics>,
    lags: BTreeMap<String, Lag>,
}

struct Registered {
    registry: Registry,
    /// By name: the registry itself can't be asked for one.
    families: HashMap<&'static str, Box<dyn Any + Send>>,
}

/// Numbers of one source.
#[derive(Clone, Debug)]
pub struct SourceMetrics {
    /// Messages taken.
    pub received: Counter,
    /// Messages that are no longer in flight, by the worst end of their events, as [`OUTCOMES`] stand.
    pub settled: [Counter; OUTCOMES.len()],
    /// Messages between the oldest not yet acknowledged and the newest taken.
    pub in_flight: Gauge,
    /// Bytes of payload and rendered events held for them.
    pub in_flight_bytes: Gauge,
    /// 1 while connected.
    pub connected: Gauge,
    /// Connections after the first.
    pub reconnects: Counter,
    /// Connections that found the broker had forgotten the session.
    pub session_lost: Counter,
    /// Messages taken beyond the limits in flight, since the broker sent them.
    pub over_limit: Counter,
    /// Copies of messages that overlapping subscriptions brought and that were not taken.
    pub copies_skipped: Counter,
    /// Messages that could not be held and that nobody will send again.
    pub dropped: Counter,
    /// Messages that no route takes.
    pub unrouted: Counter,
}

/// Numbers of one route.
#[derive(Clone, Debug)]
pub struct RouteMetrics {
    /// Messages the route took.
    pub matched: Counter,
    rejected: Labelled,
}

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
    /// Events that passed a batch-mate of their key that failed alone.
    pub reordered: Counter,
    /// Requests that may have been processed although no answer came.
    pub ambiguous: Counter,
    requests: Labelled,
    retries: Labelled,
}

/// Numbers of one dead letter.
#[derive(Clone, Debug)]
pub struct DeadLetterMetrics {
    /// The series of the reason, which all dead letters share, and this one's part of it.
    written: BTreeMap<&'static str, (Counter, Counter)>,
}

/// The series of a family by a label whose values are known when it is made.
type Labelled = BTreeMap<&'static str, Counter>;

impl Metrics {
    /// An empty registry with `build_info`.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("appsync_bridge");
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "Which version runs", build);
        let dead_letter_files_removed = Counter::default();
        registry.register(
            "dead_letter_files_removed",
            "Dead-letter files removed with all they held, because of `max_files`",
            dead_letter_files_removed.clone(),
        );
        let registered = Registered { registry, families: HashMap::new() };
        let registered = Arc::new(Mutex::new(registered));
        Self { registered, made: Arc::default(), dead_letter_files_removed }
    }

    /// The numbers of a source, from zero.
    pub fn source(&self, name: &str) -> SourceMetrics {
        let labels = &label("source", name);
        let settled = self.family(
            "source_settled",
            "Messages no longer in flight, by what became of them: the worst of their events",
            Counter::default,
        );
        let counter = |name, help| -> Counter { self.one(name, help, labels) };
        let gauge = |name, help| -> Gauge { self.one(name, help, labels) };
        SourceMetrics {
            received: counter("source_received", "Messages taken from the broker"),
            settled: OUTCOMES
                .map(|outcome| settled.get_or_create_owned(&with(labels, "outcome", outcome))),
            in_flight: gauge("source_in_flight", "Messages taken and not yet acknowledged"),
            in_flight_bytes: gauge("source_in_flight_bytes", "Bytes held for messages in flight"),
            connected: gauge("source_connected", "1 while connected to the broker"),
            reconnects: counter("source_reconnects", "Connections after the first"),
            session_lost: counter(
                "source_session_lost",
                "Connections that found the session forgotten",
            ),
            over_limit: counter("source_over_limit", "Messages beyond the limits"),
            copies_skipped: counter("source_copies_skipped", "Copies not taken"),
            dropped: counter("source_dropped", "Messages that could not be held and are lost"),
            unrouted: counter("unrouted", "Messages that no route takes"),
        }
    }

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
            rejected: reasons.into_iter().map(rejected).collect(),
        };
        self.made.lock().routes.insert(name.to_owned(), metrics.clone());
        metrics
    }

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
        let histogram =
            |name, help, make| self.family(name, help, make).get_or_create_owned(labels);
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
            paused: gauge("api_paused", "1 while the API or a namespace of it refuses us"),
            expired: counter("expired", "Events too old when their turn came"),
            reordered: counter("reordered", "Events that passed a batch-mate of their key"),
            ambiguous: counter(
                "ambiguous",
                "Requests that may have been processed without an answer",
            ),
        };
        self.made.lock().apis.insert(name.to_owned(), metrics.clone());
        metrics
    }

    /// The numbers of a dead letter, from zero for each of `reasons`.
    pub fn dead_letter(
        &self,
        name: &str,
        reasons: impl IntoIterator<Item = &'static str>,
    ) -> DeadLetterMetrics {
        let written = |reason: &'static str| {
            let help = "Messages written to a dead letter";
            let all = self.one("dead_letters", help, &label("reason", reason));
            (reason, (all, Counter::default()))
        };
        let metrics = DeadLetterMetrics { written: reasons.into_iter().map(written).collect() };
        self.made.lock().dead_letters.insert(name.to_owned(), metrics.clone());
        metrics
    }

    /// The numbers of a route, if any were made.
    pub fn made_route(&self, name: &str) -> Option<RouteMetrics> {
        self.made.lock().routes.get(name).cloned()
    }

    /// The numbers of an API, if any were made.
    pub fn made_api(&self, name: &str) -> Option<ApiMetrics> {
        self.made.lock().apis.get(name).cloned()
    }

    /// The numbers of a dead letter, if any were made.
    pub fn made_dead_letter(&self, name: &str) -> Option<DeadLetterMetrics> {
        self.made.lock().dead_letters.get(name).cloned()
    }

    /// Messages that a source has not taken or acknowledged yet, of all it takes from; `None` where the broker does
    /// not tell, or has not told yet.
    pub fn lag(&self, source: &str) -> Option<i64> {
        self.made.lock().lags.get(source)?.sum()
    }

    /// The gauges that make up the lag of a source.
    fn lag_of(&self, source: &str) -> Lag {
        self.made.lock().lags.entry(source.to_owned()).or_default().clone()
    }

    /// The end of the certificates in the file of `key`, of an `api` or a `source`.
    pub fn certificate_expiry(&self, owner: &'static str, name: &str, key: &str) -> Gauge {
        self.one(
            "certificate_expiry_timestamp_seconds",
            "When a certificate in a file ends, in seconds since 1970; of several CAs the next",
            &with(&label(owner, name), "file", key),
        )
    }

    /// The counter of dead-letter files that made room for newer ones.
    pub fn dead_letter_files_removed(&self) -> Counter {
        self.dead_letter_files_removed.clone()
    }

    /// Everything as OpenMetrics text.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        if encode(&mut text, &self.registered.lock().registry).is_err() {
            let _ = write!(text, "# EOF");
        }
        text
    }

    /// The counter of messages without a payload that a source skips.
    fn tombstones(&self, labels: &Labels) -> Counter {
        self.one("source_tombstones", "Messages without a payload that were skipped", labels)
    }

    /// One series of a family, from zero.
    fn one<M: Clone + Default>(&self, name: &'static str, help: &str, labels: &Labels) -> M
    where
        Family<Labels, M>: Metric,
    {
        self.family(name, help, M::default).get_or_create_owned(labels)
    }

    /// The family of a name, registered when it is first asked for.
    fn family<M>(&self, name: &'static str, help: &str, make: fn() -> M) -> Family<Labels, M>
    where
        Family<Labels, M>: Metric,
    {
        let Registered { registry, families } = &mut *self.registered.lock();
        if let Some(known) = families.get(name).and_then(|family| family.downcast_ref()) {
            return Family::clone(known);
        }
        let family = Family::new_with_constructor(make);
        registry.register(name, help, family.clone());
        families.insert(name, Box::new(family.clone()));
        family
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
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

impl DeadLetterMetrics {
    /// A letter was written for `reason`, one of those the metrics were made with.
    pub fn wrote(&self, reason: &'static str) {
        if let Some((all, own)) = self.written.get(reason) {
            all.inc();
            own.inc();
        }
    }

    /// The letters by reason.
    pub fn written(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.written.iter().map(|(reason, (_, own))| (*reason, own.get()))
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

    /// The requests by result.
    pub fn requests(&self) -> impl Iterator<Item = (&'static str, u64)> {
        counts(&self.requests)
    }

    /// The events that were tried again, by fault.
    pub fn retries(&self) -> impl Iterator<Item = (&'static str, u64)> {
        counts(&self.retries)
    }
}

fn counts(series: &Labelled) -> impl Iterator<Item = (&'static str, u64)> {
    series.iter().map(|(label, counter)| (*label, counter.get()))
}

fn label(name: &'static str, value: &str) -> Labels {
    vec![(name, value.to_owned())]
}

fn with(labels: &Labels, name: &'static str, value: &str) -> Labels {
    let mut labels = labels.clone();
    labels.push((name, value.to_owned()));
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_series_exist_from_the_start_at_zero() {
        let metrics = Metrics::new();
        let source = metrics.source("plant");
        let route = metrics.route("telemetry", ["invalid_json"]);
        let api = metrics.api("main", ["ok"], ["throttled"]);
        source.received.inc_by(3);
        api.seconds.observe(0.01);
        let text = metrics.encode();
        for outcome in OUTCOMES {
            let series =
                format!("source_settled_total{{source=\"plant\",outcome=\"{outcome}\"}} 0");
            assert!(text.contains(&series), "{series} in\n{text}");
        }
        for line in [
            r#"appsync_bridge_source_received_total{source="plant"} 3"#,
            r#"appsync_bridge_route_rejected_total{route="telemetry",reason="invalid_json"} 0"#,
            r#"appsync_bridge_publish_requests_total{api="main",result="ok"} 0"#,
            r#"appsync_bridge_publish_retries_total{api="main",fault="throttled"} 0"#,
            r#"appsync_bridge_publish_request_seconds_count{api="main"} 1"#,
            "appsync_bridge_build_info{version=",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
        assert_eq!(route.rejected().collect::<Vec<_>>(), [("invalid_json", 0)]);
    }

    #[test]
    fn what_was_made_is_found_again_by_its_name() {
        let metrics = Metrics::new();
        assert!(metrics.made_route("a").is_none() && metrics.made_api("main").is_none());
        metrics.route("a", ["x", "y"]).reject("y");
        metrics.route("b", ["x"]).reject("x");
        metrics.api("main", ["ok", "cut"], ["cut"]).request("ok");
        metrics.api("main", ["ok", "cut"], ["cut"]).retry("cut", 3);
        let [one, two] = ["one", "two"].map(|name| metrics.dead_letter(name, ["refused"]));
        (0..3).for_each(|_| one.wrote("refused"));
        two.wrote("refused");

        let route = metrics.made_route("a").unwrap();
        assert_eq!(route.rejected().collect::<Vec<_>>(), [("x", 0), ("y", 1)]);
        let api = metrics.made_api("main").unwrap();
        assert_eq!(api.requests().collect::<Vec<_>>(), [("cut", 0), ("ok", 1)]);
        assert_eq!(api.retries().collect::<Vec<_>>(), [("cut", 3)]);
        let written = |name| metrics.made_dead_letter(name).unwrap().written().next();
        assert_eq!([written("one"), written("two")], [3, 1].map(|n| Some(("refused", n))));
        let all = "appsync_bridge_dead_letters_total{reason=\"refused\"} 4\n";
        assert!(metrics.encode().contains(all), "{}", metrics.encode());
    }
}
