use futures_util::FutureExt as _;

use super::*;
use crate::config::source::Limits;
use crate::delivery::Done;
use crate::metrics::Metrics;

const PUBLISHED: Outcome = Outcome::Accepted(Done::Published);
const ACK_WAIT: Duration = Duration::from_secs(30);
const KEEP: usize = 4;

struct Fixture {
    flight: Flight,
    room: Arc<Room>,
    start: Instant,
    deliveries: u64,
}

fn fixture() -> Fixture {
    let limits = Limits { messages: 20, bytes: 10_000 };
    let room = Room::new(limits, Metrics::new().source("s"));
    let flight = Flight::new(&room, &Arc::default(), KEEP, ACK_WAIT);
    Fixture { flight, room, start: Instant::now(), deliveries: 0 }
}

/// A reply subject that tells its delivery.
fn reply(delivered: u64, sequence: u64, delivery: u64, stored: u64) -> String {
    format!("$JS.ACK.S.d.{delivered}.{sequence}.{delivery}.{stored}.0")
}

impl Fixture {
    /// The message with this sequence, stored then, is delivered for the n-th time. Gives its reply subject.
    fn delivers(&mut self, sequence: u64, delivered: u64, stored: u64) -> (Came, String) {
        self.deliveries += 1;
        let text = reply(delivered, sequence, self.deliveries, stored);
        let place = Place::read(&text).unwrap();
        let mut one = self.room.reserve(1, 10).now_or_never().unwrap();
        let came = self.flight.came(&place, text.as_str().into(), 10, &mut one, self.start);
        assert_eq!(one.messages(), 0, "it has come");
        (came, text)
    }

    fn takes(&mut self, sequence: u64) -> Settlement {
        let (Came::New(settlement), _) = self.delivers(sequence, 1, 0) else { panic!("not new") };
        settlement
    }

    fn open(&self) -> usize {
        self.flight.open_among(&(0..=u64::MAX))
    }

    fn acknowledges(&mut self) -> Vec<String> {
        self.flight.acknowledgeable(99).into_iter().map(|s| s.reply.to_string()).collect()
    }
}

#[test]
fn one_in_flight_that_comes_again_joins_and_the_newest_reply_is_answered() {
    let mut f = fixture();
    let (first, second) = (f.takes(1), f.takes(2));
    let (came, newest) = f.delivers(1, 2, 0);
    assert!(matches!(came, Came::Joined));
    assert_eq!((f.open(), f.flight.span()), (2, 2));
    assert_eq!([0..=1, 2..=9, 3..=9].map(|among| f.flight.open_among(&among)), [1, 1, 0]);
    assert_eq!(f.room.messages_left(), 18, "it takes no room of its own");
    first.settle(PUBLISHED);
    assert_eq!(f.acknowledges(), [newest]);
    drop(second);
    assert_eq!(f.flight.released().len(), 1);
    assert!(f.flight.is_empty() && f.open() == 0);
}

#[test]
fn settled_and_not_acknowledged_yet_is_in_flight() {
    let mut f = fixture();
    f.takes(1).settle(PUBLISHED);
    let (came, newest) = f.delivers(1, 2, 0);
    assert!(matches!(came, Came::Joined));
    assert_eq!(f.acknowledges(), [newest]);
}

#[test]
fn one_that_was_acknowledged_is_acknowledged_again_and_not_published_again() {
    let mut f = fixture();
    f.takes(1).settle(PUBLISHED);
    assert_eq!(f.acknowledges().len(), 1);
    let (came, newest) = f.delivers(1, 2, 0);
    assert!(matches!(came, Came::Repeated(reply) if *newest == *reply));
    // As if for the first time: somebody had the consumer deliver it again.
    assert!(matches!(f.delivers(1, 1, 0).0, Came::New(_)));
}

#[test]
fn what_a_consumer_that_was_bound_anew_repeats_is_known() {
    let mut f = fixture();
    f.takes(1).settle(PUBLISHED);
    assert_eq!(f.acknowledges().len(), 1);
    f.flight.bound_anew();
    assert!(matches!(f.delivers(1, 1, 0).0, Came::Repeated(_)));
    assert!(matches!(f.delivers(2, 1, 0).0, Came::New(_)));
}

#[test]
fn another_message_with_the_same_sequence_is_another() {
    let mut f = fixture();
    f.takes(1).settle(PUBLISHED);
    assert_eq!(f.acknowledges().len(), 1);
    f.flight.bound_anew();
    let (Came::New(second), reply) = f.delivers(1, 1, 77) else { panic!("taken for the first") };
    second.settle(PUBLISHED);
    assert_eq!(f.acknowledges(), [reply]);
    // One that is in flight is not answered in the name of the other.
    let old = f.takes(2);
    let (Came::New(new), reply) = f.delivers(2, 1, 77) else { panic!("taken for the first") };
    old.settle(PUBLISHED);
    assert!(f.acknowledges().is_empty());
    new.settle(PUBLISHED);
    assert_eq!(f.acknowledges(), [reply]);
    assert!(f.flight.is_empty() && f.open() == 0);
}

#[test]
fn what_was_given_back_is_new_when_it_comes_again() {
    let mut f = fixture();
    drop(f.takes(1));
    assert_eq!(f.flight.released(), [Subject::from(reply(1, 1, 1, 0))]);
    let (Came::New(again), newest) = f.delivers(1, 2, 0) else { panic!("not new") };
    again.settle(PUBLISHED);
    assert_eq!(f.acknowledges(), [newest]);
}

#[test]
fn what_was_rejected_is_not_taken_for_acknowledged() {
    let mut f = fixture();
    f.takes(1).settle(Outcome::Rejected);
    assert_eq!(f.acknowledges().len(), 1);
    assert_eq!((f.open(), f.flight.span()), (0, 0));
    assert!(matches!(f.delivers(1, 2, 0).0, Came::New(_)));
}

#[test]
fn the_span_is_from_the_oldest_open_one_and_so_many_behind_it_are_remembered() {
    let mut f = fixture();
    let slow = f.takes(1);
    (2..=10).for_each(|sequence| f.takes(sequence).settle(PUBLISHED));
    assert_eq!(f.acknowledges().len(), 9);
    assert_eq!((f.flight.span(), f.open()), (10, 1));
    slow.settle(PUBLISHED);
    assert_eq!(f.acknowledges().len(), 1);
    assert_eq!((f.flight.span(), f.open(), f.flight.receipts.len()), (0, 0, KEEP));
    assert!(matches!(f.delivers(10, 2, 0).0, Came::Repeated(_)));
    assert!(matches!(f.delivers(6, 2, 0).0, Came::New(_)), "it is forgotten");
}

#[test]
fn more_time_is_asked_for_at_a_third() {
    let mut f = fixture();
    let (_first, second) = (f.takes(1), f.takes(2));
    assert!(f.flight.extend(f.start + ACK_WAIT / 4).is_empty());
    assert_eq!(f.flight.extend(f.start + ACK_WAIT / 3).len(), 2);
    assert!(f.flight.extend(f.start + ACK_WAIT / 2).is_empty());
    second.settle(PUBLISHED);
    assert_eq!(f.flight.extend(f.start + ACK_WAIT * 2 / 3), [Subject::from(reply(1, 1, 1, 0))]);
}

#[test]
fn closed_nothing_is_taken_and_what_comes_again_joins_all_the_same() {
    let mut f = fixture();
    let first = f.takes(1);
    f.flight.close();
    assert!(matches!(f.delivers(2, 1, 0).0, Came::NotTaken(_)));
    assert!(matches!(f.delivers(1, 2, 0).0, Came::Joined));
    first.settle(PUBLISHED);
    assert_eq!(f.acknowledges().len(), 1);
    assert!(f.flight.is_empty());
}
