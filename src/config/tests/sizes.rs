//! Large files with many mistakes. Each is read in the time that it takes to read it: where a part of the
//! loader looked at everything once for each of many things, these tests would take minutes or overflow the
//! stack.

use std::fmt::Write as _;
use std::path::Path;

use crate::config::{Environment, parse};

/// How many things are wrong in each file.
const MANY: usize = 2_000;

const HEAD: &str = "[api.main]\nendpoint = \"http://localhost/event\"\nauth = { type = \"iam\" }\n";

/// The number of mistakes, and what is shown.
fn read(text: &str) -> (usize, String) {
    let environment = Environment::of([("HOME", "/home/b"), ("AWS_REGION", "eu-west-1")]);
    match parse(text, Path::new("t.toml"), &environment) {
        Ok(loaded) => (0, loaded.warnings.to_string()),
        Err(found) => (found.errors(), found.to_string()),
    }
}

fn many(line: impl Fn(usize) -> String) -> String {
    (0..MANY).fold(HEAD.to_owned(), |mut text, number| {
        let _ = writeln!(text, "{}", line(number));
        text
    })
}

#[test]
fn mistakes_cost_what_they_are_long() {
    let source = |n: usize| {
        format!(
            "[source.s{n}]\ntype = \"mqtt\"\nurl = \"mqtt://h\"\nclient_id = \"b{n}\"\nsubscriptions = \"#\""
        )
    };
    let plant = "[source.plant]\ntype = \"mqtt\"\nurl = \"mqtt://h\"\nclient_id = \"b\"\nsubscriptions = \"#\"\n";
    let cases = [
        ("unknown keys", many(|n| format!("k{n} = {n}")), MANY),
        ("unknown tables", many(|n| format!("[t{n}.x]\na = 1")), MANY),
        ("keys without values", many(|n| format!("k{n}")), MANY),
        ("strings without quotes", many(|n| format!("k{n} = some {n}")), MANY),
        ("never closed", many(|n| format!("k{n} = [1")), 100),
        ("never closed, with quotes", many(|n| format!("\"k{n}\" = [1")), 1),
        ("the same key again", many(|_| "k = 1".to_owned()), MANY),
        ("the same table again", many(|_| "[t]\nx = 1".to_owned()), MANY - 1),
        (
            "wrong keys in routes",
            many(|n| format!("[route.r{n}]\nfrom = \"plant\"\nchannel = \"/a\"\nbananas = 1"))
                + plant,
            MANY,
        ),
        (
            "dangling names",
            many(|n| format!("{}\n[route.r{n}]\nfrom = \"x{n}\"\nchannel = \"/a\"", source(n))),
            MANY,
        ),
        (
            "clients of one name",
            many(|n| source(n).replace(&format!("\"b{n}\""), "\"b\"")),
            MANY - 1,
        ),
        (
            "dead letters in one file",
            many(|n| format!("[dead_letter.d{n}]\ntype = \"file\"\npath = \"/x\"")),
            MANY - 1,
        ),
        (
            "circles",
            many(|n| {
                format!(
                    "[dead_letter.d{n}]\ntype = \"kafka\"\nsource = \"s{n}\"\ntopic = \"t\"\n\
                     [route.r{n}]\nfrom = \"s{n}\"\nchannel = \"/a\"\ndead_letter = \"d{n}\"\n\
                     [source.s{n}]\ntype = \"kafka\"\nbrokers = \"b\"\ngroup = \"g\"\ntopics = \"t\""
                )
            }),
            1,
        ),
        ("one line", format!("{HEAD}x = [{}]\n", "{ a = b },".repeat(MANY)), 1),
        ("one list", format!("{HEAD}x = [\n{}]\n", "  bare,\n".repeat(MANY)), 1),
        ("one long key", format!("{HEAD}{} = 1\n", "k".repeat(MANY * 50)), 1),
        ("one long value", format!("{HEAD}timeout = \"{}\"\n", "é ".repeat(MANY * 50)), 1),
        ("comments", format!("{HEAD}{}", "# password\n".repeat(MANY * 10)), 1),
        ("lists in lists", format!("{HEAD}x = {}", "[".repeat(MANY * 10)), 1),
        ("tables in tables", format!("{HEAD}x = {}", "{ a = ".repeat(MANY)), 1),
        ("a header of many words", format!("{HEAD}[{}a]\n", "a.".repeat(MANY)), 1),
        ("a key of many words", format!("{HEAD}{}a = 1\n", "a.".repeat(MANY)), 1),
        ("quotes", format!("{HEAD}{}", "\"".repeat(MANY * 10 + 1)), 1),
        ("long quotes", format!("{HEAD}{}", "x = \"\"\"\n".repeat(MANY)), 1),
    ];
    for (what, text, least) in cases {
        let (errors, shown) = read(&text);
        assert!(errors >= least, "{what}: {errors}\n{}", &shown[..shown.len().min(2000)]);
        assert!(shown.len() < 4 << 20, "{what}: {} bytes are shown", shown.len());
        if errors > 1000 {
            assert!(
                shown.contains(" more are not shown") && shown.contains(&errors.to_string()),
                "{what}"
            );
        }
    }
}
