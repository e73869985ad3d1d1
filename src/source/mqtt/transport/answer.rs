//! What a server says in place of taking a WebSocket. Pure.

use std::time::{Duration, SystemTime};

use http::{Response, StatusCode, header};
use serde_json::Value;

/// A signature is good for as long before and after its time.
const SKEW: Duration = Duration::from_mins(5);

/// Of a body no more is shown.
const SHOWN: usize = 200;

/// What an answer is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum About {
    /// There is no WebSocket.
    NoWebSocket,
    /// It is not for us.
    Forbidden,
    /// It is not for us, and the server's clock and this machine's are apart.
    Clock,
}

/// What an answer that came at `now` says, and what it is about.
pub(in super::super) fn read(
    answer: &Response<Option<Vec<u8>>>,
    now: SystemTime,
) -> (String, About) {
    let status = answer.status();
    let mut what = format!("the server answers {status}");
    if let Some(said) = answer.body().as_deref().and_then(said) {
        what = format!("{what}: {said}");
    }
    let about = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => match clock(answer, now) {
            None => About::Forbidden,
            Some(clock) => {
                what = format!("{what}; {clock}");
                About::Clock
            }
        },
        _ => About::NoWebSocket,
    };
    (what, about)
}

/// How far the server's clock and this one's are apart, if that is more than a signature bears.
fn clock(answer: &Response<Option<Vec<u8>>>, now: SystemTime) -> Option<String> {
    let theirs = answer.headers().get(header::DATE)?.to_str().ok()?;
    let theirs = httpdate::parse_http_date(theirs).ok()?;
    let (apart, behind) = match theirs.duration_since(now) {
        Ok(ahead) => (ahead, true),
        Err(error) => (error.duration(), false),
    };
    let apart = Duration::from_secs(apart.as_secs());
    let side = if behind { "behind" } else { "ahead of" };
    (apart > SKEW).then(|| {
        format!("this machine's clock is {} {side} the server's", humantime::format_duration(apart))
    })
}

/// The message of a body that is JSON, as AWS has it, else its first line; not a page.
fn said(body: &[u8]) -> Option<String> {
    let text = match serde_json::from_slice::<Value>(body) {
        Ok(json) => json.get("message").or(json.get("Message"))?.as_str()?.to_owned(),
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    let line = text.lines().map(str::trim).find(|line| !line.is_empty())?;
    let line: String = line.chars().filter(|c| !c.is_control()).take(SHOWN).collect();
    (!line.starts_with('<')).then_some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(status: u16, date: Option<SystemTime>, body: &str) -> (String, About) {
        let mut answer = Response::builder().status(status);
        if let Some(date) = date {
            answer = answer.header(header::DATE, httpdate::fmt_http_date(date));
        }
        let answer = answer.body(Some(body.as_bytes().to_vec())).unwrap();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        read(&answer, now)
    }

    #[test]
    fn an_answer_is_told_with_what_the_server_says() {
        let at = |seconds| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        let message = r#"{"message":"the signature\nis wrong","traceId":"x"}"#;
        let forbidden = "the server answers 403 Forbidden";
        let cases = [
            (403, None, "", forbidden.to_owned(), About::Forbidden),
            (403, at(1_700_000_299), message, format!("{forbidden}: the signature"), About::Forbidden),
            (
                403,
                at(1_700_003_661),
                message,
                format!(
                    "{forbidden}: the signature; this machine's clock is 1h 1m 1s behind the server's"
                ),
                About::Clock,
            ),
            (
                401,
                at(1_699_999_000),
                "<html>no</html>",
                "the server answers 401 Unauthorized; this machine's clock is 16m 40s ahead of the server's"
                    .to_owned(),
                About::Clock,
            ),
            (404, at(0), "nothing here", "the server answers 404 Not Found: nothing here".to_owned(), About::NoWebSocket),
            (200, None, "{}", "the server answers 200 OK".to_owned(), About::NoWebSocket),
        ];
        for (status, date, body, what, about) in cases {
            assert_eq!(of(status, date, body), (what, about));
        }
        assert!(of(500, None, &"x".repeat(10_000)).0.len() < 300);
    }
}
