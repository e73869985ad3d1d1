//! What was published: for tests a file of all of it and counts, for people the last of it.

mod journal;
mod ledger;
mod stats;

pub(super) use journal::Journal;
pub use journal::{Counts, Published};
pub(super) use ledger::{Ledger, LedgerLine};
pub(super) use stats::Stats;
