//! Duties that end together. What a source does for each end, taking a lock, freeing room, being woken, it does once
//! for all in a row that end in one turn of a publisher: for a whole turn where it has one record of what is in flight,
//! for the events of a request where it has one a partition.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::{Outcome, Tracker};

/// The end of a duty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The message's, at its tracker.
    pub token: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// How long after its time it was published, if it was.
    pub published: Option<Duration>,
}

/// Duties that have ended and whose trackers are told together, in the order of the ends; when this is dropped, at the
/// latest.
#[derive(Default)]
pub struct Endings {
    ended: Vec<Ended>,
    /// Each tracker with the place behind its last one in a row. The order counts between trackers too: a body that
    /// brought several messages has one of its own, which tells that of the others.
    rows: Vec<(Arc<dyn Tracker>, usize)>,
    now: Option<Now>,
}

/// A reading of the clocks.
#[derive(Clone, Copy)]
pub(super) struct Now {
    pub(super) instant: Instant,
    pub(super) system: SystemTime,
}

impl Now {
    pub(super) fn read() -> Self {
        Self { instant: Instant::now(), system: SystemTime::now() }
    }
}

impl Endings {
    /// The time of these ends, which is read once for all.
    pub(super) fn now(&mut self) -> Now {
        *self.now.get_or_insert_with(Now::read)
    }

    /// Adds the end of a duty that is reported to `tracker`.
    pub(super) fn add(&mut self, tracker: Arc<dyn Tracker>, ended: Ended) {
        self.ended.push(ended);
        let end = self.ended.len();
        match self.rows.last_mut().filter(|(last, _)| Arc::ptr_eq(last, &tracker)) {
            Some((_, last)) => *last = end,
            None => self.rows.push((tracker, end)),
        }
    }

    /// Tells the trackers, and begins anew.
    pub fn tell(&mut self) {
        let mut start = 0;
        for (tracker, end) in self.rows.drain(..) {
            tracker.settled_together(&self.ended[start..end]);
            start = end;
        }
        self.ended.clear();
        self.now = None;
    }
}

impl Drop for Endings {
    fn drop(&mut self) {
        self.tell();
    }
}
