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
        let problem = "the levels of these topics are parted by `.`".to_owned();
        let hint = spelled().map(|text| format!("write `{text}`"));
        return Some(Fault { span: at..at + 1, problem, hint });
    };
    let problem = match &text[place.clone()] {
        "^" => "a route's `topic` is no regular expression".to_owned(),
        "*" => "`*` takes a whole level".to_owned(),
        shared @ ("$share/" | "$queue/") => {
            format!("`{shared}…` belongs to a subscription: topics come without it")
        }
        other => format!("`{other}` is no wildcard of a route's `topic`"),
    };
    let hint = "`{name}` takes one level or a piece of one, `*` one level without a name, \
                `{rest..}` at the end all that remain";
    let hint = spelled().map_or(hint.to_owned(), |text| format!("{hint}: write `{text}`"));
    Some(Fault::new(place, &problem, &hint))
}

/// `spelled` with names that are asked for, and not there, in the place of levels without one, in their order.
fn named(spelled: &str, separator: char, asked: &[Capture]) -> String {
    let form = |it: &Capture| format!("{{{}{}}}", it.name, if it.many { ".." } else { "" });
    let new = |it: &&Capture| {
        !spelled.contains(&form(it)) && Capture::check_name(&it.name, &(0..0)).is_ok()
    };
    let mut ones = asked.iter().filter(|it| !it.many).filter(new);
    let mut rests = asked.iter().filter(|it| it.many).filter(new);
    let all: Vec<_> = levels(spelled, separator)
        .map(|(_, level)| {
            let name = match level {
                "*" => ones.next(),
                "{rest..}" => rests.next(),
                _ => None,
            };
            name.map_or_else(|| level.to_owned(), form)
        })
        .collect();
    all.join(separator.encode_utf8(&mut [0; 4]))
}

#[cfg(test)]
mod tests {
    use crate::route::{Capture, Pattern};

    #[test]
    fn a_hint_has_the_names_that_templates_ask_for() {
        let capture = |name: &str, many| Capture { name: name.to_owned(), many };
        let asked = [
            capture("site", false),
            capture("json.id", false),
            capture("line", false),
            capture("path", true),
        ];
        for (text, separator, hint) in [
            ("plant/+/telemetry", '/', "`plant/{site}/telemetry`"),
            ("plant/+/+/#", '/', "`plant/{site}/{line}/{path..}`"),
            ("plant/{site}/+", '/', "`plant/{site}/{line}`"),
            ("plant.*.>", '.', "`plant.{site}.{path..}`"),
            ("a/+/+/+", '/', "`a/{site}/{line}/*`"),
        ] {
            let fault = Pattern::parse_for(text, separator, &asked).unwrap_err();
            assert!(fault.hint.as_ref().is_some_and(|it| it.ends_with(hint)), "{:?}", fault.hint);
        }
    }
}
