use super::*;
use crate::config::source::Limits;
use crate::delivery::Done;
use crate::metrics::{Metrics, SourceMetrics};
use futures_util::FutureExt as _;
use prometheus_client::metrics::counter::Counter;
use proptest::prelude::*;

const PUBLISHED: Outcome = Outcome::Accepted(Done::Published);

fn record(messages: usize, bytes: usize) -> (Arc<InFlight<u16>>, Arc<Room>, SourceMetrics) {
    let metrics = Metrics::new().source("s");
    let room = Room::new(Limits { messages, bytes }, metrics.clone());
    (InFlight::new(Arc::clone(&room), Arc::default()), room, metrics)
}

#[test]
fn acknowledgements_keep_the_order_of_receipt() {
    let (record, _, metrics) = record(10, 1_000);
    let mut settlements: Vec<_> = (0..4).map(|i| record.take(Some(i), 10).unwrap()).collect();
    settlements.pop().unwrap().settle(PUBLISHED);
    settlements.remove(1).settle(Outcome::Rejected);
    assert!(record.acknowledgeable().is_empty());
    settlements.remove(0).settle(PUBLISHED);
    assert_eq!(record.acknowledgeable(), [0, 1]);
    assert_eq!(metrics.in_flight.get(), 2);
    settlements.remove(0).settle(PUBLISHED);
    assert_eq!(record.acknowledgeable(), [2, 3]);
    assert_eq!((metrics.in_flight.get(), metrics.in_flight_bytes.get()), (0, 0));
    assert_eq!((metrics.settled[0].get(), metrics.settled[8].get()), (3, 1));
}

#[test]
fn what_ends_together_is_as_if_it_ended_alone() {
    let took = Duration::from_millis(3);
    let ended = |token, outcome| Ended { token, outcome, published: Some(took) };
    let (record, _, metrics) = record(10, 1_000);
    let settlements: Vec<_> = (0..4).map(|i| record.take(Some(i), 10).unwrap()).collect();
    let woken = || record.changed.notified().now_or_never().is_some();
    record.settled_together(&[ended(1, PUBLISHED), ended(2, Outcome::Rejected)]);
    assert!(!woken(), "they wait behind the head");
    record.settled_together(&[ended(0, PUBLISHED), ended(3, Outcome::Released)]);
    assert!(woken() && !woken());
    assert_eq!((record.acknowledgeable(), record.has_released()), (vec![0, 1, 2], true));
    assert_eq!((metrics.settled[0].get(), metrics.settled[8].get()), (2, 1));
    assert_eq!(metrics.delivery.counts().iter().sum::<u64>(), 4);
    // Each ends once: what its settlement says by now is too late.
    drop(settlements);
    assert_eq!((metrics.in_flight.get(), metrics.in_flight_bytes.get()), (1, 10));
    // On a record that is lost the room of all is free at once.
    let (record, room, metrics) = self::record(10, 1_000);
    let _settlements: Vec<_> = (0..4).map(|i| record.take(Some(i), 10).unwrap()).collect();
    assert_eq!(record.abandon(), 4);
    record.settled_together(&[ended(3, PUBLISHED), ended(0, PUBLISHED), ended(2, PUBLISHED)]);
    assert_eq!((metrics.in_flight.get(), metrics.in_flight_bytes.get()), (1, 10));
    assert_eq!((metrics.settled[0].get(), room.messages_left()), (3, 9));
}

/// Whatever stands behind a slow head, on a lost record or on the next one: what was received is in
/// flight or has ended, once, in the way of its worst event.
#[test]
fn the_sum_is_exact_at_every_step() {
    let (record, room, metrics) = record(100, 10_000);
    let ended = || metrics.settled.each_ref().map(Counter::get);
    let adds_up = || {
        let in_flight = u64::try_from(metrics.in_flight.get()).unwrap();
        assert_eq!(ended().iter().sum::<u64>() + in_flight, metrics.received.get());
    };
    let head = record.take(Some(0), 1).unwrap();
    for (id, outcome) in (1..).zip(Outcome::ALL) {
        record.take(Some(id), 1).unwrap().settle(outcome);
        adds_up();
    }
    assert_eq!((ended(), metrics.in_flight.get()), ([0; 10], 11), "they wait behind the head");
    head.settle(PUBLISHED);
    assert_eq!(record.acknowledgeable().len(), 10, "but for the one that was released");
    adds_up();
    let late = record.take(Some(11), 1).unwrap();
    assert_eq!(record.abandon(), 1);
    assert_eq!((ended(), metrics.in_flight.get()), ([2, 1, 1, 1, 1, 1, 1, 1, 1, 1], 1));
    adds_up();
    // The same message again, over the next connection.
    let next = InFlight::<u16>::new(room, Arc::default());
    let again = next.take(Some(11), 1).unwrap();
    late.settle(Outcome::Accepted(Done::DeadLettered));
    adds_up();
    drop(again);
    adds_up();
    next.abandon();
    assert_eq!((ended(), metrics.in_flight.get()), ([2, 1, 1, 1, 1, 1, 1, 2, 1, 2], 0));
    adds_up();
}

#[test]
fn each_outcome_has_its_word() {
    let all = Metrics::new();
    let room = Room::new(Limits { messages: 99, bytes: 99 }, all.source("s"));
    let words = [
        (PUBLISHED, "published"),
        (Outcome::Accepted(Done::Unrouted), "unrouted"),
        (Outcome::Accepted(Done::Filtered), "filtered"),
        (Outcome::Accepted(Done::Superseded), "superseded"),
        (Outcome::Accepted(Done::Unconfirmed), "unconfirmed"),
        (Outcome::Accepted(Done::Expired), "expired"),
        (Outcome::Accepted(Done::Discarded), "discarded"),
        (Outcome::Accepted(Done::DeadLettered), "dead_lettered"),
        (Outcome::Rejected, "left_to_broker"),
        (Outcome::Released, "released"),
    ];
    for (count, (outcome, word)) in (1..).zip(words) {
        (0..count).for_each(|_| room.ended(outcome));
        let series = format!("source_settled_total{{source=\"s\",outcome=\"{word}\"}} {count}\n");
        assert!(all.encode().contains(&series), "{series}{}", all.encode());
    }
}

#[test]
fn what_passes_is_acknowledged_in_its_turn_and_counts_nowhere() {
    let (record, _, metrics) = record(2, 100);
    assert!(record.pass(1));
    let (first, second) = (record.take(Some(2), 1).unwrap(), record.take(None, 1).unwrap());
    assert!(record.pass(3) && record.pass(4), "there is no room, and it needs none");
    assert_eq!(record.acknowledgeable(), [1]);
    second.settle(PUBLISHED);
    assert!(record.acknowledgeable().is_empty());
    assert_eq!((metrics.received.get(), metrics.in_flight.get()), (2, 2));
    first.settle(PUBLISHED);
    assert_eq!(record.acknowledgeable(), [2, 3, 4]);
    assert_eq!((metrics.received.get(), metrics.in_flight.get()), (2, 0));
    assert!(record.is_empty());
    record.close();
    assert!(!record.pass(5));
}

#[test]
fn what_is_made_of_a_message_takes_room_until_it_leaves() {
    let (record, room, metrics) = record(3, 100);
    let (first, second) = (record.take(Some(1), 10).unwrap(), record.take(Some(2), 10).unwrap());
    record.charge(0, 70);
    assert!(!room.fits(11) && room.fits(10));
    record.charge(1, 70);
    assert_eq!(metrics.in_flight_bytes.get(), 160, "beyond the limit, and only then it stops");
    assert!(record.take(Some(3), 0).is_none());
    first.settle(PUBLISHED);
    record.charge(0, 5);
    assert_eq!(record.acknowledgeable(), [1]);
    assert_eq!(metrics.in_flight_bytes.get(), 80);
    record.abandon();
    record.charge(1, 5);
    second.settle(PUBLISHED);
    record.charge(1, 5);
    assert_eq!((metrics.in_flight.get(), metrics.in_flight_bytes.get()), (0, 0));
}

#[test]
fn nothing_behind_a_released_message_is_acknowledged() {
    let (record, _, _) = record(10, 1_000);
    let (first, second) = (record.take(Some(1), 1).unwrap(), record.take(Some(2), 1).unwrap());
    second.settle(PUBLISHED);
    drop(first);
    assert!(record.has_released());
    assert!(record.acknowledgeable().is_empty());
}

#[test]
fn room_is_bounded_by_messages_and_bytes() {
    let (record, room, metrics) = record(2, 100);
    assert!(room.fits(1_000), "the first is always let in");
    let first = record.take(Some(1), 60).unwrap();
    assert!(room.fits(40) && !room.fits(41));
    assert_eq!(metrics.in_flight_bytes.get(), 60);
    first.settle(PUBLISHED);
    assert!(!room.fits(41), "settled is not yet acknowledged");
    assert_eq!(record.acknowledgeable(), [1]);
    assert!(room.fits(100) && room.messages_left() == 2);
}

#[test]
fn an_abandoned_record_holds_its_room_until_it_is_settled() {
    let (record, room, metrics) = record(3, 100);
    let (first, second) = (record.take(Some(1), 10).unwrap(), record.take(Some(2), 10).unwrap());
    second.settle(PUBLISHED);
    record.abandon();
    assert_eq!(room.messages_left(), 2, "the settled one is free");
    assert!(record.take(Some(3), 1).is_none());
    let next = InFlight::<u16>::new(Arc::clone(&room), Arc::default());
    let held = [next.take(Some(1), 10).unwrap(), next.take(Some(2), 10).unwrap()];
    assert!(next.take(Some(3), 10).is_none(), "the old one counts");
    first.settle(PUBLISHED);
    assert_eq!(room.messages_left(), 1);
    assert!(record.acknowledgeable().is_empty());
    for settlement in held {
        settlement.settle(PUBLISHED);
    }
    assert_eq!(next.acknowledgeable(), [1, 2]);
    assert_eq!((metrics.in_flight.get(), metrics.in_flight_bytes.get()), (0, 0));
}

#[tokio::test]
async fn the_source_is_woken_when_there_is_something_to_do() {
    let changed = Arc::new(Notify::new());
    let room = Room::new(Limits { messages: 2, bytes: 99 }, Metrics::new().source("s"));
    let record = InFlight::new(Arc::clone(&room), Arc::clone(&changed));
    let (one, two) = (record.take(Some(1), 1).unwrap(), record.take(Some(2), 1).unwrap());
    let half = tokio::spawn(async move { room.half_free(0).await });
    let task = tokio::spawn(async move { one.settle(PUBLISHED) });
    changed.notified().await;
    assert_eq!(record.acknowledgeable(), [1]);
    half.await.unwrap();
    two.settle(PUBLISHED);
    task.await.unwrap();
}

proptest! {
    /// Settled in any order, alone or together, the acknowledged are always the longest settled prefix, and its source is
    /// woken when there is something to acknowledge.
    #[test]
    fn acknowledged_is_the_settled_prefix(
        order in Just((0..40_u16).collect::<Vec<_>>()).prop_shuffle(),
        together in 1..9_usize,
    ) {
        let (record, _, _) = record(100, 10_000);
        let _settlements: Vec<_> = (0..40).map(|i| record.take(Some(i), 1)).collect();
        let (mut done, mut acked) = (vec![false; 40], Vec::new());
        let ended = |i: &u16| Ended { token: (*i).into(), outcome: PUBLISHED, published: None };
        for some in order.chunks(together) {
            record.settled_together(&some.iter().map(ended).collect::<Vec<_>>());
            for i in some {
                done[usize::from(*i)] = true;
            }
            let due = record.acknowledgeable();
            let woken = record.changed.notified().now_or_never().is_some();
            prop_assert_eq!(woken, !due.is_empty());
            acked.extend(due);
            let prefix = done.iter().take_while(|d| **d).count();
            prop_assert_eq!(acked.len(), prefix);
        }
        prop_assert_eq!(acked, (0..40).collect::<Vec<_>>());
    }

    /// Whatever is done to a record, it is a list of which the settled front goes.
    #[test]
    fn a_record_does_what_its_model_does(
        steps in prop::collection::vec((0..16_u8, 0..20_usize, 0..9_usize), 0..120)
    ) {
        let (record, _, metrics) = record(12, 1 << 20);
        // Acknowledgements that go together, bytes, end; those that left, and all that came.
        let mut model = VecDeque::<(Vec<u16>, usize, Option<Outcome>)>::new();
        let (mut ended, mut left, mut open, mut abandoned) = ([0_u64; 10], 0, true, false);
        let (mut duties, mut ack) = (Vec::new(), 0);
        // Of whom nothing is known: passed while nothing was in flight.
        let mut due = Vec::new();
        for (step, n, end) in steps {
            match step {
                0..=5 => {
                    let taken = record.take(Some(ack), n);
                    prop_assert_eq!(taken.is_some(), open && model.len() < 12);
                    if taken.is_some() {
                        model.push_back((vec![ack], n, None));
                    }
                    duties.extend(taken.map(|settlement| (left + model.len() - 1, settlement)));
                }
                6 => {
                    prop_assert_eq!(record.pass(ack), open);
                    if open && let Some(newest) = model.back_mut() {
                        newest.0.push(ack);
                    } else if open {
                        due.push(ack);
                    }
                }
                7..=11 if !duties.is_empty() => {
                    let (token, settlement) = duties.swap_remove(n % duties.len());
                    // One that is released stops all behind it, so it is rare.
                    let end = if n == 0 { 9 } else { end };
                    settlement.settle(Outcome::ALL[end]);
                    model[token - left].2 = Some(Outcome::ALL[end]);
                    ended[end] += u64::from(abandoned);
                }
                12 if !duties.is_empty() => {
                    let token = duties[n % duties.len()].0;
                    record.charge(token as u64, n);
                    model[token - left].1 += n;
                }
                13 | 14 => {
                    let mut expected: Vec<_> =
                        if abandoned { Vec::new() } else { std::mem::take(&mut due) };
                    while !abandoned
                        && let Some(outcome) = model.front().and_then(|m| m.2)
                        && outcome != Outcome::Released
                    {
                        ended[usize::from(outcome.rank())] += 1;
                        expected.extend(model.pop_front().unwrap().0);
                        left += 1;
                    }
                    prop_assert_eq!(record.acknowledgeable(), expected);
                }
                15 if n == 0 => {
                    record.close();
                    open = false;
                }
                15 if n == 1 => {
                    let unsettled = model.iter().filter(|m| m.2.is_none()).count();
                    prop_assert_eq!(record.abandon(), if abandoned { 0 } else { unsettled });
                    for outcome in model.iter().filter_map(|m| m.2).filter(|_| !abandoned) {
                        ended[usize::from(outcome.rank())] += 1;
                    }
                    (open, abandoned) = (false, true);
                }
                _ => {}
            }
            ack += 1;
            let held = model.iter().filter(|m| !(abandoned && m.2.is_some()));
            let bytes: usize = held.clone().map(|m| m.1).sum();
            prop_assert_eq!(metrics.in_flight.get(), i64::try_from(held.count()).unwrap());
            prop_assert_eq!(metrics.in_flight_bytes.get(), i64::try_from(bytes).unwrap());
            let counted = metrics.settled.each_ref().map(Counter::get);
            prop_assert_eq!(counted, ended);
            let in_flight = u64::try_from(metrics.in_flight.get()).unwrap();
            prop_assert_eq!(counted.iter().sum::<u64>() + in_flight, metrics.received.get());
        }
    }
}
