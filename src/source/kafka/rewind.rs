//! Partitions that are to be read from somewhere else: from what was given back, or from where they begin.

use std::time::Instant;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use tracing::{debug, warn};

use super::ANSWER_TIMEOUT;
use super::assignment::Place;
use super::context::Context;
use super::shared::{Shared, list};

impl Shared {
    /// Moves watermarks on; a partition in which a message was given back is fetched from no more until
    /// it was set back.
    pub(super) fn settle(&self, consumer: &BaseConsumer<Context>, now: Instant) {
        let released = self.assignment().settle(now);
        if !released.is_empty() {
            warn!(source = %self.name, partitions = ?released, "a message was given back; its partition is read again from there");
            self.pause(consumer, released);
        }
    }

    /// Sets partitions back to what was given back, as far as it is time.
    pub(super) fn read_again(&self, consumer: &BaseConsumer<Context>, now: Instant) {
        let places = self.assignment().due_rewinds(now);
        if places.is_empty() {
            return;
        }
        // All at once: each call may wait for a broker.
        let said = consumer.seek_partitions(list(&places), ANSWER_TIMEOUT);
        if let Err(error) = &said {
            debug!(source = %self.name, ?places, %error, "partitions could not be set back yet");
        }
        let is_set = |place: &Place| {
            let set = said.as_ref().ok()?.find_partition(&place.topic, place.partition)?;
            set.error().ok()
        };
        let now = Instant::now();
        let mut set = Vec::with_capacity(places.len());
        let mut assignment = self.assignment();
        for place in places {
            let done = is_set(&place).is_some();
            assignment.rewound(&place, done, now);
            if done {
                set.push((place.topic, place.partition));
            }
        }
        let undecided = assignment.beginning();
        drop(assignment);
        self.stand(|standing| standing.undecided = undecided);
        // While there is no room they stay paused with the others, and go on with them.
        if !self.flow().pressure.is_paused() {
            self.resume(consumer, &set);
        }
    }
}
