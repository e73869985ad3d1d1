//! What happens, as numbers. Every name and every label of a metric stands here once.
//!
//! Labels come from the configuration (source, route, API) or from a fixed list of words; never a
//! topic, a channel or a key. Series with known labels exist from the start, at zero, so that an alert
//! can tell "nothing yet" from "no such thing".

mod kafka;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

pub use kafka::{KafkaMetrics, PartitionMetrics};

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

/// The registry and its families; cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    families: Arc<Families>,
    publish_seconds: Histograms,
    publish_batch: Histograms,
    kafka: Arc<OnceLock<kafka::Families>>,
}

/// A histogram has no default buckets, so its family has a constructor.
type Histograms = Family<Labels, Histogram, fn() -> Histogram>;

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
    name: String,
    rejected: Family<Labels, Counter>,
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
    /// Events that passed a batch-mate of their key that failed alone.
    pub reordered: Counter,
    /// Requests that may have been processed although no answer came.
    pub ambiguous: Counter,
    requests: BTreeMap<&'static str, Counter>,
    retries: BTreeMap<&'static str, Counter>,
}

#[derive(Default)]
struct Families {
    source_received: Family<Labels, Counter>,
    source_settled: Family<Labels, Counter>,
    source_in_flight: Family<Labels, Gauge>,
    source_in_flight_bytes: Family<Labels, Gauge>,
    source_connected: Family<Labels, Gauge>,
    source_reconnects: Family<Labels, Counter>,
    session_lost: Family<Labels, Counter>,
    source_over_limit: Family<Labels, Counter>,
    copies_skipped: Family<Labels, Counter>,
    source_dropped: Family<Labels, Counter>,
    unrouted: Family<Labels, Counter>,
    route_matched: Family<Labels, Counter>,
    route_rejected: Family<Labels, Counter>,
    publish_events: Family<Labels, Counter>,
    publish_requests: Family<Labels, Counter>,
    publish_retries: Family<Labels, Counter>,
    concurrency: Family<Labels, Gauge>,
    rate: Family<Labels, Gauge<f64, AtomicU64>>,
    breaker: Family<Labels, Gauge>,
    paused: Family<Labels, Gauge>,
    reordered: Family<Labels, Counter>,
    ambiguous: Family<Labels, Counter>,
    dead_letters: Family<Labels, Counter>,
    certificate_expiry: Family<Labels, Gauge>,
    dead_letter_files_removed: Counter,
}

impl Metrics {
    /// An empty registry with `build_info`.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("appsync_bridge");
        let f = Families::default();
        let publish_seconds: Histograms =
            Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.001, 2.0, 15)));
        let publish_batch: Histograms =
            Family::new_with_constructor(|| Histogram::new([1.0, 2.0, 3.0, 4.0, 5.0]));
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "Which version runs", build);
        let r = &mut registry;
        r.register("source_received", "Messages taken from the broker", f.source_received.clone());
        r.register(
            "source_settled",
            "Messages no longer in flight, by what became of them: the worst of their events",
            f.source_settled.clone(),
        );
        r.register(
            "source_in_flight",
            "Messages taken and not yet acknowledged",
            f.source_in_flight.clone(),
        );
        r.register(
            "source_in_flight_bytes",
            "Bytes held for messages in flight",
            f.source_in_flight_bytes.clone(),
        );
        r.register(
            "source_connected",
            "1 while connected to the broker",
            f.source_connected.clone(),
        );
        r.register("source_reconnects", "Connections after the first", f.source_reconnects.clone());
        r.register(
            "source_session_lost",
            "Connections that found the session forgotten",
            f.session_lost.clone(),
        );
        r.register("source_over_limit", "Messages beyond the limits", f.source_over_limit.clone());
        r.register("source_copies_skipped", "Copies not taken", f.copies_skipped.clone());
        r.register(
            "source_dropped",
            "Messages that could not be held and are lost",
            f.source_dropped.clone(),
        );
        r.register("unrouted", "Messages that no route takes", f.unrouted.clone());
        r.register("route_matched", "Messages a route took", f.route_matched.clone());
        r.register(
            "route_rejected",
            "Messages a route could make no event of",
            f.route_rejected.clone(),
        );
        r.register(
            "publish_events",
            "Events by what the API said of them",
            f.publish_events.clone(),
        );
        r.register("publish_requests", "Requests by how they ended", f.publish_requests.clone());
        r.register(
            "publish_retries",
            "Events tried again, by the fault",
            f.publish_retries.clone(),
        );
        r.register("publish_request_seconds", "Duration of requests", publish_seconds.clone());
        r.register("publish_batch_events", "Events a request", publish_batch.clone());
        r.register(
            "publish_concurrency_limit",
            "Requests that may be in flight",
            f.concurrency.clone(),
        );
        r.register("publish_rate_limit", "Events a second that may be sent", f.rate.clone());
        r.register("publish_breaker_open", "1 while the API does not answer", f.breaker.clone());
        r.register(
            "api_paused",
            "1 while the API or a namespace of it refuses us",
            f.paused.clone(),
        );
        r.register(
            "reordered",
            "Events that passed a batch-mate of their key",
            f.reordered.clone(),
        );
        r.register(
            "ambiguous",
            "Requests that may have been processed without an answer",
            f.ambiguous.clone(),
        );
        r.register("dead_letters", "Messages written to a dead letter", f.dead_letters.clone());
        register_certificates(r, &f);
        r.register(
            "dead_letter_files_removed",
            "Dead-letter files removed with all they held, because of `max_files`",
            f.dead_letter_files_removed.clone(),
        );
        Self {
            registry: Arc::new(Mutex::new(registry)),
            families: Arc::new(f),
            publish_seconds,
            publish_batch,
            kafka: Arc::default(),
        }
    }

    /// The numbers of a source, from zero.
    pub fn source(&self, name: &str) -> SourceMetrics {
        let f = &self.families;
        let labels = label("source", name);
        let settled = |outcome: &str| {
            f.source_settled.get_or_create_owned(&with(&labels, "outcome", outcome))
        };
        SourceMetrics {
            received: f.source_received.get_or_create_owned(&labels),
            settled: OUTCOMES.map(settled),
            in_flight: f.source_in_flight.get_or_create_owned(&labels),
            in_flight_bytes: f.source_in_flight_bytes.get_or_create_owned(&labels),
            connected: f.source_connected.get_or_create_owned(&labels),
            reconnects: f.source_reconnects.get_or_create_owned(&labels),
            session_lost: f.session_lost.get_or_create_owned(&labels),
            over_limit: f.source_over_limit.get_or_create_owned(&labels),
            copies_skipped: f.copies_skipped.get_or_create_owned(&labels),
            dropped: f.source_dropped.get_or_create_owned(&labels),
            unrouted: f.unrouted.get_or_create_owned(&labels),
        }
    }

    /// The numbers of a route, from zero for each of `reasons`.
    pub fn route(
        &self,
        name: &str,
        reasons: impl IntoIterator<Item = &'static str>,
    ) -> RouteMetrics {
        let f = &self.families;
        let metrics = RouteMetrics {
            matched: f.route_matched.get_or_create_owned(&label("route", name)),
            name: name.to_owned(),
            rejected: f.route_rejected.clone(),
        };
        for reason in reasons {
            let _ = metrics.rejected(reason);
        }
        metrics
    }

    /// The numbers of an API, from zero for each of `results` and `faults`.
    pub fn api(
        &self,
        name: &str,
        results: impl IntoIterator<Item = &'static str>,
        faults: impl IntoIterator<Item = &'static str>,
    ) -> ApiMetrics {
        let f = &self.families;
        let labels = label("api", name);
        let events = |outcome: &str| {
            f.publish_events.get_or_create_owned(&with(&labels, "outcome", outcome))
        };
        let series = |family: &Family<Labels, Counter>, name, value: &'static str| {
            (value, family.get_or_create_owned(&with(&labels, name, value)))
        };
        ApiMetrics {
            accepted: events("accepted"),
            unconfirmed: events("unconfirmed"),
            rejected: events("rejected"),
            seconds: self.publish_seconds.get_or_create_owned(&labels),
            batch: self.publish_batch.get_or_create_owned(&labels),
            concurrency: f.concurrency.get_or_create_owned(&labels),
            rate: f.rate.get_or_create_owned(&labels),
            breaker: f.breaker.get_or_create_owned(&labels),
            paused: f.paused.get_or_create_owned(&labels),
            reordered: f.reordered.get_or_create_owned(&labels),
            ambiguous: f.ambiguous.get_or_create_owned(&labels),
            requests: results
                .into_iter()
                .map(|r| series(&f.publish_requests, "result", r))
                .collect(),
            retries: faults.into_iter().map(|r| series(&f.publish_retries, "fault", r)).collect(),
        }
    }

    /// The counter of dead letters written for a reason.
    pub fn dead_letters(&self, reason: &'static str) -> Counter {
        self.families.dead_letters.get_or_create_owned(&label("reason", reason))
    }

    /// The end of the certificates in the file of `key`, of an `api` or a `source`.
    pub fn certificate_expiry(&self, owner: &'static str, name: &str, key: &str) -> Gauge {
        self.families.certificate_expiry.get_or_create_owned(&with(
            &label(owner, name),
            "file",
            key,
        ))
    }

    /// The counter of dead-letter files that made room for newer ones.
    pub fn dead_letter_files_removed(&self) -> Counter {
        self.families.dead_letter_files_removed.clone()
    }

    /// Everything as OpenMetrics text.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        let registry = self.registry.lock();
        if encode(&mut text, &registry).is_err() {
            let _ = write!(text, "# EOF");
        }
        text
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
    /// The counter of rejections for a reason.
    pub fn rejected(&self, reason: &'static str) -> Counter {
        self.rejected.get_or_create_owned(&with(&label("route", &self.name), "reason", reason))
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
}

fn register_certificates(r: &mut Registry, f: &Families) {
    r.register(
        "certificate_expiry_timestamp_seconds",
        "When a certificate in a file ends, in seconds since 1970; of several CAs the next",
        f.certificate_expiry.clone(),
    );
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
        let _ = metrics.route("telemetry", ["invalid_json"]);
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
    }
}
