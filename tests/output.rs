//! Standard output that can't be written to, of every command.

use std::fs::{self, File};
use std::process::Stdio;
use std::time::Duration;

use serde_json::json;

use crate::support::emulator::{Emulator, KEY, bridge};
use crate::support::stub::{Stub, reply};

const RECORD: &str = r#"{"at":"2026-11-22T10:00:00.000Z","reason":"refused","detail":"no","source":"plant","route":"all","topic":"a","headers":[],"coordinates":{"qos":"1"},"payload":"1"}"#;

/// A full disk, or a reader that has enough.
fn outputs() -> [(Stdio, i32); 2] {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let full = File::options().write(true).open("/dev/full").unwrap();
    [(full.into(), 1), (writer.into(), 0)]
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_reader_that_has_enough_is_a_good_end() {
    let emulator = Emulator::start(&[]);
    let admin = Stub::start(Duration::ZERO, |_| reply(200, &json!({}))).await;
    let admin = admin.url("");
    let admin = admin.trim_end_matches('/');
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: String| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let config = file(
        "bridge.toml",
        format!(
            "[api.main]\nendpoint = \"{}\"\nauth = {{ type = \"api-key\", key = \"{KEY}\" }}\n\
             [source.plant]\ntype = \"mqtt\"\nurl = \"mqtt://127.0.0.1:1\"\nclient_id = \"b\"\nsubscriptions = \"#\"\n\
             [route.all]\nfrom = \"plant\"\nchannel = \"/all/x\"\n\
             [dead_letter.rejects]\ntype = \"file\"\npath = \"/dev/full\"\n",
            emulator.endpoint
        ),
    );
    let letters = file("letters.jsonl", format!("{RECORD}\n"));
    // More than is kept until the end.
    let many = file("many.jsonl", format!("{RECORD}\n").repeat(1_000));
    let (config, letters, many) = (&*config, &*letters, &*many);
    let to = ["publish", "/demo/a", "1", "--api-key", KEY, "--endpoint", &emulator.endpoint];
    for args in [
        &["check", "-c", config][..],
        &["check", "-c", config, "--json"],
        &to,
        &[&to[..], &["--json"]].concat(),
        &["replay", letters, "-c", config],
        &["replay", letters, "-c", config, "--json"],
        &["replay", letters, "-c", config, "--dry-run"],
        &["replay", many, "-c", config, "--dry-run", "--json"],
        #[cfg(feature = "top")]
        &["top", "--once", "--admin", admin],
        #[cfg(feature = "top")]
        &["top", "--json", "--admin", admin],
        &["health", "--admin", admin],
        &["health", "--ready", "--admin", admin],
        &["schema"],
        &["schema", "--reference"],
        &["man"],
        &["completions", "bash"],
        &["help", "check"],
        &["--help"],
        &["--version"],
    ] {
        for (stdout, code) in outputs() {
            let mut command = bridge();
            command.args(args).stdin(Stdio::null()).stdout(stdout).stderr(Stdio::piped());
            let output = command.spawn().unwrap().wait_with_output().unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
            let words = "can't write to standard output: No space left on device";
            assert_eq!(said.matches(words).count(), usize::from(code == 1), "{args:?}: {said}");
        }
    }
}

/// What it would end with anyway tells more.
#[test]
fn a_failure_keeps_its_code_where_nothing_can_be_printed() {
    let [(full, _), _] = outputs();
    let mut command = bridge();
    command.args(["check", "-c", "/nowhere", "--json"]).stdout(full).stderr(Stdio::piped());
    let output = command.spawn().unwrap().wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("can't write to standard output"), "{said}");
    assert_eq!(output.status.code(), Some(78));
}
