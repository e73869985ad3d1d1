//! Positions on their way to the broker: stored for the next commit, committed, and waited for when
//! partitions are taken away.

use std::pin::pin;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::future::select;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use tracing::{debug, warn};

use super::context::Context;
use super::park::park;
use super::settings;
use super::shared::{Shared, list};

/// A sign of life is given this often while partitions are waited for.
const STEP: Duration = Duration::from_secs(1);

/// A commit that came in the middle of a rebalance is tried again after this.
const AGAIN: Duration = Duration::from_millis(100);

impl Shared {
    /// Hands the watermarks to librdkafka, which commits them every second.
    pub(super) fn store(&self, consumer: &BaseConsumer<Context>) {
        let places = self.assignment().take_unstored();
        if places.is_empty() {
            return;
        }
        // Of a partition that is not ours any more it is refused, as it should be.
        if let Err(error) = consumer.store_offsets(&list(&places)) {
            debug!(source = %self.name, %error, "positions were not stored");
        }
        self.stored.store(true, Ordering::Relaxed);
    }

    /// Commits what is stored, and waits for the broker to confirm; what a rebalance keeps from being
    /// committed is tried again until `deadline`. Where nothing was ever stored nobody is asked: without
    /// a coordinator the question alone takes as long as a session.
    pub(super) fn commit(
        &self,
        consumer: &BaseConsumer<Context>,
        deadline: Instant,
    ) -> Result<(), String> {
        if !self.stored.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        loop {
            let error = match consumer.commit_consumer_state(CommitMode::Sync) {
                // With nothing to commit, all of it was committed before.
                Ok(()) | Err(KafkaError::ConsumerCommit(Code::NoOffset)) => return Ok(()),
                Err(error) => error,
            };
            self.alive();
            let left = deadline.saturating_duration_since(Instant::now());
            let again = passes(&error) && !left.is_zero();
            if !again || park(AGAIN.min(left), self.shutdown.abort()).is_some() {
                // To be asked for again, at the latest when the partitions go.
                self.stored.store(true, Ordering::Relaxed);
                return Err(settings::words(&error));
            }
        }
    }

    /// Waits for what is in flight of `revoked`, and commits it. What is not settled in time comes
    /// again, to whoever gets the partition.
    pub(super) fn drain(&self, consumer: &BaseConsumer<Context>, revoked: &[(String, i32)]) {
        if std::thread::panicking() {
            // The client is dropped by a thread that broke off; nobody may be there to settle anything.
            return;
        }
        // What waits here would be waited for.
        self.hand_over();
        let deadline = Instant::now() + self.config.drain_timeout;
        self.assignment().close_only(revoked);
        loop {
            let now = Instant::now();
            self.settle(consumer, now);
            self.alive();
            if self.assignment().is_drained(revoked) || self.shutdown.is_aborting() {
                break;
            }
            if now >= deadline {
                let waited = self.config.drain_timeout;
                warn!(source = %self.name, ?waited, "partitions were taken away before all of their messages were settled; some come again");
                break;
            }
            let changed = pin!(self.changed.notified());
            let abort = pin!(self.shutdown.abort());
            park(STEP.min(deadline - now), select(changed, abort));
        }
        self.store(consumer);
        if let Err(why) = self.commit(consumer, deadline) {
            warn!(source = %self.name, why, "the last offsets of partitions that were taken away are not committed; some messages come again");
        }
    }
}

/// Whether the next try may do better: the broker is between two generations of the group, or this
/// client has not heard of the newest.
fn passes(error: &KafkaError) -> bool {
    let code = error.rdkafka_error_code();
    matches!(code, Some(Code::RebalanceInProgress | Code::StaleMemberEpoch))
}
