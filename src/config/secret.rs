//! Texts that must not be seen.

use std::fmt;
use std::io::Read;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use toml::de::DeValue;

use super::ledger::Ledger;
use super::problem::{Kind, Problem, quoted};
use super::reader::{Field, Located, Table};

/// A text that never shows itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that sends it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What a file with a secret in it holds at most; more is not a secret but a mistake.
const MAX_FILE_BYTES: u64 = 64 * 1024;

const FORMS: &str = "`{ env = \"NAME\" }`, `{ file = \"/path\" }` or `{ credential = \"name\" }`";

impl Table<'_> {
    /// A secret: a reference, or plain text with a warning.
    pub(super) fn secret(&mut self, key: &'static str) -> Field<Secret> {
        self.field(key, |ledger, entry| {
            let span = entry.value.span();
            let DeValue::Table(table) = entry.value.get_ref() else {
                ledger.hide(span.clone());
                let DeValue::String(text) = entry.value.get_ref() else {
                    let wanted = "a string or a reference to a secret";
                    ledger.wrong_type(key, span, wanted, entry.value.get_ref());
                    return None;
                };
                if !text.is_empty() {
                    let message = format!("`{key}` is in plain text");
                    let warning = Problem::new(Kind::Warning, Some(span.clone()), message);
                    ledger.report(warning.help(format!("keep it elsewhere: {FORMS}")));
                }
                return filled(ledger, key, &span, "", text.clone().into_owned());
            };
            if let Some((_, default)) = table.iter().find(|(key, _)| key.get_ref() == "default") {
                ledger.hide(default.span());
                let message = format!("the default of `{key}` is in plain text");
                let warning = Problem::new(Kind::Warning, Some(default.span()), message);
                ledger
                    .report(warning.help("leave it away, so that a variable not set is an error"));
            }
            if table.contains_key("env") {
                let Located { value: text, span } = ledger.string(key, entry.value)?;
                let from = text.variable.map_or(String::new(), |name| format!("${name}"));
                return filled(ledger, key, &span, &from, text.value);
            }
            let mut table = Table::new(ledger, "secret", format!("`{key}`"), span.clone(), table);
            let file = table.filled("file").optional();
            let credential = table.filled("credential").optional();
            // Only to be named among the keys that are known here.
            let _ = table.take("env");
            table.finish();
            match (file.ok()?, credential.ok()?) {
                (Some(path), None) => {
                    let path = path.value.value;
                    let text = read(ledger, key, &span, &path, Path::new(&path), true)?;
                    filled(ledger, key, &span, &path, text)
                }
                (None, Some(name)) => from_credential(ledger, key, &span, &name.value.value),
                (Some(_), Some(_)) => {
                    let message = format!("`{key}` names two places for one secret");
                    ledger.report(Problem::new(Kind::BadValue, Some(span), message));
                    None
                }
                // With other keys in it, those have been reported.
                (None, None)
                    if !entry.value.get_ref().as_table().is_some_and(toml::map::Map::is_empty) =>
                {
                    None
                }
                (None, None) => {
                    let message = format!("`{key}` names no place for its secret");
                    let problem = Problem::new(Kind::MissingKey, Some(span), message);
                    ledger.report(problem.help(format!("write {FORMS}")));
                    None
                }
            }
        })
    }
}

fn from_credential(
    ledger: &Ledger<'_>,
    key: &str,
    span: &Range<usize>,
    name: &str,
) -> Option<Secret> {
    let refuse = |message: String, hint: String| {
        ledger.report(Problem::new(Kind::Unresolved, Some(span.clone()), message).help(hint));
        None
    };
    if name.contains('/') || name.starts_with('.') {
        let message = format!("{} is not the name of a credential", quoted(name));
        return refuse(message, "a path is written `{ file = \"/path\" }`".to_owned());
    }
    let Some(directory) = ledger.environment.directory("CREDENTIALS_DIRECTORY") else {
        let message = format!(
            "`{key}` is the credential {}, but `$CREDENTIALS_DIRECTORY` is not set",
            quoted(name)
        );
        let hint = format!("systemd sets it for a unit with `LoadCredential={name}:/path`");
        return refuse(message, hint);
    };
    let text =
        read(ledger, key, span, &format!("credential {name}"), &directory.join(name), false)?;
    filled(ledger, key, span, &format!("credential {name}"), text)
}

/// Reads a file that holds a secret, without the line break at its end.
fn read(
    ledger: &Ledger<'_>,
    key: &str,
    span: &Range<usize>,
    shown: &str,
    path: &Path,
    warn: bool,
) -> Option<String> {
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| {
        let open_to_others = is_open_to_others(&file)?;
        file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
        Ok(open_to_others)
    });
    let refuse = |why: String, hint: &str| {
        let message = format!("`{key}` is to come from {}, which {why}", quoted(shown));
        ledger.report(Problem::new(Kind::Unresolved, Some(span.clone()), message).help(hint));
    };
    match read {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            refuse(
                "does not exist".to_owned(),
                "create it, readable by the bridge alone (`chmod 600`)",
            );
            return None;
        }
        Err(error) => {
            refuse(format!("can't be read: {error}"), "the bridge's user needs to read it");
            return None;
        }
        Ok(true) if warn => {
            let message = format!("{} holds `{key}` and others can read it", quoted(shown));
            let warning = Problem::new(Kind::Warning, Some(span.clone()), message);
            ledger.report(warning.help(format!("chmod 600 {shown}")));
        }
        Ok(_) => {}
    }
    if bytes.len() as u64 > MAX_FILE_BYTES {
        refuse(
            "is far too large for a secret".to_owned(),
            "the file holds the secret and nothing else",
        );
        return None;
    }
    let Ok(mut text) = String::from_utf8(bytes) else {
        refuse("is not UTF-8".to_owned(), "the file holds the secret as text and nothing else");
        return None;
    };
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Some(text)
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
        from => format!("`{key}` is to come from {}, which is empty", quoted(from)),
    };
    ledger.report(Problem::new(Kind::Unresolved, Some(span.clone()), message));
    None
}

#[cfg(unix)]
fn is_open_to_others(file: &std::fs::File) -> std::io::Result<bool> {
    use std::os::unix::fs::PermissionsExt;
    Ok(file.metadata()?.permissions().mode() & 0o077 != 0)
}

#[cfg(not(unix))]
fn is_open_to_others(_file: &std::fs::File) -> std::io::Result<bool> {
    Ok(false)
}
