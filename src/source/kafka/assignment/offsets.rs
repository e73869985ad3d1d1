//! The position that may be committed for one assigned partition: pure bookkeeping of offsets.
//!
//! Offsets have gaps (compaction, markers of transactions), so nothing here adds one to an offset but
//! to name the position behind a settled message.

/// The offsets of one (topic, partition, generation).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Offsets {
    /// Of the oldest message of this generation.
    first: Option<i64>,
    /// Of the newest.
    newest: Option<i64>,
    /// Behind the last message before the oldest that is not settled.
    watermark: Option<i64>,
    /// What was stored for the next commit.
    stored: Option<i64>,
}

/// Order of a message against those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// It follows them.
    Forward,
    /// It is older than the newest, or than the start position: the partition was set back, and not by us.
    Back,
}

impl Offsets {
    /// Sets the start position, which is stored like any other.
    pub(crate) fn begin(&mut self, position: i64) {
        debug_assert_eq!(*self, Self::default());
        self.watermark = Some(position);
    }

    /// Compares a message that may be taken.
    pub(crate) fn step(&self, offset: i64) -> Step {
        let before = match (self.newest, self.watermark) {
            (Some(newest), _) => offset <= newest,
            (None, Some(begin)) => offset < begin,
            (None, None) => false,
        };
        if before { Step::Back } else { Step::Forward }
    }

    /// A message was taken.
    pub(crate) fn received(&mut self, offset: i64) {
        debug_assert_eq!(self.step(offset), Step::Forward);
        self.first.get_or_insert(offset);
        self.newest = Some(offset);
    }

    /// All messages up to this one are settled. Later calls come with higher offsets: one that does
    /// not is a bug that would set the group back, and is refused.
    pub(crate) fn settled(&mut self, offset: i64) {
        let behind = offset.saturating_add(1);
        let rises = self.watermark.is_none_or(|watermark| watermark < behind);
        let known = self.newest.is_some_and(|newest| offset <= newest);
        debug_assert!(rises && known, "{offset} is settled, and {self:?}");
        if rises && known {
            self.watermark = Some(behind);
        }
    }

    /// The position to store, if it is not stored yet. What is stored never falls.
    pub(crate) fn unstored(&self) -> Option<i64> {
        self.watermark.filter(|watermark| self.stored.is_none_or(|stored| stored < *watermark))
    }

    /// A position was stored.
    pub(crate) fn stored(&mut self, position: i64) {
        debug_assert!(self.stored.is_none_or(|stored| stored < position), "{position}, {self:?}");
        self.stored = self.stored.max(Some(position));
    }

    /// The stored position.
    pub(crate) fn last_stored(&self) -> Option<i64> {
        self.stored
    }

    /// Has the stored position stored once more.
    pub(crate) fn store_anew(&mut self) {
        self.stored = None;
    }

    /// The position of the oldest unsettled message, or of the next one if there is none.
    pub(crate) fn resume_at(&self) -> Option<i64> {
        self.watermark.or(self.first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nothing_is_stored_before_something_is_settled() {
        let mut offsets = Offsets::default();
        assert_eq!((offsets.unstored(), offsets.resume_at()), (None, None));
        offsets.received(7);
        assert_eq!((offsets.unstored(), offsets.resume_at()), (None, Some(7)));
        offsets.settled(7);
        assert_eq!((offsets.unstored(), offsets.resume_at()), (Some(8), Some(8)));
        offsets.stored(8);
        assert_eq!(offsets.unstored(), None);
    }

    #[test]
    fn where_it_begins_is_stored_before_there_is_a_message() {
        let mut offsets = Offsets::default();
        offsets.begin(7);
        assert_eq!((offsets.unstored(), offsets.resume_at()), (Some(7), Some(7)));
        offsets.stored(7);
        offsets.received(9);
        offsets.settled(9);
        assert_eq!(offsets.unstored(), Some(10));
    }

    #[test]
    fn a_step_back_is_seen() {
        let mut offsets = Offsets::default();
        offsets.received(7);
        assert_eq!(offsets.step(9), Step::Forward);
        assert_eq!((offsets.step(7), offsets.step(3)), (Step::Back, Step::Back));
        let mut begun = Offsets::default();
        begun.begin(7);
        assert_eq!((begun.step(6), begun.step(7)), (Step::Back, Step::Forward));
    }

    proptest! {
        /// Whatever is settled when: what is stored rises, stands behind a settled message, and has
        /// nothing unsettled before it.
        #[test]
        fn stored_is_behind_all_that_is_settled(
            gaps in prop::collection::vec(1..5_i64, 1..60),
            order in prop::collection::vec(any::<prop::sample::Index>(), 1..60),
            start in 0..1000_i64,
        ) {
            let taken: Vec<i64> = gaps.iter().scan(start, |at, gap| { *at += gap; Some(*at) }).collect();
            let mut offsets = Offsets::default();
            for offset in &taken {
                prop_assert_eq!(offsets.step(*offset), Step::Forward);
                offsets.received(*offset);
            }
            let (mut done, mut last) = (vec![false; taken.len()], 0);
            for index in order {
                done[index.index(taken.len())] = true;
                let prefix = done.iter().take_while(|d| **d).count();
                // The record of what is in flight gives the settled prefix, as here.
                if prefix > 0 && offsets.resume_at() != Some(taken[prefix - 1] + 1) {
                    offsets.settled(taken[prefix - 1]);
                }
                let Some(position) = offsets.unstored() else { continue };
                prop_assert!(position > last);
                prop_assert_eq!(position, taken[prefix - 1] + 1);
                prop_assert!(taken.iter().zip(&done).all(|(o, d)| *o >= position || *d));
                offsets.stored(position);
                last = position;
            }
        }
    }
}
