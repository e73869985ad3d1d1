//! One span that has ended, for the exporter; or one that has not, for its maker.

use std::time::SystemTime;

use super::context::{SpanId, TraceId};

/// A part of a trace. Nothing of a payload and no secret is in it.
#[derive(Clone, Debug)]
pub struct Span {
    /// Itself.
    pub at: Place,
    /// The span that it is a part of.
    pub parent: Option<SpanId>,
    /// What vendors had added to the trace.
    pub state: Box<str>,
    /// Of a few: what was done, and the source, the route or the API.
    pub name: String,
    /// Its part among those of others.
    pub kind: Kind,
    /// Its begin.
    pub began: SystemTime,
    /// Its end.
    pub ended: SystemTime,
    /// What is known of it.
    pub attributes: Vec<Attribute>,
    /// What happened meanwhile.
    pub notes: Vec<Note>,
    /// How many more of these there were.
    pub notes_left_out: u32,
    /// Spans that it has to do with.
    pub links: Vec<Place>,
    /// Why it failed, if so.
    pub error: Option<String>,
}

/// Where a span is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its trace.
    pub trace: TraceId,
    /// Itself.
    pub span: SpanId,
}

/// The part of a span among those of others, in the words of OpenTelemetry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Takes a message.
    Consumer,
    /// Publishes an event.
    Producer,
    /// Asks a server.
    Client,
}

/// A name and its value.
pub type Attribute = (std::borrow::Cow<'static, str>, Value);

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A text.
    Text(Box<str>),
    /// A word of a list.
    Word(&'static str),
    /// A number.
    Number(i64),
}

/// What happened at a moment.
#[derive(Clone, Debug)]
pub struct Note {
    /// When.
    pub at: SystemTime,
    /// What.
    pub name: &'static str,
    /// More of it.
    pub attributes: Vec<Attribute>,
}

/// Notes that a span keeps: an outage may bring a retry a second for days.
const MOST_NOTES: usize = 32;

impl Span {
    /// A span that begins now.
    pub(super) fn new(at: Place, parent: Option<SpanId>, kind: Kind, name: String) -> Self {
        let now = SystemTime::now();
        Self {
            at,
            parent,
            state: Box::default(),
            name,
            kind,
            began: now,
            ended: now,
            attributes: Vec::new(),
            notes: Vec::new(),
            notes_left_out: 0,
            links: Vec::new(),
            error: None,
        }
    }

    /// Adds an attribute.
    pub(super) fn set(
        &mut self,
        name: impl Into<std::borrow::Cow<'static, str>>,
        value: impl Into<Value>,
    ) {
        self.attributes.push((name.into(), value.into()));
    }

    /// Something happened now.
    pub(super) fn note(&mut self, name: &'static str, attributes: Vec<Attribute>) {
        if self.notes.len() < MOST_NOTES {
            self.notes.push(Note { at: SystemTime::now(), name, attributes });
        } else {
            self.notes_left_out = self.notes_left_out.saturating_add(1);
        }
    }
}

impl From<&'static str> for Value {
    fn from(word: &'static str) -> Self {
        Self::Word(word)
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_keeps_so_many_notes_and_counts_the_rest() {
        let at = Place { trace: [1; 16], span: [1; 8] };
        let mut span = Span::new(at, None, Kind::Producer, "publish x".to_owned());
        (0..MOST_NOTES + 3).for_each(|_| span.note("retry", Vec::new()));
        assert_eq!((span.notes.len(), span.notes_left_out), (MOST_NOTES, 3));
    }
}
