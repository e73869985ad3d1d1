use super::*;
use crate::message::tests::message;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::{Duration, SystemTime};

/// How the duties ended, and what was charged, each with its token; how long those that were published took; and how many
/// ends it was told at once.
#[derive(Default)]
pub(crate) struct Log(
    Mutex<Vec<(u64, Outcome)>>,
    Mutex<Vec<(u64, usize)>>,
    Mutex<Vec<Duration>>,
    Mutex<Vec<usize>>,
);

impl Tracker for Log {
    fn settled(&self, token: u64, outcome: Outcome) {
        self.0.lock().push((token, outcome));
    }

    fn settled_together(&self, ended: &[Ended]) {
        self.3.lock().push(ended.len());
        for &Ended { token, outcome, published } in ended {
            if let Some(took) = published {
                self.published(took);
            }
            self.settled(token, outcome);
        }
    }

    fn published(&self, took: Duration) {
        self.2.lock().push(took);
    }

    fn charge(&self, token: u64, bytes: usize) {
        self.1.lock().push((token, bytes));
    }
}

impl Log {
    pub(crate) fn seen(&self) -> Vec<(u64, Outcome)> {
        self.0.lock().clone()
    }

    pub(crate) fn charged(&self) -> Vec<(u64, usize)> {
        self.1.lock().clone()
    }
}

/// A message with an empty object, whose duty ends in `log`.
pub(crate) fn delivery(log: &Arc<Log>, token: u64) -> Delivery {
    Delivery::new(message("{}"), Settlement::new(log.clone(), token))
}

#[test]
fn dropped_is_not_done() {
    let log = Arc::new(Log::default());
    drop(Settlement::new(log.clone(), 1));
    drop(delivery(&log, 2));
    assert_eq!(log.seen(), [(1, Outcome::Released), (2, Outcome::Released)]);
}

#[test]
fn duties_that_end_together_are_told_together_and_once() {
    let (log, other) = (Arc::new(Log::default()), Arc::new(Log::default()));
    let published = Outcome::Accepted(Done::Published);
    let mut endings = Endings::default();
    let split = delivery(&log, 1);
    let part = split.split();
    split.settle_with(Outcome::Accepted(Done::Expired), &mut endings);
    delivery(&other, 2).settle_with(published, &mut endings);
    delivery(&log, 3).settle_with(published, &mut endings);
    assert_eq!((log.seen(), other.seen()), (vec![], vec![]));
    endings.tell();
    assert_eq!((log.seen(), other.seen()), (vec![(3, published)], vec![(2, published)]));
    assert_eq!(log.2.lock().len(), 1);
    // The last part tells how it ended as a whole; what nobody tells is told at the end.
    part.settle_with(published, &mut endings);
    endings.tell();
    delivery(&log, 4).settle_with(Outcome::Rejected, &mut endings);
    drop(endings);
    let expired = Outcome::Accepted(Done::Expired);
    assert_eq!(log.seen(), [(3, published), (1, expired), (4, Outcome::Rejected)]);
    assert_eq!((log.2.lock().len(), other.2.lock().len()), (1, 1));
}

/// A body that brought several messages tells the tracker of its neighbours, and in its place among them.
#[test]
fn what_ends_together_is_told_in_the_order_of_the_ends() {
    let log = Arc::new(Log::default());
    let published = Outcome::Accepted(Done::Published);
    let mut endings = Endings::default();
    delivery(&log, 0).settle_with(published, &mut endings);
    for part in Settlement::new(log.clone(), 1).share(2) {
        Delivery::new(message("{}"), part).settle_with(published, &mut endings);
    }
    delivery(&log, 2).settle_with(published, &mut endings);
    delivery(&log, 3).settle_with(Outcome::Rejected, &mut endings);
    endings.tell();
    let published = [0, 1, 2].map(|token| (token, published));
    assert_eq!(log.seen(), [&published[..], &[(3, Outcome::Rejected)]].concat());
    assert_eq!(*log.3.lock(), [1, 2], "once for those in a row");
}

#[test]
fn the_clock_is_read_anew_when_the_trackers_were_told() {
    let (log, mut endings) = (Arc::new(Log::default()), Endings::default());
    let published = Outcome::Accepted(Done::Published);
    let first = endings.now();
    delivery(&log, 0).settle_with(published, &mut endings);
    assert_eq!(endings.now().instant, first.instant, "once for all");
    endings.tell();
    let arrived = Instant::now();
    assert!(endings.now().instant >= arrived);
}

/// A tracker that is lost on the way, as by a panic, has told nothing.
#[test]
fn of_those_that_came_as_one_each_has_to_tell() {
    let log = Arc::new(Log::default());
    let mut parts = Settlement::new(log.clone(), 1).share(2);
    drop(parts[0].tracker.take());
    parts.remove(1).settle(Outcome::Accepted(Done::Published));
    drop(parts);
    assert_eq!(log.seen(), [(1, Outcome::Released)]);
}

#[test]
fn the_duties_of_several_messages_are_one() {
    for one in Outcome::ALL {
        for other in Outcome::ALL {
            let log = Arc::new(Log::default());
            let duties = Settlement::new(log.clone(), 5).share(3);
            let mut all: Vec<_> =
                duties.into_iter().map(|duty| Delivery::new(message("{}"), duty)).collect();
            all[0].charge(7);
            assert!(all.iter().all(|delivery| delivery.token() == 5));
            let part = all[1].split();
            for outcome in [one, Outcome::Accepted(Done::Published), other] {
                assert_eq!(log.seen(), []);
                all.pop().unwrap().settle(outcome);
            }
            assert_eq!(log.seen(), []);
            part.settle(Outcome::Accepted(Done::Published));
            assert_eq!((log.seen(), log.charged()), (vec![(5, one.max(other))], vec![(5, 7)]));
        }
    }
    let log = Arc::new(Log::default());
    Settlement::new(log.clone(), 1).share(1).remove(0).settle(Outcome::Rejected);
    drop(Settlement::new(log.clone(), 2).share(2));
    drop(Settlement::new(log.clone(), 3).share(0));
    let mut half = Settlement::new(log.clone(), 4).share(2);
    half.remove(0).settle(Outcome::Accepted(Done::Published));
    drop(half);
    let released = [2, 3, 4].map(|token| (token, Outcome::Released));
    assert_eq!(log.seen(), [&[(1, Outcome::Rejected)], &released[..]].concat());
}

#[test]
fn what_was_published_tells_once_how_long_it_took() {
    let hour = Duration::from_hours(1);
    let log = Arc::new(Log::default());
    let settle = |published: Option<SystemTime>, duty: Settlement, outcome| {
        let delivery = Delivery::new(Message { published, ..message("{}") }, duty);
        let part = delivery.split();
        delivery.settle(Outcome::Accepted(Done::Published));
        assert!(log.2.lock().is_empty(), "before its last part");
        part.settle(outcome);
        std::mem::take(&mut *log.2.lock())
    };
    let duty = || Settlement::new(log.clone(), 1);
    let ago = SystemTime::now() - hour;
    let took = settle(Some(ago), duty(), Outcome::Accepted(Done::Published));
    assert!(took.len() == 1 && (hour..hour * 2).contains(&took[0]), "{took:?}");
    // The clock of the broker is ahead.
    let ahead = SystemTime::now() + hour;
    let took = settle(Some(ahead), duty(), Outcome::Accepted(Done::Published));
    assert!(took.len() == 1 && took[0].is_zero(), "{took:?}");
    // From its arrival.
    let took = settle(None, duty(), Outcome::Accepted(Done::Published));
    assert!(took.len() == 1 && took[0] < hour, "{took:?}");
    for outcome in &Outcome::ALL[1..] {
        assert!(settle(Some(ago), duty(), *outcome).is_empty(), "{outcome:?}");
    }
    // Each of those that came as one.
    for duty in duty().share(2) {
        assert_eq!(settle(Some(ago), duty, Outcome::Accepted(Done::Published)).len(), 1);
    }
}

#[test]
fn a_panic_on_the_way_releases() {
    let log = Arc::new(Log::default());
    let delivery = delivery(&log, 7);
    let thread = std::thread::spawn(move || {
        let _held = delivery;
        panic!("a bug");
    });
    assert!(thread.join().is_err());
    assert_eq!(log.seen(), [(7, Outcome::Released)]);
}

#[test]
fn ranks_are_places_and_the_order_of_the_type() {
    for (place, outcome) in Outcome::ALL.into_iter().enumerate() {
        assert_eq!(
            (usize::from(outcome.rank()), Outcome::from_rank(outcome.rank())),
            (place, outcome)
        );
    }
    assert!(Outcome::ALL.is_sorted());
    assert_eq!(Outcome::from_rank(10), Outcome::Released, "whatever is not known is not done");
}

#[test]
fn the_worst_part_wins_in_any_order_and_only_the_last_one_reports() {
    for one in Outcome::ALL {
        for other in Outcome::ALL {
            let log = Arc::new(Log::default());
            let first = delivery(&log, 3);
            let (second, third) = (first.split(), first.split());
            first.settle(one);
            second.settle(Outcome::Accepted(Done::Published));
            assert_eq!(log.seen(), []);
            third.settle(other);
            assert_eq!(log.seen(), [(3, one.max(other))]);
        }
    }
}

#[test]
fn every_part_charges_the_message() {
    let log = Arc::new(Log::default());
    let first = delivery(&log, 3);
    let second = first.split();
    first.charge(10);
    first.settle(Outcome::Accepted(Done::Published));
    second.charge(5);
    assert_eq!(log.charged(), [(3, 10), (3, 5)]);
}

#[test]
fn one_dropped_part_releases_the_whole() {
    let log = Arc::new(Log::default());
    let first = delivery(&log, 3);
    drop(first.split());
    first.settle(Outcome::Accepted(Done::Published));
    assert_eq!(log.seen(), [(3, Outcome::Released)]);
}

#[test]
fn an_intake_is_closed_while_every_api_is_that_it_feeds() {
    let gates = [Gate::default(), Gate::default()];
    let all = Intake::new(drop);
    let (one, both) = (all.behind(vec![gates[0].clone()]), all.behind(gates.to_vec()));
    gates[0].set_open(false);
    assert!(all.is_open() && !one.is_open() && both.is_open());
    gates[1].set_open(false);
    assert!(!both.is_open());
    gates[0].set_open(true);
    assert!(one.is_open() && both.is_open());
}

#[test]
fn a_closed_gate_lets_one_in_and_an_open_one_all() {
    let (gate, other, log) = (Gate::default(), Gate::default(), Arc::default());
    let intake = Intake::new(drop).behind(vec![gate.clone(), other.clone()]);
    other.set_open(false);
    gate.let_one_in();
    intake.submit(delivery(&log, 1));
    assert!(intake.is_open() && !intake.is_ajar(), "it was open");
    gate.set_open(false);
    assert!(!intake.is_open());
    gate.let_one_in();
    assert!(intake.is_open() && intake.is_ajar());
    intake.submit(delivery(&log, 2));
    assert!(!intake.is_open());
    gate.let_one_in();
    gate.set_open(true);
    intake.submit(delivery(&log, 3));
    assert!(intake.is_open() && !intake.is_ajar());

    // What goes by another API leaves it to those that wait at this one.
    let only = Intake::new(drop).behind(vec![other.clone()]);
    other.let_one_in();
    intake.submit(delivery(&log, 4));
    assert!(only.is_ajar() && only.is_open());
}

#[tokio::test(start_paused = true)]
async fn whichever_api_opens_first_wakes_who_waits() {
    let gates = [Gate::default(), Gate::default()];
    let intake = Intake::new(drop).behind(gates.to_vec());
    intake.until_open().await;
    Intake::new(drop).until_open().await;
    for first in [0, 1] {
        for gate in &gates {
            gate.set_open(false);
        }
        let (waits, gate) = (intake.clone(), gates[first].clone());
        let woken = tokio::spawn(async move { waits.until_open().await });
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!woken.is_finished());
        gate.set_open(true);
        woken.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_redirected_intake_has_other_takers_and_other_gates() {
    let taken = [(); 2].map(|()| Arc::new(AtomicUsize::new(0)));
    let [old, new] = taken.clone().map(|count| {
        Intake::new(move |delivery| {
            count.fetch_add(1, Ordering::Relaxed);
            drop(delivery);
        })
    });
    let gates = [Gate::default(), Gate::default()];
    let (intake, other) = (old.behind(vec![gates[0].clone()]), old.behind(vec![gates[0].clone()]));
    let (kept, log) = (intake.clone(), Arc::default());
    gates[0].set_open(false);
    let waits = tokio::spawn(async move { kept.until_open().await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!waits.is_finished());
    intake.submit(delivery(&log, 1));
    intake.redirect(&new.behind(vec![gates[1].clone()]));
    waits.await.unwrap();
    intake.submit(delivery(&log, 2));
    other.submit(delivery(&log, 3));
    assert_eq!(taken.map(|count| count.load(Ordering::Relaxed)), [2, 1]);
    gates[1].set_open(false);
    assert!(!intake.is_open());
    gates[0].set_open(true);
    assert!(!intake.is_open() && other.is_open());
}

/// A gate that opens at any moment of the waiting wakes it: one that is missed would wait for ever.
#[tokio::test]
async fn no_opening_is_missed() {
    let (gate, ended) = (Gate::default(), Arc::new(AtomicBool::new(false)));
    let closed = Gate::default();
    closed.set_open(false);
    let intake = Intake::new(drop).behind(vec![closed, gate.clone()]);
    let opener = {
        let (gate, ended) = (gate.clone(), Arc::clone(&ended));
        std::thread::spawn(move || {
            let mut round = 0_u32;
            while !ended.load(Ordering::Relaxed) {
                if gate.is_open() {
                    std::thread::yield_now();
                    continue;
                }
                round += 1;
                (0..round % 64).for_each(|_| std::hint::spin_loop());
                gate.set_open(true);
            }
        })
    };
    for round in 0..20_000 {
        gate.set_open(false);
        let woken = tokio::time::timeout(Duration::from_mins(1), intake.until_open()).await;
        assert!(woken.is_ok(), "round {round} was missed");
    }
    ended.store(true, Ordering::Relaxed);
    opener.join().unwrap();
}

/// Thousands are in memory at a time: beside its outcome and its arrival, what is rare takes a pointer, traced or not.
#[test]
fn what_goes_with_a_message_stays_small() {
    assert_eq!(size_of::<Carried>(), size_of::<Message>() + size_of::<Settlement>() + 32);
}

#[test]
fn a_traced_message_has_a_span_to_the_end_of_its_last_part() {
    let (queue, mut spans) = tokio::sync::mpsc::channel(4);
    let tracer = Tracer::new(1.0, queue, prometheus_client::metrics::counter::Counter::default());
    let mut ends = |outcomes: &[Option<Outcome>]| {
        let log = Arc::new(Log::default());
        let mut whole = delivery(&log, 1);
        assert!(whole.trace().is_none());
        whole.begin_trace(&tracer, "log");
        let parts: Vec<_> = outcomes.iter().map(|outcome| (whole.split(), outcome)).collect();
        whole.settle(Outcome::Accepted(Done::Published));
        for (part, outcome) in parts {
            assert!(spans.try_recv().is_err() && part.trace().is_some());
            match outcome {
                Some(outcome) => part.settle(*outcome),
                None => drop(part),
            }
        }
        let span = spans.try_recv().unwrap();
        let outcome = span.attributes.iter().find(|(name, _)| name == "appsync_bridge.outcome");
        (format!("{:?}", outcome.unwrap().1), span.error)
    };
    let [published, expired, dead] =
        [Done::Published, Done::Expired, Done::DeadLettered].map(|d| Some(Outcome::Accepted(d)));
    for (outcomes, word, bad) in [
        (&[published][..], "published", false),
        (&[published, expired][..], "expired", false),
        (&[dead, published][..], "dead_lettered", true),
        (&[published, None][..], "released", true),
        (&[Some(Outcome::Rejected)][..], "left_to_broker", true),
    ] {
        let (outcome, error) = ends(outcomes);
        assert_eq!((outcome, error.is_some()), (format!("Word({word:?})"), bad));
    }
    // Once it is split there is nobody to say that a span has begun.
    let log = Arc::new(Log::default());
    let mut whole = delivery(&log, 1);
    let part = whole.split();
    whole.begin_trace(&tracer, "log");
    assert!(whole.trace().is_none());
    drop((whole, part));
}
