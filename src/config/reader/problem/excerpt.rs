//! The few lines of a file that a problem is shown in, whatever the file is like: a place may be thousands of
//! lines away from another that belongs to it, and a line may have millions of characters.

use std::ops::Range;

use annotate_snippets::{Annotation, AnnotationKind, Snippet};

use super::lines::Lines;
use super::mask::COVER;

/// Lines of a text, cut to a readable length, and their marks.
pub(crate) struct Excerpt<'t> {
    text: String,
    /// The number of its first line, from 0.
    first: usize,
    windows: Vec<Window>,
    marks: Vec<(AnnotationKind, Range<usize>, Option<&'t str>)>,
}

/// The shown part of a line.
struct Window {
    /// In the whole text.
    shown: Range<usize>,
    /// The end of the line there.
    end: usize,
    /// Where it begins in the excerpt.
    here: usize,
}

/// A place, and its label.
type Mark<'t> = (Range<usize>, Option<&'t str>);

/// Places that are further apart are shown apart.
const LINES: usize = 40;
/// How much of a line is shown before and behind a mark, in bytes.
const BESIDE: usize = 200;

impl<'t> Excerpt<'t> {
    /// The lines around a place and around those of `others` that are near; those that are not.
    pub(crate) fn around(
        text: &str,
        lines: &Lines,
        primary: Mark<'t>,
        others: Vec<(Range<usize>, &'t str)>,
    ) -> (Self, Vec<Self>) {
        let here = lines.number(primary.0.start);
        let near = |(at, _): &(Range<usize>, _)| lines.number(at.start).abs_diff(here) <= LINES;
        let (near, far): (Vec<_>, Vec<_>) = others.into_iter().partition(near);
        let context = |(at, label)| (AnnotationKind::Context, at, Some(label));
        let mut marks = vec![(AnnotationKind::Primary, primary.0, primary.1)];
        marks.extend(near.into_iter().map(context));
        let far = far.into_iter().map(|mark| Self::of(text, lines, vec![context(mark)]));
        (Self::of(text, lines, marks), far.collect())
    }

    fn of(
        text: &str,
        lines: &Lines,
        mut marks: Vec<(AnnotationKind, Range<usize>, Option<&'t str>)>,
    ) -> Self {
        // Of what is long, the beginning is what a person looks for.
        for (_, at, _) in &mut marks {
            let longest = lines.line(lines.number(at.start) + LINES).end;
            at.end = at.end.min(longest).max(at.start);
        }
        let first = marks.iter().map(|(_, at, _)| lines.number(at.start)).min().unwrap_or(0);
        let last = marks.iter().map(|(_, at, _)| lines.number(at.end)).max().unwrap_or(first);
        let mut excerpt = Self { text: String::new(), first, windows: Vec::new(), marks };
        for number in first..=last {
            let line = lines.line(number);
            let marked = excerpt
                .marks
                .iter()
                .map(|(_, at, _)| at.start)
                .find(|at| (line.start..=line.end).contains(at));
            excerpt.push(text, &line, marked.unwrap_or(line.start));
        }
        excerpt
    }

    /// Adds a line, or its part around the byte `at`.
    fn push(&mut self, text: &str, line: &Range<usize>, at: usize) {
        if !self.windows.is_empty() {
            self.text.push('\n');
        }
        let (start, end) = (at.saturating_sub(BESIDE).max(line.start), (at + BESIDE).min(line.end));
        let short = line.len() <= 2 * BESIDE;
        let window = if short {
            line.clone()
        } else {
            text.floor_char_boundary(start)..text.floor_char_boundary(end)
        };
        if window.start > line.start {
            self.text.push_str(COVER);
        }
        let shown = text[window.clone()].trim_end_matches('\r');
        self.windows.push(Window {
            shown: window.start..window.start + shown.len(),
            end: line.end,
            here: self.text.len(),
        });
        self.text.push_str(shown);
        if window.end < line.end {
            self.text.push_str(COVER);
        }
    }

    /// The column, from 1, in which the first place begins in here.
    pub(crate) fn column(&self) -> usize {
        let at = self.marks.first().map_or(0, |(_, at, _)| self.place(at.start));
        let line = self.text[..at].rfind('\n').map_or(0, |end| end + 1);
        self.text[line..at].chars().count() + 1
    }

    pub(crate) fn into_snippet(self) -> Snippet<'t, Annotation<'t>> {
        let place = |at: &Range<usize>| {
            let start = self.place(at.start);
            start..self.place(at.end).max(start)
        };
        let annotation = |(kind, at, label): &(AnnotationKind, Range<usize>, Option<&'t str>)| {
            kind.span(place(at)).label(*label)
        };
        let annotations: Vec<_> = self.marks.iter().map(annotation).collect();
        Snippet::source(self.text).line_start(self.first + 1).annotations(annotations)
    }

    /// Where a byte of the whole text is in here, or what is shown next to it.
    fn place(&self, at: usize) -> usize {
        let line = self.windows.partition_point(|window| window.end < at);
        self.windows
            .get(line)
            .or(self.windows.last())
            .map_or(0, |Window { shown, here, .. }| {
                here + at.clamp(shown.start, shown.end) - shown.start
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(
        text: &str,
        at: Range<usize>,
        others: Vec<(Range<usize>, &'static str)>,
    ) -> (String, usize) {
        let (excerpt, far) = Excerpt::around(text, &Lines::new(text), (at, None), others);
        assert!(excerpt.column() > 0);
        (excerpt.text, far.len())
    }

    #[test]
    fn shows_lines_from_one_place_to_the_other_if_they_are_near() {
        let text = "a\nb\nc\nd\r\n";
        assert_eq!(of(text, 2..3, vec![(6..7, "x")]), ("b\nc\nd".to_owned(), 0));
        let text = "a\n".repeat(100);
        assert_eq!(of(&text, 150..151, vec![(0..1, "x")]), ("a".to_owned(), 1));
        assert_eq!(of(&text, 0..200, vec![]).0.lines().count(), LINES + 1);
    }

    #[test]
    fn shows_what_is_around_a_place_in_a_long_line() {
        let text = "é".repeat(1000);
        let (shown, _) = of(&text, 1000..1002, vec![]);
        assert!(shown.starts_with('…') && shown.ends_with('…') && shown.len() < 500, "{shown}");
        let (shown, _) = of(&text, 0..text.len(), vec![]);
        assert!(shown.starts_with('é') && shown.len() < 500, "{shown}");
    }

    proptest::proptest! {
        #[test]
        fn every_place_can_be_shown(text in "(\\PC|\n|\r\n|é{150}){0,12}", places in proptest::collection::vec((0usize..900, 0usize..900), 1..4)) {
            let at = |at: usize| text.floor_char_boundary(at);
            let spans: Vec<_> = places.iter().map(|(a, b)| at(*a.min(b))..at(*a.max(b))).collect();
            let others = spans[1..].iter().map(|span| (span.clone(), "x")).collect();
            let (excerpt, far) = Excerpt::around(&text, &Lines::new(&text), (spans[0].clone(), None), others);
            for excerpt in far.into_iter().chain([excerpt]) {
                for (_, span, _) in &excerpt.marks {
                    proptest::prop_assert!(excerpt.text.get(excerpt.place(span.start)..excerpt.place(span.end)).is_some());
                }
            }
        }
    }
}
