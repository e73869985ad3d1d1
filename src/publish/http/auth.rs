//! The headers that authorize a request, and their renewal after a refusal.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use parking_lot::Mutex;

use crate::aws::{AwsError, Credentials, Source};
use crate::config::Secret;
use crate::config::api::{ApiConfig, Auth};
use crate::event_api::sign::{self, Signer};
use crate::oauth2;
use crate::outbound::ClientError;
use crate::renewal::Renewal;
use crate::seeded_bugs::{self, Bug};

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const AMZ_DATE: HeaderName = HeaderName::from_static("x-amz-date");
const SECURITY_TOKEN: HeaderName = HeaderName::from_static("x-amz-security-token");

/// Of [`Bug::SignedOnce`].
static FIRST: OnceLock<SystemTime> = OnceLock::new();

/// Makes the headers of each attempt.
#[derive(Debug)]
pub(super) enum Authorizer {
    /// `x-api-key`.
    ApiKey(SecretHeader),
    /// `authorization`, with a token as configured.
    Token(SecretHeader),
    /// `authorization`, with a fetched token.
    OAuth2(Renewal<HeaderValue>),
    /// Signature Version 4.
    Iam(Box<Iam>),
}

/// A secret that is sent as it is, and the header made of it.
pub(super) struct SecretHeader {
    secret: Secret,
    /// The text that was last looked at, the header of the last good one, and the number of that.
    last: Mutex<(Arc<str>, HeaderValue, u64)>,
}

/// What signing needs.
#[derive(Debug)]
pub(super) struct Iam {
    credentials: Credentials,
    region: String,
    host: String,
    hint: String,
    /// The signer of the last credentials.
    last: Mutex<Option<Arc<Signing>>>,
}

/// The signer for one generation of credentials. Shared, so that requests can sign at the same time.
#[derive(Debug)]
struct Signing {
    generation: u64,
    signer: Signer,
    token: Option<HeaderValue>,
}

/// Why no headers could be made.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// Credentials or region.
    #[error(transparent)]
    Aws(#[from] AwsError),
    /// The client of the token endpoint.
    #[error(transparent)]
    OAuth2(#[from] ClientError),
    /// The issuer gave no token.
    #[error("no OAuth token: {0}")]
    NoToken(String),
    /// A key with a line break or the like.
    #[error("a key or token has characters that no HTTP header can carry")]
    NotAHeader,
}

impl Authorizer {
    /// The authorization that `api` configures. Opens the credential chain; fetches nothing yet.
    pub(super) async fn build(api: &ApiConfig) -> Result<Self, AuthError> {
        match &api.auth {
            Auth::ApiKey { key } => Ok(Self::ApiKey(SecretHeader::new(key)?)),
            Auth::Token { token } => Ok(Self::Token(SecretHeader::new(token)?)),
            Auth::OAuth2(config) => {
                let header =
                    |token: &str, _| secret_header(token).map_err(|error| error.to_string());
                Ok(Self::OAuth2(oauth2::tokens(config, api.ca_file.as_deref(), header)?))
            }
            Auth::Iam { aws } => {
                let (credentials, region) = Credentials::open(Source {
                    region: aws.region.clone().or_else(|| api.endpoint.region.clone()),
                    profile: aws.profile.clone(),
                    role_arn: aws.role_arn.clone(),
                    external_id: aws.external_id.clone(),
                })
                .await?;
                let host = api.endpoint.authority().to_owned();
                let hint = format!(
                    "check the credentials, that their policy allows `appsync:EventPublish`, that the API is in `{region}`, the signing region, and that the namespace exists"
                );
                let last = Mutex::default();
                Ok(Self::Iam(Box::new(Iam { credentials, region, host, hint, last })))
            }
        }
    }

    /// The headers of a request with `body`, and the generation of the secret, token or credentials in them. A
    /// signature carries the time of `now`, by the service's clock.
    pub(super) async fn headers(
        &self,
        body: &[u8],
        now: impl FnOnce() -> SystemTime,
    ) -> Result<(HeaderMap, u64), AuthError> {
        let mut headers = HeaderMap::with_capacity(6);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(sign::CONTENT_TYPE));
        let generation = match self {
            Self::ApiKey(shown) => shown.put(API_KEY, &mut headers).await,
            Self::Token(shown) => shown.put(AUTHORIZATION, &mut headers).await,
            Self::OAuth2(tokens) => {
                let held = tokens.get().await.map_err(AuthError::NoToken)?;
                headers.insert(AUTHORIZATION, (*held.value).clone());
                held.generation
            }
            Self::Iam(iam) => iam.sign(body, now, &mut headers).await?,
        };
        Ok((headers, generation))
    }

    /// Renews the secret, token or credentials after the API refused `generation`, where that is possible.
    /// Whether there is a new generation, so that a retry is worth it.
    pub(super) async fn renew(&self, generation: u64) -> bool {
        match self {
            Self::ApiKey(shown) | Self::Token(shown) => {
                shown.secret.reread().await;
                shown.now().await.1 != generation
            }
            Self::OAuth2(tokens) => tokens.refused(generation).await,
            Self::Iam(iam) => iam.credentials.refused(generation).await,
        }
    }

    /// Tells `told` when the token or the credentials in use end. When a key or a token does that is configured as it
    /// is, only the API knows.
    pub(super) fn tell_end(&self, told: impl Fn(Option<SystemTime>) + Send + Sync + 'static) {
        match self {
            Self::ApiKey(_) | Self::Token(_) => {}
            Self::OAuth2(tokens) => tokens.tell_end(told),
            Self::Iam(iam) => iam.credentials.tell_end(told),
        }
    }

    /// Whether the clock matters.
    pub(super) fn signs(&self) -> bool {
        matches!(self, Self::Iam(_))
    }

    /// The remedy for a refusal; `elsewhere`: other namespaces accept the same credentials.
    pub(super) fn hint(&self, elsewhere: bool) -> &str {
        match self {
            Self::ApiKey(_) if elsewhere => {
                "other namespaces accept the same key: does this namespace exist, and does it accept API keys?"
            }
            Self::Token(_) | Self::OAuth2(_) if elsewhere => {
                "other namespaces accept the same token: does this namespace exist, and does it accept such tokens?"
            }
            Self::Iam(_) if elsewhere => {
                "other namespaces accept the same credentials: does this namespace exist, does it accept IAM, and does their policy allow `appsync:EventPublish` on it?"
            }
            Self::ApiKey(_) => {
                "API keys expire: is there a newer one? then check the endpoint, and that the namespace exists and accepts API keys"
            }
            Self::Token(_) => {
                "tokens expire: is there a newer one? then check the endpoint, and that the namespace exists and accepts such tokens"
            }
            Self::OAuth2(_) => {
                "check that the API trusts the token's issuer, the client and its scope, and that the namespace exists"
            }
            Self::Iam(iam) => &iam.hint,
        }
    }
}

impl fmt::Debug for SecretHeader {
    /// Says nothing of the text that was last looked at.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretHeader").field("secret", &self.secret).finish_non_exhaustive()
    }
}

impl SecretHeader {
    fn new(secret: &Secret) -> Result<Self, AuthError> {
        let text = secret.reveal();
        let header = secret_header(&text)?;
        Ok(Self { secret: secret.clone(), last: Mutex::new((text, header, 1)) })
    }

    async fn put(&self, name: HeaderName, headers: &mut HeaderMap) -> u64 {
        let (header, generation) = self.now().await;
        headers.insert(name, header);
        generation
    }

    /// The header of the secret as it is now; of the last good one, if that can't be a header.
    async fn now(&self) -> (HeaderValue, u64) {
        let text = if self.secret.is_followed() { Some(self.secret.current().await) } else { None };
        let mut last = self.last.lock();
        let (seen, header, generation) = &mut *last;
        if let Some(text) = text.filter(|text| seen != text) {
            match secret_header(&text) {
                Ok(new) => (*header, *generation) = (new, *generation + 1),
                Err(error) => {
                    tracing::warn!(%error, "the new secret can't be used; the last one stays in force");
                }
            }
            *seen = text;
        }
        (header.clone(), *generation)
    }
}

impl Iam {
    /// Those that sign.
    pub(super) fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// The one that signatures are for.
    pub(super) fn region(&self) -> &str {
        &self.region
    }

    async fn sign(
        &self,
        body: &[u8],
        now: impl FnOnce() -> SystemTime,
        headers: &mut HeaderMap,
    ) -> Result<u64, AuthError> {
        let held = self.credentials.keys().await?;
        // Read after the keys are there: fetching them may take long.
        let now = if seeded_bugs::is(Bug::SignedOnce) { *FIRST.get_or_init(now) } else { now() };
        let signing = self.signing(held.generation, &held.value)?;
        let signed = signing.signer.sign(body, now);
        if let Some(token) = &signing.token {
            headers.insert(SECURITY_TOKEN, token.clone());
        }
        headers.insert(
            AMZ_DATE,
            HeaderValue::try_from(signed.date).map_err(|_| AuthError::NotAHeader)?,
        );
        headers.insert(AUTHORIZATION, secret_header(&signed.authorization)?);
        Ok(held.generation)
    }

    fn signing(
        &self,
        generation: u64,
        keys: &aws_credential_types::Credentials,
    ) -> Result<Arc<Signing>, AuthError> {
        let mut last = self.last.lock();
        if let Some(signing) = last.as_ref().filter(|signing| signing.generation == generation) {
            return Ok(Arc::clone(signing));
        }
        let signer = Signer::new(
            &self.region,
            &self.host,
            keys.access_key_id(),
            keys.secret_access_key(),
            keys.session_token(),
        );
        let token = signer.session_token().map(secret_header).transpose()?;
        Ok(Arc::clone(last.insert(Arc::new(Signing { generation, signer, token }))))
    }
}

/// A header that is never shown in logs.
pub(super) fn secret_header(text: &str) -> Result<HeaderValue, AuthError> {
    let mut value = HeaderValue::from_str(text).map_err(|_| AuthError::NotAHeader)?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_shown() {
        let secret = || Secret::new("hunter2-of-no-one");
        for authorizer in [
            Authorizer::ApiKey(SecretHeader::new(&secret()).unwrap()),
            Authorizer::Token(SecretHeader::new(&secret()).unwrap()),
        ] {
            let shown = format!("{authorizer:?} {authorizer:#?}");
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }
}
