//! A batch: the items of one request.

use crate::delivery::OrderKey;
use crate::event_api::Channel;

/// The properties of an item that its lane needs.
pub trait Item {
    /// Its ordering key, if it has one.
    fn order(&self) -> Option<&OrderKey>;
    /// Whether a request may hold only one item of its key.
    fn strict(&self) -> bool;
    /// Whether it must be in a request of its own.
    fn alone(&self) -> bool;
    /// Whether it goes behind the others on a retry, if it has no ordering key: else a refused item would
    /// be the probe again and again, and never another.
    fn yields(&self) -> bool;
    /// Its bytes inside a request body.
    fn body_bytes(&self) -> usize;
}

/// Items of one channel for one request.
#[derive(Debug)]
pub struct Batch<T> {
    /// Their channel.
    pub channel: Channel,
    /// One to five, in the order of their keys.
    pub items: Vec<T>,
    /// The lane and keys that wait for the end of the request.
    pub held: Held,
}

/// A lane with a request in flight, and its keys in it: [`Lanes::finish`](super::Lanes::finish) frees them.
#[derive(Debug)]
#[must_use = "without `finish` the lane waits for ever"]
pub struct Held {
    pub(super) lane: usize,
    pub(super) keys: Vec<usize>,
}
