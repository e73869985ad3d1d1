//! The one task of a source: takes messages, hands them over, acknowledges them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::datetime::DateTime;
use async_nats::jetstream::consumer::Config;
use async_nats::{Client, Message, Subject};
use futures_util::FutureExt as _;
use smol_str::SmolStr;
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::warn;

use super::JetStreamSource;
use super::complaints::Complaints;
use super::consumer::{self, Asking, Binding, Hold, Passed};
use super::cuts::Cuts;
use super::flight::{Came, Flight, Place, Sequence};
use super::gathering::Gathering;
use super::message::message;
use super::outbox::{ACKNOWLEDGE, IN_PROGRESS, Outbox, give_back_after};
use super::pulling::{Heard, Pulling, Status};
use super::standing::Standing;
use super::watching::{PATIENCE, Watching};
use crate::config::nats::JetStreamConfig;
use crate::config::source::Limits;
use crate::delivery::{Delivery, Intake};
use crate::message::{HEADER_ENTRY, SourceName};
use crate::metrics::{JetStreamMetrics, SourceMetrics};
use crate::nats::Change;
use crate::seeded_bugs::{self, Bug};
use crate::shutdown::Shutdown;
use crate::source::recent_topics::RecentTopics;
use crate::source::{Room, Unclean};

/// How often it looks at the clock at least.
const TICK: Duration = Duration::from_millis(100);

/// It looked at no clock for so long: the process was frozen, or had no CPU.
const FROZEN: Duration = Duration::from_secs(1);

/// A turn with a server that hangs takes less: what it waits for has bounds.
const LONGEST_TURN: Duration = Duration::from_millis(2_500);

/// A message that is not taken, though there was room for it, comes back after this.
const NOT_TAKEN: Duration = Duration::from_secs(1);

/// Takes from one consumer until the drain.
pub(super) struct Taker {
    pub(super) source: SourceName,
    pub(super) config: JetStreamConfig,
    pub(super) limits: Limits,
    stream: SmolStr,
    topics: RecentTopics,
    pub(super) client: Client,
    pub(super) binding: Binding,
    next: Subject,
    pub(super) room: Arc<Room>,
    metrics: SourceMetrics,
    pub(super) jetstream: JetStreamMetrics,
    pub(super) standing: Standing,
    pub(super) cuts: Cuts,
    shutdown: Shutdown,
    pub(super) changed: Arc<Notify>,
    pub(super) flight: Flight,
    pub(super) outbox: Outbox,
    /// `None` when the drain has begun: the pipeline ends when the last intake is dropped.
    pub(super) intake: Option<Intake>,
    pub(super) asking: Asking,
    pub(super) pulling: Option<Pulling>,
    pub(super) hold: Option<Hold<Delivery>>,
    /// The consumer that was bound last.
    pub(super) generation: Option<Generation>,
    pub(super) sequence: Sequence,
    pub(super) watching: Watching,
    /// Came during the drain, and are given back when nothing more comes.
    pub(super) returned: Vec<Subject>,
    extended: Instant,
    pub(super) gathering: Gathering,
    /// When it had done last what was due, and whether it was frozen in that.
    steered: Instant,
    stopped: bool,
    /// Something was acknowledged.
    pub(super) acknowledged: bool,
    pub(super) complaints: Complaints,
    /// The server lets no answer come over this connection: the client asks for that once a connection.
    pub(super) inbox_refused: bool,
}

/// One life of a consumer: one that was deleted and made anew is another.
pub(super) struct Generation {
    pub(super) created: DateTime,
    pub(super) config: Config,
}

impl Taker {
    /// Takes for `source` with `client`.
    pub(super) fn new(
        source: JetStreamSource,
        client: Client,
        intake: Intake,
        shutdown: Shutdown,
    ) -> Self {
        let JetStreamSource { name, config, limits, room, metrics, jetstream, health, .. } = source;
        let (changed, binding) = (Arc::<Notify>::default(), Binding::new(client.clone(), &config));
        let wanted = consumer::wanted(&config, limits);
        let standing = Standing::new(name.clone(), health, metrics.clone());
        let watching = Watching::new(name.clone(), binding.clone(), jetstream.clone());
        let cuts = Cuts::new(config.ack_wait);
        let complaints = Complaints::new(&binding.next(), config.ack_wait);
        let flight = Flight::new(&room, &changed, limits.messages, config.ack_wait);
        Self {
            stream: config.stream.as_str().into(),
            topics: RecentTopics::new('.'),
            next: binding.next().into(),
            asking: Asking::new(binding.clone(), wanted, limits),
            outbox: Outbox::new(client.clone()),
            intake: Some(intake),
            pulling: None,
            hold: None,
            generation: None,
            sequence: Sequence::behind(0, 0, false),
            returned: Vec::new(),
            extended: Instant::now(),
            gathering: Gathering::default(),
            steered: Instant::now(),
            stopped: false,
            acknowledged: false,
            source: name,
            config,
            limits,
            client,
            binding,
            room,
            metrics,
            jetstream,
            standing,
            cuts,
            complaints,
            inbox_refused: false,
            shutdown,
            changed,
            flight,
            watching,
        }
    }

    /// Takes messages until the drain is done.
    pub(super) async fn run(
        mut self,
        mut changes: UnboundedReceiver<Change>,
    ) -> Result<(), Unclean> {
        let shutdown = self.shutdown.clone();
        let mut clock = interval(TICK);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut came = Vec::new();
        loop {
            tokio::select! {
                biased;
                () = shutdown.abort() => return Err(Unclean("aborted")),
                () = shutdown.drain(), if self.intake.is_some() => self.begin_drain(),
                // Ahead of what may never end: a source that always has something to do is alive.
                _ = clock.tick() => self.standing.alive(),
                Some(change) = changes.recv() => self.connection(change, &mut came),
                answer = self.asking.answer() => self.answered(answer),
                heard = next(&mut self.pulling, &mut came) => if matches!(heard, Heard::Over) {
                    self.fail("the subscription has ended");
                },
                word = self.watching.word() => self.hear(word),
                () = self.changed.notified() => {}
                () = self.gathering.is_over() => {}
            }
            let now = Instant::now();
            self.take(&mut came, now);
            self.steer(now).await;
            self.turned(now, Instant::now());
            if self.is_drained() {
                break;
            }
        }
        tokio::select! {
            left = self.leave() => left,
            () = shutdown.abort() => Err(Unclean("aborted")),
        }
    }

    /// A turn took from `began` to `ended`.
    fn turned(&mut self, began: Instant, ended: Instant) {
        self.stopped = ended.duration_since(began) > LONGEST_TURN;
        self.steered = ended;
    }

    /// Does what is due.
    async fn steer(&mut self, now: Instant) {
        let frozen = self.stopped || now.duration_since(self.steered) > FROZEN;
        if frozen && let Some(pulling) = &mut self.pulling {
            // What has come meanwhile is not read yet.
            pulling.heard(now);
        }
        let comes = !frozen && self.asking.is_bound() && self.takes();
        if let Some(hold) = self.hold.as_mut().filter(|_| !comes) {
            hold.hindered(now);
        }
        if let Some(hold) = self.hold.take_if(|hold| hold.is_over(now)) {
            self.pass(hold.pass());
        }
        if self.pulling.as_ref().is_some_and(|pulling| pulling.is_stalled(now)) {
            let why = self.complaints.why(now);
            self.fail(
                why.as_deref().unwrap_or("the server has been silent for several heartbeats"),
            );
        }
        let connected = self.outbox.is_connected();
        if self.intake.is_some() {
            if self.asking.start(now, connected) {
                self.complaints.ask();
                if std::mem::take(&mut self.inbox_refused) {
                    // Over another connection the client asks for it again: it may be allowed by now.
                    let _ = timeout(PATIENCE, self.client.force_reconnect()).await;
                }
            }
        } else if self.pulling.as_ref().is_some_and(|p| !connected || p.pulls.outstanding() == 0) {
            self.pulling = None;
        }
        if !connected || self.asking.is_asked() {
            self.gathering.rest();
            return;
        }
        self.acknowledge(now);
        self.give_back();
        if now.duration_since(self.extended) >= self.config.ack_wait / 12 {
            self.extended = now;
            for reply in self.flight.extend(now) {
                self.outbox.put(reply, IN_PROGRESS);
            }
        }
        if self.asking.is_bound() && self.intake.is_some() {
            if self.generation.as_ref().is_some_and(|known| known.config.max_deliver > 0) {
                self.watching.listen(&self.client).await;
            }
            self.watching.look(now);
            self.pull(now).await;
        }
        let held_up = !self.outbox.is_empty();
        self.outbox.send().await;
        if held_up && self.outbox.is_empty() && self.flight.settled() > 0 {
            // It may have held up acknowledgements.
            self.changed.notify_one();
        }
    }

    /// Takes what came.
    pub(super) fn take(&mut self, came: &mut Vec<Message>, now: Instant) {
        if came.is_empty() {
            return;
        }
        if let Some(pulling) = &mut self.pulling {
            pulling.heard(now);
        }
        let mut failed = None;
        for message in came.drain(..) {
            match Status::of(&message) {
                None => self.take_one(message, now),
                Some(Status::Heartbeat) => {}
                Some(Status::Ended(left)) => {
                    if let Some(pulling) = &mut self.pulling {
                        pulling.pulls.ended(left);
                    }
                }
                Some(Status::Exceeded(left)) => self.exceeded(left),
                Some(Status::Lost(why)) => failed = Some(why),
                Some(Status::Gone) => failed = Some(self.gone()),
                Some(Status::Refused(why)) => {
                    failed = Some(format!("the server refuses to deliver: {why}"));
                }
            }
        }
        // What came behind it was taken all the same.
        if let Some(why) = failed {
            self.fail(&why);
        }
    }

    fn exceeded(&mut self, left: usize) {
        let larger = self.pulling.as_mut().and_then(|pulling| pulling.pulls.exceeded(left));
        if let Some(bytes) = larger {
            warn!(
                source = %self.source, bytes,
                "a message is larger than a request for the server's `max_payload` may bring; asking for more bytes"
            );
        }
    }

    fn take_one(&mut self, mut from: Message, now: Instant) {
        let Some(reply) = from.reply.take() else { return };
        let Some(place) = Place::read(&reply) else { return };
        let Some(pulling) = &mut self.pulling else { return };
        let Some(reservation) = pulling.pulls.next() else { return };
        let values = from.headers.iter().flat_map(|headers| headers.iter());
        let entries = values.map(|(_, values)| values.len()).sum::<usize>();
        let bytes = from.length + entries * HEADER_ENTRY;
        let came = self.flight.came(&place, reply, bytes, reservation, now);
        pulling.pulls.came(from.length);
        if place.delivered > 1 {
            self.jetstream.redelivered.inc();
        }
        let gap = self.sequence.came(&place);
        if gap > 0 {
            self.watching.gap(gap, now);
        }
        match came {
            Came::New(_) if seeded_bugs::is(Bug::DropsMessages) && rand::random_ratio(1, 200) => {}
            Came::New(settlement) => {
                let message = message(&self.source, &self.stream, &mut self.topics, &place, &from);
                let delivery = Delivery::new(message, settlement);
                match (&mut self.hold, &self.intake) {
                    (Some(hold), _) => hold.take(place.stream, delivery),
                    (None, Some(intake)) => intake.submit(delivery),
                    // Dropped, it is given back.
                    (None, None) => {}
                }
            }
            Came::Joined => {}
            Came::Repeated(reply) => {
                self.metrics.copies_skipped.inc();
                if let Some(hold) = &mut self.hold {
                    hold.known(place.stream);
                }
                self.outbox.put(reply, ACKNOWLEDGE);
            }
            Came::NotTaken(reply) if self.intake.is_none() => self.returned.push(reply),
            Came::NotTaken(reply) => self.outbox.put(reply, give_back_after(NOT_TAKEN)),
        }
    }

    /// Hands over what was held.
    pub(super) fn pass(&mut self, passed: Passed<Delivery>) {
        let Passed { messages, missing } = passed;
        if missing > 0 {
            warn!(
                source = %self.source, missing,
                "older messages did not come within `ack_wait`, perhaps since they were removed; going on without"
            );
        }
        if let Some(intake) = &self.intake {
            for delivery in messages {
                intake.submit(delivery);
            }
        }
    }

    /// Whether the intake gate is open.
    fn takes(&self) -> bool {
        self.intake.as_ref().is_some_and(Intake::is_open)
    }

    /// Asks for messages as far as there is room and the intake gate is open.
    async fn pull(&mut self, now: Instant) {
        if !self.takes() {
            return;
        }
        if self.pulling.is_none() {
            let consumer = self.generation.as_ref().map(|known| &known.config);
            let Some(consumer) = consumer else { return };
            self.pulling = Pulling::open(&self.client, self.limits.messages, consumer).await;
        }
        let Some(pulling) = &mut self.pulling else { return };
        let span = self.flight.span() + pulling.pulls.outstanding();
        let free = self.room.messages_left().min(self.limits.messages.saturating_sub(span));
        let fit = || self.room.left_for(pulling.pulls.each());
        let pending = self.generation.as_ref().map_or(-1, |known| known.config.max_ack_pending);
        let free = self.hold.as_ref().map_or(free, |hold| hold.most(free, fit(), pending, now));
        let is_ajar = self.intake.as_ref().is_some_and(Intake::is_ajar);
        let few = Intake::FEW.saturating_sub(pulling.pulls.outstanding());
        let free = if is_ajar { free.min(few) } else { free };
        let wanted = pulling.pulls.wanted(free, now);
        if wanted == 0 {
            return;
        }
        if let Some(room) = self.room.reserve(wanted, pulling.pulls.each()).now_or_never() {
            self.cuts.asked(now);
            let words = pulling.ask(room, now);
            self.outbox.ask(self.next.clone(), pulling.inbox.clone(), words);
        }
    }
}

/// Waits for what a subscription brings.
pub(super) async fn next(pulling: &mut Option<Pulling>, came: &mut Vec<Message>) -> Heard {
    match pulling {
        Some(pulling) => pulling.next(came).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
#[path = "taker_tests.rs"]
mod tests;
