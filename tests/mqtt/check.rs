//! `check --connect` against MQTT brokers: one line each, with what to look at, and no harm to a bridge that
//! runs.

use std::fs;
use std::process::Command;

use serde_json::json;

use crate::support::PATIENCE;
use crate::support::bridge::Setup;
use crate::support::certificates::certificates;
use crate::support::emulator::Emulator;
use crate::support::free_port;
use crate::support::mosquitto::Mosquitto;
use crate::support::producer::{publish, publish_retained};

/// Nothing is published here.
const NO_API: &str = "http://127.0.0.1:9/event";

const VERSIONS: [&str; 2] = ["version = 5", "version = 3"];

/// That the one line of the source has these words, and whether it is good.
async fn says(setup: &Setup, good: bool, words: &[&str]) {
    let (yes, said) = setup.check().await;
    let lines: Vec<_> = said.lines().filter(|line| line.contains("source plant")).collect();
    assert!(yes == good && lines.len() == 1, "{said}");
    assert!(words.iter().all(|word| lines[0].contains(word)), "{words:?}: {}", lines[0]);
    println!("{}", lines[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_will_do_says_what_it_grants() {
    let mosquitto = Mosquitto::start("").await;
    for (version, words) in VERSIONS.into_iter().zip(["MQTT 5, ", "MQTT 3.1.1, "]) {
        let setup = Setup::new(NO_API, mosquitto.port, "", version, "");
        says(&setup, true, &["connected: ", words, "1 subscription granted"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_known_as_one() {
    let directory = tempfile::tempdir().unwrap();
    let passwords = directory.path().join("passwords");
    let made = Command::new("mosquitto_passwd")
        .args(["-c", "-b"])
        .arg(&passwords)
        .args(["relay", "right"])
        .status();
    assert!(made.expect("`mosquitto_passwd` cannot be run").success());
    let lines = format!("allow_anonymous false\npassword_file {}\n", passwords.display());
    let mosquitto = Mosquitto::start(&lines).await;
    for version in VERSIONS {
        let setup = |password: &str| {
            let lines = format!("{version}\nusername = \"relay\"\npassword = \"{password}\"");
            Setup::new(NO_API, mosquitto.port, "", &lines, "")
        };
        says(&setup("right"), true, &["1 subscription granted"]).await;
        says(
            &setup("wrong"),
            false,
            &["refuses the connection", "check `username` and `password`"],
        )
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_subscription_is_named() {
    let directory = tempfile::tempdir().unwrap();
    // Its own access lists refuse no subscription; those of this plugin do.
    let access = json!({
        "defaultACLAccess": { "publishClientReceive": true, "unsubscribe": true },
        "anonymousGroup": "all",
        "groups": [{ "groupname": "all", "roles": [{ "rolename": "plant" }] }],
        "roles": [{ "rolename": "plant", "acls": [
            { "acltype": "subscribePattern", "topic": "plant/#", "priority": 0, "allow": true },
        ] }],
    });
    let path = directory.path().join("access.json");
    fs::write(&path, access.to_string()).unwrap();
    let lines = format!("plugin {}\nplugin_opt_config_file {}\n", plugin(), path.display());
    let mosquitto = Mosquitto::start(&lines).await;
    for (version, why) in VERSIONS.into_iter().zip(["NotAuthorized", "gives no reason"]) {
        let route = "[route.all]\nfrom = \"plant\"\nchannel = \"/all\"\n";
        let setup = Setup::new(NO_API, mosquitto.port, "", version, route);
        let text = fs::read_to_string(setup.config()).unwrap();
        let more = text.replace("[\"plant/#\"]", "[\"plant/#\", \"secret/#\"]");
        fs::write(setup.config(), more).unwrap();
        let hint = "check the broker's access list";
        says(&setup, false, &["subscription `secret/#` (", why, hint, "`client_id`"]).await;
    }
}

/// Where Debian keeps it.
fn plugin() -> String {
    let mut folders = fs::read_dir("/usr/lib").unwrap().map(|folder| folder.unwrap().path());
    let plugin = folders.find_map(|folder| {
        Some(folder.join("mosquitto_dynamic_security.so")).filter(|path| path.exists())
    });
    plugin.expect("mosquitto comes without its plugin").display().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_nobody_listens_on_is_known_as_one() {
    for version in VERSIONS {
        let setup = Setup::new(NO_API, free_port(), "", version, "");
        says(&setup, false, &["refused", "does the broker run, and is this its port?"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_certificate_is_not_trusted() {
    let (ours, foreign) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    certificates(ours.path());
    certificates(foreign.path());
    let (path, port) = (ours.path().display(), free_port());
    let lines = format!(
        "listener {port} 127.0.0.1\ncafile {path}/ca.pem\ncertfile {path}/server.pem\n\
         keyfile {path}/server.key\n"
    );
    let _mosquitto = Mosquitto::start(&lines).await;
    for version in VERSIONS {
        let setup = |directory: &tempfile::TempDir| {
            let ca = directory.path().join("ca.pem");
            let lines = format!(
                "{version}\nurl = \"mqtts://localhost:{port}\"\ntls = {{ ca_file = \"{}\" }}",
                ca.display()
            );
            Setup::new(NO_API, 0, "", &lines, "")
        };
        says(&setup(&ours), true, &["1 subscription granted"]).await;
        says(&setup(&foreign), false, &["certificate", "`tls = { ca_file = … }`"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_bridge_is_left_alone() {
    for version in VERSIONS {
        let directory = tempfile::tempdir().unwrap();
        let (emulator, ledger) = Emulator::with_ledger(&directory, &[]);
        let mosquitto = Mosquitto::start("").await;
        let message =
            |id: u64| (format!("plant/{id}/data"), json!({ "id": id }).to_string().into());
        publish_retained(mosquitto.port, (0..20).map(message)).await;
        let setup = Setup::new(&emulator.endpoint, mosquitto.port, "", version, "");
        let bridge = setup.start_ready().await;
        let load = publish(mosquitto.port, 200, (20..420).map(message));
        let check = async {
            for _ in 0..3 {
                says(&setup, true, &["1 subscription granted"]).await;
            }
        };
        tokio::join!(load, check);
        ledger.has_ids(420, PATIENCE).await;
        bridge.nothing_in_flight().await;
        assert_eq!(ledger.len(), 420, "{version}: some came twice");
        assert_eq!(bridge.metric("source_reconnects_total{source=\"plant\"}").await, 0.0);
        // Of 20 retained messages none is sent twice over, and none of any kind is acknowledged.
        let log = mosquitto.log();
        let guest = |words: &str| log.lines().filter(|l| l.starts_with(words)).count();
        assert_eq!(guest("Received PUBACK from bridge-check-"), 0, "{version}");
        assert_eq!(guest("Received DISCONNECT from bridge-check-"), 3, "{version}");
        let retained =
            |l: &&str| l.starts_with("Sending PUBLISH to bridge-check-") && l.contains(", r1,");
        let sent: Vec<_> = log.lines().filter(retained).collect();
        let owed = sent.iter().filter(|line| line.contains(", q1,")).count();
        assert_eq!(owed, 0, "{version}: {sent:?}");
        assert!(version == "version = 3" || sent.is_empty(), "{sent:?}");
    }
}
