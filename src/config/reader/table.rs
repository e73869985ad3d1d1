//! Takes the keys out of a table one by one, and reports what is wrong with each and what is left.
//!
//! Nothing here stops at a problem: a reader says what it found and goes on, so that one run shows
//! every mistake. A value that could not be read is [`Field::Bad`], which is no reason for a second
//! report.

use std::ops::Range;

use serde_json::Value;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::ledger::{Ledger, Located};
use super::outline::{Act, Form, Unset, Written, address};
use super::problem::{Kind, Problem, is_known, listed};
use super::synonyms::{self, Words};
use super::syntax;

/// A table whose keys are taken out.
pub(crate) struct Table<'a> {
    pub(crate) ledger: &'a Ledger<'a>,
    /// What it is called in messages: `[api.main]`, `auth`.
    pub(crate) title: String,
    /// Its header, or all of an inline table.
    pub(crate) span: Range<usize>,
    pub(crate) section: &'static str,
    /// What tells it from the other tables of the file.
    address: usize,
    /// What it knows beside the words of its section.
    words: Words,
    /// Its kind is guessed: what is missing may be none of it.
    guessed: bool,
    entries: Vec<Entry<'a>>,
    /// Keys that a reader asked for: the known ones.
    asked: Vec<&'static str>,
    /// Required keys that are absent, with a hint.
    missing: Vec<(&'static str, String)>,
}

/// A key with its value.
pub(crate) struct Entry<'a> {
    pub(crate) key: &'a str,
    pub(crate) key_span: Range<usize>,
    pub(crate) value: &'a Spanned<DeValue<'a>>,
}

/// What became of a key.
pub(crate) enum Field<T> {
    /// It was not written.
    Absent(Unset),
    /// It was, and what is wrong with it has been reported.
    Bad,
    /// Its value.
    Good(Located<T>),
}

/// The value is bad; the problem is reported already.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reported;

/// A value that was written, or the default.
#[derive(Clone, Debug)]
pub(crate) struct Setting<T> {
    pub(crate) value: T,
    /// `None`: the default.
    pub(crate) span: Option<Range<usize>>,
}

impl<'a> Table<'a> {
    /// A table of the file; `section` selects the synonyms and later words of its keys.
    pub(crate) fn new(
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
        let (address, asked, missing) = (address(table), Vec::new(), Vec::new());
        Self {
            ledger,
            title,
            span,
            section,
            address,
            words: &[],
            guessed: false,
            entries,
            asked,
            missing,
        }
    }

    /// From here on the words of another section are known.
    pub(crate) fn becomes(&mut self, section: &'static str) {
        self.section = section;
    }

    /// From here on it has words of its own.
    pub(crate) fn knows(&mut self, words: Words) {
        self.words = words;
    }

    /// From here on nothing is missing: its kind is guessed from a misspelt word.
    pub(crate) fn is_guessed(&mut self) {
        self.guessed = true;
    }

    /// What `type` says, right or wrong, by itself or by a variable.
    pub(crate) fn type_word(&self) -> Option<&'a str> {
        self.ledger.looked_up(self.value_of("type")?)
    }

    /// What is written for a key that is still there.
    pub(super) fn value_of(&self, key: &str) -> Option<&'a DeValue<'a>> {
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        Some(entry.value.get_ref())
    }

    /// The strings that are written for a key that is still there, as they are, unless one may be a secret.
    pub(crate) fn texts_of(&self, key: &str) -> impl Iterator<Item = &'a str> {
        let entry = self.entries.iter().find(|entry| entry.key == key);
        let entry = entry.filter(|entry| !self.ledger.hides(&entry.value.span()));
        let value = entry.map(|entry| entry.value.get_ref());
        let list = value.and_then(|value| value.as_array()).into_iter();
        let list = list.flat_map(|list| list.iter()).filter_map(|item| item.get_ref().as_str());
        value.and_then(|value| value.as_str()).into_iter().chain(list)
    }

    /// Whether a key that is still there was probably meant to be `word`.
    pub(crate) fn means(&self, word: &str) -> bool {
        self.entries.iter().any(|entry| self.meant(entry.key) == Some(word))
    }

    fn meant(&self, key: &str) -> Option<&'static str> {
        synonyms::meant_by(self.section, self.words, key, &self.asked)
    }

    /// Notes the form of a value that is taken out by hand.
    pub(super) fn note(&self, key: &'static str, form: Form) {
        self.ledger.outline.note(self.address, || Act::Asks(key, form));
    }

    /// Takes a key out.
    pub(crate) fn take(&mut self, key: &'static str) -> Option<Entry<'a>> {
        // Else nobody could see what is written there, nor of a mistake that it is one.
        debug_assert!(is_known(key), "`{key}` is read, and `harmless` does not know it");
        self.asked.push(key);
        let at = self.entries.iter().position(|entry| entry.key == key)?;
        let entry = self.entries.remove(at);
        Some(entry)
    }

    /// Takes a key and reads its value, of this form, with `read`, which reports what is wrong.
    pub(crate) fn field<T>(
        &mut self,
        key: &'static str,
        form: Form,
        read: impl FnOnce(&'a Ledger<'a>, &Entry<'a>) -> Option<T>,
    ) -> Field<T> {
        self.note(key, form);
        let Some(entry) = self.take(key) else {
            let lost = !self.ledger.broken.is_empty() && self.ledger.lost(key, &self.extent());
            let unset = || self.ledger.outline.unset(self.address, key);
            return if lost { Field::Bad } else { Field::Absent(unset()) };
        };
        if self.is_broken(&entry) {
            return Field::Bad;
        }
        let span = entry.value.span();
        read(self.ledger, &entry).map_or(Field::Bad, |value| Field::Good(Located { value, span }))
    }

    /// Notes that `key` has to be there, if it is not.
    pub(crate) fn require<T>(
        &mut self,
        key: &'static str,
        field: Field<T>,
        hint: impl Into<String>,
    ) -> Option<Located<T>> {
        self.ledger.outline.note(self.address, || Act::Requires(key));
        match field {
            Field::Good(located) => Some(located),
            Field::Bad => None,
            Field::Absent(_) => {
                if !self.guessed {
                    self.missing.push((key, hint.into()));
                }
                None
            }
        }
    }

    /// Whether a key is there.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|entry| entry.key == key)
    }

    /// Ignores the remaining keys, and what is missing.
    pub(crate) fn ignore_rest(&mut self) {
        self.forget_rest();
        self.missing.clear();
    }

    /// Ignores the remaining keys.
    pub(crate) fn forget_rest(&mut self) {
        self.entries.clear();
    }

    /// Everything that is left, for a table whose keys are names of values of this form.
    pub(crate) fn rest(&mut self, form: Form) -> Vec<Entry<'a>> {
        self.ledger.outline.note(self.address, || Act::TakesAny(form));
        self.left()
    }

    fn left(&mut self) -> Vec<Entry<'a>> {
        let entries = std::mem::take(&mut self.entries);
        entries.into_iter().filter(|entry| !self.is_broken(entry)).collect()
    }

    /// Reports keys of a later version, unknown ones, and what is missing.
    pub(crate) fn finish(mut self) {
        let later = synonyms::later(self.section);
        let mut meant = Vec::new();
        for entry in self.left() {
            let place = Some(entry.key_span.clone());
            let key = self.ledger.quoted(&entry.key_span, entry.key);
            let word = self.meant(entry.key);
            if later.contains(&entry.key) {
                let message = format!("{key} is not in this version");
                self.ledger.report(
                    Problem::new(Kind::NotInThisVersion, place, message).help(
                        "remove it: what a version can't do it refuses, rather than ignore it",
                    ),
                );
                continue;
            }
            meant.extend(word);
            let problem = Problem::new(Kind::UnknownKey, place, format!("unknown key {key}"));
            let problem = if entry.key.chars().all(synonyms::is_blank) {
                problem.help("nothing is in it that can be seen: remove the line")
            } else if entry.key.contains(synonyms::is_blank) {
                problem.help("a blank, or something else that can't be seen, is in it")
            } else {
                problem
            };
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
        let broken = &self.ledger.broken;
        broken.holds(entry.key_span.start) || broken.holds(entry.value.span().start)
    }
}

impl<T> Field<T> {
    /// Nothing was written.
    pub(crate) fn absent() -> Self {
        Self::Absent(Unset::default())
    }

    /// The value, or the default where nothing was written.
    pub(crate) fn or(self, default: T) -> Option<Setting<T>>
    where
        T: Written,
    {
        let written = default.written();
        self.or_word(default, written)
    }

    /// As [`or`](Self::or), with a default that would be `written` so.
    pub(crate) fn or_word(
        self,
        default: T,
        written: impl Into<Option<Value>>,
    ) -> Option<Setting<T>> {
        match self {
            Self::Absent(unset) => {
                unset.stands_for(|| written.into());
                Some(Setting { value: default, span: None })
            }
            Self::Bad => None,
            Self::Good(located) => Some(Setting { value: located.value, span: Some(located.span) }),
        }
    }

    /// `None` where nothing was written.
    pub(crate) fn optional(self) -> Result<Option<Located<T>>, Reported> {
        match self {
            Self::Absent(_) => Ok(None),
            Self::Bad => Err(Reported),
            Self::Good(located) => Ok(Some(located)),
        }
    }

    /// Turns the value into another, or reports why not.
    pub(crate) fn then<U>(self, check: impl FnOnce(Located<T>) -> Option<U>) -> Field<U> {
        match self {
            Self::Absent(unset) => Field::Absent(unset),
            Self::Bad => Field::Bad,
            Self::Good(located) => {
                let span = located.span.clone();
                check(located).map_or(Field::Bad, |value| Field::Good(Located { value, span }))
            }
        }
    }
}
