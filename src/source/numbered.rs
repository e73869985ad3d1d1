//! What is held under numbers that rise, and leaves in nearly that order. Pure.
//!
//! It is found by its place, without an index: to look each message up in one costs more than all else that is recorded
//! of it. What stays while thousands behind it leave is moved to an index, so that the places do not pile up.

use std::collections::VecDeque;

use hashbrown::HashMap;

/// So many free places behind an old one are borne, besides as many as there are held.
const SPARSE: usize = 1_024;

/// Things by their numbers.
#[derive(Debug)]
pub(super) struct Numbered<T> {
    /// The number of the first place; those behind it follow.
    first: u64,
    /// `None`: it has left. The first is held, if there is one.
    places: VecDeque<Option<T>>,
    /// How many places are not free.
    placed: usize,
    /// Those that were before the first place.
    old: HashMap<u64, T>,
}

impl<T> Default for Numbered<T> {
    fn default() -> Self {
        Self { first: 0, places: VecDeque::new(), placed: 0, old: HashMap::new() }
    }
}

impl<T> Numbered<T> {
    /// The number of the next one.
    pub(super) fn next_number(&self) -> u64 {
        self.first + self.places.len() as u64
    }

    /// Holds one more, under the [next number](Self::next_number).
    pub(super) fn push(&mut self, it: T) {
        self.places.push_back(Some(it));
        self.placed += 1;
        while self.places.len() > 2 * self.placed + SPARSE {
            if let Some(oldest) = self.places.pop_front().flatten() {
                self.old.insert(self.first, oldest);
                self.placed -= 1;
            }
            self.first += 1;
        }
        self.pass();
    }

    /// The one with this number.
    pub(super) fn get_mut(&mut self, number: u64) -> Option<&mut T> {
        match self.place(number) {
            Some(place) => self.places.get_mut(place)?.as_mut(),
            None => self.old.get_mut(&number),
        }
    }

    /// Takes out the one with this number.
    pub(super) fn remove(&mut self, number: u64) -> Option<T> {
        let Some(place) = self.place(number) else { return self.old.remove(&number) };
        let it = self.places.get_mut(place)?.take()?;
        self.placed -= 1;
        self.pass();
        Some(it)
    }

    /// All of them; the old ones in no order, before the others.
    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        self.old.values().chain(self.places.iter().flatten())
    }

    /// As [`values`](Self::values), to be changed.
    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.old.values_mut().chain(self.places.iter_mut().flatten())
    }

    /// How many are held.
    pub(super) fn len(&self) -> usize {
        self.placed + self.old.len()
    }

    /// Whether none is.
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn place(&self, number: u64) -> Option<usize> {
        number.checked_sub(self.first).and_then(|place| usize::try_from(place).ok())
    }

    /// Goes on to the first that is held.
    fn pass(&mut self) {
        while let Some(None) = self.places.front() {
            self.places.pop_front();
            self.first += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_that_stays_keeps_no_places() {
        let mut numbered = Numbered::default();
        for number in 0..100_000_u64 {
            assert_eq!(numbered.next_number(), number);
            numbered.push(number);
            if number != 7 {
                assert_eq!(numbered.remove(number), Some(number));
            }
            assert!(numbered.places.len() <= SPARSE + 4, "{}", numbered.places.len());
        }
        assert_eq!((numbered.len(), numbered.old.len()), (1, 1));
        assert_eq!(numbered.get_mut(7), Some(&mut 7));
        assert_eq!((numbered.remove(7), numbered.remove(7)), (Some(7), None));
        assert!(numbered.is_empty());
    }

    proptest! {
        #[test]
        fn it_is_a_map(steps in prop::collection::vec(prop_oneof![
            3 => Just(None),
            3 => (0..4_u64).prop_map(Some),
            1 => (0..5_000_u64).prop_map(Some),
        ], 0..5_000)) {
            let (mut numbered, mut map) = (Numbered::default(), BTreeMap::new());
            for step in steps {
                let next = numbered.next_number();
                match step {
                    None => {
                        numbered.push(next);
                        map.insert(next, next);
                    }
                    Some(back) => {
                        let number = next.saturating_sub(back);
                        prop_assert_eq!(numbered.get_mut(number).copied(), map.get(&number).copied());
                        prop_assert_eq!(numbered.remove(number), map.remove(&number));
                    }
                }
                prop_assert_eq!(numbered.len(), map.len());
            }
            let mut values: Vec<_> = numbered.values().copied().collect();
            values.sort_unstable();
            prop_assert_eq!(values, map.into_values().collect::<Vec<_>>());
        }
    }
}
