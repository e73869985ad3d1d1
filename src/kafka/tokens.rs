//! The tokens of SASL/OAUTHBEARER: those of an issuer, and those signed with AWS credentials.

use std::error::Error;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rdkafka::client::OAuthToken;
use tokio::runtime::Handle;

use super::{BuildError, msk};
use crate::aws::{Credentials, Source};
use crate::config::api::Aws;
use crate::config::kafka::KafkaConfig;
use crate::config::sasl::Sasl;
use crate::oauth2;
use crate::renewal::Renewal;

/// A token of which the issuer does not say how long it is good is taken for as good as this.
const UNSAID: Duration = Duration::from_mins(10);

/// Who the bridge calls itself; brokers go by what is in the token.
const PRINCIPAL: &str = "appsync-bridge";

/// A token has this long to come: nothing else is polled meanwhile.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(20);

/// Gives tokens.
pub enum Tokens {
    /// Of an issuer, renewed before they expire.
    Issuer(Renewal<Granted>),
    /// Each signed when it is asked for.
    Msk {
        /// What signs them.
        credentials: Box<Credentials>,
        /// Of the cluster.
        region: String,
    },
}

/// A token of an issuer.
#[derive(PartialEq)]
pub struct Granted {
    text: String,
    expires: SystemTime,
}

impl Tokens {
    /// What `config` asks for, if it asks for tokens; fetches none yet.
    pub async fn build(config: &KafkaConfig) -> Result<Option<Self>, BuildError> {
        match &config.sasl {
            Some(Sasl::OAuthBearer(issuer)) => {
                let ca_file = config.tls.as_ref().and_then(|tls| tls.ca_file.as_deref());
                let make = |text: &str, lifetime: Option<Duration>| {
                    let expires = SystemTime::now() + lifetime.unwrap_or(UNSAID);
                    Ok(Granted { text: text.to_owned(), expires })
                };
                Ok(Some(Self::Issuer(oauth2::tokens(issuer, ca_file, make)?)))
            }
            Some(Sasl::AwsMskIam { aws }) => Ok(Some(Self::of_aws(aws, &config.brokers).await?)),
            _ => Ok(None),
        }
    }

    async fn of_aws(aws: &Aws, brokers: &[String]) -> Result<Self, BuildError> {
        let named = || brokers.iter().find_map(|broker| msk::region(broker)).map(str::to_owned);
        let (credentials, region) = Credentials::open(Source {
            region: aws.region.clone().or_else(named),
            profile: aws.profile.clone(),
            role_arn: aws.role_arn.clone(),
            external_id: aws.external_id.clone(),
        })
        .await?;
        Ok(Self::Msk { credentials: Box::new(credentials), region })
    }

    /// For librdkafka's callback, on a thread of its own: a token, waited for.
    pub fn fetch(tokens: Option<&Self>, runtime: &Handle) -> Result<OAuthToken, Box<dyn Error>> {
        let Some(tokens) = tokens else { return Err("there are no tokens".into()) };
        let token = async { tokio::time::timeout(TOKEN_TIMEOUT, tokens.token()).await };
        match runtime.block_on(token) {
            Ok(token) => Ok(token?),
            Err(_) => Err("no token came in time".into()),
        }
    }

    /// A token that is good now; the error says why there is none.
    pub async fn token(&self) -> Result<OAuthToken, String> {
        let (token, expires) = match self {
            Self::Issuer(renewal) => {
                let held = renewal.get().await?;
                (held.value.text.clone(), held.value.expires)
            }
            Self::Msk { credentials, region } => {
                let held = credentials.keys().await.map_err(|error| error.to_string())?;
                let keys = msk::Keys {
                    id: held.value.access_key_id(),
                    secret: held.value.secret_access_key(),
                    session: held.value.session_token(),
                };
                let now = SystemTime::now();
                // Signed with keys that expire, it is no longer good than they are.
                let end = held.value.expiry().map_or(now + msk::LIFETIME, |end| {
                    end.min(now + msk::LIFETIME).max(now + Duration::from_secs(1))
                });
                (msk::token(&keys, region, now), end)
            }
        };
        let expires = expires.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        Ok(OAuthToken {
            token,
            principal_name: PRINCIPAL.to_owned(),
            lifetime_ms: i64::try_from(expires).unwrap_or(i64::MAX),
        })
    }
}
