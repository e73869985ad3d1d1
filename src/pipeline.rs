//! The middle: a delivery is routed, its events go to the publishers, and messages that can't be published to
//! the dead letter, which has to confirm before the message is settled.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::{Mutex, RwLock};
use tokio::sync::mpsc;
use tracing::warn;

use crate::dead_letter::{Letter, Record};
use crate::delivery::{Delivery, Done, Outcome};
use crate::message::{SourceName, Topic};
use crate::metrics::{Metrics, RouteMetrics, SourceMetrics};
use crate::publish::{Addressed, Entry, Refused, Text};
use crate::repeats::Repeats;
use crate::route::{
    Decision, Reason, RejectTo, Rejection, Rendered, RouteName, RouteTable, Spec, Template,
};
use crate::trace::Tracer;

/// Interval of log lines on dropped messages.
const LOG_EVERY: Duration = Duration::from_mins(5);

/// The properties of a source that the pipeline needs.
#[derive(Debug)]
pub struct SourcePolicy {
    /// A larger payload is dead-lettered unread, in bytes.
    pub max_payload: usize,
    /// The dead letter for messages that no route takes; `None`: they are dropped, and counted.
    pub unrouted: Option<RejectTo>,
    /// What conventions call its broker, for traces.
    pub system: &'static str,
    /// Its numbers.
    pub metrics: SourceMetrics,
}

/// Routes deliveries, each on the thread of its source: whatever a message touches is at hand there.
#[derive(Debug)]
pub struct Pipeline {
    table: Arc<RouteTable>,
    /// In the order of the table; `None` without a publisher, which no configuration is.
    routes: Vec<Option<RouteState>>,
    /// A few, looked up for each message: a list is faster than a table.
    sources: Vec<SourceState>,
    rejects: Rejects,
    tracer: Option<Tracer>,
}

#[derive(Debug)]
struct SourceState {
    name: SourceName,
    policy: SourcePolicy,
    /// Dropped messages, which no route takes.
    unrouted: Mutex<Repeats>,
}

#[derive(Debug)]
struct RouteState {
    publisher: mpsc::UnboundedSender<Addressed>,
    metrics: RouteMetrics,
}

/// Takes rejected messages to their dead letters; all clones share these.
#[derive(Clone, Debug)]
pub struct Rejects {
    letters: Arc<RwLock<HashMap<Arc<str>, mpsc::UnboundedSender<Letter>>>>,
}

impl Pipeline {
    /// A pipeline over `table`. Every API that a route names has an entry in `publishers`.
    pub fn new(
        table: Arc<RouteTable>,
        sources: HashMap<SourceName, SourcePolicy>,
        publishers: &HashMap<Arc<str>, mpsc::UnboundedSender<Addressed>>,
        rejects: Rejects,
        metrics: &Metrics,
    ) -> Self {
        let state = |route: &Arc<Spec>| {
            let publisher = publishers.get(&route.api)?.clone();
            let metrics = metrics.route(&route.name, Reason::OF_ROUTES.map(Reason::word));
            Some(RouteState { publisher, metrics })
        };
        let routes = table.routes().iter().map(state).collect();
        for api in publishers.keys() {
            let of_api = table.routes().iter().filter(|route| route.api == *api);
            metrics.namespaces(api, of_api.flat_map(|r| &r.channels).map(Template::namespace));
        }
        let sources = sources.into_iter();
        let sources = sources
            .map(|(name, policy)| SourceState { name, policy, unrouted: Mutex::default() })
            .collect();
        Self { table, routes, sources, rejects, tracer: None }
    }

    /// The same with spans for its messages.
    #[must_use]
    pub fn traced(self, tracer: Option<Tracer>) -> Self {
        Self { tracer, ..self }
    }

    /// Routes a delivery. Never waits.
    pub fn route(&self, mut delivery: Delivery) {
        let source = self.source_of(&delivery);
        let limit = source.map_or(usize::MAX, |source| source.policy.max_payload);
        if let (Some(tracer), Some(source)) = (&self.tracer, source) {
            delivery.begin_trace(tracer, source.policy.system);
        }
        let mut routed = false;
        for decision in self.table.decide(delivery.message(), limit) {
            routed = true;
            self.apply(&delivery, as_read(&delivery, decision));
        }
        if !routed {
            return self.unrouted(delivery);
        }
        // Every part has its own duty now; this outcome is the best, so the worst of theirs wins.
        delivery.settle(Outcome::Accepted(Done::Published));
    }

    fn apply(&self, delivery: &Delivery, decision: Decision<'_>) {
        let Decision { route, number, outcome } = decision;
        // A part that is dropped releases the message.
        let Some(state) = &self.routes[number] else { return drop(delivery.split()) };
        state.metrics.matched.inc();
        match outcome {
            Ok(rendered) => {
                for entry in entries(delivery, rendered, route) {
                    // A publisher that is gone drops the entry, which releases it.
                    drop(state.publisher.send(entry));
                }
            }
            Err(rejection) => {
                state.metrics.reject(rejection.reason.word());
                self.rejects.reject(delivery.split(), route, None, rejection);
            }
        }
    }

    fn source_of(&self, delivery: &Delivery) -> Option<&SourceState> {
        let name = &delivery.message().source;
        self.sources.iter().find(|source| source.name == *name)
    }

    fn unrouted(&self, delivery: Delivery) {
        let Some(source) = self.source_of(&delivery) else { return };
        source.policy.metrics.unrouted.inc();
        match &source.policy.unrouted {
            None => {
                source.dropped(&delivery.message().topic);
                delivery.settle(Outcome::Accepted(Done::Unrouted));
            }
            Some(to) => {
                let rejection = match delivery.why_unreadable() {
                    // A replay has to know that it is still in its envelope.
                    Some(why) => Rejection::new(Reason::BadEnvelope, why),
                    None => Rejection::new(Reason::Unrouted, "no route takes this topic"),
                };
                self.rejects.send(to, delivery, None, None, rejection);
            }
        }
    }
}

impl SourceState {
    /// Logs that no route takes `topic`, unless a line was logged just now.
    fn dropped(&self, topic: &Topic) {
        let mut unrouted = self.unrouted.lock();
        if let Some(count) = unrouted.again(LOG_EVERY, Instant::now()) {
            let hint = "give it a route, or keep such messages with `unrouted = \"dead-letter\"` in the source";
            warn!(source = %self.name, topic = topic.as_str(), count, hint, "no route takes this topic; dropping its messages");
        }
    }
}

impl Drop for SourceState {
    /// Logs the count since the last line, which would else be lost.
    fn drop(&mut self) {
        let count = self.unrouted.get_mut().rest();
        if count > 0 {
            warn!(source = %self.name, count, "more messages were dropped since, because no route takes them");
        }
    }
}

/// The decision on a message as its source could read it: of what it could not, a route may not make anything.
fn as_read<'t>(delivery: &Delivery, decision: Decision<'t>) -> Decision<'t> {
    match delivery.why_unreadable() {
        None => decision,
        Some(why) => {
            Decision { outcome: Err(Rejection::new(Reason::BadEnvelope, why)), ..decision }
        }
    }
}

/// An entry for each channel of `rendered`, each with a part of the duty. A text of their own they share,
/// and the message is charged for it.
pub fn entries(
    delivery: &Delivery,
    rendered: Rendered,
    route: &Arc<Spec>,
) -> impl Iterator<Item = Addressed> {
    let Rendered { text, escaped_len, channels, order } = rendered;
    let text = text.map(|text| Text::charge(text, delivery));
    channels.into_iter().map(move |channel| {
        let route = Arc::clone(route);
        let trace = delivery.trace().map(|trace| {
            let channel = channel.to_string();
            trace.event(&route.name, &route.api, &channel, escaped_len.bytes())
        });
        let mut entry = Entry::new(delivery.split(), escaped_len, order.clone(), route);
        if let Some(trace) = trace {
            entry = entry.with_trace(trace);
        }
        if let Some(text) = &text {
            entry = entry.with_text(text.clone());
        }
        (channel, entry)
    })
}

impl Rejects {
    /// Every dead letter that a route names has an entry in `letters`.
    pub fn new(letters: HashMap<Arc<str>, mpsc::UnboundedSender<Letter>>) -> Self {
        Self { letters: Arc::new(RwLock::new(letters)) }
    }

    /// Letters to the dead letter of this name go there from now on.
    pub fn put(&self, name: Arc<str>, letters: mpsc::UnboundedSender<Letter>) {
        self.letters.write().insert(name, letters);
    }

    /// No route names this dead letter any more, nor any event that a publisher may still hand back.
    pub fn remove(&self, name: &str) {
        self.letters.write().remove(name);
    }

    /// Takes events that the publishers hand back, until those have ended.
    pub async fn run(self, mut refused: mpsc::UnboundedReceiver<Refused>) {
        while let Some(Refused { entry, channel, why }) = refused.recv().await {
            let route = Arc::clone(entry.route());
            let rejection = Rejection::new(Reason::Refused, why);
            self.reject(entry.delivery, &route, Some(channel.to_string()), rejection);
        }
    }

    fn reject(
        &self,
        delivery: Delivery,
        route: &Spec,
        channel: Option<String>,
        rejection: Rejection,
    ) {
        let name = Arc::clone(&route.name);
        self.send(&route.dead_letter, delivery, Some(name), channel, rejection);
    }

    fn send(
        &self,
        to: &RejectTo,
        delivery: Delivery,
        route: Option<RouteName>,
        channel: Option<String>,
        rejection: Rejection,
    ) {
        if let Some(trace) = delivery.trace() {
            trace.rejected(route.as_deref(), rejection.reason.word());
        }
        let name = match to {
            RejectTo::Discard => return delivery.settle(Outcome::Accepted(Done::Discarded)),
            RejectTo::Source => return delivery.settle(Outcome::Rejected),
            RejectTo::DeadLetter(name) => name,
        };
        let Rejection { reason, detail } = rejection;
        let record = Record {
            message: Arc::new(delivery.message().clone()),
            route,
            channel,
            reason: reason.word(),
            detail,
            at: SystemTime::now(),
            first: None,
        };
        // Without a target the delivery is dropped, which releases the message.
        if let Some(letters) = self.letters.read().get(name) {
            drop(letters.send(Letter::new(record, delivery)));
        }
    }
}

#[cfg(test)]
#[path = "pipeline_tests.rs"]
mod tests;
