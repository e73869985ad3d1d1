//! AWS credentials and region, from the default chain: environment, profile, container, instance; and
//! a role assumed with them.

mod identity;
pub mod presign;
mod profile;
#[cfg(feature = "sqs")]
pub mod sqs;

use std::error::Error as _;
use std::time::{Duration, SystemTime};

use aws_config::meta::ProviderChainError;
use aws_config::sts::AssumeRoleProvider;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials as Keys;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext};
use aws_smithy_http_client::{Builder, ConnectorBuilder};
use aws_types::sdk_config::SharedHttpClient;

use crate::error_chain;
use crate::outbound::{Proxies, ProxyError};
use crate::redact;
use crate::renewal::{Fresh, Held, Renewal};

/// Assumed lifetime of keys that arrive expired by the local clock: the clock is wrong, and a refusal would
/// show bad keys.
const EXPIRED_ON_ARRIVAL: Duration = Duration::from_mins(1);

/// The beginning of a `credential_process`'s standard error, in an error of AWS's library.
const STDERR: &str = ". Stderr:";

/// The session name of an assumed role, as shown in its account's logs.
const SESSION: &str = "appsync-bridge";

/// The source of credentials.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// The region of the configuration or the endpoint; else that of the environment or the profile counts.
    pub region: Option<String>,
    /// A profile of the shared configuration files.
    pub profile: Option<String>,
    /// A role to assume.
    pub role_arn: Option<String>,
    /// The external id that the role's trust policy may require.
    pub external_id: Option<String>,
}

/// Credentials that renew themselves.
#[derive(Debug)]
pub struct Credentials(Renewal<Keys>);

/// Why there are no credentials, or no region.
#[derive(Debug, thiserror::Error)]
pub enum AwsError {
    /// No region is configured anywhere.
    #[error("no AWS region is known; set `region` in `aws`, `AWS_REGION`, or one in the profile")]
    NoRegion,
    /// The profile needs a feature that this build lacks: a clause with the replacement.
    #[error("{0}")]
    NotBuiltIn(String),
    /// The file of an additional CA.
    #[error("`{0}` can't be used as a `ca_file`: {1}")]
    Authority(String, String),
    /// A proxy.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// The chain ended without credentials.
    #[error("no AWS credentials: {0}")]
    NoCredentials(String),
}

impl Credentials {
    /// Opens the chain, and starts to fetch, so that missing credentials are reported at the start. Gives the
    /// region in force, too.
    pub async fn open(mut source: Source) -> Result<(Self, String), AwsError> {
        let region = source.check().await?;
        source.region = Some(region.clone());
        let renewal = Renewal::new("AWS credentials", move || {
            let source = source.clone();
            Box::pin(async move { source.fetch().await })
        });
        renewal.begin_early();
        Ok((Self(renewal), region))
    }

    /// Valid credentials.
    pub async fn keys(&self) -> Result<Held<Keys>, AwsError> {
        self.0.get().await.map_err(AwsError::NoCredentials)
    }

    /// Tells `told` when those in use end, as [`Renewal::tell_end`] does.
    pub fn tell_end(&self, told: impl Fn(Option<SystemTime>) + Send + Sync + 'static) {
        self.0.tell_end(told);
    }

    /// Notes that those of this generation were refused. Whether there are new ones.
    pub async fn refused(&self, generation: u64) -> bool {
        self.0.refused(generation).await
    }
}

/// Gives credentials, and registers them for masking: also those that a role is assumed with.
#[derive(Debug)]
struct Learned(SharedCredentialsProvider);

impl ProvideCredentials for Learned {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            let keys = self.0.provide_credentials().await?;
            // Expired ones may come again and again: none is remembered for ever.
            let lifetime = lifetime(&keys);
            redact::learn_for(keys.secret_access_key(), lifetime);
            if let Some(token) = keys.session_token() {
                redact::learn_for(token, lifetime);
            }
            Ok(keys)
        })
    }
}

impl Source {
    /// Checks the settings, and fetches no credentials; gives the region in force. Asks the instance's metadata
    /// service only if no region is named elsewhere.
    pub async fn check(&self) -> Result<String, AwsError> {
        if let Some(words) = profile::not_built_in(self.profile.as_deref()).await {
            return Err(AwsError::NotBuiltIn(words));
        }
        let region = self.load().await?.region().map(ToString::to_string);
        region.filter(|region| !region.trim().is_empty()).ok_or(AwsError::NoRegion)
    }

    async fn load(&self) -> Result<SdkConfig, AwsError> {
        let mut loader =
            aws_config::defaults(BehaviorVersion::latest()).http_client(http_client(None)?);
        if let Some(profile) = &self.profile {
            loader = loader.profile_name(profile);
        }
        if let Some(region) = &self.region {
            loader = loader.region(Region::new(region.clone()));
        }
        Ok(loader.load().await)
    }

    /// Opens the chain anew, because it caches the profile files.
    async fn fetch(&self) -> Result<Fresh<Keys>, String> {
        let config = self.load().await.map_err(|error| error.to_string())?;
        let chain = config.credentials_provider().ok_or("the default chain is empty")?;
        let chain = SharedCredentialsProvider::new(Learned(chain));
        let provider = match &self.role_arn {
            None => chain,
            Some(role) => {
                let mut role =
                    AssumeRoleProvider::builder(role).session_name(SESSION).configure(&config);
                if let Some(id) = &self.external_id {
                    role = role.external_id(id);
                }
                SharedCredentialsProvider::new(role.build_from_provider(chain).await)
            }
        };
        let provider = Learned(provider);
        let value = provider.provide_credentials().await.map_err(|error| why(&error))?;
        Ok(Fresh { lifetime: lifetime(&value), value })
    }
}

fn lifetime(keys: &Keys) -> Option<Duration> {
    let end = keys.expiry()?;
    Some(end.duration_since(SystemTime::now()).unwrap_or(EXPIRED_ON_ARRIVAL))
}

/// The client of AWS's libraries: through the same proxies as ours, and read in the same way. Plain text, such
/// as this machine's metadata, goes through none: behind it there are the credentials of another machine. It
/// trusts what `trusted` says, else the system's CAs.
fn http_client(trusted: Option<TlsContext>) -> Result<SharedHttpClient, AwsError> {
    let proxies = Proxies::of_process()?;
    let proxy = match proxies.for_ports(&[443]) {
        // One that was read has a form that is taken.
        Some((proxy, no)) => ProxyConfig::https(proxy.url()).map(|config| config.no_proxy(no)).ok(),
        None => None,
    };
    let proxy = proxy.unwrap_or_else(ProxyConfig::disabled);
    Ok(Builder::new().build_with_connector_fn(move |settings, components| {
        let mut connector =
            ConnectorBuilder::default().tls_provider(Provider::Rustls(CryptoMode::AwsLc));
        if let Some(trusted) = &trusted {
            connector = connector.tls_context(trusted.clone());
        }
        connector.set_connector_settings(settings.cloned());
        if let Some(components) = components {
            connector.set_sleep_impl(components.sleep_impl());
        }
        connector.set_proxy_config(Some(proxy.clone()));
        connector.build()
    }))
}

/// Why there are no credentials: the places searched, and the error of each.
fn why(error: &CredentialsError) -> String {
    let chain = error.source().and_then(|cause| cause.downcast_ref());
    let Some(chain) = chain.map(ProviderChainError::<CredentialsError>::attempts) else {
        return without_stderr(error_chain::in_one_line(error));
    };
    let attempts = chain.iter().map(|attempt| {
        let error = attempt.error();
        let why = error.source().map_or_else(|| error.to_string(), error_chain::in_one_line);
        format!("{} ({})", attempt.name(), without_stderr(why))
    });
    format!("tried: {}", attempts.collect::<Vec<_>>().join(", "))
}

/// Without the output of a `credential_process`, which may be anything.
fn without_stderr(words: String) -> String {
    match words.split_once(STDERR) {
        Some((before, _)) => format!("{before}; what it says is not shown: run it to see"),
        None => words,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_says_is_not_shown() {
        let said = "external process exited with code exit status: 3. Stderr: the key is hunter2";
        let shown = why(&CredentialsError::provider_error(said));
        assert!(shown.contains("exit status: 3") && !shown.contains("hunter2"), "{shown}");
    }
}
