//! What the server itself says of a consumer and its stream while it is bound: figures, and what is wrong.

use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::Info;
use async_nats::jetstream::stream;
use async_nats::{Client, Message, Subscriber};
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use tokio::time::timeout;
use tracing::warn;

use super::consumer::{self, Binding};
use super::flight::is_ahead;
use crate::message::SourceName;
use crate::metrics::JetStreamMetrics;
use crate::repeats::Repeats;

/// How often the figures are asked for.
const EVERY: Duration = Duration::from_secs(5);

/// A client that takes no command by then is without a connection.
pub(super) const PATIENCE: Duration = Duration::from_millis(500);

/// What repeats is said so often.
const SAY_EVERY: Duration = Duration::from_mins(1);

/// The figures of one consumer.
pub(super) struct Watching {
    source: SourceName,
    binding: Binding,
    metrics: JetStreamMetrics,
    asked: Option<Instant>,
    /// Whether it answers for the stream: who may not ask has no answer, and the client keeps each such question.
    stream: bool,
    answer: Option<BoxFuture<'static, Result<Figures, String>>>,
    /// Told where the consumer gives messages up.
    advisories: Option<Subscriber>,
    gaps: Repeats,
    given_up: Repeats,
    /// What was said last of filters that fit nothing of the stream.
    astray: Option<String>,
}

/// A consumer, and its stream if we may ask for it.
type Figures = (Option<Info>, Option<stream::Info>);

/// What was heard.
pub(super) enum Word {
    /// The consumer as it is, and why it will deliver nothing, if so.
    Found(Box<Info>, Option<String>),
    /// There is none.
    Gone,
    /// Nothing that matters to others.
    Other,
}

impl Watching {
    /// Watches the consumer of `binding`.
    pub(super) fn new(source: SourceName, binding: Binding, metrics: JetStreamMetrics) -> Self {
        let (gaps, given_up) = (Repeats::default(), Repeats::default());
        Self {
            source,
            binding,
            metrics,
            asked: None,
            stream: true,
            answer: None,
            advisories: None,
            gaps,
            given_up,
            astray: None,
        }
    }

    /// Asks for the figures if it is time to.
    pub(super) fn look(&mut self, now: Instant) {
        if self.answer.is_none() && self.asked.is_none_or(|at| now.duration_since(at) >= EVERY) {
            self.asked = Some(now);
            let (binding, of_stream) = (self.binding.clone(), self.stream);
            self.answer = Some(Box::pin(async move {
                // The stream later: what is written in between makes no alarm.
                let consumer = binding.info().await?;
                Ok((consumer, if of_stream { binding.stream().await.ok() } else { None }))
            }));
        }
    }

    /// The consumer is bound anew: the stream is asked for again, and what was asked before is of another.
    pub(super) fn bound(&mut self) {
        (self.stream, self.answer) = (true, None);
    }

    /// Forgets what is asked: the connection is lost.
    pub(super) fn stop(&mut self) {
        (self.asked, self.answer) = (None, None);
    }

    /// The consumer gives messages up, and says so where we listen from now on.
    pub(super) async fn listen(&mut self, client: &Client) {
        if self.advisories.is_none() {
            let subscribed = timeout(PATIENCE, client.subscribe(self.binding.given_up())).await;
            self.advisories = subscribed.ok().and_then(Result::ok);
        }
    }

    /// Waits for what the server says.
    pub(super) async fn word(&mut self) -> Word {
        let Self { answer, advisories, .. } = self;
        let figures = async {
            match answer {
                Some(answer) => answer.await,
                None => std::future::pending().await,
            }
        };
        let advisory = async {
            match advisories {
                Some(advisories) => advisories.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            figures = figures => {
                self.answer = None;
                match figures {
                    Ok((Some(consumer), stream)) => {
                        self.stream = stream.is_some();
                        self.is_astray(&consumer, stream.as_ref());
                        let why = evaluate(&self.metrics, &consumer, stream.as_ref());
                        Word::Found(Box::new(consumer), why)
                    }
                    Ok((None, _)) => Word::Gone,
                    // Whoever pulls hears of it.
                    Err(_) => Word::Other,
                }
            }
            advisory = advisory => {
                match advisory {
                    Some(advisory) => self.gave_up(&advisory),
                    None => self.advisories = None,
                }
                Word::Other
            }
        }
    }

    /// So many messages were removed from the stream before they were delivered.
    pub(super) fn gap(&mut self, messages: u64, now: Instant) {
        let count = self.metrics.gaps.inc_by(messages) + messages;
        if let Some(count) = self.gaps.reached(count, SAY_EVERY, now) {
            warn!(
                source = %self.source,
                count,
                "messages were removed from the stream before they were delivered; are its limits too narrow?"
            );
        }
    }

    fn is_astray(&mut self, consumer: &Info, stream: Option<&stream::Info>) {
        let Some(stream) = stream else { return };
        let astray = consumer::astray(&consumer.config, &stream.config);
        if astray != self.astray
            && let Some(why) = &astray
        {
            warn!(source = %self.source, "{why}");
        }
        self.astray = astray;
    }

    fn gave_up(&mut self, advisory: &Message) {
        self.metrics.given_up.inc();
        let Some(times) = self.given_up.again(SAY_EVERY, Instant::now()) else { return };
        let told: serde_json::Value = serde_json::from_slice(&advisory.payload).unwrap_or_default();
        warn!(
            source = %self.source,
            times,
            sequence = %told["stream_seq"],
            deliveries = %told["deliveries"],
            "a message was delivered as often as the consumer's `max_deliver` allows and will not come again; \
             it is still in the stream"
        );
    }
}

/// Sets the numbers, and says why nothing will be delivered, if that is so.
fn evaluate(
    metrics: &JetStreamMetrics,
    consumer: &Info,
    stream: Option<&stream::Info>,
) -> Option<String> {
    let signed = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    metrics.lag.set(signed(consumer.num_pending));
    metrics.ack_pending.set(signed(consumer.num_ack_pending as u64));
    let (floor, delivered) =
        (consumer.ack_floor.stream_sequence, consumer.delivered.stream_sequence);
    let last = stream.map(|stream| stream.state.last_sequence);
    let ahead = last.filter(|last| is_ahead(floor, delivered, *last));
    metrics.ahead.set(i64::from(ahead.is_some()));
    let (name, stream) = (&consumer.name, &consumer.stream_name);
    if let Some(last) = ahead {
        let stands = floor.max(delivered);
        return Some(format!(
            "the consumer `{name}` stands at the sequence {stands}, ahead of the last of its stream `{stream}`, \
             which is {last}, as after a loss of data: what is written up to there will not be delivered; \
             reset the consumer, or delete it and it is made anew"
        ));
    }
    consumer.paused.then(|| {
        format!("the consumer `{name}` is paused; `nats consumer resume {stream} {name}` ends that")
    })
}
