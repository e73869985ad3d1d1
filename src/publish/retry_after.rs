//! `Retry-After` (RFC 9110, section 10.2.3): seconds, or a date in any of its three forms. Pure.

use std::time::{Duration, SystemTime};

/// Longer `Retry-After` values are cut to this: the end of an outage is found within it, whatever the API
/// asked for.
pub(super) const LONGEST_FLOOR: Duration = Duration::from_secs(30);

/// The wait of the header; `None` if it can't be parsed. A date is compared with `date`, the answer's own
/// `Date`, because clocks may differ; without one, with `now`. A date in the past is no wait at all.
pub(super) fn parse(text: &str, date: Option<&str>, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    let until = httpdate::parse_http_date(text).ok()?;
    let from = date.and_then(|date| httpdate::parse_http_date(date.trim()).ok()).unwrap_or(now);
    Some(until.duration_since(from).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_and_every_form_of_a_date() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        for (text, seconds) in [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("99999999999999999999999", Some(u64::MAX)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sunday, 06-Nov-94 08:50:37 GMT", Some(60)),
            ("Sun Nov  6 08:50:37 1994", Some(60)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("Fri, 31 Dec 9999 23:59:59 GMT", Some(252_618_189_022)),
            ("", None),
            ("-5", None),
            ("+5", None),
            ("1.5", None),
            ("1e3", None),
            ("5 s", None),
            ("soon", None),
            ("Sun, 06 Nov 1994", None),
            ("Sun, 06 Nov 1994 08:50:37 PST", None),
            ("Sun, 99 Nov 1994 08:50:37 GMT", None),
        ] {
            assert_eq!(parse(text, None, now).map(|after| after.as_secs()), seconds, "{text}");
        }
    }

    #[test]
    fn a_date_is_read_by_the_clock_of_whoever_wrote_it() {
        let until = "Sun, 06 Nov 1994 08:50:37 GMT";
        let theirs = Some("Sun, 06 Nov 1994 08:50:07 GMT");
        for years in [0_u64, 20, 60] {
            let ours = SystemTime::UNIX_EPOCH + Duration::from_hours(years * 366 * 24);
            assert_eq!(parse(until, theirs, ours), Some(Duration::from_secs(30)), "{years}");
        }
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:50:17 GMT").unwrap();
        assert_eq!(parse(until, Some("yesterday"), now), Some(Duration::from_secs(20)));
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in ".{0,40}", date in ".{0,40}") {
            let _ = parse(&text, Some(&date), SystemTime::now());
        }
    }
}
