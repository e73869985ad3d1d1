//! How much a source may hold: messages and bytes, over all its records.
//!
//! What is rendered from a message is charged to it. Losing an ownership again and again can't pile up copies: the
//! messages of lost records count until they are settled. The gauges of the source show what its room counts, and
//! what is left of a room before it: a source that a reload ended by force is followed by another of its name, whose
//! room is all its own.
//!
//! A source that has to ask its broker for messages *reserves* room before it asks: a message that is
//! handed back has cost something (SQS bills the receive and counts it). A [`Reservation`] holds room for so many
//! messages of an assumed size, so that several that ask can't all count on the same room. Each message that
//! comes turns a part of it into the room that it takes; what is left is given back when the
//! reservation is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::config::source::Limits;
use crate::delivery::{Ended, Outcome};
use crate::metrics::SourceMetrics;

/// How much a source may hold, over all its records.
#[derive(Debug)]
pub struct Room {
    limits: Limits,
    ceiling: Limits,
    /// Messages in flight, and their bytes.
    messages: AtomicUsize,
    bytes: AtomicUsize,
    freed: Notify,
    /// Settled and not given back; the metrics count a message when it leaves.
    done: AtomicU64,
    reserved: Reserved,
    metrics: SourceMetrics,
}

/// The sum of all reservations. It changes under its lock only, and is read without it where a
/// moment's difference does not matter.
#[derive(Debug, Default)]
struct Reserved {
    changing: Mutex<()>,
    messages: AtomicUsize,
    bytes: AtomicUsize,
}

/// Room for messages that a broker is asked for. What has not come when it is dropped is given back.
#[derive(Debug)]
#[must_use = "a reservation that is dropped gives its room back"]
pub struct Reservation {
    room: Arc<Room>,
    messages: usize,
    each: usize,
}

/// What a record of messages in flight still does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ownership {
    /// Messages are taken and acknowledged.
    Open,
    /// Nothing more is taken.
    Closed,
    /// Nothing more is acknowledged either: each message frees its room when it is settled.
    Abandoned,
}

impl Ownership {
    /// Nothing more is taken.
    pub(super) fn close(&mut self) {
        if *self == Self::Open {
            *self = Self::Closed;
        }
    }

    /// It is lost; false if it was already.
    pub(super) fn abandon(&mut self) -> bool {
        std::mem::replace(self, Self::Abandoned) != Self::Abandoned
    }
}

impl Room {
    /// All of `limits`, and nothing beyond.
    pub fn new(limits: Limits, metrics: SourceMetrics) -> Arc<Self> {
        Self::with_ceiling(limits, limits, metrics)
    }

    /// All of `limits`, and up to `ceiling` for a broker that sends more than it is asked for.
    pub fn with_ceiling(limits: Limits, ceiling: Limits, metrics: SourceMetrics) -> Arc<Self> {
        Arc::new(Self {
            limits,
            ceiling,
            messages: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            freed: Notify::new(),
            done: AtomicU64::new(0),
            reserved: Reserved::default(),
            metrics,
        })
    }

    /// Messages that were settled and not given back, those behind a slow head among them.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Reserves room for up to `most` messages of `each` so many bytes, for as many as there is room for:
    /// at least one, for which it waits. One that is larger than the whole limit has its turn when nothing
    /// else is in flight or reserved.
    pub async fn reserve(self: &Arc<Self>, most: usize, each: usize) -> Reservation {
        loop {
            let freed = self.freed.notified();
            if let Some(reservation) = self.book(most.max(1), each) {
                return reservation;
            }
            freed.await;
        }
    }

    fn book(self: &Arc<Self>, most: usize, each: usize) -> Option<Reservation> {
        let _changing = self.reserved.changing.lock();
        let (messages, bytes) = self.held();
        let left = self.limits.messages.saturating_sub(messages);
        let free = self.limits.bytes.checked_sub(bytes);
        let fit = free.map_or(0, |free| free.checked_div(each).unwrap_or(left));
        let messages = most.min(left).min(fit).max(usize::from(messages == 0));
        if messages == 0 {
            return None;
        }
        self.reserved.messages.fetch_add(messages, Ordering::Relaxed);
        self.reserved.bytes.fetch_add(messages * each, Ordering::Relaxed);
        Some(Reservation { room: Arc::clone(self), messages, each })
    }

    /// How many messages may still be asked for.
    pub fn messages_left(&self) -> usize {
        self.limits.messages.saturating_sub(self.held().0)
    }

    /// How many messages of `each` so many bytes may still be asked for: by both limits.
    pub fn left_for(&self, each: usize) -> usize {
        let (messages, bytes) = self.held();
        let fit = self.limits.bytes.saturating_sub(bytes) / each.max(1);
        self.limits.messages.saturating_sub(messages).min(fit)
    }

    /// The share of the room that is free, of 0 to 1: the smaller of that for messages and that for bytes.
    #[allow(clippy::cast_precision_loss)] // a share
    pub fn free_share(&self) -> f64 {
        let (messages, bytes) = self.held();
        let of =
            |held: usize, limit: usize| limit.saturating_sub(held) as f64 / limit.max(1) as f64;
        of(messages, self.limits.messages).min(of(bytes, self.limits.bytes))
    }

    /// Waits until half of the room is free, to start again for less would mean to stop again soon, and a message of
    /// so many `bytes` fits.
    pub async fn half_free(&self, bytes: usize) {
        loop {
            let freed = self.freed.notified();
            let (messages, held) = self.held();
            let half = messages <= self.limits.messages / 2 && held <= self.limits.bytes / 2;
            if half && self.fits_within(self.limits, bytes) {
                return;
            }
            freed.await;
        }
    }

    /// Whether one more message of `bytes` fits. One that is larger than the whole limit does when
    /// nothing else is in flight, so that it can't jam the source for ever.
    pub fn fits(&self, bytes: usize) -> bool {
        self.fits_within(self.ceiling, bytes)
    }

    fn fits_within(&self, most: Limits, bytes: usize) -> bool {
        let (messages, held) = self.held();
        messages == 0 || (messages < most.messages && held.saturating_add(bytes) <= most.bytes)
    }

    /// Messages and bytes in flight or reserved.
    fn held(&self) -> (usize, usize) {
        let sum = |in_flight: &AtomicUsize, reserved: &AtomicUsize| {
            in_flight.load(Ordering::Relaxed) + reserved.load(Ordering::Relaxed)
        };
        (sum(&self.messages, &self.reserved.messages), sum(&self.bytes, &self.reserved.bytes))
    }

    /// A message of `bytes` is in flight from now on, whether it fits or not.
    pub(super) fn take(&self, bytes: usize) {
        if !self.fits_within(self.limits, bytes) {
            self.metrics.over_limit.inc();
        }
        self.messages.fetch_add(1, Ordering::Relaxed);
        self.metrics.received.inc();
        self.metrics.in_flight.inc();
        self.charge(bytes);
    }

    /// What is rendered from a message in flight takes so many bytes more. It was taken, so there is nothing
    /// to ask: what comes next waits for it.
    pub(super) fn charge(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.metrics.in_flight_bytes.inc_by(signed(bytes));
    }

    /// A message was settled, and is in flight until it leaves.
    pub(super) fn settled(&self, outcome: Outcome) {
        if outcome != Outcome::Released {
            self.done.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A message was published, so long after its time.
    pub(super) fn published(&self, took: Duration) {
        self.metrics.delivery.observe(took);
    }

    /// As [`published`](Self::published), of all that were.
    pub(super) fn published_together(&self, ended: &[Ended]) {
        for took in ended.iter().filter_map(|ended| ended.published) {
            self.published(took);
        }
    }

    /// Counts how a message ended that leaves what is in flight: whenever nothing moves, the sum of these
    /// and of what is in flight is what was received, whatever waits behind a slow head.
    pub(super) fn ended(&self, outcome: Outcome) {
        self.metrics.settled[usize::from(outcome.rank())].inc();
    }

    /// Messages with so many bytes have left.
    pub(super) fn free(&self, messages: usize, bytes: usize) {
        if messages > 0 {
            self.messages.fetch_sub(messages, Ordering::Relaxed);
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.metrics.in_flight.dec_by(signed(messages));
            self.metrics.in_flight_bytes.dec_by(signed(bytes));
            self.freed.notify_waiters();
        }
    }
}

/// What was taken and never left, by a source that ended before: nobody will acknowledge it, so it comes again.
impl Drop for Room {
    fn drop(&mut self) {
        let (messages, bytes) = (*self.messages.get_mut(), *self.bytes.get_mut());
        let released = &self.metrics.settled[usize::from(Outcome::Released.rank())];
        released.inc_by(u64::try_from(messages).unwrap_or(u64::MAX));
        self.free(messages, bytes);
    }
}

impl Reservation {
    /// How many messages it still has room for.
    pub fn messages(&self) -> usize {
        self.messages
    }

    /// A message of `bytes` came: it is in flight from now on, in the place of one that was assumed. It is
    /// taken though it may be larger. False when as many came as were reserved.
    pub(super) fn take(&mut self, bytes: usize) -> bool {
        if self.messages == 0 {
            return false;
        }
        self.messages -= 1;
        let changing = self.room.reserved.changing.lock();
        self.room.reserved.remove(1, self.each);
        self.room.take(bytes);
        drop(changing);
        if bytes < self.each {
            self.room.freed.notify_waiters();
        }
        true
    }

    /// So many of its messages will not come: their room is free again.
    pub fn give_back(&mut self, messages: usize) {
        let messages = messages.min(self.messages);
        if messages > 0 {
            self.messages -= messages;
            let changing = self.room.reserved.changing.lock();
            self.room.reserved.remove(messages, messages * self.each);
            drop(changing);
            self.room.freed.notify_waiters();
        }
    }

    /// Whether it is of `room`.
    pub(super) fn is_of(&self, room: &Arc<Room>) -> bool {
        Arc::ptr_eq(&self.room, room)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.give_back(self.messages);
    }
}

impl Reserved {
    fn remove(&self, messages: usize, bytes: usize) {
        self.messages.fetch_sub(messages, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[path = "room_tests.rs"]
mod tests;
