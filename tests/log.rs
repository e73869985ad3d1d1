//! What is said on standard error: every line one of the log, in the form that is configured.

use std::fs;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::support::bridge::Setup;
use crate::support::demo::Demo;
use crate::support::emulator::{Emulator, bridge};
use crate::support::mosquitto::Mosquitto;

/// Every line, each of which must be an object with a time, a level and a message.
fn lines(text: &str) -> Vec<Value> {
    let line = |line: &str| -> Value {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        for member in ["timestamp", "level", "message"] {
            assert!(value[member].is_string(), "no {member}: {line}");
        }
        value
    };
    text.lines().map(line).collect()
}

fn ended(command: &mut Command) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = command.stdin(Stdio::null()).output().unwrap();
    (status.code(), String::from_utf8(stderr).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn warnings_at_start_are_lines_of_the_log() {
    let emulator = Emulator::start(&[]);
    let mosquitto = Mosquitto::start("").await;
    let idle = "[source.idle]\ntype = \"mqtt\"\nurl = \"mqtt://127.0.0.1:1\"\nclient_id = \"i\"\nversion = 3\nunrouted = \"ignore\"\nsubscriptions = [\"x/#\", \"x/y\"]\n";
    let setup = Setup::new(&emulator.endpoint, mosquitto.port, "", "", idle);
    let bridge = setup.start().await;
    let lines = lines(&bridge.log());
    let warnings: Vec<_> = lines.iter().filter(|line| line["level"] == "WARN").collect();
    let said = |words: &str| {
        let found = warnings.iter().find(|line| line["message"].as_str().unwrap().contains(words));
        found.unwrap_or_else(|| panic!("no `{words}` in {lines:?}"))
    };
    let plain = said("`key` is in plain text");
    assert_eq!(plain["file"], setup.config().to_str().unwrap());
    assert_eq!((&plain["line"], plain["column"].is_u64()), (&3.into(), true), "{plain}");
    assert!(plain["help"].as_str().unwrap().contains("{ env = "), "{plain}");
    said("`x/y` takes topics that `x/#` takes, too");
    let started = lines.iter().find(|line| line["message"] == "started").unwrap();
    assert_eq!(started["config"], setup.config().to_str().unwrap());
    assert_eq!(started["version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn errors_of_a_configuration_are_lines_as_far_as_it_can_be_read() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("bridge.toml");
    for (text, json) in [
        ("[log]\nformat = \"json\"\n[api.main]\nendpont = \"x\"\n", true),
        ("[api.main\nendpoint = \"x\"\n[log]\nformat = \"json\"\nlevel = \"off\"\n", true),
        ("[api.main]\nendpont = \"x\"\n", true),
        ("[log]\nformat = \"text\"\n[api.main]\nendpont = \"x\"\n", false),
    ] {
        fs::write(&file, text).unwrap();
        let (code, said) = ended(bridge().args(["run", "-c"]).arg(&file));
        assert_eq!(code, Some(78));
        if json {
            let lines = lines(&said);
            assert!(lines.len() > 2 && lines.iter().all(|l| l["level"] == "ERROR"), "{said}");
            let last = lines.last().unwrap();
            assert_eq!(last["problems"], lines.len() - 1, "{said}");
        } else {
            assert!(said.starts_with("error: "), "{said}");
        }
        // A report is for people.
        let (code, said) = ended(bridge().args(["check", "-c"]).arg(&file));
        assert!(code == Some(78) && said.starts_with("error: "), "{said}");
    }
    fs::remove_file(&file).unwrap();
    assert_eq!(lines(&ended(bridge().args(["run", "-c"]).arg(&file)).1).len(), 2);
}

/// The end of a process is no matter of taste.
#[test]
fn what_ends_a_start_is_said_whatever_the_log_is_to_say() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("bridge.toml");
    for (level, format) in [
        ("off", "json"),
        ("off", "text"),
        ("appsync_bridge::source=debug", "json"),
        ("info", "json"),
    ] {
        let text = format!(
            "[api.main]\nendpoint = \"http://127.0.0.1:1/event\"\nauth = {{ type = \"api-key\", key = \"da2-plain\" }}\n\
             [source.plant]\ntype = \"mqtt\"\nurl = \"mqtt://127.0.0.1:1\"\nclient_id = \"b\"\nsubscriptions = \"#\"\n\
             [route.all]\nfrom = \"plant\"\nchannel = \"/plant/all\"\n\
             [dead_letter.rejects]\ntype = \"file\"\npath = \"{}\"\n[admin]\nlisten = \"127.0.0.1:0\"\n\
             [log]\nlevel = \"{level}\"\nformat = \"{format}\"\n",
            directory.path().display()
        );
        fs::write(&file, text).unwrap();
        let (code, said) = ended(bridge().args(["run", "-c"]).arg(&file));
        assert_eq!(code, Some(78), "{said}");
        let line = said.lines().last().unwrap_or_else(|| panic!("nothing at {level}"));
        if format == "json" {
            let line = lines(line).remove(0);
            let message = line["message"].as_str().unwrap();
            assert!(line["level"] == "ERROR" && message.contains("is a directory"), "{line}");
        } else {
            assert!(line.starts_with("error: ") && line.contains("is a directory"), "{line}");
        }
    }
}

#[test]
fn a_replay_and_a_demo_say_lines_when_nobody_sits_there() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("bridge.toml");
    let rest = "[api.main]\nendpoint = \"http://127.0.0.1:1/event\"\nauth = { type = \"api-key\", key = \"da2-plain\" }\n\
                [source.plant]\ntype = \"mqtt\"\nurl = \"mqtt://127.0.0.1:1\"\nclient_id = \"b\"\nsubscriptions = \"#\"\n\
                [route.all]\nfrom = \"plant\"\nchannel = \"/plant/all\"\n";
    fs::write(&file, rest).unwrap();
    let none = directory.path().join("none.jsonl");
    let mut command = bridge();
    command.env("HOME", directory.path()).arg("replay").arg(&none).arg("-c").arg(&file);
    let (code, said) = ended(&mut command);
    let heard = lines(&said);
    assert!(code != Some(0) && heard.len() == 2, "{said}");
    assert!(heard[1]["level"] == "ERROR" && heard[1]["message"].as_str().unwrap().contains("none"));

    let demo = Demo::start();
    let port = demo.ports()[0].port().to_string();
    let (code, said) = ended(bridge().args(["demo", "--port", &port]));
    let heard = lines(&said);
    assert_eq!((code, heard.len()), (Some(1), 1), "{said}");
    assert!(heard[0]["message"].as_str().unwrap().contains("try another `--port`"), "{said}");
}

/// Not a test: the process that the next one starts.
#[test]
fn a_process_that_panics() {
    if let Ok(format) = std::env::var("PANICS") {
        use appsync_bridge::telemetry::{self, Format};
        let format = if format == "json" { Format::Json } else { Format::Text };
        telemetry::start("off", format, std::iter::empty());
        telemetry::tell_of_panics();
        appsync_bridge::redact::learn("hunter2-of-a-panic");
        assert!(telemetry::unless_it_panics::<()>(|| panic!("no fault")).is_none());
        let _ = std::thread::spawn(|| panic!("{}", "met \"hunter2-of-a-panic\"")).join();
    }
}

#[test]
fn a_panic_is_a_line_and_shows_no_secret() {
    for format in ["json", "text"] {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "log::a_process_that_panics", "--nocapture"]);
        let (_, said) = ended(command.env("PANICS", format).env("RUST_BACKTRACE", "0"));
        assert!(said.contains("met") && said.contains('…') && said.contains("log.rs"), "{said}");
        assert!(!said.contains("hunter2") && !said.contains("no fault"), "{said}");
        if format == "json" {
            let lines = lines(&said);
            assert_eq!(lines[0]["message"], "panicked: met \"…\"");
        }
    }
}
