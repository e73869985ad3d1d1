//! The command itself: what it prints, how it stops, what it refuses.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Command, Stdio};

use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::support::emulator::{Emulator, bridge};
use crate::support::socket::Socket;

#[test]
fn the_printed_line_publishes_and_ready_comes_last() {
    let mut child = bridge()
        .args(["emulate", "--listen", "127.0.0.1:0", "--region", "eu-west-1"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = Vec::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        lines.push(line.unwrap());
        if lines.last().unwrap() == "ready" {
            break;
        }
    }
    let after = |name: &str| {
        let line = lines.iter().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name} in {lines:?}")).trim().to_owned()
    };
    let published = Command::new("sh").args(["-c", &after("publish")]).output().unwrap();
    let _ = child.kill();
    let _ = child.wait();
    let answer = String::from_utf8(published.stdout).unwrap();
    assert!(answer.contains(r#""successful":[{"#), "{answer}");
    let endpoint = after("endpoint");
    assert!(endpoint.starts_with("http://127.0.0.1:"), "{endpoint}");
    assert_eq!(after("amplify"), endpoint.replace("http://", "HTTP://"));
    assert_eq!(after("realtime"), format!("{}/realtime", endpoint.replace("http://", "ws://")));
    assert_eq!(after("page"), endpoint.strip_suffix("event").unwrap());
    let text = lines.join("\n");
    let (_, browser) = text.split_once("--- Amplify in a browser ---\n").unwrap();
    let (browser, node) = browser.split_once("\n\n--- Amplify in Node ---\n").unwrap();
    for lines in [browser, node] {
        let spelled = format!("endpoint: '{}'", endpoint.replace("http://", "HTTP://"));
        assert!(lines.contains("region: 'eu-west-1'"), "{lines}");
        assert!(lines.contains(&spelled) && lines.contains("apiKey: 'da2-local'"), "{lines}");
    }
}

#[tokio::test]
async fn an_interrupt_closes_the_sockets_with_1000_and_ends_well() {
    let emulator = Emulator::start(&[]);
    let mut socket = Socket::connect(&emulator).await;
    let status = Command::new("kill").args(["-INT", &emulator.pid().to_string()]).status();
    assert!(status.unwrap().success());
    let Some(Ok(Message::Close(Some(close)))) = socket.message().await else {
        panic!("not closed")
    };
    assert_eq!(close.code, CloseCode::Normal);
    assert!(socket.message().await.is_none());
    assert!(emulator.wait().success());
}

#[test]
fn a_port_that_is_taken_is_named() {
    let emulator = Emulator::start(&[]);
    let output = bridge().args(["emulate", "--listen", emulator.host()]).output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("cannot listen on") && said.contains(emulator.host()), "{said}");
    assert!(said.contains("another `--listen`"), "{said}");
}

#[test]
fn a_namespace_that_is_named_twice_is_refused() {
    let twice = ["--namespace", "orders=iam", "fleet", "orders=api-key"];
    let arguments = [&["emulate", "--listen", "127.0.0.1:0"][..], &twice].concat();
    let output = bridge().args(arguments).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.starts_with("error: `--namespace`: `orders` is named twice"), "{said}");
}

#[test]
fn what_a_flag_can_not_be_is_answered_with_what_it_can() {
    for (args, words) in [
        (["--listen", "foo"], "such as `127.0.0.1:8787`"),
        (["--keep-alive", "0s"], "above zero, such as `60s`"),
        (["--keep-alive", "-1s"], "a time looks like `500ms`, `30s`"),
        (["--latency", "-1"], "a time looks like `500ms`, `30s`"),
        (["--access-key-id", "AKID"], "set `$EMULATOR_SECRET_ACCESS_KEY`"),
    ] {
        let output = bridge().arg("emulate").args(args).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
        assert!(said.contains(words) && !said.contains("use '-- "), "{args:?}: {said}");
    }
}

/// It may stand there for another start.
#[test]
fn a_secret_in_the_environment_needs_no_user() {
    for args in [&[][..], &["--access-key-id", "AKID"]] {
        let mut command = bridge();
        command.env("EMULATOR_SECRET_ACCESS_KEY", "secret-of-this-test");
        drop(Emulator::start_by(command, "127.0.0.1:0", args));
    }
}

#[test]
fn an_address_that_others_can_reach_is_warned_of() {
    let mut child = bridge()
        .args(["emulate", "--json", "--listen", "0.0.0.0:0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let _ = child.kill();
    let _ = child.wait();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains("\"WARN\"") && said.contains("from other machines"), "{said}");
    assert!(line.contains("http://127.0.0.1:"), "{line}");
}
