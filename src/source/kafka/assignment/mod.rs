//! The assigned partitions, each with its record of the messages in flight.
//!
//! Each assignment of a partition, and each seek to an earlier message, begins a generation with a
//! record and offsets of its own: a late settlement goes to the old record, and advances nothing.
//!
//! A *rewind* is a pending seek, to a start position or to the oldest message that is not settled.

mod offsets;
mod partition;
mod unread;

use std::mem::{replace, take};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Notify;

use super::flow::Pressure;
use crate::backoff::Backoff;
use crate::delivery::Settlement;
use crate::message::{OrderKey, Topic};
use crate::metrics::KafkaMetrics;
use crate::source::{InFlight, Room};
use offsets::{Offsets, Step};
pub(crate) use partition::{Partition, Place};
use unread::{HOLD, Rewind, Unread};

/// All assigned partitions.
pub(crate) struct Assignment {
    partitions: Vec<Partition>,
    /// Index of the last message's partition: most likely that of the next, too.
    last: usize,
    generations: u64,
    closed: bool,
    /// Whether all of them are paused for want of room or of an API.
    pub(crate) pressure: Pressure,
    room: Arc<Room>,
    changed: Arc<Notify>,
    metrics: KafkaMetrics,
}

/// Handle of the partition that was found for a message.
#[derive(Clone, Copy)]
pub(crate) struct Found {
    /// Its index at that time: it moves when others are removed.
    index: usize,
    /// No two partitions have the same.
    generation: u64,
}

/// Result of admitting a message.
pub(crate) enum Admitted {
    /// It was taken.
    Taken(Settlement),
    /// There is no room.
    Full,
    /// Its partition was revoked, or is in another generation.
    Foreign,
}

impl Assignment {
    /// An assignment without partitions. `changed` is notified when a watermark may advance or a message was released.
    pub(crate) fn new(room: Arc<Room>, changed: Arc<Notify>, metrics: KafkaMetrics) -> Self {
        let partitions = Vec::new();
        let (closed, pressure) = (false, Pressure::default());
        Self { partitions, last: 0, generations: 0, closed, pressure, room, changed, metrics }
    }

    /// Adds a newly assigned partition.
    pub(crate) fn add(&mut self, topic: &str, number: i32) {
        // librdkafka keeps a partition paused over a rebalance.
        let paused = self.get(topic, number).is_some_and(|p| p.unread.paused);
        self.remove(topic, number);
        let known = self.partitions.iter().map(|p| &p.topic).find(|known| known.as_str() == topic);
        let topic = known.cloned().unwrap_or_else(|| Topic::new(topic, '.'));
        let metrics = self.metrics.partition(topic.as_str(), number);
        let partition = Partition {
            topic,
            number,
            order: number.to_string().into_bytes().into(),
            generation: self.next_generation(),
            record: InFlight::new(Arc::clone(&self.room), Arc::clone(&self.changed)),
            offsets: Offsets::default(),
            committed: None,
            unread: Unread { paused, ..Unread::default() },
            backoff: Backoff::new(super::REWIND_BASE, super::REWIND_CAP),
            metrics,
        };
        self.partitions.push(partition);
    }

    /// Removes a revoked partition. Its unsettled messages count as late.
    pub(crate) fn remove(&mut self, topic: &str, number: i32) {
        let Some(index) = self.position(topic, number) else { return };
        let partition = self.partitions.swap_remove(index);
        self.metrics.late.inc_by(partition.record.abandon() as u64);
        self.last = 0;
    }

    /// Takes no more messages, of any partition.
    pub(crate) fn close(&mut self) {
        self.closed = true;
        self.partitions.iter().for_each(|p| p.record.close());
    }

    /// Takes no more messages of these partitions, which are being revoked.
    pub(crate) fn close_only(&mut self, of: &[(String, i32)]) {
        self.change(of, |p| {
            p.unread.revoking = true;
            p.record.close();
        });
    }

    /// The partition of a message, if it is assigned and the message is one to take.
    pub(crate) fn find(&mut self, topic: &str, number: i32, offset: i64) -> Option<Found> {
        let index = self.index(topic, number)?;
        if self.closed || !self.partitions[index].unread.is_read() {
            return None;
        }
        if self.partitions[index].offsets.step(offset) == Step::Back {
            let oldest = self.partitions[index].offsets.resume_at().unwrap_or(offset);
            self.renew(index);
            // An older message is unsettled: seek to it, or the new generation would skip it.
            if oldest < offset {
                self.partitions[index].unread.rewind = Some(Rewind::back_to(oldest));
                return None;
            }
        }
        Some(Found { index, generation: self.partitions[index].generation })
    }

    /// The topic of a partition that was just found, and the order key of its messages without a key.
    pub(crate) fn named(&self, found: Found) -> (&Topic, &OrderKey) {
        let partition = &self.partitions[found.index];
        (&partition.topic, &partition.order)
    }

    /// Takes a message of `bytes`, if its partition is still the one that was found and there is room.
    pub(crate) fn admit(&mut self, found: Found, offset: i64, bytes: usize) -> Admitted {
        let is_it = |p: &Partition| p.generation == found.generation;
        let there = self.partitions.get(found.index).is_some_and(is_it);
        let index = if there { Some(found.index) } else { self.partitions.iter().position(is_it) };
        let Some(partition) = index.filter(|_| !self.closed).map(|i| &mut self.partitions[i])
        else {
            return Admitted::Foreign;
        };
        // Only this thread takes, so what fits now still fits below.
        if !self.room.fits(bytes) {
            return Admitted::Full;
        }
        match partition.record.take(Some(offset), bytes) {
            None => Admitted::Foreign,
            Some(settlement) => {
                partition.offsets.received(offset);
                partition.metrics.received.set(offset);
                Admitted::Taken(settlement)
            }
        }
    }

    /// Advances every watermark; gives the partitions with a newly released message.
    pub(crate) fn advance(&mut self, now: Instant) -> Vec<(String, i32)> {
        let mut released = Vec::new();
        for index in 0..self.partitions.len() {
            let partition = &mut self.partitions[index];
            partition.advance();
            if self.closed || partition.unread.revoking {
                continue;
            }
            match partition.unread.rewind {
                None if partition.record.has_released() => {
                    let wait = partition.backoff.next_wait();
                    let (then, due) = (now + wait.min(HOLD), now + wait);
                    partition.unread.rewind = Some(Rewind::After { then, due });
                    released.push(partition.name());
                }
                Some(Rewind::After { then, due }) if then <= now => {
                    let from = partition.offsets.resume_at();
                    self.renew(index);
                    let from = from.map(|offset| Rewind::To { offset, due, first: false });
                    self.partitions[index].unread.rewind = from;
                }
                _ => {}
            }
        }
        released
    }

    /// The positions to store for the next commit; from now on they count as stored.
    pub(crate) fn take_unstored(&mut self) -> Vec<Place> {
        let place = |p: &mut Partition| {
            let offset = p.offsets.unstored()?;
            p.offsets.stored(offset);
            Some(p.place(offset))
        };
        self.partitions.iter_mut().filter_map(place).collect()
    }

    /// The group has committed this position of a partition.
    pub(crate) fn was_committed(&mut self, (topic, number): (&str, i32), position: i64) {
        if let Some(index) = self.position(topic, number) {
            self.partitions[index].committed = Some(position);
        }
    }

    /// Stored positions below what the group has committed: the log was set back, as that of a topic that was made anew.
    pub(crate) fn stored_below(&self) -> Vec<Place> {
        let below = |p: &Partition| {
            let stored = p.offsets.last_stored()?;
            (stored < p.committed?).then(|| p.place(stored))
        };
        self.partitions.iter().filter_map(below).collect()
    }

    /// Pending seeks that are due. None once the intake is closed: released messages stay uncommitted, and
    /// go to the partition's next reader.
    pub(crate) fn due_rewinds(&self, now: Instant) -> Vec<Place> {
        let open = self.partitions.iter().filter(|_| !self.closed);
        open.filter_map(|p| Some(p.place(p.unread.due_rewind(now)?))).collect()
    }

    /// All partitions but those with a pending seek, which stay paused until it is done.
    pub(crate) fn not_rewinding(&self) -> Vec<(String, i32)> {
        self.partitions.iter().filter(|p| p.unread.is_read()).map(Partition::name).collect()
    }

    /// A message was not taken: has its partition read again, from the oldest unsettled message.
    pub(crate) fn set_back(&mut self, topic: &str, number: i32, offset: i64) {
        let Some(index) = self.position(topic, number) else { return };
        // What is settled by now is not read again.
        self.partitions[index].advance();
        let at = self.partitions[index].offsets.resume_at().unwrap_or(offset);
        self.renew(index);
        self.partitions[index].unread.rewind = Some(Rewind::back_to(at));
    }

    /// Notes that a seek is done, or has failed and is retried later.
    pub(crate) fn rewound(&mut self, place: &Place, done: bool, now: Instant) {
        let Some(index) = self.position(&place.topic, place.partition) else { return };
        let partition = &mut self.partitions[index];
        let first = matches!(partition.unread.rewind, Some(Rewind::To { first: true, .. }));
        if done {
            partition.unread.rewind = None;
            if !first {
                self.metrics.rewinds.inc();
            }
        } else {
            let due = now + partition.backoff.next_wait();
            partition.unread.rewind = Some(Rewind::To { offset: place.offset, due, first });
        }
    }

    /// Marks these partitions: their start positions are to be asked for.
    pub(crate) fn undecide(&mut self, which: &[(String, i32)]) {
        self.change(which, |p| p.unread.rewind = Some(Rewind::Undecided { due: Instant::now() }));
    }

    /// Partitions without a start position, where asking is due.
    pub(crate) fn undecided(&self, now: Instant) -> Vec<(String, i32)> {
        let open = self.partitions.iter().filter(|p| !self.closed && p.unread.asks_now(now));
        open.map(Partition::name).collect()
    }

    /// How often the one asked for most was asked for in vain.
    pub(crate) fn tries(&self) -> u32 {
        let open = self.partitions.iter().filter(|p| p.unread.is_beginning());
        open.map(|p| p.backoff.failures()).max().unwrap_or(0)
    }

    /// How many have no start position yet, or have not sought to it.
    pub(crate) fn beginning(&self) -> usize {
        self.partitions.iter().filter(|p| p.unread.is_beginning()).count()
    }

    /// Delays the next question for those partitions that still have no start position.
    pub(crate) fn put_off(&mut self, which: &[(String, i32)], now: Instant) {
        self.change(which, |p| {
            if let Some(Rewind::Undecided { due }) = &mut p.unread.rewind {
                *due = now + super::ASK_AGAIN + p.backoff.next_wait();
            }
        });
    }

    /// Sets a start position, which is committed if it is `new`. A partition that was undecided seeks to it.
    pub(crate) fn begin_at(&mut self, topic: &str, number: i32, offset: i64, new: bool) {
        self.change(&[(topic.to_owned(), number)], |p| {
            if new {
                p.offsets = Offsets::default();
                p.offsets.begin(offset);
            }
            if p.unread.rewind.is_some() {
                p.unread.rewind = Some(Rewind::To { offset, due: Instant::now(), first: true });
            }
            p.backoff.reset();
        });
    }

    /// Has the stored positions stored once more.
    pub(crate) fn store_anew(&mut self) {
        self.partitions.iter_mut().for_each(|p| p.offsets.store_anew());
    }

    /// Whether there is nothing to wait for in these: all is settled, or a message was released.
    pub(crate) fn is_done(&self, of: &[(String, i32)]) -> bool {
        of.iter().filter_map(|(topic, number)| self.get(topic, *number)).all(Partition::is_done)
    }

    /// Whether there is nothing to wait for in any partition.
    pub(crate) fn all_done(&self) -> bool {
        self.partitions.iter().all(Partition::is_done)
    }

    /// Whether a message was released and its partition has not sought back yet.
    pub(crate) fn has_released(&self) -> bool {
        self.partitions.iter().any(|p| p.record.has_released() || p.unread.has_released())
    }

    /// Marks the partitions of `which` as paused or not; gives those that were not marked so, for the caller
    /// to pause or resume in librdkafka.
    pub(crate) fn mark_paused(
        &mut self,
        which: &[(String, i32)],
        paused: bool,
    ) -> Vec<(String, i32)> {
        let mut changed = Vec::new();
        self.change(which, |p| {
            if replace(&mut p.unread.paused, paused) != paused {
                changed.push(p.name());
            }
        });
        let count = self.partitions.iter().filter(|p| p.unread.paused).count();
        self.metrics.paused.set(i64::try_from(count).unwrap_or(i64::MAX));
        changed
    }

    /// Topic and number of each.
    pub(crate) fn names(&self) -> Vec<(String, i32)> {
        self.partitions.iter().map(Partition::name).collect()
    }

    /// An assigned partition.
    pub(crate) fn get(&self, topic: &str, number: i32) -> Option<&Partition> {
        self.position(topic, number).map(|index| &self.partitions[index])
    }

    fn change(&mut self, which: &[(String, i32)], mut change: impl FnMut(&mut Partition)) {
        for (topic, number) in which {
            if let Some(index) = self.position(topic, *number) {
                change(&mut self.partitions[index]);
            }
        }
    }

    fn renew(&mut self, index: usize) {
        let generation = self.next_generation();
        let record = InFlight::new(Arc::clone(&self.room), Arc::clone(&self.changed));
        let partition = &mut self.partitions[index];
        partition.generation = generation;
        let offsets = take(&mut partition.offsets);
        partition.committed = partition.committed.max(offsets.last_stored());
        let old = replace(&mut partition.record, record);
        self.metrics.late.inc_by(old.abandon() as u64);
    }

    fn next_generation(&mut self) -> u64 {
        self.generations += 1;
        self.generations
    }

    fn index(&mut self, topic: &str, number: i32) -> Option<usize> {
        let is = |p: &Partition| p.number == number && p.topic.as_str() == topic;
        if self.partitions.get(self.last).is_some_and(is) {
            return Some(self.last);
        }
        self.last = self.partitions.iter().position(is)?;
        Some(self.last)
    }

    fn position(&self, topic: &str, number: i32) -> Option<usize> {
        self.partitions.iter().position(|p| p.number == number && p.topic.as_str() == topic)
    }
}

#[cfg(test)]
mod tests;
