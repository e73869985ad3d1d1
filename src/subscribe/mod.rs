//! The other direction: follows channels of an Event API over its WebSocket, and connects again when that ends.
//!
//! The service keeps nothing: what is published while there is no connection is never seen. A connection ends after a
//! day at the latest; how the next one goes is said to the caller.
//!
//! A refusal of the first connection, or of a channel on it, is final. After that the caller was let in once, so
//! everything that fails is tried again.

mod conversation;
mod pattern;

use std::ops::ControlFlow;
use std::time::Duration;

use http::Uri;
use tokio::time::{Instant, sleep};

pub use pattern::Pattern;

use crate::backoff::Backoff;
use crate::config::ApiConfig;
use crate::config::api::Endpoint;
use crate::event_api::REALTIME_PATH;
use crate::publish::post::Fault;
use crate::publish::{BuildError, Client};
use conversation::{Conversation, End};

/// Shortest ceiling and longest wait between two connections.
const AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// Follows channels of one API.
#[derive(Debug)]
pub struct Subscriber {
    client: Client,
    /// Of the WebSocket.
    url: Uri,
    patterns: Vec<Pattern>,
}

/// What a subscriber says.
#[derive(Debug)]
pub enum Told<'a> {
    /// Every channel is subscribed to.
    Live {
        /// After a connection that was lost, how long there was none.
        after: Option<Duration>,
    },
    /// An event.
    Event {
        /// The channel or the wildcard of the subscription: the service does not tell the channel of an event.
        channel: &'a Pattern,
        /// Its JSON text.
        event: &'a str,
    },
    /// The service could not deliver, or complains: in words.
    Trouble(String),
    /// The connection is lost.
    Lost {
        /// In words.
        why: String,
        /// The next try comes after this.
        wait: Duration,
    },
}

/// Why there is nothing to follow.
#[derive(Debug, thiserror::Error)]
pub enum SubscribeError {
    /// There was no connection.
    #[error("{0}")]
    Unreachable(String),
    /// The certificate of the endpoint is not trusted.
    #[error("{0}")]
    Untrusted(String),
    /// The connection is refused, in the words of the service.
    #[error("the API refuses the connection: {0}")]
    Connection(String),
    /// A channel is refused.
    #[error("the API refuses `{0}`: {1}")]
    Channel(Pattern, String),
}

impl Subscriber {
    /// A subscriber to `patterns` of `api`, at `url` if that is not the one that belongs to its endpoint. Nothing is
    /// connected yet.
    pub async fn build(
        api: &ApiConfig,
        url: Option<Uri>,
        patterns: Vec<Pattern>,
    ) -> Result<Self, BuildError> {
        let url = url.unwrap_or_else(|| realtime(&api.endpoint));
        Ok(Self { client: Client::build(api).await?, url, patterns })
    }

    /// Where it connects to, as the address of a WebSocket.
    pub fn url(&self) -> String {
        self.url.to_string().replacen("http", "ws", 1)
    }

    /// The remedy for a refusal.
    pub fn causes(&self, why: &SubscribeError) -> String {
        let namespace = match why {
            SubscribeError::Channel(pattern, _) => Some(pattern.namespace()),
            _ => None,
        };
        self.client.causes(namespace, "Subscribe", &why.to_string())
    }

    /// Follows until `told` breaks off; never returns well before that.
    pub async fn run(
        &self,
        mut told: impl FnMut(Told<'_>) -> ControlFlow<()>,
    ) -> Result<(), SubscribeError> {
        let mut backoff = Backoff::new(AGAIN.0, AGAIN.1);
        let (mut ever, mut lost_at, mut renewed) = (false, None::<Instant>, false);
        loop {
            let mut conversation = Conversation::new(&self.client, &self.patterns);
            let end = {
                let mut live = |told_of: Told<'_>| {
                    if let Told::Live { .. } = told_of {
                        ever = true;
                        renewed = false;
                        backoff.reset();
                        let after = lost_at.take().map(|at| at.elapsed());
                        return told(Told::Live { after });
                    }
                    told(told_of)
                };
                conversation.run(&self.url, &mut live).await
            };
            let why = match end {
                End::BrokenOff => return Ok(()),
                // A token may have ended since, a clock be wrong, a key be new in its file.
                End::Refused { generation, .. }
                    if !renewed && self.client.renew(generation).await =>
                {
                    renewed = true;
                    continue;
                }
                End::Refused { pattern, why, .. } if !ever => {
                    return Err(match pattern {
                        Some(pattern) => SubscribeError::Channel(pattern, why),
                        None => SubscribeError::Connection(why),
                    });
                }
                End::Refused { why, .. } => format!("the API refuses: {why}"),
                End::Failed(failure) if !ever && failure.fault == Fault::Trust => {
                    return Err(SubscribeError::Untrusted(failure.why));
                }
                End::Failed(failure) if !ever => {
                    return Err(SubscribeError::Unreachable(failure.why));
                }
                End::Failed(failure) => failure.why,
            };
            lost_at.get_or_insert_with(Instant::now);
            let wait = backoff.next_wait();
            if told(Told::Lost { why, wait }).is_break() {
                return Ok(());
            }
            sleep(wait).await;
        }
    }
}

/// Where events are subscribed to: a standard domain has a second host for that, any other serves both.
fn realtime(endpoint: &Endpoint) -> Uri {
    let scheme = endpoint.uri.scheme_str().unwrap_or("https");
    let mut host = endpoint.authority().to_ascii_lowercase();
    if endpoint.region.is_some() {
        host = host.replacen(".appsync-api.", ".appsync-realtime-api.", 1);
    }
    // Of parts that are in a URL already.
    format!("{scheme}://{host}{REALTIME_PATH}").parse().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standard_domain_has_a_host_of_its_own_for_subscriptions() {
        for (endpoint, url) in [
            (
                "https://abcdefghijklmnopqrstuvwxyz.appsync-api.eu-west-1.amazonaws.com/event",
                "https://abcdefghijklmnopqrstuvwxyz.appsync-realtime-api.eu-west-1.amazonaws.com/event/realtime",
            ),
            ("https://events.example.com/event", "https://events.example.com/event/realtime"),
            ("http://127.0.0.1:8787/event", "http://127.0.0.1:8787/event/realtime"),
        ] {
            assert_eq!(realtime(&Endpoint::of(endpoint, false).unwrap()), url);
        }
    }
}
