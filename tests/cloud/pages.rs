//! What stands in README and on the pages of `deploy`: each configuration is whole, and `check` takes it; the script of a page gets
//! events, by the real Amplify client; and what is linked is there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::{check, variables};
use crate::support::emulator::Emulator;
use crate::support::{PATIENCE, until};

fn pages() -> Vec<PathBuf> {
    let entries = fs::read_dir("deploy").unwrap().map(|entry| entry.unwrap().path());
    let pages = entries.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    pages.chain([PathBuf::from("README.md")]).collect()
}

/// The blocks of a language. What is no whole configuration is a `toml fragment`.
fn blocks(page: &Path, language: &str) -> Vec<String> {
    let text = fs::read_to_string(page).unwrap();
    let fence = format!("```{language}\n");
    let blocks = text.split(&fence).skip(1);
    blocks.map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

#[test]
fn the_configurations_pass_check() {
    let mut count = 0;
    for page in pages() {
        for block in blocks(&page, "toml") {
            count += 1;
            let value = |name: &str| match name {
                "APPSYNC_ENDPOINT" => "http://127.0.0.1:8787/event",
                _ => "x-1",
            };
            let set = variables(&block).into_iter().map(|name| (value(name), name));
            let set = set.map(|(value, name)| (name, value)).chain([("HOME", "/tmp")]);
            let (good, said) = check(&block, set);
            assert!(good, "{}: {said}\n{block}", page.display());
        }
        for block in blocks(&page, "json") {
            let read: Result<serde_json::Value, _> = serde_json::from_str(&block);
            assert!(read.is_ok(), "{}: {read:?}\n{block}", page.display());
        }
    }
    assert!(count >= 5, "{count} configurations");
}

#[test]
fn what_they_link_is_there() {
    let anchor = |heading: &str| -> String {
        let letters = heading.to_lowercase();
        let kept = letters.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    let mut count = 0;
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for target in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            if target.starts_with("http") {
                continue;
            }
            count += 1;
            let (file, place) = target.split_once('#').unwrap_or((target, ""));
            let folder = page.parent().unwrap();
            let file = if file.is_empty() { page.clone() } else { folder.join(file) };
            assert!(file.exists(), "{}: {target}", page.display());
            if !place.is_empty() {
                let text = fs::read_to_string(&file).unwrap();
                let headings = text.lines().filter_map(|line| line.split_once("# "));
                let known = |(_, heading): (&str, &str)| anchor(heading) == place;
                assert!(headings.into_iter().any(known), "{}: {target}", page.display());
            }
        }
    }
    assert!(count > 20, "{count} links");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_script_of_a_page_gets_events() {
    let emulator = Emulator::start(&[]);
    let [script] = &blocks(Path::new("deploy/RECIPES.md"), "js")[..] else { panic!("not one") };
    let endpoint = emulator.endpoint.replace("http://", "HTTP://");
    let script = script
        .replace(
            "https://abcdefghijklmnopqrstuvwxyz.appsync-api.eu-west-1.amazonaws.com/event",
            &endpoint,
        )
        .replace("da2-abcdefghijklmnopqrstuvwxyz", "da2-local")
        .replace("export function", "function");
    let program = format!(
        "import WebSocket from 'ws';\nglobalThis.WebSocket ??= WebSocket;\n{script}\n\
         const stop = follow('/orders/c-1/*', (order) => {{\n\
           console.log(JSON.stringify(order));\nstop();\nprocess.exit(0);\n}}, console.log);\n"
    );
    let mut node = tokio::process::Command::new("node")
        .args(["--input-type=module", "--eval", &program])
        .current_dir("tests/node")
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(node.stdout.take().unwrap()).lines();
    // A subscription is live some time after the program has begun: it gets the first event that is sent then.
    let sent = until("the page has an event", PATIENCE, async || {
        emulator.publish("/orders/c-1/shipped", &[r#"{"id":7}"#]).await;
        None::<()>
    });
    let line = async { tokio::time::timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap() };
    let line = tokio::select! { line = line => line.unwrap(), () = sent => unreachable!() };
    assert_eq!(line, r#"{"id":7}"#);
    assert!(node.wait().await.unwrap().success());
}
