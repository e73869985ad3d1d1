//! A text without its secrets, the only one of which lines are shown.

use std::ops::Range;

use super::cover;

/// A text with the parts that [`cover`] names masked, and a map of places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Masked {
    text: String,
    /// The parts cut out of the original, in order and disjoint, and the places of their covers.
    cuts: Vec<(Range<usize>, usize)>,
}

/// The text in place of a covered part.
pub(crate) const COVER: &str = "…";

impl Masked {
    /// Covers all that may be a secret.
    pub(crate) fn new(text: &str) -> Self {
        let mut shown = String::with_capacity(text.len());
        let mut from = 0;
        let mut cut = |span: Range<usize>| {
            shown.push_str(&text[from..span.start]);
            let at = shown.len();
            shown.push_str(COVER);
            from = span.end;
            (span, at)
        };
        let cuts = cover::spans(text).into_iter().map(&mut cut).collect();
        shown.push_str(&text[from..]);
        Self { text: shown, cuts }
    }

    /// The text to show.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Whether something of these bytes of the original is not shown.
    pub(crate) fn hides(&self, span: &Range<usize>) -> bool {
        let first = self.cuts.partition_point(|(cut, _)| cut.end <= span.start);
        self.cuts.get(first).is_some_and(|(cut, _)| cut.start < span.end)
    }

    /// Where bytes of the original are in [`text`](Self::text).
    pub(crate) fn shift(&self, span: &Range<usize>) -> Range<usize> {
        let start = self.offset(span.start);
        start..self.offset(span.end).max(start)
    }

    fn offset(&self, at: usize) -> usize {
        let before = self.cuts.partition_point(|(cut, _)| cut.start < at);
        let shifted = match before.checked_sub(1).map(|last| &self.cuts[last]) {
            // Inside a cut there is nothing to point at but the cover's end.
            Some((cut, place)) => place + COVER.len() + at.saturating_sub(cut.end),
            None => at,
        };
        self.text.floor_char_boundary(shifted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(text: &str) -> String {
        Masked::new(text).text().to_owned()
    }

    #[test]
    fn covers_what_may_be_a_secret() {
        let cases = [
            ("password = \"hunter2\"\n", "password = \"…\"\n"),
            ("password = 'hunter2' # mine", "password = '…' # …"),
            ("password = \"hunter2\nqos = 1", "password = \"…\nqos = 1"),
            ("password = \"hunter2\nhunter3\nqos = 1", "password = \"…\n…\nqos = 1"),
            ("password = hunter2", "password = …"),
            ("password = 12345678", "password = …"),
            ("password: hunter2", "password…"),
            ("password \"hunter2\"", "password …"),
            ("password =\n  \"hunter2\"\nqos = 1", "password =\n  …\nqos = 1"),
            ("password =\nhunter2=\nqos = 1", "password =\n…\nqos = 1"),
            ("password\n= \"hunter2\"", "password\n…"),
            ("password = \"a\"hunter2\"\n", "password = \"…\n"),
            ("password = \"a\\\"hunter2\"\n", "password = \"…\"\n"),
            (
                "password = \"\"\"a\nhunter2\n\"\"\"\nqos = 1",
                "password = \"\"\"…\n…\n\"\"\"\nqos = 1",
            ),
            ("jq = '''\nhunter2'''", "jq = '''\n…'''"),
            ("password = [\n  \"hunter2\",\n]\nqos = 1", "password = [\n  \"…\",\n]\nqos = 1"),
            ("password = [\n  \"hunter2\",\nqos = 1", "password = [\n  \"…\",\nqos = 1"),
            (
                "auth = { type = \"api-key\", key = \"da2\" }",
                "auth = { type = \"api-key\", key = \"…\" }",
            ),
            ("auth = \"da2-x\"", "auth = \"…\""),
            ("auth.key = \"da2-x\"", "auth.key = \"…\""),
            ("\"pass-word\" = \"x\"", "\"pass-word\" = \"…\""),
            ("paswd = \"x\"", "paswd = \"…\""),
            (
                "password = { env = \"P\", default = \"x\" }",
                "password = { env = \"P\", default = \"…\" }",
            ),
            ("password = { hunter2 = 1 }", "password = { … = … }"),
            ("password = { \"hunter2\" }", "password = { … }"),
            ("url = \"mqtt://me:x/y@host\"", "url = \"…\""),
            ("url = \"mqtt://host\"", "url = \"mqtt://host\""),
            ("brokers = [\"a:1\", \"u:p@b:1\"]", "brokers = [\"a:1\", \"…\"]"),
            ("options = { \"ssl.key.pem\" = \"x\" }", "options = { \"ssl.key.pem\" = \"…\" }"),
            ("key_file = \"/k.pem\"", "key_file = \"/k.pem\""),
            ("keep_alive = \"30s\"", "keep_alive = \"30s\""),
            ("# password = \"hunter2\"\n", "# …\n"),
            ("[api.main] hunter2\n", "[api.main] …\n"),
            ("\u{feff}[api.main]\r\ntimeout = 1\r\n", "\u{feff}[api.main]\r\ntimeout = 1\r\n"),
        ];
        for (text, expected) in cases {
            assert_eq!(masked(text), expected);
        }
    }

    #[test]
    fn places_move_with_the_text() {
        let text = "qos = 1\npassword = \"hunter2\" # b\n";
        let masked = Masked::new(text);
        let at = |part: &str| text.find(part).map(|at| at..at + part.len()).unwrap();
        for (part, shown) in [("# b", "# …"), ("password", "password"), ("\"hunter2\"", "\"…\"")]
        {
            assert_eq!(&masked.text()[masked.shift(&at(part))], shown);
        }
        assert!(masked.hides(&at("\"hunter2\"")) && masked.hides(&at("r2")));
        assert!(!masked.hides(&at("password")) && !masked.hides(&at("qos = 1")));
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,20}(\n|=|\"|'''|\\[|\\{|password ?= ?|://|@|#){0,6}\\PC{0,20}", a in 0usize..60, b in 0usize..60) {
            let masked = Masked::new(&text);
            let span = a.min(b)..a.max(b);
            proptest::prop_assert!(masked.text().get(masked.shift(&span)).is_some());
            proptest::prop_assert_eq!(masked.text().lines().count(), text.lines().count());
            let _ = masked.hides(&span);
        }
    }
}
