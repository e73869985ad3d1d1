//! The headers that prove who sends a request.

use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};

use crate::aws::{AwsError, Credentials};
use crate::config::api::{ApiConfig, Auth};
use crate::event_api::sign::{self, Signer};

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const AMZ_DATE: HeaderName = HeaderName::from_static("x-amz-date");
const SECURITY_TOKEN: HeaderName = HeaderName::from_static("x-amz-security-token");

/// Makes the headers of each attempt, afresh.
#[derive(Debug)]
pub(super) enum Authorizer {
    /// `x-api-key`, always the same.
    ApiKey(HeaderValue),
    /// Signature Version 4.
    Iam(Box<Iam>),
}

/// What signing needs.
#[derive(Debug)]
pub(super) struct Iam {
    credentials: Credentials,
    region: String,
    host: String,
    /// The signer of the last access key; another one when the credentials were replaced.
    signer: Mutex<Option<(String, Signer)>>,
}

/// Why no headers could be made.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// Credentials or region.
    #[error(transparent)]
    Aws(#[from] AwsError),
    /// A key with a line break or the like.
    #[error("a key or token has characters that no HTTP header can carry")]
    NotAHeader,
}

impl Authorizer {
    /// What `api` asks for. Opens the credential chain; does not yet fetch credentials.
    pub(super) async fn build(api: &ApiConfig) -> Result<Self, AuthError> {
        match &api.auth {
            Auth::ApiKey { key } => Ok(Self::ApiKey(secret_header(key.reveal())?)),
            Auth::Iam { aws } => {
                let region = aws.region.as_deref().or(api.endpoint.region.as_deref());
                let (credentials, region) =
                    Credentials::open(aws.profile.as_deref(), region).await?;
                let host = api.endpoint.authority().to_owned();
                Ok(Self::Iam(Box::new(Iam { credentials, region, host, signer: Mutex::new(None) })))
            }
        }
    }

    /// The headers of a request with `body` that is sent now.
    pub(super) async fn headers(&self, body: &[u8]) -> Result<HeaderMap, AuthError> {
        let mut headers = HeaderMap::with_capacity(6);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(sign::CONTENT_TYPE));
        match self {
            Self::ApiKey(key) => {
                headers.insert(API_KEY, key.clone());
            }
            Self::Iam(iam) => iam.sign(body, &mut headers).await?,
        }
        Ok(headers)
    }

    /// The API refused us: what can be renewed is renewed before the next attempt.
    pub(super) async fn refused(&self) {
        if let Self::Iam(iam) = self {
            iam.credentials.forget().await;
        }
    }
}

impl Iam {
    async fn sign(&self, body: &[u8], headers: &mut HeaderMap) -> Result<(), AuthError> {
        let keys = self.credentials.keys().await?;
        let mut kept = self.signer.lock().unwrap_or_else(PoisonError::into_inner);
        let signer = match kept.take() {
            Some((id, signer))
                if id == keys.access_key_id() && signer.session_token() == keys.session_token() =>
            {
                signer
            }
            _ => Signer::new(
                &self.region,
                &self.host,
                keys.access_key_id(),
                keys.secret_access_key(),
                keys.session_token(),
            ),
        };
        let (_, signer) = kept.insert((keys.access_key_id().to_owned(), signer));
        let signed = signer.sign(body, SystemTime::now());
        if let Some(token) = signer.session_token() {
            headers.insert(SECURITY_TOKEN, secret_header(token)?);
        }
        headers.insert(
            AMZ_DATE,
            HeaderValue::try_from(signed.date).map_err(|_| AuthError::NotAHeader)?,
        );
        headers.insert(AUTHORIZATION, secret_header(&signed.authorization)?);
        Ok(())
    }
}

/// A header that shows itself nowhere.
fn secret_header(text: &str) -> Result<HeaderValue, AuthError> {
    let mut value = HeaderValue::from_str(text).map_err(|_| AuthError::NotAHeader)?;
    value.set_sensitive(true);
    Ok(value)
}
