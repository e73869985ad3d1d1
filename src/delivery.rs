//! A message and its duty, which is settled once and fails closed.
//!
//! A [`Settlement`] that is dropped, by a bug, a panic or an abort, reports [`Outcome::Released`]:
//! the message was not done. Success takes an explicit call. Split over several events, the worst
//! outcome wins, and the source hears of it when the last part is settled.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio::sync::mpsc;

use crate::message::Message;
pub use crate::message::OrderKey;
use crate::seeded::{self, Bug};

/// How a duty ended; the later one is the worse one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// Done, for whatever counted reason: published, unrouted, dead-lettered, discarded, ….
    Accepted,
    /// Never to be done, and left to the broker.
    Rejected,
    /// Not done, given back.
    Released,
}

impl Outcome {
    fn from_rank(rank: u8) -> Self {
        match rank {
            0 => Self::Accepted,
            1 => Self::Rejected,
            _ => Self::Released,
        }
    }
}

/// Who wants to know how the duty of a message ended: a source's record of what is in flight.
pub trait Tracker: Send + Sync {
    /// The API took the message without confirming one of its events. It counts as done all the same,
    /// and only who keeps accounts of single messages needs to know.
    fn unconfirmed(&self, _token: u64) {}

    /// The duty of the message that `token` stands for has ended. Called once a token.
    fn settled(&self, token: u64, outcome: Outcome);
}

struct Duty {
    tracker: Arc<dyn Tracker>,
    token: u64,
    worst: AtomicU8,
}

impl Drop for Duty {
    fn drop(&mut self) {
        let outcome = Outcome::from_rank(*self.worst.get_mut());
        self.tracker.settled(self.token, outcome);
    }
}

/// The duty to settle a message, or a part of that duty.
#[must_use = "a settlement that is dropped reports the message as not done"]
pub struct Settlement {
    duty: Option<Arc<Duty>>,
}

impl Settlement {
    /// A duty that is reported to `tracker` under `token`.
    pub fn new(tracker: Arc<dyn Tracker>, token: u64) -> Self {
        let duty = Duty { tracker, token, worst: AtomicU8::new(0) };
        Self { duty: Some(Arc::new(duty)) }
    }

    /// Ends this part of the duty.
    pub fn settle(mut self, outcome: Outcome) {
        self.end(outcome);
    }

    /// One more part of the same duty.
    pub fn split(&self) -> Self {
        if seeded::is(Bug::AckBeforePublish) {
            return Self { duty: None };
        }
        Self { duty: self.duty.clone() }
    }

    /// Notes that a good answer of the API named an event of the message in neither list.
    pub fn unconfirmed(&self) {
        if let Some(duty) = &self.duty {
            duty.tracker.unconfirmed(duty.token);
        }
    }

    fn end(&mut self, outcome: Outcome) {
        if let Some(duty) = self.duty.take() {
            duty.worst.fetch_max(outcome as u8, Ordering::AcqRel);
        }
    }
}

impl Drop for Settlement {
    fn drop(&mut self) {
        self.end(Outcome::Released);
    }
}

impl std::fmt::Debug for Settlement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Settlement")
    }
}

/// A message with its duty.
#[derive(Debug)]
pub struct Delivery {
    /// The facts.
    pub message: Arc<Message>,
    /// The duty.
    pub settlement: Settlement,
}

impl Delivery {
    /// The same message with a further part of its duty.
    #[must_use]
    pub fn split(&self) -> Self {
        Self { message: Arc::clone(&self.message), settlement: self.settlement.split() }
    }

    /// Ends this part of the duty.
    pub fn settle(self, outcome: Outcome) {
        self.settlement.settle(outcome);
    }
}

/// Where a source hands its deliveries over. Handing over never waits: the source's in-flight limit
/// is what bounds the queue.
#[derive(Clone, Debug)]
pub struct Intake {
    deliveries: mpsc::UnboundedSender<Delivery>,
}

impl Intake {
    /// An intake into `deliveries`.
    pub fn new(deliveries: mpsc::UnboundedSender<Delivery>) -> Self {
        Self { deliveries }
    }

    /// Hands a delivery over. When nobody takes deliveries any more it is dropped, which releases it.
    pub fn submit(&self, delivery: Delivery) {
        drop(self.deliveries.send(delivery));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Log(Mutex<Vec<(u64, Outcome)>>);

    impl Tracker for Log {
        fn settled(&self, token: u64, outcome: Outcome) {
            self.0.lock().unwrap().push((token, outcome));
        }
    }

    impl Log {
        fn seen(&self) -> Vec<(u64, Outcome)> {
            self.0.lock().unwrap().clone()
        }
    }

    #[test]
    fn dropped_is_not_done() {
        let log = Arc::new(Log::default());
        drop(Settlement::new(log.clone(), 1));
        assert_eq!(log.seen(), [(1, Outcome::Released)]);
    }

    #[test]
    fn a_panic_on_the_way_releases() {
        let log = Arc::new(Log::default());
        let settlement = Settlement::new(log.clone(), 7);
        let thread = std::thread::spawn(move || {
            let _held = settlement;
            panic!("a bug");
        });
        assert!(thread.join().is_err());
        assert_eq!(log.seen(), [(7, Outcome::Released)]);
    }

    #[test]
    fn the_worst_part_wins_and_only_the_last_one_reports() {
        let log = Arc::new(Log::default());
        let first = Settlement::new(log.clone(), 3);
        let (second, third) = (first.split(), first.split());
        first.settle(Outcome::Accepted);
        second.settle(Outcome::Rejected);
        assert_eq!(log.seen(), []);
        third.settle(Outcome::Accepted);
        assert_eq!(log.seen(), [(3, Outcome::Rejected)]);
    }

    #[test]
    fn one_dropped_part_releases_the_whole() {
        let log = Arc::new(Log::default());
        let first = Settlement::new(log.clone(), 3);
        drop(first.split());
        first.settle(Outcome::Accepted);
        assert_eq!(log.seen(), [(3, Outcome::Released)]);
    }
}
