//! What a write could not store: some of the records behind the first of it may be confirmed, and must not be
//! written again.

use std::sync::Arc;

use super::{Record, WriteError};

/// The records that a write left over, with those confirmed among them.
#[derive(Debug, Default)]
pub(super) struct Left(Vec<(Record, bool)>);

impl Left {
    /// Which of `records` are confirmed, when they could not all be written before.
    pub(super) fn recall(&mut self, records: &[Record]) -> Vec<bool> {
        let left = std::mem::take(&mut self.0);
        let same = |(record, (known, _)): (&Record, &(Record, bool))| {
            Arc::ptr_eq(&record.message, &known.message)
                && (&record.route, &record.channel) == (&known.route, &known.channel)
                && (record.reason, record.at) == (known.reason, known.at)
        };
        if left.len() == records.len() && records.iter().zip(&left).all(same) {
            left.into_iter().map(|(_, confirmed)| confirmed).collect()
        } else {
            vec![false; records.len()]
        }
    }

    /// Remembers those of `records` that are `done`, and gives the error of the next one.
    pub(super) fn keep(&mut self, records: &[Record], done: Vec<bool>, why: String) -> WriteError {
        let kept = done.iter().take_while(|done| **done).count();
        self.0 = records.iter().cloned().zip(done).skip(kept).collect();
        WriteError { kept, why }
    }
}
