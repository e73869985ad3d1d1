//! Every file of `deploy` is built, linted or loaded by a test: here is which.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A file or a folder, and the tests that use it. What is more exact comes first.
const TRIED: [(&str, &[&str]); 27] = [
    (
        "deploy/package/build",
        &[
            "the_package_is_installed_confined_killed_upgraded_and_removed",
            "the_scripts_can_be_read_and_a_broken_one_can_not",
        ],
    ),
    ("deploy/package/inventory", &["the_bill_of_materials_is_one_and_names_what_is_locked"]),
    (
        "deploy/package/debian",
        &[
            "the_package_is_installed_confined_killed_upgraded_and_removed",
            "the_scripts_can_be_read_and_a_broken_one_can_not",
        ],
    ),
    (
        "deploy/systemd/appsync-bridge.service",
        &[
            "systemd_has_nothing_against_the_unit_and_finds_a_planted_mistake",
            "the_unit_leaves_little_to_reach",
        ],
    ),
    (
        "deploy/systemd/notify-reload.conf",
        &["systemd_has_nothing_against_the_unit_and_finds_a_planted_mistake"],
    ),
    (
        "deploy/container/Containerfile",
        &[
            "hadolint_has_nothing_against_the_containerfile_and_finds_a_planted_mistake",
            "the_image_is_built_and_runs_without_root_shell_or_a_writable_disk",
        ],
    ),
    ("deploy/compose/compose.yaml", &["the_compose_file_fits_its_schema_and_mounts_what_is_there"]),
    ("deploy/compose/bridge.toml", &["the_bridge_of_the_compose_file_takes_its_configuration"]),
    (
        "deploy/compose/mosquitto.conf",
        &["the_mosquitto_of_the_compose_file_starts_and_keeps_what_is_confirmed"],
    ),
    ("deploy/compose/elasticmq.conf", &["the_queue_of_the_compose_file_is_there"]),
    (
        "deploy/compose/prometheus.yml",
        &["the_prometheus_of_the_compose_file_reads_its_configuration"],
    ),
    (
        "deploy/compose/grafana-datasource.yaml",
        &["what_is_provisioned_of_grafana_is_where_the_compose_file_mounts_it"],
    ),
    (
        "deploy/compose/grafana-dashboards.yaml",
        &["what_is_provisioned_of_grafana_is_where_the_compose_file_mounts_it"],
    ),
    ("deploy/kubernetes/prometheus.yml", &["the_scrape_of_a_cluster_is_one_that_prometheus_reads"]),
    (
        "deploy/kubernetes",
        &[
            "overlays_are_rendered_and_fit_the_schemas_and_a_planted_mistake_does_not",
            "their_configurations_pass_check_with_the_variables_of_the_pod",
        ],
    ),
    ("deploy/aws/event-api.tf", &["terraform_is_parsed_and_names_what_it_declares"]),
    (
        "deploy/aws/event-api.yaml",
        &["cfn_lint_has_nothing_against_the_templates_and_finds_a_planted_mistake"],
    ),
    (
        "deploy/aws/queue.yaml",
        &["cfn_lint_has_nothing_against_the_templates_and_finds_a_planted_mistake"],
    ),
    (
        "deploy/aws/bridge.yaml",
        &[
            "cfn_lint_has_nothing_against_the_templates_and_finds_a_planted_mistake",
            "the_configurations_of_the_tasks_pass_check",
        ],
    ),
    (
        "deploy/prometheus/prometheus.yml",
        &["promtool_is_content_and_every_alert_fires_in_its_test"],
    ),
    (
        "deploy/prometheus/alerts.yml",
        &[
            "promtool_is_content_and_every_alert_fires_in_its_test",
            "prometheus_answers_every_query_from_a_running_bridge",
        ],
    ),
    (
        "deploy/prometheus/alerts.test.yml",
        &["promtool_is_content_and_every_alert_fires_in_its_test"],
    ),
    (
        "deploy/grafana/appsync-bridge.json",
        &["prometheus_answers_every_query_from_a_running_bridge", "what_they_name_is_there"],
    ),
    (
        "deploy/mosquitto/bridge-safe.conf",
        &["a_backlog_of_a_broker_that_saves_at_each_change_comes_once_and_in_order"],
    ),
    ("deploy/RECIPES.md", &["the_configurations_pass_check", "the_script_of_a_page_gets_events"]),
    ("deploy/demo.png", &["what_they_link_is_there"]),
    // The other pages.
    ("deploy", &["what_they_link_is_there", "the_configurations_pass_check"]),
];

/// The files of a folder, but for those that are fetched.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let ours = |path: &PathBuf| !path.ends_with(".cache") && !path.ends_with("node_modules");
    let entries = entries.filter(ours);
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[test]
fn every_file_of_deploy_is_tried_by_a_test_that_is_there() {
    let sources: String = files(Path::new("tests"))
        .iter()
        .filter(|path| path.extension().is_some_and(|end| end == "rs"))
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    let mut used = BTreeMap::from(TRIED.map(|(place, _)| (place, 0)));
    for file in files(Path::new("deploy")) {
        let found = TRIED.iter().find(|(place, _)| file.starts_with(place)).unwrap();
        let is_page = file.extension().is_some_and(|end| end == "md");
        assert!(found.0 != "deploy" || is_page, "no test is named for {}", file.display());
        *used.get_mut(found.0).unwrap() += 1;
    }
    for (place, tests) in TRIED {
        assert!(used[place] > 0, "there is no {place}");
        for test in tests {
            assert!(sources.contains(&format!("fn {test}()")), "{place}: there is no test {test}");
        }
    }
}
