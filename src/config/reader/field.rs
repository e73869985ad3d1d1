//! Keys by the type of their values: strings, numbers, durations, choices.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde_json::Value;
use toml::Spanned;
use toml::de::DeValue;

use super::ledger::{Ledger, Located, Text};
use super::outline::Form;
use super::problem::{Kind, Problem, betrays, listed, looks_secret};
use super::table::{Field, Setting, Table};
use super::{synonyms, value};
use crate::config::environment::NoText;

impl<'a> Ledger<'a> {
    /// Reads a string, `{ env = … }` included; what is wrong is reported.
    pub(crate) fn string(
        &'a self,
        key: &str,
        value: &'a Spanned<DeValue<'a>>,
    ) -> Option<Located<Text>> {
        let span = value.span();
        match value.get_ref() {
            DeValue::String(text) => {
                let hidden = self.hides(&span);
                let text = Text { value: text.clone().into_owned(), variable: None, hidden };
                Some(Located { value: text, span })
            }
            DeValue::Table(table) if table.contains_key("env") => {
                let mut table = Table::new(self, "env", format!("`{key}`"), span.clone(), table);
                let text = table.variable(key);
                table.finish();
                text.map(|value| Located { value, span })
            }
            other => self.wrong_type(key, span, "a string", other),
        }
    }
}

impl<'a> Table<'a> {
    /// A string.
    pub(crate) fn string(&mut self, key: &'static str) -> Field<Text> {
        self.field(key, Form::Text, |ledger, entry| {
            ledger.string(key, entry.value).map(|text| text.value)
        })
    }

    /// A string that must not be empty.
    pub(crate) fn filled(&mut self, key: &'static str) -> Field<Text> {
        self.field(key, Form::Filled, |ledger, entry| {
            let text = ledger.string(key, entry.value)?;
            if text.value.value.is_empty() {
                let message = match &text.value.variable {
                    Some(_) => format!("`{key}` is empty: {} is", text.value.shown()),
                    None => format!("`{key}` is empty"),
                };
                return ledger.refuse(Problem::new(Kind::BadValue, Some(text.span), message));
            }
            Some(text.value)
        })
    }

    /// A whole number within `range`.
    pub(crate) fn integer(&mut self, key: &'static str, range: RangeInclusive<u32>) -> Field<u32> {
        self.field(key, Form::Integer(range.clone()), |ledger, entry| {
            let span = entry.value.span();
            let DeValue::Integer(number) = entry.value.get_ref() else {
                return ledger.wrong_type(key, span, "a whole number", entry.value.get_ref());
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

    /// A share of a whole: a number from 0 to 1.
    pub(crate) fn fraction(&mut self, key: &'static str) -> Field<f64> {
        self.field(key, Form::Number(1.0), |ledger, entry| {
            let span = entry.value.span();
            let number = match entry.value.get_ref() {
                DeValue::Float(number) => number.as_str().parse().ok(),
                DeValue::Integer(number) => match (number.radix(), number.as_str()) {
                    (10, "0") => Some(0.0),
                    (10, "1") => Some(1.0),
                    _ => None,
                },
                other => return ledger.wrong_type(key, span, "a number from 0 to 1", other),
            };
            let number = number.filter(|number| (0.0..=1.0).contains(number));
            if number.is_none() {
                let message = format!("`{key}` is a number from 0 to 1");
                ledger.report(Problem::new(Kind::BadValue, Some(span), message));
            }
            number
        })
    }

    /// `true` or `false`.
    pub(crate) fn boolean(&mut self, key: &'static str) -> Field<bool> {
        self.field(key, Form::Boolean, |ledger, entry| match entry.value.get_ref() {
            DeValue::Boolean(value) => Some(*value),
            other => ledger.wrong_type(key, entry.value.span(), "`true` or `false`", other),
        })
    }

    /// A duration.
    pub(crate) fn duration(&mut self, key: &'static str) -> Field<Duration> {
        self.scaled(key, Form::Duration, "a duration", value::DURATION, value::duration)
    }

    /// A size in bytes.
    pub(crate) fn size(&mut self, key: &'static str) -> Field<u64> {
        self.scaled(key, Form::Size, "a size", value::SIZE, value::size)
    }

    fn scaled<T>(
        &mut self,
        key: &'static str,
        form: Form,
        what: &str,
        hint: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Field<T> {
        self.field(key, form, |ledger, entry| {
            if matches!(entry.value.get_ref(), DeValue::Integer(_) | DeValue::Float(_)) {
                return ledger.wrong_type(key, entry.value.span(), what, entry.value.get_ref());
            }
            let text = ledger.string(key, entry.value)?;
            let parsed = parse(&text.value.value);
            if parsed.is_none() {
                let message = format!("{} is not {what}", text.value.shown());
                ledger.report(Problem::new(Kind::BadValue, Some(text.span), message).help(hint));
            }
            parsed
        })
    }

    /// One of the words of `options`; those of `later` are for a later version.
    pub(crate) fn choice<T: Copy>(
        &mut self,
        key: &'static str,
        options: &[(&str, T)],
        later: &[&str],
    ) -> Field<T> {
        let section = self.section;
        let form = Form::Word(words(options));
        self.field(key, form, |ledger, entry| {
            let text = ledger.string(key, entry.value)?;
            pick(ledger, section, key, &text, options, later)
        })
    }

    /// As [`choice`](Self::choice), and `default` where nothing was written.
    pub(crate) fn choice_or<T: Copy + PartialEq>(
        &mut self,
        key: &'static str,
        options: &[(&str, T)],
        later: &[&str],
        default: T,
    ) -> Option<Setting<T>> {
        let word = options.iter().find(|(_, value)| *value == default);
        let word = word.map(|(word, _)| Value::from(*word));
        self.choice(key, options, later).or_word(default, word)
    }

    /// One of the words of `options`, or a list of them, at least one.
    pub(crate) fn choices<T: Copy>(
        &mut self,
        key: &'static str,
        options: &[(&str, T)],
    ) -> Field<Vec<Located<T>>> {
        let (section, ledger) = (self.section, self.ledger);
        self.texts(key, Form::Words(words(options))).then(|texts| {
            let all: Vec<_> = texts
                .value
                .into_iter()
                .map(|text| {
                    let value = pick(ledger, section, key, &text, options, &[])?;
                    Some(Located { value, span: text.span })
                })
                .collect();
            all.into_iter().collect()
        })
    }

    /// A string or a list of strings, at least one.
    pub(crate) fn strings(&mut self, key: &'static str) -> Field<Vec<Located<Text>>> {
        self.texts(key, Form::Texts)
    }

    fn texts(&mut self, key: &'static str, form: Form) -> Field<Vec<Located<Text>>> {
        self.field(key, form, |ledger, entry| {
            let DeValue::Array(array) = entry.value.get_ref() else {
                if matches!(entry.value.get_ref(), DeValue::String(_) | DeValue::Table(_)) {
                    return ledger.string(key, entry.value).map(|text| vec![text]);
                }
                let wanted = "a string or a list of strings";
                return ledger.wrong_type(key, entry.value.span(), wanted, entry.value.get_ref());
            };
            if array.is_empty() {
                let message = format!("`{key}` is an empty list");
                let place = Some(entry.value.span());
                return ledger.refuse(Problem::new(Kind::BadValue, place, message));
            }
            // All are read before one that is bad spoils the list, so that all are reported.
            let texts: Vec<_> = array.iter().map(|item| ledger.string(key, item)).collect();
            texts.into_iter().collect()
        })
    }

    /// An inner table.
    pub(crate) fn table(&mut self, key: &'static str, section: &'static str) -> Field<Table<'a>> {
        self.field(key, Form::Table, |ledger, entry| match entry.value.get_ref() {
            DeValue::Table(table) => {
                Some(Table::new(ledger, section, format!("`{key}`"), entry.value.span(), table))
            }
            other => ledger.wrong_type(key, entry.value.span(), "a table", other),
        })
    }

    /// The string that a table `{ env = …, default = … }` stands for.
    pub(crate) fn variable(&mut self, key: &str) -> Option<Text> {
        let name = self.take("env")?;
        let default = self.take("default").map(|entry| entry.value);
        let DeValue::String(name_text) = name.value.get_ref() else {
            let found = name.value.get_ref();
            return self.ledger.wrong_type("env", name.value.span(), "a string", found);
        };
        let default = match default.map(|value| (value.span(), value.get_ref())) {
            None => None,
            Some((span, DeValue::String(text))) => {
                let hidden = self.ledger.hides(&span);
                Some(Text { value: text.clone().into_owned(), variable: None, hidden })
            }
            Some((span, other)) => {
                return self.ledger.wrong_type("default", span, "a string", other);
            }
        };
        let shown = self.ledger.quoted(&name.value.span(), &format!("${name_text}"));
        let why = match self.ledger.environment.text(name_text) {
            Ok(value) => {
                let hidden = betrays(value);
                return Some(Text { value: value.to_owned(), variable: Some(shown), hidden });
            }
            Err(NoText::Unset) => match default {
                Some(text) => return Some(text),
                None => "is not set",
            },
            Err(NoText::NotUtf8) => "is not UTF-8",
        };
        let message = format!("`{key}` is to come from {shown}, which {why}");
        let problem = Problem::new(Kind::Unresolved, Some(self.span.clone()), message);
        let hint = if looks_secret(key) || self.ledger.hides(&name.value.span()) {
            "set it where the bridge is started".to_owned()
        } else {
            format!("set it, or write `{{ env = {name_text:?}, default = \"…\" }}`")
        };
        self.ledger.refuse(problem.help(hint))
    }
}

fn words<T>(options: &[(&str, T)]) -> Vec<String> {
    options.iter().map(|(word, _)| (*word).to_owned()).collect()
}

/// What a word of `key` stands for.
fn pick<T: Copy>(
    ledger: &Ledger<'_>,
    section: &str,
    key: &str,
    text: &Located<Text>,
    options: &[(&str, T)],
    later: &[&str],
) -> Option<T> {
    let Located { value: text, span } = text;
    if let Some((_, value)) = options.iter().find(|(word, _)| *word == text.value) {
        return Some(*value);
    }
    let words: Vec<_> = options.iter().map(|(word, _)| *word).collect();
    let problem = if later.contains(&text.value.as_str()) {
        let message = format!("`{key} = \"{}\"` is not in this version", text.value);
        Problem::new(Kind::NotInThisVersion, Some(span.clone()), message)
            .help(format!("this version knows {}", listed(&words, "and")))
    } else {
        let message = format!("`{key}` can't be {}", text.shown());
        let problem = Problem::new(Kind::BadValue, Some(span.clone()), message);
        match synonyms::meant(section, &text.value, &words).filter(|_| text.variable.is_none()) {
            Some(word) => problem.help(format!("did you mean `{word}`?")),
            None => problem.help(format!("it is {}", listed(&words, "or"))),
        }
    };
    ledger.refuse(problem)
}
