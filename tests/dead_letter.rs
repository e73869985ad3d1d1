//! The dead-letter file under a real bridge: a full disk, and a full file.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::PATIENCE;
use crate::support::bridge::Setup;
use crate::support::emulator::{Emulator, bridge};
use crate::support::mosquitto::Mosquitto;
use crate::support::producer::publish;
use crate::support::{until, whole_lines};

/// A message that is no JSON, with its number in front.
fn bad(id: usize, bytes: usize) -> (String, Vec<u8>) {
    ("plant/a/data".to_owned(), format!("{id} {}", "x".repeat(bytes)).into_bytes())
}

/// The numbers of the messages in a file, in its order.
fn numbers(path: &Path) -> Vec<usize> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let number = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        line["payload"].as_str().unwrap().split_once(' ').unwrap().0.parse().unwrap()
    };
    whole_lines(&text).map(number).collect()
}

fn acknowledged(mosquitto: &Mosquitto) -> usize {
    mosquitto.log().matches("Received PUBACK from bridge").count()
}

/// A route and a dead letter in the place of the usual ones.
fn tables(path: &Path, keys: &str) -> String {
    format!(
        "[route.data]\nfrom = \"plant\"\nchannel = \"/plant/a\"\ndead_letter = \"small\"\n\
         [dead_letter.small]\ntype = \"file\"\npath = \"{}\"\n{keys}\n",
        path.display()
    )
}

/// T50.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_holds_the_source_and_recovers_by_itself() {
    const BAD: usize = 40;
    let emulator = Emulator::start(&[]);
    let mosquitto = Mosquitto::start("").await;
    let setup = Setup::new(&emulator.endpoint, mosquitto.port, "", "", "");
    let path = setup.file("small/rejects.jsonl");
    let mut config = fs::read_to_string(setup.file("bridge.toml")).unwrap();
    let (before, route) = config.split_once("[route.data]").unwrap();
    let rest = route.split_once("[dead_letter").unwrap().1;
    config = format!("{before}{}[dead_letter{rest}", tables(&path, ""));
    fs::write(setup.file("bridge.toml"), config).unwrap();
    // 300 KB are free, the bad messages have 800 KB.
    let setup = setup.with_small_disk("1m", 700_000);
    let bridge = setup.start_ready().await;
    let messages = (0..BAD).flat_map(|id| {
        [bad(id, 20_000), ("plant/a/data".to_owned(), json!({ "id": id }).to_string().into_bytes())]
    });
    publish(mosquitto.port, 1_000, messages.collect::<Vec<_>>()).await;
    until("the bridge says why it is not ready", PATIENCE, async || {
        let (status, text) = bridge.get("/readyz").await;
        (status == 503 && text.contains("dead_letter small") && text.contains("No space left"))
            .then_some(())
    })
    .await;
    let failing = "dead_letter_failing{dead_letter=\"small\"}";
    bridge.metric_is(failing, |v| v == 1.0).await;
    // What is good is published all the same.
    let accepted = "publish_events_total{api=\"main\",outcome=\"accepted\"}";
    bridge.metric_is(accepted, |v| v == BAD as f64).await;
    let file = bridge.sees(&path);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (done, kept) = (acknowledged(&mosquitto), numbers(&file).len());
    assert!(kept < BAD && done.div_ceil(2) <= kept, "{done} acknowledged, {kept} kept");
    assert_eq!(
        bridge.metric("source_in_flight{source=\"plant\"}").await,
        (2 * BAD - done) as f64,
        "the others are held"
    );

    fs::remove_file(bridge.sees(&setup.file("small/filler"))).unwrap();
    bridge.ready().await;
    bridge.nothing_in_flight().await;
    assert_eq!(bridge.metric(failing).await, 0.0);
    assert_eq!(numbers(&file), (0..BAD).collect::<Vec<_>>(), "every one once and in order");
    assert_eq!(bridge.metric("dead_letters_total{reason=\"invalid_json\"}").await, BAD as f64);
    assert_eq!(bridge.metric(accepted).await, BAD as f64, "nothing came twice");
    until("all are acknowledged", PATIENCE, async || {
        (acknowledged(&mosquitto) == 2 * BAD).then_some(())
    })
    .await;
}

/// Puts something in the place of the file.
type Put = fn(&Path);

/// What is put in the file's place while the bridge runs is not followed, read by others or filled: the
/// messages wait until it is gone. A file that was moved away is let go, and one that is opened to others
/// is closed.
#[tokio::test(flavor = "multi_thread")]
async fn only_its_owner_reads_it_whatever_is_put_in_its_place() {
    let emulator = Emulator::start(&[]);
    let mosquitto = Mosquitto::start("").await;
    let setup = Setup::new(&emulator.endpoint, mosquitto.port, "", "", "");
    let path = setup.file("rejects.jsonl");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let loosen =
        |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    for file in ["rejects.jsonl", "rejects.jsonl.1"].map(|file| setup.file(file)) {
        fs::write(&file, "").unwrap();
        loosen(&file);
    }
    let bridge = setup.start_ready().await;
    assert_eq!((mode(&path), mode(&setup.file("rejects.jsonl.1"))), (0o600, 0o600));
    let loose = bridge.lines(&["\"WARN\"", "others could read this file", "\"0644\""]);
    assert_eq!(loose.len(), 2, "{}", bridge.log());
    let shown = path.to_str().unwrap();
    let started = bridge.lines(&["\"started\"", &format!("rejects: {shown}")]);
    assert_eq!(started.len(), 1, "{}", bridge.log());

    publish(mosquitto.port, 1_000, [bad(0, 10)]).await;
    until("it is kept", PATIENCE, async || (numbers(&path) == [0]).then_some(())).await;
    let kept = until("it is said", PATIENCE, async || {
        let kept = bridge.lines(&["\"WARN\"", &format!("\"kept_in\":\"{shown}\"")]);
        (!kept.is_empty()).then_some(kept.len())
    });
    assert_eq!(kept.await, 1, "{}", bridge.log());
    loosen(&path);
    publish(mosquitto.port, 1_000, [bad(1, 10)]).await;
    until("it is kept", PATIENCE, async || (numbers(&path) == [0, 1]).then_some(())).await;
    assert_eq!(mode(&path), 0o600);

    let places: [(&str, Put); 4] = [
        ("it is a symbolic link", |path| symlink(path.with_extension("away"), path).unwrap()),
        ("it is a symbolic link", |path| symlink(path.with_extension("theirs"), path).unwrap()),
        ("it is a FIFO", |path| {
            assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
        }),
        ("it has 1 more name", |path| {
            fs::hard_link(path.with_extension("theirs"), path).unwrap();
        }),
    ];
    fs::write(path.with_extension("theirs"), "").unwrap();
    for (id, (why, put)) in (2..).zip(places) {
        fs::rename(&path, path.with_extension("away")).unwrap();
        put(&path);
        publish(mosquitto.port, 1_000, [bad(id, 10)]).await;
        until(why, PATIENCE, async || bridge.get("/readyz").await.1.contains(why).then_some(()))
            .await;
        assert_eq!(bridge.metric("source_in_flight{source=\"plant\"}").await, 1.0);
        fs::remove_file(&path).unwrap();
        bridge.ready().await;
        bridge.nothing_in_flight().await;
        assert_eq!((numbers(&path), mode(&path)), (vec![id], 0o600), "a new file");
    }
    assert!(fs::read(path.with_extension("theirs")).unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_another_bridge_writes_is_no_matter_of_its_directory() {
    let emulator = Emulator::start(&[]);
    let mosquitto = Mosquitto::start("").await;
    let setup = Setup::new(&emulator.endpoint, mosquitto.port, "", "", "");
    let _bridge = setup.start_ready().await;
    let mut second = bridge();
    let second = second.args(["run", "-c"]).arg(setup.file("bridge.toml")).output().unwrap();
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(said.contains("another process or dead letter writes to it: stop that one"), "{said}");
    assert!(!second.status.success() && !said.contains("writable"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_file_is_set_aside_and_the_oldest_goes_loudly() {
    let emulator = Emulator::start(&[]);
    let mosquitto = Mosquitto::start("").await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rejects.jsonl");
    let rest = tables(&path, "max_size = \"1MB\"\nmax_files = 2");
    let setup = Setup::new(&emulator.endpoint, mosquitto.port, "", "", &rest);
    let bridge = setup.start_ready().await;
    // Four fit into a file.
    publish(mosquitto.port, 1_000, (0..16).map(|id| bad(id, 239_000)).collect::<Vec<_>>()).await;
    bridge.metric_is("dead_letters_total{reason=\"invalid_json\"}", |v| v == 16.0).await;
    assert_eq!(bridge.metric("dead_letter_files_removed_total").await, 2.0);
    assert_eq!(bridge.log().matches("the oldest dead letters were removed").count(), 2);
    let aside = directory.path().join("rejects.jsonl.1");
    assert_eq!((numbers(&aside), numbers(&path)), (vec![8, 9, 10, 11], vec![12, 13, 14, 15]));
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_has_told_of_every_letter_by_the_end() {
    let emulator = Emulator::start(&[]);
    let mosquitto = Mosquitto::start("").await;
    let setup = Setup::new(&emulator.endpoint, mosquitto.port, "", "", "");
    let mut bridge = setup.start_ready().await;
    publish(mosquitto.port, 1_000, (0..30).map(|id| bad(id, 10)).collect::<Vec<_>>()).await;
    bridge.metric_is("dead_letters_total{reason=\"invalid_json\"}", |v| v == 30.0).await;
    bridge.signal("TERM");
    assert!(bridge.ended(PATIENCE).await.success());
    let lines = bridge.lines(&["published", "kept_in"]);
    let letters = |line: &String| {
        let line: Value = serde_json::from_str(line).unwrap();
        line["letters"].as_u64().unwrap()
    };
    assert_eq!(lines.iter().map(letters).sum::<u64>(), 30, "{lines:?}");
    assert_eq!(lines.len(), 2, "{lines:?}");
}
