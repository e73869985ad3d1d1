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

    /// Clocks of a part of what these stop: its own, which begin with these at the latest.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { drain: self.drain.child_token(), abort: self.abort.child_token() }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_can_be_stopped_alone_and_is_stopped_with_the_whole() {
        let whole = Shutdown::new();
        let [one, two] = [whole.child(), whole.child()];
        one.start_abort();
        assert!(one.is_draining() && one.is_aborting());
        assert!(!whole.is_draining() && !two.is_draining());
        whole.start_drain();
        assert!(two.is_draining() && !two.is_aborting());
        whole.start_abort();
        assert!(two.is_aborting());
    }
}
