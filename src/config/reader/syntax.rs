//! From text to a TOML tree, with as much of it recovered as can be.
//!
//! A bracket that is never closed, or a key without its `=`, costs the parser the rest of a file.
//! Such a statement is blanked out and the text parsed again, so that what follows is still read and
//! one mistake stays one.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

use toml::de::{DeTable, DeValue};

use super::problem::{
    COVER, Kind, Lines, Masked, Problem, closing_quote, is_key_char, line_end, quoted,
};
use super::synonyms;

/// A text that parses as far as it goes, of the same length and lines as the one it was made from.
#[derive(Debug)]
pub(crate) struct Repaired {
    text: String,
    /// What is wrong with its syntax.
    pub(crate) problems: Vec<Problem>,
    /// The bytes whose meaning is lost.
    pub(crate) broken: Vec<Range<usize>>,
}

struct Fault {
    message: String,
    span: Range<usize>,
}

/// Statements that are blanked out at most; beyond that the rest of the faults is reported as it is.
const MAX_REPAIRS: usize = 100;

/// Bytes that are parsed at most in search of them, so that a large file takes no longer than it needs.
const MAX_PARSED: usize = 16 << 20;

/// How the parser says it.
const DUPLICATE: &str = "duplicate key";

impl Fault {
    /// Whether the parser went on to the end of the file, looking for the end of a value.
    fn is_endless(&self) -> bool {
        ["unclosed array", "unclosed inline", "invalid multi-line"]
            .iter()
            .any(|start| self.message.starts_with(start))
    }
}

impl Repaired {
    /// Parses `text` and repairs what would swallow the rest.
    ///
    /// What its problems quote is taken from `masked`.
    pub(crate) fn new(text: &str, masked: &Masked) -> Self {
        let mut repaired = Self { text: text.to_owned(), problems: Vec::new(), broken: Vec::new() };
        let repairs = MAX_REPAIRS.min(MAX_PARSED / text.len().max(1));
        while repaired.broken.len() < repairs && repaired.blank_one() {}
        let faults = faults(&repaired.text);
        repaired.report(faults, masked);
        repaired
    }

    /// The tree, without what is broken.
    pub(crate) fn tree(&self) -> DeTable<'_> {
        DeTable::parse_recoverable(&self.text).0.into_inner()
    }

    /// Blanks out one broken statement; `false` if there is none.
    fn blank_one(&mut self) -> bool {
        let mut faults = faults(&self.text);
        faults.retain(|fault| fault.message != DUPLICATE);
        faults.sort_by_key(|fault| fault.span.start);
        // What is never closed comes first: other faults may lie in what it swallowed.
        let endless = faults.iter().find(|fault| fault.is_endless());
        let Some(fault) = endless.or(faults.first()) else { return false };
        let statement = statement_of(&self.tree(), fault, &self.text);
        let line = line_start(&self.text, fault.span.start);
        let (region, problem) = match statement {
            Some((key, value)) if fault.is_endless() => {
                let end = statement_end(&self.text, value.start, self.text.len());
                (line_start(&self.text, key)..end, never_closed(&self.text, &value))
            }
            Some((key, value)) => {
                let end = line_end(&self.text, value.end.max(fault.span.end));
                (line_start(&self.text, key)..end, described(&self.text, fault))
            }
            None => (line..line_end(&self.text, fault.span.end), described(&self.text, fault)),
        };
        let mut region = region;
        let broken = &self.text[region.clone()];
        let header = broken.trim_start().starts_with('[') && !broken.contains('\n');
        // The keys behind a header that can't be read must not fall to the table before.
        let dummy =
            (header && broken.len() > 2).then(|| format!("[{}]", "-".repeat(broken.len() - 2)));
        if header && dummy.is_none() {
            // `[]` leaves no room for another: they go with it.
            region.end = next_header(&self.text, region.end);
        }
        let broken = &self.text[region.clone()];
        let blank = dummy.unwrap_or_else(|| {
            broken.bytes().map(|b| if b == b'\n' { '\n' } else { ' ' }).collect()
        });
        if blank == broken {
            return false;
        }
        self.text.replace_range(region.clone(), &blank);
        self.problems.push(problem);
        self.broken.push(region);
        true
    }

    fn report(&mut self, mut faults: Vec<Fault>, masked: &Masked) {
        let text = self.text.clone();
        let lines = Lines::new(&text);
        faults.sort_by_key(|fault| fault.span.start);
        let mut declared = None;
        let mut seen = BTreeSet::new();
        let mut twice: Option<Range<usize>> = None;
        for fault in faults {
            let start = lines.start(fault.span.start);
            // What follows a first fault in a line mostly follows from it.
            if !seen.insert(start) {
                continue;
            }
            let end = lines.end(fault.span.end);
            if fault.message == DUPLICATE {
                // The keys of a table that is defined twice are not reported once more.
                if twice.as_ref().is_some_and(|table| table.contains(&fault.span.start)) {
                    continue;
                }
                if text[start..].trim_start().starts_with('[') {
                    twice = Some(end..next_header(&text, end));
                }
                // One that stands for a header that can't be read, as another does.
                if self.broken.iter().any(|broken| broken.contains(&fault.span.start)) {
                    continue;
                }
                let declared = declared.get_or_insert_with(|| Declared::of(&text));
                self.problems.push(declared.twice(&text, start..end, &fault.span, masked));
            } else {
                self.problems.push(described(&text, &fault));
                self.broken.push(start..end);
            }
        }
    }
}

fn line_start(text: &str, at: usize) -> usize {
    text[..at].rfind('\n').map_or(0, |found| found + 1)
}

fn never_closed(text: &str, value: &Range<usize>) -> Problem {
    let open = &text[value.start..];
    let (what, width) = match open.as_bytes().first() {
        Some(b'[') => ("a `[` is never closed", 1),
        Some(b'{') => ("a `{` is never closed", 1),
        _ => ("a string is never closed", 3.min(open.len())),
    };
    let end = text.ceil_char_boundary(value.start + width);
    Problem::new(Kind::Syntax, Some(value.start..end), what)
}

fn faults(text: &str) -> Vec<Fault> {
    let (_, errors) = DeTable::parse_recoverable(text);
    let faults = errors.into_iter().map(|error| {
        let span = error.span().unwrap_or(0..0);
        let start = text.floor_char_boundary(span.start);
        let end = text.ceil_char_boundary(span.end).max(start);
        Fault { message: error.message().to_owned(), span: start..end }
    });
    faults.collect()
}

/// The statement that a fault lies in: the first byte of its key, and its value.
fn statement_of(table: &DeTable<'_>, fault: &Fault, text: &str) -> Option<(usize, Range<usize>)> {
    let at = fault.span.start;
    let mut all = Vec::new();
    statements(table, &mut all);
    all.retain(|(key, _)| *key < at);
    if fault.is_endless() {
        // Where the parser gave up looking says little: the first that has no end by itself is meant.
        all.sort_unstable_by_key(|(key, _)| *key);
        let limits: Vec<_> = all.iter().skip(1).map(|(key, _)| *key).chain([text.len()]).collect();
        let open = |((_, value), limit): &(&(_, Range<usize>), &usize)| {
            !is_closed(&text[value.start..statement_end(text, value.start, **limit)])
        };
        return all.iter().zip(&limits).find(open).map(|(statement, _)| statement.clone());
    }
    all.into_iter().find(|(_, value)| value.contains(&at) || value.end == at)
}

/// Whether every bracket and every long string in a value is closed.
fn is_closed(value: &str) -> bool {
    let mut depth = 0;
    let mut rest = value;
    while let Some(next) = rest.chars().next() {
        let long = ["\"\"\"", "'''"].into_iter().find(|quote| rest.starts_with(quote));
        let taken = match next {
            '"' | '\'' => {
                let (width, close) = match long {
                    Some(quote) => (3, rest[3..].find(quote)),
                    None => (1, closing_quote(&rest[1..], next)),
                };
                match close {
                    Some(at) => width + at + width,
                    None if long.is_some() => return false,
                    None => line_end(rest, 0),
                }
            }
            '#' => line_end(rest, 0),
            '[' | '{' => {
                depth += 1;
                1
            }
            ']' | '}' => {
                depth -= 1;
                1
            }
            other => other.len_utf8(),
        };
        rest = &rest[taken.max(1).min(rest.len())..];
    }
    depth <= 0
}

/// Every key with a value, except those of inline tables.
fn statements(table: &DeTable<'_>, found: &mut Vec<(usize, Range<usize>)>) {
    for (key, value) in table {
        if value.span().start >= key.span().end {
            found.push((key.span().start, value.span()));
            continue;
        }
        match value.get_ref() {
            DeValue::Table(inner) => statements(inner, found),
            DeValue::Array(tables) => {
                let tables = tables.iter().filter_map(|table| table.get_ref().as_table());
                tables.for_each(|table| statements(table, found));
            }
            _ => {}
        }
    }
}

/// The end of the last line before the next one, behind that of `from`, that opens a table.
pub(crate) fn next_header(text: &str, from: usize) -> usize {
    let mut at = line_end(text, from);
    while at < text.len() {
        let end = line_end(text, at + 1);
        if text[at + 1..end].trim_start().starts_with('[') {
            return at;
        }
        at = end;
    }
    text.len()
}

fn described(text: &str, fault: &Fault) -> Problem {
    let line = line_start(text, fault.span.start)..line_end(text, fault.span.end);
    // What a word processor or a web page makes of blanks and quotes.
    let strange = |c: &char| {
        (synonyms::is_blank(*c) && !matches!(c, ' ' | '\t' | '\r' | '\n'))
            || matches!(c, '“' | '”' | '„' | '‘' | '’')
    };
    let hint = text[line].chars().find(strange).map(|c| {
        let only = if synonyms::is_blank(c) { "a blank" } else { "a quote" };
        format!(
            "U+{:04X} is in this line, which only looks like {only}: type it anew",
            u32::from(c)
        )
    });
    plainly(text, fault).maybe_help(hint)
}

fn plainly(text: &str, fault: &Fault) -> Problem {
    let place = Some(fault.span.clone());
    let here = text[fault.span.clone()].trim();
    let behind = &text[fault.span.end..line_end(text, fault.span.end)];
    let at_end = behind.trim().is_empty();
    let message = fault.message.as_str();
    let starts = |start: &str| message.starts_with(start);
    // Never the text itself: a secret without quotes is a common mistake.
    if (starts("string values must be quoted") || starts("invalid boolean")) && !here.is_empty() {
        return Problem::new(Kind::Syntax, place, "strings are quoted")
            .help("write `\"…\"` around it");
    }
    if starts("string values must be quoted") {
        return Problem::new(Kind::Syntax, place, "a value is missing");
    }
    if (starts("invalid basic string") || starts("invalid literal string")) && at_end {
        return Problem::new(Kind::Syntax, place, "a string is never closed");
    }
    if starts("unclosed table") || starts("unclosed array table") {
        return Problem::new(Kind::Syntax, place, "a table's header is never closed, expected `]`");
    }
    if starts("key with no value") {
        return Problem::new(Kind::Syntax, place, "expected `=` and a value");
    }
    Problem::new(Kind::Syntax, place, format!("not TOML: {message}"))
}

/// What a text declares, and where for the first time.
struct Declared<'t> {
    headers: HashMap<String, Range<usize>>,
    /// By the last header before them.
    keys: HashMap<(usize, &'t str), Range<usize>>,
    /// Where each table begins.
    tables: Vec<usize>,
}

impl<'t> Declared<'t> {
    fn of(text: &'t str) -> Self {
        let (mut headers, mut keys) = (HashMap::new(), HashMap::new());
        let mut tables = vec![0];
        let (mut table, mut at) = (0, 0);
        for line in text.split_inclusive('\n') {
            let trimmed = line.trim();
            let start = at + line.len() - line.trim_start().len();
            at += line.len();
            if trimmed.starts_with('[') {
                let header = header(trimmed);
                headers.entry(squeezed(header)).or_insert(start..start + header.len());
                table = at;
                tables.push(at);
            } else {
                let key = &trimmed[..trimmed.find(|c| c == '.' || !is_key_char(c)).unwrap_or(0)];
                keys.entry((table, key)).or_insert(start..start + key.len().max(1));
            }
        }
        Self { headers, keys, tables }
    }

    /// That what the statement in `line` declares was declared before.
    fn twice(
        &self,
        text: &str,
        line: Range<usize>,
        span: &Range<usize>,
        masked: &Masked,
    ) -> Problem {
        let statement = text[line.clone()].trim();
        let (name, place, first) = if statement.starts_with('[') {
            let header = header(statement);
            let start = line.end - text[line.clone()].trim_start().len();
            let place = start..start + header.len();
            (header, place, self.headers.get(&squeezed(header)))
        } else {
            let name = &text[span.clone()];
            let before = self.tables.partition_point(|table| *table <= line.start);
            let table = self.tables[before.saturating_sub(1)];
            (name, span.clone(), self.keys.get(&(table, name)))
        };
        let name = if masked.hides(&place) { format!("`{COVER}`") } else { quoted(name) };
        let problem =
            Problem::new(Kind::Duplicate, Some(place), format!("{name} is defined twice"))
                .label("defined again");
        match first.filter(|first| first.start < line.start) {
            Some(first) => problem.also(first.clone(), "first defined here"),
            None => problem,
        }
    }
}

/// A header without a comment behind it.
fn header(statement: &str) -> &str {
    statement.split('#').next().unwrap_or_default().trim_end()
}

/// Where a value that starts at `from` and may be broken must have ended: before the next line that
/// looks like a table's header or like a key with its value, or that begins behind `limit`.
fn statement_end(text: &str, from: usize, limit: usize) -> usize {
    let mut at = line_end(text, from);
    while at < limit {
        let end = line_end(text, at + 1);
        let line = text[at + 1..end].trim_start();
        let header = line.starts_with('[')
            && line.trim_start_matches('[').starts_with(is_key_char)
            && line.split('#').next().is_some_and(|head| head.trim_end().ends_with(']'));
        let behind_key = line.trim_start_matches(is_key_char).trim_start();
        let pair = line.starts_with(is_key_char) && behind_key.starts_with('=');
        if header || pair {
            return at;
        }
        at = end;
    }
    at.min(text.len())
}

fn squeezed(header: &str) -> String {
    header.chars().filter(|c| !c.is_whitespace() && !matches!(c, '"' | '\'')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repaired(text: &str) -> Repaired {
        Repaired::new(text, &Masked::new(text))
    }

    fn messages(text: &str) -> Vec<(String, usize)> {
        let repaired = repaired(text);
        assert_eq!(repaired.text.len(), text.len());
        let line =
            |problem: &Problem| text[..problem.place().unwrap().start].lines().count().max(1);
        let mut found: Vec<_> =
            repaired.problems.iter().map(|p| (p.message().to_owned(), line(p))).collect();
        found.sort_by_key(|(_, line)| *line);
        found
    }

    fn one(text: &str, message: &str) {
        let found: Vec<_> = messages(text).into_iter().map(|(message, _)| message).collect();
        assert_eq!(found, [message], "{text:?}");
    }

    #[test]
    fn one_mistake_stays_one() {
        one("[a]\nx = [1, 2\ny = 1\n[b]\nq = 1", "a `[` is never closed");
        one("[a]\nx = { c = [\"y\"\ny = 1\n[b]\nq = 1", "a `{` is never closed");
        one("[a]\nx = [\n  \"p\",\n  \"q\",\n[b]\nq = 1\n", "a `[` is never closed");
        one("x = \"\"\"abc\n[q]\nw=1", "a string is never closed");
        one("x = \"abc\ny = 1\n", "a string is never closed");
        one("x = abc\ny = 1\n", "strings are quoted");
        one("x = \ny = 1\n", "a value is missing");
        one("[a.b\nx = 1\n[c]\n", "a table's header is never closed, expected `]`");
        one("x : 1\n", "expected `=` and a value");
        one(
            "x = [\n  1\n  2\n]\ny = 1\n",
            "not TOML: missing comma between array elements, expected `,`",
        );
        for header in ["[a b]", "[a.]", "[[a]", "[\"a]", "[a] b", "[[a]]]"] {
            let text = format!("[q]\nx = 1\n{header}\nx = 2\n[c]\nx = 3\n");
            assert_eq!(messages(&text).len(), 1, "{text:?} {:?}", messages(&text));
            assert!(repaired(&text).tree().contains_key("c"), "{text:?}");
        }
        one("[a]\nx = 1\n[b]\n[a]\nx = 2\n", "`[a]` is defined twice");
        one("[a]\nx = 1\nx = 2\n", "`x` is defined twice");
    }

    #[test]
    fn what_is_behind_a_broken_header_falls_to_no_other_table() {
        let twice = "[api main]\nx = 1\ny = 1\n[api test]\nx = 2\n[c]\nz = 3\n";
        let broken: Vec<_> = messages(twice).into_iter().map(|(_, line)| line).collect();
        assert_eq!(broken, [1, 4], "{:?}", messages(twice));
        for header in ["[]", "[", " []"] {
            let text = format!("[q]\n{header}\nx = 1\n[c]\ny = 2\n");
            assert_eq!(messages(&text).len(), 1, "{:?}", messages(&text));
            let repaired = repaired(&text);
            let tree = repaired.tree();
            assert!(tree["q"].get_ref().get("x").is_none(), "{text:?}");
            assert!(tree["c"].get_ref().get("y").is_some(), "{text:?}");
        }
    }

    #[test]
    fn several_are_all_found_and_the_rest_is_read() {
        let text = "[a]\nx = [1\ny = 2\n[b]\nz = \"q\nw = 3\nv = [ { a = 1 ]\n";
        assert_eq!(messages(text).len(), 3);
        let repaired = repaired(text);
        let tree = repaired.tree();
        assert!(tree["a"].get_ref().get("y").is_some());
        assert!(tree["b"].get_ref().get("w").is_some());
    }

    #[test]
    fn shows_both_places_of_what_is_defined_twice() {
        let text = "[a]\nx = 1 # one\n[ a ] # two\n";
        let repaired = repaired(text);
        assert!(format!("{:?}", repaired.problems).contains("0..3"), "{repaired:?}");
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "(\\[|\\]|\\{|\\}|=|,|\"|\"\"\"|'''|\n|#|\\.| |a|b|é|1){0,40}") {
            let repaired = repaired(&text);
            let _ = repaired.tree();
        }
    }
}
