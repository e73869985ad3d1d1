//! Why a partition is not read now. Pure.
//!
//! | reason | ends when |
//! | --- | --- |
//! | a message was released | the partition has sought back to it ([`Rewind`]) |
//! | its start position is unknown | the brokers have answered, and it has sought there |
//! | it is being revoked | it is removed |
//! | there is no room, or no API takes events ([`Pressure`](super::super::flow::Pressure)) | half of the room is free, or a gate that is ajar lets a few in |
//!
//! Whichever it is, librdkafka is told to pause the partition, and keeps that over a rebalance.

use std::time::{Duration, Instant};

/// How long messages in flight before a released one may still be settled, and so not be read again. They
/// occupy room meanwhile, so this is shorter than the backoff can be.
pub(super) const HOLD: Duration = Duration::from_secs(1);

/// The reasons why one partition is not read.
#[derive(Debug, Default)]
pub(super) struct Unread {
    pub(super) rewind: Option<Rewind>,
    /// It is being revoked: its released messages are for its next owner.
    pub(super) revoking: bool,
    /// librdkafka was told to pause it.
    pub(super) paused: bool,
}

/// A pending seek: the partition takes no message until it is done.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rewind {
    /// To the oldest message unsettled at `then`, but not before `due`.
    After { then: Instant, due: Instant },
    /// To `offset`, but not before `due`; `first`: it is the partition's start position.
    To { offset: i64, due: Instant, first: bool },
    /// To its start position, which the brokers are asked for, but not before `due`.
    Undecided { due: Instant },
}

impl Rewind {
    /// At once to `offset`, which was read before.
    pub(super) fn back_to(offset: i64) -> Self {
        Self::To { offset, due: Instant::now(), first: false }
    }
}

impl Unread {
    /// Whether its messages are taken: no seek is pending.
    pub(super) fn is_read(&self) -> bool {
        self.rewind.is_none()
    }

    /// The offset to seek to, if that is due.
    pub(super) fn due_rewind(&self, now: Instant) -> Option<i64> {
        match self.rewind {
            Some(Rewind::To { offset, due, .. }) if due <= now && !self.revoking => Some(offset),
            _ => None,
        }
    }

    /// Whether asking the brokers for its start position is due.
    pub(super) fn asks_now(&self, now: Instant) -> bool {
        matches!(self.rewind, Some(Rewind::Undecided { due }) if due <= now) && !self.revoking
    }

    /// Whether its start position is unknown, or the seek to it is pending.
    pub(super) fn is_beginning(&self) -> bool {
        matches!(self.rewind, Some(Rewind::Undecided { .. } | Rewind::To { first: true, .. }))
    }

    /// Whether a released message has not been read again.
    pub(super) fn has_released(&self) -> bool {
        matches!(self.rewind, Some(Rewind::After { .. } | Rewind::To { first: false, .. }))
    }
}
