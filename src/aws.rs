//! AWS credentials and region, from the default chain: environment, profile, container, instance.

use std::fmt;
use std::time::{Duration, SystemTime};

use aws_config::{BehaviorVersion, Region};
use aws_credential_types::Credentials as Keys;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use tokio::sync::Mutex;

/// How long before their expiry credentials are replaced.
const REFRESH_AHEAD: Duration = Duration::from_mins(5);

/// Credentials that renew themselves; one refresh at a time.
pub struct Credentials {
    provider: SharedCredentialsProvider,
    kept: Mutex<Option<Keys>>,
}

/// Why there are no credentials, or no region.
#[derive(Debug, thiserror::Error)]
pub enum AwsError {
    /// Nobody names a region.
    #[error("no AWS region is known; set `region` in `aws`, `AWS_REGION`, or one in the profile")]
    NoRegion,
    /// The chain ended without credentials.
    #[error("no AWS credentials: {0}")]
    NoCredentials(String),
}

impl Credentials {
    /// Opens the default chain. `region` is what the configuration or the endpoint says; without it
    /// the environment and the profile are asked. Gives the region that is in force.
    pub async fn open(
        profile: Option<&str>,
        region: Option<&str>,
    ) -> Result<(Self, String), AwsError> {
        let mut loader = aws_config::defaults(BehaviorVersion::latest());
        if let Some(profile) = profile {
            loader = loader.profile_name(profile);
        }
        if let Some(region) = region {
            loader = loader.region(Region::new(region.to_owned()));
        }
        let config = loader.load().await;
        let region = config.region().ok_or(AwsError::NoRegion)?.to_string();
        let provider = config
            .credentials_provider()
            .ok_or_else(|| AwsError::NoCredentials("the default chain is empty".to_owned()))?;
        Ok((Self { provider, kept: Mutex::new(None) }, region))
    }

    /// Credentials that are good for a while. Those that could not be replaced are used until they
    /// are refused: they may still be good.
    pub async fn keys(&self) -> Result<Keys, AwsError> {
        let mut kept = self.kept.lock().await;
        let fresh =
            |keys: &Keys| keys.expiry().is_none_or(|e| e > SystemTime::now() + REFRESH_AHEAD);
        if let Some(keys) = kept.as_ref().filter(|k| fresh(k)) {
            return Ok(keys.clone());
        }
        match self.provider.provide_credentials().await {
            Ok(keys) => Ok(kept.insert(keys).clone()),
            Err(error) => kept.clone().ok_or_else(|| AwsError::NoCredentials(one_line(&error))),
        }
    }

    /// Forgets what is kept: it was refused.
    pub async fn forget(&self) {
        *self.kept.lock().await = None;
    }
}

/// What every part of the chain says, in one line.
fn one_line(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(…)")
    }
}
