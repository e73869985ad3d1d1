//! Positions on their way to the broker: stored for the next commit, committed, awaited when partitions are
//! revoked, and sought back to when a message was released.

use std::pin::pin;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::future::select;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use tracing::{debug, info, warn};

use super::ANSWER_TIMEOUT;
use super::assignment::Place;
use super::park::park;
use super::shared::{Shared, list};
use crate::kafka::words;

/// How often a sign of life is given while revoked partitions are awaited.
const STEP: Duration = Duration::from_secs(1);

/// Commits that fail for so long are more than a rebalance.
const PATIENCE: Duration = Duration::from_mins(1);

/// Wait before a commit that a rebalance refused is retried.
const AGAIN: Duration = Duration::from_millis(100);

impl Shared {
    /// Hands the watermarks to librdkafka, which commits them every second.
    pub(super) fn store(&self, consumer: &BaseConsumer<impl ConsumerContext>) {
        let mut assignment = self.assignment();
        let (places, below) = (assignment.take_unstored(), assignment.stored_below());
        drop(assignment);
        // librdkafka commits nothing below what it has committed, unless it is told to.
        if !below.is_empty()
            && let Err(error) = consumer.commit(&self.noted(&below), CommitMode::Async)
        {
            debug!(source = %self.name, %error, "positions below those before were not committed");
        }
        if places.is_empty() {
            return;
        }
        // librdkafka refuses those of revoked partitions, as it should.
        if let Err(error) = consumer.store_offsets(&self.noted(&places)) {
            debug!(source = %self.name, %error, "positions were not stored");
        }
        self.stored.store(true, Ordering::Relaxed);
    }

    /// These places, each with the note for its commit.
    fn noted(&self, places: &[Place]) -> TopicPartitionList {
        let list = list(places);
        let history = self.history();
        for mut element in list.elements() {
            if let Some(note) = history.note(element.topic()) {
                element.set_metadata(note);
            }
        }
        list
    }

    /// Commits the stored positions, and waits for the broker to confirm; a commit that a rebalance
    /// refuses is retried until `deadline`. With nothing stored no request is made: without a coordinator
    /// the request alone takes as long as a session.
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
            // A client whose assignment is lost is out of the group, whatever error the broker gave.
            let again = is_transient(&error) && !consumer.assignment_lost() && !left.is_zero();
            if !again || park(AGAIN.min(left), self.shutdown.abort()).is_some() {
                // Committed by a later try, at the latest when the partitions are revoked.
                self.stored.store(true, Ordering::Relaxed);
                return Err(words(&error));
            }
        }
    }

    /// How a commit of librdkafka's own went; an error is why it failed.
    pub(super) fn committed(&self, result: Result<(), &str>) {
        let source = &self.name;
        let Err(why) = result else {
            let failed = self.commits_fail.lock().take();
            if failed.is_some_and(|(since, _)| since.elapsed() >= PATIENCE) {
                info!(%source, "positions are committed again");
            }
            return self.update(|membership| membership.commits_fail = None);
        };
        let mut fails = self.commits_fail.lock();
        let (since, times) = fails.get_or_insert((Instant::now(), 0));
        *times += 1;
        let (since, times) = (*since, *times);
        drop(fails);
        if since.elapsed() < PATIENCE {
            return;
        }
        self.update(|membership| {
            if membership.commits_fail.replace(why.to_owned()).is_none() {
                warn!(%source, why, times, "positions can't be committed; after a restart all since then comes again");
            }
        });
    }

    /// What is committed next is of another assignment.
    pub(super) fn forget_commits(&self) {
        *self.commits_fail.lock() = None;
        self.update(|membership| membership.commits_fail = None);
    }

    /// Waits until the messages of `revoked` partitions are settled, and commits. Those not settled in
    /// time are delivered again, to the partition's next owner.
    pub(super) fn await_revoked(
        &self,
        consumer: &BaseConsumer<impl ConsumerContext>,
        revoked: &[(String, i32)],
    ) {
        if std::thread::panicking() {
            // A panic drops the client; settlements may never come.
            return;
        }
        // Messages not handed over could not be settled.
        self.hand_over();
        let deadline = Instant::now() + self.config.drain_timeout;
        self.assignment().close_only(revoked);
        loop {
            let now = Instant::now();
            self.advance(consumer, now);
            self.alive();
            if self.assignment().is_done(revoked) || self.shutdown.is_aborting() {
                break;
            }
            if now >= deadline {
                let waited = self.config.drain_timeout;
                warn!(source = %self.name, ?waited, "partitions were revoked before all of their messages were settled; their next owner gets some again");
                break;
            }
            let changed = pin!(self.changed.notified());
            let abort = pin!(self.shutdown.abort());
            park(STEP.min(deadline - now), select(changed, abort));
        }
        self.store(consumer);
        if let Err(why) = self.commit(consumer, deadline) {
            warn!(source = %self.name, why, "the last offsets of revoked partitions are not committed; some messages come again");
        }
    }

    /// Advances watermarks; pauses partitions with a released message until the seek back to it is done.
    pub(super) fn advance(&self, consumer: &BaseConsumer<impl ConsumerContext>, now: Instant) {
        let released = self.assignment().advance(now);
        if !released.is_empty() {
            warn!(source = %self.name, partitions = ?released, "a message was released; its partition is read again from there");
            self.pause(consumer, &released);
        }
    }

    /// Seeks partitions to their pending positions, where the backoff is over.
    pub(super) fn read_again(&self, consumer: &BaseConsumer<impl ConsumerContext>, now: Instant) {
        let places = self.assignment().due_rewinds(now);
        if places.is_empty() {
            return;
        }
        // All at once: each call may wait for a broker.
        let said = consumer.seek_partitions(list(&places), ANSWER_TIMEOUT);
        if let Err(error) = &said {
            debug!(source = %self.name, ?places, %error, "partitions could not be set back; retrying");
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
        self.update(|membership| membership.undecided = undecided);
        // While there is no room they stay paused with the others, and are resumed with them.
        if !self.assignment().pressure.is_paused() {
            self.resume(consumer, &set);
        }
    }
}

/// Whether a retry may succeed: the broker is between two generations of the group, or this client
/// does not know yet of the newest, which it joined.
fn is_transient(error: &KafkaError) -> bool {
    let code = error.rdkafka_error_code();
    matches!(
        code,
        Some(Code::RebalanceInProgress | Code::IllegalGeneration | Code::StaleMemberEpoch)
    )
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::{KafkaSource, settings};
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
    use rdkafka::producer::DefaultProducerContext;
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
    use std::sync::Arc;

    const LONG: Duration = Duration::from_secs(30);

    /// A client that is no member yet.
    pub(in super::super) fn client(brokers: &str) -> (Arc<Shared>, BaseConsumer<Context>) {
        let mut config = config();
        config.brokers = brokers.split(',').map(str::to_owned).collect();
        let mut properties = settings::properties(&config).unwrap();
        // Nothing but what is tried here meets the errors.
        properties.set("auto.commit.interval.ms", "3600000");
        let (metrics, health) = (Metrics::new(), Health::default());
        let room = Room::new(Limits { messages: 10, bytes: 1_000 }, metrics.source("s"));
        let source = KafkaSource {
            name: "s".into(),
            config,
            properties: properties.clone(),
            room,
            metrics: metrics.source("s"),
            kafka: metrics.kafka("s"),
            health: health.register("s", "new"),
            tokens: None,
        };
        let shared = Arc::new(Shared::new(source, Intake::new(drop), Shutdown::new()));
        let context = Context::new(Arc::clone(&shared));
        let consumer = properties.create_with_context(context).unwrap();
        (shared, consumer)
    }

    type Cluster = MockCluster<'static, DefaultProducerContext>;

    /// A member of a group, with the only partition of `t`.
    fn member() -> (Cluster, Arc<Shared>, BaseConsumer<Context>) {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("t", 1, 1).unwrap();
        let (shared, consumer) = client(&cluster.bootstrap_servers());
        consumer.subscribe(&["t"]).unwrap();
        let deadline = Instant::now() + LONG;
        while shared.assignment().names().is_empty() {
            assert!(Instant::now() < deadline, "nothing is assigned");
            let _ = consumer.poll(Duration::from_millis(50));
        }
        (cluster, shared, consumer)
    }

    /// A position to commit.
    fn store(shared: &Shared, consumer: &BaseConsumer<Context>, offset: i64) {
        consumer.store_offset("t", 0, offset).unwrap();
        shared.stored.store(true, Ordering::Relaxed);
    }

    /// The next commits are refused.
    fn refuse(cluster: &Cluster, errors: &[RDKafkaRespErr]) {
        cluster.request_errors(RDKafkaApiKey::OffsetCommit, errors);
    }

    #[test]
    fn a_commit_between_two_generations_is_tried_again() {
        let (cluster, shared, consumer) = member();
        let rebalance = RDKafkaRespErr::RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS;
        store(&shared, &consumer, 1);
        refuse(&cluster, &[rebalance; 3]);
        shared.commit(&consumer, Instant::now() + LONG).unwrap();

        // No longer than it may, and no longer than somebody waits for it.
        store(&shared, &consumer, 2);
        refuse(&cluster, &[rebalance]);
        shared.commit(&consumer, Instant::now()).unwrap_err();
        shared.commit(&consumer, Instant::now()).unwrap();
        store(&shared, &consumer, 3);
        refuse(&cluster, &[rebalance]);
        shared.shutdown.start_abort();
        shared.commit(&consumer, Instant::now() + LONG).unwrap_err();
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
            assert_eq!(is_transient(&KafkaError::ConsumerCommit(code)), expected, "{code:?}");
        }
    }

    #[test]
    fn who_is_out_of_the_group_does_not_try_again() {
        let (cluster, shared, consumer) = member();
        store(&shared, &consumer, 1);
        // Another try would meet the second.
        let errors = [
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION,
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED,
        ];
        refuse(&cluster, &errors);
        let why = shared.commit(&consumer, Instant::now() + LONG).unwrap_err();
        assert!(why.contains("generation"), "{why}");
    }

    #[test]
    fn another_error_is_told_at_once() {
        let (cluster, shared, consumer) = member();
        store(&shared, &consumer, 1);
        refuse(&cluster, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED]);
        let why = shared.commit(&consumer, Instant::now() + LONG).unwrap_err();
        assert!(why.contains("authorization"), "{why}");
        shared.commit(&consumer, Instant::now()).unwrap();
    }
}
