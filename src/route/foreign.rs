//! Topic patterns in another product's syntax: what is wrong with them, and what to write.

use super::wildcard::{self, Spelling, levels};
use super::{Capture, Fault};

/// The fault of a pattern in another product's syntax. `spelled` is the pattern in ours, where that can be told.
pub(super) fn foreign(
    text: &str,
    separator: char,
    asked: &[Capture],
    spelled: impl FnOnce() -> Option<String>,
) -> Option<Fault> {
    let spelled = || Some(named(&spelled()?, separator, asked));
    let Some(place) = wildcard::foreign(text, separator, Spelling::Route) else {
        let at = text.find('/').filter(|_| separator == '.')?;
        let (problem, plain) =
            ("the levels of these topics are parted by `.`", "write `.` for `/`");
        let hint = spelled().map_or(plain.to_owned(), |text| format!("write `{text}`"));
        return Some(Fault::new(at..at + 1, problem, hint).or_plain(problem, plain));
    };
    let none = "this is no wildcard of a route's `topic`";
    let (problem, plain) = match &text[place.clone()] {
        "^" => (None, "a route's `topic` is no regular expression"),
        "*" => (None, "`*` takes a whole level"),
        "$share/" => (None, "`$share/…` belongs to a subscription: topics come without it"),
        "$queue/" => (None, "`$queue/…` belongs to a subscription: topics come without it"),
        "+" => (None, "`+` is no wildcard of a route's `topic`"),
        "#" => (None, "`#` is no wildcard of a route's `topic`"),
        ">" => (None, "`>` is no wildcard of a route's `topic`"),
        other => (Some(format!("`{other}` is no wildcard of a route's `topic`")), none),
    };
    let hint = "`{name}` takes one level or a piece of one, `*` one level without a name, \
                `{rest..}` at the end all that remain";
    let write = spelled().map_or(hint.to_owned(), |text| format!("{hint}: write `{text}`"));
    let problem = problem.unwrap_or_else(|| plain.to_owned());
    Some(Fault::new(place, problem, write).or_plain(plain, hint))
}

/// `spelled` with names that are asked for, and not there, in the place of levels without one, in their order. No name is
/// there twice.
fn named(spelled: &str, separator: char, asked: &[Capture]) -> String {
    let mut there = Capture::seen_in(spelled);
    // It is made up, unless it is asked for.
    let rest = Capture { name: "rest".to_owned(), many: true };
    there.retain(|capture| *capture != rest || asked.contains(&rest));
    let mut new: Vec<&Capture> = Vec::new();
    for capture in asked.iter().filter(|capture| capture.is_of_pattern()) {
        if there.iter().chain(new.iter().copied()).all(|other| other.name != capture.name) {
            new.push(capture);
        }
    }
    let mut ones = new.iter().filter(|capture| !capture.many);
    let mut rests = new.iter().filter(|capture| capture.many);
    let mut levels: Vec<_> = levels(spelled, separator)
        .map(|(_, level)| match level {
            "*" => ones.next().map_or_else(|| level.to_owned(), ToString::to_string),
            _ => level.to_owned(),
        })
        .collect();
    if levels.pop_if(|last| *last == rest.to_string()).is_some() {
        let asked_for = Some(&rest).filter(|rest| asked.contains(rest)).or(rests.next().copied());
        levels.push(asked_for.cloned().unwrap_or_else(|| made_up(&levels)).to_string());
    }
    levels.join(separator.encode_utf8(&mut [0; 4]))
}

/// A name for all remaining levels that none of the others has.
fn made_up(others: &[String]) -> Capture {
    let taken: Vec<_> = others.iter().flat_map(|level| Capture::seen_in(level)).collect();
    let mut capture = Capture { name: "rest".to_owned(), many: true };
    for number in 2_usize.. {
        if taken.iter().all(|other| other.name != capture.name) {
            break;
        }
        capture.name = format!("rest{number}");
    }
    capture
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::route::{Capture, Pattern, Template};

    /// What is to be written in place of `text`, where templates ask for what is in `channels`.
    fn written(text: &str, separator: char, channels: &str) -> Option<String> {
        let asked = Capture::seen_in(channels);
        let hint = Pattern::parse_for(text, separator, &asked).unwrap_err().hint;
        let (_, written) = hint.rsplit_once("write `")?;
        Some(written.trim_end_matches('`').to_owned())
    }

    #[test]
    fn a_hint_has_the_names_that_templates_ask_for() {
        let channels = "/a/{site}/{json.id}/{line}/{path..}";
        for (text, separator, channels, hint) in [
            ("plant/+/telemetry", '/', channels, "plant/{site}/telemetry"),
            ("plant/+/+/#", '/', channels, "plant/{site}/{line}/{path..}"),
            ("plant/{site}/+", '/', channels, "plant/{site}/{line}"),
            ("plant.*.>", '.', channels, "plant.{site}.{path..}"),
            ("a/+/+/+", '/', channels, "a/{site}/{line}/*"),
            // A name that several channels ask for is one name.
            ("plant/+/+", '/', "/a/{site} /b/{site}", "plant/{site}/*"),
            ("plant/+/+", '/', "/a/{site} /b/{site}/{line}", "plant/{site}/{line}"),
            // So is one in two forms.
            ("plant/+/#", '/', "/a/{path} /b/{path..}", "plant/{path}/{rest..}"),
            ("plant/{path}/#", '/', "/b/{path..}", "plant/{path}/{rest..}"),
            // What is made up gives way.
            ("plant/+/#", '/', "/a/{rest}", "plant/{rest}/{rest2..}"),
            ("plant/+/#", '/', "/a/{rest..}/{other..}", "plant/*/{rest..}"),
            // Words of the templates are no names of a pattern.
            ("plant/+/#", '/', "/a/{topic..}/{key}/{header.id}", "plant/*/{rest..}"),
            ("plant/+", '/', "/a/{topic}", "plant/*"),
        ] {
            assert_eq!(written(text, separator, channels).as_deref(), Some(hint), "{channels}");
        }
    }

    proptest! {
        /// No hint leads to the next mistake.
        #[test]
        fn what_is_to_be_written_is_a_pattern(
            levels in prop::collection::vec(prop_oneof![Just("+"), Just("a"), Just("{a}"), Just("l-+")], 1..4),
            end in prop_oneof![Just("/+"), Just("/#")],
            asked in prop::collection::vec(prop_oneof![Just("a"), Just("b"), Just("rest"), Just("rest2"), Just("name"), Just("topic"), Just("key")], 0..5),
            many in prop::collection::vec(prop_oneof![Just("b.."), Just("rest.."), Just("rest2.."), Just("topic.."), Just("json.a")], 0..3),
        ) {
            let channels = asked.iter().chain(&many).map(|name| format!("{{{name}}}")).collect::<Vec<_>>().concat();
            if let Some(written) = written(&(levels.join("/") + end), '/', &channels) {
                let pattern = Pattern::parse(&written, '/');
                prop_assert!(pattern.is_ok(), "{written}: {pattern:?}");
            }
        }

        /// Where there are as many wildcards as names, templates find theirs.
        #[test]
        fn templates_find_their_names(names in prop::collection::vec("[a-c]", 1..5)) {
            let wildcards = ["+"; 4].join("/");
            for name in &names {
                let channels = names.iter().map(|name| format!("/x/{{{name}}} ")).collect::<Vec<_>>().concat();
                let written = written(&wildcards, '/', &channels).unwrap();
                let pattern = Pattern::parse(&written, '/').unwrap();
                let template = Template::channel(&format!("/x/{{{name}}}"), pattern.captures());
                prop_assert!(template.is_ok(), "{written}: {name}");
            }
        }
    }
}
