//! `publish`: every event accounted for.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Who, configuration, message};
use crate::support::emulator::{Emulator, KEY};
use crate::support::{free_port, signal};

#[tokio::test(flavor = "multi_thread")]
async fn lines_of_standard_input_are_events() {
    let directory = tempfile::tempdir().unwrap();
    let (emulator, ledger) = Emulator::with_ledger(&directory, &[]);
    let who = Who::key(&emulator);
    let lines: String = (0..1_003).map(|id| json!({ "id": id }).to_string() + "\n").collect();
    // As from an editor that puts a BOM at the beginning.
    let lines = format!("\u{feff}{lines}");
    let (code, stdout, stderr) = who.run("publish", &["/demo/a", "-", "--json"], &lines).await;
    let account: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &account["published"]), (0, &json!(1_003)), "{stderr}");
    // Full ones, but for what was slow to be read.
    assert!(account["requests"].as_u64().unwrap() < 300, "{account}");
    println!("{account}");
    let ids: Vec<_> =
        ledger.read().iter().map(|event| event.event["id"].as_u64().unwrap()).collect();
    assert_eq!(ids, (0..1_003).collect::<Vec<u64>>(), "in their order");

    let (code, stdout, _) = who.run("publish", &["/demo/a", "--text"], "hi \"you\"\n\nthere").await;
    assert!(code == 0 && stdout.starts_with("2 events published"), "{stdout}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_connections_publish_all_of_it_too() {
    let directory = tempfile::tempdir().unwrap();
    let (emulator, ledger) = Emulator::with_ledger(&directory, &["--latency", "20ms"]);
    let lines: String = (0..1_000).map(|id| json!({ "id": id }).to_string() + "\n").collect();
    let args = ["/demo/a", "-", "--concurrency", "20"];
    let (code, stdout, stderr) = Who::key(&emulator).run("publish", &args, &lines).await;
    assert_eq!(code, 0, "{stderr}");
    println!("{}", stdout.trim());
    let mut ids: Vec<_> =
        ledger.read().iter().map(|event| event.event["id"].as_u64().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..1_000).collect::<Vec<u64>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_event_that_failed_is_named_with_its_reason() {
    let fault = json!({ "fault": { "fail_events": {
        "code": "EventTooLargeException", "message": "Transformed event is larger than 240KB", "indexes": [1],
    } }, "times": 1 });
    let emulator = Emulator::start(&["--fault", &fault.to_string()]);
    let input = "1\n2\nnothing\n4\n";
    let (code, stdout, stderr) =
        Who::key(&emulator).run("publish", &["/demo/a", "-", "--json"], input).await;
    assert_eq!(code, 1, "{stdout} {stderr}");
    let account: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&account["published"], &account["failed"]), (&json!(2), &json!(2)), "{account}");
    let said: Vec<_> = stderr.lines().map(message).collect();
    assert_eq!(said.len(), 2, "{stderr}");
    assert!(said[0].starts_with("line 3: not a JSON value"), "{said:?}");
    let too_large = "line 2: EventTooLargeException: Transformed event is larger than 240KB";
    assert_eq!(said[1], too_large);
    assert_eq!(account["failures"][1]["event"], "line 2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_refuses_some_leaves_the_others() {
    // The whole request first, and then one of its events, which are sent alone.
    let fault = json!({ "fault": { "handler_refuses": { "error_type": "Blocked", "message": "not today" } }, "times": 2 });
    let emulator = Emulator::start(&["--fault", &fault.to_string()]);
    let (code, stdout, stderr) = Who::key(&emulator).publish("/demo/a", &["1", "2", "3"]).await;
    assert_eq!(code, 1, "{stdout} {stderr}");
    assert!(stdout.starts_with("2 events published to /demo/a in 4 requests"), "{stdout}");
    assert!(stderr.contains("argument 1: 403 Blocked: not today"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_passes_is_waited_for_and_what_does_not_is_given_up() {
    let busy = |times: u64| {
        json!({ "fault": { "answer": { "status": 503, "body": "{}", "when": "before" } }, "times": times })
            .to_string()
    };
    let emulator = Emulator::start(&["--fault", &busy(3)]);
    let who = Who::key(&emulator);
    let (code, stdout, stderr) = who.publish("/demo/a", &["1", "2"]).await;
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.starts_with("2 events published to /demo/a in 4 requests"), "{stdout}");

    emulator.set_faults(json!([serde_json::from_str::<Value>(&busy(1_000)).unwrap()])).await;
    let args = ["/demo/a", "1", "2", "--retry-for", "1s", "--json"];
    let began = Instant::now();
    let (code, stdout, stderr) = who.run("publish", &args, "").await;
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}: {stderr}", began.elapsed());
    let account: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &account["unsent"]), (1, &json!(2)), "{account}");
    assert!(stderr.contains("given up after 1s (`--retry-for`): status 503"), "{stderr}");

    let nobody = format!("http://127.0.0.1:{}/event", free_port());
    let args = ["/demo/a", "1", "--endpoint", &nobody, "--api-key", KEY, "--retry-for", "0s"];
    let (code, _, stderr) = Who::default().run("publish", &args, "").await;
    assert!(code == 1 && stderr.contains("Connection refused"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_ends_it_with_what_may_be_the_cause() {
    let emulator = Emulator::start(&["--namespace", "demo"]);
    let lines = "1\n".repeat(100);
    for (who, channel, words) in [
        (Who::of(&emulator, &["--api-key", "da2-wrong-wrong"]), "/demo/a", "the key is wrong"),
        (Who::key(&emulator), "/none/a", "the namespace `none` does not exist"),
    ] {
        let (code, stdout, stderr) = who.run("publish", &[channel, "--json"], &lines).await;
        let account: Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!((code, &account["published"], &account["requests"]), (1, &json!(0), &json!(1)));
        assert!(account["stopped"].as_str().unwrap().contains(words), "{account}");
        assert!(stderr.lines().count() == 1 && stderr.contains("401"), "{stderr}");
        assert!(!stderr.contains("da2-wrong"), "{stderr}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_is_kept() {
    let emulator = Emulator::start(&[]);
    let began = Instant::now();
    let args = ["/demo/a", "-", "--rate", "40"];
    let (code, stdout, _) = Who::key(&emulator).run("publish", &args, &"1\n".repeat(60)).await;
    let took = began.elapsed().as_secs_f64();
    assert!(code == 0 && stdout.starts_with("60 events"), "{stdout}");
    assert!(took >= 1.3, "60 events at 40 a second in {took} s");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_ends_the_reading_and_not_what_is_in_flight() {
    let emulator = Emulator::start(&["--latency", "2s"]);
    let who = Who::key(&emulator);
    let mut command = who.command("publish", &["/demo/a", "1", "-"]);
    command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let child = command.spawn().unwrap();
    crate::support::until("it is sent", crate::support::PATIENCE, async || {
        let stats = emulator.control(http::Method::GET, "stats", "").await.json();
        (stats["requests"] == 1).then_some(())
    })
    .await;
    signal(child.id().unwrap(), "TERM");
    let output = tokio::time::timeout(crate::support::PATIENCE, child.wait_with_output());
    let output = output.await.unwrap().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(stdout.starts_with("1 event published"), "{stdout}");
    assert_eq!(output.status.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn several_apis_want_a_choice() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bridge.toml");
    std::fs::write(&path, configuration("http://127.0.0.1:1/event")).unwrap();
    let path = path.to_str().unwrap();
    for (args, words) in [
        (&["/demo/a", "1", "-c", path][..], "choose one of `main`, `other` with `--api NAME`"),
        (&["/demo/a", "1", "-c", path, "--api", "mian"], "there is no `[api.mian]`"),
        (&["/demo/a", "1", "-c", path, "--iam"], "leave the other flags away"),
    ] {
        let (code, _, stderr) = Who::default().run("publish", args, "").await;
        assert!(code == 2 && stderr.contains(words), "{stderr}");
    }
}
