//! What the readers ask for: the keys of each table and the form of their values, noted while a file is read.

use std::cell::RefCell;
use std::ops::RangeInclusive;

use toml::de::DeTable;

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
    /// A string, a whole number, `true` or `false`.
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
    /// It takes keys of any name, with values of this form.
    TakesAny(Form),
}

/// An act, and the table it is done to: the address of what was parsed.
pub(crate) type Note = (usize, Act);

/// The notes of one file, if they are wanted.
#[derive(Default)]
pub(crate) struct Outline(Option<RefCell<Vec<Note>>>);

impl Outline {
    /// Takes notes.
    pub(crate) fn wanted() -> Self {
        Self(Some(RefCell::default()))
    }

    /// Notes what `act` says.
    pub(super) fn note(&self, table: usize, act: impl FnOnce() -> Act) {
        if let Some(notes) = &self.0 {
            notes.borrow_mut().push((table, act()));
        }
    }

    /// All notes.
    pub(crate) fn close(self) -> Vec<Note> {
        self.0.map(RefCell::into_inner).unwrap_or_default()
    }
}

/// What tells a table from all others of its file.
pub(crate) fn address(table: &DeTable<'_>) -> usize {
    std::ptr::from_ref(table).addr()
}
