//! Positions on their way to the broker: stored for the next commit, committed, and waited for when
//! partitions are taken away.

use std::pin::pin;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::future::select;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use tracing::{debug, warn};

use super::ANSWER_TIMEOUT;
use super::assignment::Place;
use super::park::park;
use super::shared::{Shared, list};
use crate::kafka::words;

/// A sign of life is given this often while partitions are waited for.
const STEP: Duration = Duration::from_secs(1);

/// A commit that came in the middle of a rebalance is tried again after this.
const AGAIN: Duration = Duration::from_millis(100);

impl Shared {
    /// Hands the watermarks to librdkafka, which commits them every second.
    pub(super) fn store(&self, consumer: &BaseConsumer<impl ConsumerContext>) {
        let places = self.assignment().take_unstored();
        if places.is_empty() {
            return;
        }
        // Of a partition that is not ours any more it is refused, as it should be.
        let list = list(&places);
        let births = self.births();
        for mut element in list.elements() {
            if let Some(note) = births.note(element.topic()) {
                element.set_metadata(note);
            }
        }
        drop(births);
        if let Err(error) = consumer.store_offsets(&list) {
            debug!(source = %self.name, %error, "positions were not stored");
        }
        self.stored.store(true, Ordering::Relaxed);
    }

    /// Commits what is stored, and waits for the broker to confirm; what a rebalance keeps from being
    /// committed is tried again until `deadline`. Where nothing was ever stored nobody is asked: without
    /// a coordinator the question alone takes as long as a session.
    pub(super) fn commit(
        &self,
        consumer: &BaseConsumer<impl ConsumerContext>,
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
            // Who has lost its partitions is out of the group, whatever the broker calls it.
            let again = passes(&error) && !consumer.assignment_lost() && !left.is_zero();
            if !again || park(AGAIN.min(left), self.shutdown.abort()).is_some() {
                // To be asked for again, at the latest when the partitions go.
                self.stored.store(true, Ordering::Relaxed);
                return Err(words(&error));
            }
        }
    }

    /// Waits for what is in flight of `revoked`, and commits it. What is not settled in time comes
    /// again, to whoever gets the partition.
    pub(super) fn drain(
        &self,
        consumer: &BaseConsumer<impl ConsumerContext>,
        revoked: &[(String, i32)],
    ) {
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
/// client has not heard of the newest, which it joined.
fn passes(error: &KafkaError) -> bool {
    let code = error.rdkafka_error_code();
    matches!(
        code,
        Some(Code::RebalanceInProgress | Code::IllegalGeneration | Code::StaleMemberEpoch)
    )
}

impl Shared {
    /// Moves watermarks on; a partition in which a message was given back is fetched from no more until
    /// it was set back.
    pub(super) fn settle(&self, consumer: &BaseConsumer<impl ConsumerContext>, now: Instant) {
        let released = self.assignment().settle(now);
        if !released.is_empty() {
            warn!(source = %self.name, partitions = ?released, "a message was given back; its partition is read again from there");
            self.pause(consumer, released);
        }
    }

    /// Sets partitions back to what was given back, as far as it is time.
    pub(super) fn read_again(&self, consumer: &BaseConsumer<impl ConsumerContext>, now: Instant) {
        let places = self.assignment().due_rewinds(now);
        if places.is_empty() {
            return;
        }
        // All at once: each call may wait for a broker.
        let said = consumer.seek_partitions(list(&places), ANSWER_TIMEOUT);
        if let Err(error) = &said {
            debug!(source = %self.name, ?places, %error, "partitions could not be set back yet");
        }
        let is_set = |place: &Place| {
            let set = said.as_ref().ok()?.find_partition(&place.topic, place.partition)?;
            set.error().ok()
        };
        let now = Instant::now();
        let mut set = Vec::with_capacity(places.len());
        let mut assignment = self.assignment();
        for place in places {
            let done = is_set(&place).is_some();
            assignment.rewound(&place, done, now);
            if done {
                set.push((place.topic, place.partition));
            }
        }
        let undecided = assignment.beginning();
        drop(assignment);
        self.stand(|standing| standing.undecided = undecided);
        // While there is no room they stay paused with the others, and go on with them.
        if !self.assignment().pressure.is_paused() {
            self.resume(consumer, &set);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::settings;
    use super::*;
    use crate::config::kafka::tests::config;
    use crate::config::source::Limits;
    use crate::delivery::Intake;
    use crate::health::Health;
    use crate::metrics::Metrics;
    use crate::shutdown::Shutdown;
    use crate::source::Room;
    use crate::source::kafka::context::Context;
    use rdkafka::mocking::MockCluster;
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
    use std::sync::Arc;

    const PATIENCE: Duration = Duration::from_secs(30);

    /// A client that is no member yet.
    pub(in super::super) fn client(brokers: &str) -> (Arc<Shared>, BaseConsumer<Context>) {
        let mut config = config();
        config.brokers = brokers.split(',').map(str::to_owned).collect();
        let mut properties = settings::properties(&config).unwrap();
        // Nothing but what is tried here meets the errors.
        properties.set("auto.commit.interval.ms", "3600000");
        let (metrics, health) = (Metrics::new(), Health::default());
        let room = Room::new(Limits { messages: 10, bytes: 1_000 }, metrics.source("s"));
        let shared = Arc::new(Shared::new(
            ("s".into(), config, None),
            room,
            (metrics.source("s"), metrics.kafka("s")),
            health.register("s", "new"),
            Intake::new(drop),
            Shutdown::new(),
        ));
        let context = Context::new(Arc::clone(&shared));
        let consumer = properties.create_with_context(context).unwrap();
        (shared, consumer)
    }

    /// A member of a group, with the only partition of `t`.
    fn member(brokers: &str) -> (Arc<Shared>, BaseConsumer<Context>) {
        let (shared, consumer) = client(brokers);
        consumer.subscribe(&["t"]).unwrap();
        let deadline = Instant::now() + PATIENCE;
        while shared.assignment().names().is_empty() {
            assert!(Instant::now() < deadline, "nothing is assigned");
            let _ = consumer.poll(Duration::from_millis(50));
        }
        (shared, consumer)
    }

    #[test]
    fn a_commit_between_two_generations_is_tried_again() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("t", 1, 1).unwrap();
        let (shared, consumer) = member(&cluster.bootstrap_servers());
        let refuse = |error: RDKafkaRespErr, times| {
            cluster.request_errors(RDKafkaApiKey::OffsetCommit, &vec![error; times]);
        };
        let rebalance = RDKafkaRespErr::RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS;
        let store = |offset| {
            consumer.store_offset("t", 0, offset).unwrap();
            shared.stored.store(true, Ordering::Relaxed);
        };
        store(1);
        refuse(rebalance, 3);
        shared.commit(&consumer, Instant::now() + PATIENCE).unwrap();

        // No longer than it may, and no longer than somebody waits for it.
        store(2);
        refuse(rebalance, 1);
        shared.commit(&consumer, Instant::now()).unwrap_err();
        shared.commit(&consumer, Instant::now()).unwrap();
        store(3);
        refuse(rebalance, 1);
        shared.shutdown.start_abort();
        shared.commit(&consumer, Instant::now() + PATIENCE).unwrap_err();
    }

    #[test]
    fn what_passes_is_what_a_rebalance_ends() {
        for (code, expected) in [
            (Code::RebalanceInProgress, true),
            // While it rejoins, the broker may be one generation ahead.
            (Code::IllegalGeneration, true),
            (Code::StaleMemberEpoch, true),
            (Code::UnknownMemberId, false),
            (Code::FencedInstanceId, false),
            (Code::GroupAuthorizationFailed, false),
        ] {
            assert_eq!(passes(&KafkaError::ConsumerCommit(code)), expected, "{code:?}");
        }
    }

    #[test]
    fn who_is_out_of_the_group_does_not_try_again() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("t", 1, 1).unwrap();
        let (shared, consumer) = member(&cluster.bootstrap_servers());
        consumer.store_offset("t", 0, 1).unwrap();
        shared.stored.store(true, Ordering::Relaxed);
        // Another try would meet the second.
        let errors = [
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION,
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED,
        ];
        cluster.request_errors(RDKafkaApiKey::OffsetCommit, &errors);
        let why = shared.commit(&consumer, Instant::now() + PATIENCE).unwrap_err();
        assert!(why.contains("generation"), "{why}");
    }

    #[test]
    fn another_error_is_told_at_once() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("t", 1, 1).unwrap();
        let (shared, consumer) = member(&cluster.bootstrap_servers());
        consumer.store_offset("t", 0, 1).unwrap();
        shared.stored.store(true, Ordering::Relaxed);
        let errors = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED];
        cluster.request_errors(RDKafkaApiKey::OffsetCommit, &errors);
        let why = shared.commit(&consumer, Instant::now() + PATIENCE).unwrap_err();
        assert!(why.contains("authorization"), "{why}");
        shared.commit(&consumer, Instant::now()).unwrap();
    }
}
