//! The two clocks of stopping. *Drain*: take nothing new, finish what is in flight. *Abort*: stop now;
//! what is not settled is released.

use tokio_util::sync::CancellationToken;

/// A view of both clocks; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    drain: CancellationToken,
    abort: CancellationToken,
}

impl Shutdown {
    /// Both clocks not yet run out.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts the drain.
    pub fn start_drain(&self) {
        self.drain.cancel();
    }

    /// Starts the abort, and with it the drain.
    pub fn start_abort(&self) {
        self.drain.cancel();
        self.abort.cancel();
    }

    /// Waits for the drain to start.
    pub async fn drain(&self) {
        self.drain.cancelled().await;
    }

    /// Waits for the abort to start.
    pub async fn abort(&self) {
        self.abort.cancelled().await;
    }

    /// Whether the drain has started.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.drain.is_cancelled()
    }

    /// Whether the abort has started.
    #[must_use]
    pub fn is_aborting(&self) -> bool {
        self.abort.is_cancelled()
    }
}
