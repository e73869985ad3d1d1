//! What came of a consumer, in the order of receipt, each under a number.
//!
//! Nearly always that is the order of the stream too, and then one is found by its sequence without an index: to look
//! each message up in one costs more than all else that is recorded of it. One that comes out of order makes an index,
//! until it is dropped, with all before it. Pure.

use std::collections::VecDeque;

use async_nats::Subject;
use hashbrown::HashMap;

/// Deliveries, the oldest first.
#[derive(Default)]
pub(super) struct Receipts {
    all: VecDeque<Receipt>,
    /// The number of the oldest; those behind it follow.
    first: u64,
    /// The highest sequence of all that were ever added.
    newest: u64,
    /// The number behind the last one that came out of order.
    ordered_from: u64,
    /// The number of the newest receipt of a sequence; empty but between one that came out of order and its drop.
    index: HashMap<u64, u64>,
}

/// A delivery.
pub(super) struct Receipt {
    pub(super) sequence: u64,
    /// With the sequence, this tells the message from every other.
    pub(super) stored: u64,
    pub(super) state: State,
}

/// What became of a delivery.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It is in flight, to be answered here.
    Open(Subject),
    Acknowledged,
    /// It was given back, or is not answered any more.
    Forgotten,
}

impl Receipts {
    /// Adds one, under the [next number](Self::next_number).
    pub(super) fn push(&mut self, receipt: Receipt) {
        let number = self.next_number();
        if receipt.sequence <= self.newest {
            if !self.is_indexed() {
                let numbered = self.all.iter().zip(self.first..);
                self.index.extend(numbered.map(|(receipt, number)| (receipt.sequence, number)));
            }
            self.ordered_from = number + 1;
        }
        if self.is_indexed() {
            self.index.insert(receipt.sequence, number);
        }
        self.newest = self.newest.max(receipt.sequence);
        self.all.push_back(receipt);
    }

    /// The number that the next one has.
    pub(super) fn next_number(&self) -> u64 {
        self.first + self.all.len() as u64
    }

    /// The one with this number; `None` if it was dropped.
    pub(super) fn get_mut(&mut self, number: u64) -> Option<&mut Receipt> {
        self.all.get_mut(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    /// The newest one of a sequence.
    pub(super) fn find(&mut self, sequence: u64) -> Option<&mut Receipt> {
        if sequence > self.newest {
            return None;
        }
        if self.is_indexed() {
            let number = *self.index.get(&sequence)?;
            return self.get_mut(number);
        }
        let at = self.all.binary_search_by_key(&sequence, |receipt| receipt.sequence).ok()?;
        self.all.get_mut(at)
    }

    /// Drops the oldest one.
    pub(super) fn drop_oldest(&mut self) {
        let Some(oldest) = self.all.pop_front() else { return };
        if self.is_indexed() && self.index.get(&oldest.sequence) == Some(&self.first) {
            self.index.remove(&oldest.sequence);
        }
        self.first += 1;
        if !self.is_indexed() && !self.index.is_empty() {
            self.index = HashMap::new();
        }
    }

    /// Of those that are held, the one at this place from the oldest.
    pub(super) fn nth(&self, place: usize) -> Option<&Receipt> {
        self.all.get(place)
    }

    /// How many are held.
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// The highest sequence that was ever added.
    pub(super) fn newest(&self) -> u64 {
        self.newest
    }

    fn is_indexed(&self) -> bool {
        self.first < self.ordered_from
    }
}

impl Receipt {
    /// Whether it is in flight.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.state, State::Open(_))
    }

    /// It ends so; gives the subject for its answer if it was open. One that was not has been superseded, and is looked
    /// at no more.
    pub(super) fn end(&mut self, state: State) -> Option<Subject> {
        let State::Open(reply) = std::mem::replace(&mut self.state, state) else { return None };
        Some(reply)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn receipt(sequence: u64, stored: u64) -> Receipt {
        Receipt { sequence, stored, state: State::Acknowledged }
    }

    #[test]
    fn in_order_there_is_no_index_and_out_of_order_only_as_long_as_needed() {
        let mut receipts = Receipts::default();
        for sequence in [3, 5, 9] {
            receipts.push(receipt(sequence, 0));
        }
        assert!(receipts.index.is_empty());
        assert!(receipts.find(4).is_none() && receipts.find(10).is_none());
        receipts.push(receipt(5, 1));
        assert_eq!(receipts.find(5).unwrap().stored, 1);
        receipts.push(receipt(12, 0));
        assert_eq!((receipts.index.len(), receipts.newest()), (4, 12));
        // The older one of the same sequence is dropped, and then the one out of order.
        (0..3).for_each(|_| receipts.drop_oldest());
        assert_eq!(receipts.find(5).unwrap().stored, 1);
        receipts.drop_oldest();
        assert!(receipts.index.is_empty() && receipts.find(5).is_none());
        assert_eq!(receipts.find(12).map(|found| found.sequence), Some(12));
        assert!(receipts.get_mut(3).is_none());
        assert_eq!(receipts.next_number(), 5);
        assert_eq!(receipts.get_mut(4).map(|found| found.sequence), Some(12));
    }

    proptest! {
        #[test]
        fn the_newest_of_each_sequence_is_found(
            steps in prop::collection::vec(prop_oneof![
                4 => (1..40_u64).prop_map(Some),
                2 => Just(None),
            ], 0..200),
            rising in any::<bool>(),
        ) {
            let mut receipts = Receipts::default();
            let mut held = VecDeque::new();
            for (step, number) in steps.into_iter().zip(0..) {
                if let Some(sequence) = step {
                    let sequence = if rising { number * 2 + sequence % 3 } else { sequence };
                    receipts.push(receipt(sequence, number));
                    held.push_back((sequence, number));
                } else {
                    receipts.drop_oldest();
                    held.pop_front();
                }
                let newest: HashMap<u64, u64> = held.iter().copied().collect();
                for sequence in 0..500 {
                    let found = receipts.find(sequence).map(|found| found.stored);
                    prop_assert_eq!(found, newest.get(&sequence).copied());
                }
            }
            prop_assert_eq!(receipts.len(), held.len());
        }
    }
}
