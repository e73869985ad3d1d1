//! A text with its escapes decoded, and the origin of each byte. Pure.

use std::ops::Range;

/// A kind of escapes.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// Of JSON and of Rust's `Debug`.
    Backslash,
    /// Of URLs and forms.
    Percent,
    /// Of HTML.
    Entity,
}

/// A text with escapes of one kind decoded.
pub(super) struct Unescaped {
    bytes: Vec<u8>,
    /// The start of each byte in the original text, and the end of the last one.
    at: Vec<usize>,
}

impl Unescaped {
    /// `None` if there was none in it.
    pub(super) fn of(text: &[u8], kind: Kind) -> Option<Self> {
        undo(text, kind, |at| at)
    }

    /// As [`of`](Self::of), of what is in here.
    pub(super) fn again(&self, kind: Kind) -> Option<Self> {
        undo(&self.bytes, kind, |at| self.at[at])
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The place of these bytes in the original text.
    pub(super) fn origin(&self, span: &Range<usize>) -> Range<usize> {
        self.at[span.start]..self.at[span.end]
    }
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::Backslash, Self::Percent, Self::Entity];

    /// The first byte of every escape of this kind.
    fn mark(self) -> u8 {
        match self {
            Self::Backslash => b'\\',
            Self::Percent => b'%',
            Self::Entity => b'&',
        }
    }

    fn read(self, text: &[u8]) -> Option<Escape> {
        match self {
            Self::Backslash => backslash(text),
            Self::Percent => Some((3, Plain::Byte(u8::try_from(hex(text.get(1..3))?).ok()?))),
            Self::Entity => entity(text),
        }
    }
}

fn undo(text: &[u8], kind: Kind, origin: impl Fn(usize) -> usize) -> Option<Unescaped> {
    memchr::memchr(kind.mark(), text)?;
    let (mut bytes, mut at) = (Vec::with_capacity(text.len()), Vec::with_capacity(text.len() + 1));
    let (mut from, mut undone) = (0, false);
    while let Some(first) = text.get(from) {
        let escape = (*first == kind.mark()).then(|| kind.read(&text[from..])).flatten();
        undone |= escape.is_some();
        let (length, plain) = escape.unwrap_or((1, Plain::Byte(*first)));
        let mut buffer = [0; 4];
        let plain = match plain {
            Plain::Byte(byte) => {
                buffer[0] = byte;
                &buffer[..1]
            }
            Plain::Char(c) => c.encode_utf8(&mut buffer).as_bytes(),
        };
        bytes.extend_from_slice(plain);
        at.extend(plain.iter().map(|_| origin(from)));
        from += length;
    }
    at.push(origin(text.len()));
    undone.then_some(Unescaped { bytes, at })
}

enum Plain {
    Byte(u8),
    Char(char),
}

/// The length of an escape, and its decoded value.
type Escape = (usize, Plain);

fn backslash(text: &[u8]) -> Option<Escape> {
    let byte = |byte| Some((2, Plain::Byte(byte)));
    match text.get(1)? {
        plain @ (b'"' | b'\'' | b'\\' | b'/') => byte(*plain),
        b'n' => byte(b'\n'),
        b'r' => byte(b'\r'),
        b't' => byte(b'\t'),
        b'b' => byte(8),
        b'f' => byte(12),
        b'0' => byte(0),
        b'x' => Some((4, Plain::Char(char::from_u32(hex(text.get(2..4))?)?))),
        b'u' if text.get(2) == Some(&b'{') => {
            let end = memchr::memchr(b'}', text.get(..11).unwrap_or(text))?;
            Some((end + 1, Plain::Char(char::from_u32(hex(text.get(3..end))?)?)))
        }
        b'u' => {
            let first = hex(text.get(2..6))?;
            if let Some(c) = char::from_u32(first) {
                return Some((6, Plain::Char(c)));
            }
            let second = text.get(6..8).filter(|mark| *mark == b"\\u").and(hex(text.get(8..12)))?;
            let c = 0x1_0000 + (first.checked_sub(0xD800)? << 10) + second.checked_sub(0xDC00)?;
            Some((12, Plain::Char(char::from_u32(c)?)))
        }
        _ => None,
    }
}

fn entity(text: &[u8]) -> Option<Escape> {
    let end = memchr::memchr(b';', text.get(..10).unwrap_or(text))?;
    let c = match text.get(1..end)? {
        b"amp" => '&',
        b"lt" => '<',
        b"gt" => '>',
        b"quot" => '"',
        b"apos" => '\'',
        [b'#', b'x' | b'X', digits @ ..] => char::from_u32(hex(Some(digits))?)?,
        [b'#', digits @ ..] => char::from_u32(std::str::from_utf8(digits).ok()?.parse().ok()?)?,
        _ => return None,
    };
    Some((end + 1, Plain::Char(c)))
}

fn hex(digits: Option<&[u8]>) -> Option<u32> {
    let digits = digits.filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))?;
    u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn undone(text: &str) -> String {
        let kind = Kind::ALL.into_iter().find(|kind| text.as_bytes().contains(&kind.mark()));
        let unescaped = Unescaped::of(text.as_bytes(), kind.unwrap());
        unescaped.map_or(text.to_owned(), |u| String::from_utf8_lossy(u.bytes()).into_owned())
    }

    #[test]
    fn each_kind_is_undone_and_what_is_none_stays() {
        for (text, expected) in [
            (r#"\"a\\b\/c\n\u00e9\ud834\udd1e\u{1d11e}\x41\'"#, "\"a\\b/c\né𝄞𝄞A'"),
            ("%C3%A9+%2f%zz%4", "é+/%zz%4"),
            ("&lt;&#233;&#xE9;&amp;&nbsp;& &", "<éé&&nbsp;& &"),
            (
                r"\q \u12 \ud834 \ud834\u0041 \u{110000} \x4",
                r"\q \u12 \ud834 \ud834A \u{110000} \x4",
            ),
            ("\\", "\\"),
        ] {
            assert_eq!(undone(text), expected);
        }
    }

    #[test]
    fn a_place_is_that_of_the_first_text() {
        let text = r"a \\u0041 \u002541 b";
        let once = Unescaped::of(text.as_bytes(), Kind::Backslash).unwrap();
        assert_eq!(once.bytes(), br"a \u0041 %41 b");
        let twice = once.again(Kind::Percent).unwrap();
        assert_eq!(twice.bytes(), br"a \u0041 A b");
        assert_eq!((twice.origin(&(9..10)), twice.origin(&(2..8))), (10..18, 2..9));
    }

    proptest::proptest! {
        #[test]
        fn never_panics_and_keeps_order(text in r"(\\|%|&|#|;|u|x|\{|\}|[0-9a-f]|é){0,40}") {
            for once in Kind::ALL.into_iter().filter_map(|kind| Unescaped::of(text.as_bytes(), kind)) {
                proptest::prop_assert!(once.at.is_sorted());
                proptest::prop_assert_eq!(once.at.len(), once.bytes.len() + 1);
            }
        }
    }
}
