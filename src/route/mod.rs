//! The routes: a table, and the decision of each route on a message.
//!
//! A route takes a message if its sources and its topic pattern match. It then either renders an event
//! and the channels it goes to, or rejects the message with a reason. Nothing here does I/O.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

mod capture;
mod decode;
mod foreign;
mod index;
pub mod meeting;
pub mod pattern;
mod placeholder;
pub mod template;
pub mod wildcard;

pub use capture::Capture;
pub use decode::Document;
pub use pattern::Pattern;
pub use placeholder::Context;
pub use template::Template;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::event_api::{Channel, EscapedLen, Event, MAX_EVENT_BYTES};
use crate::message::{Message, OrderKey, SourceName};
use index::Index;
use pattern::Values;

/// The name of a `[route.NAME]`.
pub type RouteName = Arc<str>;

/// A route as the operator described it, parsed and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Its name.
    pub name: RouteName,
    /// The sources it takes from.
    pub from: Vec<SourceName>,
    /// The topics it takes; `None`: all.
    pub topic: Option<Pattern>,
    /// The channels of its events, at least one.
    pub channels: Vec<Template>,
    /// The API they go to.
    pub api: Arc<str>,
    /// The ordering key of its events.
    pub order: OrderBy,
    /// At most one event of a key in a request.
    pub strict_order: bool,
    /// Attempts for an event that keeps failing by its own fault.
    pub give_up_after: u32,
    /// What is done with messages that can't be published.
    pub dead_letter: RejectTo,
}

/// `order_by`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OrderBy {
    /// The source's own key: the MQTT topic, the Kafka key, ….
    Source,
    /// Nothing is ordered.
    Nothing,
    /// A rendered text.
    Template(Template),
}

/// A route's `dead_letter`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RejectTo {
    /// The `[dead_letter.NAME]`.
    DeadLetter(Arc<str>),
    /// `"discard"`: losing rejects is meant.
    Discard,
    /// `"source"`: they are left to the broker, which has a rule for them.
    Source,
}

/// A mistake in a pattern or a template, for a caret below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The bytes of the text that are wrong.
    pub span: Range<usize>,
    /// What is wrong: a clause, lower case.
    pub problem: String,
    /// What to do.
    pub hint: String,
    /// Both without a word of the text, for who may not show that.
    pub plain: Option<(&'static str, &'static str)>,
}

impl Fault {
    /// `problem` and `hint` have no word of the text.
    fn new(span: Range<usize>, problem: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { span, problem: problem.into(), hint: hint.into(), plain: None }
    }

    /// `problem` or `hint` has words of the text; these have none.
    fn or_plain(mut self, problem: &'static str, hint: &'static str) -> Self {
        self.plain = Some((problem, hint));
        self
    }

    /// What is wrong and what to do, in words of the text only if it is `shown`.
    pub fn told(self, shown: bool) -> (String, String) {
        match self.plain.filter(|_| !shown) {
            Some((problem, hint)) => (problem.to_owned(), hint.to_owned()),
            None => (self.problem, self.hint),
        }
    }
}

/// Why a message can't be published, for its dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The kind, a label of metrics.
    pub reason: Reason,
    /// The text; nothing of a payload but a routing value, escaped and cut.
    pub detail: String,
}

/// The kinds of rejection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The message is not in the envelope that its source expects.
    BadEnvelope,
    /// The payload is not UTF-8.
    InvalidUtf8,
    /// The payload is not JSON.
    InvalidJson,
    /// The payload is nested too deep.
    TooDeep,
    /// The event is larger than an event may be.
    TooLarge,
    /// A value that a template names is missing, empty, or no text.
    NoRouteValue,
    /// A value does not fit into a channel.
    BadChannelSegment,
    /// A routing field or header stands twice.
    DuplicateKey,
    /// No route takes the message, and the source wants such messages kept.
    Unrouted,
    /// The Event API refused the event, or kept failing by the event's own fault.
    Refused,
}

/// The routes of a configuration.
#[derive(Clone, Debug)]
pub struct RouteTable {
    routes: Vec<Arc<Spec>>,
    index: Index,
}

/// The decision of one route on a message.
#[derive(Debug)]
pub struct Decision<'t> {
    /// The route.
    pub route: &'t Arc<Spec>,
    /// Its place in [`RouteTable::routes`].
    pub number: usize,
    /// An event with its channels, or why there is none.
    pub outcome: Result<Rendered, Rejection>,
}

/// An event, and its channels.
#[derive(Debug)]
pub struct Rendered {
    /// What the event is if not the payload of its message as it is: one JSON value.
    pub text: Option<Bytes>,
    /// Of the event.
    pub escaped_len: EscapedLen,
    /// Its channels, each one once, at least one.
    pub channels: SmallVec<[Channel; 1]>,
    /// Its ordering key, if it has one.
    pub order: Option<OrderKey>,
}

impl RouteTable {
    /// A table of `routes`.
    pub fn new(routes: impl IntoIterator<Item = Spec>) -> Self {
        let routes: Vec<_> = routes.into_iter().map(Arc::new).collect();
        let index = Index::new(routes.iter().map(Arc::as_ref));
        Self { routes, index }
    }

    /// The routes in the order of the file.
    pub fn routes(&self) -> &[Arc<Spec>] {
        &self.routes
    }

    /// Decides on `message`: one decision for each route that takes it, none if no route does. A
    /// payload of more than `limit` bytes, or with headers of more, is rejected unread.
    pub fn decide<'t>(
        &'t self,
        message: &Message,
        limit: usize,
    ) -> impl Iterator<Item = Decision<'t>> {
        // Read at the first route that takes the message, and once for all of them.
        let mut document = None;
        self.index.candidates(message).into_iter().filter_map(move |number| {
            let route = &self.routes[number];
            let captures = match &route.topic {
                Some(pattern) => pattern.matches(&message.topic)?,
                None => Values::new(),
            };
            let outcome = match document.get_or_insert_with(|| read(message, limit)) {
                Ok(document) => route.render(&Context { message, captures: &captures, document }),
                Err(rejection) => Err(rejection.clone()),
            };
            Some(Decision { route, number, outcome })
        })
    }
}

fn read(message: &Message, limit: usize) -> Result<Document<'_>, Rejection> {
    let size = message.payload.len();
    let source = "the source takes packets of";
    let (who, most) =
        if limit < MAX_EVENT_BYTES { (source, limit) } else { ("an event has", MAX_EVENT_BYTES) };
    if size > most {
        let detail = format!("the payload has {size} bytes, {who} at most {most}");
        return Err(Rejection::new(Reason::TooLarge, detail));
    }
    let headers = message.headers.iter().map(|(name, value)| name.len() + value.len());
    let headers = headers.sum::<usize>();
    if headers > limit {
        let detail = format!("the headers have {headers} bytes, {source} at most {limit}");
        return Err(Rejection::new(Reason::TooLarge, detail));
    }
    Document::parse(&message.payload)
}

impl Spec {
    fn render(&self, context: &Context<'_>) -> Result<Rendered, Rejection> {
        let mut channels = SmallVec::with_capacity(self.channels.len());
        for template in &self.channels {
            let channel = template.render_channel(context)?;
            if !channels.contains(&channel) {
                channels.push(channel);
            }
        }
        let order = match &self.order {
            OrderBy::Source => context.message.order.clone(),
            OrderBy::Nothing => None,
            OrderBy::Template(template) => Some(template.render_text(context)?.into_bytes().into()),
        };
        let event = Event::from_checked_json(&context.message.payload)
            .map_err(|e| Rejection::new(Reason::TooLarge, e.to_string()))?;
        Ok(Rendered { text: None, escaped_len: event.escaped_len(), channels, order })
    }
}

impl Rejection {
    /// A rejection.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

impl Reason {
    /// Every reason, for metrics that start at zero.
    pub const ALL: [Self; 10] = [
        Self::BadEnvelope,
        Self::InvalidUtf8,
        Self::InvalidJson,
        Self::TooDeep,
        Self::TooLarge,
        Self::NoRouteValue,
        Self::BadChannelSegment,
        Self::DuplicateKey,
        Self::Unrouted,
        Self::Refused,
    ];

    /// The reasons that a message can have at a route.
    pub const OF_ROUTES: [Self; 8] = [
        Self::BadEnvelope,
        Self::InvalidUtf8,
        Self::InvalidJson,
        Self::TooDeep,
        Self::TooLarge,
        Self::NoRouteValue,
        Self::BadChannelSegment,
        Self::DuplicateKey,
    ];

    /// The word in metrics and dead letters.
    pub fn word(self) -> &'static str {
        match self {
            Self::BadEnvelope => "bad_envelope",
            Self::InvalidUtf8 => "invalid_utf8",
            Self::InvalidJson => "invalid_json",
            Self::TooDeep => "too_deep",
            Self::TooLarge => "too_large",
            Self::NoRouteValue => "no_route_value",
            Self::BadChannelSegment => "bad_channel_segment",
            Self::DuplicateKey => "duplicate_key",
            Self::Unrouted => "unrouted",
            Self::Refused => "refused",
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason.word(), self.detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Coordinates, Topic};

    pub(super) fn spec(name: &str, topic: Option<&str>, channels: &[&str]) -> Spec {
        let topic = topic.map(|t| Pattern::parse(t, '/').unwrap());
        let captures = topic.as_ref().map_or(&[][..], Pattern::captures);
        let channels = channels.iter().map(|c| Template::channel(c, captures).unwrap()).collect();
        Spec {
            name: name.into(),
            from: vec!["plant".into()],
            channels,
            topic,
            api: "main".into(),
            order: OrderBy::Source,
            strict_order: false,
            give_up_after: 5,
            dead_letter: RejectTo::Discard,
        }
    }

    pub(super) fn message(source: &str, topic: &str, payload: impl Into<Bytes>) -> Message {
        Message {
            source: source.into(),
            topic: Topic::new(topic, '/'),
            key: None,
            headers: Vec::new(),
            payload: payload.into(),
            order: Some(topic.as_bytes().into()),
            published: None,
            expires: None,
            coordinates: Coordinates::default(),
        }
    }

    #[test]
    fn every_route_that_fits_applies_and_channels_are_not_doubled() {
        let table = RouteTable::new([
            spec("one", Some("plant/{site}"), &["/plant/{site}", "/plant/all"]),
            spec("any", None, &["/audit/{topic..}"]),
            spec("not", Some("else/{site}"), &["/plant/{site}"]),
        ]);
        let channels = |topic: &str| -> Vec<Vec<String>> {
            let message = message("plant", topic, "{}");
            table
                .decide(&message, usize::MAX)
                .map(|d| {
                    d.outcome.as_ref().unwrap().channels.iter().map(ToString::to_string).collect()
                })
                .collect()
        };
        assert_eq!(channels("plant/a"), [vec!["/plant/a", "/plant/all"], vec!["/audit/plant/a"]]);
        assert_eq!(channels("plant/all"), [vec!["/plant/all"], vec!["/audit/plant/all"]]);
        assert_eq!(table.decide(&message("other", "plant/a", "{}"), usize::MAX).count(), 0);
    }

    #[test]
    fn a_payload_that_is_too_large_is_not_even_read() {
        let table = RouteTable::new([spec("one", None, &["/plant/x"])]);
        let mut message = message("plant", "t", vec![b'x'; 300_000]);
        let reason = |message: &Message, limit| {
            let decision = table.decide(message, limit).next().unwrap();
            decision.outcome.err().map(|rejection| rejection.reason)
        };
        assert_eq!(reason(&message, usize::MAX), Some(Reason::TooLarge));
        message.payload = Bytes::from_static(b"1");
        message.headers = vec![("n".to_owned(), vec![b'v'; 99].into())];
        assert_eq!((reason(&message, 100), reason(&message, 99)), (None, Some(Reason::TooLarge)));
    }

    #[test]
    fn the_order_key_follows_order_by() {
        let mut route = spec("one", None, &["/plant/x"]);
        let order = |route: &Spec| {
            let table = RouteTable::new([route.clone()]);
            let message = message("plant", "t", r#"{"id":"a b"}"#);
            table.decide(&message, usize::MAX).next().unwrap().outcome.unwrap().order
        };
        assert_eq!(order(&route).as_deref(), Some(&b"t"[..]));
        route.order = OrderBy::Nothing;
        assert_eq!(order(&route), None);
        route.order = OrderBy::Template(Template::free_text("{json.id}/{topic}", &[]).unwrap());
        assert_eq!(order(&route).as_deref(), Some(&b"a b/t"[..]));
    }
}
