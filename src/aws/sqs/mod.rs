//! The client of Amazon SQS, for the source and the dead letter.
//!
//! It tries each call once: when to try again, and for how long, is the caller's to say. Why one failed, and what
//! helps, is a [`Trouble`].

mod batch;
mod trouble;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials as Keys;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, future};
use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::retry::RetryConfig;
use aws_sdk_sqs::config::timeout::TimeoutConfig;
use aws_sdk_sqs::config::{
    BehaviorVersion, Builder, IdentityCache, Region, StalledStreamProtectionConfig,
};
use aws_smithy_http_client::tls::{TlsContext, TrustStore};

use super::{AwsError, Credentials, Source, http_client};
pub use batch::{BATCH, Failed, failed};
pub use trouble::{Call, Kind, Trouble};

/// A connection is made within this time, or not at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where and as whom.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the credentials come from; with the region of the queue.
    pub source: Source,
    /// Scheme and host that requests go to.
    pub endpoint: String,
    /// A CA that is trusted beside the system's.
    pub ca_file: Option<PathBuf>,
    /// One attempt of any call: longer than a receive may wait.
    pub attempt: Duration,
}

/// A client, and the credentials that it signs with.
#[derive(Clone, Debug)]
pub struct Sqs {
    client: Client,
    credentials: Arc<Provided>,
    region: String,
}

/// Credentials as the client asks for them: with each request, since they renew themselves.
#[derive(Debug)]
struct Provided {
    credentials: Credentials,
    /// Of those that were given last.
    generation: AtomicU64,
}

impl Sqs {
    /// Opens the credential chain; reaches no queue.
    pub async fn open(settings: Settings) -> Result<Self, AwsError> {
        let Settings { source, endpoint, ca_file, attempt } = settings;
        let trusted = ca_file.as_deref().map(trusted).transpose()?;
        let http = http_client(trusted)?;
        let (credentials, region) = Credentials::open(source).await?;
        let credentials = Arc::new(Provided { credentials, generation: AtomicU64::new(0) });
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .operation_attempt_timeout(attempt)
            .build();
        let config = Builder::new()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(region.clone()))
            .endpoint_url(endpoint)
            .http_client(http)
            .credentials_provider(Shown(Arc::clone(&credentials)))
            .identity_cache(IdentityCache::no_cache())
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts)
            // A receive that waits is no stalled one.
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .build();
        Ok(Self { client: Client::from_conf(config), credentials, region })
    }

    /// Tells `told` when the credentials in use end.
    pub fn tell_end(&self, told: impl Fn(Option<SystemTime>) + Send + Sync + 'static) {
        self.credentials.credentials.tell_end(told);
    }

    /// The client.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The region that requests are signed for.
    pub fn region(&self) -> &str {
        &self.region
    }

    /// Notes that the service refused the credentials. Whether there are new ones.
    pub async fn refused(&self) -> bool {
        let generation = self.credentials.generation.load(Ordering::Relaxed);
        self.credentials.credentials.refused(generation).await
    }
}

/// The provider that the client holds.
#[derive(Debug)]
struct Shown(Arc<Provided>);

impl ProvideCredentials for Shown {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            let held = self.0.credentials.keys().await;
            let held = held.map_err(|error| CredentialsError::provider_error(error.to_string()))?;
            self.0.generation.store(held.generation, Ordering::Relaxed);
            Ok(Keys::clone(&held.value))
        })
    }
}

/// The system's CAs, and those of a file.
fn trusted(path: &Path) -> Result<TlsContext, AwsError> {
    let unusable = |why: String| AwsError::Authority(path.display().to_string(), why);
    let pem = std::fs::read(path).map_err(|error| unusable(error.to_string()))?;
    let store = TrustStore::empty().with_native_roots(true).with_pem_certificate(pem);
    let context = TlsContext::builder().with_trust_store(store).build();
    context.map_err(|error| unusable(error.to_string()))
}
