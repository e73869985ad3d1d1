//! What the loader says of whole files: `tests/fixtures/config`.
//!
//! `invalid/NAME.toml` prints exactly `NAME.txt`; `valid/NAME.toml` loads, with the warnings of
//! `NAME.txt` if there is one. `UPDATE_FIXTURES=1` writes the `.txt` files anew: read the difference.

#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use appsync_bridge::config::{self, Environment, Kind, Problem};

const FIXTURES: &str = "tests/fixtures/config";

fn environment() -> Environment {
    Environment::of([
        ("HOSTNAME", "bridge-0"),
        ("STATE_DIRECTORY", "/var/lib/appsync-bridge"),
        ("APPSYNC_API_KEY", "da2-abcdefghijklmnopqrstuvwxyz"),
        ("MQTT_PASSWORD", "hunter2"),
        ("KAFKA_PASSWORD", "hunter2"),
        ("NATS_PASSWORD", "hunter2"),
        ("NATS_TOKEN", "hunter2"),
        ("EMPTY", ""),
        ("TEMPLATE", "/hunter2/{json.id|slug}"),
        ("TOPIC", "plant/{hunter2}"),
        ("AWS_REGION", "eu-west-1"),
    ])
}

fn files(directory: &str) -> Vec<PathBuf> {
    let directory = Path::new(directory);
    let mut files: Vec<_> = std::fs::read_dir(directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    files.sort();
    files
}

/// Compares what each file prints with the text beside it.
fn compare(directory: &str, shown: impl Fn(&Path) -> Result<String, String>) {
    let update = std::env::var_os("UPDATE_FIXTURES").is_some();
    let mut wrong = String::new();
    let files = files(directory);
    assert!(!files.is_empty(), "no fixtures in {directory}");
    for file in files {
        let beside = file.with_extension("txt");
        let found = match shown(&file) {
            Ok(found) => found,
            Err(problem) => {
                writeln!(wrong, "\n=== {}: {problem}", file.display()).unwrap();
                continue;
            }
        };
        let expected = std::fs::read_to_string(&beside).unwrap_or_default();
        if found == expected {
            continue;
        }
        if update {
            if found.is_empty() {
                std::fs::remove_file(&beside).unwrap();
            } else {
                std::fs::write(&beside, &found).unwrap();
            }
            continue;
        }
        writeln!(wrong, "\n=== {} (- expected, + printed)", beside.display()).unwrap();
        difference(&expected, &found, &mut wrong);
    }
    assert!(wrong.is_empty(), "{wrong}\nUPDATE_FIXTURES=1 takes what is printed\n");
}

/// The lines that differ, between those that are the same at the start and at the end.
fn difference(expected: &str, found: &str, out: &mut String) {
    let (old, new): (Vec<_>, Vec<_>) = (expected.lines().collect(), found.lines().collect());
    let same = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let rest = old.len().min(new.len()) - same;
    let ends =
        old.iter().rev().zip(new.iter().rev()).take(rest).take_while(|(a, b)| a == b).count();
    for line in &old[same..old.len() - ends] {
        writeln!(out, "-{line}").unwrap();
    }
    for line in &new[same..new.len() - ends] {
        writeln!(out, "+{line}").unwrap();
    }
}

#[test]
fn invalid_files_print_every_problem() {
    compare(&format!("{FIXTURES}/invalid"), |file| match config::load(file, &environment()) {
        Ok(_) => Err("loads without a problem".to_owned()),
        Err(problems) => {
            let shown = format!("{problems}\n");
            assert!(!shown.contains("hunter2"), "{} shows a secret", file.display());
            Ok(shown)
        }
    });
}

#[test]
fn valid_files_load() {
    use std::os::unix::fs::PermissionsExt;
    // A checkout may have any mode; this file is here to be readable by others.
    let open = format!("{FIXTURES}/valid/readable-by-others");
    std::fs::set_permissions(open, std::fs::Permissions::from_mode(0o644)).unwrap();
    compare(&format!("{FIXTURES}/valid"), |file| match config::load(file, &environment()) {
        Ok(loaded) if loaded.warnings.is_empty() => Ok(String::new()),
        Ok(loaded) => Ok(format!("{}\n", loaded.warnings)),
        Err(problems) => Err(problems.to_string()),
    });
}

#[test]
fn examples_load_without_a_warning() {
    for file in files("config") {
        let loaded = config::load(&file, &environment()).unwrap_or_else(|found| panic!("{found}"));
        assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
    }
}

#[test]
fn seven_mistakes_are_seven_problems() {
    let file = format!("{FIXTURES}/invalid/seven-mistakes.toml");
    let problems = config::load(Path::new(&file), &environment()).unwrap_err();
    let kinds: BTreeSet<_> = problems.iter().map(Problem::kind).collect();
    let expected = BTreeSet::from([
        Kind::Syntax,
        Kind::UnknownKey,
        Kind::WrongType,
        Kind::MissingKey,
        Kind::Dangling,
        Kind::BadTemplate,
        Kind::Impossible,
    ]);
    assert_eq!((kinds, problems.errors()), (expected, 7), "{problems}");
}
