//! The thread that polls librdkafka: takes messages, advances watermarks, pauses and resumes.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::select;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{BorrowedMessage, Message as _};
use tokio::sync::oneshot;
use tracing::warn;

use super::assignment::{Admitted, Found};
use super::context::Context;
use super::flow::Next;
use super::park::park;
use super::shared::Shared;
use super::subscription::Subscription;
use super::{CLOSE_TIMEOUT, diagnosis, record};
use crate::config::Secret;
use crate::config::kafka::Tombstones;
use crate::delivery::{Delivery, Done, Intake, Outcome};
use crate::kafka::{password, plain, with_password, words};
use crate::message::Message;
use crate::source::Unclean;
use crate::source::reconnect::Reconnect;

/// Messages taken in a row, before the loop does its other work.
const BATCH: usize = 512;

/// How long one poll waits for a message.
const IDLE: Duration = Duration::from_millis(50);

/// How often watermarks are advanced.
const TICK: Duration = Duration::from_millis(10);

/// How often settled positions are handed to librdkafka for its next commit.
const STORE_EVERY: Duration = Duration::from_millis(200);

/// How often the password is read anew while the source is no member of its group.
const ASK_EVERY: Duration = Duration::from_secs(10);

/// How often a missing token is reported; repeats are counted.
const TOKEN_EVERY: Duration = Duration::from_secs(10);

/// The longest first backoff before the client is recreated after a fatal error.
const RECONNECT_BASE: Duration = Duration::from_millis(500);

/// Polls until the drain.
pub(super) struct Poller {
    pub(super) shared: Arc<Shared>,
    /// Properties of a client, without its password.
    pub(super) properties: ClientConfig,
    /// A message for which there is no room yet: librdkafka takes none back.
    pub(super) held: Option<Held>,
    /// Gets the result once everything is committed, before the client is closed.
    pub(super) committed: Option<oneshot::Sender<Result<(), Unclean>>>,
    /// The password of the present client.
    pub(super) password: Option<Arc<str>>,
}

/// A message that waits for room.
pub(super) struct Held {
    found: Found,
    partition: i32,
    offset: i64,
    size: usize,
    message: Message,
}

impl Poller {
    /// Polls until the drain is done.
    pub(super) fn run(mut self) {
        let mut reconnect = Reconnect::new(RECONNECT_BASE);
        let mut ended = Ok(());
        while self.may_begin() {
            let began = Instant::now();
            let Err(why) = self.work() else { return };
            self.forget();
            if self.shared.shutdown.is_draining() {
                ended = Err(Unclean("the client failed while draining"));
            }
            let next = reconnect.ended(why.clone(), Some(began.elapsed()));
            if next.say {
                warn!(source = %self.shared.name, why, "Kafka client failed; recreating it");
            }
            self.shared.update(|membership| {
                membership.member = false;
                membership.last_error = Some(why);
            });
            self.shared.alive();
            park(next.wait, self.shared.shutdown.drain());
        }
        self.tell(ended);
    }

    /// Works with one client until the drain is done; an error means that it has to be recreated.
    fn work(&mut self) -> Result<(), String> {
        let (consumer, subscription) = self.subscribe()?;
        let drained = self.drive(&consumer, subscription)?;
        self.tell(drained);
        // Dropping the client leaves the group, which may take a while.
        Ok(())
    }

    /// Waits for a token, if the login needs one: without it librdkafka would not ask again for ten
    /// seconds. `false` when the drain came first.
    fn may_begin(&self) -> bool {
        let shared = &self.shared;
        while !shared.shutdown.is_draining() {
            let Some(tokens) = &shared.tokens else { return true };
            match tokens.answer() {
                Some(Ok(_)) => return true,
                Some(Err(why)) => shared.on_error(Code::Authentication, &why),
                None => {}
            }
            shared.alive();
            let (changed, drain) = (pin!(tokens.changed()), pin!(shared.shutdown.drain()));
            park(TOKEN_EVERY, select(changed, drain));
        }
        false
    }

    fn tell(&mut self, result: Result<(), Unclean>) {
        self.shared.close_intake();
        if let Some(committed) = self.committed.take() {
            let _ = committed.send(result);
        }
    }

    /// Clears all state of the failed client.
    fn forget(&mut self) {
        self.held = None;
        self.shared.leave_taken();
        self.shared.forget_commits();
        let mut assignment = self.shared.assignment();
        for (topic, partition) in assignment.names() {
            assignment.remove(&topic, partition);
        }
        assignment.pressure.resumed();
        drop(assignment);
        self.shared.kafka.paused.set(0);
    }

    fn subscribe(&mut self) -> Result<(BaseConsumer<Context>, Subscription), String> {
        let shared = &self.shared;
        self.password = password(&shared.config).map(Secret::reread_on_thread);
        let properties = with_password(&self.properties, self.password.as_deref());
        let context = Context::new(Arc::clone(shared));
        let consumer: BaseConsumer<Context> =
            properties.create_with_context(context).map_err(|error| words(&error))?;
        let subscription = Subscription::open(shared, &consumer, &properties)?;
        Ok((consumer, subscription))
    }

    /// Polls until the drain is done, and gives its result; an error is that of the client.
    fn drive(
        &mut self,
        consumer: &BaseConsumer<Context>,
        mut subscription: Subscription,
    ) -> Result<Result<(), Unclean>, String> {
        let mut ticked = Instant::now();
        let (mut stored, mut asked) = (ticked, ticked);
        let mut draining = false;
        loop {
            let now = Instant::now();
            if self.shared.shutdown.is_aborting() {
                return Ok(Err(Unclean("aborted")));
            }
            if !draining && self.shared.shutdown.is_draining() {
                draining = true;
                self.begin_drain(consumer);
            }
            if let Some(why) = self.shared.take_fatal() {
                return Err(why);
            }
            if draining || now.duration_since(ticked) >= TICK {
                ticked = now;
                self.shared.advance(consumer, now);
                self.shared.begin(consumer, now);
                self.shared.read_again(consumer, now);
                self.shared.alive();
            }
            if now.duration_since(stored) >= STORE_EVERY {
                stored = now;
                self.shared.store(consumer);
            }
            if now.duration_since(asked) >= ASK_EVERY {
                asked = now;
                if !self.shared.is_member()
                    && self.password != password(&self.shared.config).map(Secret::reread_on_thread)
                {
                    return Err("its password has changed".to_owned());
                }
            }
            if draining {
                if let Some(result) = self.drained(consumer) {
                    return Ok(result);
                }
                Self::poll(&self.shared, consumer, Duration::from_millis(5)).transpose()?;
                continue;
            }
            subscription.look(&self.shared, consumer, now)?;
            self.flow(consumer, now)?;
        }
    }

    /// Takes messages as far as there is room and the intake gate is open.
    fn flow(&mut self, consumer: &BaseConsumer<Context>, now: Instant) -> Result<(), String> {
        self.retry_held();
        self.shared.hand_over();
        let full =
            self.held.is_some() || !self.shared.room.fits(0) || !self.shared.is_intake_open();
        // Those that are let in one by one need no more room than that.
        let half_free =
            self.shared.is_intake_ajar() || self.shared.room.half_free(0).now_or_never().is_some();
        let next = self.shared.assignment().pressure.next(full, half_free, now);
        match next {
            Next::Take => self.take_batch(consumer)?,
            Next::Stall => {
                let (step, before) =
                    (self.shared.assignment().pressure.step(), self.shared.room.free_share());
                std::thread::sleep(step);
                self.shared.advance(consumer, Instant::now());
                let freed = self.shared.room.free_share() - before;
                self.shared.assignment().pressure.stalled(freed);
            }
            Next::Pause => {
                let all = self.shared.assignment().names();
                self.shared.pause(consumer, &all);
            }
            Next::Serve => {
                if let Some(message) = Self::poll(&self.shared, consumer, TICK) {
                    self.take(&message?);
                    self.shared.hand_over();
                }
            }
            Next::Resume => {
                // A partition with a pending seek stays paused until the seek is done.
                let all = self.shared.assignment().not_rewinding();
                self.shared.resume(consumer, &all);
            }
        }
        Ok(())
    }

    fn take_batch(&mut self, consumer: &BaseConsumer<Context>) -> Result<(), String> {
        let mut patience = IDLE;
        for _ in 0..if self.shared.is_intake_ajar() { Intake::FEW } else { BATCH } {
            let Some(message) = Self::poll(&self.shared, consumer, patience) else { break };
            self.take(&message?);
            if self.held.is_some() || !self.shared.room.fits(0) {
                break;
            }
            patience = Duration::ZERO;
        }
        self.shared.hand_over();
        Ok(())
    }

    /// The next message; `None` if there is none, or the poll gave an error that the callback reports.
    fn poll<'c>(
        shared: &Shared,
        consumer: &'c BaseConsumer<Context>,
        patience: Duration,
    ) -> Option<Result<BorrowedMessage<'c>, String>> {
        match consumer.poll(patience)? {
            Ok(message) => Some(Ok(message)),
            Err(KafkaError::MessageConsumptionFatal(code)) => {
                // The code of a fatal error says no more than that; the client knows why.
                let (code, why) =
                    consumer.client().fatal_error().unwrap_or_else(|| (code, code.to_string()));
                let hint = diagnosis::hint(code, shared.config.sasl.as_ref());
                Some(Err(diagnosis::with_hint(plain(&why), hint)))
            }
            // Reported already, by the callback for errors.
            Err(_) => None,
        }
    }

    fn take(&mut self, message: &BorrowedMessage<'_>) {
        let (topic, partition, offset) = (message.topic(), message.partition(), message.offset());
        let shared = &self.shared;
        let mut assignment = shared.assignment();
        let Some(found) = assignment.find(topic, partition, offset) else { return };
        // A held message waits for room. Later messages are read again; those of its own partition from
        // the held one on: to pass it would lose it.
        if let Some(held) = &self.held {
            let same = held.partition == partition && held.message.topic.as_str() == topic;
            let from = if same { held.offset.min(offset) } else { offset };
            return assignment.set_back(topic, partition, from);
        }
        if message.payload().is_none() && shared.config.tombstones == Tombstones::Skip {
            let admitted = assignment.admit(found, offset, 0);
            drop(assignment);
            if let Admitted::Taken(settlement) = admitted {
                shared.kafka.tombstones.inc();
                return settlement.settle(Outcome::Accepted(Done::Filtered));
            }
            return self.give_back(message);
        }
        let (message, size) = record::message(&shared.name, assignment.named(found), message);
        match assignment.admit(found, offset, size) {
            Admitted::Foreign => {}
            Admitted::Taken(settlement) => {
                drop(assignment);
                shared.take_in(Delivery::new(message, settlement));
            }
            Admitted::Full => {
                drop(assignment);
                self.held = Some(Held { found, partition, offset, size, message });
            }
        }
    }

    /// Has a message that can't be taken now read again.
    fn give_back(&self, message: &BorrowedMessage<'_>) {
        let mut assignment = self.shared.assignment();
        assignment.set_back(message.topic(), message.partition(), message.offset());
    }

    fn retry_held(&mut self) {
        let Some(held) = self.held.take() else { return };
        let admitted = self.shared.assignment().admit(held.found, held.offset, held.size);
        match admitted {
            Admitted::Full => self.held = Some(held),
            // The partition was revoked, or the message is read again.
            Admitted::Foreign => {}
            Admitted::Taken(settlement) => {
                self.shared.take_in(Delivery::new(held.message, settlement));
            }
        }
    }

    fn begin_drain(&mut self, consumer: &BaseConsumer<Context>) {
        // It is not committed, so the broker delivers it again.
        self.held = None;
        self.shared.update(|membership| membership.draining = true);
        let mut assignment = self.shared.assignment();
        assignment.close();
        let all = assignment.names();
        drop(assignment);
        self.shared.pause(consumer, &all);
    }

    /// `Some` when the drain is over.
    fn drained(&self, consumer: &BaseConsumer<Context>) -> Option<Result<(), Unclean>> {
        let assignment = self.shared.assignment();
        let (drained, released) = (assignment.all_done(), assignment.has_released());
        drop(assignment);
        if !drained {
            return None;
        }
        self.shared.store(consumer);
        let committed = self.shared.commit(consumer, Instant::now() + CLOSE_TIMEOUT);
        if let Err(why) = &committed {
            warn!(source = %self.shared.name, why, "the last offsets are not committed; some messages come again");
        }
        Some(match (released, committed) {
            (true, _) => Err(Unclean("a message was released while draining")),
            (false, Err(_)) => Err(Unclean("the last offsets were not committed")),
            (false, Ok(())) => Ok(()),
        })
    }
}
