//! `deploy/kubernetes`: rendered by kubectl, and compared with the schemas of Kubernetes and of KEDA. What a schema
//! can't know is here: that the pods are confined, that the parts fit together, and that scalers ask for what the
//! configuration takes. What stands in the `metadata` of a trigger is KEDA's own to read, and no schema has it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::Value;
use toml::Table;

use super::{check, program, said, variables};
use crate::metrics::names_what_is_there;
use crate::support::prometheus::promtool;

const FOLDER: &str = "deploy/kubernetes";

/// The oldest and the newest release whose schemas are there and that has all that is used.
const RELEASES: &str = "1.27,1.37";

/// What an API takes by default: all replicas together.
const QUOTA: i64 = 10_000;

/// The documents of each overlay.
type Overlays = BTreeMap<String, Vec<Value>>;

fn overlays() -> &'static Overlays {
    static OVERLAYS: OnceLock<Overlays> = OnceLock::new();
    OVERLAYS.get_or_init(|| {
        let folders = fs::read_dir(FOLDER).unwrap().map(|entry| entry.unwrap().path());
        let folders = folders.filter(|path| path.is_dir() && !path.ends_with("bridge"));
        let rendered: BTreeMap<_, _> =
            folders.map(|path| (path.file_name().unwrap().to_owned(), rendered(&path))).collect();
        let named = rendered.iter().map(|(name, text)| (name.to_str().unwrap(), text.as_str()));
        let (documents, problems) = compared(named);
        assert_eq!(problems, "");
        assert!(documents.len() >= 6, "{:?}", documents.keys());
        documents
    })
}

fn rendered(folder: &Path) -> String {
    let output = program("kubectl").arg("kustomize").arg(folder).output().unwrap();
    assert!(output.status.success(), "{}: {}", folder.display(), said(&output).1);
    String::from_utf8(output.stdout).unwrap()
}

/// The documents of these texts, and what the schemas say against them.
fn compared<'a>(texts: impl IntoIterator<Item = (&'a str, &'a str)>) -> (Overlays, String) {
    let directory = tempfile::tempdir().unwrap();
    let mut command = program("python");
    command.args(["tests/cloud/manifests.py", RELEASES]);
    for (name, text) in texts {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        command.arg(path);
    }
    let output = command.output().unwrap();
    let problems = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.success(), problems.is_empty(), "{problems}");
    let files: Overlays = serde_json::from_slice(&output.stdout).unwrap();
    let name = |path: &str| Path::new(path).file_name().unwrap().to_str().unwrap().to_owned();
    (files.into_iter().map(|(path, documents)| (name(&path), documents)).collect(), problems)
}

fn of_kind<'a>(documents: &'a [Value], kind: &str) -> Vec<&'a Value> {
    documents.iter().filter(|document| document["kind"] == kind).collect()
}

fn workload(documents: &[Value]) -> &Value {
    let all = [of_kind(documents, "Deployment"), of_kind(documents, "StatefulSet")].concat();
    assert_eq!(all.len(), 1);
    all[0]
}

fn configuration(documents: &[Value]) -> &str {
    let [map] = of_kind(documents, "ConfigMap")[..] else { panic!("not one ConfigMap") };
    map["data"]["bridge.toml"].as_str().unwrap()
}

#[test]
fn overlays_are_rendered_and_fit_the_schemas_and_a_planted_mistake_does_not() {
    assert!(overlays().values().all(|documents| documents.len() >= 7));
    let kafka = rendered(&Path::new(FOLDER).join("kafka"));
    let planted = [
        ("envFrom:", "envFroms:", "Additional properties are not allowed ('envFroms'"),
        ("maxUnavailable: 1", "maxUnavailable: [1]", "PodDisruptionBudget appsync-bridge: "),
        ("minReplicaCount:", "minReplicas:", "Extra inputs are not permitted"),
        ("maxReplicaCount: 4", "maxReplicaCount: \"4\"", "should be a valid integer"),
        ("lagThreshold: \"10000\"", "lagThreshold: 10000", "should be a valid string"),
        ("kind: TriggerAuthentication", "kind: TriggerAuth", "has no attribute 'TriggerAuth'"),
    ];
    assert!(planted.iter().all(|(right, ..)| kafka.contains(right)), "{kafka}");
    let texts = planted.map(|(right, wrong, _)| kafka.replace(right, wrong));
    let names = ["0", "1", "2", "3", "4", "5"];
    let problems = compared(names.into_iter().zip(texts.iter().map(String::as_str))).1;
    for ((_, wrong, refusal), name) in planted.into_iter().zip(names) {
        let mut own =
            problems.split("\n/").filter(|problem| problem.contains(&format!("/{name}: ")));
        assert!(own.any(|problem| problem.contains(refusal)), "{wrong}: {problems}");
    }
}

#[test]
fn pods_are_confined_and_have_time_to_stop() {
    for (name, documents) in overlays() {
        let workload = workload(documents);
        let pod = &workload["spec"]["template"]["spec"];
        let security = &pod["securityContext"];
        assert_eq!(security["runAsNonRoot"], true, "{name}");
        assert_eq!(security["seccompProfile"]["type"], "RuntimeDefault", "{name}");
        assert_eq!(pod["automountServiceAccountToken"], false, "{name}");
        let [container] = &pod["containers"].as_array().unwrap()[..] else { panic!("{name}") };
        let own = &container["securityContext"];
        assert_eq!(own["readOnlyRootFilesystem"], true, "{name}");
        assert_eq!(own["allowPrivilegeEscalation"], false, "{name}");
        assert_eq!(own["capabilities"]["drop"], serde_json::json!(["ALL"]), "{name}");
        let tag = container["image"].as_str().unwrap().rsplit(':').next();
        assert_eq!(tag, Some(env!("CARGO_PKG_VERSION")), "{name}");

        let (live, ready) = (&container["livenessProbe"], &container["readinessProbe"]);
        assert_eq!([&live["httpGet"]["path"], &ready["httpGet"]["path"]], ["/livez", "/readyz"]);
        let table: Table = configuration(documents).parse().unwrap();
        let (_, port) = table["admin"]["listen"].as_str().unwrap().rsplit_once(':').unwrap();
        let ports = &container["ports"][0];
        assert_eq!(ports["containerPort"], port.parse::<u64>().unwrap(), "{name}");
        for probe in [live, ready] {
            assert_eq!(probe["httpGet"]["port"], ports["name"], "{name}");
        }
        let grace =
            table.get("shutdown").map_or("25s", |shutdown| shutdown["grace"].as_str().unwrap());
        let grace: Duration = humantime::parse_duration(grace).unwrap();
        let patience = pod["terminationGracePeriodSeconds"].as_u64().unwrap();
        assert!(Duration::from_secs(patience) >= grace + Duration::from_secs(10), "{name}");
    }
}

#[test]
fn the_parts_of_an_overlay_belong_together() {
    for (name, documents) in overlays() {
        let workload = workload(documents);
        let labels = &workload["spec"]["template"]["metadata"]["labels"];
        let one = |kind| {
            let [found] = of_kind(documents, kind)[..] else { panic!("{name}: {kind}") };
            found
        };
        let (service, budget) = (one("Service"), one("PodDisruptionBudget"));
        let (policy, account) = (one("NetworkPolicy"), one("ServiceAccount"));
        for selector in [
            &workload["spec"]["selector"]["matchLabels"],
            &service["spec"]["selector"],
            // An empty one is every pod of the namespace.
            &budget["spec"]["selector"]["matchLabels"],
            &policy["spec"]["podSelector"]["matchLabels"],
        ] {
            assert!(selector == labels && !labels.as_object().unwrap().is_empty(), "{name}");
        }
        let pod = &workload["spec"]["template"]["spec"];
        assert_eq!(pod["serviceAccountName"], account["metadata"]["name"], "{name}");
        let mounted = |map: &str| {
            let volumes = pod["volumes"].as_array().unwrap();
            volumes.iter().any(|volume| volume["configMap"]["name"] == map)
        };
        assert!(mounted(one("ConfigMap")["metadata"]["name"].as_str().unwrap()), "{name}");
        // Who needs a name that stays has one, and who keeps dead letters in a file has a volume.
        let text = configuration(documents);
        let stays = workload["kind"] == "StatefulSet";
        let kept = !workload["spec"]["volumeClaimTemplates"].is_null();
        assert!(stays || !text.contains("POD_NAME"), "{name}");
        assert_eq!(kept, text.contains("/var/lib/appsync-bridge"), "{name}");
        assert!(!stays || workload["spec"]["serviceName"] == service["metadata"]["name"], "{name}");
        // The way to the broker is open.
        let broker = broker(&text.parse().unwrap());
        let port: u64 = broker.rsplit_once(':').map_or("443", |(_, port)| port).parse().unwrap();
        let open = policy["spec"]["egress"].as_array().unwrap().iter();
        let mut open = open.flat_map(|rule| rule["ports"].as_array().unwrap());
        assert!(open.any(|one| one["port"] == port), "{name}: {broker}");
    }
}

/// The first address of the only source, without its scheme.
fn broker(table: &Table) -> String {
    let source = source(table).1;
    let address = ["brokers", "servers", "url"].iter().find_map(|key| source.get(*key));
    let address = address.map_or("", |value| match value.as_array() {
        Some(several) => several[0].as_str().unwrap(),
        None => value.as_str().unwrap(),
    });
    address.rsplit("//").next().unwrap().to_owned()
}

fn source(table: &Table) -> (&str, &Table) {
    let (name, source) = table["source"].as_table().unwrap().iter().next().unwrap();
    (name, source.as_table().unwrap())
}

#[test]
fn their_configurations_pass_check_with_the_variables_of_the_pod() {
    for (name, documents) in overlays() {
        let container = &workload(documents)["spec"]["template"]["spec"]["containers"][0];
        let env = container["env"].as_array().unwrap();
        let mut given: Vec<_> = env.iter().map(|one| one["name"].as_str().unwrap()).collect();
        assert_eq!(container["envFrom"][0]["secretRef"]["name"], "appsync-bridge");
        let text = configuration(documents);
        // What is no fact of the pod is in the secret.
        given.extend(variables(text).iter().filter(|name| **name != "POD_NAME"));
        // Of the container's own directories only the volume's can be written to.
        let set =
            given.iter().filter(|name| **name != "STATE_DIRECTORY").map(|name| (*name, "x-1"));
        let (good, said) = check(text, set.clone());
        assert!(good, "{name}: {said}");
        let (good, said) = check(&text.replace("endpoint", "endpont"), set);
        assert!(!good && said.contains("unknown key `endpont`"), "{name}: {said}");
    }
}

#[test]
fn scalers_ask_for_what_the_configuration_takes() {
    let mut kinds = Vec::new();
    for (name, documents) in overlays() {
        let table: Table = configuration(documents).parse().unwrap();
        let (source_name, source) = source(&table);
        let text = |key: &str| source[key].as_str().unwrap();
        let keda = of_kind(documents, "ScaledObject");
        let plain = of_kind(documents, "HorizontalPodAutoscaler");
        // Two of them would pull at the same workload.
        let [scaler] = [keda.clone(), plain].concat()[..] else { panic!("{name}") };
        let (spec, workload) = (&scaler["spec"], workload(documents));
        for (ours, theirs) in [("kind", &workload["kind"]), ("name", &workload["metadata"]["name"])]
        {
            assert_eq!(&spec["scaleTargetRef"][ours], theirs, "{name}");
        }
        let most = ["maxReplicaCount", "maxReplicas"].iter().find_map(|key| spec[key].as_i64());
        let rate = table["api"]["main"]["max_rate"].as_integer().unwrap();
        assert!(most.unwrap() * rate <= QUOTA, "{name}");
        if keda.is_empty() {
            let metrics = spec["metrics"].as_array().unwrap();
            // Others would have to be metrics of ours.
            assert!(metrics.iter().all(|metric| metric["resource"]["name"] == "cpu"), "{name}");
            kinds.push("cpu".to_owned());
            continue;
        }
        let triggers = spec["triggers"].as_array().unwrap();
        let all = |key: &str| -> Vec<_> {
            triggers.iter().map(|one| one["metadata"][key].as_str().unwrap()).collect()
        };
        let kind = triggers[0]["type"].as_str().unwrap();
        kinds.push(kind.to_owned());
        match kind {
            "kafka" => {
                let topics: Vec<_> = source["topics"].as_array().unwrap().iter().collect();
                let topics: Vec<_> = topics.iter().map(|topic| topic.as_str().unwrap()).collect();
                assert_eq!(all("topic"), topics, "{name}");
                assert!(all("consumerGroup").iter().all(|group| *group == text("group")));
                assert!(all("bootstrapServers").iter().all(|servers| *servers == broker(&table)));
                let mechanism =
                    source["sasl"]["mechanism"].as_str().unwrap().replace("sha-", "sha");
                assert!(all("sasl").iter().all(|sasl| *sasl == mechanism.replace('-', "_")));
            }
            "nats-jetstream" => {
                assert_eq!(
                    (all("stream")[0], all("consumer")[0]),
                    (text("stream"), text("durable"))
                );
                assert_eq!(text("consumers"), "many", "replicas share the consumer");
            }
            "aws-sqs-queue" => assert_eq!(all("queueURL")[0], text("queue")),
            "prometheus" => {
                let query = all("query")[0];
                names_what_is_there(query);
                assert!(query.contains(&format!("source=\"{source_name}\"")), "{query}");
            }
            other => panic!("{name}: {other} is not compared with anything"),
        }
        let wanted = triggers.iter().filter_map(|one| one["authenticationRef"]["name"].as_str());
        let there = of_kind(documents, "TriggerAuthentication");
        for wanted in wanted {
            assert!(there.iter().any(|one| one["metadata"]["name"] == wanted), "{name}: {wanted}");
        }
    }
    kinds.sort();
    assert_eq!(kinds, ["aws-sqs-queue", "cpu", "cpu", "kafka", "nats-jetstream", "prometheus"]);
}

#[test]
fn the_scrape_of_a_cluster_is_one_that_prometheus_reads() {
    // The token's file is Prometheus's own.
    let output =
        promtool(&["check", "config", "--syntax-only", "deploy/kubernetes/prometheus.yml"])
            .output();
    let (good, said) = said(&output.unwrap());
    assert!(good && said.contains("SUCCESS"), "{said}");
    let text = fs::read_to_string("deploy/kubernetes/prometheus.yml").unwrap();
    let service = of_kind(&overlays()["kafka"], "Service")[0];
    assert_eq!(service["spec"]["publishNotReadyAddresses"], true, "those matter most");
    let named = format!("- {}.", service["metadata"]["name"].as_str().unwrap());
    let port = format!("port: {}", service["spec"]["ports"][0]["port"]);
    for wanted in [named, port, "job_name: appsync-bridge".to_owned()] {
        assert!(text.contains(&wanted), "{wanted}");
    }
}
