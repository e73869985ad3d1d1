//! Where the lines of a text begin and end.

use std::ops::Range;

/// The lines of a text, found once, so that asking for one costs no walk through the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lines {
    /// Of every line break, in order.
    breaks: Vec<usize>,
    length: usize,
}

impl Lines {
    /// Of this text.
    pub(crate) fn new(text: &str) -> Self {
        let breaks = memchr::memchr_iter(b'\n', text.as_bytes()).collect();
        Self { breaks, length: text.len() }
    }

    /// The number of the line that the byte `at` is in; the first is 0.
    pub(crate) fn number(&self, at: usize) -> usize {
        self.breaks.partition_point(|end| *end < at)
    }

    /// The bytes of a line, without its line break.
    pub(crate) fn line(&self, number: usize) -> Range<usize> {
        let start = match number.checked_sub(1) {
            Some(before) => self.breaks.get(before).map_or(self.length, |end| end + 1),
            None => 0,
        };
        start..self.breaks.get(number).copied().unwrap_or(self.length)
    }

    /// Where the line begins that the byte `at` is in.
    pub(crate) fn start(&self, at: usize) -> usize {
        self.line(self.number(at)).start
    }

    /// Where the line ends, without its line break, that the byte `at` is in.
    pub(crate) fn end(&self, at: usize) -> usize {
        self.line(self.number(at)).end
    }
}

/// The end of the line that holds the byte `at`, without its line break, for a text that changes.
pub(crate) fn line_end(text: &str, at: usize) -> usize {
    let at = at.min(text.len());
    memchr::memchr(b'\n', &text.as_bytes()[at..]).map_or(text.len(), |found| at + found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_lines() {
        let text = "ab\n\ncd";
        let lines = Lines::new(text);
        let found: Vec<_> = (0..=text.len()).map(|at| lines.line(lines.number(at))).collect();
        assert_eq!(found, [0..2, 0..2, 0..2, 3..3, 4..6, 4..6, 4..6]);
        assert_eq!((lines.start(5), lines.end(4), lines.line(9)), (4, 6, 6..6));
        assert_eq!(Lines::new("").line(0), 0..0);
    }
}
