//! `schema`, `completions` and `man`. The validators are others': Ajv, and Taplo, which finds the schema by the first
//! line of an example.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::emulator::bridge;

const SCHEMA: &str = "config/bridge.schema.json";
const REFERENCE: &str = "config/REFERENCE.md";

/// What a generating command prints.
fn printed(args: &[&str]) -> String {
    let output = bridge().args(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What is wrong with each of these documents by a JSON Schema, and by those that it refers to.
pub(super) fn faults(schemas: &[&str], documents: &[Value]) -> Vec<Vec<String>> {
    let paths = schemas.iter().map(|path| Path::new(env!("CARGO_MANIFEST_DIR")).join(path));
    let mut node = Command::new("node")
        .arg("schema.mjs")
        .args(paths)
        .current_dir("tests/node")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("`node` cannot be run");
    let mut input = node.stdin.take().unwrap();
    for document in documents {
        writeln!(input, "{document}").unwrap();
    }
    drop(input);
    let output = node.wait_with_output().unwrap();
    assert!(output.status.success(), "Ajv does not take {schemas:?}");
    let lines = String::from_utf8(output.stdout).unwrap();
    let found: Vec<_> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(found.len(), documents.len());
    found
}

fn json(toml: &str) -> Value {
    serde_json::to_value(toml::from_str::<toml::Table>(toml).unwrap()).unwrap()
}

fn tomls(directory: &str) -> Vec<PathBuf> {
    let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|end| end == "toml")).collect();
    files.sort();
    assert!(!files.is_empty(), "{directory}");
    files
}

#[test]
fn what_is_beside_the_examples_is_what_the_program_prints() {
    for (path, args) in [(SCHEMA, &["schema"][..]), (REFERENCE, &["schema", "--reference"])] {
        let text = printed(args);
        if std::env::var_os("UPDATE_FIXTURES").is_some() {
            fs::write(path, &text).unwrap();
        }
        let kept = fs::read_to_string(path).unwrap_or_default();
        assert!(kept == text, "UPDATE_FIXTURES=1 writes {path} anew");
    }
}

/// Gives `take` each table of keys that a schema has, but for those of its definitions: the keys, and which are required.
fn each_table(schema: &Value, take: &mut impl FnMut(&serde_json::Map<String, Value>, &[Value])) {
    match schema {
        Value::Object(fields) => {
            if let Some(keys) = fields.get("properties").and_then(Value::as_object) {
                let required = fields.get("required").and_then(Value::as_array);
                take(keys, required.map_or(&[], Vec::as_slice));
            }
            // The keys of `properties` are names.
            let of_keys = fields.get("properties").and_then(Value::as_object);
            of_keys.into_iter().flatten().for_each(|(_, key)| each_table(key, take));
            let others = fields.iter().filter(|(name, _)| *name != "properties");
            let others =
                others.filter(|(name, _)| !["definitions", "default"].contains(&name.as_str()));
            others.for_each(|(_, inner)| each_table(inner, take));
        }
        Value::Array(all) => all.iter().for_each(|inner| each_table(inner, take)),
        _ => {}
    }
}

/// What the schema calls the default can be written.
#[test]
fn each_default_fits_the_schema() {
    let schema: Value = serde_json::from_str(&printed(&["schema"])).unwrap();
    let timeout = &schema["properties"]["api"]["additionalProperties"]["properties"]["timeout"];
    assert_eq!(timeout["default"], "10s");
    // Each beside the others, by a number.
    let (mut keys, mut defaults) = (serde_json::Map::new(), serde_json::Map::new());
    each_table(&schema, &mut |table, _| {
        for key in table.values().filter(|key| key.get("default").is_some()) {
            let number = keys.len().to_string();
            defaults.insert(number.clone(), key["default"].clone());
            keys.insert(number, key.clone());
        }
    });
    assert!(keys.len() > 40, "{}", keys.len());
    let all = keys.len();
    let of_defaults = serde_json::json!({
        "$schema": schema["$schema"], "definitions": schema["definitions"], "properties": keys,
    });
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(&file, of_defaults.to_string()).unwrap();
    let misfits = defaults.keys().map(|number| (number.clone(), Value::Null)).collect();
    let documents = [Value::Object(defaults), Value::Object(misfits)];
    let [fit, misfit] = &faults(&[file.path().to_str().unwrap()], &documents)[..] else { panic!() };
    assert_eq!(*fit, Vec::<String>::new());
    assert!(misfit.len() >= all, "{misfit:?}");
}

/// Keys beside one another that one meaning is true of.
const SHARED: [&[&str]; 1] = [&["max_in_flight", "max_in_flight_bytes"]];

#[test]
fn each_key_has_a_meaning_of_its_own() {
    let schema: Value = serde_json::from_str(&printed(&["schema"])).unwrap();
    let mut wrong = Vec::new();
    let mut count = 0;
    let mut look = |table: &serde_json::Map<String, Value>, required: &[Value]| {
        let mut by_meaning = std::collections::BTreeMap::<&str, Vec<&str>>::new();
        for (name, key) in table {
            count += 1;
            let Some(meaning) = key["description"].as_str() else {
                wrong.push(format!("`{name}` has no meaning"));
                continue;
            };
            by_meaning.entry(meaning).or_default().push(name);
            let must = required.contains(&Value::from(name.as_str()));
            if !must && key.get("default").is_none() && !meaning.contains("eft away") {
                wrong.push(format!(
                    "`{name}` does not say what is done where it is left away: {meaning}"
                ));
            }
        }
        let shared = by_meaning.into_iter().filter(|(_, names)| names.len() > 1);
        let shared = shared.filter(|(_, names)| !SHARED.contains(&names.as_slice()));
        wrong
            .extend(shared.map(|(meaning, names)| format!("{names:?} share a meaning: {meaning}")));
    };
    // The sections themselves are described by the page.
    for (_, section) in schema["properties"].as_object().unwrap() {
        each_table(section, &mut look);
    }
    assert!(wrong.is_empty() && count > 150, "{count} keys:\n{}", wrong.join("\n"));
}

#[test]
fn what_loads_fits_the_schema_and_no_misspelt_key_does() {
    let files = [tomls("config"), tomls("tests/fixtures/config/valid")].concat();
    let texts: Vec<_> = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    let good: Vec<_> = texts.iter().map(|text| json(text)).collect();
    for (file, faults) in files.iter().zip(faults(&[SCHEMA], &good)) {
        assert_eq!(faults, Vec::<String>::new(), "{}", file.display());
    }
    // Each key of each example, in turn.
    let mut misspelt = Vec::new();
    for (file, document) in files.iter().zip(&good) {
        each_key_misspelt(document, &mut Vec::new(), document, &mut |path, document| {
            misspelt.push((format!("{}: {path}", file.display()), document));
        });
    }
    assert!(misspelt.len() > 200, "{}", misspelt.len());
    let (places, documents): (Vec<_>, Vec<_>) = misspelt.into_iter().unzip();
    for (place, faults) in places.iter().zip(faults(&[SCHEMA], &documents)) {
        assert!(!faults.is_empty(), "{place} fits the schema");
    }
    let wrong =
        json(&fs::read_to_string("tests/fixtures/config/invalid/wrong-types.toml").unwrap());
    assert!(faults(&[SCHEMA], &[wrong])[0].len() > 10);
}

/// Gives `take` the document with one key renamed, for each key that is not a name that a user chose.
fn each_key_misspelt(
    value: &Value,
    path: &mut Vec<String>,
    whole: &Value,
    take: &mut impl FnMut(&str, Value),
) {
    const NAMED: [&str; 4] = ["api", "source", "route", "dead_letter"];
    let Some(table) = value.as_object() else { return };
    let chosen = match path.last().map(String::as_str) {
        Some("options" | "headers") => return,
        Some(last) => path.len() == 1 && NAMED.contains(&last),
        None => false,
    };
    for (key, inner) in table {
        let pointer = path.iter().fold(String::new(), |all, part| all + "/" + part);
        if !chosen {
            let mut document = whole.clone();
            let parent = document.pointer_mut(&pointer).unwrap().as_object_mut().unwrap();
            let moved = parent.remove(key).unwrap();
            parent.insert(format!("{key}x"), moved);
            take(&format!("{pointer}/{key}"), document);
        }
        path.push(key.clone());
        each_key_misspelt(inner, path, whole, take);
        path.pop();
    }
}

#[test]
fn an_editor_finds_the_schema_by_the_first_line_of_an_example() {
    let directory = tempfile::tempdir().unwrap();
    fs::copy(SCHEMA, directory.path().join("bridge.schema.json")).unwrap();
    let at = |name: &Path| directory.path().join(name.file_name().unwrap());
    let lint = |files: &[PathBuf]| {
        let mut taplo = Command::new("tests/node/node_modules/.bin/taplo");
        let output = taplo.arg("lint").args(files).output().expect("`taplo` cannot be run");
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let files = tomls("config");
    let copies: Vec<_> = files.iter().map(|file| at(file)).collect();
    for (file, copy) in files.iter().zip(&copies) {
        fs::copy(file, copy).unwrap();
    }
    let (good, said) = lint(&copies);
    assert!(good, "{said}");
    let text = fs::read_to_string(&files[0]).unwrap();
    fs::write(&copies[0], text.replace("[api.main]", "[apy.main]")).unwrap();
    let (good, said) = lint(&copies[..1]);
    assert!(!good && said.contains("apy"), "{said}");
}

#[test]
fn shells_read_their_completions() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("completions");
    fs::write(&path, printed(&["completions", "bash"])).unwrap();
    let script = format!(
        ". {} && COMP_WORDS=(appsync-bridge ch) COMP_CWORD=1 && \
         $(complete -p appsync-bridge | sed 's/.*-F \\([^ ]*\\).*/\\1/') appsync-bridge ch && echo ${{COMPREPLY[@]}}",
        path.display()
    );
    let output = Command::new("bash").args(["-c", &script]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "check", "{output:?}");
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        assert!(printed(&["completions", shell]).contains("appsync-bridge"), "{shell}");
    }
}

#[test]
fn each_command_has_a_manual_page() {
    let directory = tempfile::tempdir().unwrap();
    printed(&["man", "--directory", directory.path().to_str().unwrap()]);
    let help = printed(&["--help"]);
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands = commands
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next());
    let mut count = 0;
    for command in commands.filter(|command| *command != "help") {
        let page = directory.path().join(format!("appsync-bridge-{command}.1"));
        let page = fs::read_to_string(&page).unwrap_or_else(|why| panic!("{command}: {why}"));
        assert!(page.contains(".SH SYNOPSIS"), "{page}");
        count += 1;
    }
    assert!(count > 6 && printed(&["man"]).contains(".TH appsync-bridge 1"), "{help}");
    let output = bridge().args(["man", "--directory", "/nowhere"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("can't write into /nowhere"));
}
