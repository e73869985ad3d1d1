//! Traces: a span for each message, from its taking to its end, one for each event of it, and one for each request,
//! which links to the events in it.
//!
//! A message that brings a sampled trace (the header `traceparent`) is a part of it, one that brings another is of
//! none, and of those that bring nothing a share begins a trace of its own. Without a [`Tracer`] nothing is made:
//! a message then costs one look at an option. Spans go to a queue that has an end, and never wait for it: what has
//! no room there is counted. Who takes them from there is not the business of this module.

mod context;
mod span;

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::mpsc;

pub use context::{Parent, SpanId, TraceId};
pub use span::{Attribute, Kind, Note, Place, Span, Value};

use crate::error_chain::printable;
use crate::message::Message;

/// Characters of a reason that a span keeps.
const MOST_WORDS: usize = 300;

/// Characters of a topic that a span keeps: one of MQTT has up to 65,535 bytes, and thousands of spans may wait.
const MOST_TOPIC: usize = 1_000;

/// The outcome of an event that nobody settled.
const RELEASED: &str = "released";

/// The outcome of an event that is never to be published.
const REFUSED: &str = "rejected";

/// Begins the spans of messages, and hands over those that have ended. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tracer(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    sample: f64,
    queue: mpsc::Sender<Span>,
    dropped: Counter,
}

/// The span of a message.
#[derive(Debug)]
pub struct MessageTrace {
    tracer: Tracer,
    span: Mutex<Span>,
}

/// The span of an event, from its making to its end. Dropped, it says that the event was given back.
#[derive(Debug)]
pub struct EventTrace {
    tracer: Tracer,
    /// `None` once it has ended.
    span: Option<Span>,
}

/// A request that has ended.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The API that was asked.
    pub api: &'a str,
    /// Where its events go.
    pub channel: &'a str,
    /// How many there were.
    pub events: usize,
    /// When it was sent.
    pub began: Instant,
    /// When it ended.
    pub ended: Instant,
    /// The status of its answer, or the fault and the reason why there was none.
    pub result: Result<u16, (&'static str, &'a str)>,
}

impl Tracer {
    /// Hands spans to `queue`, and counts what has no room there. Of the messages without a trace, `sample`, from 0
    /// to 1, begin one.
    pub fn new(sample: f64, queue: mpsc::Sender<Span>, dropped: Counter) -> Self {
        Self(Arc::new(Shared { sample, queue, dropped }))
    }

    /// The span of a message that was taken now, from a broker that conventions call `system`; `None` if it is not
    /// traced.
    pub fn begin(&self, message: &Message, system: &'static str) -> Option<MessageTrace> {
        let parent = Parent::of(&message.headers);
        let sampled = match &parent {
            Some(parent) => parent.sampled,
            None => self.0.sample > 0.0 && rand::random::<f64>() < self.0.sample,
        };
        if !sampled {
            return None;
        }
        let (trace, parent, state) = match parent {
            Some(Parent { trace, span, state, .. }) => (trace, Some(span), state),
            None => (rand::random::<u128>().max(1).to_be_bytes(), None, Box::default()),
        };
        let name = format!("process {}", message.source);
        let mut span = Span::new(Place { trace, span: new_id() }, parent, Kind::Consumer, name);
        span.state = state;
        span.set("messaging.system", system);
        span.set("messaging.operation.name", "process");
        span.set("messaging.operation.type", "process");
        let topic = message.topic.as_str().chars().take(MOST_TOPIC).collect::<String>();
        span.set("messaging.destination.name", topic);
        span.set("messaging.message.body.size", message.payload.len());
        span.set("appsync_bridge.source", message.source.to_string());
        for (name, value) in message.coordinates.named() {
            match &*name {
                "partition" => span.set("messaging.destination.partition.id", value),
                "message_id" => span.set("messaging.message.id", value),
                name => {
                    let value = value.parse().map_or(Value::from(value), Value::Number);
                    span.set(format!("messaging.{system}.{name}"), value);
                }
            }
        }
        Some(MessageTrace { tracer: self.clone(), span: Mutex::new(span) })
    }

    /// Hands a span over that ends now, or counts it.
    fn end(&self, mut span: Span, outcome: &'static str, error: Option<String>) {
        span.ended = SystemTime::now();
        span.set("appsync_bridge.outcome", outcome);
        span.error = error;
        self.hand_over(span);
    }

    fn hand_over(&self, span: Span) {
        if self.0.queue.try_send(span).is_err() {
            self.0.dropped.inc();
        }
    }
}

impl MessageTrace {
    /// The span of an event of `bytes` that `route` made of the message for a channel of `api`.
    pub fn event(&self, route: &str, api: &str, channel: &str, bytes: usize) -> EventTrace {
        let (whole, state) = {
            let span = self.span.lock();
            (span.at, span.state.clone())
        };
        let name = format!("publish {route}");
        let at = Place { span: new_id(), ..whole };
        let mut span = Span::new(at, Some(whole.span), Kind::Producer, name);
        span.state = state;
        set_target(&mut span, api, channel);
        span.set("messaging.operation.name", "publish");
        span.set("messaging.message.body.size", bytes);
        span.set("appsync_bridge.route", route.to_owned());
        EventTrace { tracer: self.tracer.clone(), span: Some(span) }
    }

    /// No event could be made of the message, for `reason`; `None`: by no route.
    pub fn rejected(&self, route: Option<&str>, reason: &'static str) {
        let mut attributes = vec![("appsync_bridge.reason".into(), reason.into())];
        attributes
            .extend(route.map(|route| ("appsync_bridge.route".into(), route.to_owned().into())));
        let mut span = self.span.lock();
        span.note("rejected", attributes);
        span.error.get_or_insert_with(|| reason.to_owned());
    }

    /// The duty of the message has ended. An outcome that is `bad` is a failure of the whole.
    pub fn end(self, outcome: &'static str, bad: bool) {
        let mut span = self.span.into_inner();
        let why = span.error.take();
        let error = bad.then(|| why.map_or(outcome.to_owned(), |why| format!("{outcome}: {why}")));
        self.tracer.end(span, outcome, error);
    }
}

impl EventTrace {
    /// The event is to be sent again, because of `fault`.
    pub fn retried(&mut self, fault: &'static str) {
        if let Some(span) = &mut self.span {
            span.note("retry", vec![("error.type".into(), fault.into())]);
        }
    }

    /// The event is done.
    pub fn end(mut self, outcome: &'static str) {
        self.finish(outcome, None);
    }

    /// The API will never take the event.
    pub fn refused(mut self, why: &str) {
        self.finish(REFUSED, Some(why));
    }

    fn finish(&mut self, outcome: &'static str, why: Option<&str>) {
        if let Some(span) = self.span.take() {
            self.tracer.end(span, outcome, why.map(|why| printable(why, MOST_WORDS)));
        }
    }
}

impl Drop for EventTrace {
    fn drop(&mut self) {
        self.finish(RELEASED, Some(RELEASED));
    }
}

impl Request<'_> {
    /// Makes its span, if some of its events are traced: a part of the first one's, with a link to each.
    pub fn trace<'e>(self, events: impl Iterator<Item = &'e EventTrace>) {
        let mut tracer = None;
        let mut links = Vec::new();
        for EventTrace { tracer: one, span } in events {
            tracer.get_or_insert(one);
            links.extend(span.as_ref().map(|span| (span.at, &span.state)));
        }
        let (Some(tracer), Some((first, state))) = (tracer, links.first()) else { return };
        let at = Place { span: new_id(), ..*first };
        let name = format!("POST {}", self.api);
        let mut span = Span::new(at, Some(first.span), Kind::Client, name);
        span.state = (*state).clone();
        span.links = links.iter().map(|(place, _)| *place).collect();
        let took = self.ended.saturating_duration_since(self.began);
        span.began = span.ended.checked_sub(took).unwrap_or(span.ended);
        set_target(&mut span, self.api, self.channel);
        span.set("messaging.operation.name", "send");
        span.set("messaging.batch.message_count", self.events);
        span.set("http.request.method", "POST");
        match self.result {
            Ok(status) => {
                span.set("http.response.status_code", usize::from(status));
                if status >= 400 {
                    span.set("error.type", status.to_string());
                    span.error = Some(format!("HTTP status {status}"));
                }
            }
            Err((fault, why)) => {
                span.set("error.type", fault);
                span.error = Some(printable(why, MOST_WORDS));
            }
        }
        tracer.hand_over(span);
    }
}

/// Where an event goes.
fn set_target(span: &mut Span, api: &str, channel: &str) {
    span.set("messaging.system", "aws_appsync_events");
    span.set("messaging.operation.type", "send");
    span.set("messaging.destination.name", channel.to_owned());
    span.set("appsync_bridge.api", api.to_owned());
}

fn new_id() -> SpanId {
    rand::random::<u64>().max(1).to_be_bytes()
}

#[cfg(test)]
mod tests;
