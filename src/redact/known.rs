//! The known secrets, and their places in a text. Pure: takes the time.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Values of fewer characters are not remembered.
const SHORTEST: usize = 8;

/// Bytes of a place by which a text is looked up.
const KEY: usize = 8;

/// So many bytes in a row from a longer value count as a piece of it.
const PIECE: usize = 2 * KEY;

/// Most places by which a repetitive value is looked up.
const MOST_ALIKE: usize = 4;

/// Expired values are forgotten after so many new ones.
const FORGET_AFTER: u32 = 64;

/// Values, and the places by which their forms are found.
#[derive(Default)]
pub(super) struct Known {
    /// Each with its end, if it has one.
    values: HashMap<Box<str>, Option<Instant>>,
    /// Every eighth place of each form, by its bytes.
    places: HashMap<[u8; KEY], Vec<Place>>,
    /// The first two bytes of all places, a bit each: a filter that skips most of a text.
    pairs: Vec<u64>,
    new: u32,
}

/// A place in a form of a value.
#[derive(Clone)]
struct Place {
    form: Arc<[u8]>,
    at: usize,
}

impl Known {
    pub(super) fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Whether there is nothing to learn of it.
    pub(super) fn knows(&self, value: &str, until: Option<Instant>) -> bool {
        let lasts = |known: &Option<Instant>| {
            known.is_none_or(|known| until.is_some_and(|until| until <= known))
        };
        value.chars().nth(SHORTEST - 1).is_none() || self.values.get(value).is_some_and(lasts)
    }

    /// Remembers a value until then; `None`: for ever.
    pub(super) fn learn(&mut self, value: &str, until: Option<Instant>, now: Instant) {
        if self.knows(value, until) {
            return;
        }
        if self.values.insert(value.into(), until).is_none() {
            self.enter(value);
            self.new += 1;
        }
        if self.new >= FORGET_AFTER {
            self.forget(now);
        }
    }

    /// Where values are in `text`, in whatever order.
    pub(super) fn find(&self, text: &[u8]) -> Vec<Range<usize>> {
        let (mut found, mut at) = (Vec::new(), 0);
        while let Some(key) = text.get(at..).and_then(<[u8]>::first_chunk::<KEY>) {
            let (word, bit) = pair(*key);
            let begins = self.pairs.get(word).is_some_and(|word| word & bit != 0);
            let places = if begins { self.places.get(key) } else { None };
            let places = places.map_or(&[][..], Vec::as_slice);
            let spans = places.iter().filter_map(|place| place.meets(text, at));
            let Some(span) = spans.reduce(|a, b| a.start.min(b.start)..a.end.max(b.end)) else {
                at += 1;
                continue;
            };
            // Another value may begin within the end of this one.
            at = (span.end + 1 - KEY).max(at + 1);
            found.push(span);
        }
        found
    }

    fn enter(&mut self, value: &str) {
        self.pairs.resize(1 << 10, 0);
        for form in forms(value) {
            let form: Arc<[u8]> = form.into();
            for at in (0..=form.len() - KEY).step_by(KEY) {
                let Some(key) = form[at..].first_chunk::<KEY>() else { break };
                let places = self.places.entry(*key).or_default();
                let alike = places.iter().rev().take_while(|p| Arc::ptr_eq(&p.form, &form));
                if alike.count() < MOST_ALIKE {
                    places.push(Place { form: Arc::clone(&form), at });
                    let (word, bit) = pair(*key);
                    self.pairs[word] |= bit;
                }
            }
        }
    }

    fn forget(&mut self, now: Instant) {
        self.new = 0;
        let before = self.values.len();
        self.values.retain(|_, until| until.is_none_or(|until| now < until));
        if self.values.len() == before {
            return;
        }
        self.places.clear();
        self.pairs.clear();
        for value in self.values.keys().cloned().collect::<Vec<_>>() {
            self.enter(&value);
        }
    }
}

impl Place {
    /// The part of the text around `at` that is this form, if that is all of it or a piece.
    fn meets(&self, text: &[u8], at: usize) -> Option<Range<usize>> {
        let same = |(a, b): &(&u8, &u8)| a == b;
        let ahead = text[at..].iter().zip(&self.form[self.at..]).take_while(same).count();
        let (text, form) = (text[..at].iter().rev(), self.form[..self.at].iter().rev());
        let back = text.zip(form).take_while(same).count();
        let length = back + ahead;
        (length == self.form.len() || length >= PIECE).then_some(at - back..at + ahead)
    }
}

/// The word of [`Known::pairs`] for the first two bytes of a key, and their bit in it.
fn pair(key: [u8; KEY]) -> (usize, u64) {
    let number = u16::from_be_bytes([key[0], key[1]]);
    (usize::from(number / 64), 1 << (number % 64))
}

/// The forms in which a value may appear, apart from escapes.
fn forms(value: &str) -> Vec<Vec<u8>> {
    // Errors are shown in one line.
    let line = value.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut forms = vec![value.to_owned(), value.replace(' ', "+"), line];
    // RFC 6749 has an id and a secret encoded before they are joined for Basic.
    let encoded: String = form_urlencoded::byte_serialize(value.as_bytes()).collect();
    for plain in [value, &encoded] {
        let mut base64: Vec<_> = (0..3).map(|shift| in_base64(plain, shift)).collect();
        base64.extend(
            base64.clone().into_iter().map(|text| text.replace('+', "-").replace('/', "_")),
        );
        forms.extend(base64);
    }
    forms.retain(|form| form.chars().nth(SHORTEST - 1).is_some());
    forms.sort_unstable();
    forms.dedup();
    forms.into_iter().map(String::into_bytes).collect()
}

/// The characters of Base64 that are made of `text` alone where so many bytes stand before it, of three.
fn in_base64(text: &str, before: usize) -> String {
    let whole = STANDARD.encode([&vec![0; before], text.as_bytes()].concat());
    let (from, to) = ((before * 8).div_ceil(6), (before + text.len()) * 8 / 6);
    whole[from..to].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_is_over_is_forgotten_and_what_is_learned_again_is_not() {
        let (mut known, start) = (Known::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        known.learn("for good, always", None, start);
        known.learn("the first token", Some(at(10)), start);
        known.learn("the second token", Some(at(10)), start);
        known.learn("the second token", Some(at(1_000)), start);
        assert!(known.knows("the second token", Some(at(999))));
        assert!(!known.knows("the second token", None));
        for number in 0..FORGET_AFTER {
            known.learn(&format!("token number {number}"), Some(at(20)), at(100));
        }
        for number in 0..FORGET_AFTER {
            known.learn(&format!("another one {number}"), Some(at(500)), at(100));
        }
        let finds = |text: &str| !known.find(text.as_bytes()).is_empty();
        assert!(finds("for good, always") && finds("the second token"));
        assert!(!finds("the first token") && !finds("token number 7"));
        assert!(known.values.len() <= 2 + 2 * FORGET_AFTER as usize);
    }

    #[test]
    fn a_value_that_repeats_itself_takes_few_places() {
        let mut known = Known::default();
        known.learn(&"a".repeat(60_000), None, Instant::now());
        assert!(known.places.values().all(|places| places.len() <= 2 * MOST_ALIKE));
        assert_eq!(
            known.find("b aaaaaaaaaaaaaaaaaaaa b".as_bytes()),
            std::slice::from_ref(&(2..22))
        );
    }
}
