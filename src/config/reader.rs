//! Takes the keys out of a table one by one, and reports what is wrong with each and what is left.
//!
//! Nothing here stops at a problem: a reader says what it found and goes on, so that one run shows
//! every mistake. A value that could not be read is [`Field::Bad`], which is no reason for a second
//! report.

use std::cell::RefCell;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::environment::{Environment, NoText};
use super::mask::looks_secret;
use super::problem::{Kind, Problem, listed, quoted};
use super::{syntax, value, words};

/// What one run of the loader knows and has found so far.
pub(super) struct Ledger<'a> {
    /// The file.
    pub(super) text: &'a str,
    /// Where variables are looked up.
    pub(super) environment: &'a Environment,
    broken: Vec<Range<usize>>,
    found: RefCell<Vec<Problem>>,
    secrets: RefCell<Vec<Range<usize>>>,
}

/// A table whose keys are taken out.
pub(super) struct Table<'a> {
    pub(super) ledger: &'a Ledger<'a>,
    /// What it is called in messages: `[api.main]`, `auth`.
    pub(super) title: String,
    /// Its header, or all of an inline table.
    pub(super) span: Range<usize>,
    section: &'static str,
    entries: Vec<Entry<'a>>,
    asked: Vec<&'static str>,
    missing: Vec<(&'static str, String)>,
}

/// A key with its value.
pub(super) struct Entry<'a> {
    pub(super) key: &'a str,
    pub(super) key_span: Range<usize>,
    pub(super) value: &'a Spanned<DeValue<'a>>,
}

/// What became of a key.
pub(super) enum Field<T> {
    /// It was not written.
    Absent,
    /// It was, and what is wrong with it has been reported.
    Bad,
    /// Its value.
    Good(Located<T>),
}

/// It is bad, and what is wrong with it has been reported.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reported;

/// A value and the bytes it was written in.
#[derive(Clone, Debug)]
pub(super) struct Located<T> {
    pub(super) value: T,
    pub(super) span: Range<usize>,
}

/// A value that was written, or the default.
#[derive(Clone, Debug)]
pub(super) struct Setting<T> {
    pub(super) value: T,
    /// `None`: the default.
    pub(super) span: Option<Range<usize>>,
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
        Self { text, environment, broken, found, secrets }
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

impl<'a> Table<'a> {
    /// A table of the file; `section` says whose words are known in it.
    pub(super) fn new(
        ledger: &'a Ledger<'a>,
        section: &'static str,
        title: String,
        span: Range<usize>,
        table: &'a DeTable<'a>,
    ) -> Self {
        let entries = table.iter().map(|(key, value)| Entry {
            key: key.get_ref().as_ref(),
            key_span: key.span(),
            value,
        });
        let mut entries: Vec<_> = entries.collect();
        entries.sort_by_key(|entry| entry.key_span.start);
        let (asked, missing) = (Vec::new(), Vec::new());
        Self { ledger, title, span, section, entries, asked, missing }
    }

    /// From here on the words of another section are known.
    pub(super) fn becomes(&mut self, section: &'static str) {
        self.section = section;
    }

    /// The kind of source that `type` names, if it is one of a later version.
    pub(super) fn later_type(&self) -> Option<&'static str> {
        let entry = self.entries.iter().find(|entry| entry.key == "type")?;
        let kind = entry.value.get_ref().as_str()?;
        ["kafka", "nats", "jetstream", "sqs"].into_iter().find(|later| *later == kind)
    }

    /// Whether a key that is still there was probably meant to be `word`.
    pub(super) fn means(&self, word: &str) -> bool {
        let meant = |entry: &Entry<'_>| words::meant(self.section, entry.key, &self.asked);
        self.entries.iter().any(|entry| meant(entry) == Some(word))
    }

    /// Takes a key out.
    pub(super) fn take(&mut self, key: &'static str) -> Option<Entry<'a>> {
        self.asked.push(key);
        let at = self.entries.iter().position(|entry| entry.key == key)?;
        let entry = self.entries.remove(at);
        Some(entry)
    }

    /// Takes a key and reads it with `read`, which reports what is wrong.
    pub(super) fn field<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&'a Ledger<'a>, &Entry<'a>) -> Option<T>,
    ) -> Field<T> {
        let Some(entry) = self.take(key) else {
            return if self.ledger.lost(key, &self.extent()) { Field::Bad } else { Field::Absent };
        };
        if self.is_broken(&entry) {
            return Field::Bad;
        }
        let span = entry.value.span();
        read(self.ledger, &entry).map_or(Field::Bad, |value| Field::Good(Located { value, span }))
    }

    /// A string.
    pub(super) fn string(&mut self, key: &'static str) -> Field<Text> {
        self.field(key, |ledger, entry| ledger.string(key, entry.value).map(|text| text.value))
    }

    /// A string that must not be empty.
    pub(super) fn filled(&mut self, key: &'static str) -> Field<Text> {
        self.field(key, |ledger, entry| {
            let text = ledger.string(key, entry.value)?;
            if text.value.value.is_empty() {
                let message = match &text.value.variable {
                    Some(name) => {
                        format!("`{key}` is empty, because {} is", quoted(&format!("${name}")))
                    }
                    None => format!("`{key}` is empty"),
                };
                ledger.report(Problem::new(Kind::BadValue, Some(text.span), message));
                return None;
            }
            Some(text.value)
        })
    }

    /// A whole number within `range`.
    pub(super) fn integer(&mut self, key: &'static str, range: RangeInclusive<u32>) -> Field<u32> {
        self.field(key, |ledger, entry| {
            let span = entry.value.span();
            let DeValue::Integer(number) = entry.value.get_ref() else {
                ledger.wrong_type(key, span, "a whole number", entry.value.get_ref());
                return None;
            };
            let number = u32::from_str_radix(number.as_str(), number.radix()).ok();
            let number = number.filter(|number| range.contains(number));
            if number.is_none() {
                let message =
                    format!("`{key}` is a number from {} to {}", range.start(), range.end());
                ledger.report(Problem::new(Kind::BadValue, Some(span), message));
            }
            number
        })
    }

    /// `true` or `false`.
    pub(super) fn boolean(&mut self, key: &'static str) -> Field<bool> {
        self.field(key, |ledger, entry| match entry.value.get_ref() {
            DeValue::Boolean(value) => Some(*value),
            other => {
                ledger.wrong_type(key, entry.value.span(), "`true` or `false`", other);
                None
            }
        })
    }

    /// A duration.
    pub(super) fn duration(&mut self, key: &'static str) -> Field<Duration> {
        self.scaled(key, "a duration", value::DURATION, value::duration)
    }

    /// A size in bytes.
    pub(super) fn size(&mut self, key: &'static str) -> Field<u64> {
        self.scaled(key, "a size", value::SIZE, value::size)
    }

    fn scaled<T>(
        &mut self,
        key: &'static str,
        what: &str,
        form: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Field<T> {
        self.field(key, |ledger, entry| {
            if matches!(entry.value.get_ref(), DeValue::Integer(_) | DeValue::Float(_)) {
                ledger.wrong_type(key, entry.value.span(), what, entry.value.get_ref());
                return None;
            }
            let text = ledger.string(key, entry.value)?;
            let parsed = parse(&text.value.value);
            if parsed.is_none() {
                let message = format!("{} is not {what}", text.value.shown());
                ledger.report(Problem::new(Kind::BadValue, Some(text.span), message).help(form));
            }
            parsed
        })
    }

    /// One of the words of `options`; those of `later` are for a later version.
    pub(super) fn choice<T: Copy>(
        &mut self,
        key: &'static str,
        options: &[(&str, T)],
        later: &[&str],
    ) -> Field<T> {
        let section = self.section;
        self.field(key, |ledger, entry| {
            let Located { value: text, span } = ledger.string(key, entry.value)?;
            if let Some((_, value)) = options.iter().find(|(word, _)| *word == text.value) {
                return Some(*value);
            }
            let words: Vec<_> = options.iter().map(|(word, _)| *word).collect();
            let problem = if later.contains(&text.value.as_str()) {
                let message = format!("`{key} = \"{}\"` is not in this version", text.value);
                Problem::new(Kind::NotInThisVersion, Some(span), message)
                    .help(format!("this version knows {}", listed(&words, "and")))
            } else {
                let message = format!("`{key}` can't be {}", text.shown());
                let problem = Problem::new(Kind::BadValue, Some(span), message);
                match words::meant(section, &text.value, &words).filter(|_| text.variable.is_none())
                {
                    Some(word) => problem.help(format!("did you mean `{word}`?")),
                    None => problem.help(format!("it is {}", listed(&words, "or"))),
                }
            };
            ledger.report(problem);
            None
        })
    }

    /// A string or a list of strings, at least one.
    pub(super) fn strings(&mut self, key: &'static str) -> Field<Vec<Located<Text>>> {
        self.field(key, |ledger, entry| {
            let DeValue::Array(array) = entry.value.get_ref() else {
                if matches!(entry.value.get_ref(), DeValue::String(_) | DeValue::Table(_)) {
                    return ledger.string(key, entry.value).map(|text| vec![text]);
                }
                let wanted = "a string or a list of strings";
                ledger.wrong_type(key, entry.value.span(), wanted, entry.value.get_ref());
                return None;
            };
            if array.is_empty() {
                let message = format!("`{key}` is an empty list");
                ledger.report(Problem::new(Kind::BadValue, Some(entry.value.span()), message));
                return None;
            }
            // All are read before one that is bad spoils the list, so that all are reported.
            let texts: Vec<_> = array.iter().map(|item| ledger.string(key, item)).collect();
            texts.into_iter().collect()
        })
    }

    /// An inner table.
    pub(super) fn table(&mut self, key: &'static str, section: &'static str) -> Field<Table<'a>> {
        self.field(key, |ledger, entry| match entry.value.get_ref() {
            DeValue::Table(table) => {
                Some(Table::new(ledger, section, format!("`{key}`"), entry.value.span(), table))
            }
            other => {
                ledger.wrong_type(key, entry.value.span(), "a table", other);
                None
            }
        })
    }

    /// Notes that `key` has to be there, if it is not.
    pub(super) fn require<T>(
        &mut self,
        key: &'static str,
        field: Field<T>,
        hint: impl Into<String>,
    ) -> Option<Located<T>> {
        match field {
            Field::Good(located) => Some(located),
            Field::Bad => None,
            Field::Absent => {
                self.missing.push((key, hint.into()));
                None
            }
        }
    }

    /// Leaves those keys unread for which nothing else is suggested.
    pub(super) fn ignore_strangers(&mut self) {
        let (section, asked) = (self.section, &self.asked);
        self.entries.retain(|entry| words::meant(section, entry.key, asked).is_some());
    }

    /// Leaves what is left unread.
    pub(super) fn ignore_rest(&mut self) {
        self.entries.clear();
        self.missing.clear();
    }

    /// Everything that is left, for a table whose keys are names.
    pub(super) fn rest(&mut self) -> Vec<Entry<'a>> {
        let entries = std::mem::take(&mut self.entries);
        entries.into_iter().filter(|entry| !self.is_broken(entry)).collect()
    }

    /// Reports keys of a later version, unknown ones, and what is missing.
    pub(super) fn finish(mut self) {
        let later = words::later(self.section);
        let mut meant = Vec::new();
        for entry in self.rest() {
            let place = Some(entry.key_span.clone());
            let key = quoted(entry.key);
            // A table holds a reference; a default in it is covered by its look.
            if looks_secret(entry.key) && entry.value.get_ref().as_table().is_none() {
                self.ledger.hide(entry.value.span());
            }
            if later.contains(&entry.key) {
                let message = format!("{key} is not in this version");
                self.ledger.report(
                    Problem::new(Kind::NotInThisVersion, place, message).help(
                        "remove it: what a version can't do it refuses, rather than ignore it",
                    ),
                );
                continue;
            }
            let word = words::meant(self.section, entry.key, &self.asked);
            meant.extend(word);
            let problem = Problem::new(Kind::UnknownKey, place, format!("unknown key {key}"));
            self.ledger.report(match word {
                Some(word) => problem.help(format!("did you mean `{word}`?")),
                None => problem.help(self.known()),
            });
        }
        for (key, hint) in &self.missing {
            // A key that was misspelt is not missing, too.
            if !meant.contains(key) {
                let message = format!("{} has no `{key}`", self.title);
                let place = Some(self.span.clone());
                self.ledger
                    .report(Problem::new(Kind::MissingKey, place, message).help(hint.clone()));
            }
        }
    }

    fn known(&self) -> String {
        let mut known = self.asked.clone();
        known.sort_unstable();
        known.dedup();
        format!("{} has {}", self.title, listed(&known, "and"))
    }

    /// The bytes in which the table's keys stand.
    fn extent(&self) -> Range<usize> {
        if self.ledger.text[self.span.start..].starts_with('{') {
            return self.span.clone();
        }
        self.span.start..syntax::next_header(self.ledger.text, self.span.end)
    }

    fn is_broken(&self, entry: &Entry<'_>) -> bool {
        self.ledger.broken.iter().any(|span| {
            span.contains(&entry.key_span.start) || span.contains(&entry.value.span().start)
        })
    }

    fn variable(&mut self, key: &str) -> Option<Text> {
        let name = self.take("env")?;
        let default = self.take("default");
        let DeValue::String(name_text) = name.value.get_ref() else {
            self.ledger.wrong_type("env", name.value.span(), "a string", name.value.get_ref());
            return None;
        };
        let default =
            match default.map(|entry| entry.value).map(|value| (value.span(), value.get_ref())) {
                None => None,
                Some((_, DeValue::String(text))) => Some(text.clone().into_owned()),
                Some((span, other)) => {
                    self.ledger.wrong_type("default", span, "a string", other);
                    return None;
                }
            };
        let variable = quoted(&format!("${name_text}"));
        let why = match self.ledger.environment.text(name_text) {
            Ok(value) => {
                let variable = Some(name_text.clone().into_owned());
                return Some(Text { value: value.to_owned(), variable });
            }
            Err(NoText::Unset) => match default {
                Some(value) => return Some(Text { value, variable: None }),
                None => "is not set",
            },
            Err(NoText::NotUtf8) => "is not UTF-8",
        };
        let message = format!("`{key}` is to come from {variable}, which {why}");
        let problem = Problem::new(Kind::Unresolved, Some(self.span.clone()), message);
        let hint = if looks_secret(key) {
            "set it where the bridge is started".to_owned()
        } else {
            format!("set it, or write `{{ env = {name_text:?}, default = \"…\" }}`")
        };
        self.ledger.report(problem.help(hint));
        None
    }
}

impl<T> Field<T> {
    /// The value, or the default where nothing was written.
    pub(super) fn or(self, default: T) -> Option<Setting<T>> {
        match self {
            Self::Absent => Some(Setting { value: default, span: None }),
            Self::Bad => None,
            Self::Good(located) => Some(Setting { value: located.value, span: Some(located.span) }),
        }
    }

    /// `None` where nothing was written.
    pub(super) fn optional(self) -> Result<Option<Located<T>>, Reported> {
        match self {
            Self::Absent => Ok(None),
            Self::Bad => Err(Reported),
            Self::Good(located) => Ok(Some(located)),
        }
    }

    /// Turns the value into another, or reports why not.
    pub(super) fn then<U>(self, check: impl FnOnce(Located<T>) -> Option<U>) -> Field<U> {
        match self {
            Self::Absent => Field::Absent,
            Self::Bad => Field::Bad,
            Self::Good(located) => {
                let span = located.span.clone();
                check(located).map_or(Field::Bad, |value| Field::Good(Located { value, span }))
            }
        }
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
