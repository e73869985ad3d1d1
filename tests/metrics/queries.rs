//! The alerts and the dashboard of `deploy`: they name what is there, and Prometheus answers each query of theirs from
//! a running bridge. Grafana itself is not there.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use super::promql::{groupings, selectors};
use super::{PREFIX, listed};
use crate::support::bridge::Setup;
use crate::support::emulator::Emulator;
use crate::support::mosquitto::Mosquitto;
use crate::support::producer::publish;
use crate::support::prometheus::{Prometheus, promtool};
use crate::support::{PATIENCE, until};

const DASHBOARD: &str = "deploy/grafana/appsync-bridge.json";

const ALERTS: &str = "deploy/prometheus/alerts.yml";

/// Panels that a healthy MQTT source with an API key has nothing for.
const EMPTY: [&str; 3] =
    ["Lag", "Events tried again, by fault", "Credentials and certificates end in"];

#[test]
fn promtool_is_content_and_every_alert_fires_in_its_test() {
    for arguments in [
        &["check", "config", "prometheus.yml"][..],
        &["check", "rules", "alerts.yml"],
        &["test", "rules", "alerts.test.yml"],
    ] {
        let output = promtool(arguments).current_dir("deploy/prometheus").output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(output.status.success() && said.contains("SUCCESS"), "{arguments:?}: {said}");
    }
    let (rules, tests) = (
        fs::read_to_string(ALERTS).unwrap(),
        fs::read_to_string("deploy/prometheus/alerts.test.yml").unwrap(),
    );
    let readme = fs::read_to_string("deploy/README.md").unwrap();
    let alerts: Vec<_> =
        rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 15, "{alerts:?}");
    for alert in alerts {
        assert!(tests.contains(&format!("alertname=\"{alert}\"")), "{alert} has no test");
        assert!(
            readme.contains(&format!("`{}`", alert.trim_start_matches("AppsyncBridge"))),
            "{alert} is not in deploy/README.md"
        );
    }
    let each = ["severity: ", "summary: ", "description: ", "action: "];
    let counts = each.map(|key| rules.lines().filter(|line| line.contains(key)).count());
    assert_eq!(counts, [rules.matches("- alert: ").count(); 4]);
}

#[test]
fn what_they_name_is_there() {
    let rules = expressions_of_rules();
    let (dashboard, queries) = queries();
    assert!(rules.len() > 15 && queries.len() > 40, "{} {}", rules.len(), queries.len());
    let annotation = dashboard["annotations"]["list"][0]["expr"].as_str().unwrap();
    let shown = queries.iter().map(|query| query.expression.as_str()).chain([annotation]);
    for expression in rules.into_iter().chain(shown.map(filled_in)) {
        names_what_is_there(&expression);
    }
    for Query { expression, legend, .. } in &queries {
        let known = labels_of(&filled_in(expression));
        for label in legend.split("{{").skip(1).map(|rest| rest.split("}}").next().unwrap()) {
            assert!(known.contains(label), "{label} of the legend of {expression}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_answers_every_query_from_a_running_bridge() {
    let (emulator, plant) = (Emulator::start(&[]), Mosquitto::start("").await);
    let setup = Setup::new(&emulator.endpoint, plant.port, "", "", "");
    let bridge = setup.start_ready().await;
    let prometheus = Prometheus::start(bridge.admin(), ALERTS).await;
    let message = |id: u64| {
        // Some are no JSON.
        let payload = if id % 20 == 3 { "{".to_owned() } else { format!("{{\"id\":{id}}}") };
        (format!("plant/dev-{}/data", id % 7), payload.into_bytes())
    };
    publish(plant.port, 100, (0..600).map(message)).await;
    bridge.metric_is("source_received_total{source=\"plant\"}", |n| n == 600.0).await;

    let counted = "sum(appsync_bridge_source_received_total) == 600";
    until("Prometheus has it all", PATIENCE, async || {
        (!prometheus.ask(counted).await.is_empty()).then_some(())
    })
    .await;
    let mut silent = BTreeSet::new();
    for Query { title, expression, .. } in queries().1 {
        let expression = filled_in(&expression);
        if prometheus.ask(&expression).await.is_empty() {
            silent.insert(title);
        }
    }
    assert_eq!(silent, BTreeSet::from(EMPTY.map(str::to_owned)));
    let received = filled_in(
        "sum(increase(appsync_bridge_source_received_total{instance=~\"$instance\"}[$__range]))",
    );
    let received: f64 =
        prometheus.ask(&received).await[0]["value"][1].as_str().unwrap().parse().unwrap();
    assert!((300.0..900.0).contains(&received), "{received}");
    prometheus.rules_are_well(expressions_of_rules().len()).await;
}

/// A query of a panel.
struct Query {
    title: String,
    expression: String,
    legend: String,
}

fn queries() -> (Value, Vec<Query>) {
    let text = fs::read_to_string(DASHBOARD).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut all = Vec::new();
    let mut ids = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
        for target in panel["targets"].as_array().into_iter().flatten() {
            let (expression, legend) = (text(&target["expr"]), text(&target["legendFormat"]));
            all.push(Query { title: text(&panel["title"]), expression, legend });
        }
    }
    (dashboard, all)
}

fn filled_in(expression: &str) -> String {
    let variables =
        [("$__rate_interval", "1m"), ("$__range", "5m"), ("$job", ".*"), ("$instance", ".*")];
    let filled = variables
        .iter()
        .fold(expression.to_owned(), |text, (name, value)| text.replace(name, value));
    assert!(!filled.contains('$'), "{filled}");
    filled
}

/// The expressions of the alerts: blocks of lines.
fn expressions_of_rules() -> Vec<String> {
    let rules = fs::read_to_string(ALERTS).unwrap();
    let blocks = rules.split("expr: |\n").skip(1);
    let deep = |line: &&str| line.starts_with("          ");
    blocks
        .map(|block| block.lines().take_while(deep).map(str::trim).collect::<Vec<_>>().join("\n"))
        .collect()
}

/// The labels that a series of this metric can have, a target's among them.
fn labels_of_metric(name: &str) -> BTreeSet<String> {
    let listed = listed();
    let short = name.strip_prefix(PREFIX).unwrap_or(name);
    let part = ["_bucket", "_sum", "_count"].iter().find_map(|end| short.strip_suffix(end));
    let histogram =
        part.and_then(|base| listed.get(base)).filter(|family| family.kind == "histogram");
    let family = histogram.or(listed.get(short));
    let own = match family {
        Some(family) => {
            family.labels.iter().map(|label| label.trim_matches(['[', ']']).to_owned()).collect()
        }
        None if name == "up" => BTreeSet::new(),
        None => panic!("no metric is called {name}"),
    };
    let target = ["job", "instance"].map(str::to_owned);
    let le = histogram.map(|_| "le".to_owned());
    own.into_iter().chain(target).chain(le).collect()
}

fn labels_of(expression: &str) -> BTreeSet<String> {
    selectors(expression).iter().flat_map(|selector| labels_of_metric(&selector.name)).collect()
}

/// Whether each metric and label of a query is there.
pub(crate) fn names_what_is_there(expression: &str) {
    let selectors = selectors(expression);
    assert!(!selectors.is_empty(), "{expression}");
    for selector in &selectors {
        let known = labels_of_metric(&selector.name);
        let unknown: Vec<_> = selector.labels.difference(&known).collect();
        assert!(unknown.is_empty(), "{unknown:?} of {} in {expression}", selector.name);
    }
    let known = labels_of(expression);
    let unknown: Vec<_> = groupings(expression).difference(&known).cloned().collect();
    assert!(unknown.is_empty(), "{unknown:?} in {expression}");
}
