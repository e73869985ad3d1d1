//! The text of `/metrics`, read back: so that an export can't say anything else than a scrape, whatever is registered.
//! It is our own encoder's; what does not look like it is left out.

use std::borrow::Cow;

/// The samples of one name.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Family<'t> {
    /// Without what its samples add: `_total`, `_bucket`.
    pub(super) name: &'t str,
    pub(super) help: Cow<'t, str>,
    /// The word of its type; empty: none is given.
    pub(super) kind: &'t str,
    pub(super) unit: &'t str,
    pub(super) samples: Vec<Sample<'t>>,
}

/// One line.
#[derive(Debug, PartialEq)]
pub(super) struct Sample<'t> {
    pub(super) name: &'t str,
    pub(super) labels: Vec<Label<'t>>,
    pub(super) value: &'t str,
}

/// A label and its value.
pub(super) type Label<'t> = (&'t str, Cow<'t, str>);

/// The families of a text, in its order.
pub(super) fn families(text: &str) -> Vec<Family<'_>> {
    let mut all: Vec<Family<'_>> = Vec::new();
    for line in text.lines() {
        if let Some(said) = line.strip_prefix("# ") {
            let mut words = said.splitn(3, ' ');
            let (Some(word), Some(name)) = (words.next(), words.next()) else { continue };
            let rest = words.next().unwrap_or_default();
            let at = family(&mut all, |family| family == name, name);
            match word {
                "HELP" => all[at].help = unescaped(rest),
                "TYPE" => all[at].kind = rest,
                "UNIT" => all[at].unit = rest,
                _ => {}
            }
        } else if let Some(sample) = sample(line) {
            // A name may begin with another family's: only what a type adds makes it one of that.
            let of = |family: &str| {
                let added = sample.name.strip_prefix(family);
                added.is_some_and(|added| ADDED.contains(&added))
            };
            let at = family(&mut all, of, sample.name);
            all[at].samples.push(sample);
        }
    }
    all.retain(|family| !family.samples.is_empty());
    all
}

/// What a sample has behind the name of its family.
const ADDED: [&str; 6] = ["", "_total", "_bucket", "_sum", "_count", "_info"];

/// The place of the last family, if it is meant, else of a new one called `name`.
fn family<'t>(all: &mut Vec<Family<'t>>, meant: impl Fn(&str) -> bool, name: &'t str) -> usize {
    if !all.last().is_some_and(|last| meant(last.name)) {
        all.push(Family { name, ..Family::default() });
    }
    all.len() - 1
}

/// `name{label="value",…} value`; a time or an exemplar behind it is left out.
fn sample(line: &str) -> Option<Sample<'_>> {
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = Vec::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        loop {
            rest = rest.trim_start_matches(',');
            if let Some(behind) = rest.strip_prefix('}') {
                rest = behind;
                break;
            }
            let (label, behind) = rest.split_once("=\"")?;
            let end = closing(behind)?;
            labels.push((label, unescaped(&behind[..end])));
            rest = &behind[end + 1..];
        }
    }
    let value = rest.split_ascii_whitespace().next()?;
    (!name.is_empty()).then_some(Sample { name, labels, value })
}

/// Where the quote is that ends a value.
fn closing(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| match byte {
        _ if escaped => {
            escaped = false;
            false
        }
        b'\\' => {
            escaped = true;
            false
        }
        byte => byte == b'"',
    })
}

fn unescaped(text: &str) -> Cow<'_, str> {
    if !text.contains('\\') {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            '\\' => match rest.next() {
                Some('n') => out.push('\n'),
                Some(other) => out.push(other),
                None => out.push('\\'),
            },
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn families_are_told_apart_and_escapes_undone() {
        let text = "# HELP a Of \\\\ it.\n# TYPE a counter\n# UNIT a bytes\na_total{x=\"1,}\\\"\\n\",y=\"\"} 3 # {t=\"1\"} 1\n\
                    # HELP a_b Other.\n# TYPE a_b gauge\na_b 1.5 12345\n# TYPE none counter\nalone{} NaN\n# EOF\n";
        let found = families(text);
        let names: Vec<_> = found.iter().map(|family| (family.name, family.kind)).collect();
        assert_eq!(names, [("a", "counter"), ("a_b", "gauge"), ("alone", "")]);
        assert_eq!((&*found[0].help, found[0].unit), ("Of \\ it.", "bytes"));
        let sample = &found[0].samples[0];
        assert_eq!((sample.name, sample.value), ("a_total", "3"));
        assert_eq!(sample.labels, [("x", "1,}\"\n".into()), ("y", "".into())]);
        assert_eq!((found[1].samples[0].value, found[2].samples[0].value), ("1.5", "NaN"));
        for broken in ["a{", "a{x=\"1", "a{x=\"1\\\"} 1", "a{x} 1", "a", "", "{} 1", "a{} ", "#"] {
            assert_eq!(families(broken), [], "{broken}");
        }
    }

    /// Every line of what the bridge says becomes a sample, and no family is torn in two.
    #[test]
    fn the_text_of_the_bridge_is_read_whole() {
        let metrics = Metrics::new();
        metrics.source("plant");
        metrics.api("main", ["ok"], ["throttled"]).seconds.observe(0.01);
        metrics.route("telemetry\"\\", ["invalid_json"]);
        let text = metrics.encode();
        let found = families(&text);
        let lines = text.lines().filter(|line| !line.starts_with('#')).count();
        assert_eq!(found.iter().map(|family| family.samples.len()).sum::<usize>(), lines);
        assert_eq!(found.len(), text.matches("# TYPE ").count());
        assert!(found.iter().all(|family| !family.kind.is_empty() && !family.help.is_empty()));
    }
}
