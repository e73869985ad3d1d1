//! A broker's name stands in the files that CONTRIBUTING.md lists for a new one, and in no others.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::files::without_tests_and_comments;
use super::{root, sources};

/// What the brokers are called in code; those in one line share their rooms.
const FAMILIES: [&[&str]; 4] = [&["kafka"], &["nats", "jetstream"], &["mqtt"], &["sqs"]];

/// Files that name a broker, are on no list, and why.
const ALLOWED: [(&str, &str, &str); 3] = [
    ("src/demo/", "mqtt", "the demo is a broker, of one kind"),
    ("src/cli/demo.rs", "mqtt", "the demo is a broker, of one kind"),
    ("src/config/nats/subjects.rs", "mqtt", "subjects are compared in the tree of filters"),
];

/// The files of `src` that the two lists name, with `NAME` for that of a broker.
fn listed(guide: &str) -> BTreeSet<String> {
    let lists = guide.split("\n## ").filter(|part| part.starts_with("How to add a "));
    let items = lists.flat_map(|list| list.lines().filter(|line| !line.is_empty()));
    let paths = items.flat_map(|line| line.split('`').skip(1).step_by(2));
    paths.filter(|path| path.starts_with("src/")).map(str::to_owned).collect()
}

/// The words in `code` that `file` is not to have.
fn strange(file: &str, code: &str, listed: &BTreeSet<String>) -> Vec<&'static str> {
    let code = code.to_ascii_lowercase();
    let is_in =
        |path: &str| if path.ends_with('/') { file.starts_with(path) } else { file == path };
    let may = |family: &[&str]| {
        listed
            .iter()
            .any(|path| family.iter().any(|name| is_in(&path.replace("NAME", name))) || is_in(path))
    };
    let families = FAMILIES.iter().filter(|family| !may(family));
    families.flat_map(|family| family.iter().copied()).filter(|word| code.contains(word)).collect()
}

#[test]
fn a_broker_is_named_in_the_files_of_its_list_only() {
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("CONTRIBUTING.md");
    let listed = listed(&fs::read_to_string(guide).unwrap());
    assert!(listed.len() > 10, "the lists were not read: {listed:?}");
    let src = root();
    let mut found = BTreeSet::new();
    for path in sources(&src) {
        let name = path.strip_prefix(&src).unwrap().to_str().unwrap();
        if name.contains("/tests/") || name.ends_with("tests.rs") {
            continue;
        }
        let file = format!("src/{name}");
        let code = without_tests_and_comments(&fs::read_to_string(&path).unwrap());
        for word in strange(&file, &code, &listed) {
            found.insert((file.clone(), word));
        }
    }
    for (path, word, _) in ALLOWED {
        let before = found.len();
        found.retain(|(file, found)| *found != word || !file.starts_with(path));
        assert!(found.len() < before, "nothing in `{path}` names {word} any more: remove it");
    }
    assert!(
        found.is_empty(),
        "these name a broker; let its row or its settings tell, or name them in CONTRIBUTING.md: {found:#?}"
    );
    // A list that grows names files that are not there.
    for path in listed.iter().filter(|path| !path.contains("NAME")) {
        assert!(src.parent().unwrap().join(path).exists(), "CONTRIBUTING.md lists `{path}`");
    }
}

/// What the list asks for beside the code.
#[test]
fn each_broker_has_its_row_its_example_and_its_build() {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_else(|why| panic!("{path}: {why}"));
    let (contract, builds) = (read("tests/contract.rs"), read(".ci/run"));
    let broker = without_tests_and_comments(&read("src/config/broker.rs"));
    let words =
        broker.lines().filter_map(|line| line.trim().strip_prefix("word: \"")?.split_once('"'));
    let words: BTreeSet<_> = words.map(|(word, _)| word).collect();
    let known: BTreeSet<_> = FAMILIES.iter().flat_map(|family| family.iter().copied()).collect();
    assert_eq!(words, known, "`FAMILIES` are the rows");
    for family in FAMILIES {
        let alone = builds.lines().any(|line| {
            let features = line.split("--features ").nth(1).unwrap_or_default();
            line.contains("--no-default-features") && features.split(',').any(|f| f == family[0])
        });
        assert!(alone, "`.ci/run` builds nothing with `{}` alone", family[0]);
        for word in family {
            let row = |line: &str| line.ends_with("\";") && line.trim_start().starts_with(word);
            assert!(contract.lines().any(row), "`{word}` has no row in tests/contract.rs");
            let example = read(&format!("config/{word}.toml"));
            assert!(example.contains(&format!("\"{word}\"")), "config/{word}.toml is of another");
            assert!(Path::new("tests").join(word).is_dir(), "there is no `tests/{word}/`");
        }
    }
}

/// What the first test would find.
#[test]
fn a_broker_out_of_its_place_is_found() {
    let guide = "## How to add a broker\n\n1. `src/config/NAME/`: x\n2. `src/config/broker.rs`, and `y`\n\n\
                 ## Else\n\n1. `src/other.rs`\n";
    let listed = listed(&format!("# T\n\n{guide}"));
    assert_eq!(listed, ["src/config/NAME/", "src/config/broker.rs"].map(str::to_owned).into());
    for (file, code, words) in [
        ("src/config/kafka/mod.rs", "use kafka;", &[][..]),
        ("src/config/kafka/mod.rs", "Mqtt::new()", &["mqtt"][..]),
        ("src/config/nats/jetstream.rs", "JetStream NATS", &[]),
        ("src/config/broker.rs", "kafka sqs", &[]),
        ("src/other.rs", "\"only SQS\", async_nats", &["nats", "sqs"]),
        ("src/config/natsy.rs", "nats", &["nats"]),
    ] {
        assert_eq!(strange(file, code, &listed), words, "{file}: {code}");
    }
}
