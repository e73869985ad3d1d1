//! What the poller of a source and librdkafka's callbacks share. All of them run on one thread, the
//! poller's, but librdkafka's types ask for locks all the same.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use parking_lot::{Mutex, MutexGuard};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::Notify;
use tracing::{info, warn};

use super::assignment::{Assignment, Place};
use super::diagnosis::{self, Repeats};
use super::membership::{Standing, Statistics, Watchdog};
use super::start::Births;
use crate::config::kafka::{KafkaConfig, Topics};
use crate::delivery::{Delivery, Intake};
use crate::health::Part;
use crate::kafka::{Desk, plain};
use crate::message::SourceName;
use crate::metrics::{KafkaMetrics, SourceMetrics};
use crate::seeded_bugs::{self, Bug};
use crate::shutdown::Shutdown;
use crate::source::Room;

/// Messages handed over at once where more are waiting.
const HAND_OVER: usize = 256;

/// What they share.
pub(super) struct Shared {
    pub(super) name: SourceName,
    pub(super) config: KafkaConfig,
    pub(super) selection: Topics,
    pub(super) room: Arc<Room>,
    pub(super) metrics: SourceMetrics,
    pub(super) kafka: KafkaMetrics,
    pub(super) shutdown: Shutdown,
    pub(super) tokens: Option<Arc<Desk>>,
    /// Something may be committed, or was given back.
    pub(super) changed: Arc<Notify>,
    health: Part,
    assignment: Mutex<Assignment>,
    births: Mutex<Births>,
    handing: Mutex<Handing>,
    state: Mutex<State>,
    /// Something was stored since it was last seen committed.
    pub(super) stored: AtomicBool,
}

/// What was taken and is about to be handed over.
#[derive(Debug, Default)]
struct Handing {
    /// `None` when nothing is taken any more: the pipeline ends with the last of them.
    intake: Option<Intake>,
    taken: Vec<Delivery>,
}

#[derive(Debug, Default)]
struct State {
    standing: Standing,
    repeats: Repeats,
    watchdog: Watchdog,
    /// Has been a member before.
    known: bool,
    /// The brokers refused who we are, and we are no member since.
    refused: bool,
    /// Why the client is of no more use, though it does not say so.
    lost: Option<String>,
}

impl Shared {
    pub(super) fn new(
        (name, config, tokens): (SourceName, KafkaConfig, Option<Arc<Desk>>),
        room: Arc<Room>,
        (metrics, kafka): (SourceMetrics, KafkaMetrics),
        health: Part,
        intake: Intake,
        shutdown: Shutdown,
    ) -> Self {
        let changed = Arc::new(Notify::new());
        let assignment = Assignment::new(Arc::clone(&room), Arc::clone(&changed), kafka.clone());
        let selection = config.selection();
        let names = selection.names().iter().map(String::as_str);
        let births = Births::new(selection.patterns().chain(names));
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
            births: Mutex::new(births),
            selection,
            handing: Mutex::new(Handing { intake: Some(intake), taken: Vec::new() }),
            state: Mutex::default(),
            stored: AtomicBool::new(false),
        }
    }

    pub(super) fn assignment(&self) -> MutexGuard<'_, Assignment> {
        self.assignment.lock()
    }

    pub(super) fn births(&self) -> MutexGuard<'_, Births> {
        self.births.lock()
    }

    /// Whether topics come and go that nobody has named.
    pub(super) fn has_patterns(&self) -> bool {
        self.selection.patterns().next().is_some()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
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

    /// Whether some API takes what is handed over.
    pub(super) fn is_intake_open(&self) -> bool {
        let handing = self.handing.lock();
        handing.intake.as_ref().is_none_or(Intake::is_open)
    }

    /// Hands nothing over any more.
    pub(super) fn close_intake(&self) {
        *self.handing.lock() = Handing::default();
    }

    /// A sign of life.
    pub(super) fn alive(&self) {
        self.health.alive();
    }

    /// Changes what is known of the source, and says so if that matters.
    pub(super) fn stand(&self, change: impl FnOnce(&mut Standing)) {
        let mut state = self.state();
        let before = (state.standing.member, state.standing.reason());
        change(&mut state.standing);
        let (member, reason) = (state.standing.member, state.standing.reason());
        self.metrics.connected.set(i64::from(member));
        if member && !before.0 && std::mem::replace(&mut state.known, true) {
            self.metrics.reconnects.inc();
        }
        if reason != before.1 {
            match reason {
                None => self.health.ready(),
                Some(reason) => self.health.not_ready(reason),
            }
        }
    }

    /// Something went wrong, and librdkafka tries again.
    pub(super) fn trouble(&self, code: Code, reason: &str) {
        if code == Code::Fatal {
            // The poller ends with it, and says so.
            return;
        }
        if code == Code::AllBrokersDown && self.is_troubled() {
            // What is wrong with each of them was said.
            return self.stand(|standing| standing.member = false);
        }
        let code = diagnosis::kind(code, reason);
        if code == Code::Authentication {
            self.state().refused = true;
            // At once: while others let us in, the group may look well. Asking is limited in its rate.
            if let Some(tokens) = &self.tokens {
                tokens.refuse();
            }
        }
        if diagnosis::is_final(reason) {
            self.state().lost = Some(plain(reason).to_owned());
        }
        let missing = diagnosis::missing_topic(code, reason);
        let times = self.state().repeats.note(code, Instant::now());
        if let Some(times) = times {
            let hint = diagnosis::hint(code, self.config.sasl.as_ref());
            warn!(source = %self.name, why = plain(reason), times, hint, "trouble with the brokers; trying again");
        }
        self.stand(|standing| {
            if let Some(topic) = missing {
                // One that a regular expression took may go: the next look misses it.
                if self.config.topics.contains(&topic.0) {
                    standing.missing.insert(topic);
                }
            } else {
                standing.trouble = Some(plain(reason).to_owned());
                standing.member &= !diagnosis::is_total(code);
            }
        });
    }

    /// Why the client is of no more use, though it does not say so itself.
    pub(super) fn take_lost(&self) -> Option<String> {
        self.state().lost.take()
    }

    /// Whether something is known to be wrong.
    fn is_troubled(&self) -> bool {
        self.state().standing.trouble.is_some()
    }

    /// Whether the group has us.
    pub(super) fn is_member(&self) -> bool {
        self.state().standing.member
    }

    /// The topics that could not be read.
    pub(super) fn missing(&self) -> Vec<String> {
        self.state().standing.missing.iter().map(|(topic, _)| topic.clone()).collect()
    }

    /// Asks for another token while the brokers refuse the one that there is. librdkafka tells of a
    /// refusal once and goes on trying.
    fn refuse_token(&self) {
        let mut state = self.state();
        state.refused &= !state.standing.member;
        if state.refused
            && let Some(tokens) = &self.tokens
        {
            tokens.refuse();
        }
    }

    /// Takes librdkafka's numbers.
    pub(super) fn statistics(&self, json: &[u8]) {
        let Some(statistics) = Statistics::read(json) else { return };
        self.stand(|standing| {
            standing.seen(statistics.is_member(), Instant::now());
        });
        self.refuse_token();
        let mut lag = 0;
        let assignment = self.assignment();
        for behind in statistics.behind() {
            let Some(partition) = assignment.get(&behind.topic, behind.partition) else { continue };
            if let Some(behind) = behind.lag {
                partition.metrics.lag.set(behind);
                lag += behind;
            }
            if let Some(committed) = behind.committed {
                partition.metrics.committed.set(committed);
            }
        }
        drop(assignment);
        let verdict = self.state().watchdog.look(lag, self.room.done(), Instant::now());
        if let Some(stuck) = verdict {
            self.stand(|standing| standing.stuck = stuck);
            if stuck {
                warn!(source = %self.name, lag, "the lag grows and nothing is delivered");
            } else {
                info!(source = %self.name, "delivers again");
            }
        }
    }

    /// Stops fetching from all that is ours.
    pub(super) fn pause(
        &self,
        consumer: &BaseConsumer<impl ConsumerContext>,
        partitions: Vec<(String, i32)>,
    ) {
        let mut assignment = self.assignment();
        let new = assignment.pause(partitions);
        let paused = assignment.paused();
        drop(assignment);
        if !new.is_empty()
            && let Err(error) = consumer.pause(&names(&new))
        {
            warn!(source = %self.name, %error, "partitions could not be paused");
        }
        self.kafka.paused.set(i64::try_from(paused).unwrap_or(i64::MAX));
    }

    /// Fetches again from those of `partitions` that were paused.
    pub(super) fn resume(
        &self,
        consumer: &BaseConsumer<impl ConsumerContext>,
        partitions: &[(String, i32)],
    ) {
        let mut assignment = self.assignment();
        let again = assignment.resume(partitions);
        let paused = assignment.paused();
        drop(assignment);
        if !again.is_empty()
            && let Err(error) = consumer.resume(&names(&again))
        {
            warn!(source = %self.name, %error, "partitions could not be resumed");
        }
        self.kafka.paused.set(i64::try_from(paused).unwrap_or(i64::MAX));
    }
}

impl Handing {
    fn hand_over(&mut self) {
        let Self { intake, taken } = self;
        for delivery in taken.drain(..) {
            // Without an intake it is dropped, which gives it back.
            if let Some(intake) = intake {
                intake.submit(delivery);
            }
        }
    }
}

/// A list that lives as long as one call: one that outlives it keeps the client from closing.
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
