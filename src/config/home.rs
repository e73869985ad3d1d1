//! The source whose connection a dead letter uses: its `source`.

use std::collections::BTreeMap;

use super::broker::Broker;
use super::reader::{Form, Kind, Names, Problem, Table, quoted};
use crate::message::SourceName;

/// The sources of the file, bad ones included.
pub(super) struct Homes<'a> {
    pub(super) names: &'a Names,
    /// Their kinds, as far as they are known.
    pub(super) kinds: BTreeMap<&'a str, &'static Broker>,
}

impl Homes<'_> {
    /// Reads `source`, one of these kinds; `name` is one that a hint shows.
    pub(super) fn read(
        &self,
        table: &mut Table<'_>,
        kinds: &[&Broker],
        name: &str,
    ) -> Option<SourceName> {
        let words: Vec<_> = kinds.iter().map(|kind| format!("`{}`", kind.word)).collect();
        let words = words.join(" or ");
        let source = table.field("source", Form::Filled, |ledger, entry| {
            let text = ledger.string("source", entry.value)?;
            let name = self.names.resolve(ledger, &text)?;
            // An error in its type is reported there.
            let kind = self.kinds.get(&*name)?;
            if kinds.iter().any(|wanted| wanted.word == kind.word) {
                return Some(name);
            }
            let message = format!("{} is a source of type `{}`", quoted(&name), kind.word);
            let problem = Problem::new(Kind::BadValue, Some(text.span), message);
            ledger.refuse(problem.help(format!("name one of type {words}: its connection is used")))
        });
        let hint =
            format!("a source of type {words}, whose connection it uses: `source = \"{name}\"`");
        Some(table.require("source", source, hint)?.value.into())
    }
}
