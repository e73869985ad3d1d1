//! The state of one run of the loader: its findings so far, and the sources of values.

use std::cell::{Cell, RefCell};
use std::ops::Range;

use toml::de::DeValue;

use super::broken::Broken;
use super::outline::Outline;
use super::problem::{COVER, Kind, Masked, Problem, quoted};
use super::value;
use crate::config::environment::{Environment, NoText};
use crate::config::log_format::LogFormat;

/// The state of one run of the loader.
pub(crate) struct Ledger<'a> {
    /// The file.
    pub(crate) text: &'a str,
    /// Where variables are looked up.
    pub(crate) environment: &'a Environment,
    pub(crate) broken: Broken<'a>,
    /// The format of log lines, even if other settings are invalid.
    pub(crate) log_format: Cell<Option<LogFormat>>,
    /// What the readers ask for.
    pub(crate) outline: Outline,
    masked: &'a Masked,
    found: RefCell<Vec<Problem>>,
}

/// A string, as written or from the environment.
#[derive(Clone, Debug)]
pub(crate) struct Text {
    pub(crate) value: String,
    /// The variable it came from, as an error shows it.
    pub(crate) variable: Option<String>,
    /// It may be a secret.
    pub(crate) hidden: bool,
}

/// A value and the bytes it was written in.
#[derive(Clone, Debug)]
pub(crate) struct Located<T> {
    pub(crate) value: T,
    pub(crate) span: Range<usize>,
}

impl<'a> Ledger<'a> {
    /// Starts with the errors of the syntax.
    pub(crate) fn new(
        text: &'a str,
        masked: &'a Masked,
        environment: &'a Environment,
        found: Vec<Problem>,
        broken: Vec<Range<usize>>,
    ) -> Self {
        let broken = Broken::new(text, broken);
        let (log_format, outline) = (Cell::default(), Outline::default());
        let found = RefCell::new(found);
        Self { text, environment, broken, log_format, outline, masked, found }
    }

    /// Adds a problem or a warning.
    pub(crate) fn report(&self, problem: Problem) {
        self.found.borrow_mut().push(problem);
    }

    /// As [`report`](Self::report), in place of the value that the problem leaves nothing of.
    pub(crate) fn refuse<T>(&self, problem: Problem) -> Option<T> {
        self.report(problem);
        None
    }

    /// Whether something of these bytes is never shown.
    pub(crate) fn hides(&self, span: &Range<usize>) -> bool {
        self.masked.hides(span)
    }

    /// What was written at `span`, unless its line hides it.
    pub(crate) fn visible<'t>(&self, span: &Range<usize>, text: &'t str) -> &'t str {
        if self.hides(span) { COVER } else { text }
    }

    /// What was written at `span`, as an error shows it: as its line does.
    pub(crate) fn quoted(&self, span: &Range<usize>, text: &str) -> String {
        quoted(self.visible(span, text))
    }

    /// Whether a statement with broken syntax within `extent` names `word`: what it would have said
    /// is unknown, so nothing is missing.
    pub(crate) fn lost(&self, word: &str, extent: &Range<usize>) -> bool {
        self.broken.names(word, extent)
    }

    /// As [`lost`](Self::lost), anywhere.
    pub(crate) fn lost_anywhere(&self, word: &str) -> bool {
        self.lost(word, &(0..self.text.len() + 1))
    }

    /// What a string says, `{ env = … }` included, before it is read: what is wrong with it is reported then.
    pub(crate) fn looked_up(&self, value: &'a DeValue<'a>) -> Option<&'a str> {
        let Some(table) = value.as_table() else { return value.as_str() };
        match self.environment.text(table.get("env")?.get_ref().as_str()?) {
            Err(NoText::Unset) => table.get("default")?.get_ref().as_str(),
            text => text.ok(),
        }
    }

    /// How many real problems there are by now.
    pub(crate) fn errors(&self) -> usize {
        self.found.borrow().iter().filter(|problem| problem.kind() != Kind::Warning).count()
    }

    /// Everything found.
    pub(crate) fn close(self) -> Vec<Problem> {
        self.found.into_inner()
    }

    /// The bytes of the file that `within` (bytes of the string written at `span`) stands for; all
    /// of `span` where escapes make the two differ.
    pub(crate) fn inside(
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

    /// Refuses a value of the wrong type.
    pub(crate) fn wrong_type<T>(
        &self,
        key: &str,
        span: Range<usize>,
        wanted: &str,
        found: &DeValue<'_>,
    ) -> Option<T> {
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
            (DeValue::String(_), "a table") if key == "auth" => Some(
                "write `auth = { type = \"iam\" }`, or `{ type = \"api-key\", key = { env = \"NAME\" } }`",
            ),
            (DeValue::String(_), wanted) if wanted.contains("`true`") => {
                Some("write `true` or `false` without quotes")
            }
            _ => None,
        };
        let message = format!("{} takes {wanted}, not {}", quoted(key), type_of(found));
        self.refuse(Problem::new(Kind::WrongType, Some(span), message).maybe_help(hint))
    }
}

impl Text {
    /// Whether an error may quote it: what comes from the environment may be a secret, and stays there.
    pub(crate) fn is_shown(&self) -> bool {
        self.variable.is_none() && !self.hidden
    }

    /// What an error is about that does not quote it: its key, or the variable that it comes from.
    pub(crate) fn subject(&self, key: &str) -> String {
        if self.variable.is_some() { self.shown() } else { format!("`{key}`") }
    }

    /// As an error shows it. A value from the environment may be a secret and is not shown.
    pub(crate) fn shown(&self) -> String {
        match &self.variable {
            Some(variable) => format!("the value of {variable}"),
            None if self.hidden => format!("`{COVER}`"),
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
