//! The fields of a fault, each with its check.

use std::str::FromStr as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde::de::{Error as _, IntoDeserializer as _};
use serde::{Deserialize as _, Deserializer};
use serde_json::Value;

use crate::event_api::{Channel, MAX_EVENTS, Segment};

/// A literal body and its content type.
#[derive(Clone, Debug, Default)]
pub(super) struct LiteralBody {
    pub(super) bytes: Bytes,
    pub(super) kind: Option<HeaderValue>,
}

/// The error of a clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offset {
    Ahead(Duration),
    Behind(Duration),
}

impl Offset {
    /// The time of the clock at `now`, within the range of a `date` header.
    pub(super) fn apply(self, now: SystemTime) -> SystemTime {
        let shown = match self {
            Self::Ahead(by) => now.checked_add(by),
            Self::Behind(by) => now.checked_sub(by),
        };
        shown.unwrap_or(now).clamp(UNIX_EPOCH, UNIX_EPOCH + LAST_DATE)
    }
}

/// Reads a string and parses it; the error quotes it.
fn parsed<'de, D: Deserializer<'de>, T, E: std::fmt::Display>(
    from: D,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<T, D::Error> {
    let text = String::deserialize(from)?;
    parse(&text).map_err(|why| D::Error::custom(format!("`{text}`: {why}")))
}

pub(super) fn time<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    parsed(from, |text| match humantime::parse_duration(text) {
        Ok(time) if time <= LONGEST => Ok(time),
        Ok(_) => Err("longer than a hundred years".to_owned()),
        Err(why) => Err(why.to_string()),
    })
}

pub(super) fn some_time<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    time(from).map(Some)
}

pub(super) fn offset<'de, D: Deserializer<'de>>(from: D) -> Result<Offset, D::Error> {
    let text = String::deserialize(from)?;
    let (ahead, by) = match text.strip_prefix('-') {
        Some(rest) => (false, rest),
        None => (true, text.strip_prefix('+').unwrap_or(&text)),
    };
    let by = time(by.into_deserializer())?;
    if by > FARTHEST {
        return Err(D::Error::custom(format!(
            "`{text}`: a clock can be off by 50 years, from `-50y` to `+50y`"
        )));
    }
    Ok(if ahead { Offset::Ahead(by) } else { Offset::Behind(by) })
}

pub(super) fn namespace<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    parsed(from, |text| Segment::parse(text).map(|s| Some(s.as_str().to_owned())))
}

pub(super) fn channel<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Channel>, D::Error> {
    parsed(from, |text| Channel::parse(text).map(Some))
}

pub(super) fn probability<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    let number = f64::deserialize(from)?;
    let range = || D::Error::custom(format!("the probability {number} is not between 0 and 1"));
    (0.0..=1.0).contains(&number).then_some(number).ok_or_else(range)
}

pub(super) fn per_second<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
    match u32::deserialize(from)? {
        0 => {
            Err(D::Error::custom("0 a second is not a rate: `hang` and `answer` stop all requests"))
        }
        number => Ok(Some(number)),
    }
}

pub(super) fn status<'de, D: Deserializer<'de>>(from: D) -> Result<StatusCode, D::Error> {
    let number = u16::deserialize(from)?;
    let known = StatusCode::from_u16(number).ok().filter(|s| (200..=599).contains(&s.as_u16()));
    known.ok_or_else(|| D::Error::custom(format!("{number} is no status between 200 and 599")))
}

/// A string is literal, HTML by its first character; anything else is JSON.
pub(super) fn body<'de, D: Deserializer<'de>>(from: D) -> Result<LiteralBody, D::Error> {
    let json = HeaderValue::from_static("application/json; charset=UTF-8");
    Ok(match Value::deserialize(from)? {
        Value::String(text) if text.starts_with('<') => {
            let kind = Some(HeaderValue::from_static("text/html"));
            LiteralBody { bytes: text.into(), kind }
        }
        Value::String(text) => LiteralBody { bytes: text.into(), kind: Some(json) },
        value => LiteralBody { bytes: value.to_string().into(), kind: Some(json) },
    })
}

pub(super) fn headers<'de, D: Deserializer<'de>>(from: D) -> Result<HeaderMap, D::Error> {
    let mut headers = HeaderMap::new();
    for (name, value) in serde_json::Map::deserialize(from)? {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let parsed = HeaderName::from_str(&name).ok().zip(HeaderValue::from_str(&value).ok());
        let Some((name, value)) = parsed else {
            return Err(D::Error::custom(format!("`{name}: {value}` is no header")));
        };
        // The server sets these to fit the body.
        if name == header::CONTENT_LENGTH || name == header::TRANSFER_ENCODING {
            return Err(D::Error::custom(format!("`{name}` can't be chosen")));
        }
        headers.insert(name, value);
    }
    Ok(headers)
}

/// AWS sends a string; one client declares a number.
pub(super) fn code<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    match Value::deserialize(from)? {
        Value::String(text) => Ok(text),
        Value::Number(number) => Ok(number.to_string()),
        other => {
            Err(D::Error::custom(format!("the code {other} is neither a string nor a number")))
        }
    }
}

pub(super) fn indexes<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<usize>, D::Error> {
    let list = Vec::<usize>::deserialize(from)?;
    match list.iter().find(|index| **index >= MAX_EVENTS) {
        Some(index) => Err(D::Error::custom(format!("no request has an event {index}"))),
        None => Ok(list),
    }
}

/// The longest time of a field; it can be added to any clock.
const LONGEST: Duration = Duration::from_hours(100 * 366 * 24);

/// The largest error of a clock: years of 365.25 days, as `humantime` has them.
const FARTHEST: Duration = Duration::from_hours(50 * 8_766);

/// From 1970 to the end of the year 9999, the last one of a `date` header.
const LAST_DATE: Duration = Duration::from_secs(253_402_300_799);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_off_either_way() {
        let offset = |text: &str| super::offset(Value::from(text)).unwrap();
        let now = UNIX_EPOCH + LONGEST;
        let minute = Duration::from_mins(1);
        assert_eq!(offset("+1m").apply(now), now + minute);
        assert_eq!(offset("1m").apply(now), now + minute);
        assert_eq!(offset("-1m").apply(now), now - minute);
        // A machine whose own clock is far off shows a date all the same.
        for (now, off) in [(UNIX_EPOCH, "-50y"), (UNIX_EPOCH + LAST_DATE, "50y")] {
            assert_eq!(offset(off).apply(now), now);
            httpdate::fmt_http_date(offset(off).apply(now));
        }
    }
}
