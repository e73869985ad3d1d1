//! One assigned partition.

use std::sync::Arc;

use super::offsets::Offsets;
use super::unread::Unread;
use crate::backoff::Backoff;
use crate::message::{OrderKey, Topic};
use crate::metrics::PartitionMetrics;
use crate::source::InFlight;

/// A partition that is assigned.
pub(crate) struct Partition {
    pub(super) topic: Topic,
    pub(super) number: i32,
    /// Order key of messages without a key.
    pub(super) order: OrderKey,
    pub(super) generation: u64,
    pub(super) record: Arc<InFlight<i64>>,
    pub(super) offsets: Offsets,
    /// What the group has committed at last, as far as it is known here.
    pub(super) committed: Option<i64>,
    pub(super) unread: Unread,
    pub(super) backoff: Backoff,
    pub(crate) metrics: PartitionMetrics,
}

/// A place in the log of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
}

impl Partition {
    /// Whether it is read on, and nothing of it is in flight.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.is_fetched() && self.record.is_empty()
    }

    /// Whether it is read on.
    pub(crate) fn is_fetched(&self) -> bool {
        self.unread.is_read() && !self.unread.paused
    }

    /// Its topic and number.
    pub(super) fn name(&self) -> (String, i32) {
        (self.topic.as_str().to_owned(), self.number)
    }

    pub(super) fn place(&self, offset: i64) -> Place {
        let (topic, partition) = self.name();
        Place { topic, partition, offset }
    }

    pub(super) fn advance(&mut self) {
        if let Some(offset) = self.record.acknowledgeable().last() {
            self.offsets.settled(*offset);
            self.backoff.reset();
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.record.is_empty() || self.record.has_released()
    }
}
