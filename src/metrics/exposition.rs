//! The order of the exposition: families by their names, and the series of each by their labels. The library
//! gives them in the order of a hash table, which differs from one process to the next.

/// `text` in OpenMetrics form, without its end, in order.
pub(super) fn in_order(text: &str) -> String {
    let mut families: Vec<_> = text.split_inclusive('\n').fold(Vec::new(), |mut families, line| {
        if line.starts_with("# HELP ") || families.is_empty() {
            families.push(Vec::new());
        }
        if let Some(family) = families.last_mut() {
            family.push(line);
        }
        families
    });
    for family in &mut families {
        // Stable: the lines of one series stay as they are, its buckets by their ends.
        family.sort_by_key(|line| (!line.starts_with('#'), labels(line)));
    }
    families.sort();
    families.concat().concat()
}

/// The labels of a line but for the end of a bucket, which is always the last.
fn labels(line: &str) -> &str {
    if line.starts_with('#') {
        return "";
    }
    let labels = line.split_once('{').and_then(|(_, rest)| rest.rsplit_once('}'));
    let labels = labels.map_or("", |(labels, _)| labels);
    match labels.rfind("le=\"") {
        Some(at) if line[..line.len() - labels.len()].contains("_bucket{") => {
            labels[..at].trim_end_matches(',')
        }
        _ => labels,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_and_series_are_sorted_and_buckets_stay() {
        let text = "# HELP b Of b.\n# TYPE b histogram\nb_sum{s=\"y\"} 1\nb_count{s=\"y\"} 1\nb_bucket{s=\"y\",le=\"2\"} 1\n\
            b_bucket{s=\"y\",le=\"10\"} 1\nb_bucket{s=\"y\",le=\"+Inf\"} 1\nb_sum{s=\"x,le=\"} 0\nb_count{s=\"x,le=\"} 0\n\
            b_bucket{s=\"x,le=\",le=\"2\"} 0\n# HELP a Of a.\n# TYPE a counter\na_total{s=\"}b\"} 1\na_total{s=\"a\"} 2\n";
        let sorted = "# HELP a Of a.\n# TYPE a counter\na_total{s=\"a\"} 2\na_total{s=\"}b\"} 1\n# HELP b Of b.\n\
            # TYPE b histogram\nb_sum{s=\"x,le=\"} 0\nb_count{s=\"x,le=\"} 0\nb_bucket{s=\"x,le=\",le=\"2\"} 0\n\
            b_sum{s=\"y\"} 1\nb_count{s=\"y\"} 1\nb_bucket{s=\"y\",le=\"2\"} 1\nb_bucket{s=\"y\",le=\"10\"} 1\n\
            b_bucket{s=\"y\",le=\"+Inf\"} 1\n";
        assert_eq!(in_order(text), sorted);
        assert_eq!(in_order(sorted), sorted);
        assert_eq!(in_order(""), "");
    }
}
