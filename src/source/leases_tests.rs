use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::FutureExt as _;
use prometheus_client::metrics::counter::Counter;
use proptest::prelude::*;

use super::*;
use crate::config::source::Limits;
use crate::delivery::Done;
use crate::metrics::{Metrics, SourceMetrics};

const PUBLISHED: Outcome = Outcome::Accepted(Done::Published);
const LIMITS: Limits = Limits { messages: 20, bytes: 1_000 };

struct Fixture {
    record: Arc<Leases<u64>>,
    room: Arc<Room>,
    changed: Arc<Notify>,
    metrics: SourceMetrics,
    start: Instant,
}

fn fixture() -> Fixture {
    let metrics = Metrics::new().source("s");
    let room = Room::new(LIMITS, metrics.clone());
    let changed = Arc::<Notify>::default();
    let record = Leases::new(Arc::clone(&room), Arc::clone(&changed));
    Fixture { record, room, changed, metrics, start: Instant::now() }
}

impl Fixture {
    fn reserve(&self, most: usize) -> Option<Reservation> {
        self.room.reserve(most, 10).now_or_never()
    }

    fn at(&self, second: u64) -> Instant {
        self.start + Duration::from_secs(second)
    }

    /// Taken at once, and held until a second.
    fn take(&self, handle: u64, due: u64) -> Settlement {
        let mut one = self.reserve(1).unwrap();
        self.record.take(&mut one, handle, 10, self.start, self.at(due)).unwrap()
    }

    fn due(&self, by: u64) -> Vec<u64> {
        self.record.due(self.at(by)).into_iter().map(|lease| lease.handle).collect()
    }

    fn in_flight(&self) -> (i64, i64) {
        (self.metrics.in_flight.get(), self.metrics.in_flight_bytes.get())
    }
}

fn handles(leases: Vec<Lease<u64>>) -> Vec<u64> {
    leases.into_iter().map(|lease| lease.handle).collect()
}

#[test]
fn each_is_acknowledged_by_itself_with_its_own_end() {
    let f = fixture();
    let (slow, second, third) = (f.take(1, 30), f.take(2, 30), f.take(3, 30));
    third.settle(Outcome::Rejected);
    second.settle(Outcome::Accepted(Done::Filtered));
    assert_eq!(f.in_flight(), (3, 30), "the broker does not know it yet");
    assert_eq!(f.record.acknowledgeable(1), [(3, Outcome::Rejected)]);
    assert_eq!(f.record.acknowledgeable(9), [(2, Outcome::Accepted(Done::Filtered))]);
    assert_eq!(f.in_flight(), (1, 10));
    slow.settle(PUBLISHED);
    assert_eq!(f.record.acknowledgeable(9), [(1, PUBLISHED)]);
    assert!(f.record.is_empty() && f.in_flight() == (0, 0));
}

#[test]
fn what_ends_together_is_as_if_it_ended_alone() {
    let f = fixture();
    let settlements = [f.take(1, 30), f.take(2, 30), f.take(3, 30), f.take(4, 30)];
    let woken = || f.changed.notified().now_or_never().is_some();
    let ended = |token, outcome| Ended { token, outcome, published: Some(Duration::ZERO) };
    assert_eq!(handles(f.record.take_back(|lease| lease.token == 0)), [1], "nobody's any more");
    f.record.settled_together(&[
        ended(0, PUBLISHED),
        ended(2, Outcome::Released),
        ended(3, Outcome::Rejected),
        ended(1, PUBLISHED),
        ended(99, PUBLISHED),
    ]);
    assert!(woken() && !woken());
    assert_eq!(f.record.acknowledgeable(9), [(4, Outcome::Rejected), (2, PUBLISHED)]);
    assert_eq!(f.record.released(), [3]);
    assert_eq!(f.metrics.delivery.counts().iter().sum::<u64>(), 5);
    drop(settlements);
    assert!(f.record.is_empty() && f.in_flight() == (0, 0));
    let _more = [f.take(5, 30), f.take(6, 30), f.take(7, 30)];
    assert_eq!(f.record.abandon(), 3);
    f.record.settled_together(&[ended(4, PUBLISHED), ended(6, PUBLISHED)]);
    assert_eq!(f.in_flight(), (1, 10), "the room of all is free at once");
}

#[test]
fn what_was_released_is_given_back_and_never_acknowledged() {
    let f = fixture();
    let (first, second) = (f.take(1, 30), f.take(2, 30));
    drop(first);
    second.settle(PUBLISHED);
    assert_eq!(f.record.acknowledgeable(9), [(2, PUBLISHED)]);
    assert!(!f.record.is_empty());
    assert_eq!(f.record.released(), [1]);
    assert_eq!(f.record.released(), [0; 0]);
    assert!(f.record.is_empty() && f.in_flight() == (0, 0));
}

#[test]
fn leases_are_extended_until_their_message_is_settled() {
    let f = fixture();
    let (first, _second, third) = (f.take(1, 30), f.take(2, 40), f.take(3, 30));
    assert_eq!((f.due(29), f.due(30), f.due(40)), (vec![], vec![1, 3], vec![1, 2, 3]));
    let leases = f.record.due(f.at(30));
    third.settle(PUBLISHED);
    for lease in &leases {
        f.record.extended(lease.token, f.at(60));
    }
    assert_eq!((f.due(59), f.due(60)), (vec![2], vec![1, 2]));
    assert_eq!(f.record.due(f.at(60))[0].since, f.start, "whatever was extended");
    drop(first);
    assert_eq!(f.due(60), [2]);
}

#[test]
fn what_is_not_taken_comes_back_to_be_given_back() {
    let f = fixture();
    let mut two = f.reserve(2).unwrap();
    let take = |reservation: &mut Reservation, handle, bytes| {
        f.record.take(reservation, handle, bytes, f.start, f.start)
    };
    let _held = [take(&mut two, 1, 10).unwrap(), take(&mut two, 2, 500).unwrap()];
    let more = take(&mut two, 3, 490).expect("more than was asked for, and there is room");
    assert_eq!(take(&mut two, 4, 1).err(), Some(4));
    more.settle(PUBLISHED);
    assert_eq!(f.record.acknowledgeable(9).len(), 1);
    let mut late = f.reserve(1).unwrap();
    f.record.close();
    assert_eq!(take(&mut late, 5, 1).err(), Some(5));
    assert_eq!((late.messages(), f.metrics.received.get()), (1, 3));
}

#[test]
fn what_is_settled_after_its_record_was_abandoned_frees_its_room_only() {
    let f = fixture();
    let (early, late, dropped) = (f.take(1, 30), f.take(2, 30), f.take(3, 30));
    early.settle(PUBLISHED);
    assert_eq!((f.record.abandon(), f.record.abandon()), (2, 0));
    assert_eq!((f.in_flight(), f.due(99)), ((2, 20), vec![]));
    let next = Leases::new(Arc::clone(&f.room), Arc::clone(&f.changed));
    let mut one = f.reserve(1).unwrap();
    let again = next.take(&mut one, 2, 10, f.start, f.start).unwrap();
    late.settle(PUBLISHED);
    drop(dropped);
    assert_eq!(f.in_flight(), (1, 10), "that of the next record");
    assert!(f.record.is_empty() && f.record.acknowledgeable(9).is_empty());
    assert!(f.record.released().is_empty() && !next.is_empty());
    again.settle(PUBLISHED);
    assert_eq!(next.acknowledgeable(9), [(2, PUBLISHED)]);
}

#[test]
fn what_came_again_is_acknowledged_by_what_it_is_known_by_now() {
    let f = fixture();
    let (first, second, lost) = (f.take(1, 30), f.take(2, 30), f.take(3, 30));
    let again = |is: u64, known: u64| {
        f.record.received_again(|h| *h == is, |h| *h = known, f.at(40), f.at(70))
    };
    assert!(again(1, 11) && !again(9, 19));
    let is_lost = |token: u64, handle: u64| f.record.lost(token, |h| *h == handle);
    assert!(is_lost(1, 2) && is_lost(2, 3) && !is_lost(2, 3));
    assert_eq!((f.due(69), f.due(70)), (vec![], vec![11]));
    assert_eq!(f.record.due(f.at(70))[0].since, f.at(40));
    assert!(again(2, 12), "what was lost is ours again");
    first.settle(PUBLISHED);
    lost.settle(PUBLISHED);
    second.settle(PUBLISHED);
    let ended = f.record.ended(9).into_iter().map(|(lease, place)| (lease.handle, place.lost));
    let ended: Vec<_> = ended.collect();
    assert_eq!(ended, [(11, false), (3, true), (12, false)]);
    assert!(f.record.is_empty() && f.in_flight() == (0, 0));
}

#[test]
fn what_was_lost_is_known_when_it_comes_again_settled_or_not() {
    let f = fixture();
    let (first, second, _third) = (f.take(1, 30), f.take(2, 30), f.take(3, 30));
    let lost = f.record.lose(|lease| lease.handle < 3, f.at(10));
    assert_eq!(lost.iter().map(|lease| lease.due).collect::<Vec<_>>(), [f.at(30); 2]);
    assert_eq!(handles(f.record.lose(|lease| lease.handle < 3, f.at(10))), [0; 0], "once");
    f.record.extended(0, f.at(90));
    assert_eq!(f.due(99), [3], "of what is nobody's no lease is extended");
    first.settle(PUBLISHED);
    let again = |is: u64, known: u64| {
        f.record.received_again(|h| *h == is, |h| *h = known, f.at(40), f.at(70))
    };
    assert!(again(1, 11) && again(2, 12));
    assert_eq!(f.due(70), [12, 3]);
    second.settle(PUBLISHED);
    let ended: Vec<_> = f.record.ended(9).iter().map(|e| (e.0.handle, e.0.due, e.1.lost)).collect();
    assert_eq!(ended, [(11, f.at(70), false), (12, f.at(70), false)]);
}

#[test]
fn what_was_lost_and_is_taken_back_is_not_known_any_more() {
    let f = fixture();
    let (first, second) = (f.take(1, 30), f.take(2, 30));
    assert_eq!(f.record.lose(|_| true, f.at(10)).len(), 2);
    drop(first);
    assert_eq!(handles(f.record.released_leases()), [1], "what is behind it has to go back");
    assert_eq!(handles(f.record.take_back(|_| true)), [0; 0], "the broker has it");
    assert!(!f.record.received_again(|h| *h == 2, |_| (), f.start, f.start));
    second.settle(PUBLISHED);
    assert!(f.record.is_empty() && f.in_flight() == (0, 0));
}

#[test]
fn what_is_accepted_is_lost_with_the_others_and_known_when_it_comes() {
    let f = fixture();
    let [first, second] = [1, 2].map(|handle| f.take(handle, 30));
    first.settle(PUBLISHED);
    second.settle(Outcome::Rejected);
    assert_eq!(handles(f.record.lose(|_| true, f.at(10))), [1], "nobody is told of the other");
    assert_eq!(handles(f.record.lose(|_| true, f.at(10))), [0; 0], "once");
    let ended: Vec<_> = f.record.ended(9).iter().map(|e| (e.0.handle, e.0.due, e.1.lost)).collect();
    assert_eq!(ended, [(1, f.at(10), true), (2, f.at(30), false)]);
}

#[test]
fn an_answer_about_an_earlier_receipt_says_nothing_of_the_present_one() {
    let f = fixture();
    let held = f.take(1, 30);
    assert!(f.record.received_again(|h| *h == 1, |h| *h = 11, f.at(40), f.at(70)));
    assert!(!f.record.lost(0, |h| *h == 1), "it is that of the first receipt");
    f.record.extended_as(0, |h| *h == 1, f.at(50));
    assert_eq!((f.due(69), f.due(70)), (vec![], vec![11]));
    f.record.extended_as(0, |h| *h == 11, f.at(90));
    assert_eq!((f.due(89), f.due(90)), (vec![], vec![11]));
    held.settle(PUBLISHED);
    assert_eq!(f.record.acknowledgeable(9), [(11, PUBLISHED)]);
}

#[test]
fn what_is_taken_back_is_never_acknowledged() {
    let f = fixture();
    let (first, second, third) = (f.take(1, 30), f.take(2, 30), f.take(3, 30));
    third.settle(PUBLISHED);
    assert_eq!(handles(f.record.take_back(|lease| lease.handle > 1)), [2, 3]);
    assert_eq!(handles(f.record.take_back(|lease| lease.handle > 1)), [0; 0], "once");
    assert_eq!((f.due(99), f.in_flight()), (vec![1], (2, 20)), "2 is not settled yet");
    assert!(!f.record.received_again(|h| *h == 2, |_| (), f.start, f.start), "it is another now");
    second.settle(PUBLISHED);
    first.settle(PUBLISHED);
    assert_eq!(f.record.acknowledgeable(9), [(1, PUBLISHED)]);
    assert!(f.record.is_empty() && f.in_flight() == (0, 0));
    let released = f.take(4, 30);
    assert_eq!(handles(f.record.take_back(|_| true)), [4]);
    drop(released);
    assert!(f.record.released().is_empty() && f.record.is_empty());
}

#[tokio::test]
async fn the_source_is_woken_by_every_end() {
    let f = fixture();
    let (first, second) = (f.take(1, 30), f.take(2, 30));
    first.settle(PUBLISHED);
    f.changed.notified().await;
    drop(second);
    f.changed.notified().await;
}

#[derive(Clone, Debug)]
enum Step {
    Take(usize, u64),
    Settle(usize, usize),
    Charge(usize, usize),
    Extend(usize, u64),
    Acknowledge(usize),
    GiveBack,
    Close,
    Abandon,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let which = 0..20_usize;
    let step = prop_oneof![
        40 => (0..40_usize, 0..60_u64).prop_map(|(bytes, due)| Step::Take(bytes, due)),
        30 => (which.clone(), 0..Outcome::ALL.len()).prop_map(|(n, end)| Step::Settle(n, end)),
        10 => (which.clone(), 0..40_usize).prop_map(|(n, bytes)| Step::Charge(n, bytes)),
        10 => (which, 0..60_u64).prop_map(|(n, due)| Step::Extend(n, due)),
        15 => (0..6_usize).prop_map(Step::Acknowledge),
        10 => Just(Step::GiveBack),
        1 => Just(Step::Close),
        1 => Just(Step::Abandon),
    ];
    prop::collection::vec(step, 0..150)
}

/// What the record should be: lists, and nothing clever.
#[derive(Default)]
struct Model {
    /// Token and handle, bytes, when due.
    held: Vec<(u64, usize, u64)>,
    settled: Vec<(u64, usize, Outcome)>,
    released: Vec<(u64, usize)>,
    received: u64,
    ended: [u64; Outcome::ALL.len()],
    closed: bool,
    abandoned: bool,
}

impl Model {
    fn in_flight(&self) -> (i64, i64) {
        let held = self.held.iter().map(|m| m.1);
        let settled = self.settled.iter().map(|m| m.1);
        let bytes: Vec<_> = held.chain(settled).chain(self.released.iter().map(|m| m.1)).collect();
        (bytes.len().try_into().unwrap(), bytes.iter().sum::<usize>().try_into().unwrap())
    }

    fn due(&self, by: u64) -> Vec<u64> {
        let held = self.held.iter().filter(|m| !self.abandoned && m.2 <= by);
        held.map(|m| m.0).collect()
    }
}

proptest! {
    #[test]
    fn a_record_does_what_its_model_does(steps in steps()) {
        let f = fixture();
        let (mut model, mut duties) = (Model::default(), BTreeMap::<u64, Settlement>::new());
        for step in steps {
            let pick = |n: usize| model.held.get(n % model.held.len().max(1)).map(|m| m.0);
            match step {
                Step::Take(bytes, due) => {
                    let Some(mut one) = f.reserve(1) else { continue };
                    let token = model.received;
                    let taken = f.record.take(&mut one, token, bytes, f.start, f.at(due));
                    prop_assert_eq!(taken.is_ok(), !model.closed);
                    if let Ok(settlement) = taken {
                        duties.insert(token, settlement);
                        model.held.push((token, bytes, due));
                        model.received += 1;
                    }
                }
                Step::Settle(n, end) => {
                    let Some(token) = pick(n) else { continue };
                    let at = model.held.iter().position(|m| m.0 == token).unwrap();
                    let ((_, bytes, _), outcome) = (model.held.remove(at), Outcome::ALL[end]);
                    duties.remove(&token).unwrap().settle(outcome);
                    if model.abandoned {
                        model.ended[end] += 1;
                    } else if outcome == Outcome::Released {
                        model.released.push((token, bytes));
                    } else {
                        model.settled.push((token, bytes, outcome));
                    }
                }
                Step::Charge(n, bytes) => {
                    let Some(token) = pick(n) else { continue };
                    f.record.charge(token, bytes);
                    model.held.iter_mut().find(|m| m.0 == token).unwrap().1 += bytes;
                }
                Step::Extend(n, due) => {
                    let Some(token) = pick(n) else { continue };
                    f.record.extended(token, f.at(due));
                    model.held.iter_mut().find(|m| m.0 == token).unwrap().2 = due;
                }
                Step::Acknowledge(most) => {
                    let count = most.min(model.settled.len());
                    let expected: Vec<_> = model.settled.drain(..count).collect();
                    for (_, _, outcome) in &expected {
                        model.ended[usize::from(outcome.rank())] += 1;
                    }
                    let expected: Vec<_> = expected.iter().map(|m| (m.0, m.2)).collect();
                    prop_assert_eq!(f.record.acknowledgeable(most), expected);
                }
                Step::GiveBack => {
                    model.ended[9] += model.released.len() as u64;
                    let expected: Vec<_> = model.released.drain(..).map(|m| m.0).collect();
                    prop_assert_eq!(f.record.released(), expected);
                }
                Step::Close => {
                    f.record.close();
                    model.closed = true;
                }
                Step::Abandon => {
                    let late = if model.abandoned { 0 } else { model.held.len() };
                    prop_assert_eq!(f.record.abandon(), late);
                    (model.closed, model.abandoned) = (true, true);
                    model.settled.drain(..).for_each(|m| model.ended[usize::from(m.2.rank())] += 1);
                    model.ended[9] += model.released.drain(..).count() as u64;
                }
            }
            let ended = f.metrics.settled.each_ref().map(Counter::get);
            prop_assert_eq!(f.in_flight(), model.in_flight());
            prop_assert_eq!(ended, model.ended);
            prop_assert_eq!(f.metrics.received.get(), model.received);
            let in_flight = u64::try_from(f.in_flight().0).unwrap();
            prop_assert_eq!(ended.iter().sum::<u64>() + in_flight, model.received);
            prop_assert_eq!((f.due(30), f.due(99)), (model.due(30), model.due(99)));
            prop_assert_eq!(f.record.is_empty(), model.in_flight().0 == 0);
        }
    }
}
