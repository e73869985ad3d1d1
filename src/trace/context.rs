//! The trace that a message brings: the headers `traceparent` and `tracestate` of W3C Trace Context
//! (<https://www.w3.org/TR/trace-context/>), under any broker's word for headers. What is not well formed counts
//! as not there: a publisher's mistake is none of the message.

use bytes::Bytes;

/// The id of a trace; never zero.
pub type TraceId = [u8; 16];

/// The id of a span; never zero.
pub type SpanId = [u8; 8];

/// The span that a message was published in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parent {
    /// Its trace.
    pub trace: TraceId,
    /// Itself.
    pub span: SpanId,
    /// Its publisher records the trace.
    pub sampled: bool,
    /// What vendors add, which goes with the trace unread; empty: nothing.
    pub state: Box<str>,
}

/// Length of a `traceparent` of the version that there is.
const LENGTH: usize = 55;

/// What may follow in one of a version to come, at most.
const MOST_MORE: usize = 200;

/// A longer `tracestate` is left out (section 3.3.1.5: at least so much is to be passed on).
const MOST_STATE: usize = 512;

/// The lowest bit of the flags: sampled.
const SAMPLED: u8 = 1;

impl Parent {
    /// The parent that `headers` name, if they name one.
    pub fn of(headers: &[(String, Bytes)]) -> Option<Self> {
        let named = |name: &'static str| {
            headers.iter().filter(move |(key, _)| key.eq_ignore_ascii_case(name))
        };
        let mut parents = named("traceparent");
        // Of two nobody could say which is right.
        let (Some((_, text)), None) = (parents.next(), parents.next()) else { return None };
        let mut parent = Self::parse(text)?;
        let states: Vec<&[u8]> = named("tracestate").map(|(_, state)| &state[..]).collect();
        parent.state = state(&states.join(&b","[..])).unwrap_or_default();
        Some(parent)
    }

    /// Reads `00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01`.
    fn parse(text: &[u8]) -> Option<Self> {
        let (known, more) = text.split_at_checked(LENGTH)?;
        let [version] = hex(&known[..2])?;
        let whole = match version {
            0 => more.is_empty(),
            0xff => false,
            // A later version may say more, behind a hyphen; what this one says stands where it did.
            _ => more.is_empty() || (more[0] == b'-' && more.len() <= MOST_MORE),
        };
        if !whole || [2, 35, 52].iter().any(|at| known[*at] != b'-') {
            return None;
        }
        let trace = hex(&known[3..35]).filter(|id| *id != TraceId::default())?;
        let span = hex(&known[36..52]).filter(|id| *id != SpanId::default())?;
        let [flags] = hex(&known[53..])?;
        Some(Self { trace, span, sampled: flags & SAMPLED != 0, state: Box::default() })
    }
}

/// Bytes from lower-case hex digits, two a byte.
fn hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

/// A state that may be passed on: printable ASCII, and not too long.
fn state(text: &[u8]) -> Option<Box<str>> {
    let good = text.len() <= MOST_STATE && text.iter().all(|byte| matches!(byte, b' '..=b'~'));
    let text = std::str::from_utf8(text).ok().filter(|_| good)?;
    Some(text.trim().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn of(headers: &[(&str, &str)]) -> Option<Parent> {
        let owned =
            headers.iter().map(|(name, value)| ((*name).to_owned(), value.to_string().into()));
        Parent::of(&owned.collect::<Vec<_>>())
    }

    #[test]
    fn the_parent_is_read_from_headers_of_any_case() {
        for name in ["traceparent", "Traceparent", "TRACEPARENT"] {
            let parent = of(&[("a", "b"), (name, GOOD), ("TraceState", "v=1")]).unwrap();
            assert_eq!(
                u128::from_be_bytes(parent.trace),
                0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736
            );
            assert_eq!(u64::from_be_bytes(parent.span), 0x00f0_67aa_0ba9_02b7);
            assert!(parent.sampled);
            assert_eq!(&*parent.state, "v=1");
        }
        assert!(!of(&[("traceparent", &GOOD.replace("-01", "-00"))]).unwrap().sampled);
        assert!(of(&[("traceparent", &GOOD.replace("-01", "-03"))]).unwrap().sampled);
        // Of a later version.
        for later in [GOOD.replacen("00", "01", 1), format!("cc{}-more", &GOOD[2..])] {
            assert!(of(&[("traceparent", &later)]).is_some(), "{later}");
        }
    }

    #[test]
    fn what_is_not_well_formed_is_not_there() {
        let long = format!("01{}-{}", &GOOD[2..], "x".repeat(1_000_000));
        let bad = [
            "",
            "00",
            "hello",
            &GOOD[..54],
            &format!("{GOOD}-"),
            &format!("{GOOD}0"),
            &long,
            &format!("01{}.more", &GOOD[2..]),
            &GOOD.replacen("00", "ff", 1),
            &GOOD.to_uppercase(),
            &GOOD.replace('-', "_"),
            &GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &GOOD.replace("00f067aa0ba902b7", &"0".repeat(16)),
            &GOOD.replace("4bf9", "4bg9"),
            &GOOD.replace("4bf9", "4é9"),
        ];
        for text in bad {
            assert_eq!(of(&[("traceparent", text)]), None, "{text:.100}");
        }
        assert_eq!(of(&[("traceparent", GOOD), ("Traceparent", GOOD)]), None, "two");
        assert_eq!(of(&[("tracestate", "v=1")]), None);
    }

    #[test]
    fn a_state_that_can_not_be_passed_on_is_left_out_alone() {
        let state = |states: &[&str]| {
            let states = states.iter().map(|state| ("tracestate", *state));
            let headers: Vec<_> = std::iter::once(("traceparent", GOOD)).chain(states).collect();
            of(&headers).unwrap().state
        };
        assert_eq!(&*state(&["a=1", "b=2"]), "a=1,b=2");
        assert_eq!(state(&[&"x".repeat(512)]).len(), 512);
        for bad in [&"x".repeat(513), "a=\n", "a=é", "\0"] {
            assert_eq!(&*state(&[bad]), "", "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_breaks_it(text in proptest::collection::vec(0u8..=255, 0..80)) {
            let _ = Parent::of(&[("traceparent".to_owned(), text.into())]);
        }
    }
}
