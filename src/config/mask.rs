//! Takes secrets out of a text before any line of it is shown.
//!
//! Two ways lead here. The loader knows the values it read as secrets. A file that can't be parsed,
//! or a key that nobody knows, is judged by its look instead: whatever stands behind `password =`
//! or between `://` and `@` is covered. Covering too much costs nothing.

use std::ops::Range;

/// A text without its secrets, and where its parts went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Masked {
    text: String,
    /// What was cut out of the original, in order and apart.
    cuts: Vec<Range<usize>>,
}

const COVER: &str = "…";

impl Masked {
    /// Covers `secrets` and all that looks like one.
    pub(super) fn new(text: &str, secrets: &[Range<usize>]) -> Self {
        let mut hidden: Vec<_> = secrets.iter().map(|span| within_quotes(text, span)).collect();
        hidden.extend(suspects(text));
        let cuts = without_line_breaks(text, merged(hidden));
        let mut shown = String::with_capacity(text.len());
        let mut from = 0;
        for cut in &cuts {
            shown.push_str(&text[from..cut.start]);
            shown.push_str(COVER);
            from = cut.end;
        }
        shown.push_str(&text[from..]);
        Self { text: shown, cuts }
    }

    /// The text to show.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Where bytes of the original are in [`text`](Self::text).
    pub(super) fn shift(&self, span: &Range<usize>) -> Range<usize> {
        let start = self.offset(span.start);
        let end = self.offset(span.end).max(start);
        start..end
    }

    fn offset(&self, at: usize) -> usize {
        let mut shifted = at;
        for cut in self.cuts.iter().take_while(|cut| cut.start < at) {
            // Inside a cut there is nothing to point at but the cover's end.
            shifted = shifted + COVER.len() - (cut.end.min(at) - cut.start);
        }
        let mut shifted = shifted.min(self.text.len());
        while !self.text.is_char_boundary(shifted) {
            shifted -= 1;
        }
        shifted
    }
}

/// Whether a key of this name holds a secret in most programs.
pub(super) fn looks_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    let path = ["file", "path", "url"].iter().any(|end| key.ends_with(end));
    let secret = ["pass", "pwd", "secret", "token"].iter().any(|part| key.contains(part));
    !path && (secret || key.ends_with("key"))
}

/// Where a value that starts at `from` and may be broken must have ended: before the next line that
/// looks like a table's header or like a key with its value.
pub(super) fn statement_end(text: &str, from: usize) -> usize {
    let mut at = line_end(text, from);
    while at < text.len() {
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
    text.len()
}

/// The end of the line that holds the byte `at`, without its line break.
pub(super) fn line_end(text: &str, at: usize) -> usize {
    text[at.min(text.len())..].find('\n').map_or(text.len(), |found| at + found)
}

/// Whether a bare key may hold the character, or the dot between two.
pub(super) fn is_key_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')
}

fn suspects(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices(['=', ':']) {
        let before = text[..at].trim_end_matches([' ', '\t', '"', '\'']);
        let key = &before[before.trim_end_matches(is_key_char).len()..];
        let key = key.rsplit('.').next().unwrap_or(key);
        let start = at + 1 + (text[at + 1..].len() - text[at + 1..].trim_start().len());
        let line_start = text[..at].rfind('\n').map_or(0, |found| found + 1);
        let quoted = text[start..].starts_with(['"', '\'']);
        let secret = looks_secret(key)
            || (quoted && key == "auth")
            || (key == "default" && text[line_start..at].split(is_not_key).any(looks_secret));
        if secret && !text[start..].starts_with('{') {
            found.push(within_quotes(text, &(start..value_end(text, start))));
        }
    }
    for (at, _) in text.match_indices("://") {
        let rest = &text[at + 3..];
        let rest = &rest[..rest.find(['"', '\'', '\n', ' ']).unwrap_or(rest.len())];
        if let Some(user) = rest.rfind('@') {
            found.push(at + 3..at + 3 + user);
        }
    }
    found
}

fn is_not_key(c: char) -> bool {
    !is_key_char(c)
}

/// The end of a secret's value: its closing quote if all is well behind it, else as much as may
/// belong to it.
fn value_end(text: &str, start: usize) -> usize {
    let rest = &text[start..];
    for quote in ["\"\"\"", "'''", "\"", "'"] {
        let Some(inner) = rest.strip_prefix(quote) else { continue };
        let line = if quote.len() == 3 { inner } else { &inner[..line_end(inner, 0)] };
        let mut from = 0;
        while let Some(close) = line[from..].find(quote).map(|found| from + found) {
            let escapes = line[..close].bytes().rev().take_while(|b| *b == b'\\').count();
            if quote.starts_with('"') && escapes % 2 == 1 {
                from = close + 1;
                continue;
            }
            let end = close + quote.len();
            if line[end..]
                .trim_start_matches([' ', '\t', '\r'])
                .starts_with([',', '}', ']', '#', '\n'])
                || line[end..].trim().is_empty()
            {
                return start + quote.len() + end;
            }
            break;
        }
        return if quote.len() == 3 { statement_end(text, start) } else { line_end(text, start) };
    }
    if rest.starts_with('[') { statement_end(text, start) } else { line_end(text, start) }
}

/// The part of a quoted value between its quotes, so that `"…"` is what remains to be seen.
fn within_quotes(text: &str, span: &Range<usize>) -> Range<usize> {
    let value = text.get(span.clone()).unwrap_or_default();
    for quote in ["\"\"\"", "'''", "\"", "'"] {
        if value.len() >= 2 * quote.len() && value.starts_with(quote) && value.ends_with(quote) {
            return span.start + quote.len()..span.end - quote.len();
        }
        if value.starts_with(quote) {
            return span.start + quote.len()..span.end;
        }
    }
    span.clone()
}

fn merged(mut spans: Vec<Range<usize>>) -> Vec<Range<usize>> {
    spans.sort_by_key(|span| (span.start, span.end));
    let mut apart: Vec<Range<usize>> = Vec::new();
    for span in spans {
        match apart.last_mut() {
            Some(last) if span.start <= last.end => last.end = last.end.max(span.end),
            _ => apart.push(span),
        }
    }
    apart
}

/// Line breaks stay, so that the lines keep their numbers.
fn without_line_breaks(text: &str, spans: Vec<Range<usize>>) -> Vec<Range<usize>> {
    let mut parts = Vec::new();
    for span in spans {
        let mut start = span.start;
        for line in text.get(span).unwrap_or_default().split_inclusive('\n') {
            let kept = line.trim_end_matches(['\n', '\r']);
            if !kept.is_empty() {
                parts.push(start..start + kept.len());
            }
            start += line.len();
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(text: &str) -> String {
        Masked::new(text, &[]).text().to_owned()
    }

    #[test]
    fn covers_what_looks_like_a_secret() {
        let cases = [
            ("password = \"hunter2\"\n", "password = \"…\"\n"),
            ("password = 'hunter2' # mine", "password = '…' # mine"),
            ("password = \"hunter2\nurl = 1", "password = \"…\nurl = 1"),
            ("password = hunter2", "password = …"),
            ("password: hunter2", "password: …"),
            ("password = \"a\"hunter2\"\n", "password = \"…\"\n"),
            ("password = \"a\\\"hunter2\"\n", "password = \"…\"\n"),
            ("password = \"\"\"a\nhunter2\n\"\"\"\nx = 1", "password = \"\"\"…\n…\n\"\"\"\nx = 1"),
            ("password = [\n  \"hunter2\",\n]\nx = 1", "password = …\n…\n…\nx = 1"),
            (
                "auth = { type = \"api-key\", key = \"da2\" }",
                "auth = { type = \"api-key\", key = \"…\" }",
            ),
            ("auth = \"da2-x\"", "auth = \"…\""),
            ("auth.key = \"da2-x\"", "auth.key = \"…\""),
            ("\"pass-word\" = \"x\"", "\"pass-word\" = \"…\""),
            (
                "password = { env = \"P\", default = \"x\" }",
                "password = { env = \"P\", default = \"…\" }",
            ),
            ("url = \"mqtt://me:x/y@host\"", "url = \"mqtt://…@host\""),
            ("key_file = \"/k.pem\"", "key_file = \"/k.pem\""),
            ("keep_alive = \"30s\"", "keep_alive = \"30s\""),
        ];
        for (text, expected) in cases {
            assert_eq!(masked(text), expected);
        }
    }

    #[test]
    fn places_move_with_the_text() {
        let text = "a = 1\npassword = \"hunter2\" # b\n";
        let masked = Masked::new(text, &[]);
        let at = text.find("# b").unwrap();
        assert_eq!(&masked.text()[masked.shift(&(at..at + 3))], "# b");
        assert_eq!(&masked.text()[masked.shift(&(6..14))], "password");
        assert_eq!(&masked.text()[masked.shift(&(17..26))], "\"…\"");
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,20}(\n|=|\"|'''|password ?= ?|://|@){0,6}\\PC{0,20}", a in 0usize..60, b in 0usize..60) {
            let masked = Masked::new(&text, &[]);
            let shifted = masked.shift(&(a.min(b)..a.max(b)));
            proptest::prop_assert!(masked.text().get(shifted).is_some());
        }
    }
}
