//! What `/metrics` shows: the names, types and labels of a bridge with every kind of source, which nobody changes by
//! mistake, and the page that explains each. `UPDATE_FIXTURES=1` writes the list anew: read the difference.

mod promql;
mod queries;

pub(crate) use queries::names_what_is_there;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use appsync_bridge::metrics::Metrics;

use crate::support::PATIENCE;
use crate::support::bridge::Setup;
use crate::support::certificates::certificates;
use crate::support::{free_port, until};

/// Of a bridge that was just started, and of Kafka's partitions, which come with an assignment.
const LIST: &str = "tests/fixtures/metrics.txt";

const REFERENCE: &str = "config/METRICS.md";

const PREFIX: &str = "appsync_bridge_";

/// What is known of a metric; a label that is not on all of its series is in brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Family {
    kind: String,
    labels: BTreeSet<String>,
}

/// By name, without the prefix.
type Families = BTreeMap<String, Family>;

#[tokio::test(flavor = "multi_thread")]
async fn the_metrics_are_those_of_the_list_and_start_at_zero() {
    let directory = tempfile::tempdir().unwrap();
    certificates(directory.path());
    let (ca, port) = (directory.path().join("ca.pem"), free_port());
    // Nobody listens there: what is known from the configuration is there all the same.
    let broker = format!("127.0.0.1:{port}");
    let sources = format!(
        "[source.kafka]\ntype = \"kafka\"\nbrokers = [\"{broker}\"]\ngroup = \"g\"\ntopics = [\"t\"]\n\
         [source.nats]\ntype = \"nats\"\nservers = [\"nats://{broker}\"]\nsubjects = [\"s.>\"]\n\
         [source.jetstream]\ntype = \"jetstream\"\nservers = [\"nats://{broker}\"]\nstream = \"S\"\ndurable = \"d\"\n\
         [source.mqtt]\ntype = \"mqtt\"\nurl = \"mqtts://{broker}\"\nclient_id = \"c\"\nsubscriptions = [\"m/#\"]\n\
         tls = {{ ca_file = \"{ca}\" }}\n\
         [source.sqs]\ntype = \"sqs\"\nqueue = \"http://{broker}/000000000000/q\"\naws = {{ region = \"eu-west-1\" }}\n\
         [route.all]\nfrom = [\"kafka\", \"nats\", \"jetstream\", \"mqtt\", \"sqs\"]\nchannel = [\"/all/here\", \"/other\"]\n",
        ca = ca.display()
    );
    let api = format!("ca_file = \"{}\"\n", ca.display());
    let otlp = if cfg!(feature = "otlp") {
        format!(
            "[otlp]\nendpoint = \"http://{broker}\"\ntraces = true\nca_file = \"{}\"\n",
            ca.display()
        )
    } else {
        String::new()
    };
    let setup = Setup::of(&format!("http://{broker}/event"), &api, &sources, &otlp)
        .env("AWS_ACCESS_KEY_ID", "k")
        .env("AWS_SECRET_ACCESS_KEY", "s");
    let bridge = setup.start().await;
    let text = bridge.get("/metrics").await.1;

    let series: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    for (line, zero) in [
        ("delivery_seconds_count{source=\"sqs\"}", "0"),
        ("route_filtered_total{route=\"all\"}", "0"),
        ("superseded_total{api=\"main\"}", "0"),
        ("metered_units_total{api=\"main\"}", "0"),
        ("estimated_cost_total{api=\"main\",currency=\"USD\"}", "0.0"),
        ("api_paused{api=\"main\",namespace=\"all\"}", "0"),
        ("api_paused{api=\"main\",namespace=\"other\"}", "0"),
        ("source_in_flight_limit{source=\"mqtt\"}", "1000"),
        ("dead_letter_failing{dead_letter=\"rejects\"}", "0"),
    ] {
        let whole = format!("{PREFIX}{line} {zero}");
        assert!(series.contains(&whole.as_str()), "{whole} in\n{text}");
    }
    // In order, and in the same one at each scrape.
    let names = |text: &str| -> Vec<String> {
        text.lines().map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect()
    };
    let families: Vec<_> = text.lines().filter(|line| line.starts_with("# TYPE ")).collect();
    assert!(families.is_sorted(), "{families:#?}");
    assert_eq!(names(&text), names(&bridge.get("/metrics").await.1));

    let own = Metrics::new();
    let partition = own.kafka("kafka").partition("t", 0);
    let found = families_of(&[&text, &own.encode()]);
    drop(partition);
    let found: String = found
        .iter()
        .map(|(name, family)| format!("{name} {family}").trim_end().to_owned() + "\n")
        .collect();
    if std::env::var_os("UPDATE_FIXTURES").is_some() {
        fs::write(LIST, &found).unwrap();
    }
    let expected = fs::read_to_string(LIST).unwrap_or_default();
    assert_eq!(found, expected, "UPDATE_FIXTURES=1 takes what is found");
}

#[test]
fn every_metric_has_its_line_in_the_reference() {
    let (listed, text) = (listed(), fs::read_to_string(REFERENCE).unwrap());
    let mut explained = Families::new();
    for line in text.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, labels, what, _] = cells[..] else { panic!("five cells: {line}") };
        assert!(!what.is_empty(), "{line}");
        let labels = labels.split(", ").filter(|label| !label.is_empty()).map(str::to_owned);
        let family = Family { kind: kind.to_owned(), labels: labels.collect() };
        let twice = explained.insert(name.trim_matches('`').to_owned(), family);
        assert_eq!(twice, None, "explained twice: {name}");
    }
    for (name, family) in &listed {
        assert_eq!(explained.get(name), Some(family), "{name} in {REFERENCE}");
    }
    let gone: Vec<_> = explained.keys().filter(|name| !listed.contains_key(*name)).collect();
    assert!(gone.is_empty(), "{REFERENCE} explains what is not there: {gone:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_process_has_its_numbers_without_our_prefix() {
    let setup = Setup::new("http://127.0.0.1:9/event", free_port(), "", "", "");
    let bridge = setup.start().await;
    let start = bridge.metrics().await["process_start_time_seconds"];
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    assert!((now - 600.0..now + 2.0).contains(&start), "{start}, now {now}");
    until("it has used the processor", PATIENCE, async || {
        let metrics = bridge.metrics().await;
        assert_eq!(metrics["process_start_time_seconds"], start);
        assert!(metrics["process_resident_memory_bytes"] > 1e6, "{metrics:?}");
        assert!(metrics["process_open_fds"] > 3.0, "{metrics:?}");
        assert!(metrics["process_max_fds"] >= metrics["process_open_fds"], "{metrics:?}");
        assert!(metrics["process_threads"] >= 2.0, "{metrics:?}");
        (metrics["process_cpu_seconds_total"] > 0.0).then_some(())
    })
    .await;
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let labels: Vec<_> = self.labels.iter().map(String::as_str).collect();
        write!(f, "{} {}", self.kind, labels.join(","))
    }
}

/// The list, which another test holds to a running bridge.
fn listed() -> Families {
    let text = fs::read_to_string(LIST).unwrap();
    let family = |line: &str| {
        let cells: Vec<_> = line.splitn(3, ' ').collect();
        let labels = cells.get(2).unwrap_or(&"").split(',').filter(|label| !label.is_empty());
        let labels = labels.map(str::to_owned).collect();
        (cells[0].to_owned(), Family { kind: cells[1].to_owned(), labels })
    };
    text.lines().map(family).collect()
}

/// What the expositions hold, together.
fn families_of(texts: &[&str]) -> Families {
    let mut kinds = BTreeMap::new();
    let mut sets: BTreeMap<String, Vec<BTreeSet<String>>> = BTreeMap::new();
    for line in texts.iter().flat_map(|text| text.lines()) {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            let end = match kind {
                "counter" => "_total",
                "info" => "_info",
                _ => "",
            };
            kinds.insert(format!("{name}{end}"), kind.to_owned());
        } else if !line.starts_with('#') {
            let selector = promql::selectors(line.rsplit_once(' ').unwrap().0).remove(0);
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| {
                let base = selector.name.strip_suffix(end)?;
                (kinds.get(base)? == "histogram").then(|| base.to_owned())
            });
            let labels = selector.labels.into_iter().filter(|label| label != "le").collect();
            sets.entry(base.unwrap_or(selector.name)).or_default().push(labels);
        }
    }
    let family = |(name, kind): (String, String)| {
        let sets = &sets[&name];
        let all: BTreeSet<_> = sets.iter().flatten().collect();
        let labels = all.into_iter().map(|label| {
            let always = sets.iter().all(|set| set.contains(label));
            if always { label.clone() } else { format!("[{label}]") }
        });
        let short = name.strip_prefix(PREFIX).unwrap_or(&name).to_owned();
        (short, Family { kind, labels: labels.collect() })
    };
    kinds.into_iter().map(family).collect()
}
