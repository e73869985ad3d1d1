//! What goes into one request.

use crate::delivery::OrderKey;
use crate::event_api::Channel;

/// What a lane must know of the things in it.
pub trait Item {
    /// What orders it, if anything does.
    fn order(&self) -> Option<&OrderKey>;
    /// Whether a request may hold only one item of its key.
    fn strict(&self) -> bool;
    /// Whether it must be in a request of its own.
    fn alone(&self) -> bool;
    /// Whether it goes behind the others when it comes back, if nothing orders it: else one that is
    /// refused would be asked about again and again, and never another.
    fn yields(&self) -> bool;
    /// Its bytes inside a request body.
    fn body_bytes(&self) -> usize;
}

/// Items of one channel for one request.
#[derive(Debug)]
pub struct Batch<T> {
    /// Where they go.
    pub channel: Channel,
    /// One to five, in the order of their keys.
    pub items: Vec<T>,
    /// What waits for the end of the request.
    pub held: Held,
}

/// A lane with a request out, and its keys that are in it: [`Lanes::finish`](super::Lanes::finish) lets them go on.
#[derive(Debug)]
#[must_use = "a lane that is not told of the end of its request waits for ever"]
pub struct Held {
    pub(super) lane: usize,
    pub(super) keys: Vec<usize>,
}
