//! `subscriptions` of an MQTT source: topic filters, each with a quality of service if it has its own.

use std::collections::BTreeSet;
use std::ops::Range;

use toml::de::DeValue;

use super::overlap::FilterTree;
use crate::config::reader::{Field, Form, Kind, Ledger, Located, Problem, Table, quoted};
use crate::route::wildcard::{Spelling, Wildcards, foreign, spelled};

/// Parts the levels of a topic.
pub(in crate::config) const SEPARATOR: char = '/';

/// How a filter is written. A wildcard in the place of the first level leaves the topics of the broker itself out (MQTT
/// 4.7.2).
pub(in crate::config) const SPELLING: Spelling =
    Spelling::Levels(Wildcards { one: "+", rest: "#", takes_none: true, hidden: Some('$') });

/// One topic filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// With `+` and `#`.
    pub filter: String,
    /// The quality of service asked for.
    pub qos: Qos,
    /// The group of clients that divide its messages, if any.
    pub share: Option<String>,
}

/// The quality of service of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Qos {
    /// 0: nothing is acknowledged.
    AtMostOnce,
    /// 1: acknowledged when settled.
    AtLeastOnce,
    /// 2: the same in two steps. The broker sends it once; we may still publish it again after a fault.
    ExactlyOnce,
}

impl Subscription {
    /// The filter as the broker is asked for it.
    pub fn spelled(&self) -> String {
        match &self.share {
            Some(group) => format!("$share/{group}/{}", self.filter),
            None => self.filter.clone(),
        }
    }
}

impl Qos {
    /// As the protocol has it.
    pub fn number(self) -> u8 {
        match self {
            Self::AtMostOnce => 0,
            Self::AtLeastOnce => 1,
            Self::ExactlyOnce => 2,
        }
    }

    /// Whether the broker keeps a message until it is acknowledged.
    pub fn is_kept(self) -> bool {
        self > Self::AtMostOnce
    }
}

/// `retained`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retained {
    /// They are taken like others.
    Take,
    /// They are not taken.
    Skip,
}

/// A filter whose `qos` is the source's unless it has its own.
pub(super) struct Filter {
    pub(super) text: String,
    pub(super) span: Range<usize>,
    pub(super) qos: Option<Qos>,
}

/// What a source subscribes to, for hints.
pub(super) const FILTERS: &str = "what to take: `subscriptions = [\"plant/+/telemetry\"]`";

/// Strings of MQTT carry their length in 16 bits.
pub const LONGEST_STRING: usize = 65_535;

/// Of the name of a group: the filters follow it in the same string.
const LONGEST_GROUP: usize = 200;
/// Why messages that several filters take may be published several times.
pub(super) const OVERLAP_V3: &str = "the broker may send such a message once for each, and MQTT 3.1.1 can't tell the \
                          copies apart, so each is published: keep filters apart, or use `version = 5`";
pub(super) const OVERLAP_SHARED: &str = "with `share` each filter is divided by itself, so that the copies of such a \
                              message may go to different replicas, and each is published: keep filters apart";

/// No filter is longer: with the name of a group it is one string of MQTT.
const LONGEST_FILTER: usize = 65_000;

/// Begins a shared subscription; the second is EMQX's own.
const SHARED: [&str; 2] = ["$share/", "$queue/"];

/// The filters of `subscriptions`.
pub(super) fn filters(table: &mut Table<'_>) -> Field<Vec<Filter>> {
    table.field("subscriptions", Form::TextsOrTables, |ledger, entry| {
        let DeValue::Array(array) = entry.value.get_ref() else {
            return filter(ledger, entry.value).map(|filter| vec![filter]);
        };
        if array.is_empty() {
            let message = "`subscriptions` is an empty list";
            let problem = Problem::new(Kind::BadValue, Some(entry.value.span()), message);
            return ledger.refuse(problem.help(FILTERS));
        }
        let all: Vec<_> = array.iter().map(|item| filter(ledger, item)).collect();
        let mut seen = BTreeSet::new();
        for filter in all.iter().flatten() {
            if !seen.insert(&filter.text) {
                let message =
                    format!("{} is subscribed to twice", ledger.quoted(&filter.span, &filter.text));
                ledger.report(Problem::new(Kind::BadValue, Some(filter.span.clone()), message));
            }
        }
        all.into_iter().collect()
    })
}

/// Warns of filters that have topics in common, where `hint` says why a message may be published once for each.
pub(super) fn overlapping(ledger: &Ledger<'_>, filters: &[Filter], hint: &str) {
    let mut earlier = FilterTree::new();
    for (number, filter) in filters.iter().enumerate() {
        if let Some(other) = earlier.meeting(&filter.text).next().map(|other| &filters[other]) {
            let (this, that) = (quoted(&filter.text), quoted(&other.text));
            let message = format!("{this} takes topics that {that} takes, too");
            let problem = Problem::new(Kind::Warning, Some(filter.span.clone()), message)
                .also(other.span.clone(), "this one")
                .help(hint);
            ledger.report(problem);
        }
        earlier.insert(&filter.text, number);
    }
}

fn filter<'a>(ledger: &'a Ledger<'a>, value: &'a toml::Spanned<DeValue<'a>>) -> Option<Filter> {
    let (text, qos) = match value.get_ref() {
        DeValue::Table(inner) if !inner.contains_key("env") => {
            let title = "a subscription".to_owned();
            let mut table = Table::new(ledger, "subscription", title, value.span(), inner);
            let text = table.string("filter");
            let text = table.require("filter", text, "`{ filter = \"plant/#\", qos = 0 }`");
            let qos = qos(&mut table, "qos").optional();
            table.finish();
            (text?, qos.ok()?.map(|qos| qos.value))
        }
        DeValue::String(_) | DeValue::Table(_) => (ledger.string("subscriptions", value)?, None),
        other => {
            let wanted = "filters, or `{ filter, qos }`";
            return ledger.wrong_type("subscriptions", value.span(), wanted, other);
        }
    };
    let Located { value: text, span } = text;
    if let Err((within, problem, hint)) = check_filter(&text.value) {
        let place = ledger.inside(&span, &text, within);
        return ledger.refuse(Problem::new(Kind::BadValue, Some(place), problem).help(hint));
    }
    if let Some(within) = foreign(&text.value, SEPARATOR, SPELLING) {
        let word = &text.value[within.clone()];
        let message = match (word, &text.variable) {
            ("^", _) => "a subscription is no regular expression".to_owned(),
            (_, Some(_)) => format!("{} has a wildcard that is none of MQTT", text.shown()),
            (word, None) => format!("{} is no wildcard of MQTT", ledger.quoted(&span, word)),
        };
        let spelled = spelled(&text.value, SEPARATOR, SPELLING);
        let write = spelled.filter(|_| text.is_shown());
        let write = write.map_or(String::new(), |filter| format!(": write `{filter}`"));
        let hint = format!("`+` takes one level, `#` at the end all that remain{write}");
        let problem =
            Problem::new(Kind::BadValue, Some(ledger.inside(&span, &text, within)), message);
        return ledger.refuse(problem.help(hint));
    }
    Some(Filter { text: text.value, span, qos })
}

/// The grammar of MQTT 4.7: wildcards take whole levels, `#` stands last.
fn check_filter(text: &str) -> Result<(), (Range<usize>, &'static str, &'static str)> {
    let all = 0..text.len();
    if text.is_empty() {
        return Err((all, "a filter is empty", "`#` takes every topic"));
    }
    if let Some(shared) = SHARED.iter().find(|prefix| text.starts_with(*prefix)) {
        let hint =
            "write `share = \"GROUP\"` in the source, and the filter as what follows the group";
        return Err((0..shared.len(), "a group does not stand in the filter", hint));
    }
    if text.len() > LONGEST_FILTER {
        return Err((all, "a filter is longer than 65,000 bytes", "no topic is that long"));
    }
    if let Some(at) = text.find('\0') {
        return Err((at..at + 1, "a filter holds a NUL", "no topic does"));
    }
    let mut at = 0;
    let mut levels = text.split('/').peekable();
    while let Some(level) = levels.next() {
        let here = at..at + level.len();
        if level.contains(['+', '#']) && level.len() > 1 {
            return Err((
                here,
                "`+` and `#` take whole levels",
                "write them between slashes: `plant/+/x`",
            ));
        }
        if level == "#" && levels.peek().is_some() {
            return Err((
                here,
                "`#` is not at the end",
                "it takes all remaining levels; `+` takes one",
            ));
        }
        at = here.end + 1;
    }
    Ok(())
}

/// The name of a group of clients that divide the messages.
pub(super) fn group(ledger: &Ledger<'_>, share: Field<String>) -> Field<String> {
    share.then(|group| {
        let Some(bad) = group.value.chars().find(|c| ['/', '+', '#'].contains(c)) else {
            // The filters follow it in the same string.
            if group.value.len() <= LONGEST_GROUP {
                return Some(group.value);
            }
            let message = format!("`share` is longer than {LONGEST_GROUP} bytes");
            return ledger.refuse(Problem::new(Kind::BadValue, Some(group.span), message));
        };
        let message = format!("`share` holds a `{bad}`");
        let hint = "it names a group of clients: `share = \"appsync-bridge\"`; the filters stand in \
                    `subscriptions`";
        ledger.refuse(Problem::new(Kind::BadValue, Some(group.span), message).help(hint))
    })
}

/// What becomes of retained messages.
pub(super) fn retained(table: &mut Table<'_>, shared: bool) -> Option<Retained> {
    let ledger = table.ledger;
    let words = [("take", Retained::Take), ("skip", Retained::Skip)];
    let retained = table.choice_or("retained", &words, &[], Retained::Take)?;
    if let (Retained::Take, Some(span), true) = (retained.value, &retained.span, shared) {
        let message = "`retained` is `take`, but with `share` no broker sends what it has retained";
        let problem = Problem::new(Kind::Warning, Some(span.clone()), message);
        ledger.report(problem.help(
            "leave it out; one client that takes them needs a source of its own, without `share`",
        ));
    }
    Some(retained.value)
}

/// A quality of service.
pub(super) fn qos(table: &mut Table<'_>, key: &'static str) -> Field<Qos> {
    let ledger = table.ledger;
    table.integer(key, 0..=u32::MAX).then(|number| match number.value {
        0 => Some(Qos::AtMostOnce),
        1 => Some(Qos::AtLeastOnce),
        2 => Some(Qos::ExactlyOnce),
        _ => ledger.refuse(Problem::new(Kind::BadValue, Some(number.span), "`qos` is 0, 1 or 2")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_follow_the_grammar() {
        for good in ["a", "#", "+", "a/+/b", "a/#", "/", "/a", "a//b", "$SYS/#", "+/+"] {
            assert!(check_filter(good).is_ok(), "{good}");
        }
        let cases = [
            ("", 0..0),
            ("a+/b", 0..2),
            ("a/b#", 2..4),
            ("a/#/b", 2..3),
            ("##", 0..2),
            ("$share/g/a", 0..7),
            ("$queue/a", 0..7),
            ("a\0", 1..2),
        ];
        for (bad, place) in cases {
            assert_eq!(check_filter(bad).unwrap_err().0, place, "{bad}");
        }
    }
}
