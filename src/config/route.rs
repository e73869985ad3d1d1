//! `[route.NAME]`: which messages go where.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use super::broker::{self, Broker};
use super::home::Homes;
use super::reader::{
    Field, Form, Kind, Ledger, Located, Names, Problem, Table, Text, listed, quoted,
};
use crate::message::SourceName;
use crate::route::{Capture, Fault, OrderBy, Pattern, RejectTo, Spec, Template};

/// The tables that a route may refer to.
pub(super) struct Known<'a> {
    pub(super) sources: &'a Homes<'a>,
    /// Those whose messages never have a key.
    pub(super) keyless: &'a BTreeSet<SourceName>,
    pub(super) apis: &'a Names,
    pub(super) dead_letters: &'a Names,
}

/// A route, with the places of the settings that are checked against sources.
pub(super) struct Read {
    pub(super) spec: Spec,
    /// Its `topic`.
    pub(super) topic: Option<Range<usize>>,
}

/// What a template can take from the pattern of its route.
struct Captures {
    names: Vec<Capture>,
    /// An error may name them: the pattern is in the file, and no secret.
    shown: bool,
}

const TRIES: u32 = 5;
const MOST_TRIES: u32 = 1000;

/// Reads a `[route.NAME]`.
pub(super) fn read(name: &str, mut table: Table<'_>, known: &Known<'_>) -> Option<Read> {
    let ledger = table.ledger;
    let from = table.strings("from").then(|texts| from(ledger, &texts.value, known.sources.names));
    let from = table.require("from", from, from_hint(known.sources.names));
    let separators: BTreeSet<_> = from
        .iter()
        .flat_map(|from| &from.value)
        .filter_map(|name| Some(known.sources.kinds.get(name.as_str())?.separator))
        .collect();
    let (mut named, mut shown) = (None, true);
    let asked: Vec<_> = table.texts_of("channel").flat_map(Capture::seen_in).collect();
    let topic = table.filled("topic").then(|text| {
        // One that is only `{topic..}` captures nothing else.
        let captures = || Capture::seen_in(&text.value.value);
        named = Some(if text.value.value == "{topic..}" { Vec::new() } else { captures() });
        shown = text.value.is_shown();
        let Located { value: text, span } = text;
        if separators.len() > 1 {
            let message = "`topic` can't fit sources whose topics have different levels";
            let problem = Problem::new(Kind::Impossible, Some(span), message);
            let mut of = BTreeMap::<_, Vec<_>>::new();
            for broker in broker::ALL {
                of.entry(broker.separator).or_default().push(broker.name);
            }
            let parted = |(separator, names): (char, Vec<&str>)| {
                format!("by `{separator}` in {}", names.join(", "))
            };
            let parted: Vec<_> = of.into_iter().map(parted).collect();
            let hint = format!("levels are parted {}: write a route for each", parted.join("; "));
            return ledger.refuse(problem.help(hint));
        }
        // Without a source whose kind is known there is an error elsewhere: what fits any of them is none here.
        let mut any = broker::ALL.map(|broker| broker.separator);
        // What is wrong is said of the one that it has.
        any.sort_by_key(|separator| !text.value.contains(*separator));
        let any = any.into_iter().filter(|_| separators.is_empty());
        let mut parsed = separators
            .iter()
            .copied()
            .chain(any)
            .map(|s| Pattern::parse_for(&text.value, s, &asked));
        let first = parsed.next()?;
        first
            .or_else(|fault| parsed.find_map(Result::ok).ok_or(fault))
            .map_err(|fault| report(ledger, &text, &span, fault, text.is_shown()))
            .ok()
    });
    let topic = topic.optional();
    let captures = match &topic {
        Ok(topic) => {
            Some(topic.as_ref().map(|topic| topic.value.captures().to_vec()).unwrap_or_default())
        }
        Err(_) => named,
    };
    let captures = captures.map(|names| Captures { names, shown });
    let keyless = |name: &&SourceName| known.keyless.contains(*name);
    let keyless = from.as_ref().and_then(|from| from.value.iter().find(keyless));
    let channels = table
        .strings("channel")
        .then(|texts| channels(ledger, &texts.value, captures.as_ref(), keyless));
    let channel_hint = "where its events go: `channel = \"/plant/{site}\"`";
    let channels = table.require("channel", channels, channel_hint);
    let api = api(&mut table, known.apis);
    let order = order(&mut table, captures.as_ref(), keyless);
    let strict_order = table.boolean("strict_order").or(false);
    let give_up_after = table.integer("give_up_after", 1..=MOST_TRIES).or(TRIES);
    let keeps = |name: &&SourceName| {
        known.sources.kinds.get(name.as_str()).is_some_and(|kind| kind.takes_rejects.is_none())
    };
    let keeps = from.as_ref().and_then(|from| from.value.iter().find(keeps));
    let dead_letter = dead_letter(&mut table, known.dead_letters, keeps);
    let later = ["text", "base64", "avro", "protobuf"];
    let decode = table.choice_or("decode", &[("json", ())], &later, ());
    let event = table.choice_or("event", &[("payload", ())], &["cloudevents"], ());
    table.finish();
    decode.and(event)?;
    let (topic, place) = topic.ok()?.map(|topic| (topic.value, topic.span)).unzip();
    let spec = Spec {
        name: name.into(),
        from: from?.value,
        topic,
        channels: channels?.value,
        api: api?,
        order: order?,
        strict_order: strict_order?.value,
        give_up_after: give_up_after?.value,
        dead_letter: dead_letter?,
    };
    Some(Read { spec, topic: place })
}

fn from_hint(sources: &Names) -> String {
    match sources.all() {
        [] => "the source it takes from: `from = \"plant\"`".to_owned(),
        [first, ..] => format!("the source it takes from: `from = \"{first}\"`"),
    }
}

fn from(ledger: &Ledger<'_>, texts: &[Located<Text>], sources: &Names) -> Option<Vec<SourceName>> {
    twice(ledger, "from", texts);
    let names: Vec<_> =
        texts.iter().map(|text| sources.resolve(ledger, text).map(SourceName::from)).collect();
    names.into_iter().collect()
}

fn channels(
    ledger: &Ledger<'_>,
    texts: &[Located<Text>],
    captures: Option<&Captures>,
    keyless: Option<&SourceName>,
) -> Option<Vec<Template>> {
    twice(ledger, "channel", texts);
    // With a pattern that can't be read, every name in a template would seem unknown.
    let captures = captures?;
    let parsed: Vec<_> = texts
        .iter()
        .map(|text| {
            let template = Template::channel(&text.value.value, &captures.names)
                .map_err(|fault| captures.report(ledger, text, fault))
                .ok()?;
            shares_no_segment(ledger, text, &template);
            has_its_key(ledger, text, &template, keyless).then_some(template)
        })
        .collect();
    parsed.into_iter().collect()
}

/// Warns of a channel that the values of another tenant may lead to, too.
fn shares_no_segment(ledger: &Ledger<'_>, text: &Located<Text>, template: &Template) {
    let Some(segment) = template.shared_segment() else { return };
    let written = &text.value.value[segment.clone()];
    let what = if text.value.is_shown() { quoted(written) } else { "a segment".to_owned() };
    let message =
        format!("{what} has several placeholders: other values can lead to the same channel");
    let place = ledger.inside(&text.span, &text.value, segment);
    ledger.report(Problem::new(Kind::Warning, Some(place), message).help(
        "`x-y` and `z` in `{a}-{b}` give what `x` and `y-z` give: give each placeholder a segment of its own, `{a}/{b}`",
    ));
}

fn api(table: &mut Table<'_>, apis: &Names) -> Option<Arc<str>> {
    let ledger = table.ledger;
    match table.field("api", Form::Filled, |ledger, entry| {
        apis.resolve(ledger, &ledger.string("api", entry.value)?)
    }) {
        Field::Good(name) => Some(name.value),
        Field::Bad => None,
        Field::Absent(_) => {
            // A table with a broken header may have been another one.
            if apis.all().len() > 1 && !ledger.lost_anywhere("api") {
                let names = listed(apis.all(), "and");
                let hint = format!("there are several APIs, {names}: say which");
                table.require("api", Field::<()>::absent(), hint);
            }
            apis.only()
        }
    }
}

fn order(
    table: &mut Table<'_>,
    captures: Option<&Captures>,
    keyless: Option<&SourceName>,
) -> Option<OrderBy> {
    let ledger = table.ledger;
    let order = table.filled("order_by").then(|text| {
        if text.value.value == "none" {
            return Some(OrderBy::Nothing);
        }
        let captures = captures?;
        let template = Template::free_text(&text.value.value, &captures.names)
            .map_err(|fault| captures.report(ledger, &text, fault))
            .ok()?;
        if template.is_literal() {
            ledger.report(one_key(&text, &captures.names));
        }
        let good = has_its_key(ledger, &text, &template, keyless);
        good.then_some(OrderBy::Template(template))
    });
    Some(order.or_word(OrderBy::Source, None)?.value)
}

/// The warning of an ordering key that is the same for all.
fn one_key(text: &Located<Text>, captures: &[Capture]) -> Problem {
    let Located { value: text, span } = text;
    let meant = format!("{{{}}}", text.value);
    let hint = if text.value.eq_ignore_ascii_case("none") {
        "write `\"none\"` where nothing is to be ordered".to_owned()
    } else if text.is_shown() && Template::free_text(&meant, captures).is_ok() {
        format!("write `{meant}`")
    } else {
        "write a placeholder, `{json.id}`, or `\"none\"` where nothing is to be ordered".to_owned()
    };
    let message = "every event has the same key: `order_by` has no placeholder";
    Problem::new(Kind::Warning, Some(span.clone()), message).help(hint)
}

/// Reports a template that needs a key, where a source of the route has none to give: every message of it would
/// be rejected.
fn has_its_key(
    ledger: &Ledger<'_>,
    text: &Located<Text>,
    template: &Template,
    keyless: Option<&SourceName>,
) -> bool {
    const KEY: &str = "{key}";
    let Some(source) = keyless.filter(|_| template.names_key()) else { return true };
    let at = text.value.value.find(KEY).unwrap_or_default();
    let place = ledger.inside(&text.span, &text.value, at..at + KEY.len());
    let message = format!("`{KEY}` has no value: messages of {} have no key", quoted(source));
    let problem = Problem::new(Kind::Impossible, Some(place), message);
    ledger.report(
        problem
            .help("capture a part of `topic` by a name of your own, or take a field: `{json.id}`"),
    );
    false
}

/// `keeps` is a source of the route whose broker does nothing for what can't be published.
fn dead_letter(
    table: &mut Table<'_>,
    known: &Names,
    keeps: Option<&SourceName>,
) -> Option<RejectTo> {
    let field = table.field("dead_letter", Form::Filled, |ledger, entry| {
        let text = ledger.string("dead_letter", entry.value)?;
        match text.value.value.as_str() {
            "discard" => Some(RejectTo::Discard),
            "source" => {
                let Some(keeps) = keeps else { return Some(RejectTo::Source) };
                let takes = |broker: &Broker| {
                    Some(format!("{}, with {},", broker.name, broker.takes_rejects?))
                };
                let takes: Vec<_> = broker::ALL.into_iter().filter_map(takes).collect();
                let message = format!(
                    "`dead_letter` can't be `source`: only {} takes care of what {} can't publish",
                    takes.join(" or "),
                    quoted(keeps)
                );
                let problem = Problem::new(Kind::Impossible, Some(text.span), message);
                ledger.refuse(problem.help(
                    "name a `[dead_letter.NAME]`, or write `\"discard\"` where losing rejects is meant",
                ))
            }
            _ => known.resolve(ledger, &text).map(RejectTo::DeadLetter),
        }
    });
    match field {
        Field::Good(to) => Some(to.value),
        Field::Bad => None,
        Field::Absent(_) => {
            if known.all().len() > 1 {
                let names = listed(known.all(), "and");
                let hint = format!("there are several, {names}: say which, or `\"discard\"`");
                table.require("dead_letter", Field::<()>::absent(), hint);
            }
            known.only().map(RejectTo::DeadLetter)
        }
    }
}

/// Reports texts that a list holds more than once.
fn twice(ledger: &Ledger<'_>, key: &str, texts: &[Located<Text>]) {
    let mut seen = BTreeSet::new();
    for text in texts {
        if !seen.insert(&text.value.value) {
            let message = format!("`{key}` names {} twice", text.value.shown());
            ledger.report(Problem::new(Kind::BadValue, Some(text.span.clone()), message));
        }
    }
}

impl Captures {
    /// Reports what is wrong with a template, which may list them.
    fn report(&self, ledger: &Ledger<'_>, text: &Located<Text>, fault: Fault) {
        report(ledger, &text.value, &text.span, fault, self.shown && text.value.is_shown());
    }
}

/// Reports what is wrong with `text`; only if it is `shown`, in words of it.
fn report(ledger: &Ledger<'_>, text: &Text, span: &Range<usize>, fault: Fault, shown: bool) {
    let place = ledger.inside(span, text, fault.span.clone());
    let (problem, hint) = fault.told(shown);
    let message = match &text.variable {
        Some(_) => format!("{}: {problem}", text.shown()),
        None => problem,
    };
    ledger.report(Problem::new(Kind::BadTemplate, Some(place), message).help(hint));
}
