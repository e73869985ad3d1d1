//! `subscribe`: what comes, what is said when nothing can, and what it ends with.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Who, everybody, message};
use crate::support::certificates::certificates;
use crate::support::emulator::{Emulator, KEY, bridge};
use crate::support::{free_port, signal};

#[tokio::test(flavor = "multi_thread")]
async fn events_pass_from_one_to_the_other_in_every_mode() {
    let directory = tempfile::tempdir().unwrap();
    for (mode, _emulator, who, _issuer) in everybody(&directory).await {
        let mut follower = who.follow(&["/demo/*", "other/x", "--count", "7"]).await;
        let events = ["1", "{\"a\":\n 2}", "3", "4", "5", "\"ü\"", "[7]"];
        let (code, stdout, stderr) = who.publish("/demo/a/b", &events).await;
        assert_eq!(code, 0, "{mode}: {stderr}");
        assert!(stdout.starts_with("7 events published to /demo/a/b in 2 requests"), "{stdout}");
        for event in events {
            let came = follower.event().await.unwrap_or_else(|| panic!("{mode}: no {event}"));
            assert_eq!(came, event.replace('\n', " "), "{mode}");
        }
        assert_eq!(follower.ends().await, 0, "{mode}");
        println!("{mode}: {}", stdout.trim());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_gets_the_time_and_the_channel_too() {
    let emulator = Emulator::start(&[]);
    let who = Who::key(&emulator);
    let mut follower = who.follow(&["/demo/*", "--json", "-n", "1"]).await;
    assert_eq!(who.publish("demo/a", &["{\"a\":1.10}"]).await.0, 0);
    let text = follower.event().await.unwrap();
    let line: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&line["channel"], &line["event"]), (&json!("/demo/*"), &json!({ "a": 1.1 })));
    assert!(text.ends_with(r#""event":{"a":1.10}}"#), "{text}");
    assert!(humantime::parse_rfc3339(line["received"].as_str().unwrap()).is_ok());
    assert_eq!(follower.ends().await, 0);
}

/// Elsewhere what it proves itself with is covered.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_printed_as_it_came_whatever_it_holds() {
    let emulator = Emulator::start(&[]);
    let who = Who::key(&emulator);
    let event = format!("{{\"key\":\"{KEY}\",\"n\":12345678901234567890123,\"n\":1}}");
    for form in [&[][..], &["--json"]] {
        let mut follower = who.follow(&[&["/demo/*", "-n", "1"], form].concat()).await;
        assert_eq!(who.publish("demo/a", &[&event]).await.0, 0);
        let line = follower.event().await.unwrap();
        assert!(line.contains(&event), "{line}");
        assert_eq!(follower.ends().await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_lost_is_made_again() {
    let emulator = Emulator::start(&[]);
    let (address, who) = (emulator.host().to_owned(), Who::key(&emulator));
    let mut follower = who.follow(&["/demo/a", "/demo/b"]).await;
    drop(emulator);
    let lost = message(&follower.says("the connection is lost").await);
    assert!(lost.contains("connecting again in"), "{lost}");
    let _emulator = Emulator::start_at(&address, &[]);
    let again = message(&follower.says("subscribed again after").await);
    assert!(again.contains("was not seen"), "{again}");
    for channel in ["/demo/a", "/demo/b"] {
        assert_eq!(who.publish(channel, &["1"]).await.0, 0);
        assert_eq!(follower.event().await.as_deref(), Some("1"));
    }
    signal(follower.child.id().unwrap(), "TERM");
    assert_eq!(follower.ends().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_is_a_lost_connection_and_keep_alives_are_none() {
    // The service promises one a minute, and says to give up after five.
    let emulator = Emulator::start(&["--keep-alive", "100ms"]);
    let who = Who::key(&emulator);
    let (code, stdout, stderr) = who.run("subscribe", &["/demo/a", "--timeout", "1s"], "").await;
    assert_eq!((code, stdout.as_str()), (0, ""), "{stderr}");
    assert!(!stderr.contains("lost"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_for_one_event_is_told_that_none_came() {
    let emulator = Emulator::start(&[]);
    let began = Instant::now();
    let args = ["/demo/a", "--count", "1", "--timeout", "500ms"];
    let (code, _, stderr) = Who::key(&emulator).run("subscribe", &args, "").await;
    assert!(code == 1 && stderr.contains("0 of 1 events came"), "{code} {stderr}");
    assert!(began.elapsed() >= Duration::from_millis(500));
}

/// Somebody takes the connection, and says nothing: that nothing came means nothing then.
#[test]
fn a_time_that_ends_before_the_first_subscription_is_a_failure() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}/event", silent.local_addr().unwrap());
    let output = bridge()
        .args(["subscribe", "/demo/a", "--timeout", "1s", "--api-key", "da2-a"])
        .args(["--endpoint", &endpoint])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("not subscribed within 1s"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_says_what_may_be_the_cause() {
    let emulator = Emulator::start(&[
        "--namespace",
        "demo",
        "--access-key-id",
        "AKID",
        "--secret-access-key",
        "right-secret",
    ]);
    let nobody = format!("http://127.0.0.1:{}/event", free_port());
    let mut iam = Who::of(&emulator, &["--iam", "--region", "eu-west-1"]);
    iam.env.push(("AWS_ACCESS_KEY_ID", "AKID".to_owned()));
    iam.env.push(("AWS_SECRET_ACCESS_KEY", "wrong-secret".to_owned()));
    let mut known = iam.clone();
    known.env.push(("AWS_SECRET_ACCESS_KEY", "right-secret".to_owned()));
    let key = Who::key(&emulator);
    let wrong = Who::of(&emulator, &["--api-key", "da2-wrong-wrong"]);
    let away = Who {
        args: vec!["--endpoint".into(), nobody, "--api-key".into(), KEY.into()],
        ..Who::default()
    };
    for (who, channel, words) in [
        (&wrong, "/demo/a", vec!["You are not authorized", "the key is wrong", "has expired"]),
        (
            &key,
            "/none/a",
            vec!["refuses `/none/a`: UnauthorizedException", "namespace `none` does not exist"],
        ),
        (
            &iam,
            "/demo/a",
            vec!["BadRequestException", "the secret access key is not that of the access key id"],
        ),
        (
            &known,
            "/none/a",
            vec![
                "`appsync:EventConnect` on the API and `appsync:EventSubscribe` on `arn:aws:appsync:eu-west-1:",
                "channelNamespace/none",
            ],
        ),
        (&away, "/demo/a", vec!["`ws://127.0.0.1:", "can't be reached", "Connection refused"]),
    ] {
        let (code, stdout, stderr) = who.run("subscribe", &[channel], "").await;
        assert_eq!((code, stdout.as_str(), stderr.lines().count()), (1, "", 1), "{stderr}");
        for word in words {
            assert!(stderr.contains(word), "{word}: {stderr}");
        }
        assert!(!stderr.contains("da2-wrong") && !stderr.contains("wrong-secret"), "{stderr}");
        println!("{}", message(stderr.trim()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_verified() {
    let (ours, foreign) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    certificates(foreign.path());
    let emulator = Emulator::start(&["--tls", ours.path().to_str().unwrap()]);
    let ca = |path: &str| Who::of(&emulator, &["--api-key", KEY, "--ca-file", path]);
    let foreign = ca(foreign.path().join("ca.pem").to_str().unwrap());
    let (code, _, stderr) = foreign.run("subscribe", &["/demo/a"], "").await;
    assert!(code == 1 && stderr.contains("is not trusted"), "{stderr}");
    assert!(stderr.contains("--ca-file"), "{stderr}");
    let who = ca(emulator.ca_file.as_deref().unwrap());
    let mut follower = who.follow(&["/demo/a", "-n", "1"]).await;
    assert_eq!(who.publish("/demo/a", &["1"]).await.0, 0);
    assert_eq!(follower.event().await.as_deref(), Some("1"));
    assert_eq!(follower.ends().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_of_the_reader_is_an_end() {
    let emulator = Emulator::start(&[]);
    let who = Who::key(&emulator);
    let mut follower = who.follow(&["/demo/a"]).await;
    assert_eq!(who.publish("/demo/a", &["1"]).await.0, 0);
    assert_eq!(follower.event().await.as_deref(), Some("1"));
    let super::Follower { child, events, said } = follower;
    drop(events);
    assert_eq!(who.publish("/demo/a", &["2"]).await.0, 0);
    let mut child = child;
    let status = tokio::time::timeout(crate::support::PATIENCE, child.wait()).await.unwrap();
    assert_eq!(status.unwrap().code(), Some(0));
    drop(said);
}

/// A disk is no reader that has enough.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_can_not_be_written_is_a_failure() {
    use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _};
    let emulator = Emulator::start(&[]);
    let who = Who::key(&emulator);
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut command = who.command("subscribe", &["/demo/a"]);
    let mut child = command.stdout(full).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut said = tokio::io::BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).await.unwrap();
    assert!(line.contains("subscribed to"), "{line}");
    assert_eq!(who.publish("/demo/a", &["1"]).await.0, 0);
    let status = tokio::time::timeout(crate::support::PATIENCE, child.wait()).await.unwrap();
    let mut rest = String::new();
    said.read_to_string(&mut rest).await.unwrap();
    assert_eq!(status.unwrap().code(), Some(1), "{rest}");
    assert!(rest.contains("can't write to standard output: No space left"), "{rest}");
}

/// They would say nothing else than they seem to.
#[tokio::test(flavor = "multi_thread")]
async fn flags_of_another_way_to_prove_oneself_are_wrong_usage() {
    let to = ["/demo/a", "--endpoint", "http://127.0.0.1:1/event"];
    let [iam, oauth2] = [&["--iam"][..], &["--oauth2", "https://a.example/t", "--client-id", "c"]];
    let others = ["--api-key", "--api-key-file", "--token", "--token-file"];
    for (ours, theirs, flags) in [
        (iam, oauth2, &["--region", "--profile", "--role-arn"][..]),
        (oauth2, iam, &["--client-id", "--client-secret-file", "--scope"]),
    ] {
        for flag in flags {
            let flag = [*flag, "x"];
            let others = others.iter().map(|other| vec![*other, "y"]);
            for other in others.chain([theirs.to_vec(), Vec::new()]) {
                if flag[0] == "--client-id" && other.contains(&"--client-id") {
                    continue;
                }
                let args = [&to[..], &flag, &other].concat();
                // What the environment says is for whoever says nothing else.
                let env = vec![("APPSYNC_API_KEY", "k".to_owned())];
                let (code, _, stderr) =
                    Who { env, ..Who::default() }.run("subscribe", &args, "").await;
                assert!(code == 2 && stderr.contains(flag[0]), "{args:?}: {code} {stderr}");
                assert!(!stderr.contains("'-- "), "{stderr}");
            }
        }
        if ours == iam {
            let mut who = Who::default();
            who.env.push(("APPSYNC_API_KEY", "k".to_owned()));
            who.env.push(("AWS_ACCESS_KEY_ID", "AKID".to_owned()));
            who.env.push(("AWS_SECRET_ACCESS_KEY", "secret-of-this-test".to_owned()));
            let args = [&to[..], ours, &["--region", "eu-west-1"]].concat();
            let (code, _, stderr) = who.run("subscribe", &args, "").await;
            assert!(code == 1 && stderr.contains("can't be reached"), "{code} {stderr}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_usage_is_said_before_anything_is_sent() {
    let nobody = Who::default();
    for (command, args, words) in [
        ("subscribe", &["/demo/a"][..], "no API is named"),
        ("subscribe", &["/demo/**"], "letters, digits and `-`"),
        ("subscribe", &["/demo/a", "--endpoint", "http://127.0.0.1:1/event"], "$APPSYNC_API_KEY"),
        (
            "subscribe",
            &["/demo/a", "--endpoint", "http://a.example/event", "--iam"],
            "--dangerously-plaintext",
        ),
        ("subscribe", &["/demo/a", "--endpoint", "https://a.example", "--iam"], "/event"),
        ("subscribe", &["/demo/a", "--token", "t", "--api-key", "k"], "cannot be used with"),
        ("subscribe", &["/demo/a", "--realtime", "a.example"], "wss://HOST/event/realtime"),
        (
            "subscribe",
            &["/demo/a", "--realtime", "ws://127.0.0.1:9/r?token=S3CR3T-q"],
            "`--realtime` has more behind its path; write `ws://127.0.0.1:9/r`",
        ),
        ("subscribe", &["/demo/a", "-n", "-1"], "a number of events is `1` or more"),
        ("subscribe", &["/demo/a", "--timeout", "-1s"], "a time looks like"),
        ("publish", &["/demo/a", "1", "--retry-for", "-1s"], "a time looks like"),
        ("publish", &["/demo/a", "1", "--rate", "-1"], "a rate is"),
        ("publish", &["/demo/a", "1", "--concurrency", "-1"], "-1 is not in 1..=256"),
        ("publish", &["/demo/*", "1"], "not to a wildcard"),
        ("publish", &["/demo/a", "1", "--rate", "0"], "a rate is"),
        (
            "publish",
            &["/demo/a", "1", "--api", "x", "--endpoint", "http://127.0.0.1:1/event"],
            "cannot be used with",
        ),
    ] {
        let (code, stdout, stderr) = nobody.run(command, args, "").await;
        assert_eq!((code, stdout.as_str()), (2, ""), "{args:?}: {stderr}");
        assert!(stderr.contains(words), "{args:?}: {words}: {stderr}");
        assert!(!stderr.contains("S3CR3T") && !stderr.contains("use '-- "), "{stderr}");
    }
}
