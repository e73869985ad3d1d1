//! Whatever fails, nothing of a group is lost, and it does not end with an older message.

use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::config::broker::SourceKind;
use crate::config::{self, Environment};
use crate::delivery::{Delivery, Done};
use crate::health::Health;
use crate::message::Message;
use crate::message::tests::message;
use crate::metrics::Metrics;
use crate::source::sqs::SqsSource;
use crate::source::sqs::received::Received;
use crate::source::sqs::receiver::take;

const VISIBILITY: Duration = Duration::from_secs(10);

/// More than a receive brings, and more than there is room for.
const COUNT: usize = 25;

/// A queue with one group, and the bridge before it.
struct World {
    keeper: Keeper,
    queue: Vec<Stored>,
    lane: VecDeque<Delivery>,
    /// What was published, in this order.
    published: Vec<usize>,
    asked: Vec<Answer>,
    luck: std::vec::IntoIter<u8>,
}

/// A message.
#[derive(Clone, Copy)]
struct Stored {
    state: State,
    receives: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Ready,
    Hidden(Instant),
    Deleted,
}

fn source() -> SqsSource {
    let text = "[source.s]\ntype = \"sqs\"\nmax_in_flight = 20\naws = { region = \"eu-west-1\" }\n\
                queue = \"http://127.0.0.1:1/123456789012/q.fifo\"\n\
                [api.main]\nendpoint = \"http://127.0.0.1:1/event\"\nauth = { type = \"api-key\", key = \"da2-local\" }\n\
                [route.r]\nfrom = \"s\"\nchannel = \"/a/b\"\ndead_letter = \"discard\"\n";
    let loaded = config::parse(text, Path::new("bridge.toml"), &Environment::of_process());
    let mut config = loaded.unwrap_or_else(|problems| panic!("{problems}")).config;
    let config = config.sources.remove(0);
    let SourceKind::Sqs(sqs) = config.kind else { panic!("a source of SQS") };
    let (metrics, health) = (Metrics::new(), Health::default());
    let numbers = (metrics.source("s"), metrics.sqs("s"));
    let part = health.register("source s", "connecting");
    let built = SqsSource::build(config.name, sqs, config.limits, numbers, part);
    runtime().block_on(built).unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().start_paused(true).build().unwrap()
}

impl World {
    fn new(source: &SqsSource, luck: Vec<u8>) -> Self {
        let shared = Arc::new(source.shared(VISIBILITY));
        let keeper = Keeper::new(shared, Intake::new(drop), 0);
        Self {
            keeper,
            queue: vec![Stored { state: State::Ready, receives: 0 }; COUNT],
            lane: VecDeque::new(),
            published: Vec::new(),
            asked: Vec::new(),
            luck: luck.into_iter(),
        }
    }

    /// One of so many chances; the last one when luck is over.
    fn draw(&mut self, chances: u8) -> u8 {
        self.luck.next().map_or(chances - 1, |luck| luck % chances)
    }

    async fn step(&mut self) {
        tokio::time::advance(Duration::from_millis(u64::from(self.draw(40)) * 100)).await;
        for stored in &mut self.queue {
            if matches!(stored.state, State::Hidden(until) if until <= now()) {
                stored.state = State::Ready;
            }
        }
        self.receive();
        self.publish();
        self.ask();
        self.answer();
        self.extend();
    }

    fn receive(&mut self) {
        let fate = self.draw(4);
        let shared = Arc::clone(&self.keeper.shared);
        let is_held = |stored: &Stored| matches!(stored.state, State::Hidden(_));
        if fate == 0 || self.queue.iter().any(is_held) {
            return;
        }
        let Some(mut reservation) = shared.room.reserve(BATCH, 1).now_or_never() else { return };
        let due = now() + VISIBILITY;
        let ready = (0..COUNT).filter(|at| self.queue[*at].state == State::Ready);
        for at in ready.take(reservation.messages()).collect::<Vec<_>>() {
            let stored = &mut self.queue[at];
            stored.state = State::Hidden(due);
            stored.receives += 1;
            let receive_count = stored.receives;
            if fate == 1 {
                // The answer is lost.
                continue;
            }
            let order = Some(Arc::from(&b"g"[..]));
            let received = Received {
                message: Message { order, ..message(at.to_string()) },
                id: at.to_string(),
                handle: format!("{at}-{receive_count}"),
                receive_count,
                bytes: 1,
            };
            self.lane.extend(take(&shared, &mut reservation, received, now(), due));
        }
    }

    fn publish(&mut self) {
        for _ in 0..self.draw(6) {
            let Some(delivery) = self.lane.pop_front() else { return };
            let payload = std::str::from_utf8(&delivery.message().payload).unwrap();
            let at: usize = payload.parse().unwrap();
            if self.draw(16) == 0 {
                // A bug: it goes back.
                drop(delivery);
            } else {
                self.published.push(at);
                delivery.settle(Outcome::Accepted(Done::Published));
            }
        }
    }

    fn ask(&mut self) {
        self.keeper.collect(false);
        let losses = self.keeper.shared.debts.lock().expire(now(), false);
        self.keeper.lost(losses, now());
        loop {
            let request = self.keeper.shared.debts.lock().next(now(), false);
            let Some(request) = request else { return };
            let fate = self.draw(6);
            let mut failed = Vec::new();
            for (at, receipt) in request.receipts.iter().enumerate().filter(|_| fate > 0) {
                let stale = !self.is_ours(receipt);
                if stale || self.draw(8) == 0 {
                    failed.push(Failed { at, stale, why: String::new() });
                } else {
                    self.done(request.ask, receipt);
                }
            }
            let said = if fate < 2 {
                Err((Duration::from_secs(1), Kind::Unreachable))
            } else {
                Ok(failed)
            };
            self.asked.push(Answer { request, said });
        }
    }

    /// Whether a receipt is good: of a FIFO queue none is whose visibility timeout has ended.
    fn is_ours(&self, receipt: &Receipt) -> bool {
        let (at, stored) = self.stored(receipt);
        let newest = *receipt.handle == *format!("{at}-{}", stored.receives);
        stored.state == State::Deleted || (newest && matches!(stored.state, State::Hidden(_)))
    }

    fn stored(&self, receipt: &Receipt) -> (usize, Stored) {
        let at: usize = receipt.id.parse().unwrap();
        (at, self.queue[at])
    }

    fn done(&mut self, ask: Ask, receipt: &Receipt) {
        let (at, stored) = self.stored(receipt);
        if stored.state == State::Deleted {
            return;
        }
        self.queue[at].state = match ask {
            Ask::Delete => {
                assert!(self.published.contains(&at), "{at} is deleted and was not published");
                State::Deleted
            }
            Ask::Return => State::Ready,
        };
    }

    /// They come late, and in any order.
    fn answer(&mut self) {
        if !self.asked.is_empty() && self.draw(3) > 0 {
            let at = usize::from(self.draw(16)) % self.asked.len();
            let answer = self.asked.swap_remove(at);
            self.keeper.answered(Some(answer), false);
        }
    }

    fn extend(&mut self) {
        let (shared, half) = (Arc::clone(&self.keeper.shared), now() + VISIBILITY / 2);
        let extending = |token, receipt, due| Extending { token, receipt, due, by: VISIBILITY };
        let mut due: Vec<_> = shared
            .leases
            .due(half)
            .into_iter()
            .map(|lease| extending(Some(lease.token), lease.handle, lease.due))
            .collect();
        due.extend(
            shared
                .debts
                .lock()
                .due(half)
                .map(|debt| extending(None, debt.receipt.clone(), debt.due)),
        );
        let until = now() + VISIBILITY;
        for lease in due {
            if self.draw(3) == 0 {
                continue;
            }
            let (at, stored) = self.stored(&lease.receipt);
            let stale = stored.state == State::Deleted || !self.is_ours(&lease.receipt);
            if !stale {
                self.queue[at].state = State::Hidden(until);
            }
            let failed = Failed { at: 0, stale, why: String::new() };
            let said = Ok(Some(failed).filter(|_| stale).into_iter().collect());
            self.keeper.extended(Some(Extended { leases: vec![lease], until, said }));
        }
    }

    fn is_over(&self) -> bool {
        self.keeper.is_done() && self.queue.iter().all(|stored| stored.state == State::Deleted)
    }
}

/// One that was given back stands before those behind it, which are still to come.
#[test]
fn one_that_was_given_back_does_not_say_that_a_lost_one_is_gone() {
    let source = source();
    runtime().block_on(async {
        let world = World::new(&source, Vec::new());
        let (shared, due) = (Arc::clone(&world.keeper.shared), now() + VISIBILITY);
        let comes = |at: u32, receive_count: u32| {
            let order = Some(Arc::from(&b"g"[..]));
            let message = Message { order, ..message(at.to_string()) };
            let (id, handle) = (at.to_string(), format!("{at}-{receive_count}"));
            let mut room = shared.room.reserve(1, 1).now_or_never().unwrap();
            let received = Received { message, id, handle, receive_count, bytes: 1 };
            take(&shared, &mut room, received, now(), due)
        };
        let (rejected, done) = (comes(0, 1), comes(1, 1));
        for (taken, outcome) in
            [(rejected, Outcome::Rejected), (done, Outcome::Accepted(Done::Published))]
        {
            for delivery in taken {
                delivery.settle(outcome);
            }
        }
        let mut keeper = world.keeper;
        keeper.collect(false);
        assert_eq!(shared.debts.lock().expire(due, false).count, 1);
        assert_eq!(comes(0, 2).len(), 1);
        assert!(comes(1, 2).is_empty(), "it is published");
        assert_eq!(comes(2, 1).len(), 1);
    });
}

/// A denied call waits for half a minute, and a stop has less.
#[test]
fn a_stop_waits_out_no_long_pause() {
    let source = source();
    runtime().block_on(async {
        let World { mut keeper, .. } = World::new(&source, Vec::new());
        let (shared, start) = (Arc::clone(&keeper.shared), now());
        let receipt = crate::source::sqs::receipt::tests::receipt(1, None);
        shared.debts.lock().give_back(receipt, start + VISIBILITY, start);
        let request = shared.debts.lock().next(start, true).unwrap();
        let said = Err((Duration::from_secs(30), Kind::Denied));
        keeper.answered(Some(Answer { request, said }), true);
        assert_eq!(shared.debts.lock().wakes(), Some(start + LOOK.1));
    });
}

proptest! {
    #[test]
    fn a_group_ends_with_its_newest_message(
        luck in prop::collection::vec(any::<u8>(), 0..2_000),
    ) {
        thread_local! {
            static SOURCE: SqsSource = source();
        }
        let published = SOURCE.with(|source| runtime().block_on(async {
            let mut world = World::new(source, luck);
            for _ in 0..5_000 {
                if world.is_over() {
                    break;
                }
                world.step().await;
            }
            assert!(world.is_over(), "it comes to no end");
            std::mem::take(&mut world.published)
        }));
        let last: Vec<_> = (0..COUNT).map(|at| published.iter().rposition(|p| *p == at)).collect();
        prop_assert!(last[0].is_some() && last.is_sorted(), "{published:?}");
    }
}
