//! Names in braces, as patterns and templates have them: a programmer made them up, and no machine.

use std::borrow::Cow;

use super::harmless::{is_word, looks_issued};

/// A longer one is none.
const LONGEST: usize = 40;

/// A text without the names in its braces: `/cars/{}` of `/cars/{json.carVIN}`.
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
