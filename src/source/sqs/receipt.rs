//! What a message is known by while it is ours.

use std::sync::Arc;
use std::time::Duration;

use crate::message::OrderKey;

/// One message, as it was received last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Receipt {
    /// Its place in the order in which this source received its messages for the first time.
    pub(super) order: u64,
    /// The message's id, the same whenever it is received.
    pub(super) id: Arc<str>,
    /// What SQS is told of it by; every receive makes a new one, and only the newest is sure to count.
    pub(super) handle: Arc<str>,
    /// Its group, of a FIFO queue.
    pub(super) group: Option<OrderKey>,
    /// How often it had been received when this source first had it; at least once.
    pub(super) receive_count: u32,
}

impl Receipt {
    /// Whether it comes after another of its own group.
    pub(super) fn follows(&self, other: &Self) -> bool {
        self.group.is_some() && self.group == other.group && self.order > other.order
    }

    /// How long it waits before it goes back undone: the longer the oftener it came, since each time counts against
    /// the queue's `maxReceiveCount`.
    pub(super) fn pause(&self) -> Duration {
        let doubled = self.receive_count.saturating_sub(1).min(PAUSE_DOUBLES);
        (PAUSE.0 * (1 << doubled)).min(PAUSE.1)
    }
}

/// The first pause and the longest, which is there after so many doublings.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));
const PAUSE_DOUBLES: u32 = 9;

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn receipt(order: u64, group: Option<&str>) -> Receipt {
        Receipt {
            order,
            id: format!("id-{order}").into(),
            handle: format!("handle-{order}").into(),
            group: group.map(|group| group.as_bytes().into()),
            receive_count: 1,
        }
    }

    #[test]
    fn what_comes_often_waits_longer_before_it_goes_back() {
        let pause = |receive_count| Receipt { receive_count, ..receipt(1, None) }.pause();
        let ms = [0, 1, 2, 3, 9, 10, u32::MAX].map(|count| pause(count).as_millis());
        assert_eq!(ms, [100, 100, 200, 400, 25_600, 30_000, 30_000]);
    }

    #[test]
    fn only_what_is_ordered_follows() {
        let of = |order, group| receipt(order, group);
        assert!(of(2, Some("a")).follows(&of(1, Some("a"))));
        assert!(!of(1, Some("a")).follows(&of(2, Some("a"))));
        assert!(!of(2, Some("b")).follows(&of(1, Some("a"))));
        assert!(!of(2, None).follows(&of(1, None)));
    }
}
