//! T63: what `fuzz` looks for, tried with spoilt examples. Its targets are run from here, so that none rots.

#[allow(unreachable_pub)] // there they are a library
#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use targets::TARGETS;

/// What stands in texts of every kind.
const PIECES: [&str; 26] = [
    "\n",
    "\"",
    "'",
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "=",
    ".",
    "..",
    "/",
    "*",
    "#",
    "+",
    "%2F",
    "\\ud800",
    "\\u0000",
    "null",
    "-1e999",
    "18446744073709551616",
    "\u{0}",
    "é",
    "169.254.169.254",
    "@",
];

/// Inputs that are taken, and some that are nearly.
fn seeds(target: &str) -> Vec<Vec<u8>> {
    let below = |folder: &str, end: &str| -> Vec<Vec<u8>> {
        let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let files = files.filter(|path| path.extension().is_some_and(|found| found == end));
        files.map(|path| fs::read(path).unwrap()).collect()
    };
    let texts = |texts: &[&str]| texts.iter().map(|text| text.as_bytes().to_vec()).collect();
    match target {
        "configuration" => {
            let folders = ["config", "tests/fixtures/config/valid", "tests/fixtures/config/invalid"];
            folders.iter().flat_map(|folder| below(folder, "toml")).collect()
        }
        "endpoint" => texts(&[
            "https://abcdefghijklmnopqrstuvwxyz.appsync-api.eu-west-1.amazonaws.com/event",
            "http://127.0.0.1:8787/event",
            "https://[::ffff:a9fe:a9fe]/event",
            "https://2852039166:443/event",
        ]),
        "pattern" => texts(&[
            "plant/{site}/telemetry\nplant/berlin/telemetry",
            "fleet/{path..}\nfleet/van-7/door/left",
            "orders.{kind}-{id}.*\norders.new-7.eu",
            "plant/+/#\nplant/a/b",
            "{topic..}\na/b",
        ]),
        "route" => texts(&[
            "plant/{site}/t\n/plant/{site}/{json.a.b}\nplant/ber/t\n{\"a\":{\"b\":\"c-1\"}}",
            "{a}/{rest..}\n/n/{rest..}\na/b/c\n[1,{\"x\":null}]",
            "*\n/n/{key}/{header.h}/{topic..}\nabc\n1",
        ]),
        "document" => texts(&[
            "a.b.0\n{\"a\":{\"b\":[\"x\",1.50]},\"c\":\"\\ud83d\\ude00\"}",
            "é\n{\"\\u00e9\":true,\"x\":{}}",
            "0\n[-0.1e5,{\"a\":null}]",
        ]),
        "answer" => [
            r#"{"failed":[{"identifier":"u","index":0,"code":"X","message":"m"}],"successful":[{"identifier":"v","index":1}]}"#,
            r#"{"errors":[{"errorType":"UnauthorizedException","errorCode":401,"message":"no"}]}"#,
            r#"{"failed":[],"successful":[{"index":0},{"index":1}],"errors":null}"#,
        ]
        .iter()
        // With 200 and two events, and with 403.
        .flat_map(|body| [&[0u8, 100, 1][..], &[1, 47, 1][..]].map(|head| [head, body.as_bytes()].concat()))
        .collect(),
        "frame" => texts(&[
            r#"{"type":"connection_ack","connectionTimeoutMs":300000}"#,
            r#"{"type":"data","id":"1","event":["{\"a\":1}"]}"#,
            r#"{"type":"subscribe","id":"1","channel":"/a/*","authorization":{"x-api-key":"k"}}"#,
            r#"{"type":"broadcast_error","id":"1","errors":[{"errorType":"X","message":"m"}]}"#,
            r#"{"channel":"/a/b","events":["1","\"b\""]}"#,
        ]),
        "record" => texts(&[
            r#"{"at":"2026-01-02T03:04:05Z","reason":"invalid_json","detail":"d","source":"plant","topic":"a/b","route":"r","channel":"/a/b","key":"k","order":"o","published":"2026-01-02T03:04:05.678Z","headers":[{"name":"a","value":"b"},{"name":"c","value_base64":"//8="}],"coordinates":{"partition":1,"offset":2},"payload":"{"}"#,
            r#"{"at":"2026-01-02T03:04:05Z","reason":"refused","source":"s","topic":"q","order":null,"headers":[],"coordinates":{},"payload_base64":"AP8="}"#,
        ]),
        "envelope" => {
            let mut all = below("tests/fixtures/sqs", "json");
            all.push(b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_vec());
            all
        }
        other => panic!("{other} has no example"),
    }
}

/// One of the examples with some pieces cut out, doubled, or put in.
fn spoilt(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let put = prop_oneof![
        4 => prop::sample::select(&PIECES[..]).prop_map(|piece| piece.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..4),
        1 => prop::sample::select(seeds.clone()),
    ];
    let change = (any::<prop::sample::Index>(), 0usize..12, put);
    (prop::sample::select(seeds), prop::collection::vec(change, 0..6)).prop_map(
        |(mut text, changes)| {
            for (at, length, put) in changes {
                let at = at.index(text.len() + 1);
                let end = (at + length).min(text.len());
                text.splice(at..end, put);
            }
            text
        },
    )
}

#[test]
fn no_target_of_the_fuzzer_is_hit_by_a_spoilt_example() {
    let cases = if std::env::var_os("LONG_TESTS").is_some() { 20_000 } else { 500 };
    for (name, target) in TARGETS {
        let taken = seeds(name).iter().filter(|seed| target(seed)).count();
        assert!(taken > 0, "{name} takes none of its examples");
        let mut runner = TestRunner::new(ProptestConfig {
            cases,
            failure_persistence: None,
            ..ProptestConfig::default()
        });
        let ran = runner.run(&spoilt(seeds(name)), |text| {
            let _ = target(&text);
            Ok(())
        });
        ran.unwrap_or_else(|why| panic!("{name}: {why}"));
    }
}

#[test]
fn each_target_is_a_program_of_the_fuzzer_and_listed() {
    let wanted: BTreeSet<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let files = fs::read_dir("fuzz/fuzz_targets").unwrap().map(|entry| entry.unwrap().path());
    let stem = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
    assert_eq!(files.map(|path| stem(&path)).collect::<BTreeSet<_>>(), wanted);
    let manifest: toml::Table = fs::read_to_string("fuzz/Cargo.toml").unwrap().parse().unwrap();
    let programs = manifest["bin"].as_array().unwrap().iter();
    let programs = programs.map(|program| program["name"].as_str().unwrap().to_owned());
    assert_eq!(programs.collect::<BTreeSet<_>>(), wanted);
    let page = fs::read_to_string("SECURITY.md").unwrap();
    for name in wanted {
        let text = fs::read_to_string(format!("fuzz/fuzz_targets/{name}.rs")).unwrap();
        assert!(text.contains(&format!("appsync_bridge_fuzz::{name}(data)")), "{text}");
        assert!(page.contains(&format!("| `{name}` |")), "{name} is not in SECURITY.md");
    }
}
