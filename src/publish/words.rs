//! The text of an answer, for the log, `/readyz` and dead letters. Pure.

use super::post::Answer;
use super::retry_after::LONGEST_FLOOR;
use crate::error_chain;
use crate::redact;

/// Most characters of a service's message that are passed on.
pub(super) const MOST_WORDS: usize = 300;

/// The likely cause of an answer that no Event API gives.
const BETWEEN: &str = "is a proxy or a login page between?";

/// A service's message, cut to a length fit for a log, without control characters. Secrets are masked
/// before the cut, since half of one is too much.
pub(super) fn said(words: &str) -> String {
    error_chain::printable(&redact::clean(words), MOST_WORDS)
}

/// For an answer without a message.
pub(super) fn of_status(answer: &Answer) -> String {
    let status = answer.status;
    if let Some(why) = &answer.cut {
        return format!("status {status}, and its body is cut: {why}");
    }
    match status {
        407 => format!(
            "status {status}: a proxy in between asks for a login; put `USER:PASSWORD@` before its host in `HTTPS_PROXY`"
        ),
        511 => format!("status {status}: the network asks for a login; {BETWEEN}"),
        // A load balancer of the service itself has pages for its faults.
        200..=299 if is_html(&answer.body) => {
            format!("status {status}, answered with HTML: {BETWEEN}")
        }
        300..=499 if is_html(&answer.body) => format!("status {status}, with HTML: {BETWEEN}"),
        200..=299 if answer.body.is_empty() => {
            format!("status {status}, answered with nothing: {BETWEEN}")
        }
        200..=299 => {
            format!(
                "status {status}, but this is no answer to a publish: is it the API's endpoint?"
            )
        }
        _ => format!("status {status}"),
    }
}

/// Adds the wait that the service asks for, if it does.
pub(super) fn with_wait(words: String, answer: &Answer) -> String {
    match answer.retry_after {
        None => words,
        Some(after) if after > LONGEST_FLOOR => {
            let (asked, most) = (after.as_secs(), LONGEST_FLOOR.as_secs());
            format!(
                "{words}; it asks for a wait of {asked} s (`Retry-After`), and gets {most} s, the most"
            )
        }
        Some(after) => {
            format!("{words}; it asks for a wait of {} s (`Retry-After`)", after.as_secs())
        }
    }
}

fn is_html(body: &[u8]) -> bool {
    let body = body.strip_prefix("\u{feff}".as_bytes()).unwrap_or(body).trim_ascii_start();
    ["<!doctype html", "<html", "<head", "<body", "<!--", "<?xml"].iter().any(|tag| {
        body.get(..tag.len()).is_some_and(|start| start.eq_ignore_ascii_case(tag.as_bytes()))
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn words(status: u16, body: &str) -> String {
        of_status(&Answer { status, body: body.to_owned().into(), ..Answer::default() })
    }

    #[test]
    fn what_is_between_is_named() {
        for page in [
            "<html>",
            "\u{feff}\n <!DOCTYPE html><html>",
            "<HTML lang=en>",
            "<?xml version=\"1.0\"?><html>",
        ] {
            assert_eq!(
                words(200, page),
                "status 200, answered with HTML: is a proxy or a login page between?"
            );
            assert_eq!(
                words(403, page),
                "status 403, with HTML: is a proxy or a login page between?"
            );
            assert_eq!(words(503, page), "status 503");
        }
        assert!(words(200, "").contains("with nothing"));
        assert!(words(200, "{}").contains("no answer to a publish"));
        assert!(words(407, "").contains("`HTTPS_PROXY`"));
        assert!(words(511, "<html>").contains("asks for a login"));
    }

    #[test]
    fn a_wait_is_said_with_its_end() {
        let with = |seconds| {
            let retry_after = Some(Duration::from_secs(seconds));
            with_wait("status 503".to_owned(), &Answer { retry_after, ..Answer::default() })
        };
        assert!(with(7).ends_with("a wait of 7 s (`Retry-After`)"), "{}", with(7));
        assert!(with(86_400).contains("86400 s") && with(86_400).contains("30 s, the most"));
    }
}
