//! Members of the document as words. What is missing or of another kind is left out: the bridge may be older or newer
//! than this program.

use serde_json::Value;

use crate::error_chain::printable;

/// Characters of one text.
const MOST: usize = 2_000;

/// A text, as far as it may be shown; empty if there is none.
pub(super) fn text(of: &Value, member: &str) -> String {
    of[member].as_str().map(|text| printable(text, MOST)).unwrap_or_default()
}

/// A number; 0 if there is none.
pub(super) fn number(of: &Value, member: &str) -> f64 {
    of[member].as_f64().unwrap_or(0.0)
}

/// A list; empty if there is none.
pub(super) fn list<'a>(of: &'a Value, member: &str) -> &'a [Value] {
    of[member].as_array().map_or(&[], Vec::as_slice)
}

/// The texts of a list.
pub(super) fn texts(of: &Value, member: &str) -> Vec<String> {
    list(of, member).iter().filter_map(Value::as_str).map(|text| printable(text, MOST)).collect()
}

/// The numbers of a list.
pub(super) fn numbers(of: &Value, member: &str) -> Vec<f64> {
    list(of, member).iter().map(|value| value.as_f64().unwrap_or(0.0)).collect()
}

/// Counts by word: `refused 3, too deep 1`.
pub(super) fn counts(of: &Value, member: &str) -> String {
    let count = |(word, count): (&String, &Value)| {
        let word = printable(word, 64).replace('_', " ");
        format!("{word} {}", grouped(count.as_f64().unwrap_or(0.0)))
    };
    let all: Vec<_> = of[member].as_object().into_iter().flatten().map(count).collect();
    all.join(", ")
}

/// The sum of counts by word.
pub(super) fn total(of: &Value, member: &str) -> f64 {
    of[member].as_object().into_iter().flatten().filter_map(|(_, count)| count.as_f64()).sum()
}

/// A whole number in groups of three: `1,234,567`.
pub(super) fn grouped(number: f64) -> String {
    let digits = format!("{:.0}", number.abs());
    let mut out = if number <= -0.5 { "-".to_owned() } else { String::new() };
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A rate a second: `0`, `1.5`, `1,234`.
pub(super) fn rate(number: f64) -> String {
    if number != 0.0 && number < 10.0 { format!("{number:.1}") } else { grouped(number) }
}

/// A time that passed, of seconds.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // for people
pub(super) fn lasting(seconds: f64) -> String {
    let s = seconds.max(0.0) as u64;
    let (m, h, d) = (s / 60, s / 3_600, s / 86_400);
    match (d, h, m) {
        (0, 0, 0) => format!("{s} s"),
        (0, 0, _) => format!("{m} min {} s", s % 60),
        (0, _, _) => format!("{h} h {} min", m % 60),
        _ => format!("{d} d {} h", h % 24),
    }
}

/// How long something took, of seconds: `20 ms`, `2.5 s`.
pub(super) fn took(seconds: f64) -> String {
    match seconds {
        ..1.0 => format!("{:.0} ms", seconds * 1_000.0),
        ..60.0 => format!("{seconds} s"),
        _ => lasting(seconds),
    }
}

/// The time from one member to another, of RFC 3339.
pub(super) fn between(from: &Value, to: &Value) -> Option<String> {
    let time = |value: &Value| humantime::parse_rfc3339(value.as_str()?).ok();
    let passed = time(to)?.duration_since(time(from)?).unwrap_or_default();
    Some(lasting(passed.as_secs_f64()))
}

/// In lines of so many characters at most, broken at spaces where there are any.
pub(super) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let width = width.max(8);
    let mut lines = vec![String::new()];
    let mut used = 0;
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let length = word.chars().count();
        if used > 0 && used + 1 + length > width {
            lines.push(String::new());
            used = 0;
        }
        if used > 0 {
            push(&mut lines, " ");
            used += 1;
        }
        for c in word.chars() {
            if used == width {
                lines.push(String::new());
                used = 0;
            }
            push(&mut lines, c.encode_utf8(&mut [0; 4]));
            used += 1;
        }
    }
    lines
}

fn push(lines: &mut [String], text: &str) {
    if let Some(last) = lines.last_mut() {
        last.push_str(text);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_missing_or_odd_is_left_out() {
        let of = json!({ "a": 1, "b": ["x", 2], "c": { "too_deep": 1200, "odd": "x" }, "t": "a\u{1b}[2Jb" });
        assert_eq!((text(&of, "a"), text(&of, "none")), (String::new(), String::new()));
        assert!(!text(&of, "t").contains('\u{1b}'));
        assert_eq!((number(&of, "b"), list(&of, "a").len()), (0.0, 0));
        assert_eq!((texts(&of, "b"), numbers(&of, "b")), (vec!["x".to_owned()], vec![0.0, 2.0]));
        assert_eq!((counts(&of, "c").as_str(), total(&of, "c")), ("too deep 1,200, odd 0", 1200.0));
        assert_eq!(between(&json!("x"), &json!(1)), None);
    }

    #[test]
    fn numbers_are_for_people() {
        let all = [0.0, 0.25, 9.94, 12.3, 1_234_567.0].map(rate);
        assert_eq!(all, ["0", "0.2", "9.9", "12", "1,234,567"]);
        assert_eq!(grouped(-1_000.0), "-1,000");
        let all = [-1.0, 59.9, 61.0, 3_700.0, 90_000.0].map(lasting);
        assert_eq!(all, ["0 s", "59 s", "1 min 1 s", "1 h 1 min", "1 d 1 h"]);
        let [from, to] = ["2026-01-01T00:00:00Z", "2026-01-01T00:01:05Z"].map(|t| json!(t));
        assert_eq!(between(&from, &to).as_deref(), Some("1 min 5 s"));
        assert_eq!([0.025, 2.5, 60.0].map(took), ["25 ms", "2.5 s", "1 min 0 s"]);
    }

    #[test]
    fn long_words_are_broken_and_nothing_is_lost() {
        assert_eq!(wrapped("", 10), [""]);
        assert_eq!(wrapped("one two three", 9), ["one two", "three"]);
        assert_eq!(wrapped("12345678901234567890 x", 9), ["123456789", "012345678", "90 x"]);
    }
}
