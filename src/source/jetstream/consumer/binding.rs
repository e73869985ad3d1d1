//! What is asked of a server about a stream and its consumer; every error is a clause with a hint.

use std::time::Duration;

use async_nats::jetstream::consumer::{Config, Info};
use async_nats::jetstream::context::{Context, RequestError, RequestErrorKind};
use async_nats::jetstream::response::Response;
use async_nats::jetstream::{ErrorCode, stream};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::config::nats::JetStreamConfig;
use crate::config::source::Limits;
use crate::source::jetstream::pulling::least_bytes;

/// A server that does not answer by then does not.
pub(in crate::source::jetstream) const ANSWER: Duration = Duration::from_secs(5);

/// A stream and a durable consumer of it, at a server.
#[derive(Clone)]
pub(in crate::source::jetstream) struct Binding {
    context: Context,
    stream: String,
    durable: String,
}

/// A consumer that is as the configuration wants it.
pub(in crate::source::jetstream) struct Bound {
    pub(in crate::source::jetstream) info: Info,
    /// It was not there before.
    pub(in crate::source::jetstream) created: bool,
}

/// Why there is no answer.
enum Refusal {
    Api(ErrorCode, String),
    Request(RequestErrorKind, String),
}

impl Binding {
    /// What `config` names, at the server of `client`.
    pub(in crate::source::jetstream) fn new(
        client: async_nats::Client,
        config: &JetStreamConfig,
    ) -> Self {
        let mut context = async_nats::jetstream::new(client);
        context.set_timeout(ANSWER);
        let (stream, durable) = (config.stream.clone(), config.durable.clone());
        Self { context, stream, durable }
    }

    /// The consumer as the configuration wants it, created if there is none. One that differs is an error.
    pub(in crate::source::jetstream) async fn bind(
        &self,
        wanted: &Config,
        limits: Limits,
    ) -> Result<Bound, String> {
        if let Some(info) = self.look(wanted, limits).await? {
            return Ok(Bound { info, created: false });
        }
        let (stream, durable) = (&self.stream, &self.durable);
        let request = json!({ "stream_name": stream, "config": wanted, "action": "create" });
        let subject = format!("CONSUMER.CREATE.{stream}.{durable}");
        let created = self.ask::<Info>(subject, &request).await;
        let info = created.map_err(|why| self.words("be created", why))?;
        // An older server leaves out what it does not know, and says nothing.
        let differences = super::differences(&info.config, wanted, limits);
        if differences.is_empty() {
            return Ok(Bound { info, created: true });
        }
        Err(format!(
            "the server made the consumer `{durable}` of the stream `{stream}` otherwise than it was asked to: {}; \
             several `subjects` need nats-server 2.10 or newer: upgrade it and delete that consumer, or give each subject \
             a source of its own",
            differences.join(", ")
        ))
    }

    /// The consumer, if there is one; an error if it differs from what is wanted.
    pub(in crate::source::jetstream) async fn look(
        &self,
        wanted: &Config,
        limits: Limits,
    ) -> Result<Option<Info>, String> {
        let Some(info) = self.info().await? else { return Ok(None) };
        let mut differences = super::differences(&info.config, wanted, limits);
        let least = least_bytes(self.context.client().max_payload());
        differences.extend(super::narrow(&info.config, least));
        if differences.is_empty() {
            return Ok(Some(info));
        }
        Err(format!(
            "the consumer `{}` of the stream `{}` differs from the configuration: {}; \
             change one of the two, or name another `durable`: an existing one is never changed",
            self.durable,
            self.stream,
            differences.join(", ")
        ))
    }

    /// The consumer as it is, if there is one.
    pub(in crate::source::jetstream) async fn info(&self) -> Result<Option<Info>, String> {
        let subject = format!("CONSUMER.INFO.{}.{}", self.stream, self.durable);
        match self.ask(subject, &json!({})).await {
            Ok(info) => Ok(Some(info)),
            Err(Refusal::Api(ErrorCode::CONSUMER_NOT_FOUND, _)) => Ok(None),
            Err(why) => Err(self.words("be looked up", why)),
        }
    }

    /// The state of the stream.
    pub(in crate::source::jetstream) async fn stream(&self) -> Result<stream::Info, String> {
        let found = self.ask(format!("STREAM.INFO.{}", self.stream), &json!({})).await;
        found.map_err(|why| self.words("be looked up", why))
    }

    /// Has the consumer begin again behind what was acknowledged without a gap. A server of 2.14 or newer can.
    pub(in crate::source::jetstream) async fn reset(&self) -> Result<Info, String> {
        self.ask(self.resets(), &json!({})).await.map_err(|why| self.words("be reset", why))
    }

    /// Where that is asked for.
    pub(super) fn resets(&self) -> String {
        format!("CONSUMER.RESET.{}.{}", self.stream, self.durable)
    }

    /// Where pull requests go.
    pub(in crate::source::jetstream) fn next(&self) -> String {
        format!("$JS.API.CONSUMER.MSG.NEXT.{}.{}", self.stream, self.durable)
    }

    /// Where the server says that a message will not be delivered any more.
    pub(in crate::source::jetstream) fn given_up(&self) -> String {
        let (stream, durable) = (&self.stream, &self.durable);
        format!("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{stream}.{durable}")
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        subject: String,
        request: &impl Serialize,
    ) -> Result<T, Refusal> {
        match self.context.request(subject, request).await {
            Ok(Response::Ok(answer)) => Ok(answer),
            Ok(Response::Err { error }) => Err(Refusal::Api(error.error_code(), error.to_string())),
            Err(error) => Err(Refusal::of(&error)),
        }
    }

    fn words(&self, verb: &str, why: Refusal) -> String {
        let (stream, durable) = (&self.stream, &self.durable);
        match why {
            Refusal::Api(ErrorCode::STREAM_NOT_FOUND, _) => {
                format!("there is no stream `{stream}`; create it, or check `stream`")
            }
            Refusal::Api(
                ErrorCode::JETSTREAM_NOT_ENABLED | ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT,
                _,
            )
            | Refusal::Request(RequestErrorKind::NoResponders, _) => {
                "JetStream is not enabled there; enable it at the server, for the account of the user"
                    .to_owned()
            }
            Refusal::Request(RequestErrorKind::TimedOut, _) => format!(
                "the consumer `{durable}` of the stream `{stream}` can't {verb}: no answer; \
                 if the server is well, the user lacks the permission for `$JS.API.>` and `_INBOX.>`"
            ),
            Refusal::Api(code, text) => {
                let hint = hint(code);
                format!("the consumer `{durable}` of the stream `{stream}` can't {verb}: {text}{hint}")
            }
            Refusal::Request(_, text) => {
                format!("the consumer `{durable}` of the stream `{stream}` can't {verb}: {text}")
            }
        }
    }
}

/// What to do about a refusal, behind the words of the server.
fn hint(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::CONSUMER_WQ_CONSUMER_NOT_DELIVER_ALL => "; say `deliver = \"all\"`",
        ErrorCode::CONSUMER_WQ_CONSUMER_NOT_UNIQUE | ErrorCode::CONSUMER_WQ_MULTIPLE_UNFILTERED => {
            "; another consumer takes this of the work queue: name it as `durable`, or other `subjects`"
        }
        ErrorCode::CONSUMER_MAX_PENDING_ACK_EXCESS => "; lower `max_in_flight`",
        ErrorCode::MAXIMUM_CONSUMERS_LIMIT => "; raise the limit of consumers, or delete one",
        _ => "",
    }
}

impl Refusal {
    fn of(error: &RequestError) -> Self {
        Self::Request(error.kind(), error.to_string())
    }
}
