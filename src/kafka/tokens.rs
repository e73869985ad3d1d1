//! The tokens of SASL/OAUTHBEARER: those of an issuer, and those signed with AWS credentials.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use rdkafka::client::OAuthToken;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::task::AbortOnDropHandle;

use super::{BuildError, msk};
use crate::aws::{Credentials, Source};
use crate::config::api::Aws;
use crate::config::kafka::{KafkaConfig, Sasl};
use crate::oauth2;
use crate::redact;
use crate::renewal::{LONGEST, Renewal};

/// A token of which the issuer does not say how long it is good is taken for as good as this.
const UNSAID: Duration = Duration::from_mins(10);

/// Who the bridge calls itself; brokers go by what is in the token.
const PRINCIPAL: &str = "appsync-bridge";

/// How often the cached token is checked.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The first token has this long to come, for who waits for it.
const FIRST_TIMEOUT: Duration = Duration::from_secs(20);

/// librdkafka asks for a token at least this often, so that one in the place of a refused one is soon used.
const ASKED_WITHIN: Duration = Duration::from_secs(20);

/// A token kept ready: librdkafka asks for it on the thread that polls, and must not wait there
/// for an issuer. A task renews it, and ends with the cache.
pub struct TokenCache {
    cached: Arc<Cached>,
    tokens: Arc<Tokens>,
    _task: AbortOnDropHandle<()>,
}

#[derive(Default)]
struct Cached {
    /// `None` before the first.
    token: Mutex<Option<Result<Token, String>>>,
    changed: Notify,
    refused: Notify,
}

/// A token and its end.
#[derive(Clone, PartialEq)]
pub struct Token {
    text: String,
    expires: SystemTime,
}

/// Gives tokens.
pub enum Tokens {
    /// Of an issuer, renewed before they expire.
    Issuer(Renewal<Token>),
    /// Signed anew each time.
    Msk {
        /// What signs them.
        credentials: Box<Credentials>,
        /// Of the cluster.
        region: String,
    },
}

impl TokenCache {
    /// Has `tokens` put one there, and every new one.
    pub fn open(tokens: Tokens) -> Self {
        let cached = Arc::<Cached>::default();
        let tokens = Arc::new(tokens);
        let (cache, of_task) = (Arc::clone(&cached), Arc::clone(&tokens));
        let task = tokio::spawn(async move {
            loop {
                let renew = renew(Arc::clone(&cache), Arc::clone(&of_task));
                // It ends by a panic only, and then there must be somebody to renew the next token.
                if let Err(error) = AbortOnDropHandle::new(tokio::spawn(renew)).await {
                    tracing::error!(%error, "the renewal of the broker's tokens failed; restarting it");
                    cache.put(Err("the renewal of the tokens failed".to_owned()));
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        });
        Self { cached, tokens, _task: AbortOnDropHandle::new(task) }
    }

    /// Tells `told` when the issuer's token, or the credentials that sign, end.
    pub fn tell_end(&self, told: impl Fn(Option<SystemTime>) + Send + Sync + 'static) {
        match &*self.tokens {
            Tokens::Issuer(renewal) => renewal.tell_end(told),
            Tokens::Msk { credentials, .. } => credentials.tell_end(told),
        }
    }

    /// The token that is good now; the error says why there is none.
    pub fn token(&self) -> Result<OAuthToken, String> {
        self.answer().unwrap_or_else(|| Err("no token came yet".to_owned()))
    }

    /// As [`token`](Self::token); `None` before the first answer, be it a refusal.
    pub fn answer(&self) -> Option<Result<OAuthToken, String>> {
        let cached = self.cached.token.lock();
        let token = cached.as_ref()?.as_ref().map_err(String::clone);
        Some(token.and_then(|token| token.told(SystemTime::now())))
    }

    /// As [`token`](Self::token), for a thread that may wait: until the first answer, for a while.
    pub fn fetch(&self, runtime: &Handle) -> Result<OAuthToken, String> {
        if self.answer().is_none() {
            let changed = async { tokio::time::timeout(FIRST_TIMEOUT, self.changed()).await };
            let _ = runtime.block_on(changed);
        }
        self.token()
    }

    /// The broker refused the token: another one is asked for, however long this one would be good.
    pub fn refuse(&self) {
        self.cached.refused.notify_one();
    }

    /// Waits for another token, or for another reason why there is none.
    pub async fn changed(&self) {
        self.cached.changed.notified().await;
    }
}

/// Puts every new token into the cache, for ever.
async fn renew(cache: Arc<Cached>, tokens: Arc<Tokens>) {
    let mut clock = interval(LOOK_EVERY);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = clock.tick() => {}
            () = cache.refused.notified() => tokens.refused().await,
        }
        cache.put(tokens.token().await);
    }
}

impl Cached {
    fn put(&self, new: Result<Token, String>) {
        let mut token = self.token.lock();
        if token.as_ref() != Some(&new) {
            *token = Some(new);
            drop(token);
            self.changed.notify_one();
        }
    }
}

impl Token {
    /// As librdkafka is told of it: it asks for the next after four fifths of the lifetime. Told of
    /// half, it asks again while this one is still good, and soon has the one that was renewed
    /// meanwhile; brokers want it before nine tenths are over.
    fn told(&self, now: SystemTime) -> Result<OAuthToken, String> {
        let left = self.expires.duration_since(now).unwrap_or_default();
        if left.is_zero() {
            return Err("the last token has expired, and no other came".to_owned());
        }
        redact::learn_for(&self.text, Some(left));
        let until =
            (now + (left / 2).min(ASKED_WITHIN)).duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(OAuthToken {
            token: self.text.clone(),
            principal_name: PRINCIPAL.to_owned(),
            lifetime_ms: i64::try_from(until.as_millis()).unwrap_or(i64::MAX),
        })
    }
}

impl Tokens {
    /// What `config` asks for, if it asks for tokens; fetches none yet.
    pub async fn build(config: &KafkaConfig) -> Result<Option<Self>, BuildError> {
        match &config.sasl {
            Some(Sasl::OAuthBearer(issuer)) => {
                let ca_file = config.tls.as_ref().and_then(|tls| tls.ca_file.as_deref());
                let make = |text: &str, lifetime: Option<Duration>| {
                    let expires = SystemTime::now() + lifetime.unwrap_or(UNSAID).min(LONGEST);
                    Ok(Token { text: text.to_owned(), expires })
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

    /// What is given now was refused; what it is made of is renewed, seldom.
    async fn refused(&self) {
        match self {
            Self::Issuer(renewal) => {
                if let Ok(held) = renewal.get().await {
                    renewal.refused(held.generation).await;
                }
            }
            Self::Msk { credentials, .. } => {
                if let Ok(held) = credentials.keys().await {
                    credentials.refused(held.generation).await;
                }
            }
        }
    }

    /// A token that is good now; the error says why there is none.
    async fn token(&self) -> Result<Token, String> {
        match self {
            Self::Issuer(renewal) => Ok(Token::clone(&renewal.get().await?.value)),
            Self::Msk { credentials, region } => {
                let held = credentials.keys().await.map_err(|error| error.to_string())?;
                let now = SystemTime::now();
                // Signed with keys that expire, it is no longer good than they are.
                let expires = held.value.expiry().map_or(now + msk::LIFETIME, |end| {
                    end.min(now + msk::LIFETIME).max(now + Duration::from_secs(1))
                });
                let text = msk::token(&held.value, region, now)
                    .map_err(|error| format!("no token can be signed for {region}: {error}"))?;
                Ok(Token { text, expires })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn librdkafka_asks_again_before_a_token_is_over() {
        let token = Token { text: "t".into(), expires: at(1_000) };
        let told = |now| token.told(at(now)).map(|token| token.lifetime_ms / 1_000);
        assert_eq!((told(0), told(980), told(990)), (Ok(20), Ok(990), Ok(995)));
        assert!(told(1_000).unwrap_err().contains("expired"));
    }

    #[test]
    fn a_new_token_and_a_new_reason_are_told_of_and_the_same_is_not() {
        let cached = Cached::default();
        let news = || {
            use futures_util::FutureExt as _;
            cached.changed.notified().now_or_never().is_some()
        };
        let token = |text: &str| Ok(Token { text: text.into(), expires: at(1) });
        let puts = [
            (token("a"), true),
            (token("a"), false),
            (token("b"), true),
            (Err("no answer".to_owned()), true),
            (Err("no answer".to_owned()), false),
            (token("b"), true),
        ];
        for (put, expected) in puts {
            cached.put(put);
            assert_eq!(news(), expected);
        }
    }
}
