//! `type = "jetstream"` of a dead letter: a subject at the server of a source, which a stream takes.

use super::connection::Connection;
use super::subjects::{is_subject, takes};
use crate::config::broker::{JETSTREAM, NATS};
use crate::config::home::Homes;
use crate::config::reader::{Kind, Located, Problem, Table};
use crate::message::SourceName;

/// A checked `type = "jetstream"` of a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubjectRejects {
    /// A source of this file, whose servers and credentials are used.
    pub source: SourceName,
    /// No source whose rejects go here reads it.
    pub subject: String,
}

impl SubjectRejects {
    /// By which of its subjects a source reads what is written here, that of a connection; `home` is the one that is
    /// used. A source that takes a whole stream has none, and which subjects that has only its server knows: such a
    /// circle is found when the dead letter is written.
    pub(in crate::config) fn read_by(
        &self,
        (connection, subjects): (&Connection, &[String]),
        home: &Connection,
    ) -> Option<usize> {
        let number = subjects.iter().position(|wildcards| takes(wildcards, &self.subject))?;
        connection.may_meet(home).then_some(number)
    }
}

/// Reads it; the place is that of the subject.
pub(in crate::config) fn read_rejects(
    mut table: Table<'_>,
    homes: &Homes<'_>,
) -> Option<Located<SubjectRejects>> {
    let source = homes.read(&mut table, &[&JETSTREAM, &NATS], "orders");
    let ledger = table.ledger;
    let subject = table.filled("subject").then(|text| {
        if is_subject(&text.value.value) {
            return Some(text.value.value);
        }
        let message = format!("{} can't be a subject that is written to", text.value.shown());
        let problem = Problem::new(Kind::BadValue, Some(text.span), message);
        ledger.refuse(problem.help(
            "a subject has levels parted by `.`, no blanks, no `*` and no `>`, and no `$` first",
        ))
    });
    let hint = "where they go: `subject = \"rejects.orders\"`, which a stream takes";
    let subject = table.require("subject", subject, hint);
    table.finish();
    let (source, Located { value: subject, span }) = (source?, subject?);
    Some(Located { value: SubjectRejects { source, subject }, span })
}
