//! What happens to the binding of a consumer, and what the source does about it: connections, losses, the
//! drain.

use std::time::Instant;

use async_nats::Message;
use async_nats::jetstream::consumer::{Config, Info};
use futures_util::FutureExt as _;
use tracing::{info, warn};

use super::consumer::{self, Answer, Bound, Hold, Order};
use super::flight::{Flight, Sequence};
use super::pulling::Heard;
use super::taker::{Generation, Taker, next};
use super::watching::Word;
use crate::config::nats::{Consumers, Deliver};
use crate::nats::{Change, Kind};
use crate::source::Unclean;

/// The first version of a server that can have a consumer begin again.
const RESETS: (i64, i64, i64) = (2, 14, 0);

impl Taker {
    /// The connection has changed.
    pub(super) fn connection(&mut self, change: Change, came: &mut Vec<Message>) {
        match change {
            Change::Connected => {
                self.inbox_refused = false;
                self.leave_inbox(came);
                let now = Instant::now();
                if let Some(times) = self.cuts.connected(now)
                    && let Some(why) = self.cuts.why(now)
                {
                    warn!(source = %self.source, times, "{why}");
                }
                self.asking.begin();
            }
            Change::Lost => {
                self.leave_inbox(came);
                self.lost("the connection to the server is lost");
            }
            Change::Failed { server, trouble, .. } => {
                let why = format!("{server}: {}", trouble.in_words(&self.config.connection));
                self.asking.away();
                self.cuts.explained();
                // The client says itself when it tries again.
                let _ = self.standing.failed(&why);
            }
            Change::LameDuck => {
                self.cuts.explained();
                info!(source = %self.source, "the server is about to end; the connection moves to another");
            }
            Change::Complaint(trouble) => {
                self.asking.complaint(&trouble.what);
                self.inbox_refused |= trouble.refuses_inbox();
                if trouble.kind != Kind::Permission {
                    // The server ends the connection for it.
                    self.cuts.explained();
                }
                let (connection, now) = (&self.config.connection, Instant::now());
                let (why, times) = self.complaints.heard(&trouble, connection, now);
                if let Some(times) = times {
                    warn!(source = %self.source, why, times, "the server complains");
                }
                if self.asking.is_bound()
                    && let Some(why) = self.complaints.why(now)
                {
                    self.standing.refused(&why);
                }
            }
            Change::Closed => self.lost("the client has ended"),
            Change::Slow => self.fail("the client has dropped messages; they come again"),
        }
    }

    /// Takes what the connection has brought, which is ours, and listens no more: over the next one the client would
    /// subscribe again, and requests that the server has not forgotten bring messages before the consumer is bound.
    fn leave_inbox(&mut self, came: &mut Vec<Message>) {
        while let Some(Heard::Messages) = next(&mut self.pulling, came).now_or_never() {
            self.take(came, Instant::now());
        }
        self.pulling = None;
    }

    /// The server has answered.
    pub(super) fn answered(&mut self, answer: Answer) {
        match answer {
            Answer::Found(Ok(bound)) => self.found(*bound),
            Answer::Found(Err(why)) => {
                let why = self.complaints.no_answer().unwrap_or(why);
                self.fail(&why);
            }
            Answer::Reset { result: Ok(after), before, outstanding } => {
                self.jetstream.resets.inc();
                info!(
                    source = %self.source, outstanding,
                    "messages were delivered and not acknowledged; the consumer begins again behind those that were"
                );
                // They come again, in their order.
                self.hold = None;
                self.bound(&after, before.delivered.stream_sequence);
            }
            Answer::Reset { result: Err(why), before, outstanding } => {
                let why = self.complaints.no_answer().unwrap_or(why);
                info!(source = %self.source, why, "the consumer can't begin again");
                self.hold(&before, outstanding);
            }
        }
    }

    /// The consumer is there; now for the order.
    fn found(&mut self, Bound { info, created }: Bound) {
        let (stream, durable) = (&self.config.stream, &self.config.durable);
        if created {
            info!(source = %self.source, stream, durable, "consumer created");
        }
        let known = self.generation.as_ref();
        if known.is_some_and(|known| known.created != info.created) {
            let in_flight = self.flight.abandon();
            warn!(
                source = %self.source, stream, durable, in_flight,
                "the consumer is another one by now; what is in flight may come again"
            );
            let (delivered, messages) = (self.sequence.newest(), info.num_pending);
            if created && self.config.deliver == Deliver::All {
                warn!(
                    source = %self.source, stream, durable, delivered, messages,
                    "the consumer was gone and is made anew; the whole stream comes again, from its oldest message on, as \
                     `deliver` says: what was published before is published again"
                );
            } else if created && self.config.deliver == Deliver::LastPerSubject {
                warn!(
                    source = %self.source, stream, durable, delivered, messages,
                    "the consumer was gone and is made anew; the newest message of each subject comes again, as `deliver` \
                     says: what was published before is published again, and older ones that were not delivered are skipped"
                );
            } else if created {
                warn!(
                    source = %self.source, stream, durable, delivered,
                    "the consumer was gone and is made anew; what the old one had not delivered is skipped, as `deliver` says"
                );
            }
            (self.hold, self.flight) = (None, self.new_flight());
            self.outbox.clear();
        }
        if known_anew(self.generation.as_ref(), &info) {
            for hazard in consumer::hazards(&info.config) {
                warn!(source = %self.source, stream, durable, "{hazard}");
            }
        }
        self.generation = Some(Generation { created: info.created, config: info.config.clone() });
        // Only what the server counts as pending, too: one that was killed may have forgotten its newest deliveries,
        // and what was removed from the stream it counts no more.
        let pending = info.ack_floor.stream_sequence + 1..=info.delivered.stream_sequence;
        let ours = self.flight.open_among(&pending) + self.outbox.acknowledgements_among(&pending);
        let outstanding = info.num_ack_pending.saturating_sub(ours);
        let (major, minor, patch) = RESETS;
        let server_resets = self.client.is_server_compatible(major, minor, patch);
        let (consumers, deliver) = (self.config.consumers, self.config.deliver);
        if consumers == Consumers::One && info.num_waiting > 0 {
            if self.asking.waits(Instant::now()) {
                // Where there may be leaf nodes or gateways the server serves a request whose inbox is gone.
                return;
            }
            warn!(
                source = %self.source, stream, durable,
                "another client asks this consumer for messages: they come twice, and in no order; give each a `durable` \
                 of its own, or set `consumers = \"many\"`"
            );
        }
        match Order::of((consumers, deliver), outstanding, server_resets) {
            Order::AsItComes => {
                if let Some(hold) = self.hold.take() {
                    self.pass(hold.pass());
                }
                self.bound(&info, info.delivered.stream_sequence);
            }
            _ if self.asking.doubts() => {}
            Order::Reset => {
                self.complaints.ask();
                self.asking.reset(Box::new(info), outstanding);
            }
            Order::Hold => self.hold(&info, outstanding),
        }
    }

    /// What comes waits for the outstanding messages.
    fn hold(&mut self, info: &Info, outstanding: usize) {
        let ack_wait = self.config.ack_wait;
        info!(
            source = %self.source, outstanding,
            "messages were delivered and not acknowledged; newer ones wait for them, up to `ack_wait`"
        );
        let delivered = info.delivered.stream_sequence;
        let hold = Hold::new(outstanding, delivered, ack_wait, Instant::now());
        self.hold = Some(match self.hold.take() {
            None => hold,
            Some(before) => hold.with(before),
        });
        self.bound(info, delivered);
    }

    /// The consumer delivers from now on; it had delivered up to `delivered`.
    fn bound(&mut self, info: &Info, delivered: u64) {
        let all = consumer::takes_all(&info.config);
        self.sequence = Sequence::behind(info.delivered.consumer_sequence, delivered, all);
        self.flight.bound_anew();
        self.watching.bound();
        self.asking.bound();
        let (now, more) = (Instant::now(), info.num_pending > 0 || info.num_ack_pending > 0);
        self.cuts.bound(info.ack_floor.stream_sequence, more);
        self.standing.bound(self.in_the_way(now).as_deref());
    }

    /// The connection is gone, and comes again by itself.
    fn lost(&mut self, why: &str) {
        self.asking.away();
        self.watching.stop();
        let now = Instant::now();
        self.cuts.lost(now);
        self.standing.away(self.cuts.why(now).as_deref().unwrap_or(why));
    }

    /// The consumer does not deliver; it is bound anew after a while.
    pub(super) fn fail(&mut self, why: &str) {
        self.pulling = None;
        let wait = self.standing.failed(why);
        self.asking.wait(Instant::now() + wait);
    }

    /// That the server knows nothing of the consumer.
    pub(super) fn gone(&self) -> String {
        let (stream, durable) = (&self.config.stream, &self.config.durable);
        format!("the consumer `{durable}` or its stream `{stream}` is gone")
    }

    /// The server has said something.
    pub(super) fn hear(&mut self, word: Word) {
        if !self.asking.is_bound() {
            return;
        }
        match word {
            Word::Other => {}
            Word::Gone => self.fail(&self.gone()),
            // Bound again, it is found to differ, or to be another one.
            Word::Found(info, _) if self.generation.as_ref().is_some_and(|it| !it.is_of(&info)) => {
                self.fail("the consumer was changed");
            }
            Word::Found(_, why) => {
                let why = why.or_else(|| self.in_the_way(Instant::now()));
                self.standing.hindered(why.as_deref());
            }
        }
    }

    /// Why nothing will be delivered or acknowledged though the consumer is bound, as far as was said before.
    fn in_the_way(&self, now: Instant) -> Option<String> {
        self.complaints.why(now).or_else(|| self.cuts.why(now))
    }

    /// Nothing more is asked for, nor handed over.
    pub(super) fn begin_drain(&mut self) {
        self.standing.draining();
        self.flight.close();
        (self.intake, self.hold) = (None, None);
        self.asking.away();
    }

    /// Whether everything is settled and the server told, as far as there is one.
    pub(super) fn is_drained(&mut self) -> bool {
        if self.intake.is_some() || self.pulling.is_some() {
            return false;
        }
        let connected = self.outbox.is_connected();
        if !connected {
            // It comes again by itself.
            drop(self.flight.released());
        }
        let told = self.outbox.is_empty() && self.returned.is_empty();
        self.flight.is_empty() && (told || !connected)
    }

    /// Has the server confirm what it was told.
    pub(super) async fn leave(self) -> Result<(), Unclean> {
        let unclean = |why| if self.acknowledged { Err(Unclean(why)) } else { Ok(()) };
        if self.generation.is_none() {
            return Ok(());
        }
        if !self.outbox.is_connected() {
            return unclean("the server is away and may not know of the last acknowledgements");
        }
        // It is answered behind what was sent before: acknowledgements, and what was given back.
        match self.binding.info().await {
            Ok(_) => Ok(()),
            Err(_) => unclean("the server has not confirmed the last acknowledgements"),
        }
    }

    fn new_flight(&self) -> Flight {
        Flight::new(&self.room, &self.changed, self.limits.messages, self.config.ack_wait)
    }
}

impl Generation {
    /// Whether `info` is of this one, as somebody has made it. For how long it is paused, and what the server that answers
    /// notes of itself, is no part of that.
    fn is_of(&self, info: &Info) -> bool {
        let made = |config: &Config| {
            let mut config = Config { pause_until: None, ..config.clone() };
            config.metadata.retain(|key, _| !key.starts_with("_nats."));
            config
        };
        self.created == info.created && made(&self.config) == made(&info.config)
    }
}

/// Whether nothing was said of this consumer yet.
fn known_anew(known: Option<&Generation>, info: &Info) -> bool {
    known.is_none_or(|known| known.created != info.created || known.config != info.config)
}
