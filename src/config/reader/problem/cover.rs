//! Which bytes of a file are covered before any line of it is shown.
//!
//! The file may be broken in any way, so this is no parser: it goes through the text once, from left to
//! right, follows keys into their values as far as they can be followed, and covers what it does not
//! understand. Comments are covered, too: old passwords are in them.

use std::ops::Range;

use super::harmless;
use super::lines::line_end;

/// The bytes to cover, in order, apart, and none over a line break.
pub(crate) fn spans(text: &str) -> Vec<Range<usize>> {
    let start = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
    let mut cover = Cover { text, at: start, spans: Vec::new(), table: Vec::new(), adrift: false };
    while cover.at < text.len() {
        cover.line();
    }
    cover.spans
}

struct Cover<'t> {
    text: &'t str,
    at: usize,
    spans: Vec<Range<usize>>,
    /// The keys of the last header.
    table: Vec<&'t str>,
    /// A value has not begun or not ended where it should have: the next lines may be of it.
    adrift: bool,
}

/// A key, and where it was written.
type Key<'t> = (&'t str, Range<usize>);

/// Tables and lists in one another; nothing deeper is shown.
const DEPTH: usize = 16;

impl<'t> Cover<'t> {
    fn line(&mut self) {
        self.skip(|c| matches!(c, ' ' | '\t' | '\r'));
        match self.next() {
            Some('\n') => self.at += 1,
            Some('#') => self.comment(),
            Some('[') => self.header(),
            Some(_) => self.statement(),
            None => {}
        }
    }

    fn header(&mut self) {
        let (start, end) = (self.at, self.line_end());
        let known = self.starts_a_statement();
        self.at += if self.text[start..].starts_with("[[") { 2 } else { 1 };
        let keys = self.keys();
        let closed = self.text[self.at..end].starts_with(']') && !keys.is_empty();
        if !known && (self.adrift || !closed) {
            self.table.clear();
            return self.cover_to(start + 1, end);
        }
        self.adrift = false;
        self.table.clear();
        for (key, place) in keys {
            self.key(key, place, &[]);
            self.table.push(key);
        }
        self.skip(|c| matches!(c, ']' | ' ' | '\t' | '\r'));
        self.rest(end);
    }

    fn statement(&mut self) {
        let (start, end) = (self.at, self.line_end());
        let begins = !self.adrift || self.starts_a_statement();
        let keys = self.keys();
        let equals = self.next() == Some('=');
        if !begins || keys.is_empty() || !equals {
            // What the bridge itself calls so is no secret, whatever stands behind it.
            let word = keys.first().filter(|(key, _)| begins && harmless::is_known(key));
            let from = word.map_or(start, |(_, place)| place.end);
            let nothing = |c: char| c.is_whitespace() || matches!(c, ':' | '=' | '>');
            self.adrift |= self.text[self.at..end].trim_matches(nothing).is_empty();
            return self.cover_to(from, end);
        }
        self.adrift = false;
        let mut path = self.table.clone();
        for (key, place) in keys {
            self.key(key, place, &path);
            path.push(key);
        }
        self.at += 1;
        self.value(&mut path, 0);
        self.skip(|c| matches!(c, ' ' | '\t' | '\r'));
        let end = self.line_end();
        self.rest(end);
    }

    /// What is behind a statement that is over: nothing, a comment, or something that does not belong there.
    fn rest(&mut self, end: usize) {
        match self.next() {
            Some('#') => self.comment(),
            _ => self.cover_to(self.at, end),
        }
    }

    fn comment(&mut self) {
        let end = self.line_end();
        self.cover_to(self.at + 1, end);
    }

    fn key(&mut self, key: &str, place: Range<usize>, above: &[&str]) {
        if !harmless::key(above, key) {
            self.cover(place);
        }
    }

    /// Takes `a . "b".c`; stands behind it then.
    fn keys(&mut self) -> Vec<Key<'t>> {
        let mut keys = Vec::new();
        loop {
            self.blanks();
            let start = self.at;
            let key = if let Some(quote @ ('"' | '\'')) = self.next() {
                let Some(close) = self.closing(start + 1, quote) else { break };
                self.at = close + 1;
                &self.text[start + 1..close]
            } else {
                self.skip(|c| is_key_char(c) && c != '.');
                &self.text[start..self.at]
            };
            if self.at == start {
                break;
            }
            keys.push((key, start..self.at));
            self.blanks();
            if self.next() != Some('.') {
                break;
            }
            self.at += 1;
        }
        keys
    }

    /// Takes the value of the last key of `path`; `depth` lists and tables are open around it.
    fn value(&mut self, path: &mut Vec<&'t str>, depth: usize) {
        self.skip(|c| matches!(c, ' ' | '\t' | '\r'));
        let start = self.at;
        match self.next() {
            None | Some('\n' | '#') => self.adrift = true,
            Some(quote @ ('"' | '\'')) => {
                if self.text[start..].starts_with(&String::from(quote).repeat(3)) {
                    return self.long_string(quote);
                }
                let Some(close) = self.closing(start + 1, quote) else {
                    self.adrift = true;
                    return self.cover_to(start + 1, self.line_end());
                };
                let within = start + 1..close;
                self.at = close + 1;
                self.blanks();
                let over = matches!(self.next(), None | Some('\n' | '\r' | '#' | ',' | ']' | '}'));
                if !over {
                    return self.cover_to(start + 1, self.line_end());
                }
                if !harmless::value(path, &self.text[within.clone()]) {
                    self.cover(within);
                }
            }
            Some('[') if depth < DEPTH => self.list(path, depth),
            Some('{') if depth < DEPTH => self.table(path, depth),
            Some('[' | '{') => {
                self.adrift = true;
                self.cover_to(start + 1, self.line_end());
            }
            Some(_) => self.bare(path, depth),
        }
    }

    fn bare(&mut self, path: &[&'t str], depth: usize) {
        let start = self.at;
        let inner = depth > 0;
        self.skip(|c| !(matches!(c, '\n' | '#') || (inner && matches!(c, ',' | ']' | '}'))));
        let text = self.text[start..self.at].trim_end();
        if text.is_empty() {
            // Nothing that could be a value, and nothing is got by looking at it again.
            self.at += self.next().map_or(0, char::len_utf8);
            return self.cover(start..self.at);
        }
        if !harmless::value(path, text) {
            let end = if inner { start + text.len() } else { self.line_end() };
            self.cover_to(start, end);
        }
    }

    /// Nothing in a string of several lines is shown.
    fn long_string(&mut self, quote: char) {
        let marks = String::from(quote).repeat(3);
        let start = self.at + 3;
        let mut from = start;
        while let Some(close) = self.text[from..].find(&marks).map(|found| from + found) {
            let before = &self.text.as_bytes()[start..close];
            let escapes = before.iter().rev().take_while(|b| **b == b'\\').count();
            if quote == '"' && escapes % 2 == 1 {
                from = close + 1;
                continue;
            }
            self.cover(start..close);
            self.at = close + 3;
            return self.skip(|c| c == quote);
        }
        // Never closed: the statements that follow are read as such.
        self.adrift = true;
        self.cover_to(start, line_end(self.text, start));
    }

    fn list(&mut self, path: &mut Vec<&'t str>, depth: usize) {
        self.at += 1;
        while let Some(next) = self.between(true) {
            match next {
                ']' => {
                    self.at += 1;
                    return;
                }
                ',' => self.at += 1,
                _ => self.value(path, depth + 1),
            }
        }
    }

    fn table(&mut self, path: &mut Vec<&'t str>, depth: usize) {
        self.at += 1;
        while let Some(next) = self.between(false) {
            match next {
                '}' => {
                    self.at += 1;
                    return;
                }
                ',' => self.at += 1,
                _ => {
                    let (start, outer) = (self.at, path.len());
                    let keys = self.keys();
                    if keys.is_empty() || self.next() != Some('=') {
                        self.at = start;
                        self.bare(&[], depth + 1);
                        continue;
                    }
                    for (key, place) in keys {
                        // In quotes where none are needed it may be a value that lost its key.
                        let strange = place.len() > key.len() && !harmless::is_known(key);
                        if strange && path.last() != Some(&"options") {
                            self.cover(place);
                        } else {
                            self.key(key, place, path);
                        }
                        path.push(key);
                    }
                    self.at += 1;
                    self.value(path, depth + 1);
                    path.truncate(outer);
                }
            }
        }
    }

    /// Goes on to what stands next in a list or a table; `None` where it must have ended: at the end of the
    /// file, or before a line that begins another statement.
    fn between(&mut self, list: bool) -> Option<char> {
        loop {
            match self.next()? {
                ' ' | '\t' | '\r' => self.at += 1,
                '#' => self.comment(),
                '\n' => {
                    let here = self.at;
                    self.skip(char::is_whitespace);
                    let header = self.next() == Some('[');
                    if (list || header) && self.starts_a_statement() {
                        self.at = here;
                        self.adrift = false;
                        return None;
                    }
                }
                other => return Some(other),
            }
        }
    }

    /// Whether a header of ours, or a key with a value behind it in its line, stands here.
    fn starts_a_statement(&self) -> bool {
        let rest = self.text[self.at..].trim_start_matches('[');
        let header = self.text.len() - self.at - rest.len();
        let first = &rest[..rest.find(|c| !is_key_char(c)).unwrap_or(rest.len())];
        if header > 0 {
            return header <= 2 && harmless::is_section(first.split('.').next().unwrap_or(first));
        }
        let behind = rest[first.len()..].trim_start_matches([' ', '\t']);
        let Some(value) = behind.strip_prefix('=').filter(|_| !first.is_empty()) else {
            return false;
        };
        let value = &value[..line_end(value, 0)];
        let empty = value.trim_matches([' ', '\t', '\r', '=']).is_empty();
        !empty || harmless::is_known(first.split('.').next().unwrap_or(first))
    }

    /// Where a string of one line ends that begins at `from`.
    fn closing(&self, from: usize, quote: char) -> Option<usize> {
        closing_quote(&self.text[from..], quote).map(|at| from + at)
    }

    fn next(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn blanks(&mut self) {
        self.skip(|c| matches!(c, ' ' | '\t'));
    }

    fn skip(&mut self, of: impl Fn(char) -> bool) {
        let rest = &self.text[self.at..];
        self.at += rest.find(|c| !of(c)).unwrap_or(rest.len());
    }

    fn line_end(&self) -> usize {
        line_end(self.text, self.at)
    }

    /// Covers and stands behind it.
    fn cover_to(&mut self, from: usize, end: usize) {
        self.cover(from..end);
        self.at = self.at.max(end);
    }

    fn cover(&mut self, span: Range<usize>) {
        let mut start = span.start.max(self.spans.last().map_or(0, |last| last.end));
        for line in self.text.get(start..span.end).unwrap_or_default().split_inclusive('\n') {
            let blank = line.len() - line.trim_start().len();
            let kept = line.trim().len();
            if kept > 0 {
                self.spans.push(start + blank..start + blank + kept);
            }
            start += line.len();
        }
    }
}

/// Where a string of one line ends, whose first quote stands before `text`.
pub(crate) fn closing_quote(text: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            '\n' => return None,
            c if c == quote && !escaped => return Some(at),
            c => escaped = quote == '"' && c == '\\' && !escaped,
        }
    }
    None
}

/// Whether a bare key may hold the character, or the dot between two.
pub(crate) fn is_key_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')
}
