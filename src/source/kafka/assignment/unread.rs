//! Why a partition is not read now. Pure.
//!
//! | reason | ends when |
//! | --- | --- |
//! | a message was released | the partition was set back to it ([`Rewind`]) |
//! | it is not known where it begins | the brokers have said so, and it was set there |
//! | it is being revoked | it is gone |
//! | there is no room, or no API takes anything ([`Pressure`](super::super::flow::Pressure)) | half of the room is free |
//!
//! Whichever it is, librdkafka is told to pause the partition, and keeps that over a rebalance.

use std::time::{Duration, Instant};

/// Messages in flight before a released one may still be settled for so long: those are not read again. They
/// hold their room meanwhile, so they are not waited for until the next try.
pub(super) const HOLD: Duration = Duration::from_secs(1);

/// What keeps one partition from being read.
#[derive(Debug, Default)]
pub(super) struct Unread {
    pub(super) rewind: Option<Rewind>,
    /// It is being revoked: what was released of it is for its next owner.
    pub(super) revoking: bool,
    /// librdkafka was told to pause it.
    pub(super) paused: bool,
}

/// A partition is read from somewhere else next.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rewind {
    /// From the oldest message that is not settled at `then`, but not before `due`.
    After { then: Instant, due: Instant },
    /// From `offset`, but not before `due`; `first`: it is where the partition begins.
    To { offset: i64, due: Instant, first: bool },
    /// From where it begins, which the brokers are asked for, but not before `due`.
    Undecided { due: Instant },
}

impl Unread {
    /// Whether messages of it are taken, as far as the partition itself goes.
    pub(super) fn is_read(&self) -> bool {
        self.rewind.is_none()
    }

    /// To where it is set back now.
    pub(super) fn due_rewind(&self, now: Instant) -> Option<i64> {
        match self.rewind {
            Some(Rewind::To { offset, due, .. }) if due <= now && !self.revoking => Some(offset),
            _ => None,
        }
    }

    /// Whether the brokers are asked now where it begins.
    pub(super) fn asks_now(&self, now: Instant) -> bool {
        matches!(self.rewind, Some(Rewind::Undecided { due }) if due <= now) && !self.revoking
    }

    /// Whether it is still to be decided where it begins, or it is on the way there.
    pub(super) fn is_beginning(&self) -> bool {
        matches!(self.rewind, Some(Rewind::Undecided { .. } | Rewind::To { first: true, .. }))
    }

    /// Whether a released message has not been read again.
    pub(super) fn has_released(&self) -> bool {
        matches!(self.rewind, Some(Rewind::After { .. } | Rewind::To { first: false, .. }))
    }
}
