//! The Debian package and its unit in a machine of their own, and the restrictions of the unit.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::schema::faults;

const UNIT: &str = "deploy/systemd/appsync-bridge.service";

const DROP_IN: &str = "deploy/systemd/notify-reload.conf";

/// T85 is in it: killed twenty times. Only root can boot a machine, so it is one of the long ones.
#[test]
fn the_package_is_installed_confined_killed_upgraded_and_removed() {
    super::succeeds("tests/shipped/package", &["20"]);
}

/// What `systemd-analyze` says, and whether it is content.
fn analyze(args: &[&str], unit: &Path) -> (bool, String) {
    let output = Command::new("systemd-analyze").args(args).arg(unit).output();
    let output = output.expect("`systemd-analyze` cannot be run: it is in Debian's `systemd`");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

#[test]
fn the_unit_leaves_little_to_reach() {
    const EXPOSURE: [&str; 4] = ["security", "--offline=true", "--threshold=12", "--no-pager"];
    let (good, said) = analyze(&EXPOSURE, Path::new(UNIT));
    assert!(good, "{said}");
    println!("{}", said.lines().last().unwrap());
    // Without one of these it is above.
    let text = fs::read_to_string(UNIT).unwrap();
    let directory = tempfile::tempdir().unwrap();
    for missing in [
        "CapabilityBoundingSet=",
        "SystemCallFilter=@system-service",
        "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX",
        "RestrictNamespaces=yes",
        "DynamicUser=yes",
    ] {
        assert!(text.contains(&format!("\n{missing}\n")), "{missing}");
        let path = directory.path().join("appsync-bridge.service");
        fs::write(&path, text.replace(&format!("\n{missing}\n"), "\n")).unwrap();
        let (good, said) = analyze(&EXPOSURE, &path);
        assert!(!good && said.contains("Overall exposure level"), "without {missing}: {said}");
    }
}

/// What systemd has against a unit in whose place the program is, with these drop-ins.
fn complaints(unit: &str, drop_in: Option<&str>) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("appsync-bridge.service");
    let program = env!("CARGO_BIN_EXE_appsync-bridge");
    fs::write(&path, unit.replace("=appsync-bridge ", &format!("={program} "))).unwrap();
    if let Some(drop_in) = drop_in {
        let folder = directory.path().join("appsync-bridge.service.d");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("more.conf"), drop_in).unwrap();
    }
    let (_, said) = analyze(&["verify", "--man=no"], &path);
    // Of this unit alone: what it pulls in is the machine's own.
    said.lines().filter(|line| line.contains("appsync-bridge.service")).map(str::to_owned).collect()
}

#[test]
fn systemd_has_nothing_against_the_unit_and_finds_a_planted_mistake() {
    let unit = fs::read_to_string(UNIT).unwrap();
    let drop_in = fs::read_to_string(DROP_IN).unwrap();
    assert_eq!(complaints(&unit, None), Vec::<String>::new());
    for (right, wrong) in [
        ("ExecStart=appsync-bridge", "ExecStart=appsync-bridg"),
        ("ExecStart=", "ExecStarts="),
        ("WatchdogSec=30", "WatchdogSec=often"),
        ("Type=notify\n", "Type=notified\n"),
        ("SystemCallFilter=@system-service", "SystemCallFilter=@systemservice"),
        ("RestartPreventExitStatus=77 78", "RestartPreventExitStatus=77 780"),
        ("[Service]", "[Servis]"),
        ("Wants=network-online.target", "Wants=network online"),
    ] {
        assert!(unit.contains(right), "{right}");
        assert!(!complaints(&unit.replace(right, wrong), None).is_empty(), "{wrong}");
    }
    // Of systemd 253: older ones say so, and nothing else.
    let unknown = ["notify-reload", "ReloadSignal"];
    let found = complaints(&unit, Some(&drop_in));
    assert!(found.is_empty() || found.len() == unknown.len(), "{found:?}");
    for (complaint, word) in found.iter().zip(unknown) {
        assert!(complaint.contains(word), "{complaint}");
    }
    let planted = drop_in.replace("ExecReload=", "ExecReloads=");
    assert_eq!(complaints(&unit, Some(&planted)).len(), found.len() + 1);
}

/// The programs that a package runs as root, and those that make it, read by those who run them.
#[test]
fn the_scripts_can_be_read_and_a_broken_one_can_not() {
    for (shell, script) in [
        ("bash", "deploy/package/build"),
        ("sh", "deploy/package/debian/postinst"),
        ("sh", "deploy/package/debian/postrm"),
        ("bash", "tests/shipped/package"),
        ("bash", "tests/shipped/container"),
        ("bash", "tests/run"),
        ("bash", ".ci/run"),
    ] {
        let text = fs::read_to_string(script).unwrap();
        let reads = |text: &str| {
            let file = tempfile::NamedTempFile::new().unwrap();
            fs::write(&file, text).unwrap();
            let output = Command::new(shell).arg("-n").arg(file.path()).output().unwrap();
            output.status.success() && output.stderr.is_empty()
        };
        assert!(reads(&text) && !reads(&text.replacen("fi\n", "\n", 1)), "{script}");
    }
}

/// `deploy/package/inventory` with this argument.
fn inventory(what: &str) -> String {
    let output = Command::new("deploy/package/inventory").arg(what).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_bill_of_materials_is_one_and_names_what_is_locked() {
    const SCHEMAS: &str = "tests/node/node_modules/@cyclonedx/cyclonedx-library/res/schema";
    let bill: Value = serde_json::from_str(&inventory("sbom")).unwrap();
    let mut wrong = bill.clone();
    wrong["components"][0]["hashes"][0]["alg"] = "SHA-255".into();
    let schemas = ["bom-1.5", "spdx", "jsf-0.82"]
        .map(|name| format!("{SCHEMAS}/{name}.SNAPSHOT.schema.json"));
    let found = faults(&schemas.each_ref().map(String::as_str), &[bill.clone(), wrong]);
    assert!(found[0].is_empty() && !found[1].is_empty(), "{found:?}");

    let lock: toml::Table = fs::read_to_string("Cargo.lock").unwrap().parse().unwrap();
    let locked = lock["package"].as_array().unwrap().iter().map(|package| {
        let text = |key: &str| package.get(key).map_or("", |value| value.as_str().unwrap());
        ((text("name"), text("version")), text("checksum"))
    });
    let locked: BTreeMap<_, _> = locked.collect();
    let components = bill["components"].as_array().unwrap();
    assert!(components.len() > 200, "{}", components.len());
    let mut names = BTreeSet::new();
    for component in components {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let (name, version) = (text(&component["name"]), text(&component["version"]));
        let sum = locked.get(&(name.as_str(), version.as_str()));
        assert_eq!(sum.copied(), component["hashes"][0]["content"].as_str(), "{name} {version}");
        names.insert(name);
    }
    for linked in ["tokio", "rustls", "rdkafka-sys", "openssl-src", "rumqttc-v5-next"] {
        assert!(names.contains(linked), "{linked} is linked in");
    }
    // Of tests, of macros, of what is fuzzed.
    for other in ["proptest", "tempfile", "serde_derive", "libfuzzer-sys", "appsync-bridge-fuzz"] {
        assert!(!names.contains(other), "{other} is not linked in");
    }
    let licences = inventory("licences");
    for words in ["tokio ", "openssl-src", "Apache License", "librdkafka", "zstd"] {
        assert!(licences.contains(words), "nothing of {words}");
    }
}

/// A pair of times that must fit: what the drain may take, and systemd's patience with it.
#[test]
fn systemd_waits_longer_than_a_drain_takes() {
    let unit = fs::read_to_string(UNIT).unwrap();
    let stop = unit.lines().find_map(|line| line.strip_prefix("TimeoutStopSec=")).unwrap();
    assert!(stop.parse::<u64>().unwrap() > 25, "{stop}: `shutdown.grace` is 25s unless set");
    let newer = fs::read_to_string(DROP_IN).unwrap();
    assert!(newer.contains("Type=notify-reload") && newer.contains("\nExecReload=\n"), "{newer}");
}
