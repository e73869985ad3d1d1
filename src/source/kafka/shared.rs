//! What the poller of a source and librdkafka's callbacks share. All of them run on one thread, the
//! poller's, but librdkafka's types ask for locks all the same.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::Notify;
use tracing::{info, warn};

use super::assignment::{Assignment, Place};
use super::membership::Membership;
use super::start::History;
use super::statistics::{Fetching, Statistics, Trouble, Watchdog};
use super::{KafkaSource, diagnosis};
use crate::config::kafka::{KafkaConfig, Topics};
use crate::delivery::{Delivery, Intake};
use crate::health::Part;
use crate::kafka::{TokenCache, plain};
use crate::message::SourceName;
use crate::metrics::{KafkaMetrics, SourceMetrics, ends_at};
use crate::repeats::Repeats;
use crate::seeded_bugs::{self, Bug};
use crate::shutdown::Shutdown;
use crate::source::Room;

/// Messages handed over in one go.
const HAND_OVER: usize = 256;

/// The same error is not logged again sooner.
const LOG_EVERY: Duration = Duration::from_mins(1);

/// The state they share.
pub(super) struct Shared {
    pub(super) name: SourceName,
    pub(super) config: KafkaConfig,
    pub(super) selection: Topics,
    pub(super) room: Arc<Room>,
    pub(super) metrics: SourceMetrics,
    pub(super) kafka: KafkaMetrics,
    pub(super) shutdown: Shutdown,
    pub(super) tokens: Option<Arc<TokenCache>>,
    /// Notified when a watermark may advance or a message was released.
    pub(super) changed: Arc<Notify>,
    health: Part,
    assignment: Mutex<Assignment>,
    history: Mutex<History>,
    handing: Mutex<Handing>,
    state: Mutex<State>,
    /// Positions were stored since the last confirmed commit.
    pub(super) stored: AtomicBool,
    /// Since when commits fail, and how often they have.
    pub(super) commits_fail: Mutex<Option<(Instant, u64)>>,
}

/// Messages taken and not yet handed over.
#[derive(Debug, Default)]
struct Handing {
    /// `None` when intake has ended: the pipeline ends when the last source's is dropped.
    intake: Option<Intake>,
    taken: Vec<Delivery>,
}

#[derive(Debug, Default)]
struct State {
    membership: Membership,
    /// The log lines of each error code.
    errors: Vec<(Code, Repeats)>,
    watchdog: Watchdog,
    fetching: Fetching,
    /// Was a member before: the next join is a reconnect.
    joined_before: bool,
    /// The brokers refused the login, and the source has not been a member since.
    login_refused: bool,
    /// Why the client has to be recreated, where librdkafka itself raises no fatal error.
    fatal: Option<String>,
}

impl Shared {
    pub(super) fn new(source: KafkaSource, intake: Intake, shutdown: Shutdown) -> Self {
        let KafkaSource { name, config, room, metrics, kafka, health, tokens, .. } = source;
        let tokens = tokens.map(|tokens| Arc::new(TokenCache::open(tokens)));
        if let Some(tokens) = &tokens {
            tokens.tell_end(ends_at(&metrics.credentials_expiry));
        }
        let changed = Arc::new(Notify::new());
        let assignment = Assignment::new(Arc::clone(&room), Arc::clone(&changed), kafka.clone());
        let selection = config.topics.clone();
        let names = selection.names().iter().map(String::as_str);
        let history = History::new(selection.patterns().chain(names));
        Self {
            name,
            config,
            room,
            metrics,
            kafka,
            shutdown,
            tokens,
            changed,
            health,
            assignment: Mutex::new(assignment),
            history: Mutex::new(history),
            selection,
            handing: Mutex::new(Handing { intake: Some(intake), taken: Vec::new() }),
            state: Mutex::default(),
            stored: AtomicBool::new(false),
            commits_fail: Mutex::default(),
        }
    }

    pub(super) fn assignment(&self) -> MutexGuard<'_, Assignment> {
        self.assignment.lock()
    }

    pub(super) fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock()
    }

    /// Whether `topics` has regular expressions.
    pub(super) fn has_patterns(&self) -> bool {
        self.selection.patterns().next().is_some()
    }

    /// Takes a message in for the next hand-over; each may wake a publisher, so several go at once.
    pub(super) fn take_in(&self, delivery: Delivery) {
        let mut handing = self.handing.lock();
        if seeded_bugs::is(Bug::DropsMessages) && rand::random_ratio(1, 200) {
            return;
        }
        handing.taken.push(delivery);
        if handing.taken.len() >= HAND_OVER {
            handing.hand_over();
        }
    }

    /// Hands everything over.
    pub(super) fn hand_over(&self) {
        self.handing.lock().hand_over();
    }

    /// Whether the intake gate is open: some API takes events.
    pub(super) fn is_intake_open(&self) -> bool {
        let handing = self.handing.lock();
        handing.intake.as_ref().is_none_or(Intake::is_open)
    }

    /// Whether the intake gate lets in only a few.
    pub(super) fn is_intake_ajar(&self) -> bool {
        self.handing.lock().intake.as_ref().is_some_and(Intake::is_ajar)
    }

    /// Messages not handed over yet are released: they are no longer ours.
    pub(super) fn leave_taken(&self) {
        self.handing.lock().taken.clear();
    }

    /// Ends the intake; messages not handed over yet are released.
    pub(super) fn close_intake(&self) {
        *self.handing.lock() = Handing::default();
    }

    /// A sign of life.
    pub(super) fn alive(&self) {
        self.health.alive();
    }

    /// Changes the membership, and health and metrics with it.
    pub(super) fn update(&self, change: impl FnOnce(&mut Membership)) {
        let mut state = self.state.lock();
        let before = (state.membership.member, state.membership.reason());
        change(&mut state.membership);
        let (member, reason) = (state.membership.member, state.membership.reason());
        self.metrics.connected.set(i64::from(member));
        if member && !before.0 && std::mem::replace(&mut state.joined_before, true) {
            self.metrics.reconnects.inc();
        }
        if reason != before.1 {
            match reason {
                None => self.health.ready(),
                Some(reason) => self.health.not_ready(reason),
            }
        }
    }

    /// Reports an error that librdkafka itself retries.
    pub(super) fn on_error(&self, code: Code, reason: &str) {
        if code == Code::Fatal {
            // The poller gets it too, and reports it.
            return;
        }
        if code == Code::AllBrokersDown && self.has_error() {
            // The cause, broker by broker, was reported already.
            return self.update(|membership| membership.member = false);
        }
        let code = diagnosis::kind(code, reason);
        if code == Code::Authentication {
            self.state.lock().login_refused = true;
            // At once: while other brokers accept the login, the group may look healthy. Requests for tokens are rate limited.
            if let Some(tokens) = &self.tokens {
                tokens.refuse();
            }
        }
        if diagnosis::is_final(reason) {
            self.state.lock().fatal = Some(plain(reason).to_owned());
        }
        let missing = diagnosis::missing_topic(code, reason);
        let times = self.state.lock().again(code, Instant::now());
        if let Some(times) = times {
            let hint = diagnosis::hint(code, self.config.sasl.as_ref());
            warn!(source = %self.name, why = plain(reason), times, hint, "Kafka client error; retrying");
        }
        self.update(|membership| {
            if let Some(topic) = missing {
                // A topic matched by a regular expression may be deleted: the next refresh drops it.
                if self.config.topics.names().contains(&topic.0) {
                    membership.missing.insert(topic);
                }
            } else {
                let hint = diagnosis::hint(code, self.config.sasl.as_ref());
                membership.last_error = Some(diagnosis::with_hint(plain(reason), hint));
                membership.member &= !diagnosis::is_total(code);
            }
        });
    }

    /// Why the client has to be recreated, where librdkafka itself raises no fatal error.
    pub(super) fn take_fatal(&self) -> Option<String> {
        self.state.lock().fatal.take()
    }

    /// Whether there was an error since the group was last steady.
    fn has_error(&self) -> bool {
        self.state.lock().membership.last_error.is_some()
    }

    /// Whether the source is a member of its group.
    pub(super) fn is_member(&self) -> bool {
        self.state.lock().membership.member
    }

    /// The topics that could not be read.
    pub(super) fn missing(&self) -> Vec<String> {
        self.state.lock().membership.missing.iter().map(|(topic, _)| topic.clone()).collect()
    }

    /// Asks for another token while the brokers refuse the present one. librdkafka reports a refusal
    /// once and goes on retrying.
    fn refuse_token(&self) {
        let mut state = self.state.lock();
        state.login_refused &= !state.membership.member;
        if state.login_refused
            && let Some(tokens) = &self.tokens
        {
            tokens.refuse();
        }
    }

    /// Evaluates librdkafka's statistics.
    pub(super) fn statistics(&self, json: &[u8]) {
        let Some(statistics) = Statistics::read(json) else { return };
        self.update(|membership| {
            membership.seen(statistics.is_member(), Instant::now());
        });
        self.refuse_token();
        let (mut lag, now) = (0, Instant::now());
        let has_room = self.room.fits(0) && self.is_intake_open();
        let mut state = self.state.lock();
        let mut assignment = self.assignment();
        for behind in statistics.behind() {
            let name = (&*behind.topic, behind.partition);
            if let Some(committed) = behind.committed {
                assignment.was_committed(name, committed);
            }
            let Some(partition) = assignment.get(&behind.topic, behind.partition) else { continue };
            let unread = behind.unread.filter(|_| partition.is_at_rest());
            if let Some(behind) = unread.or(behind.lag) {
                partition.metrics.lag.set(behind);
                lag += behind;
            }
            if let Some(committed) = behind.committed {
                partition.metrics.committed.set(committed);
            }
            let log = Some(behind.log).filter(|_| has_room && partition.is_fetched());
            if let Some(trouble) = state.fetching.look(name, log, now) {
                self.say(trouble, name);
            }
        }
        state.fetching.retain(|topic, number| assignment.get(topic, number).is_some());
        drop(assignment);
        let unfetched = state.fetching.unfetched();
        let verdict = state.watchdog.look(lag, self.room.done(), now);
        drop(state);
        self.update(|membership| {
            membership.unfetched = unfetched;
            membership.no_progress = verdict.unwrap_or(membership.no_progress);
        });
        match verdict {
            Some(true) => warn!(source = %self.name, lag, "the lag grows and nothing is delivered"),
            Some(false) => info!(source = %self.name, "messages are delivered again"),
            None => {}
        }
    }

    /// A partition has given nothing for a while.
    fn say(&self, trouble: Trouble, (topic, partition): (&str, i32)) {
        let source = &self.name;
        match trouble {
            Trouble::NotFetched => {
                let hint = "see the errors of Kafka, and whether the user may read the topic";
                warn!(%source, topic, partition, hint, "nothing is fetched of a partition");
            }
            Trouble::Transaction(messages) => {
                let hint = "see what its producers do: `kafka-transactions.sh find-hanging` names one that nobody ends";
                warn!(%source, topic, partition, messages, hint, "an open transaction holds back what comes behind it");
            }
        }
    }

    /// Stops fetching from `partitions`.
    pub(super) fn pause(
        &self,
        consumer: &BaseConsumer<impl ConsumerContext>,
        partitions: &[(String, i32)],
    ) {
        let new = self.assignment().mark_paused(partitions, true);
        if !new.is_empty()
            && let Err(error) = consumer.pause(&names(&new))
        {
            warn!(source = %self.name, %error, "partitions could not be paused");
        }
    }

    /// Fetches again from those of `partitions` that were paused.
    pub(super) fn resume(
        &self,
        consumer: &BaseConsumer<impl ConsumerContext>,
        partitions: &[(String, i32)],
    ) {
        let again = self.assignment().mark_paused(partitions, false);
        if !again.is_empty()
            && let Err(error) = consumer.resume(&names(&again))
        {
            warn!(source = %self.name, %error, "partitions could not be resumed");
        }
    }
}

impl Handing {
    fn hand_over(&mut self) {
        let Self { intake, taken } = self;
        for delivery in taken.drain(..) {
            // Without an intake it is dropped, which releases it.
            if let Some(intake) = intake {
                intake.submit(delivery);
            }
        }
    }
}

/// A list for one call of librdkafka: one that outlives the call keeps the client from closing.
pub(super) fn list(places: &[Place]) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(places.len());
    for place in places {
        // The only failure is an offset below zero, which no record has.
        let offset = Offset::Offset(place.offset);
        let _ = list.add_partition_offset(&place.topic, place.partition, offset);
    }
    list
}

fn names(partitions: &[(String, i32)]) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for (topic, partition) in partitions {
        list.add_partition(topic, *partition);
    }
    list
}

impl State {
    /// `Some` if an error is to be logged: how often it came since it was logged last.
    fn again(&mut self, code: Code, now: Instant) -> Option<u64> {
        let known = self.errors.iter().position(|(known, _)| *known == code);
        let place = known.unwrap_or_else(|| {
            self.errors.push((code, Repeats::default()));
            self.errors.len() - 1
        });
        self.errors[place].1.again(LOG_EVERY, now)
    }
}
