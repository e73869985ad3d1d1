//! Names of tables, and references to them.

use std::collections::HashSet;
use std::sync::Arc;

use toml::de::DeValue;

use super::ledger::{Ledger, Located, Text};
use super::outline::Form;
use super::problem::{Kind, Problem, listed};
use super::synonyms;
use super::table::{Entry, Reported, Table};

/// The names that a section of the file declares, bad tables included: a reference to one of these
/// is not wrong on top.
pub(crate) struct Names {
    section: &'static str,
    list: Vec<String>,
    known: HashSet<String>,
}

/// With more names than these the time to compare one with all of them is noticed, and nobody sees at a
/// glance which of them was meant.
const MOST_SUGGESTED: usize = 50;

impl Names {
    /// Of the tables of a section; `otherwise` is what exists if there is none.
    pub(crate) fn new(
        section: &'static str,
        tables: &[(&str, Table<'_>)],
        otherwise: Option<&str>,
    ) -> Self {
        let mut list: Vec<_> = tables.iter().map(|(name, _)| (*name).to_owned()).collect();
        if list.is_empty() {
            list.extend(otherwise.map(str::to_owned));
        }
        let known = list.iter().cloned().collect();
        Self { section, list, known }
    }

    /// All of them, in the order of the file.
    pub(crate) fn all(&self) -> &[String] {
        &self.list
    }

    /// Whether one of them is this.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.known.contains(name)
    }

    /// The only one.
    pub(crate) fn only(&self) -> Option<Arc<str>> {
        match self.list.as_slice() {
            [only] => Some(only.as_str().into()),
            _ => None,
        }
    }

    /// The name that a text refers to; a dangling one is reported.
    pub(crate) fn resolve(&self, ledger: &Ledger<'_>, text: &Located<Text>) -> Option<Arc<str>> {
        let name = text.value.value.as_str();
        if self.has(name) {
            return Some(name.into());
        }
        // Without any table of the kind, that is what has been reported; and what a broken line
        // declares is not known.
        if self.list.is_empty() || ledger.lost_anywhere(name) {
            return None;
        }
        let section = self.section;
        let message = format!("no `[{section}.NAME]` is called {}", text.value.shown());
        let problem = Problem::new(Kind::Dangling, Some(text.span.clone()), message);
        let known: Vec<_> = self.list.iter().map(String::as_str).take(MOST_SUGGESTED).collect();
        let meant = synonyms::meant("", name, &known).filter(|_| text.value.variable.is_none());
        ledger.refuse(match meant {
            Some(meant) => problem.help(format!("did you mean `{meant}`?")),
            None => problem.help(format!("there is {}", listed(&self.list, "and"))),
        })
    }
}

/// Takes the tables `[section.NAME]` out of the file's root, in the order of the file. `None` if the
/// file says nothing of the section.
pub(crate) fn tables<'a>(
    root: &mut Table<'a>,
    section: &'static str,
) -> Option<Vec<(&'a str, Table<'a>)>> {
    let ledger = root.ledger;
    root.note(section, Form::Table);
    let entry = root.take(section)?;
    let named = format!("a table has a name here: `[{section}.main]`");
    let wrong = |span, message: String| {
        let problem = Problem::new(Kind::WrongType, Some(span), message);
        ledger.report(problem.help(named.clone()));
    };
    let DeValue::Table(table) = entry.value.get_ref() else {
        wrong(entry.key_span, format!("`{section}` is not a table of tables"));
        return Some(Vec::new());
    };
    let mut all = Table::new(ledger, section, format!("`[{section}]`"), entry.value.span(), table);
    let mut tables = Vec::new();
    let entries = all.rest(Form::Table);
    let is_inline = |entry: &Entry<'_>| ledger.text[entry.value.span().start..].starts_with('{');
    if entries.is_empty() && table.is_empty() {
        wrong(entry.key_span, format!("`[{section}]` is empty"));
    }
    let mut nameless = false;
    let forgotten = entries.iter().any(|entry| entry.value.get_ref().as_table().is_none());
    for entry in entries {
        // `[api]` with `auth = { … }` below: that is no API called `auth`.
        if forgotten && is_inline(&entry) {
            continue;
        }
        let DeValue::Table(table) = entry.value.get_ref() else {
            // One report for a table without a name, however many keys it has.
            if !nameless {
                let key = ledger.quoted(&entry.key_span, entry.key);
                wrong(
                    entry.key_span,
                    format!("{key} is not a table, but `[{section}]` holds tables"),
                );
            }
            nameless = true;
            continue;
        };
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if entry.key.is_empty() || !entry.key.chars().all(allowed) {
            let key = ledger.quoted(&entry.key_span, entry.key);
            let message = format!("{key} can't be a name");
            let problem = Problem::new(Kind::BadValue, Some(entry.key_span.clone()), message);
            ledger.report(problem.help("a name has letters, digits, `-` and `_`"));
        }
        let shown = ledger.visible(&entry.key_span, entry.key);
        let title = format!("`[{section}.{}]`", shown.escape_debug());
        let table = Table::new(ledger, section, title, entry.value.span(), table);
        tables.push((entry.key, table));
    }
    Some(tables)
}

/// Takes a table `[section]` out of the file's root; `Err` if it can't be read.
pub(crate) fn table<'a>(
    root: &mut Table<'a>,
    section: &'static str,
) -> Result<Option<Table<'a>>, Reported> {
    let table = root.table(section, section).optional()?;
    Ok(table.map(|located| {
        let mut table = located.value;
        table.title = format!("`[{section}]`");
        table
    }))
}
