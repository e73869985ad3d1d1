//! What a message is known by while it is ours.

use std::collections::HashMap;
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

/// Of each group the first of some messages, and so what is behind them.
#[derive(Debug, Default)]
pub(super) struct Cuts(HashMap<OrderKey, u64>);

impl Receipt {
    /// How long it waits before it goes back undone: the longer the oftener it came, since each time counts against
    /// the queue's `maxReceiveCount`.
    pub(super) fn pause(&self) -> Duration {
        let doubled = self.receive_count.saturating_sub(1).min(PAUSE_DOUBLES);
        (PAUSE.0 * (1 << doubled)).min(PAUSE.1)
    }
}

impl Cuts {
    /// What is behind this message is behind. One without a group has nothing behind it.
    pub(super) fn add(&mut self, receipt: &Receipt) {
        if let Some(group) = &receipt.group {
            let first = self.0.entry(group.clone()).or_insert(receipt.order);
            *first = receipt.order.min(*first);
        }
    }

    /// Whether a message comes after one of these in its group.
    pub(super) fn are_before(&self, receipt: &Receipt) -> bool {
        let first = receipt.group.as_ref().and_then(|group| self.0.get(group));
        first.is_some_and(|first| receipt.order > *first)
    }

    /// Whether nothing is behind.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'a> FromIterator<&'a Receipt> for Cuts {
    fn from_iter<I: IntoIterator<Item = &'a Receipt>>(receipts: I) -> Self {
        let mut cuts = Self::default();
        receipts.into_iter().for_each(|receipt| cuts.add(receipt));
        cuts
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
    fn only_what_is_ordered_is_behind() {
        let cuts: Cuts =
            [receipt(3, Some("a")), receipt(1, Some("a")), receipt(1, None)].iter().collect();
        assert!(
            cuts.are_before(&receipt(2, Some("a"))) && !cuts.are_before(&receipt(1, Some("a")))
        );
        assert!(!cuts.are_before(&receipt(2, Some("b"))) && !cuts.are_before(&receipt(2, None)));
        assert!(!cuts.is_empty() && [receipt(1, None)].iter().collect::<Cuts>().is_empty());
    }
}
