//! How a secret is written in the file: `{ env = … }`, `{ file = … }`, `{ credential = … }`, or plain
//! text with a warning.

use std::io::ErrorKind;
use std::ops::Range;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::ledger::{Ledger, Located, Text};
use super::outline::Form;
use super::problem::{Kind, Problem};
use super::table::{Entry, Field, Table};
use crate::config::secret::{self, Secret, Unreadable};

const FORMS: &str = "`{ env = \"NAME\" }`, `{ file = \"/path\" }` or `{ credential = \"name\" }`";

impl Table<'_> {
    /// Whether `key` is written as a reference to what a file holds.
    pub(crate) fn is_from_file(&self, key: &str) -> bool {
        let table = self.value_of(key).and_then(|value| value.as_table());
        table.is_some_and(|table| table.contains_key("file") || table.contains_key("credential"))
    }

    /// A secret: a reference, or plain text with a warning.
    pub(crate) fn secret(&mut self, key: &'static str) -> Field<Secret> {
        self.field(key, Form::Secret, |ledger, entry| ledger.secret(key, entry))
    }

    /// The secret that a file holds: its path, or a reference to one.
    pub(crate) fn secret_file(&mut self, key: &'static str) -> Field<Secret> {
        self.field(key, Form::SecretFile, |ledger, entry| match entry.value.get_ref() {
            DeValue::Table(table) if !table.contains_key("env") => {
                from_reference(ledger, key, &entry.value.span(), table)
            }
            _ => {
                let Located { value: path, span } = ledger.string(key, entry.value)?;
                read(ledger, key, &span, &path.shown(), Path::new(&path.value), true)
            }
        })
    }
}

impl<'a> Ledger<'a> {
    /// The secret of a table's entry, which errors call `key`: a reference, or plain text with a warning.
    pub(crate) fn secret(&'a self, key: &str, entry: &Entry<'a>) -> Option<Secret> {
        let ledger = self;
        let span = entry.value.span();
        let DeValue::Table(table) = entry.value.get_ref() else {
            let DeValue::String(text) = entry.value.get_ref() else {
                let wanted = "a string or a reference to a secret";
                return ledger.wrong_type(key, span, wanted, entry.value.get_ref());
            };
            if !text.is_empty() {
                let message = format!("`{key}` is in plain text");
                let warning = Problem::new(Kind::Warning, Some(span.clone()), message);
                ledger.report(warning.help(format!("keep it elsewhere: {FORMS}")));
            }
            return filled(ledger, key, &span, "", text.clone().into_owned());
        };
        if let Some((_, default)) = table.iter().find(|(key, _)| key.get_ref() == "default") {
            let message = format!("the default of `{key}` is in plain text");
            let warning = Problem::new(Kind::Warning, Some(default.span()), message);
            ledger.report(warning.help("leave it away, so that a variable not set is an error"));
        }
        if table.contains_key("env") {
            let Located { value: text, span } = ledger.string(key, entry.value)?;
            let from = text.variable.unwrap_or_default();
            return filled(ledger, key, &span, &from, text.value);
        }
        from_reference(ledger, key, &span, table)
    }
}

/// The secret of `{ file = … }` or `{ credential = … }`.
fn from_reference<'a>(
    ledger: &'a Ledger<'a>,
    key: &str,
    span: &Range<usize>,
    written: &'a DeTable<'a>,
) -> Option<Secret> {
    let mut table = Table::new(ledger, "secret", format!("`{key}`"), span.clone(), written);
    let file = table.filled("file").optional();
    let credential = table.filled("credential").optional();
    // Only to be named among the keys that are known here.
    let _ = table.take("env");
    table.finish();
    match (file.ok()?, credential.ok()?) {
        (Some(path), None) => {
            let shown = path.value.shown();
            read(ledger, key, span, &shown, Path::new(&path.value.value), true)
        }
        (None, Some(name)) => from_credential(ledger, key, span, &name.value),
        (Some(_), Some(_)) => {
            let message = format!("`{key}` names two places for one secret");
            ledger.refuse(Problem::new(Kind::BadValue, Some(span.clone()), message))
        }
        // With other keys in it, those have been reported.
        (None, None) if !written.is_empty() => None,
        (None, None) => {
            let message = format!("`{key}` names no place for its secret");
            let problem = Problem::new(Kind::MissingKey, Some(span.clone()), message);
            ledger.refuse(problem.help(format!("write {FORMS}")))
        }
    }
}

fn from_credential(
    ledger: &Ledger<'_>,
    key: &str,
    span: &Range<usize>,
    text: &Text,
) -> Option<Secret> {
    let (name, shown) = (text.value.as_str(), text.shown());
    let refuse = |message: String, hint: String| {
        ledger.refuse(Problem::new(Kind::Unresolved, Some(span.clone()), message).help(hint))
    };
    if name.contains('/') || name.starts_with('.') {
        let message = format!("{shown} is not the name of a credential");
        return refuse(message, "a path is written `{ file = \"/path\" }`".to_owned());
    }
    let Some(directory) = ledger.environment.directory("CREDENTIALS_DIRECTORY") else {
        let message =
            format!("`{key}` is the credential {shown}, but `$CREDENTIALS_DIRECTORY` is not set");
        let name = shown.trim_matches('`');
        let hint = format!(
            "systemd sets it for a unit with `LoadCredential={name}:/path`; outside of the unit, set it \
             to a directory that holds such a file"
        );
        return refuse(message, hint);
    };
    read(ledger, key, span, &format!("the credential {shown}"), &directory.join(name), false)
}

/// Reads a secret's file; errors in it are reported.
fn read(
    ledger: &Ledger<'_>,
    key: &str,
    span: &Range<usize>,
    shown: &str,
    path: &Path,
    warn: bool,
) -> Option<Secret> {
    let error = match secret::read(path) {
        Ok(content) => {
            if content.open_to_others && warn {
                let message = format!("{shown} holds `{key}` and others can read it");
                let warning = Problem::new(Kind::Warning, Some(span.clone()), message);
                ledger.report(warning.help(format!("chmod 600 {}", shown.trim_matches('`'))));
            }
            return Some(Secret::of_file(content.text, path));
        }
        Err(error) => error,
    };
    let kind = match &error {
        Unreadable::Io(why) if why.kind() == ErrorKind::PermissionDenied => Kind::Forbidden,
        _ => Kind::Unresolved,
    };
    let hint = match error {
        Unreadable::Missing => Some("create it, readable by the bridge alone (`chmod 600`)"),
        Unreadable::NotRegular(_) => {
            Some("write the secret into a file, which is read again when it changes")
        }
        Unreadable::Io(_) => Some("the bridge's user needs to read it"),
        Unreadable::TooLarge => Some("the file holds the secret and nothing else"),
        Unreadable::NotUtf8 => Some("the file holds the secret as text and nothing else"),
        Unreadable::Empty => None,
    };
    let message = format!("`{key}` is to come from {shown}, which {error}");
    ledger.refuse(Problem::new(kind, Some(span.clone()), message).maybe_help(hint))
}

fn filled(
    ledger: &Ledger<'_>,
    key: &str,
    span: &Range<usize>,
    from: &str,
    text: String,
) -> Option<Secret> {
    if !text.is_empty() {
        return Some(Secret::new(text));
    }
    let message = match from {
        "" => format!("`{key}` is empty"),
        from => format!("`{key}` is to come from {from}, which is empty"),
    };
    ledger.refuse(Problem::new(Kind::Unresolved, Some(span.clone()), message))
}
