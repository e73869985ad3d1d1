//! `replay`, with the real binary against the emulator: everything is published or accounted for.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::PATIENCE;
use crate::support::bridge::Setup;
use crate::support::emulator::{Emulator, bridge};
use crate::support::ledger::{Ledger, assert_order, ids};
use crate::support::mosquitto::Mosquitto;
use crate::support::producer::publish;
use crate::support::{free_port, signal, until};

/// A configuration whose broker is not there, and files.
struct Case {
    directory: TempDir,
}

impl Case {
    fn new(endpoint: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let text = format!(
            "[api.main]\nendpoint = \"{endpoint}\"\nauth = {{ type = \"api-key\", key = {{ env = \"KEY\" }} }}\ntimeout = \"1s\"\n\
             [source.plant]\ntype = \"mqtt\"\nurl = \"mqtt://127.0.0.1:1\"\nclient_id = \"b\"\nsubscriptions = \"#\"\n\
             [route.data]\nfrom = \"plant\"\ntopic = \"plant/{{device}}/data\"\nchannel = [\"/plant/{{device}}\", \"/plant/all\"]\n\
             [route.tenants]\nfrom = \"plant\"\ntopic = \"tenants\"\nchannel = \"/tenant/{{json.tenant}}\"\n\
             [dead_letter.rejects]\ntype = \"file\"\npath = \"/nonexistent/rejects.jsonl\"\n\
             [shutdown]\ngrace = \"2s\"\n"
        );
        fs::write(directory.path().join("bridge.toml"), text).unwrap();
        Self { directory }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, lines: &[String]) -> PathBuf {
        let text: String = lines.iter().flat_map(|line| [line, "\n"]).collect();
        fs::write(self.file(name), text).unwrap();
        self.file(name)
    }

    fn command(&self, file: &Path, args: &[&str]) -> Command {
        let mut command = bridge();
        command.arg("replay").arg(file).arg("-c").arg(self.file("bridge.toml"));
        command.args(args).env("KEY", "da2-local");
        command
    }

    fn run(&self, file: &Path, args: &[&str]) -> (i32, String, String) {
        said(&self.command(file, args).output().unwrap())
    }

    /// Runs with `--json`: the code and the account.
    fn account(&self, file: &Path, args: &[&str]) -> (i32, Value) {
        let (code, out, err) = self.run(file, &[args, &["--json"]].concat());
        (code, serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out:?} {err}")))
    }
}

fn said(Output { status, stdout, stderr }: &Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    (status.code().unwrap(), text(stdout), text(stderr))
}

/// A line as the bridge writes it; the channel is the only one that failed.
fn line(at: &str, route: Option<&str>, topic: &str, payload: &Value) -> String {
    let channel = (route == Some("data")).then(|| format!("/{}", topic.trim_end_matches("/data")));
    json!({
        "at": at, "reason": "refused", "detail": "no", "source": "plant", "route": route, "channel": channel,
        "topic": topic, "headers": [], "coordinates": { "qos": "1" }, "payload": payload.to_string()
    })
    .to_string()
}

/// Numbered records of the route `data`, spread over `keys` keys.
fn data(count: u64, keys: u64) -> Vec<String> {
    let record = |id| {
        let (key, seq) = (id % keys, id / keys);
        let event = json!({ "id": id, "key": key, "seq": seq });
        line("2026-11-22T10:00:00.000Z", Some("data"), &format!("plant/dev-{key}/data"), &event)
    };
    (0..count).map(record).collect()
}

fn number(account: &Value, name: &str) -> u64 {
    account[name].as_u64().unwrap_or_else(|| panic!("no {name} in {account}"))
}

/// Every record that was read is counted once.
fn assert_adds_up(account: &Value) {
    let ends = ["skipped", "published", "unconfirmed", "rejected", "unknown_route", "unsettled"];
    let sum: u64 = ends.iter().map(|name| number(account, name)).sum();
    assert_eq!(number(account, "read"), sum, "{account}");
}

fn endpoint(directory: &Case, args: &[&str], listen: &str) -> (Emulator, Ledger) {
    let path = directory.file("ledger.jsonl");
    let args = [&["--ledger", path.to_str().unwrap()], args].concat();
    (Emulator::start_at(listen, &args), Ledger { path })
}

/// A case and its emulator, on a port that was free.
fn case(args: &[&str]) -> (Case, Emulator, Ledger, String) {
    let address = format!("127.0.0.1:{}", free_port());
    let case = Case::new(&format!("http://{address}/event"));
    let (emulator, ledger) = endpoint(&case, args, &address);
    (case, emulator, ledger, address)
}

#[test]
fn standard_input_is_read_to_its_end() {
    let (case, _emulator, ledger, _) = case(&[]);
    let mut lines = data(100, 4);
    lines.push(line("2026-11-22T10:00:00.000Z", Some("gone"), "plant/x/data", &json!(1)));
    let file = case.write("todo", &lines);
    let stdin = || Stdio::from(fs::File::open(&file).unwrap());
    let from_stdin =
        |args: &[&str]| said(&case.command(Path::new("-"), args).stdin(stdin()).output().unwrap());
    let (code, _, err) = from_stdin(&[]);
    assert!(code == 2 && err.contains("with `--rejects`"), "{err}");
    let both = bridge().args(["replay", "-", "-c", "-"]).stdin(stdin()).output().unwrap();
    assert!(said(&both).0 == 2 && said(&both).2.contains("can't be both"), "{both:?}");
    let again = case.file("again");
    let (code, out, err) = from_stdin(&["--json", "--rejects", again.to_str().unwrap()]);
    let account: Value = serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out} {err}"));
    assert_eq!((code, number(&account, "published")), (1, 100), "{account}");
    assert_adds_up(&account);
    assert_eq!(account["unread"], json!([]), "{account}");
    assert_eq!(ids(&ledger.read()).len(), 100);
    assert_eq!(fs::read_to_string(again).unwrap().lines().count(), 1);
    // Through a pipe, whose length nobody knows.
    let mut child = case.command(Path::new("-"), &["--json", "--dry-run"]);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let text = fs::read(&file).unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), &text).unwrap();
    let (_, out, _) = said(&child.wait_with_output().unwrap());
    let account: Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    assert_eq!(number(&account, "would_publish"), 100, "{account}");
}

#[test]
fn a_thousand_records_are_published_in_order_and_once() {
    let (case, _emulator, ledger, _) = case(&[]);
    let records = data(1_000, 20);
    let file = case.write("rejects.jsonl", &records);
    let (code, account) = case.account(&file, &[]);
    assert_eq!((code, number(&account, "published")), (0, 1_000), "{account}");
    assert_adds_up(&account);
    let accepted = ledger.read();
    assert_eq!(accepted.len(), 1_000, "only to the channel that failed");
    assert_order(&accepted, 0);
    assert!(!case.file("rejects.jsonl.rejected").exists());
    assert_eq!(fs::read_to_string(&file).unwrap().lines().collect::<Vec<_>>(), records);
    let (code, out, _) = case.run(&file, &["--since", "2026-11-22T10:00:01+00:00"]);
    assert!(code == 0 && out.contains("1000  skipped by filter"), "{out}");
    assert_eq!(ledger.len(), 1_000);
}

#[test]
fn what_can_not_be_published_is_counted_kept_and_named() {
    let (case, _emulator, ledger, _) = case(&[]);
    let at = "2026-11-22T10:00:00.000Z";
    let mut lines = data(10, 2);
    lines.push("no record".to_owned());
    lines.push(line(at, Some("gone"), "plant/x/data", &json!(1)));
    lines.push(line(at, Some("tenants"), "tenants", &json!({ "id": 10, "tenant": "a" })));
    lines.push(line(at, Some("tenants"), "tenants", &json!({ "tenant": "../b" })));
    lines.push(line(at, Some("tenants"), "moved", &json!({ "tenant": "c" })));
    // No route took these: now one is taken, to both channels of its route, and one is not.
    lines.push(line(at, None, "plant/x/data", &json!({ "id": 11 })));
    lines.push(line(at, None, "nowhere", &json!({})));
    lines.push("{\"at\":\"20".to_owned());
    let file = case.write("rejects.jsonl", &lines);
    let (code, account) = case.account(&file, &[]);
    assert_adds_up(&account);
    let numbers = ["read", "published", "rejected", "unknown_route", "unreadable", "skipped"];
    assert_eq!(numbers.map(|n| number(&account, n)), [16, 12, 3, 1, 2, 0], "{account}");
    assert_eq!(code, 1);
    assert_eq!(account["unknown_routes"], json!({ "gone": 1 }));
    let unreadable = account["unreadable_lines"].as_array().unwrap();
    assert_eq!([&unreadable[0]["line"], &unreadable[1]["line"]], [11, 18]);
    assert_eq!(ledger.len(), 13);
    let text = fs::read_to_string(case.file("rejects.jsonl.rejected")).unwrap();
    let again: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let mut reasons: Vec<_> = again.iter().map(|r| r["reason"].as_str().unwrap()).collect();
    reasons.sort_unstable();
    assert_eq!(reasons, ["bad_channel_segment", "unknown_route", "unrouted", "unrouted"]);
    // What each became a dead letter for at first goes with it.
    let first = json!({ "at": at, "reason": "refused", "detail": "no" });
    assert!(again.iter().all(|record| record["first"] == first), "{text}");
    let rejects = case.file("rejects.jsonl.rejected");
    assert_eq!(fs::metadata(&rejects).unwrap().permissions().mode() & 0o777, 0o600);
    // It goes on with it through another replay, and the log names the file.
    let (code, _, err) = case.run(&rejects, &[]);
    let once_more = case.file("rejects.jsonl.rejected.rejected");
    assert!(code == 1 && err.contains(once_more.to_str().unwrap()), "{err}");
    assert!(!err.contains("the dead letter"), "{err}");
    let again = fs::read_to_string(once_more).unwrap();
    assert_eq!(again.matches(&first.to_string()).count(), 4, "{again}");

    let (code, account) = case
        .account(&file, &["--route", "tenants", "--rejects", case.file("else").to_str().unwrap()]);
    assert_adds_up(&account);
    assert_eq!(["skipped", "published", "rejected"].map(|n| number(&account, n)), [13, 1, 2]);
    assert_eq!((code, fs::read_to_string(case.file("else")).unwrap().lines().count()), (1, 2));
    assert_eq!(fs::read_to_string(case.file("rejects.jsonl.rejected")).unwrap(), text);
}

#[test]
fn a_dry_run_shows_channels_and_bytes_and_touches_nothing() {
    let case = Case::new("http://127.0.0.1:1/event");
    let at = "2026-11-22T10:00:00.000Z";
    let lines = [
        line(at, None, "plant/x/data", &json!({ "id": 11 })),
        line(at, Some("tenants"), "tenants", &json!({ "tenant": "_" })),
    ];
    let file = case.write("r", &lines);
    let (code, out, err) = case.run(&file, &["--dry-run"]);
    let expected = format!("{}:1  data  /plant/all  9 B\n", file.display());
    assert!(out.contains(&expected) && out.contains("/plant/x  9 B"), "{out}{err}");
    assert!(out.contains("rejected: bad_channel_segment") && code == 1, "{out}");
    let (code, out, _) = case.run(&file, &["--dry-run", "--json", "--route", "tenants"]);
    let lines: Vec<Value> = out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!((code, lines.len(), &lines[0]["line"]), (1, 2, &json!(2)));
    assert_eq!((&lines[1]["skipped"], &lines[1]["would_reject"]), (&json!(1), &json!(1)));
    assert_eq!(lines[1]["would_publish"], json!(0));
    let said = ["published", "rejected"].map(|name| lines[1].get(name));
    assert_eq!(said, [None, None], "nothing was done");
    let mut left: Vec<_> = fs::read_dir(case.directory.path())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    assert_eq!(left, ["bridge.toml", "r"]);
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_is_sent() {
    let case = Case::new("http://127.0.0.1:1/event");
    let file = case.write("r", &[]);
    let path = file.to_str().unwrap();
    for (args, code, expected) in [
        (vec!["--route", "none"], 2, "there is no route `none`; there is `data`, `tenants`"),
        (vec!["--rejects", path], 2, "would be read and written"),
        (vec![path], 2, "is named twice"),
        (vec!["/nonexistent/x"], 1, "`/nonexistent/x` can't be read"),
        (vec!["--since", "soon"], 2, "a time looks like"),
        (vec!["--since", "-1h"], 2, "a time looks like"),
    ] {
        let (found, out, err) = case.run(&file, &args);
        assert!(
            found == code && err.contains(expected) && out.is_empty(),
            "{args:?}: {found} {err}"
        );
    }
}

#[test]
fn a_mark_at_the_beginning_of_a_file_is_no_part_of_its_first_record() {
    let case = Case::new("http://127.0.0.1:1/event");
    let lines = data(2, 1);
    let file = case.write("r", &[format!("\u{feff}{}", lines[0]), lines[1].clone()]);
    let (code, out, err) = case.run(&file, &["--dry-run", "--json"]);
    let account: Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    assert_eq!((code, number(&account, "would_publish")), (0, 2), "{account} {err}");
    assert_eq!((&account["unreadable"], &account["unread"]), (&json!(0), &json!([])), "{account}");
}

/// What is rejected again would be read by others, or go elsewhere: before anything is sent.
#[test]
fn a_file_for_rejects_that_is_no_file_of_ours_is_refused() {
    let (case, _emulator, ledger, _) = case(&[]);
    let file = case.write("r", &data(3, 1));
    let rejects = case.file("r.rejected");
    symlink(case.file("theirs"), &rejects).unwrap();
    let (code, _, err) = case.run(&file, &[]);
    let why = format!("`{}` can't be written: it is a symbolic link", rejects.display());
    assert!(code == 1 && err.contains(&why), "{code} {err}");
    fs::remove_file(&rejects).unwrap();
    fs::create_dir(&rejects).unwrap();
    let (code, _, err) = case.run(&file, &[]);
    assert!(code == 1 && err.contains("it is a directory"), "{code} {err}");
    fs::remove_dir(&rejects).unwrap();
    assert!(Command::new("mkfifo").arg(case.file("fifo")).status().unwrap().success());
    let (code, _, err) = case.run(&case.file("fifo"), &[]);
    assert!(code == 1 && err.contains("it is no regular file"), "{code} {err}");
    assert_eq!(ledger.len(), 0);
    // One that is there and open to others is closed.
    fs::write(&rejects, "").unwrap();
    fs::set_permissions(&rejects, fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(case.run(&file, &[]).0, 0);
    assert_eq!(fs::metadata(&rejects).unwrap().permissions().mode() & 0o777, 0o600);
}

fn start(case: &Case, file: &Path) -> Child {
    let mut command = case.command(file, &["--json"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_dies_midway_is_waited_for() {
    let (case, emulator, ledger, address) = case(&["--latency", "20ms"]);
    let file = case.write("r", &data(3_000, 10));
    let replay = start(&case, &file);
    ledger.reaches(300, PATIENCE).await;
    drop(emulator);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let _emulator = endpoint(&case, &[], &address);
    let (code, out, err) = said(&replay.wait_with_output().unwrap());
    let account: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, number(&account, "published")), (0, 3_000), "{account} {err}");
    assert_adds_up(&account);
    let accepted = ledger.read();
    assert_eq!(ids(&accepted).len(), 3_000);
    // One request of a channel's key may have been answered into the void.
    assert_order(&accepted, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_says_what_is_left_and_the_ledger_agrees() {
    let (case, emulator, ledger, address) = case(&["--latency", "20ms"]);
    let file = case.write("r", &data(5_000, 10));
    let replay = start(&case, &file);
    ledger.reaches(300, PATIENCE).await;
    drop(emulator);
    let reached = ids(&ledger.read()).len() as u64;
    tokio::time::sleep(Duration::from_millis(500)).await;
    signal(replay.id(), "INT");
    let (code, out, err) = said(&replay.wait_with_output().unwrap());
    let account: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(code, 1, "{err}");
    assert_adds_up(&account);
    let (published, unsettled) = (number(&account, "published"), number(&account, "unsettled"));
    assert!(unsettled > 0 && published <= reached, "{published} published, {reached} accepted");
    assert!(reached <= published + unsettled);
    assert_eq!(account["unsettled_lines"].as_array().unwrap().len() as u64, unsettled);
    let rest = &account["unread"][0];
    assert_eq!(rest["line"].as_u64().unwrap(), number(&account, "read") + 1);
    // Those that are said to be left are enough to finish the work.
    let text = fs::read_to_string(&file).unwrap();
    let all: Vec<&str> = text.lines().collect();
    let left = account["unsettled_lines"].as_array().unwrap().iter();
    let left = left.map(|l| usize::try_from(l["line"].as_u64().unwrap()).unwrap() - 1);
    let unread = usize::try_from(rest["line"].as_u64().unwrap()).unwrap() - 1..all.len();
    let left: Vec<String> = left.chain(unread).map(|at| all[at].to_owned()).collect();
    let _emulator = endpoint(&case, &[], &address);
    let again = case.write("left", &left);
    assert_eq!(case.account(&again, &[]).0, 0);
    assert_eq!(ids(&ledger.read()).len(), 5_000);
}

/// By a bridge whose file was not moved away before.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_to_the_file_meanwhile_is_said_to_be_left() {
    for is_set_aside in [false, true] {
        let (case, _emulator, ledger, _) = case(&["--latency", "500ms"]);
        let all = data(12, 3);
        let file = case.write("r", &all[..10]);
        let replay = start(&case, &file);
        // It has read to the end long before the first answer.
        ledger.reaches(1, PATIENCE).await;
        if is_set_aside {
            fs::rename(&file, case.file("r.1")).unwrap();
        }
        let more: String = all[10..].iter().flat_map(|line| [line, "\n"]).collect();
        let mut writer = fs::File::options().append(true).create(true).open(&file).unwrap();
        std::io::Write::write_all(&mut writer, more.as_bytes()).unwrap();
        let (code, out, err) = said(&replay.wait_with_output().unwrap());
        let account: Value = serde_json::from_str(&out).unwrap();
        assert_eq!((code, number(&account, "published")), (1, 10), "{account} {err}");
        let (rest, line) = (&account["unread"][0], if is_set_aside { 1 } else { 11 });
        assert_eq!(
            (&rest["line"], &rest["bytes"]),
            (&json!(line), &json!(more.len())),
            "{account}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_bridge_rejected_is_published_when_its_route_is_corrected() {
    let (case, emulator, ledger, _) = case(&[]);
    let mosquitto = Mosquitto::start("").await;
    let route = "[route.tenants]\nfrom = \"plant\"\ntopic = \"plant/{x}\"\nchannel = \"/t/{json.tenant}\"\n";
    let setup = Setup::new(&emulator.endpoint, mosquitto.port, "", "", route);
    let running = setup.start_ready().await;
    let bad = (0..20).map(|id| {
        ("plant/x".to_owned(), json!({ "id": id, "tenant": "a_b" }).to_string().into_bytes())
    });
    publish(mosquitto.port, 1_000, bad.collect::<Vec<_>>()).await;
    until("all are kept", PATIENCE, async || (setup.rejects().len() == 20).then_some(())).await;
    // Moved away under the running bridge.
    let todo = case.file("todo.jsonl");
    fs::rename(setup.file("rejects.jsonl"), &todo).unwrap();
    let one = ("plant/x".to_owned(), b"{}".to_vec());
    publish(mosquitto.port, 1_000, [one]).await;
    until("a new file", PATIENCE, async || (setup.rejects().len() == 1).then_some(())).await;
    running.kill();
    let config = fs::read_to_string(setup.file("bridge.toml")).unwrap();
    fs::write(setup.file("bridge.toml"), config.replace("/t/{json.tenant}", "/t/all")).unwrap();
    fs::copy(setup.file("bridge.toml"), case.file("bridge.toml")).unwrap();
    let (code, account) = case.account(&todo, &[]);
    assert_eq!((code, number(&account, "published")), (0, 20), "{account}");
    assert_eq!(ids(&ledger.read()).len(), 20);
}
