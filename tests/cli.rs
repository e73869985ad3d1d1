//! The command line: what it says, and what it ends with.

use std::fs;
use std::process::{Command, Output};

use crate::support::emulator::bridge;

fn run(args: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } =
        bridge().args(args).env("NO_COLOR", "1").output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

#[test]
fn seven_mistakes_of_seven_kinds_are_seven_problems() {
    let file = "tests/fixtures/config/invalid/seven-mistakes.toml";
    for (command, error, end) in [
        ("check", "error: ", "7 problems"),
        // A report for people, and lines of a log.
        ("run", "\"line\":", "\"target\":\"appsync_bridge::cli::check\"}"),
    ] {
        let (code, stdout, stderr) = run(&[command, "-c", file]);
        assert_eq!((code, stdout.as_str()), (78, ""), "{stderr}");
        assert_eq!(stderr.matches(error).count(), 7, "{stderr}");
        assert!(stderr.trim_end().ends_with(end), "{stderr}");
        for said in [
            "unknown key `endpont`",               // unknown key
            "a `[` is never closed",               // syntax
            "takes a whole number",                // wrong type
            "has no `path`",                       // missing key
            "is called `plnt`",                    // dangling reference
            "placeholder is never closed",         // bad template
            "`timeout` is 1m, but `grace` is 25s", // impossible timing
        ] {
            assert_eq!(stderr.matches(said).count(), 1, "{said} in {stderr}");
        }
    }
}

#[test]
fn a_good_configuration_is_called_good() {
    for file in ["config/bridge.toml", "config/mqtt.toml"] {
        let command = bridge()
            .args(["check", "-c", file])
            .env("APPSYNC_API_KEY", "da2-x")
            .env("MQTT_PASSWORD", "x")
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&command.stderr);
        assert_eq!(command.status.code(), Some(0), "{stderr}");
        assert!(String::from_utf8_lossy(&command.stdout).contains("is good"), "{stderr}");
    }
}

#[test]
fn files_that_can_not_be_read_and_places_that_can_not_be_written() {
    let (code, _, stderr) = run(&["run", "-c", "/nonexistent/bridge.toml"]);
    assert_eq!(code, 78);
    assert!(stderr.contains("there is no such file") && stderr.contains("--config"), "{stderr}");

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bridge.toml");
    let text = fs::read_to_string("config/mqtt.toml").unwrap();
    let text = format!(
        "{text}\n[dead_letter.rejects]\ntype = \"file\"\npath = \"/proc/none/rejects.jsonl\"\n[admin]\nlisten = \"127.0.0.1:0\"\n"
    );
    fs::write(&path, text).unwrap();
    let command = bridge()
        .args(["run", "-c"])
        .arg(&path)
        .env("APPSYNC_API_KEY", "da2-x")
        .env("MQTT_PASSWORD", "x")
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&command.stderr);
    assert_eq!(command.status.code(), Some(78), "{stderr}");
    assert!(
        stderr.contains("/proc/none/rejects.jsonl")
            && stderr.contains("make its directory writable"),
        "{stderr}"
    );
}

#[test]
fn usage_is_two_and_help_has_examples() {
    assert_eq!(run(&["rum"]).0, 2);
    for command in ["run", "check", "demo", "emulate", "replay"] {
        let (code, stdout, _) = run(&[command, "--help"]);
        assert_eq!(code, 0);
        assert!(stdout.contains("Examples:"), "{stdout}");
    }
    let (code, stdout, _) = run(&["--version"]);
    assert_eq!((code, stdout.trim()), (0, concat!("appsync-bridge ", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn a_configuration_is_a_regular_file_or_standard_input() {
    let directory = tempfile::tempdir().unwrap();
    let fifo = directory.path().join("fifo");
    // Who opens it to read would wait for a writer that never comes.
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let large = directory.path().join("large.toml");
    fs::File::create(&large).unwrap().set_len((4 << 20) + 1).unwrap();
    for (path, said) in [
        (fifo.to_str().unwrap(), "this is a FIFO"),
        ("/dev/zero", "this is a device"),
        (large.to_str().unwrap(), "larger than 4 MiB"),
    ] {
        for command in ["check", "run"] {
            let (code, _, stderr) = run(&[command, "-c", path]);
            assert!(code == 78 && stderr.contains(said), "{command} {path}: {code} {stderr}");
        }
    }
    let from = |stdin: fs::File| {
        let command = bridge().args(["check", "-c", "-"]).stdin(stdin).output().unwrap();
        (command.status.code().unwrap(), String::from_utf8(command.stderr).unwrap())
    };
    let (code, stderr) = from(fs::File::open("config/kafka.toml").unwrap());
    assert!(code == 78 && stderr.contains("--> standard input:"), "{stderr}");
    let (code, stderr) = from(fs::File::open("/dev/zero").unwrap());
    assert!(code == 78 && stderr.contains("larger than 4 MiB"), "{stderr}");
}
