//! Whether sources and routes fit: each source's topics match a route, and each route's topic a source.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::config::broker::Broker;
use crate::config::reader::{Kind, Ledger, Problem, listed, quoted};
use crate::config::route;
use crate::config::source;
use crate::route::Pattern;
use crate::route::meeting;
use crate::route::wildcard::{Spelling, spelled};

/// One of the things that a source asks its broker for, and where in the file it stands.
struct Asked<'a> {
    what: meeting::Asked<'a>,
    place: &'a Range<usize>,
    broker: &'static Broker,
}

/// Reports subscriptions that no route matches, whose messages would be acknowledged and lost, and warns of
/// routes that no subscription matches.
/// `routes` are all of the file; `sources` those that could be read.
pub(super) fn check(ledger: &Ledger<'_>, sources: &[&source::Read], routes: &[route::Read]) {
    // A route with a typo in its topic matches nothing: reported once, at the source.
    let mut untaken = Vec::new();
    let all: BTreeMap<&str, Vec<Asked<'_>>> =
        sources.iter().map(|source| (source.config.name.as_str(), asked(source))).collect();
    let asked_of = |name: &str| all.get(name).map_or(&[][..], Vec::as_slice);
    for source in sources {
        let name = &source.config.name;
        let takers: Vec<_> = routes.iter().filter(|route| route.spec.from.contains(name)).collect();
        if source.unrouted_is_meant {
            continue;
        }
        if takers.is_empty() {
            untaken.push(name);
            let message = format!("no route takes from {}", quoted(name));
            let problem = Problem::new(Kind::Impossible, Some(source.table.clone()), message);
            ledger.report(
                problem.help(format!("write a route with `from = \"{name}\"`")).help(MEANT),
            );
            continue;
        }
        for asked in asked_of(name) {
            if !takers.iter().any(|route| asked.meets(route.spec.topic.as_ref())) {
                untaken.push(name);
                ledger.report(untaken_filter(ledger, asked, &takers));
            }
        }
    }
    for route in routes {
        let from: Vec<_> = route.spec.from.iter().map(|name| of_name(sources, name)).collect();
        let known: Option<Vec<_>> = from.into_iter().collect();
        let (Some(from), Some(topic), Some(place)) = (known, &route.spec.topic, &route.topic)
        else {
            continue;
        };
        let brought = route.spec.from.iter().flat_map(|name| asked_of(name));
        let brought = brought.into_iter().any(|asked| asked.meets(Some(topic)));
        if !brought && !from.iter().any(|source| untaken.contains(&&source.config.name)) {
            ledger.report(unbrought(ledger, topic, place, &from));
        }
    }
}

const MEANT: &str = "where losing what it brings is meant, write `unrouted = \"ignore\"` in the source; \
                     to keep it, `unrouted = \"dead-letter\"`";

const CASE: &str = "it differs in upper and lower case alone, which count";

fn untaken_filter(ledger: &Ledger<'_>, asked: &Asked<'_>, takers: &[&route::Read]) -> Problem {
    let message =
        format!("no route takes what {} brings", shown(ledger, asked.place, asked.what.text));
    let problem = Problem::new(Kind::Impossible, Some(asked.place.clone()), message);
    let in_lower_case = asked.what.text.to_lowercase();
    let lower = asked.what.spelled(&in_lower_case);
    let near = takers.iter().find_map(|route| {
        let topic = route.spec.topic.as_ref().filter(|topic| lower.meets(&topic.to_lowercase()))?;
        Some((topic, route.topic.clone()?))
    });
    if let Some((topic, place)) = near {
        let hint = format!("{CASE}: `topic` is {}", shown(ledger, &place, topic.text()));
        return problem.also(place, "the nearest").help(hint);
    }
    let names: Vec<_> = takers.iter().map(|route| &route.spec.name).collect();
    let names = listed(&names, "and");
    let fits = match asked.broker.spelling {
        Spelling::Name => Some(asked.what.text.to_owned()),
        _ => Pattern::spelled(asked.what.text, asked.broker.separator),
    };
    let hint = match fits.filter(|_| !asked.what.is_regex() && is_shown(ledger, asked.place)) {
        Some(fits) => format!("`topic = \"{fits}\"` in a route takes it; see that of {names}"),
        None => format!("see the `topic` of {names}"),
    };
    problem.help(hint).help(MEANT)
}

fn unbrought(
    ledger: &Ledger<'_>,
    topic: &Pattern,
    place: &Range<usize>,
    from: &[&source::Read],
) -> Problem {
    let names: Vec<_> = from.iter().map(|source| source.config.name.as_str()).collect();
    let message = format!(
        "nothing that {} takes can come from {}",
        shown(ledger, place, topic.text()),
        listed(&names, "or")
    );
    let problem = Problem::new(Kind::Warning, Some(place.clone()), message);
    let lower = topic.to_lowercase();
    let near = from
        .iter()
        .flat_map(|source| asked(source))
        .find(|asked| asked.what.spelled(&asked.what.text.to_lowercase()).meets(&lower));
    if let Some(asked) = near {
        return problem.also(asked.place.clone(), "the nearest").help(CASE);
    }
    let hint = from.iter().find_map(|source| {
        let Broker { spelling, separator, asked_by, .. } = *source.config.kind.broker();
        if spelling == Spelling::Name {
            let brought = asked(source).into_iter().find(|asked| is_shown(ledger, asked.place))?;
            return Some(format!(
                "a `{asked_by}` brings its own name: {}",
                quoted(brought.what.text)
            ));
        }
        if spelling == Spelling::Regex
            && let (name, true) = topic.prefix(separator)
        {
            return Some(format!("add `\"{name}\"` to `{asked_by}` of the source"));
        }
        let what = spelled(topic.text(), separator, spelling)?;
        Some(format!("add `'{what}'` to `{asked_by}` of the source"))
    });
    problem.maybe_help(hint.filter(|_| is_shown(ledger, place)))
}

/// A filter or a topic as an error shows it.
fn shown(ledger: &Ledger<'_>, place: &Range<usize>, text: &str) -> String {
    if is_shown(ledger, place) { quoted(text) } else { "this".to_owned() }
}

/// Not what may be a secret, nor what comes from the environment: there a table stands.
fn is_shown(ledger: &Ledger<'_>, place: &Range<usize>) -> bool {
    !ledger.hides(place) && !ledger.text[place.clone()].starts_with('{')
}

fn of_name<'a>(sources: &[&'a source::Read], name: &str) -> Option<&'a source::Read> {
    sources.iter().find(|source| source.config.name == name).copied()
}

fn asked(source: &source::Read) -> Vec<Asked<'_>> {
    let broker = source.config.kind.broker();
    let texts = source.config.kind.settings().asked();
    let asked = |(text, place)| Asked {
        what: meeting::Asked::new(text, broker.separator, broker.spelling),
        place,
        broker,
    };
    texts.into_iter().zip(&source.asked).map(asked).collect()
}

impl Asked<'_> {
    fn meets(&self, topic: Option<&Pattern>) -> bool {
        topic.is_none_or(|topic| self.what.meets(topic))
    }
}
