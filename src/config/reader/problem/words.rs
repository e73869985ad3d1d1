//! What a person would type as a word, or call a field, and a machine would not make up.

use std::borrow::Cow;

/// A longer name is none.
const LONGEST: usize = 40;

/// A text without the names that stand in braces, as in patterns and templates: `/cars/{}` of `/cars/{json.carVIN}`.
pub(super) fn without_names(text: &str) -> Cow<'_, str> {
    if !text.contains('{') {
        return Cow::Borrowed(text);
    }
    let mut left = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('{') {
        left.extend([before, "{"]);
        let inner = behind.split(['{', '}']).next().unwrap_or_default();
        let closed = behind[inner.len()..].starts_with('}');
        rest = if closed && is_name(inner) { &behind[inner.len()..] } else { behind };
    }
    left.push_str(rest);
    Cow::Owned(left)
}

fn is_name(inner: &str) -> bool {
    let word = |word: &str| {
        word.chars().all(char::is_alphanumeric) && (is_word(word) || is_camel_case(word))
    };
    inner.split('.').all(|part| !looks_issued(part))
        && inner.split(['.', '|', ':', '-', '_']).all(word)
}

/// Words one behind the other, each with letters enough: `orderFulfillmentCenterId`, `carVIN`.
fn is_camel_case(word: &str) -> bool {
    let cases: Vec<_> = word.chars().map(char::is_uppercase).collect();
    let changes = cases.windows(2).filter(|pair| pair[0] != pair[1]).count();
    word.chars().all(|c| c.is_ascii_alphabetic())
        && word.len() <= LONGEST
        && changes * 3 <= word.len()
}

/// Whether letters and digits could have been typed as a word, a number, or one with the other: not a key, a
/// hash, or a piece of base64.
pub(super) fn is_word(run: &str) -> bool {
    let count = |of: fn(&char) -> bool| run.chars().filter(of).count();
    let (all, digits) = (run.chars().count(), count(char::is_ascii_digit));
    let upper = count(|c| c.is_uppercase());
    if digits == all {
        return all <= 12;
    }
    let one_case = upper == 0 || upper + digits == all;
    if all <= 8 && one_case {
        return true;
    }
    let changes = |kind: fn(char) -> bool| {
        let kinds: Vec<_> = run.chars().map(kind).collect();
        kinds.windows(2).filter(|pair| pair[0] != pair[1]).count()
    };
    let mixed = changes(|c| c.is_ascii_digit()) > 1 || digits > 6;
    all < 20 && !mixed && (one_case || upper <= all / 3)
}

/// Whether a text begins as a known kind of key does.
pub(super) fn looks_issued(text: &str) -> bool {
    const STARTS: &[&str] =
        &["da2-", "eyJ", "AKIA", "ASIA", "ghp_", "xox", "sk_", "Bearer ", "Basic "];
    STARTS.iter().any(|start| text.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_a_person_would_call_a_field() {
        for (text, left) in [
            ("/cars/{json.carVIN|lower}", "/cars/{}"),
            ("plant/{isVIP}-{deviceMACAddress}/+", "plant/{}-{}/+"),
            ("{json.orderFulfillmentCenterId}x", "{}x"),
            ("{region|default:eu}/{rest..}", "{}/{}"),
            ("/a/{carVIN", "/a/{carVIN"),
            ("/a/{b{carVIN}", "/a/{b{}"),
            ("carVIN", "carVIN"),
            // No person would call one so.
            ("{AKIAIOSFODNN7EXAMPLE}", "{AKIAIOSFODNN7EXAMPLE}"),
            ("{json.eyJhbGci}", "{json.eyJhbGci}"),
            ("{K7MDENGbPxRfiCY}", "{K7MDENGbPxRfiCY}"),
            ("{wJalrXUtnFEMIbPxRfi}", "{wJalrXUtnFEMIbPxRfi}"),
            ("{9f86d081884c7d659a2f}", "{9f86d081884c7d659a2f}"),
            ("{p@ss word}", "{p@ss word}"),
        ] {
            assert_eq!(without_names(text), left);
        }
    }
}
