//! What the publisher is given, and what it hands back.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::blame::Silence;
use super::lanes::Item;
use super::limit::Scope;
use crate::delivery::{Delivery, Endings, OrderKey, Outcome};
use crate::event_api::{Channel, EscapedLen, Event};
use crate::route::Spec;
use crate::trace::EventTrace;

/// One event on its way. Thousands wait at a time, so it is kept small: nearly always its text is its
/// message's, and nothing went wrong.
#[derive(Debug)]
pub struct Entry {
    /// The message, and this event's part of the duty.
    pub delivery: Delivery,
    order: Option<OrderKey>,
    /// Its own hold on it: the table that it was decided by may be another one when its answer comes.
    route: Arc<Spec>,
    /// The route's, which every batch asks for: the route itself is read only when something went wrong.
    strict_order: bool,
    /// Its message is of no use after some time, which is read there.
    expires: bool,
    escaped_len: EscapedLen,
    rare: Option<Box<Rare>>,
}

/// What few entries have.
#[derive(Debug, Default)]
struct Rare {
    /// `None`: the event is the payload of its message.
    text: Option<Text>,
    tries: Tries,
    trace: Option<Box<EventTrace>>,
}

/// The text of an event that is not the payload of its message. It is charged to the message for as long as
/// that is in flight, once for all the entries that share it.
#[derive(Clone, Debug)]
pub struct Text(Bytes);

/// An entry and where it goes.
pub type Addressed = (Channel, Entry);

/// What happened to an entry so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tries {
    pub(super) failures: u32,
    pub(super) own_faults: u32,
    /// How often it was throttled by itself.
    pub(super) throttled: u32,
    pub(super) alone: bool,
    /// How often, in all, it was sent without an answer that decides.
    pub(super) unanswered: u32,
    /// What it met when it was so alone.
    pub(super) silence: Option<Silence>,
    /// Since when its namespace refused events, when it last was one of them.
    pub(super) refused_in: Option<Instant>,
    /// When its namespace, and the API as a whole, last refused a request with it.
    pub(super) refused_at: Option<Instant>,
    pub(super) refused_by_api_at: Option<Instant>,
    /// When it last was the probe of an API in trouble, in vain.
    pub(super) in_vain_at: Option<Instant>,
    /// When the API first and last called a request with it bad.
    pub(super) bad_since: Option<Instant>,
    pub(super) bad_at: Option<Instant>,
    /// How often it did so of this one alone, and takes others.
    pub(super) bad_alone: u32,
    /// How often it did so of this one alone, and had taken nothing else since this last time.
    pub(super) bad_in_vain: u32,
    pub(super) in_vain_since: Option<Instant>,
    /// Once it was in vain, what it was called before that counts no more.
    pub(super) doubted: bool,
    /// It is called bad with no other proof that others are taken than the one of this time.
    pub(super) leans_on: Option<Instant>,
    /// When the newest request was sent because of which the API asked for a wait.
    pub(super) wait_asked: Option<Instant>,
}

impl Tries {
    /// When `scope` last refused a request with it.
    pub(super) fn refused_by(&mut self, scope: &Scope) -> &mut Option<Instant> {
        match scope {
            Scope::Api => &mut self.refused_by_api_at,
            Scope::Namespace(_) => &mut self.refused_at,
        }
    }
}

/// An entry that the API will never take, with the reason.
#[derive(Debug)]
pub struct Refused {
    /// The entry.
    pub entry: Entry,
    /// Where it was to go.
    pub channel: Channel,
    /// In the words of the API.
    pub why: String,
}

impl Text {
    /// `text`, which was made of `delivery`'s message.
    pub fn charge(text: Bytes, delivery: &Delivery) -> Self {
        delivery.charge(text.len());
        Self(text)
    }
}

impl Entry {
    /// The payload of `delivery`'s message as an event that was checked, with what orders it.
    pub fn new(
        delivery: Delivery,
        escaped_len: EscapedLen,
        order: Option<OrderKey>,
        route: Arc<Spec>,
    ) -> Self {
        let strict_order = route.strict_order;
        let expires = delivery.message().expires.is_some();
        Self { delivery, order, route, strict_order, expires, escaped_len, rare: None }
    }

    /// The same with `text` for its event: the escaped length that it was made with is that of `text`.
    #[must_use]
    pub fn with_text(mut self, text: Text) -> Self {
        self.rare.get_or_insert_default().text = Some(text);
        self
    }

    /// The same with a span, which it ends.
    #[must_use]
    pub fn with_trace(mut self, trace: EventTrace) -> Self {
        self.rare.get_or_insert_default().trace = Some(Box::new(trace));
        self
    }

    /// The event.
    pub fn event(&self) -> Event<'_> {
        let own = self.rare.as_ref().and_then(|rare| rare.text.as_ref());
        let text = own.map_or(&self.delivery.message().payload, |text| &text.0);
        Event::known(text, self.escaped_len)
    }

    /// Whether it is of no use any more.
    pub(super) fn is_expired(&self, now: Instant) -> bool {
        self.expires && self.delivery.message().expires.is_some_and(|at| at <= now)
    }

    /// The route that it came by, as it was then.
    pub fn route(&self) -> &Arc<Spec> {
        &self.route
    }

    /// Its span, if its message is traced.
    pub(super) fn trace(&self) -> Option<&EventTrace> {
        self.rare.as_ref()?.trace.as_deref()
    }

    /// It is to be sent again, because of `fault`: for its span.
    pub(super) fn retried(&mut self, fault: &'static str) {
        let rare = self.rare.as_deref_mut();
        if let Some(trace) = rare.and_then(|rare| rare.trace.as_deref_mut()) {
            trace.retried(fault);
        }
    }

    /// Ends its part of the duty, together with others.
    pub(super) fn settle(self, outcome: Outcome, endings: &mut Endings) {
        if let Some(trace) = self.rare.and_then(|rare| rare.trace) {
            trace.end(outcome.word());
        }
        self.delivery.settle_with(outcome, endings);
    }

    /// The API will never take it: ends its span, and leaves its part of the duty to whoever gets it.
    pub(super) fn refused(&mut self, why: &str) {
        if let Some(trace) = self.rare.as_mut().and_then(|rare| rare.trace.take()) {
            trace.refused(why);
        }
    }

    pub(super) fn tries(&self) -> Tries {
        self.rare.as_ref().map(|rare| rare.tries).unwrap_or_default()
    }

    pub(super) fn tries_mut(&mut self) -> &mut Tries {
        &mut self.rare.get_or_insert_default().tries
    }
}

impl Item for Entry {
    fn order(&self) -> Option<&OrderKey> {
        self.order.as_ref()
    }
    fn strict(&self) -> bool {
        self.strict_order
    }
    fn alone(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.tries.alone)
    }
    fn yields(&self) -> bool {
        let tries = self.rare.as_ref().map(|rare| &rare.tries);
        tries.is_some_and(|it| it.alone || it.refused_at.is_some() || it.in_vain_at.is_some())
    }
    fn body_bytes(&self) -> usize {
        self.escaped_len.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::tests::delivery;
    use crate::route::{OrderBy, RejectTo};

    fn escaped_len(text: &str) -> EscapedLen {
        Event::parse(text.as_bytes()).unwrap().escaped_len()
    }

    #[test]
    fn a_text_of_its_own_is_the_event_and_is_charged_once() {
        const OWN: &str = r#"{"made":"of it"}"#;
        let route = Arc::new(Spec {
            name: "r".into(),
            from: vec!["s".into()],
            topic: None,
            channels: Vec::new(),
            api: "main".into(),
            order: OrderBy::Nothing,
            strict_order: true,
            give_up_after: 5,
            dead_letter: RejectTo::Discard,
        });
        let log = Arc::default();
        let whole = delivery(&log, 1);
        let new = |len| Entry::new(whole.split(), len, None, Arc::clone(&route));
        let plain = new(escaped_len("{}"));
        assert_eq!((plain.event().text(), log.charged()), (&b"{}"[..], vec![]));
        let text = Text::charge(OWN.into(), &whole);
        let mut entries = [(); 2].map(|()| new(escaped_len(OWN)).with_text(text.clone()));
        for entry in &mut entries {
            entry.tries_mut().alone = true;
            assert_eq!((entry.event().text(), entry.body_bytes()), (OWN.as_bytes(), OWN.len() + 6));
            assert!(entry.alone() && entry.strict() && Arc::ptr_eq(entry.route(), &route));
        }
        assert_eq!(log.charged(), [(1, OWN.len())]);
    }

    /// With the link of its queue it fills one line of the cache, and no more.
    #[test]
    fn an_entry_stays_small() {
        assert!(size_of::<Entry>() <= 56, "{}", size_of::<Entry>());
    }
}
