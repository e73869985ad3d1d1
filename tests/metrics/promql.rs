//! As much of the query language as tells which metrics and labels an expression names.

use std::collections::BTreeSet;

/// A metric that an expression takes, with the labels that it chooses by.
#[derive(Debug)]
pub(super) struct Selector {
    pub(super) name: String,
    pub(super) labels: BTreeSet<String>,
}

/// Words that are no metric though nothing follows them.
const WORDS: [&str; 15] = [
    "sum",
    "count",
    "max",
    "by",
    "without",
    "on",
    "ignoring",
    "and",
    "or",
    "unless",
    "bool",
    "offset",
    "vector",
    "time",
    "group_left",
];

/// The metrics of an expression.
pub(super) fn selectors(expression: &str) -> Vec<Selector> {
    let mut found = Vec::new();
    for (word, after) in words(expression) {
        let next = after.trim_start();
        if WORDS.contains(&word) || next.starts_with('(') || is_in_labels(expression, after) {
            continue;
        }
        let labels = next.strip_prefix('{').map(matchers).unwrap_or_default();
        found.push(Selector { name: word.to_owned(), labels });
    }
    found
}

/// The labels that an expression groups by, or joins on.
pub(super) fn groupings(expression: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (word, after) in words(expression) {
        if ["by", "without", "on", "ignoring"].contains(&word)
            && let Some(inner) = after.trim_start().strip_prefix('(')
        {
            let labels = inner.split(')').next().unwrap().split(',');
            found.extend(labels.map(|label| label.trim().to_owned()));
        }
    }
    found
}

/// Each identifier outside of quotes, and what stands behind it.
fn words(expression: &str) -> Vec<(&str, &str)> {
    let (mut found, mut quoted, mut at) = (Vec::new(), false, 0);
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    while let Some(c) = expression[at..].chars().next() {
        if c == '"' && !expression[..at].ends_with('\\') {
            quoted = !quoted;
        }
        let end = expression[at..].find(|c| !is_word(c)).unwrap_or(expression.len() - at);
        if quoted || end == 0 {
            at += c.len_utf8();
            continue;
        }
        // A number, or a duration.
        if !c.is_ascii_digit() {
            found.push((&expression[at..at + end], &expression[at + end..]));
        }
        at += end;
    }
    found
}

/// Whether what is before `after` stands between braces, or in the list of a grouping.
fn is_in_labels(whole: &str, after: &str) -> bool {
    let (mut quoted, mut braces) = (false, 0);
    let before = &whole[..whole.len() - after.len()];
    for c in before.chars() {
        match c {
            '"' => quoted = !quoted,
            '{' if !quoted => braces += 1,
            '}' if !quoted => braces -= 1,
            _ => {}
        }
    }
    let Some((head, list)) = before.rsplit_once('(') else { return braces > 0 };
    let grouping = ["by", "without", "on", "ignoring"];
    let grouped = grouping.iter().any(|word| head.trim_end().ends_with(&format!(" {word}")))
        || grouping.contains(&head.trim());
    braces > 0 || (grouped && !list.contains(')'))
}

fn matchers(inner: &str) -> BTreeSet<String> {
    let mut labels = BTreeSet::new();
    let (mut quoted, mut word) = (false, String::new());
    for c in inner.chars() {
        match c {
            '"' => quoted = !quoted,
            _ if quoted => {}
            '}' => break,
            '=' | '!' => {
                if !word.is_empty() {
                    labels.insert(std::mem::take(&mut word));
                }
            }
            c if c.is_ascii_alphanumeric() || c == '_' => word.push(c),
            _ => word.clear(),
        }
    }
    labels
}

#[test]
fn metrics_and_labels_are_found() {
    let expression = "histogram_quantile(0.99, sum by (job, le) (rate(x_bucket{a=~\"b{c\", d!=\"e\"}[10m]))) > 60\n\
        and on (job, instance) sum without (topic) (y{}) * 86400 or z - time()";
    let found = selectors(expression);
    let names: Vec<_> = found.iter().map(|selector| selector.name.as_str()).collect();
    assert_eq!(names, ["x_bucket", "y", "z"]);
    assert_eq!(found[0].labels, BTreeSet::from(["a", "d"].map(str::to_owned)));
    let groups = groupings(expression);
    assert_eq!(groups, BTreeSet::from(["instance", "job", "le", "topic"].map(str::to_owned)));
}
