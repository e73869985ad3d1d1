//! What a source of core NATS lost on this side of the network, and what is said of it. Pure.
//!
//! The client counts each message that it reads, and drops one when nobody has taken those before it; the difference
//! to what was taken here is what it dropped, and what has no room here is counted where it is dropped.

use std::time::{Duration, Instant};

use tracing::warn;

use crate::message::SourceName;
use crate::metrics::SourceMetrics;
use crate::repeats::Repeats;

/// The same is not said again sooner.
const SAY_EVERY: Duration = Duration::from_mins(5);

/// The client's losses so far, and what was said.
#[derive(Debug, Default)]
pub(super) struct Losses {
    /// What the client had read when it was looked at last.
    read: u64,
    /// Its losses that were counted.
    counted: u64,
    said: Repeats,
}

impl Losses {
    /// How many more the client has dropped, when it had `read` so many before `taken` were, with nothing left in its
    /// queues. While it reads on, one may be read and not yet in a queue: that is counted when it is known.
    pub(super) fn found(&mut self, read: u64, taken: u64) -> u64 {
        let rests = read == self.read;
        self.read = read;
        let lost = read.saturating_sub(taken).saturating_sub(u64::from(!rests));
        let more = lost.saturating_sub(self.counted);
        self.counted += more;
        more
    }

    /// Says what is new, and what is to be done about it; the last time whatever was said before.
    pub(super) fn tell(&mut self, source: &SourceName, metrics: &SourceMetrics, last: bool) {
        const HINT: &str = "raise `max_in_flight` or `max_in_flight_bytes`, share the subjects out to a `queue` \
                            group, or read them from a stream (`type = \"jetstream\"`), which keeps them";
        let every = if last { Duration::ZERO } else { SAY_EVERY };
        if let Some(messages) = self.said.reached(metrics.dropped.get(), every, Instant::now()) {
            warn!(%source, messages, hint = HINT, "no room for messages; they were dropped");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_and_not_taken_is_lost() {
        let mut losses = Losses::default();
        assert_eq!(losses.found(0, 0), 0);
        // One may be on its way into the queue.
        assert_eq!(losses.found(100, 99), 0);
        assert_eq!(losses.found(100, 100), 0, "it was");
        assert_eq!(losses.found(200, 149), 50);
        assert_eq!(losses.found(200, 149), 1, "nothing came since: it was lost, too");
        assert_eq!(losses.found(200, 149), 0);
        // Later ones were taken already.
        assert_eq!(losses.found(300, 260), 0);
        assert_eq!(losses.found(310, 249), 9);
        assert_eq!(losses.found(310, 249), 1);
    }
}
