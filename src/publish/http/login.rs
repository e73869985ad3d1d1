//! Whose the credentials of an API are, and until when: for `check --connect`. No secret is in the answer.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::Mutex;
use serde_json::Value;

use super::auth::Authorizer;
use crate::aws::Source;
use crate::config::Secret;
use crate::config::api::Auth;
use crate::error_chain::printable;
use crate::probe::{Complaint, Step};

/// Characters of a name that a token tells.
const MOST: usize = 100;

/// Credentials that are there.
pub(super) struct Known {
    /// Whose they are, from where, until when.
    pub(super) words: String,
    /// Whoever issued them has taken them, or has just given them.
    pub(super) tried: bool,
}

impl Known {
    fn tried(words: String) -> Self {
        Self { words, tried: true }
    }

    fn untried(words: String) -> Self {
        Self { words, tried: false }
    }
}

impl Authorizer {
    /// Resolves the credentials, and says whose they are.
    pub(super) async fn look(&self, auth: &Auth) -> Result<Known, Complaint> {
        match (self, auth) {
            (Self::ApiKey(_), Auth::ApiKey { key }) => Ok(Known::untried(format!(
                "an API key{}; when it expires only AWS knows",
                from(key)
            ))),
            (Self::Token(_), Auth::Token { token }) => {
                let words = of_token(&token.reveal(), SystemTime::now())?;
                Ok(Known::untried(words + &from(token)))
            }
            (Self::OAuth2(tokens), _) => {
                let end = Arc::<Mutex<Option<SystemTime>>>::default();
                let told = Arc::clone(&end);
                tokens.tell_end(move |at| *told.lock() = at);
                let remedy = "check `token_url`, `client_id`, `client_secret` and `scope`";
                tokens.get().await.map_err(|why| {
                    Complaint::new(Step::Credentials, format!("no OAuth token: {why}"), remedy)
                })?;
                let end = *end.lock();
                Ok(Known::tried(format!("a token of OAuth 2.0{}", until(end))))
            }
            (Self::Iam(iam), Auth::Iam { aws }) => {
                let remedy = "check the credentials: environment, profile, role; `aws sts get-caller-identity` tells \
                              whose they are";
                let held = iam.credentials().keys().await;
                let held =
                    held.map_err(|why| Complaint::new(Step::Credentials, why.to_string(), remedy))?;
                let keys = &held.value;
                let source = Source {
                    region: Some(iam.region().to_owned()),
                    profile: aws.profile.clone(),
                    ..Source::default()
                };
                let (id, end) = (keys.access_key_id(), until(keys.expiry()));
                match source.whose((**keys).clone()).await {
                    Ok(arn) => Ok(Known::tried(format!("AWS credentials `{id}` of `{arn}`{end}"))),
                    Err(why) => Ok(Known::untried(format!(
                        "AWS credentials `{id}`{end} (STS does not tell whose: {why})"
                    ))),
                }
            }
            // One is made of the other.
            _ => Ok(Known::untried(String::new())),
        }
    }
}

/// Where a secret is, if that is a file.
fn from(secret: &Secret) -> String {
    let file = secret.file().map(|path| printable(&path.display().to_string(), MOST));
    file.map_or_else(String::new, |file| format!(" (from `{file}`)"))
}

/// What a JSON Web Token says of itself; others say nothing.
fn of_token(text: &str, now: SystemTime) -> Result<String, Complaint> {
    let claims = || -> Option<Value> {
        let text = text.strip_prefix("Bearer ").unwrap_or(text);
        let (_, rest) = text.split_once('.')?;
        let (claims, _) = rest.split_once('.')?;
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
    };
    let Some(claims) = claims() else {
        return Ok("a token, which does not tell whose it is".to_owned());
    };
    let name = |key: &str| claims[key].as_str().map(|name| printable(name, MOST));
    let whose = name("sub").map_or_else(String::new, |name| format!(" of `{name}`"));
    let issuer = name("iss").map_or_else(String::new, |name| format!(" from `{name}`"));
    let end = claims["exp"].as_u64().map(|at| UNIX_EPOCH + Duration::from_secs(at.min(LAST)));
    if let Some(end) = end.filter(|end| *end <= now) {
        let what = format!("the token{whose} ended on {}", humantime::format_rfc3339_seconds(end));
        return Err(Complaint::new(
            Step::Credentials,
            what,
            "get a new one; a file with it is read again when it changes, and `oauth2` gets them by itself",
        ));
    }
    Ok(format!("a token{whose}{issuer}{}", until(end)))
}

/// The last second of the year 9999, which is the last that RFC 3339 can write.
const LAST: u64 = 253_402_300_799;

fn until(end: Option<SystemTime>) -> String {
    let end = end.map(|end| end.min(UNIX_EPOCH + Duration::from_secs(LAST)));
    end.map_or_else(String::new, |end| {
        format!(", until {}", humantime::format_rfc3339_seconds(end))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_says_whose_it_is_and_until_when() {
        let token = |claims: &str| format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims));
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let good = token(r#"{"sub":"me","iss":"https://i","exp":86400}"#);
        let said = of_token(&good, at(0)).unwrap();
        assert_eq!(said, "a token of `me` from `https://i`, until 1970-01-02T00:00:00Z");
        let ended = of_token(&format!("Bearer {good}"), at(86_400)).unwrap_err();
        assert_eq!(ended.what, "the token of `me` ended on 1970-01-02T00:00:00Z");
        let milliseconds = token(r#"{"exp":1764500000000}"#);
        assert_eq!(of_token(&milliseconds, at(0)).unwrap(), "a token, until 9999-12-31T23:59:59Z");
        for text in ["", "opaque", "a.b.c", "…"] {
            assert_eq!(of_token(text, at(0)).unwrap(), "a token, which does not tell whose it is");
        }
    }
}
