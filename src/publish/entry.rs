//! What the publisher is given, and what it hands back.

use std::time::Instant;

use super::lanes::Item;
use crate::delivery::{Delivery, OrderKey};
use crate::event_api::{Channel, EscapedLen, Event};

/// One event on its way. Thousands wait at a time, so it is kept small: its text is its message's.
#[derive(Debug)]
pub struct Entry {
    /// The message, whose payload is the event, and this event's part of the duty.
    pub delivery: Delivery,
    order: Option<OrderKey>,
    policy: Policy,
    escaped_len: EscapedLen,
    /// `None` while nothing went wrong.
    tries: Option<Box<Tries>>,
}

/// An entry and where it goes.
pub type Addressed = (Channel, Entry);

/// What a route says about publishing.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// The route's place in its table.
    pub route: u32,
    /// Tries an event gets that the API keeps failing on its own.
    pub give_up_after: u32,
    /// At most one event of a key in a request.
    pub strict_order: bool,
}

/// What happened to an entry so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tries {
    pub(super) failures: u32,
    pub(super) own_faults: u32,
    pub(super) alone: bool,
    /// How often, in all, it was sent without an answer that decides.
    pub(super) unanswered: u32,
    /// When its namespace last refused a request with it.
    pub(super) refused_at: Option<Instant>,
    /// When the API last called a request with it bad.
    pub(super) bad_at: Option<Instant>,
    /// How often it did so of this one alone, having accepted others in between.
    pub(super) bad_alone: u32,
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

impl Entry {
    /// The payload of `delivery`'s message as an event that was checked, with what orders it.
    pub fn new(
        delivery: Delivery,
        escaped_len: EscapedLen,
        order: Option<OrderKey>,
        policy: Policy,
    ) -> Self {
        Self { delivery, order, policy, escaped_len, tries: None }
    }

    /// The event.
    pub fn event(&self) -> Event<'_> {
        Event::known(&self.delivery.message().payload, self.escaped_len)
    }

    /// What its route says.
    pub fn policy(&self) -> Policy {
        self.policy
    }

    pub(super) fn tries(&self) -> Tries {
        self.tries.as_deref().copied().unwrap_or_default()
    }

    pub(super) fn tries_mut(&mut self) -> &mut Tries {
        self.tries.get_or_insert_default()
    }
}

impl Item for Entry {
    fn order(&self) -> Option<&OrderKey> {
        self.order.as_ref()
    }
    fn strict(&self) -> bool {
        self.policy.strict_order
    }
    fn alone(&self) -> bool {
        self.tries.as_ref().is_some_and(|tries| tries.alone)
    }
    fn yields(&self) -> bool {
        self.tries.as_ref().is_some_and(|tries| tries.alone || tries.refused_at.is_some())
    }
    fn body_bytes(&self) -> usize {
        self.escaped_len.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With the link of its queue it fills one line of the cache, and no more.
    #[test]
    fn an_entry_stays_small() {
        assert!(size_of::<Entry>() <= 56, "{}", size_of::<Entry>());
    }
}
