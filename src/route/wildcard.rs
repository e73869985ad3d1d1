//! Wildcards of a foreign syntax: found, and translated for a hint.
//!
//! A route's `topic`, a subscription and a regular expression have wildcards of their own, and shells and web
//! frameworks have others. One in the wrong place is mere text there, which no topic has, so it is refused. What it
//! was to mean is guessed, for a hint only.

use std::borrow::Cow;
use std::ops::Range;

/// The syntax of a setting with wildcards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spelling {
    /// A route's `topic`: `plant/{site}/*/{rest..}`.
    Route,
    /// A subscription in which a wildcard is a whole level: `plant/+/#`.
    Levels(Wildcards),
    /// A name, or behind a `^` a regular expression: `^plant\.[^.]+\..+$`.
    Regex,
    /// The name of one thing, without wildcards: a queue.
    Name,
}

/// What takes a level of a topic, or several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wildcards {
    /// Any one level.
    pub one: &'static str,
    /// All remaining levels, at the end.
    pub rest: &'static str,
    /// It takes the topic above, too, which has no more levels.
    pub takes_none: bool,
    /// A topic that begins with this is taken by no wildcard in the place of the first level.
    pub hidden: Option<char>,
}

/// The probable meaning of a level.
enum Level<'t> {
    /// Itself, or a text with wildcards in it.
    Text(&'t str),
    /// Any one level, with its name if it has one.
    One(&'t str),
    /// All remaining levels.
    Rest(&'t str),
}

/// The first wildcard in `text` that a `place` does not know. Not for [`Spelling::Regex`], where nearly
/// everything means something.
pub fn foreign(text: &str, separator: char, place: Spelling) -> Option<Range<usize>> {
    if text.starts_with('^') {
        return Some(0..1);
    }
    let shared = ["$share/", "$queue/"].into_iter().find(|prefix| text.starts_with(prefix));
    if let Some(prefix) = shared {
        return Some(0..prefix.len());
    }
    levels(text, separator).find_map(|(start, level)| {
        let found = foreign_in(level, place)?;
        Some(start + found.start..start + found.end)
    })
}

/// `text`, of whatever syntax, in that of `to`; `None` where that can't be told.
pub fn spelled(text: &str, separator: char, to: Spelling) -> Option<String> {
    let text = without_regex(text)?;
    let text = ["$share/", "$queue/"].iter().find_map(|p| text.strip_prefix(p)).map_or(
        text.as_ref(),
        // Behind `$share/` stands the group.
        |rest| {
            if text.starts_with("$share/") {
                rest.split_once('/').map_or("", |s| s.1)
            } else {
                rest
            }
        },
    );
    if text.is_empty() || text.contains(char::is_control) {
        return None;
    }
    // With dots for separators, slashes are another broker's.
    let text = if separator == '.' { text.replace('/', ".") } else { text.to_owned() };
    let parted = if text.contains(separator) { separator } else { '.' };
    let all: Vec<_> = levels(&text, parted).map(|(_, level)| Level::of(level)).collect();
    if all.iter().rev().skip(1).any(|level| matches!(level, Level::Rest(_))) {
        return None;
    }
    let mut names = 0;
    let levels: Vec<_> = all.iter().map(|level| level.spelled(to, &mut names)).collect();
    let joined = || levels.join(separator.encode_utf8(&mut [0; 4]));
    match to {
        Spelling::Route => {
            Some(joined()).filter(|spelled| foreign(spelled, separator, to).is_none())
        }
        Spelling::Levels(_) => Some(joined()),
        Spelling::Regex => Some(format!("^{}$", levels.join("\\."))),
        Spelling::Name => None,
    }
}

fn foreign_in(level: &str, place: Spelling) -> Option<Range<usize>> {
    let named = |open, close| {
        level.strip_prefix(open).and_then(|rest| rest.strip_suffix(close)).is_some_and(is_name)
    };
    let own =
        |word: &str| matches!(place, Spelling::Levels(own) if [own.one, own.rest].contains(&word));
    let rest = matches!(level, ">" | "**") && !own(level);
    if rest || named(":", "") || named("<", ">") {
        return Some(0..level.len());
    }
    if level.ends_with(".>") {
        return Some(level.len() - 1..level.len());
    }
    if let Spelling::Levels(_) = place {
        let braces = level.find('{').zip(level.rfind('}')).filter(|(open, close)| open < close);
        let braces = braces.map(|(open, close)| open..close + 1);
        // What stands in a level beside a wildcard of its own is no word of another syntax.
        let foreign = |c: char| matches!(c, '+' | '#' | '*') && !own(c.encode_utf8(&mut [0; 4]));
        return braces.or_else(|| run(level, foreign));
    }
    let mut inside = false;
    let outside = |c: char| {
        // In braces stands a name, which is looked at by itself.
        inside = c == '{' || (inside && c != '}');
        !inside && (matches!(c, '+' | '#') || (c == '*' && level != "*"))
    };
    let shell = level
        .find("${")
        .map(|at| at..level[at..].find('}').map_or(level.len(), |end| at + end + 1));
    shell.or_else(|| run(level, outside))
}

/// The first characters beside one another that are `wanted`.
fn run(text: &str, mut wanted: impl FnMut(char) -> bool) -> Option<Range<usize>> {
    let start = text.find(&mut wanted)?;
    let first = text[start..].chars().next()?;
    let length = text[start..].find(|c| c != first).unwrap_or(text.len() - start);
    Some(start..start + length)
}

/// A simple regular expression with wildcards in the place of its own; `None` for one that says more.
fn without_regex(text: &str) -> Option<Cow<'_, str>> {
    let Some(regex) = text.strip_prefix('^') else { return Some(text.into()) };
    let mut plain = regex.strip_suffix('$').unwrap_or(regex).replace("\\.", "\0");
    for one in ["[^.]+", "[^.]*", "[^/]+", "[^/]*", "\\w+"] {
        plain = plain.replace(one, "+");
    }
    for many in [".*", ".+"] {
        plain = match plain.strip_suffix(many) {
            Some(rest) => rest.replace(many, "+") + "#",
            None => plain.replace(many, "+"),
        };
    }
    let plain = plain.replace('\0', ".");
    (!plain.contains(['[', ']', '(', ')', '{', '}', '|', '\\', '?', '^', '$']))
        .then_some(plain.into())
}

impl<'t> Level<'t> {
    fn of(level: &'t str) -> Self {
        match level {
            "+" | "*" => return Self::One(""),
            "#" | ">" | "**" => return Self::Rest(""),
            _ => {}
        }
        let pairs = [("{{", "}}"), ("${", "}"), ("{", "}"), ("<", ">"), (":", "")];
        let named = pairs.iter().find_map(|(open, close)| {
            level.strip_prefix(open).and_then(|rest| rest.strip_suffix(close))
        });
        match named.map(|name| (name.trim_end_matches(['.', '*']), name)) {
            Some((name, whole)) if is_name(name) && name == whole => Self::One(name),
            Some((name, _)) if is_name(name) => Self::Rest(name),
            _ => Self::Text(level),
        }
    }

    /// `names` counts those that had to be made up.
    fn spelled(&self, to: Spelling, names: &mut usize) -> String {
        match (self, to) {
            (Self::One(""), Spelling::Route) => "*".to_owned(),
            (Self::One(name), Spelling::Route | Spelling::Name) => format!("{{{name}}}"),
            (Self::Rest(""), Spelling::Route) => "{rest..}".to_owned(),
            (Self::Rest(name), Spelling::Route | Spelling::Name) => format!("{{{name}..}}"),
            (Self::One(_), Spelling::Levels(own)) => own.one.to_owned(),
            (Self::Rest(_), Spelling::Levels(own)) => own.rest.to_owned(),
            (Self::One(_), Spelling::Regex) => "[^.]+".to_owned(),
            (Self::Rest(_), Spelling::Regex) => ".+".to_owned(),
            (Self::Text(text), to) => pieces(text, to, names),
        }
    }
}

/// A level with wildcards in it.
fn pieces(level: &str, to: Spelling, names: &mut usize) -> String {
    let mut spelled = String::new();
    let mut rest = level;
    while let Some(at) = rest.find(['*', '+', '#', '>', '{', '$']) {
        let (before, wild) = rest.split_at(at);
        spelled.push_str(before);
        let braces = wild.starts_with('{') || wild.starts_with("${");
        let length = match wild.find('}').filter(|_| braces) {
            Some(close) => close + 1,
            None => wild.find(|c| !matches!(c, '*' | '+' | '#' | '>')).unwrap_or(wild.len()),
        };
        let (piece, behind) = wild.split_at(length.max(1));
        match to {
            _ if matches!(piece, "$" | "{") => spelled.push_str(piece),
            // Only whole levels.
            Spelling::Levels(own) => return own.one.to_owned(),
            Spelling::Regex => spelled.push_str("[^.]*"),
            Spelling::Route | Spelling::Name if braces => {
                spelled.push_str(piece.trim_start_matches('$'));
            }
            Spelling::Route | Spelling::Name => {
                *names += 1;
                let number = if *names == 1 { String::new() } else { names.to_string() };
                spelled.extend(["{name", &number, "}"]);
            }
        }
        rest = behind;
    }
    spelled.push_str(rest);
    spelled
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
}

/// The levels of a pattern and where each begins. What stands in braces is not parted.
pub(super) fn levels(text: &str, separator: char) -> impl Iterator<Item = (usize, &str)> {
    let mut depth = 0_usize;
    let mut start = 0;
    let parts = text.split(move |c| {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == separator && depth == 0
    });
    parts.map(move |level| {
        let at = start;
        start += level.len() + separator.len_utf8();
        (at, level)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::meeting::tests::{FILTER, SUBJECT};

    #[test]
    fn what_is_spelled_as_elsewhere_is_found_and_spelled_as_here() {
        for (text, separator, place, says) in [
            ("plant/+/telemetry", '/', 6..7, "plant/*/telemetry"),
            ("plant/#", '/', 6..7, "plant/{rest..}"),
            ("#", '/', 0..1, "{rest..}"),
            ("a/+/b/#", '/', 2..3, "a/*/b/{rest..}"),
            ("plant/>", '/', 6..7, "plant/{rest..}"),
            ("plant.>", '/', 6..7, "plant/{rest..}"),
            ("plant/**", '/', 6..8, "plant/{rest..}"),
            ("orders.>", '.', 7..8, "orders.{rest..}"),
            ("orders.#", '.', 7..8, "orders.{rest..}"),
            ("line-*/x", '/', 5..6, "line-{name}/x"),
            ("a*/b*", '/', 1..2, "a{name}/b{name2}"),
            ("a+b", '.', 1..2, "a{name}b"),
            ("^orders", '.', 0..1, "orders"),
            ("^orders\\..*$", '.', 0..1, "orders.{rest..}"),
            ("^orders\\.[^.]+$", '.', 0..1, "orders.*"),
            ("$share/g/plant/+", '/', 0..7, "plant/*"),
            ("$queue/plant/+", '/', 0..7, "plant/*"),
            ("plant/${site}/x", '/', 6..13, "plant/{site}/x"),
            ("users/:id", '/', 6..9, "users/{id}"),
            ("users/<id>/x", '/', 6..10, "users/{id}/x"),
        ] {
            assert_eq!(foreign(text, separator, Spelling::Route), Some(place), "{text}");
            let spelled = spelled(text, separator, Spelling::Route);
            assert_eq!(spelled.as_deref(), Some(says), "{text}");
            assert_eq!(foreign(says, separator, Spelling::Route), None, "{says}");
        }
        for good in ["a/*/{b}/c-{d}/{e..}", "*", "$SYS/{x..}", "a>b", "a:b/<", "50%", "{a+b}"] {
            assert_eq!(foreign(good, '/', Spelling::Route), None, "{good}");
        }
        // No spelling is made up for what no pattern can say.
        for text in ["a/#/b", "^(a|b)\\.c", "#\u{1b}"] {
            assert_eq!(spelled(text, '/', Spelling::Route), None, "{text}");
        }
    }

    #[test]
    fn filters_and_regular_expressions_have_their_own() {
        for (text, place, says) in [
            ("plant/{site}/x", 6..12, "plant/+/x"),
            ("plant/{rest..}", 6..14, "plant/#"),
            ("plant/line-{n}", 11..14, "plant/+"),
            ("plant/*/x", 6..7, "plant/+/x"),
            ("plant/a*", 7..8, "plant/+"),
            ("plant/**", 6..8, "plant/#"),
            ("plant/>", 6..7, "plant/#"),
            ("plant.>", 6..7, "plant/#"),
            ("^plant/.*", 0..1, "plant/#"),
            ("users/:id", 6..9, "users/+"),
        ] {
            assert_eq!(foreign(text, '/', FILTER), Some(place), "{text}");
            assert_eq!(spelled(text, '/', FILTER).as_deref(), Some(says), "{text}");
        }
        for good in ["plant/+/x", "#", "$SYS/#", "a{b", "/", "a//+"] {
            assert_eq!(foreign(good, '/', FILTER), None, "{good}");
        }
        for (text, place, says) in [
            ("orders.{event}", 7..14, "orders.*"),
            ("orders.{rest..}", 7..15, "orders.>"),
            ("orders.+.x", 7..8, "orders.*.x"),
            ("orders.#", 7..8, "orders.>"),
            ("orders.**", 7..9, "orders.>"),
            ("orders/+/x", 7..8, "orders.*.x"),
            ("^orders\\..*", 0..1, "orders.>"),
            ("users.:id", 6..9, "users.*"),
        ] {
            assert_eq!(foreign(text, '.', SUBJECT), Some(place), "{text}");
            assert_eq!(spelled(text, '.', SUBJECT).as_deref(), Some(says), "{text}");
        }
        for good in ["orders.*", ">", "a.*.>", "$JS.API.>", "a/b", "a>b", "a*"] {
            assert_eq!(foreign(good, '.', SUBJECT), None, "{good}");
        }
        for (text, says) in [
            ("orders.*", "^orders\\.[^.]+$"),
            ("orders.>", "^orders\\..+$"),
            ("orders/{event}", "^orders\\.[^.]+$"),
            ("orders-*", "^orders-[^.]*$"),
        ] {
            assert_eq!(spelled(text, '.', Spelling::Regex).as_deref(), Some(says), "{text}");
        }
    }
}
