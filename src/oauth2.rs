//! Tokens of OAuth 2.0 client credentials (RFC 6749, section 4.4), for Cognito and OpenID Connect.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{StatusCode, header};
use reqwest::{Client, Response};
use serde::Deserialize;
use serde_json::Value;

use crate::config::api::OAuth2;
use crate::error_chain;
use crate::outbound::{self, ClientError};
use crate::redact;
use crate::renewal::{Fresh, LONGEST, Renewal};

const TIMEOUT: Duration = Duration::from_secs(10);

/// How long a token without an expiry is masked in output.
const REMEMBERED: Duration = Duration::from_hours(24);

/// Longest answer that is read.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// Makes the held value from a token and its lifetime.
type Make<T> = dyn Fn(&str, Option<Duration>) -> Result<T, String> + Send + Sync;

struct Issuer<T> {
    client: Client,
    config: OAuth2,
    make: Box<Make<T>>,
    /// The client's id and secret go into the form: RFC 6749 lets an issuer refuse that, so it is
    /// tried only where the header was refused.
    in_form: AtomicBool,
    /// Of an `expires_in` that says nothing.
    warned: AtomicBool,
}

/// A grant of the issuer.
#[derive(Deserialize)]
struct Granted {
    access_token: String,
    /// Seconds; some write it as a string, or as a fraction.
    expires_in: Option<Value>,
}

/// A refusal of the issuer.
#[derive(Deserialize)]
struct Refused {
    error: String,
}

/// The value of `make` for a token, renewed before it expires. Honours `HTTPS_PROXY` and `NO_PROXY`;
/// follows no redirect, since the secret is for this issuer alone.
pub fn tokens<T: PartialEq + Send + Sync + 'static>(
    config: &OAuth2,
    ca_file: Option<&Path>,
    make: impl Fn(&str, Option<Duration>) -> Result<T, String> + Send + Sync + 'static,
) -> Result<Renewal<T>, ClientError> {
    let client = outbound::client(&config.token_url, ca_file, TIMEOUT)?;
    let in_form = AtomicBool::new(false);
    let make = Box::new(make);
    let issuer = Arc::new(Issuer {
        client,
        config: config.clone(),
        make,
        in_form,
        warned: AtomicBool::new(false),
    });
    Ok(Renewal::new("the OAuth token", move || {
        let issuer = Arc::clone(&issuer);
        Box::pin(async move { issuer.fetch().await })
    }))
}

impl<T> Issuer<T> {
    async fn fetch(&self) -> Result<Fresh<T>, String> {
        let secret = self.config.client_secret.reread().await;
        let in_form = self.in_form.load(Ordering::Relaxed);
        let (mut status, mut body) = self.ask(&secret, in_form).await?;
        if doubts_the_client(status, &body) {
            let (other, granted) = self.ask(&secret, !in_form).await?;
            if other.is_success() {
                self.in_form.store(!in_form, Ordering::Relaxed);
                (status, body) = (other, granted);
            }
        }
        if !status.is_success() {
            return Err(words(status, &body));
        }
        let granted: Granted = serde_json::from_slice(&body).map_err(|_| no_token(&body))?;
        if granted.access_token.is_empty() {
            return Err("the token endpoint's `access_token` is empty".to_owned());
        }
        let said = granted.expires_in.filter(|said| !said.is_null());
        let lifetime = said.as_ref().and_then(lifetime);
        if said.is_some() && lifetime.is_none() && !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(token_url = %self.config.token_url, "`expires_in` of the token endpoint's answer is not in the future; using its tokens until they are refused");
        }
        // A token without an expiry is not remembered for ever.
        redact::learn_for(&granted.access_token, lifetime.or(Some(REMEMBERED)));
        Ok(Fresh { value: (self.make)(&granted.access_token, lifetime)?, lifetime })
    }

    async fn ask(&self, secret: &str, in_form: bool) -> Result<(StatusCode, Vec<u8>), String> {
        let OAuth2 { token_url, client_id, scope, .. } = &self.config;
        let mut form = vec![("grant_type", "client_credentials")];
        form.extend(scope.as_deref().map(|scope| ("scope", scope)));
        let mut request = self.client.post(token_url.to_string());
        if in_form {
            form.extend([("client_id", client_id.as_str()), ("client_secret", secret)]);
        } else {
            request = request.basic_auth(encoded(client_id), Some(encoded(secret)));
        }
        let request = request.header(header::ACCEPT, "application/json").form(&form);
        let answer = request.send().await.map_err(failure)?;
        read(answer).await.map_err(failure)
    }
}

async fn read(mut answer: Response) -> Result<(StatusCode, Vec<u8>), reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_ANSWER_BYTES {
            break;
        }
    }
    Ok((answer.status(), body))
}

fn failure(error: reqwest::Error) -> String {
    // A URL may have a secret in its query.
    error_chain::in_one_line(&error.without_url())
}

/// The lifetime from `expires_in`, in seconds, [`LONGEST`] at most; `None` if it is not in the future.
fn lifetime(expires_in: &Value) -> Option<Duration> {
    let seconds = match expires_in {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.trim().parse().ok()?,
        _ => return None,
    };
    // NaN is not greater than 0 either.
    (seconds > 0.0).then(|| Duration::from_secs_f64(seconds.min(LONGEST.as_secs_f64())))
}

/// Describes an answer without a readable token. Its content is not shown: it may be a token.
fn no_token(body: &[u8]) -> String {
    let what = if body.trim_ascii_start().starts_with(b"<") {
        "is answered with HTML: is a proxy or a login page between?"
    } else {
        "holds no `access_token`"
    };
    format!("the token endpoint's answer {what}")
}

/// Whether another form of client authentication may help.
fn doubts_the_client(status: StatusCode, body: &[u8]) -> bool {
    let named = serde_json::from_slice(body).map(|Refused { error }| error);
    matches!(status, StatusCode::UNAUTHORIZED | StatusCode::BAD_REQUEST)
        && named.map_or(true, |error| error == "invalid_client")
}

/// The error code of the issuer's refusal, and nothing more. An issuer may repeat the request in any form,
/// and its secret must not get into a log.
fn words(status: StatusCode, body: &[u8]) -> String {
    let code = serde_json::from_slice(body).map(|Refused { error }| error).unwrap_or_default();
    let plain = |c: char| c.is_ascii_lowercase() || c == '_';
    let said = if status == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
        ": a proxy in between asks for a login; see `HTTPS_PROXY`".to_owned()
    } else if (1..=40).contains(&code.len()) && code.chars().all(plain) {
        format!(" {code}")
    } else {
        String::new()
    };
    format!("the token endpoint answers {}{said}", status.as_u16())
}

/// Form-encoded, as RFC 6749 2.3.1 requires of an id and a secret in the header.
fn encoded(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_issuers_code_is_passed_on_and_nothing_more() {
        let body = br#"{"error":"invalid_client","error_description":"bad header Basic c2VjcmV0"}"#;
        let said = "the token endpoint answers 401 invalid_client";
        assert_eq!(words(StatusCode::UNAUTHORIZED, body), said);
        assert_eq!(words(StatusCode::BAD_GATEWAY, b"<html>"), "the token endpoint answers 502");
        for echo in ["Basic c2VjcmV0", "top%secret", &"x".repeat(10_000)] {
            let body = format!(r#"{{"error":"{echo}"}}"#);
            let said = words(StatusCode::BAD_REQUEST, body.as_bytes());
            assert_eq!(said, "the token endpoint answers 400");
        }
    }

    #[test]
    fn a_lifetime_is_a_time_to_come_and_has_an_end() {
        let hour = Duration::from_hours(1);
        for (said, expected) in [
            ("3600", Some(hour)),
            ("3600.0", Some(hour)),
            ("\"3600\"", Some(hour)),
            ("\" 3600 \"", Some(hour)),
            ("\"3600.0\"", Some(hour)),
            ("3.6e3", Some(hour)),
            ("0.5", Some(Duration::from_millis(500))),
            ("9223372036854775807", Some(LONGEST)),
            ("18446744073709551615", Some(LONGEST)),
            ("99999999999999999999999999", Some(LONGEST)),
            ("1e300", Some(LONGEST)),
            ("\"1e999\"", Some(LONGEST)),
            ("\"inf\"", Some(LONGEST)),
            ("0", None),
            ("-0.0", None),
            ("-1", None),
            ("-9223372036854775808", None),
            ("-1e300", None),
            ("\"NaN\"", None),
            ("\"soon\"", None),
            ("\"\"", None),
            ("true", None),
            ("[3600]", None),
            ("{}", None),
        ] {
            assert_eq!(lifetime(&serde_json::from_str(said).unwrap()), expected, "{said}");
        }
    }

    #[test]
    fn an_id_is_encoded_as_in_a_form() {
        assert_eq!(encoded("a-Z.0_9*"), "a-Z.0_9*");
        assert_eq!(encoded("a b:c+d/é~"), "a+b%3Ac%2Bd%2F%C3%A9%7E");
    }
}
