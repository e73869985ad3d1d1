//! `subscriptions` of an MQTT source: topic filters, each with a quality of service if it has its own.

use std::collections::BTreeSet;
use std::ops::Range;

use toml::de::DeValue;

use super::overlap::FilterTree;
use crate::config::reader::{Field, Kind, Ledger, Located, Problem, Table, quoted};
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
}

/// The quality of service of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qos {
    /// 0: nothing is acknowledged.
    AtMostOnce,
    /// 1: acknowledged when settled.
    AtLeastOnce,
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

/// Begins a shared subscription; the second is EMQX's own.
const SHARED: [&str; 2] = ["$share/", "$queue/"];

/// The filters of `subscriptions`.
pub(super) fn filters(table: &mut Table<'_>) -> Field<Vec<Filter>> {
    table.field("subscriptions", |ledger, entry| {
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

/// Warns of filters that have topics in common, where the broker can't say which one brought a message.
pub(super) fn overlapping(ledger: &Ledger<'_>, filters: &[Filter]) {
    let mut earlier = FilterTree::new();
    for (number, filter) in filters.iter().enumerate() {
        if let Some(other) = earlier.meeting(&filter.text).next().map(|other| &filters[other]) {
            let (this, that) = (quoted(&filter.text), quoted(&other.text));
            let message = format!("{this} takes topics that {that} takes, too");
            let problem = Problem::new(Kind::Warning, Some(filter.span.clone()), message)
                .also(other.span.clone(), "this one")
                .help(
                    "the broker may send such a message once for each, and MQTT 3.1.1 can't tell the \
                     copies apart, so each is published: keep filters apart, or use `version = 5`",
                );
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
        let shared = SHARED.iter().any(|prefix| text.value.starts_with(prefix));
        let kind = if shared { Kind::NotInThisVersion } else { Kind::BadValue };
        let place = ledger.inside(&span, &text, within);
        return ledger.refuse(Problem::new(kind, Some(place), problem).help(hint));
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
            "one will write `share = \"GROUP\"`; until then, give each replica its own filters";
        return Err((0..shared.len(), "shared subscriptions are not in this version", hint));
    }
    if text.len() > LONGEST_STRING {
        return Err((all, "a filter is longer than 65,535 bytes", "no topic is that long"));
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

/// A quality of service.
pub(super) fn qos(table: &mut Table<'_>, key: &'static str) -> Field<Qos> {
    let ledger = table.ledger;
    table.integer(key, 0..=u32::MAX).then(|number| match number.value {
        0 => Some(Qos::AtMostOnce),
        1 => Some(Qos::AtLeastOnce),
        2 => {
            let message = "`qos = 2` is not in this version";
            let problem = Problem::new(Kind::NotInThisVersion, Some(number.span), message);
            ledger.refuse(problem.help("`qos = 1` loses nothing; a message may come twice"))
        }
        _ => ledger.refuse(Problem::new(Kind::BadValue, Some(number.span), "`qos` is 0 or 1")),
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
