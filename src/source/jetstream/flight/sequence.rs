//! Messages that were removed from the stream before they were delivered: counted as far as the sequences
//! tell. Pure.
//!
//! Nothing between two deliveries with neighbouring consumer sequences went to another replica. If the
//! consumer takes the whole stream, what the stream sequence skips between them was there and is gone: by a
//! limit of the stream, by a purge, or replaced by a newer message of its subject. Behind a filter, most of
//! what is skipped was for others; there the count of messages left tells: it falls by one with a delivery, and
//! what it falls by beyond that is gone. New messages hide some of those, so that count is a lower bound.

use super::reply::Place;

/// The newest first delivery, for comparing the next one with it.
#[derive(Clone, Copy, Debug)]
pub(in crate::source::jetstream) struct Sequence {
    /// The consumer takes every message of the stream.
    whole: bool,
    /// The consumer sequence of the last delivery.
    consumer: u64,
    /// The highest stream sequence that was delivered.
    stream: u64,
    /// Messages left at the last first delivery; `None` before one.
    pending: Option<u64>,
}

impl Sequence {
    /// Begins behind what a consumer has delivered. `whole`: it takes every message of the stream, from the
    /// first it may have.
    pub(in crate::source::jetstream) fn behind(consumer: u64, stream: u64, whole: bool) -> Self {
        Self { whole, consumer, stream, pending: None }
    }

    /// The highest stream sequence that was delivered.
    pub(in crate::source::jetstream) fn newest(&self) -> u64 {
        self.stream
    }

    /// A delivery came: so many messages at least were removed before it.
    pub(in crate::source::jetstream) fn came(&mut self, place: &Place) -> u64 {
        let next = place.consumer == self.consumer.wrapping_add(1);
        self.consumer = place.consumer;
        if place.delivered > 1 || place.stream <= self.stream {
            return 0;
        }
        let skipped = place.stream - self.stream - 1;
        let fell =
            self.pending.map_or(0, |left| left.saturating_sub(1).saturating_sub(place.pending));
        // The first message of a stream, or of a consumer that begins later, has any number.
        let begun = self.stream > 0;
        self.stream = place.stream;
        self.pending = Some(place.pending);
        match (next && begun, self.whole) {
            (false, _) => 0,
            (true, true) => skipped,
            (true, false) => fell.min(skipped),
        }
    }
}

/// Whether a consumer believes to be ahead of its stream, as after a loss of power: what is stored from here
/// up to that place would never be delivered.
pub(in crate::source::jetstream) fn is_ahead(ack_floor: u64, delivered: u64, last: u64) -> bool {
    ack_floor.max(delivered) > last
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(delivered: u64, stream: u64, consumer: u64, pending: u64) -> Place {
        let reply = format!("$JS.ACK.S.c.{delivered}.{stream}.{consumer}.0.{pending}");
        Place::read(&reply).unwrap()
    }

    fn counted(mut sequence: Sequence, places: &[(u64, u64, u64, u64)]) -> Vec<u64> {
        let count = |(d, s, c, p): &(u64, u64, u64, u64)| sequence.came(&place(*d, *s, *c, *p));
        places.iter().map(count).collect()
    }

    #[test]
    fn what_a_whole_stream_skips_is_gone() {
        let places = [
            (1, 11, 8, 9),  // the next
            (1, 15, 9, 5),  // three are gone
            (2, 11, 10, 5), // again
            (1, 17, 11, 3), // one is gone behind a redelivery
            (1, 18, 12, 3),
        ];
        assert_eq!(counted(Sequence::behind(7, 10, true), &places), [0, 3, 0, 1, 0]);
    }

    #[test]
    fn what_other_replicas_were_given_is_not_gone() {
        let places = [(1, 15, 12, 5), (1, 20, 14, 0), (1, 22, 15, 0)];
        assert_eq!(counted(Sequence::behind(7, 10, true), &places), [0, 0, 1]);
    }

    #[test]
    fn the_first_message_of_a_consumer_has_any_number() {
        assert_eq!(
            counted(Sequence::behind(0, 0, true), &[(1, 100, 1, 0), (1, 102, 2, 0)]),
            [0, 1]
        );
    }

    #[test]
    fn behind_a_filter_the_messages_left_tell() {
        let places = [
            (1, 15, 8, 9),
            (1, 25, 9, 8),   // those between were for others
            (1, 40, 10, 3),  // four of eight left are gone
            (1, 41, 11, 50), // new ones came
            (1, 43, 12, 20), // of the 29 that are missing only one had a place there
        ];
        assert_eq!(counted(Sequence::behind(7, 10, false), &places), [0, 0, 4, 0, 1]);
    }

    #[test]
    fn a_consumer_ahead_of_its_stream_is_seen() {
        assert!(!is_ahead(5, 9, 9) && !is_ahead(0, 0, 0));
        assert!(is_ahead(10, 9, 9) && is_ahead(5, 10, 9));
    }
}
