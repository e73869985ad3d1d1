//! The parts of a file whose meaning is lost, and what they seem to be about.

use std::collections::HashMap;
use std::ops::Range;

/// Bytes with broken syntax, and the words in them.
pub(crate) struct Broken<'t> {
    /// In order and apart.
    spans: Vec<Range<usize>>,
    /// Where each word of them stands, in order.
    words: HashMap<&'t str, Vec<usize>>,
}

impl<'t> Broken<'t> {
    /// These parts of a text.
    pub(crate) fn new(text: &'t str, spans: Vec<Range<usize>>) -> Self {
        let spans = merged(spans);
        let mut words = HashMap::<_, Vec<_>>::new();
        for span in &spans {
            let mut at = span.start;
            let part = text.get(span.clone()).unwrap_or_default();
            for word in part.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-')))
            {
                if !word.is_empty() {
                    words.entry(word).or_default().push(at);
                }
                // Behind the word, and behind what parts it from the next.
                at += word.len() + text[at + word.len()..].chars().next().map_or(0, char::len_utf8);
            }
        }
        Self { spans, words }
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Whether the byte `at` is in one.
    pub(crate) fn holds(&self, at: usize) -> bool {
        let span = self.spans.partition_point(|span| span.end <= at);
        self.spans.get(span).is_some_and(|span| span.contains(&at))
    }

    /// Whether one of them names `word` within `extent`.
    pub(crate) fn names(&self, word: &str, extent: &Range<usize>) -> bool {
        let Some(places) = self.words.get(word) else { return false };
        let first = places.partition_point(|at| *at < extent.start);
        places.get(first).is_some_and(|at| *at < extent.end)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_words_and_where_they_stand() {
        let text = "[api.main\né client_id x\n[b]\nclient_id = 1";
        let broken = Broken::new(text, vec![10..23, 0..9, 12..15]);
        assert!(broken.names("api", &(0..9)) && broken.names("client_id", &(10..25)));
        assert!(!broken.names("client_id", &(0..10)) && !broken.names("client", &(0..99)));
        assert!(!broken.names("b", &(0..99)));
        assert!(broken.holds(0) && broken.holds(14) && !broken.holds(9) && !broken.holds(30));
        assert!(!broken.is_empty() && Broken::new(text, vec![]).is_empty());
    }
}
