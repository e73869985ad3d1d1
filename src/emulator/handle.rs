//! A running emulator, from within its process: what `control` is for other processes.

use std::sync::Arc;
use std::time::Instant;

use super::fault::Fault;
use super::record::Counts;
use super::service::Service;

/// A handle to an emulator; cheap to clone.
#[derive(Clone)]
pub struct Handle(pub(super) Arc<Service>);

impl Handle {
    /// Puts these faults in the place of all others.
    pub fn set_faults(&self, faults: Vec<Fault>) {
        self.0.faults.replace(faults, Instant::now());
    }

    /// What was accepted so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.0.journal.counts()
    }

    /// How often the faults in force have struck.
    #[must_use]
    pub fn struck(&self) -> u64 {
        self.0.faults.struck()
    }

    /// The number of open `WebSockets`.
    #[must_use]
    pub fn sockets(&self) -> usize {
        self.0.fanout.sockets()
    }
}
