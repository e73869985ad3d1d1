//! The import table of the crate page against the sources; and that no files need each other, that a wing
//! is entered by its door, and that no folder is too full.

mod brokers;
mod files;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

type Table = BTreeMap<String, BTreeSet<String>>;

/// The lines `a → b, c` of the crate page.
fn allowed() -> Table {
    let page = fs::read_to_string(root().join("lib.rs")).unwrap();
    let lines = page.lines().filter_map(|l| l.strip_prefix("//! ")?.split_once(" → "));
    let set = |names: &str| names.split(", ").map(str::to_owned).collect();
    lines
        .filter(|(from, _)| {
            from.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        })
        .map(|(from, to)| (from.to_owned(), set(to)))
        .collect()
}

/// Every `crate::x` and `appsync_bridge::x` of the sources, but for their tests.
fn found() -> BTreeMap<(String, String), PathBuf> {
    let mut edges = BTreeMap::new();
    for path in sources(&root()) {
        let name = path.file_stem().unwrap().to_str().unwrap();
        if name.ends_with("tests") || name == "lib" {
            continue;
        }
        let first = path.strip_prefix(root()).unwrap().iter().next().unwrap();
        let from = first.to_str().unwrap().trim_end_matches(".rs").to_owned();
        let text = fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
        for mark in ["crate::", "appsync_bridge::"] {
            for (at, _) in code.match_indices(mark) {
                let rest = &code[at + mark.len()..];
                assert!(
                    !rest.starts_with('{'),
                    "{}: one `use` a module, or the table can't be read",
                    path.display()
                );
                let to: String =
                    rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
                if to != from {
                    edges.insert((from.clone(), to), path.clone());
                }
            }
        }
    }
    edges
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn sources(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    files
}

#[test]
fn nobody_imports_what_the_crate_page_does_not_allow() {
    let (allowed, found) = (allowed(), found());
    assert!(allowed.len() > 10 && found.len() > 30, "the table or the sources were not read");
    for (from, names) in &allowed {
        for to in names.iter().filter(|_| from != "main") {
            let used = found.contains_key(&(from.clone(), to.clone()));
            assert!(used, "the table allows `{from} → {to}`, which nobody uses");
        }
    }
    for ((from, to), path) in &found {
        let ok = allowed.get(from).is_some_and(|names| names.contains(to));
        assert!(ok, "{}: `{from}` may not import `{to}`", path.display());
    }
}

#[test]
fn source_and_publish_meet_only_in_the_middle() {
    let found = found();
    let meets = |from: &str, to: &str| found.contains_key(&(from.to_owned(), to.to_owned()));
    assert!(
        !meets("source", "publish") && !meets("publish", "source") && !meets("config", "source")
    );
    assert!(meets("bridge", "source") && meets("bridge", "publish"));
}
