//! What happens, as numbers. Every name and every label of a metric stands here once.
//!
//! Labels come from the configuration (source, route, API) or from a fixed list of words; never a
//! topic, but of Kafka's assigned partitions, nor a channel or a key. Series with known labels exist from the start, at zero, so that an alert
//! can tell "nothing yet" from "no such thing".

mod api;
mod daemon;
mod dead_letter;
mod exposition;
mod jetstream;
mod kafka;
mod lag;
mod latency;
mod mqtt;
mod route;
mod source;
mod sqs;

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use prometheus_client::encoding::text::encode_registry;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry};

pub use api::{ApiMetrics, Tariff};
#[cfg(feature = "otlp")]
pub use daemon::OtlpMetrics;
pub use daemon::{ReloadMetrics, build};
pub use dead_letter::{DeadLetterMetrics, Fails};
pub use jetstream::JetStreamMetrics;
pub use kafka::{KafkaMetrics, PartitionMetrics};
use lag::Lag;
pub use latency::{Latency, quantile};
pub use mqtt::MqttMetrics;
pub use route::RouteMetrics;
pub use source::{OUTCOMES, SourceMetrics};
pub use sqs::SqsMetrics;

/// The content type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const PREFIX: &str = "appsync_bridge";

const LAG: &str = "source_lag";
const HELP_OF_LAG: &str = "Messages not committed yet (Kafka; with none in flight, not read yet), or not delivered yet (JetStream)";
const CERTIFICATE_EXPIRY: &str = "certificate_expiry_timestamp_seconds";

type Labels = Vec<(&'static str, String)>;

/// What is registered; cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    registered: Arc<Mutex<Registered>>,
    /// What was made with which names: for people, who are shown all that there is.
    made: Arc<Mutex<Made>>,
    tariff: Arc<Tariff>,
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
    /// Of what has no prefix.
    process: Registry,
    /// By name: the registry itself can't be asked for one.
    families: HashMap<&'static str, Box<dyn Any + Send>>,
    /// What removes each series that was made, by its name and labels.
    series: BTreeMap<(&'static str, Labels), Box<dyn Fn() + Send>>,
}

/// The series of a family by a label whose values are known when it is made.
type Labelled = BTreeMap<&'static str, Counter>;

impl Metrics {
    /// An empty registry with `build_info`, and AWS's price.
    pub fn new() -> Self {
        Self::with_tariff(Tariff::default())
    }

    /// The same with a price of one's own.
    pub fn with_tariff(tariff: Tariff) -> Self {
        let mut registry = Registry::with_prefix(PREFIX);
        registry.register("build", "Which version runs", Info::new(build()));
        let dead_letter_files_removed = Counter::default();
        registry.register(
            "dead_letter_files_removed",
            "Dead-letter files removed with all they held, because of `max_files`",
            dead_letter_files_removed.clone(),
        );
        let registered = Registered {
            registry,
            process: daemon::process(),
            families: HashMap::new(),
            series: BTreeMap::new(),
        };
        let registered = Arc::new(Mutex::new(registered));
        Self {
            registered,
            made: Arc::default(),
            tariff: Arc::new(tariff),
            dead_letter_files_removed,
        }
    }

    /// Removes every series of a part that is gone: a `source`, a `route`, an `api` or a `dead_letter`.
    pub fn forget(&self, kind: &'static str, name: &str) {
        if kind == "api" {
            self.namespaces(name, []);
        }
        self.remove(|_, labels| labels.iter().any(|(key, of)| *key == kind && of == name));
        let mut made = self.made.lock();
        match kind {
            "source" => drop(made.lags.remove(name)),
            "route" => drop(made.routes.remove(name)),
            "api" => drop(made.apis.remove(name)),
            _ => drop(made.dead_letters.remove(name)),
        }
    }

    /// Removes the series of a part that `kind` has not: the part was of another kind before.
    pub fn forget_others(&self, part: &'static str, name: &str, kind: &Self) {
        let known: BTreeSet<_> = kind.registered.lock().series.keys().cloned().collect();
        // It ends with its certificates, which is told by them.
        let is_other = |series: &'static str, labels: &Labels| {
            let of_part = labels.iter().any(|(key, of)| *key == part && of == name);
            of_part && series != CERTIFICATE_EXPIRY && !known.contains(&(series, labels.clone()))
        };
        if self.registered.lock().series.keys().any(|(name, of)| *name == LAG && is_other(name, of))
        {
            self.lag_of(name).remove(&self.one(LAG, "", &label(part, name)));
        }
        self.remove(is_other);
        if !kind.made.lock().lags.contains_key(name) {
            self.made.lock().lags.remove(name);
        }
    }

    /// The ends of certificates, each of an `api`, a `source` or a `section` by its name, and by the key of the file, in
    /// seconds since 1970. Others are shown no more.
    pub fn certificates(&self, ends: &[(&'static str, &str, &'static str, i64)]) {
        let mut shown = BTreeSet::new();
        for (owner, name, key, end) in ends {
            let labels = with(&label(owner, name), "file", key);
            let gauge: Gauge = self.one(
                CERTIFICATE_EXPIRY,
                "When a certificate in a file ends, in seconds since 1970; of several CAs the next",
                &labels,
            );
            gauge.set(*end);
            shown.insert(labels);
        }
        self.remove(|series, labels| series == CERTIFICATE_EXPIRY && !shown.contains(labels));
    }

    fn remove(&self, gone: impl Fn(&'static str, &Labels) -> bool) {
        self.registered.lock().series.retain(|(series, labels), remove| {
            let gone = gone(series, labels);
            if gone {
                remove();
            }
            !gone
        });
    }

    /// The end of the credentials or the token that an `api`, a `source` or a `dead_letter` uses.
    fn credentials_expiry(&self, owner: &'static str, name: &str) -> Gauge {
        self.one(
            "credentials_expiry_timestamp_seconds",
            "When the credentials or the token in use end, in seconds since 1970; 0: never, or not known",
            &label(owner, name),
        )
    }

    /// The counter of dead-letter files that made room for newer ones.
    pub fn dead_letter_files_removed(&self) -> Counter {
        self.dead_letter_files_removed.clone()
    }

    /// Everything as OpenMetrics text, always in the same order.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        let registered = self.registered.lock();
        for registry in [&registered.registry, &registered.process] {
            // Writing to a string can't fail.
            let _ = encode_registry(&mut text, registry);
        }
        drop(registered);
        exposition::in_order(&text) + "# EOF\n"
    }

    /// One series of a family, from zero.
    fn one<M: Clone + Default>(&self, name: &'static str, help: &str, labels: &Labels) -> M
    where
        Family<Labels, M>: Metric,
    {
        self.series(name, help, labels, M::default)
    }

    /// The same, from what `make` makes.
    fn series<M: Clone>(
        &self,
        name: &'static str,
        help: &str,
        labels: &Labels,
        make: fn() -> M,
    ) -> M
    where
        Family<Labels, M>: Metric,
    {
        let family = self.family(name, help, make);
        let metric = family.get_or_create_owned(labels);
        let of = labels.clone();
        let remove = Box::new(move || {
            family.remove(&of);
        });
        self.registered.lock().series.insert((name, labels.clone()), remove);
        metric
    }

    /// The family of a name, registered when it is first asked for.
    fn family<M>(&self, name: &'static str, help: &str, make: fn() -> M) -> Family<Labels, M>
    where
        Family<Labels, M>: Metric,
    {
        let Registered { registry, families, .. } = &mut *self.registered.lock();
        if let Some(known) = families.get(name).and_then(|family| family.downcast_ref()) {
            return Family::clone(known);
        }
        let family = Family::new_with_constructor(make);
        registry.register(name, help, family.clone());
        families.insert(name, Box::new(family.clone()));
        family
    }
}

/// Sets `gauge` to the end that it is told, in seconds since 1970, or to 0.
pub fn ends_at(gauge: &Gauge) -> impl Fn(Option<SystemTime>) + Send + Sync + 'static {
    let gauge = gauge.clone();
    move |end| {
        let since = end.and_then(|end| end.duration_since(UNIX_EPOCH).ok());
        gauge.set(i64::try_from(since.unwrap_or_default().as_secs()).unwrap_or(i64::MAX));
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
    fn what_is_gone_has_no_series_and_begins_at_zero_when_it_comes_again() {
        let metrics = Metrics::new();
        let [gone, other] = ["gone", "other"].map(|name| metrics.source(name));
        gone.received.inc_by(3);
        other.received.inc_by(4);
        let _ = metrics.jetstream("gone");
        let _ = metrics.jetstream("gone");
        metrics.certificates(&[("source", "gone", "ca_file", 5)]);
        metrics.api("gone", ["ok"], []).seconds.observe(1.0);
        assert_eq!(metrics.lag("gone"), Some(0));
        metrics.forget("source", "gone");
        let text = metrics.encode();
        assert!(!text.contains(r#"source="gone""#) && text.contains(r#"api="gone""#), "{text}");
        assert!(text.contains(r#"source_received_total{source="other"} 4"#), "{text}");
        assert_eq!(metrics.lag("gone"), None);
        // Its last messages are counted where nobody sees it.
        gone.received.inc();
        assert_eq!(metrics.source("gone").received.get(), 0);
    }

    #[test]
    fn what_only_another_kind_has_is_forgotten_alone() {
        let (metrics, kafka) = (Metrics::new(), Metrics::new());
        let _ = (kafka.source("it"), kafka.kafka("it"));
        metrics.source("it").received.inc();
        metrics.jetstream("it").lag.set(7);
        metrics.jetstream("other").lag.set(8);
        metrics.certificates(&[("source", "it", "ca_file", 5)]);
        let partition = metrics.kafka("it").partition("t", 0);
        partition.lag.set(3);
        assert_eq!(metrics.lag("it"), Some(10));
        metrics.forget_others("source", "it", &kafka);
        assert_eq!((metrics.lag("it"), metrics.lag("other")), (Some(3), Some(8)));
        let text = metrics.encode();
        for (name, there) in
            [("ack_pending", false), ("rebalances_total", true), ("received_total", true)]
        {
            assert_eq!(text.contains(&format!("source_{name}{{source=\"it\"}}")), there, "{name}");
        }
        assert!(text.contains("certificate_expiry_timestamp_seconds{source=\"it\""), "{text}");
        assert!(!text.contains("source_lag{source=\"it\"}"), "{text}");
    }

    #[test]
    fn certificates_that_are_used_no_more_are_not_shown() {
        let metrics = Metrics::new();
        let shown = |text: &str| metrics.encode().contains(text);
        metrics
            .certificates(&[("api", "main", "ca_file", 5), ("section", "admin", "cert_file", 6)]);
        assert!(shown("seconds{api=\"main\",file=\"ca_file\"} 5"));
        assert!(shown("seconds{section=\"admin\",file=\"cert_file\"} 6"));
        metrics.certificates(&[("section", "admin", "cert_file", 7)]);
        assert!(!shown("api=\"main\"") && shown("section=\"admin\",file=\"cert_file\"} 7"));
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
        let one_again = metrics.dead_letter("one", ["refused"]);
        (0..2).for_each(|_| one.wrote("refused"));
        one_again.wrote("refused");
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
