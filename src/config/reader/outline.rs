//! What the readers ask for: the keys of each table and the form of their values, noted while a file is read.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::rc::Rc;
use std::time::Duration;

use serde_json::Value;
use toml::de::DeTable;

use super::value::{show_duration, show_size};

/// The form of a value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Form {
    /// A string, or a reference to a variable.
    Text,
    /// The same, never empty.
    Filled,
    /// A string, or a list of strings.
    Texts,
    /// One of these words.
    Word(Vec<String>),
    /// One of these words, or a list of them.
    Words(Vec<String>),
    /// A secret: a reference, or plain text.
    Secret,
    /// The secret that a file holds: its path, or a reference.
    SecretFile,
    /// A whole number.
    Integer(RangeInclusive<u32>),
    /// A number from 0 to this.
    Number(f64),
    /// `true` or `false`.
    Boolean,
    /// `"30s"`.
    Duration,
    /// `"64MiB"`.
    Size,
    /// A string, a reference to a variable, a whole number, `true` or `false`.
    Scalar,
    /// A table.
    Table,
    /// `true`, `false`, or a table.
    BooleanOrTable,
    /// A string, a table, or a list of those.
    TextsOrTables,
}

/// Something that a reader does with a table.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// It asks for a key whose value has this form.
    Asks(&'static str, Form),
    /// It can't do without a key.
    Requires(&'static str),
    /// It takes this where a key is left away.
    Defaults(&'static str, Value),
    /// It takes keys of any name, with values of this form.
    TakesAny(Form),
}

/// An act, and the table it is done to: the address of what was parsed.
pub(crate) type Note = (usize, Act);

/// The notes of one file, if they are wanted.
#[derive(Default)]
pub(crate) struct Outline(Option<Notes>);

type Notes = Rc<RefCell<Vec<Note>>>;

impl Outline {
    /// Takes notes.
    pub(crate) fn wanted() -> Self {
        Self(Some(Rc::default()))
    }

    /// Notes what `act` says.
    pub(super) fn note(&self, table: usize, act: impl FnOnce() -> Act) {
        if let Some(notes) = &self.0 {
            notes.borrow_mut().push((table, act()));
        }
    }

    /// For a key that `table` does not have.
    pub(super) fn unset(&self, table: usize, key: &'static str) -> Unset {
        Unset(self.0.as_ref().map(|notes| (Rc::clone(notes), table, key)))
    }

    /// All notes.
    pub(crate) fn close(self) -> Vec<Note> {
        self.0.map(|notes| notes.take()).unwrap_or_default()
    }
}

/// A key that is left away, if notes are taken of it: what it stands for then.
#[derive(Clone, Default)]
pub(crate) struct Unset(Option<(Notes, usize, &'static str)>);

impl Unset {
    /// Notes the default.
    pub(super) fn stands_for(&self, default: impl FnOnce() -> Option<Value>) {
        if let Some((notes, table, key)) = &self.0
            && let Some(default) = default()
        {
            notes.borrow_mut().push((*table, Act::Defaults(key, default)));
        }
    }
}

/// A default, as it would be written in a file.
pub(crate) trait Written {
    /// `None`: nothing can be written that means the same.
    fn written(&self) -> Option<Value>;
}

impl Written for bool {
    fn written(&self) -> Option<Value> {
        Some((*self).into())
    }
}

impl Written for u32 {
    fn written(&self) -> Option<Value> {
        Some((*self).into())
    }
}

/// A size.
impl Written for u64 {
    fn written(&self) -> Option<Value> {
        Some(show_size(*self).into())
    }
}

impl Written for f64 {
    fn written(&self) -> Option<Value> {
        Some((*self).into())
    }
}

impl Written for Duration {
    fn written(&self) -> Option<Value> {
        Some(show_duration(*self).into())
    }
}

impl Written for String {
    fn written(&self) -> Option<Value> {
        Some(self.as_str().into())
    }
}

impl Written for SocketAddr {
    fn written(&self) -> Option<Value> {
        Some(self.to_string().into())
    }
}

/// Nothing of a list.
impl<T> Written for Vec<T> {
    fn written(&self) -> Option<Value> {
        None
    }
}

/// What tells a table from all others of its file.
pub(crate) fn address(table: &DeTable<'_>) -> usize {
    std::ptr::from_ref(table).addr()
}
