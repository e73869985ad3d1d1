//! Subjects with wildcards: how they are written, what they take, and which have subjects in common.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::config::mqtt::FilterTree;
use crate::config::reader::{Kind, Ledger, Located, Problem, Text};
use crate::route::wildcard::{Spelling, Wildcards, foreign, spelled};

/// Parts the levels of a subject.
pub(in crate::config) const SEPARATOR: char = '.';

/// How a subject is written that takes several.
pub(in crate::config) const SPELLING: Spelling =
    Spelling::Levels(Wildcards { one: "*", rest: ">", takes_none: false, hidden: None });

/// What to write.
pub(super) const HINT: &str = "what to take: `subjects = [\"orders.*\"]`";

/// Whether a subject with wildcards takes a subject, which has none.
pub fn takes(wildcards: &str, subject: &str) -> bool {
    let (mut levels, mut texts) = (wildcards.split('.'), subject.split('.'));
    loop {
        match (levels.next(), texts.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some("*"), Some(_)) => {}
            (Some(level), Some(text)) if level == text => {}
            _ => return false,
        }
    }
}

/// Whether something can be written to a subject: it has no wildcard, and is not the server's own.
pub fn is_subject(text: &str) -> bool {
    let bad = |c: char| c.is_whitespace() || c.is_control();
    !text.starts_with('$')
        && text.split('.').all(|level| !["", "*", ">"].contains(&level) && !level.contains(bad))
}

/// For each subject the earlier ones that take some of the same.
pub fn overlaps(subjects: &[String]) -> Vec<Vec<usize>> {
    let mut earlier = FilterTree::new();
    let meeting = |(number, subject): (usize, &String)| {
        let filter = as_filter(subject);
        // A filter of MQTT takes `a` by `a/#`, too.
        let met = earlier.meeting(&filter).filter(|other| meet(&subjects[*other], subject));
        let mut met: Vec<_> = met.collect();
        met.sort_unstable();
        earlier.insert(&filter, number);
        met
    };
    subjects.iter().enumerate().map(meeting).collect()
}

/// Whether some subject is taken by both.
pub fn meet(one: &str, other: &str) -> bool {
    let (mut ones, mut others) = (one.split('.'), other.split('.'));
    loop {
        match (ones.next(), others.next()) {
            (Some(">"), Some(_)) | (Some(_), Some(">")) | (None, None) => return true,
            (Some("*"), Some(_)) | (Some(_), Some("*")) => {}
            (Some(a), Some(b)) if a == b => {}
            _ => return false,
        }
    }
}

/// As a filter of MQTT that takes as much, or the subject above besides. Behind a first level that is the same for
/// all no wildcard stands where MQTT leaves out the topics of the broker.
fn as_filter(subject: &str) -> String {
    let levels = subject.split('.').map(|level| match level {
        "*" => "+".to_owned(),
        ">" => "#".to_owned(),
        text => text.replace('/', "."),
    });
    std::iter::once("-".to_owned()).chain(levels).collect::<Vec<_>>().join("/")
}

/// Reads `subjects`.
pub(super) fn read(ledger: &Ledger<'_>, texts: &[Located<Text>]) -> Option<Vec<Located<String>>> {
    let mut seen = BTreeSet::new();
    let all: Vec<_> = texts
        .iter()
        .map(|text| {
            let subject = subject(ledger, text)?;
            if seen.insert(subject.clone()) {
                return Some(Located { value: subject, span: text.span.clone() });
            }
            let message = format!("{} is subscribed to twice", text.value.shown());
            let problem = Problem::new(Kind::BadValue, Some(text.span.clone()), message);
            ledger.refuse(problem.help("once is enough"))
        })
        .collect();
    all.into_iter().collect()
}

/// Refuses subjects that take some of the same, with a `hint` that says why.
pub(super) fn apart(ledger: &Ledger<'_>, subjects: &[Located<String>], hint: &str) -> Option<()> {
    let texts: Vec<_> = subjects.iter().map(|subject| subject.value.clone()).collect();
    let mut apart = true;
    for (number, met) in overlaps(&texts).into_iter().enumerate() {
        let Some(other) = met.first() else { continue };
        let (this, that) = (&subjects[number], &subjects[*other]);
        let shown = |subject: &Located<String>| ledger.quoted(&subject.span, &subject.value);
        let message = format!("{} takes subjects that {} takes, too", shown(this), shown(that));
        let problem = Problem::new(Kind::Impossible, Some(this.span.clone()), message)
            .also(that.span.clone(), "this one")
            .help(hint);
        ledger.report(problem);
        apart = false;
    }
    apart.then_some(())
}

fn subject(ledger: &Ledger<'_>, text: &Located<Text>) -> Option<String> {
    let Located { value: text, span } = text;
    let refuse = |within, message: String, hint: &str| {
        let place = ledger.inside(span, text, within);
        ledger.refuse(Problem::new(Kind::BadValue, Some(place), message).help(hint))
    };
    if let Some(within) = foreign(&text.value, SEPARATOR, SPELLING) {
        let word = &text.value[within.clone()];
        let message = match (word, &text.variable) {
            ("^", _) => "a subject is no regular expression".to_owned(),
            (_, Some(_)) => format!("{} has a wildcard that is none of NATS", text.shown()),
            (word, None) => format!("{} is no wildcard of NATS", ledger.quoted(span, word)),
        };
        let write = spelled(&text.value, SEPARATOR, SPELLING).filter(|_| text.is_shown());
        let write = write.map_or(String::new(), |subject| format!(": write `{subject}`"));
        let hint = format!("`*` takes one level, `>` at the end all that remain{write}");
        return refuse(within, message, &hint);
    }
    match check(&text.value) {
        Ok(()) => Some(text.value.clone()),
        Err((within, problem, hint)) => refuse(within, problem.to_owned(), hint),
    }
}

/// The grammar of subjects: levels that are not empty, wildcards that are a level, `>` at the end.
fn check(text: &str) -> Result<(), (Range<usize>, &'static str, &'static str)> {
    if text.is_empty() {
        return Err((0..0, "a subject is empty", "`>` takes every subject"));
    }
    if let Some(at) = text.find(|c: char| c.is_whitespace() || c.is_control()) {
        let hint = "no subject does; several are a list: `[\"orders.*\", \"bills.*\"]`";
        return Err((at..at + 1, "a subject holds a blank", hint));
    }
    let mut at = 0;
    let mut levels = text.split('.').peekable();
    while let Some(level) = levels.next() {
        let here = at..at + level.len();
        if level.is_empty() {
            return Err((here, "a level of a subject is empty", "levels are parted by one `.`"));
        }
        if level.contains(['*', '>']) && level.len() > 1 {
            let hint = "write them between dots: `orders.*.created`";
            return Err((here, "`*` and `>` take whole levels", hint));
        }
        if level == ">" && levels.peek().is_some() {
            let hint = "it takes all remaining levels; `*` takes one";
            return Err((here, "`>` is not at the end", hint));
        }
        at = here.end + 1;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_written_to_has_no_wildcard() {
        for good in ["a", "rejects.orders", "a-b.c_d"] {
            assert!(is_subject(good), "{good}");
        }
        for bad in ["", "a.", ".a", "a..b", "a.*", ">", "a.>", "a b", "$JS.API.X", "a.\n"] {
            assert!(!is_subject(bad), "{bad:?}");
        }
    }

    #[test]
    fn subjects_follow_the_grammar() {
        for good in ["a", ">", "*", "a.*.b", "a.>", "$JS.x", "*.*", "a/b", "_INBOX.>"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for (bad, place) in [
            ("", 0..0),
            (".a", 0..0),
            ("a.", 2..2),
            ("a..b", 2..2),
            ("a b", 1..2),
            ("a*.b", 0..2),
            ("a.b>", 2..4),
            ("a.>.b", 2..3),
            ("a.>>", 2..4),
        ] {
            assert_eq!(check(bad).unwrap_err().0, place, "{bad}");
        }
    }

    #[test]
    fn those_that_take_some_of_the_same_are_found() {
        for (one, other, both) in [
            ("a.*", "a.>", true),
            ("a.*", "*.b", true),
            ("a", "a", true),
            ("a", "a.>", false),
            ("a.b", "a.*.c", false),
            ("*", "$SYS", true),
            (">", "$SYS.x", true),
            ("a/b.*", "a.>", false),
        ] {
            let subjects = [one.to_owned(), other.to_owned()];
            let expected = if both { vec![0] } else { Vec::new() };
            assert_eq!(overlaps(&subjects), [Vec::new(), expected], "{one} {other}");
        }
    }

    proptest! {
        /// Two overlap if and only if there is a subject that both take; three levels of two words tell.
        #[test]
        fn what_overlaps_has_a_subject_in_common(one in "[ab*](\\.[ab*]){0,1}(\\.>)?", other in "[ab*](\\.[ab*]){0,1}(\\.>)?") {
            let words = ["a", "b"];
            let mut all: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            for _ in 0..2 {
                let longer: Vec<_> = all.iter().flat_map(|s| words.map(|w| format!("{s}.{w}"))).collect();
                all.extend(longer);
            }
            let common = all.iter().any(|subject| takes(&one, subject) && takes(&other, subject));
            let found = overlaps(&[one, other]);
            prop_assert_eq!(!found[1].is_empty(), common);
        }
    }
}
