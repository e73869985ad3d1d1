//! What the publisher is given, and what it hands back.

use std::sync::Arc;
use std::time::Instant;

use super::lanes::Item;
use crate::delivery::{Delivery, OrderKey};
use crate::event_api::{Channel, Event};

/// One event on its way to one channel.
#[derive(Debug)]
pub struct Entry {
    /// The message it was rendered from, and its part of the duty.
    pub delivery: Delivery,
    /// Where it goes.
    pub channel: Channel,
    /// The event.
    pub event: Event,
    /// What orders it.
    pub order: Option<OrderKey>,
    /// What its route says.
    pub policy: Arc<Policy>,
    /// How often it was tried; new entries start at `Tries::default()`.
    pub tries: Tries,
}

/// What a route says about publishing.
#[derive(Debug)]
pub struct Policy {
    /// The route's name.
    pub route: Arc<str>,
    /// At most one event of a key in a request.
    pub strict_order: bool,
    /// Tries an event gets that the API keeps failing on its own.
    pub give_up_after: u32,
}

/// What happened to an entry so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tries {
    pub(super) failures: u32,
    pub(super) own_faults: u32,
    pub(super) alone: bool,
    /// How often, in all, it was sent without an answer that decides.
    pub(super) unanswered: u32,
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
    /// In the words of the API.
    pub why: String,
}

impl Item for Entry {
    fn order(&self) -> Option<&OrderKey> {
        self.order.as_ref()
    }
    fn strict(&self) -> bool {
        self.policy.strict_order
    }
    fn alone(&self) -> bool {
        self.tries.alone
    }
    fn body_bytes(&self) -> usize {
        self.event.escaped_len()
    }
    fn share(&mut self, channel: &Channel) {
        self.channel = channel.clone();
    }
}
