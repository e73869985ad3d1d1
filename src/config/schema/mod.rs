//! The JSON Schema of a configuration. It is what the readers ask for, of a file that has one table of each kind
//! (`probe.toml`), so it can't differ from what is read; the comments of the examples describe the keys.
//!
//! It is for editors, and knows each key and the form of its value. What keys have to do with one another only
//! [`parse`](super::parse) knows.

mod comments;
mod page;

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value, json};
use toml::de::{DeTable, DeValue};

use super::document;
use super::environment::Environment;
use super::reader::{Act, DURATION_UNITS, Form, SIZE_UNITS, address};
use comments::{Comments, inside};
pub use page::page;

const PROBE: &str = include_str!("probe.toml");

/// Keys that say of which kind a table is.
const KINDS: [&str; 2] = ["type", "mechanism"];

/// The JSON Schema (draft 7) of a configuration.
pub fn schema() -> Value {
    let Object { mut fields } =
        Writer { comments: Comments::of_examples() }.object(&probe(), Place::Root);
    let mut schema = Map::new();
    schema.insert("$schema".to_owned(), json!("http://json-schema.org/draft-07/schema#"));
    schema.insert("title".to_owned(), json!("A configuration of appsync-bridge"));
    schema.append(&mut fields);
    schema.insert("definitions".to_owned(), definitions());
    schema.into()
}

/// The tables of the probe.
fn probe() -> Shape {
    document::outline(PROBE, &Environment::of([("HOME", "/")]), |tree, notes| {
        let mut acts = HashMap::<_, Vec<_>>::new();
        for (table, act) in notes {
            acts.entry(table).or_default().push(act);
        }
        Shape::of(tree, &acts)
    })
}

/// What a table may have.
#[derive(Clone, Debug, Default)]
struct Shape {
    /// What its `type` says.
    kind: Option<String>,
    keys: BTreeMap<&'static str, Key>,
    /// Of the values of keys with any name.
    any: Option<Key>,
}

/// What is known of a value.
#[derive(Clone, Debug, Default)]
struct Key {
    forms: Vec<Form>,
    required: bool,
    /// What it is where it is left away.
    default: Option<Value>,
    /// The tables that were there.
    tables: Vec<Shape>,
}

impl Shape {
    fn of(table: &DeTable<'_>, acts: &HashMap<usize, Vec<Act>>) -> Self {
        let mut shape = Self::default();
        for act in acts.get(&address(table)).into_iter().flatten() {
            match act {
                Act::Asks(key, form) => shape.keys.entry(key).or_default().may_be(form),
                Act::Requires(key) => shape.keys.entry(key).or_default().required = true,
                Act::Defaults(key, value) => {
                    shape.keys.entry(key).or_default().default = Some(value.clone());
                }
                Act::TakesAny(form) => shape.any.get_or_insert_default().may_be(form),
            }
        }
        for (key, value) in table {
            let (key, value) = (key.get_ref().as_ref(), value.get_ref());
            if KINDS.contains(&key) {
                shape.kind = value.as_str().map(str::to_owned);
            }
            let Some(known) = shape.keys.get_mut(key).or(shape.any.as_mut()) else { continue };
            let list = match value {
                DeValue::Array(list) => list.iter().map(toml::Spanned::get_ref).collect(),
                one => vec![one],
            };
            let tables = list.into_iter().filter_map(|value| value.as_table());
            known.tables.extend(tables.map(|table| Self::of(table, acts)));
        }
        shape
    }

    /// Adds what another table of the same kind may have.
    fn join(&mut self, other: Self) {
        for (key, theirs) in &mut self.keys {
            theirs.required &= other.keys.get(key).is_some_and(|key| key.required);
        }
        for (name, key) in other.keys {
            let own = self.keys.entry(name).or_default();
            own.join(key);
        }
        if let Some(any) = other.any {
            self.any.get_or_insert_default().join(any);
        }
    }
}

impl Key {
    fn may_be(&mut self, form: &Form) {
        if !self.forms.contains(form) {
            self.forms.push(form.clone());
        }
    }

    fn join(&mut self, other: Self) {
        other.forms.iter().for_each(|form| self.may_be(form));
        self.tables.extend(other.tables);
        self.default = self.default.take().or(other.default);
    }

    /// One for each kind.
    fn kinds(&self) -> Vec<Shape> {
        let mut kinds: Vec<Shape> = Vec::new();
        for table in &self.tables {
            match kinds.iter_mut().find(|kind| kind.kind == table.kind) {
                Some(kind) => kind.join(table.clone()),
                None => kinds.push(table.clone()),
            }
        }
        kinds
    }
}

/// Where a table is.
#[derive(Clone, Copy)]
enum Place<'a> {
    Root,
    /// A section of the file, or one of its named tables.
    Section(&'a str),
    /// The table of a key of a section's, of any depth.
    Inside(&'a str, &'a str),
}

impl<'a> Place<'a> {
    /// The place of what is in the table `key` here.
    fn within(self, key: &'a str) -> Self {
        match self {
            Self::Root => Self::Section(key),
            Self::Section(section) | Self::Inside(section, _) => Self::Inside(section, key),
        }
    }

    /// As comments call it.
    fn name(self) -> String {
        match self {
            Self::Root => String::new(),
            Self::Section(section) => section.to_owned(),
            Self::Inside(section, key) => inside(section, key),
        }
    }
}

struct Object {
    fields: Map<String, Value>,
}

struct Writer {
    comments: Comments,
}

impl Writer {
    fn object(&self, shape: &Shape, place: Place<'_>) -> Object {
        let mut properties = Map::new();
        for (name, key) in &shape.keys {
            let inner = place.within(name);
            let mut value = match &shape.kind {
                Some(kind) if KINDS.contains(name) => {
                    json!({ "anyOf": [{ "const": kind }, reference("variable")] })
                }
                _ => self.value(key, inner),
            };
            let comment = self.comments.of(&place.name(), shape.kind.as_deref(), name);
            if let Some(value) = value.as_object_mut() {
                value.extend(comment.map(|it| ("description".to_owned(), it.words.clone().into())));
                value.extend(key.default.clone().map(|it| ("default".to_owned(), it)));
            }
            properties.insert((*name).to_owned(), value);
        }
        let others = shape.any.as_ref().map_or(json!(false), |any| self.value(any, place));
        let required: Vec<_> =
            shape.keys.iter().filter(|(_, key)| key.required).map(|(name, _)| *name).collect();
        let mut fields = Map::new();
        fields.insert("type".to_owned(), json!("object"));
        if !required.is_empty() {
            fields.insert("required".to_owned(), json!(required));
        }
        fields.insert("properties".to_owned(), properties.into());
        fields.insert("additionalProperties".to_owned(), others);
        Object { fields }
    }

    fn value(&self, key: &Key, place: Place<'_>) -> Value {
        let values = key.forms.iter().flat_map(|form| self.form(form, key, place));
        any_of(values.collect())
    }

    fn form(&self, form: &Form, key: &Key, place: Place<'_>) -> Vec<Value> {
        let table = || {
            let kinds = key.kinds();
            let kinds = kinds.iter().map(|kind| Value::from(self.object(kind, place).fields));
            any_of(kinds.collect())
        };
        let or_list = |one: &Value| {
            vec![one.clone(), json!({ "type": "array", "items": one, "minItems": 1 })]
        };
        let word =
            |words: &[String]| json!({ "anyOf": [{ "enum": words }, reference("variable")] });
        match form {
            Form::Text => vec![reference("text")],
            Form::Filled => vec![reference("filled")],
            Form::Texts => or_list(&reference("text")),
            Form::Word(words) => vec![word(words)],
            Form::Words(words) => or_list(&word(words)),
            Form::Secret => vec![reference("secret")],
            Form::SecretFile => vec![reference("secret_file")],
            Form::Integer(range) => {
                vec![json!({ "type": "integer", "minimum": range.start(), "maximum": range.end() })]
            }
            Form::Number(most) => vec![json!({ "type": "number", "minimum": 0, "maximum": most })],
            Form::Boolean => vec![json!({ "type": "boolean" })],
            Form::Duration => vec![reference("duration")],
            Form::Size => vec![reference("size")],
            Form::Scalar => {
                vec![json!({ "type": ["string", "integer", "boolean"] }), reference("variable")]
            }
            Form::Table => vec![table()],
            Form::BooleanOrTable => vec![json!({ "type": "boolean" }), table()],
            Form::TextsOrTables => or_list(&any_of(vec![reference("filled"), table()])),
        }
    }
}

fn any_of(mut values: Vec<Value>) -> Value {
    if values.len() == 1 { values.remove(0) } else { json!({ "anyOf": values }) }
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/definitions/{name}") })
}

fn definitions() -> Value {
    let filled = json!({ "type": "string", "minLength": 1 });
    let table = |description: &str, required: &str, properties: Value| {
        json!({
            "type": "object",
            "description": description,
            "required": [required],
            "properties": properties,
            "additionalProperties": false,
        })
    };
    let scaled = |what: &str, units: &[(&str, u64)]| {
        let units: Vec<_> = units.iter().map(|(unit, _)| *unit).collect();
        let pattern = format!("^[0-9]+\\s*({})$", units.join("|"));
        json!({ "description": what, "anyOf": [{ "type": "string", "pattern": pattern }, reference("variable")] })
    };
    let file = table("what a file holds", "file", json!({ "file": reference("filled") }));
    let credential =
        table("a systemd credential", "credential", json!({ "credential": reference("filled") }));
    json!({
        "variable": table(
            "an environment variable",
            "env",
            json!({ "env": filled, "default": { "type": "string" } }),
        ),
        "text": { "anyOf": [{ "type": "string" }, reference("variable")] },
        "filled": { "anyOf": [filled, reference("variable")] },
        "secret": {
            "description": "a secret: best a reference to where it is",
            "anyOf": [filled, reference("variable"), file, credential],
        },
        "secret_file": { "anyOf": [reference("filled"), file, credential] },
        "duration": scaled("a whole number and a unit: ms, s, m or h", &DURATION_UNITS),
        "size": scaled("a whole number and a unit: B, KB (1,000), KiB (1,024), …", &SIZE_UNITS),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each table that a reader asks for is in the probe, and each kind of table.
    #[test]
    fn the_probe_has_a_table_of_each_kind() {
        fn check(shape: &Shape, path: &str, missing: &mut Vec<String>) {
            let any = shape.any.iter().map(|key| ("*", key));
            for (name, key) in shape.keys.iter().map(|(name, key)| (*name, key)).chain(any) {
                let path = format!("{path}.{name}");
                let is_table = |form: &Form| {
                    matches!(form, Form::Table | Form::BooleanOrTable | Form::TextsOrTables)
                };
                if key.forms.iter().any(is_table) && key.tables.is_empty() {
                    missing.push(path.clone());
                }
                let kinds = key.kinds();
                for kind in &kinds {
                    check(kind, &format!("{path}({:?})", kind.kind), missing);
                }
                for kind in
                    kinds.iter().flat_map(|kind| KINDS.iter().filter_map(|key| kind.keys.get(key)))
                {
                    for form in &kind.forms {
                        let Form::Word(words) = form else { panic!("{path}: {form:?}") };
                        let is_there = |word: &&String| {
                            !kinds.iter().any(|kind| kind.kind.as_ref() == Some(*word))
                        };
                        missing.extend(
                            words.iter().filter(is_there).map(|word| format!("{path}: {word}")),
                        );
                    }
                }
            }
        }
        let mut missing = Vec::new();
        let probe = probe();
        check(&probe, "", &mut missing);
        assert!(probe.keys.len() >= 9, "{:?}", probe.keys.keys());
        assert_eq!(missing, Vec::<String>::new());
    }

    #[test]
    fn keys_are_described_by_the_examples() {
        let schema = schema();
        let api = &schema["properties"]["api"]["additionalProperties"]["properties"];
        let endpoint = api["endpoint"]["description"].as_str().unwrap();
        assert!(endpoint.starts_with("The HTTP endpoint of the API"), "{endpoint}");
        assert!(!schema.to_string().contains("[api.NAME]"));
    }
}
