//! Every key as a page of Markdown: made of what the schema is made of.

use std::fmt::Write as _;

use super::comments::{Comment, Comments};
use super::{KINDS, Key, Place, Shape, probe};
use crate::config::reader::Form;

/// The sections, in the order of `config/bridge.toml`, and what they are; those of many tables have `.NAME`.
const SECTIONS: [(&str, &str, &str); 9] = [
    ("api", ".NAME", "An AppSync Event API. Several are allowed."),
    ("source", ".NAME", "A broker and what to take from it. Several are allowed."),
    ("route", ".NAME", "Which messages become which events. Every route that fits applies."),
    ("dead_letter", ".NAME", "Where events go that can't be published."),
    ("admin", "", "The port of the status page, metrics and health."),
    ("log", "", "What is logged, and how."),
    (
        "otlp",
        "",
        "Metrics and traces for a collector of OpenTelemetry. Without the table nothing is exported.",
    ),
    ("shutdown", "", "How the bridge ends."),
    ("cost", "", "The estimate of what publishing costs."),
];

const HEAD: &str = "\
# Every key

Made by `appsync-bridge schema --reference`, and held by a test to what the program reads. A default comes from the
code; `–` is none: the meaning says what is done where the key is left away. [bridge.toml](bridge.toml) has most of
them in one file, with the reasons.

- **duration**: a whole number and a unit, `\"250ms\"`, `\"30s\"`, `\"5m\"`, `\"24h\"`. **size**: the same, `\"512B\"`,
  `\"300KB\"` (1,000), `\"64MiB\"` (1,024).
- Any **string** may be `{ env = \"NAME\" }` or `{ env = \"NAME\", default = \"…\" }`.
- A **secret** is `{ env = \"NAME\" }`, `{ file = \"/path\" }` or `{ credential = \"name\" }` (systemd); plain text works, with a
  warning.
";

/// A line of the page.
#[derive(Clone, PartialEq)]
struct Row {
    /// With the keys of the tables that it is in, parted by dots.
    key: String,
    /// The kinds of its table that have it, if that has kinds and not all do.
    kinds: Vec<String>,
    form: String,
    default: String,
    meaning: String,
    example: String,
}

/// The page of every key.
pub fn page() -> String {
    let (comments, probe) = (Comments::of_examples(), probe());
    let mut page = HEAD.to_owned();
    for (section, named, what) in SECTIONS {
        let Some(key) = probe.keys.get(section) else { continue };
        let _ = write!(page, "\n## `[{section}{named}]`\n\n{what}\n");
        let kinds = match key.tables.first().and_then(|table| table.any.as_ref()) {
            Some(any) if !named.is_empty() => any.kinds(),
            _ => key.kinds(),
        };
        let of_kinds: Vec<_> = kinds
            .iter()
            .map(|kind| (kind.kind.as_deref(), rows(&comments, kind, Place::Section(section), "")))
            .collect();
        let (_, first) = &of_kinds[0];
        let is_common = |row: &Row| of_kinds.iter().all(|(_, rows)| rows.contains(row));
        let common: Vec<_> = first.iter().filter(|row| is_common(row)).cloned().collect();
        table(&mut page, &common);
        for (kind, rows) in &of_kinds {
            let own: Vec<_> = rows.iter().filter(|row| !is_common(row)).cloned().collect();
            if let Some(kind) = kind {
                let _ = write!(page, "\n### `[{section}{named}]` with `type = \"{kind}\"`\n");
            }
            table(&mut page, &own);
        }
    }
    page
}

/// The keys of a table, those first that have to be there.
fn rows(comments: &Comments, shape: &Shape, place: Place<'_>, before: &str) -> Vec<Row> {
    let mut keys: Vec<_> = shape.keys.iter().collect();
    keys.sort_by_key(|(name, key)| (!KINDS.contains(name), !key.required));
    let mut rows = Vec::new();
    for (name, key) in keys {
        let of_kind = shape.kind.as_ref().filter(|_| KINDS.contains(name));
        let comment = comments.of(&place.name(), shape.kind.as_deref(), name);
        let Comment { words, example } = match (comment, of_kind) {
            // Of one kind there is one word.
            (_, Some(kind)) if before.is_empty() => {
                Comment { words: "This kind.".to_owned(), example: format!("{name} = \"{kind}\"") }
            }
            (comment, _) => comment.cloned().unwrap_or_default(),
        };
        rows.push(Row {
            key: format!("{before}{name}"),
            kinds: Vec::new(),
            form: match of_kind {
                Some(kind) => format!("`\"{kind}\"`"),
                None => key.forms.iter().map(in_words).collect::<Vec<_>>().join(", or "),
            },
            default: match &key.default {
                _ if key.required => "required".to_owned(),
                Some(value) => code(&value.to_string()),
                None => "–".to_owned(),
            },
            meaning: words,
            example: code(&example),
        });
        let before = format!("{before}{name}.");
        rows.extend(inner(comments, key, place.within(name), &before));
    }
    rows
}

/// The keys of the tables that a value may be: one line for what several kinds of them have.
fn inner(comments: &Comments, key: &Key, place: Place<'_>, before: &str) -> Vec<Row> {
    let kinds = key.kinds();
    let mut all: Vec<Row> = Vec::new();
    for kind in &kinds {
        for mut row in rows(comments, kind, place, before) {
            row.kinds.extend(kind.kind.clone());
            let same = all.iter_mut().find(|other| {
                let merged = Row { kinds: other.kinds.clone(), ..row.clone() };
                **other == merged
            });
            match same {
                Some(other) => other.kinds.append(&mut row.kinds),
                None => all.push(row),
            }
        }
    }
    let word = |row: &Row| KINDS.iter().any(|kind| row.key == format!("{before}{kind}"));
    let words = all.iter().filter(|row| word(row)).map(|row| row.form.clone());
    let words = words.collect::<Vec<_>>().join(", ");
    // The word itself is one line, with all that it may be.
    let mut seen = false;
    all.retain(|row| !word(row) || !std::mem::replace(&mut seen, true));
    for row in &mut all {
        if word(row) {
            row.form.clone_from(&words);
        }
        if word(row) || row.kinds.len() == kinds.len() {
            row.kinds.clear();
        }
    }
    all
}

fn table(page: &mut String, rows: &[Row]) {
    if rows.is_empty() {
        return;
    }
    page.push_str(
        "\n| key | type | default | meaning | example |\n| --- | --- | --- | --- | --- |\n",
    );
    for Row { key, kinds, form, default, meaning, example } in rows {
        let kinds = match kinds.as_slice() {
            [] => String::new(),
            kinds => {
                let kinds: Vec<_> = kinds.iter().map(|kind| format!("`{kind}`")).collect();
                format!("With {}. ", kinds.join(", "))
            }
        };
        let cells = [&format!("`{key}`"), form, default, &(kinds + meaning), example];
        let cells = cells.map(|cell| cell.replace('|', "\\|"));
        let _ = writeln!(page, "| {} |", cells.join(" | "));
    }
}

/// What may be written.
fn in_words(form: &Form) -> String {
    let words = |words: &[String]| {
        let words: Vec<_> = words.iter().map(|word| format!("`\"{word}\"`")).collect();
        words.join(", ")
    };
    match form {
        Form::Text | Form::Filled => "string".to_owned(),
        Form::Texts => "string, or a list".to_owned(),
        Form::Word(all) => words(all),
        Form::Words(all) => format!("{}, or a list", words(all)),
        Form::Secret => "secret".to_owned(),
        Form::SecretFile => "path of a secret, `{ file = … }` or `{ credential = … }`".to_owned(),
        Form::Integer(range) if *range.end() == u32::MAX => "whole number".to_owned(),
        Form::Integer(range) => format!("{} to {}", range.start(), range.end()),
        Form::Number(most) => format!("number, 0 to {most}"),
        Form::Boolean => "`true`, `false`".to_owned(),
        Form::Duration => "duration".to_owned(),
        Form::Size => "size".to_owned(),
        Form::Scalar => "string, whole number, `true`, `false`".to_owned(),
        Form::Table => "table".to_owned(),
        Form::BooleanOrTable => "`true`, `false`, or a table".to_owned(),
        Form::TextsOrTables => "string, table, or a list of them".to_owned(),
    }
}

/// As code; what is empty stays so.
fn code(text: &str) -> String {
    match text {
        "" => String::new(),
        text if text.contains('`') => format!("`` {text} ``"),
        text => format!("`{text}`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The cells of the line of a key; of several the first.
    fn cells(page: &str, key: &str) -> Vec<String> {
        let begin = format!("| `{key}` |");
        let line = page.lines().find(|line| line.starts_with(&begin));
        let line = line.unwrap_or_else(|| panic!("{key} is not there"));
        line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect()
    }

    #[test]
    fn a_key_has_its_form_and_the_default_that_the_code_takes() {
        let page = page();
        for (key, form, default) in [
            ("timeout", "duration", "`\"10s\"`"),
            ("max_rate", "1 to 1000000", "`10000`"),
            ("endpoint", "string", "required"),
            ("max_in_flight_bytes", "size", "`\"64MiB\"`"),
            ("unrouted", "`\"ignore\"`, `\"dead-letter\"`", "`\"ignore\"`"),
            ("protocol", "`\"classic\"`, `\"consumer\"`", "`\"classic\"`"),
            ("version", "whole number", "`5`"),
            ("unit", "size", "`\"5KB\"`"),
            ("listen", "string", "`\"127.0.0.1:9464\"`"),
            ("group_instance_id", "string", "–"),
        ] {
            let cells = cells(&page, key);
            assert_eq!((cells[1].as_str(), cells[2].as_str()), (form, default), "{key}");
        }
    }

    #[test]
    fn every_section_and_kind_is_there_and_every_key_has_a_meaning() {
        let (page, probe) = (page(), probe());
        assert_eq!(probe.keys.len(), SECTIONS.len(), "{:?}", probe.keys.keys());
        let rows = page.lines().filter(|line| line.starts_with("| `"));
        let is_mute = |row: &&str| {
            let meaning = row.split(" | ").nth(3).unwrap_or_default();
            // `With …. ` tells the kind alone.
            let of_kind = meaning.strip_prefix("With `").and_then(|it| it.split_once(". "));
            of_kind.map_or(meaning, |(_, meaning)| meaning).trim().is_empty()
        };
        let mute: Vec<_> = rows.filter(is_mute).collect();
        assert_eq!(mute, Vec::<&str>::new());
        for kind in ["kafka", "nats", "jetstream", "mqtt", "sqs"] {
            assert!(page.contains(&format!("`[source.NAME]` with `type = \"{kind}\"`")), "{kind}");
        }
    }
}
