//! What one run of the loader has found so far, and what it reads values with.

use std::cell::{Cell, RefCell};
use std::ops::Range;

use toml::Spanned;
use toml::de::DeValue;

use super::daemon::LogFormat;
use super::environment::Environment;
use super::problem::{Kind, Problem, quoted};
use super::reader::{Located, Table};
use super::value;

/// What one run of the loader knows and has found so far.
pub(super) struct Ledger<'a> {
    /// The file.
    pub(super) text: &'a str,
    /// Where variables are looked up.
    pub(super) environment: &'a Environment,
    pub(super) broken: Vec<Range<usize>>,
    /// How log lines are to look, whatever is wrong elsewhere.
    pub(super) log_format: Cell<Option<LogFormat>>,
    found: RefCell<Vec<Problem>>,
    secrets: RefCell<Vec<Range<usize>>>,
}

/// A string, as written or from the environment.
#[derive(Clone, Debug)]
pub(super) struct Text {
    pub(super) value: String,
    /// The variable it came from.
    pub(super) variable: Option<String>,
}

impl<'a> Ledger<'a> {
    /// Starts with what is wrong with the syntax.
    pub(super) fn new(
        text: &'a str,
        environment: &'a Environment,
        found: Vec<Problem>,
        broken: Vec<Range<usize>>,
    ) -> Self {
        let (found, secrets) = (RefCell::new(found), RefCell::default());
        Self { text, environment, broken, log_format: Cell::default(), found, secrets }
    }

    /// Adds a problem or a warning.
    pub(super) fn report(&self, problem: Problem) {
        self.found.borrow_mut().push(problem);
    }

    /// Never shows these bytes.
    pub(super) fn hide(&self, span: Range<usize>) {
        self.secrets.borrow_mut().push(span);
    }

    /// Whether a statement with broken syntax within `extent` names `word`: what it would have said
    /// is unknown, so nothing is missing.
    pub(super) fn lost(&self, word: &str, extent: &Range<usize>) -> bool {
        self.broken
            .iter()
            .filter(|span| span.start < extent.end && extent.start <= span.end)
            .any(|span| self.text[span.clone()].contains(word))
    }

    /// As [`lost`](Self::lost), anywhere.
    pub(super) fn lost_anywhere(&self, word: &str) -> bool {
        self.lost(word, &(0..self.text.len() + 1))
    }

    /// How many real problems there are by now.
    pub(super) fn errors(&self) -> usize {
        self.found.borrow().iter().filter(|problem| problem.kind() != Kind::Warning).count()
    }

    /// Everything found, and what must not be shown.
    pub(super) fn close(self) -> (Vec<Problem>, Vec<Range<usize>>) {
        (self.found.into_inner(), self.secrets.into_inner())
    }

    /// The bytes of the file that `within` (bytes of the string written at `span`) stands for; all
    /// of `span` where escapes make the two differ.
    pub(super) fn inside(
        &self,
        span: &Range<usize>,
        text: &Text,
        within: Range<usize>,
    ) -> Range<usize> {
        let written = self.text.get(span.clone()).unwrap_or_default();
        let start = written.find(text.value.as_str()).filter(|_| text.variable.is_none());
        match start {
            Some(start) if within.end <= text.value.len() => {
                span.start + start + within.start..span.start + start + within.end
            }
            _ => span.clone(),
        }
    }

    /// Reads a string, `{ env = … }` included; what is wrong is reported.
    pub(super) fn string(
        &'a self,
        key: &str,
        value: &'a Spanned<DeValue<'a>>,
    ) -> Option<Located<Text>> {
        let span = value.span();
        match value.get_ref() {
            DeValue::String(text) => {
                let text = Text { value: text.clone().into_owned(), variable: None };
                Some(Located { value: text, span })
            }
            DeValue::Table(table) if table.contains_key("env") => {
                let mut table = Table::new(self, "env", format!("`{key}`"), span.clone(), table);
                let text = table.variable(key);
                table.finish();
                text.map(|value| Located { value, span })
            }
            other => {
                self.wrong_type(key, span, "a string", other);
                None
            }
        }
    }

    /// Reports a value of the wrong type.
    pub(super) fn wrong_type(
        &self,
        key: &str,
        span: Range<usize>,
        wanted: &str,
        found: &DeValue<'_>,
    ) {
        let hint = match (found, wanted) {
            (DeValue::Integer(_) | DeValue::Float(_), "a duration") => Some(value::DURATION),
            (DeValue::Integer(_) | DeValue::Float(_), "a size") => Some(value::SIZE),
            (DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_), wanted)
                if wanted.starts_with("a string") =>
            {
                Some("write it in quotes: `\"…\"`")
            }
            (DeValue::String(text), "a whole number") if text.parse::<u64>().is_ok() => {
                Some("write it without quotes")
            }
            (DeValue::String(_), wanted) if wanted.contains("`true`") => {
                Some("write `true` or `false` without quotes")
            }
            _ => None,
        };
        let message = format!("{} takes {wanted}, not {}", quoted(key), type_of(found));
        self.report(Problem::new(Kind::WrongType, Some(span), message).maybe_help(hint));
    }
}

impl Text {
    /// As an error shows it. What comes from the environment may be a secret and stays there.
    pub(super) fn shown(&self) -> String {
        match &self.variable {
            Some(name) => format!("the value of {}", quoted(&format!("${name}"))),
            None => quoted(&self.value),
        }
    }
}

fn type_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
