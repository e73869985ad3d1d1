//! How a configuration is read: its syntax, its tables key by key, and every mistake with its place.
//!
//! Nothing here knows the meaning of a key; that is with the reader of a [`Table`].

mod broken;
mod field;
mod ledger;
pub(super) mod names;
mod outline;
mod problem;
mod relation;
pub(super) mod secret_ref;
pub(super) mod synonyms;
mod syntax;
mod table;
mod value;

pub(super) use ledger::{Ledger, Located, Text};
pub(super) use names::Names;
pub(super) use outline::{Act, Form, Note, Outline, address};
pub use problem::{Kind, LogLine, Problem, Problems};
pub(super) use problem::{Masked, listed, quoted};
pub(super) use relation::{contrast, impossible};
pub(super) use synonyms::{Word, Words};
pub(super) use syntax::Repaired;
pub(super) use table::{Entry, Field, Reported, Setting, Table};
pub(super) use value::{DURATION_UNITS, SIZE_UNITS};
pub(super) use value::{show_duration, show_size};
