//! The thread that polls librdkafka: takes messages, moves watermarks on, pauses and resumes.

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
use super::{CLOSE_TIMEOUT, Unclean, diagnosis, record};
use crate::backoff::Backoff;
use crate::config::Secret;
use crate::config::kafka::Tombstones;
use crate::delivery::{Delivery, Done, Outcome};
use crate::kafka::{password, plain, with_password, words};
use crate::message::Message;

/// Messages taken before anything else is looked at.
const BATCH: usize = 512;

/// With nothing to take, the queue is waited on for so long.
const IDLE: Duration = Duration::from_millis(50);

/// Watermarks are moved on this often.
const TICK: Duration = Duration::from_millis(10);

/// What was settled is handed to librdkafka for its next commit this often.
const STORE_EVERY: Duration = Duration::from_millis(200);

/// Without room, what was settled is looked at after this.
const STALL_STEP: Duration = Duration::from_millis(2);

/// Whether there is another password is looked at this often while the brokers do not have us.
const ASK_EVERY: Duration = Duration::from_secs(10);

/// While there is no token, that is said this often; what repeats is counted.
const TOKEN_EVERY: Duration = Duration::from_secs(10);

/// After a fatal error a new client is made: the first time within this, …
const BACKOFF_BASE: Duration = Duration::from_millis(500);

/// … and never later than after this.
const BACKOFF_CAP: Duration = Duration::from_secs(30);

/// A client that was good for so long failed for the first time.
const GOOD_AFTER: Duration = Duration::from_mins(1);

/// Polls until the drain.
pub(super) struct Poller {
    pub(super) shared: Arc<Shared>,
    /// What a client is made with, but for its password.
    pub(super) properties: ClientConfig,
    /// A message that does not fit; there is no giving it back to librdkafka.
    pub(super) held: Option<Held>,
    /// Told when everything is committed, before the client is closed.
    pub(super) committed: Option<oneshot::Sender<Result<(), Unclean>>>,
    /// What the client was made with.
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

/// How the work with one client ended.
enum End {
    Drained(Result<(), Unclean>),
    /// It is of no more use.
    Fatal(String),
}

impl Poller {
    /// Polls until the drain is done.
    pub(super) fn run(mut self) {
        let mut backoff = Backoff::new(BACKOFF_BASE, BACKOFF_CAP);
        let mut ended = Ok(());
        while self.may_begin() {
            let began = Instant::now();
            let why = match self.subscribe() {
                Err(why) => why,
                Ok((consumer, subscription)) => match self.drive(&consumer, subscription) {
                    End::Fatal(why) => why,
                    End::Drained(drained) => {
                        self.tell(drained);
                        // Leaves the group, which may take a while.
                        drop(consumer);
                        return;
                    }
                },
            };
            self.forget();
            if self.shared.shutdown.is_draining() {
                ended = Err(Unclean("the client failed while draining"));
            }
            if began.elapsed() > GOOD_AFTER {
                backoff.reset();
            }
            let wait = backoff.next_wait();
            warn!(source = %self.shared.name, why, "the client is of no more use; making another");
            self.shared.stand(|standing| {
                standing.member = false;
                standing.trouble = Some(why);
            });
            self.shared.alive();
            park(wait, self.shared.shutdown.drain());
        }
        self.tell(ended);
    }

    /// Waits for a token, if there has to be one: without, librdkafka would not ask again for ten
    /// seconds. `false` when the drain came first.
    fn may_begin(&self) -> bool {
        let shared = &self.shared;
        while !shared.shutdown.is_draining() {
            let Some(tokens) = &shared.tokens else { return true };
            match tokens.answer() {
                Some(Ok(_)) => return true,
                Some(Err(why)) => shared.trouble(Code::Authentication, &why),
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

    /// What belonged to a client that is gone.
    fn forget(&mut self) {
        self.held = None;
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

    fn drive(&mut self, consumer: &BaseConsumer<Context>, mut subscription: Subscription) -> End {
        let mut ticked = Instant::now();
        let (mut stored, mut asked) = (ticked, ticked);
        let mut draining = false;
        loop {
            let now = Instant::now();
            if self.shared.shutdown.is_aborting() {
                return End::Drained(Err(Unclean("aborted")));
            }
            if !draining && self.shared.shutdown.is_draining() {
                draining = true;
                self.begin_drain(consumer);
            }
            if let Some(why) = self.shared.take_lost() {
                return End::Fatal(why);
            }
            if draining || now.duration_since(ticked) >= TICK {
                ticked = now;
                self.shared.settle(consumer, now);
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
                    return End::Fatal("its password has changed".to_owned());
                }
            }
            if draining {
                if let Some(result) = self.drained(consumer) {
                    return End::Drained(result);
                }
                if let Some(Err(why)) = Self::poll(&self.shared, consumer, Duration::from_millis(5))
                {
                    return End::Fatal(why);
                }
                continue;
            }
            if let Err(why) = subscription.look(&self.shared, consumer, now) {
                return End::Fatal(why);
            }
            if let Err(why) = self.flow(consumer, now) {
                return End::Fatal(why);
            }
        }
    }

    /// Takes messages as far as there is room, and somebody to take them.
    fn flow(&mut self, consumer: &BaseConsumer<Context>, now: Instant) -> Result<(), String> {
        self.retry_held();
        self.shared.hand_over();
        let full =
            self.held.is_some() || !self.shared.room.fits(0) || !self.shared.is_intake_open();
        let half_free = self.shared.room.half_free().now_or_never().is_some();
        let next = self.shared.assignment().pressure.next(full, half_free, now);
        match next {
            Next::Take => self.take_batch(consumer)?,
            Next::Stall => {
                std::thread::sleep(STALL_STEP);
                self.shared.settle(consumer, Instant::now());
            }
            Next::Pause => {
                let all = self.shared.assignment().names();
                self.shared.pause(consumer, all);
            }
            Next::Serve => {
                if let Some(message) = Self::poll(&self.shared, consumer, TICK) {
                    self.take(&message?);
                    self.shared.hand_over();
                }
            }
            Next::Resume => {
                // One that waits to be read again stays paused until it is.
                let all = self.shared.assignment().not_rewinding();
                self.shared.resume(consumer, &all);
            }
        }
        Ok(())
    }

    fn take_batch(&mut self, consumer: &BaseConsumer<Context>) -> Result<(), String> {
        let mut patience = IDLE;
        for _ in 0..BATCH {
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

    /// The next message; `None` if there is none, or something else came.
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
            // Said already, by the callback for errors.
            Err(_) => None,
        }
    }

    fn take(&mut self, message: &BorrowedMessage<'_>) {
        let (topic, partition, offset) = (message.topic(), message.partition(), message.offset());
        let shared = &self.shared;
        let mut assignment = shared.assignment();
        let Some(found) = assignment.find(topic, partition, offset) else { return };
        // One waits for room already. What comes behind it goes back, and if it is of the same
        // partition, that is read again from the one that waits: to pass it would lose it.
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

    /// A message that can't be taken now, and is to be read again.
    fn give_back(&self, message: &BorrowedMessage<'_>) {
        let mut assignment = self.shared.assignment();
        assignment.set_back(message.topic(), message.partition(), message.offset());
    }

    fn retry_held(&mut self) {
        let Some(held) = self.held.take() else { return };
        let Held { found, partition, offset, size, message } = held;
        let admitted = self.shared.assignment().admit(found, offset, size);
        match admitted {
            Admitted::Full => self.held = Some(Held { found, partition, offset, size, message }),
            // Somebody else's now, or it is read again.
            Admitted::Foreign => {}
            Admitted::Taken(settlement) => {
                self.shared.take_in(Delivery::new(message, settlement));
            }
        }
    }

    fn begin_drain(&mut self, consumer: &BaseConsumer<Context>) {
        // It stays with the broker.
        self.held = None;
        self.shared.stand(|standing| standing.draining = true);
        let mut assignment = self.shared.assignment();
        assignment.close();
        let all = assignment.names();
        drop(assignment);
        self.shared.pause(consumer, all);
    }

    /// `Some` when the drain is over.
    fn drained(&self, consumer: &BaseConsumer<Context>) -> Option<Result<(), Unclean>> {
        let assignment = self.shared.assignment();
        let (drained, released) = (assignment.all_drained(), assignment.has_released());
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
            (true, _) => Err(Unclean("a message was given back while draining")),
            (false, Err(_)) => Err(Unclean("the last offsets were not committed")),
            (false, Ok(())) => Ok(()),
        })
    }
}
