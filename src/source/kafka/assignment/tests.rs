//! The partitions of a source, and what late and lost messages do to them.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::config::source::Limits;
use crate::delivery::{Done, Outcome};
use crate::metrics::Metrics;

const PUBLISHED: Outcome = Outcome::Accepted(Done::Published);
const LATER: Duration = Duration::from_mins(1);

/// Room for so many messages, and so many partitions of `t`.
fn assignment(messages: usize, partitions: i32) -> (Assignment, KafkaMetrics) {
    let metrics = Metrics::new();
    let kafka = metrics.kafka("s");
    let room = Room::new(Limits { messages, bytes: 1_000 }, metrics.source("s"));
    let mut assignment = Assignment::new(room, Arc::default(), kafka.clone());
    (0..partitions).for_each(|partition| assignment.add("t", partition));
    (assignment, kafka)
}

fn take(assignment: &mut Assignment, partition: i32, offset: i64) -> Settlement {
    let found = assignment.find("t", partition, offset).unwrap();
    match assignment.admit(found, offset, 1) {
        Admitted::Taken(settlement) => settlement,
        Admitted::Full => panic!("full"),
        Admitted::Foreign => panic!("foreign"),
    }
}

fn stored(assignment: &mut Assignment) -> Vec<(i32, i64)> {
    assignment.advance(Instant::now());
    let mut places: Vec<_> =
        assignment.take_unstored().into_iter().map(|p| (p.partition, p.offset)).collect();
    places.sort_unstable();
    places
}

#[test]
fn partitions_move_on_by_themselves() {
    let (mut assignment, _) = assignment(10, 2);
    let (first, second) = (take(&mut assignment, 0, 5), take(&mut assignment, 0, 8));
    let other = take(&mut assignment, 1, 70);
    second.settle(PUBLISHED);
    other.settle(PUBLISHED);
    assert_eq!(stored(&mut assignment), [(1, 71)]);
    first.settle(PUBLISHED);
    assert_eq!(stored(&mut assignment), [(0, 9)]);
    assert_eq!(stored(&mut assignment), []);
}

#[test]
fn what_is_settled_after_a_revocation_moves_nothing_and_is_counted() {
    let (mut assignment, metrics) = assignment(10, 1);
    let late = take(&mut assignment, 0, 5);
    assignment.remove("t", 0);
    assert_eq!(metrics.late.get(), 1);
    assert!(assignment.find("t", 0, 6).is_none());
    assignment.add("t", 0);
    late.settle(PUBLISHED);
    assert_eq!(stored(&mut assignment), []);
    take(&mut assignment, 0, 5).settle(PUBLISHED);
    assert_eq!(stored(&mut assignment), [(0, 6)]);
}

#[test]
fn a_step_back_into_what_is_in_flight_passes_nothing() {
    let (mut assignment, _) = assignment(10, 1);
    let held: Vec<_> = (5..8).map(|offset| take(&mut assignment, 0, offset)).collect();
    assert!(assignment.find("t", 0, 6).is_none(), "5 is not settled");
    let place = Place { topic: "t".to_owned(), partition: 0, offset: 5 };
    assert_eq!(assignment.due_rewinds(Instant::now()), std::slice::from_ref(&place));
    assignment.rewound(&place, true, Instant::now());
    for settlement in held {
        settlement.settle(PUBLISHED);
    }
    assert_eq!(stored(&mut assignment), [], "those were of an older generation");
    take(&mut assignment, 0, 5).settle(PUBLISHED);
    assert_eq!(stored(&mut assignment), [(0, 6)]);
}

#[test]
fn what_was_settled_before_a_release_is_committed_when_the_partition_goes() {
    let (mut assignment, _) = assignment(10, 1);
    let (first, second) = (take(&mut assignment, 0, 5), take(&mut assignment, 0, 6));
    let of = [("t".to_owned(), 0)];
    assignment.close_only(&of);
    first.settle(PUBLISHED);
    drop(second);
    assert!(assignment.advance(Instant::now()).is_empty(), "it is not read again here");
    assert!(assignment.is_done(&of));
    assert_eq!(stored(&mut assignment), [(0, 6)]);
}

#[test]
fn a_message_that_was_found_before_a_revocation_is_not_taken_after_it() {
    let (mut assignment, _) = assignment(10, 1);
    let found = assignment.find("t", 0, 5).unwrap();
    assignment.remove("t", 0);
    assert!(matches!(assignment.admit(found, 5, 1), Admitted::Foreign));
    assignment.add("t", 0);
    assert!(matches!(assignment.admit(found, 5, 1), Admitted::Foreign));
}

#[test]
fn a_message_that_was_given_back_sets_its_partition_back() {
    let (mut assignment, metrics) = assignment(10, 1);
    let now = Instant::now();
    let [first, second, third] = [5, 6, 7].map(|offset| take(&mut assignment, 0, offset));
    first.settle(PUBLISHED);
    drop(second);
    assert_eq!(assignment.advance(now), [("t".to_owned(), 0)]);
    // Until it was set back, what comes is not what is to come next.
    assert!(assignment.find("t", 0, 8).is_none());
    assert_eq!(assignment.advance(now + LATER), []);
    third.settle(PUBLISHED);
    assert_eq!(metrics.late.get(), 1, "the third");
    let due = assignment.due_rewinds(now + LATER);
    assert_eq!(due, [Place { topic: "t".into(), partition: 0, offset: 6 }]);
    assignment.rewound(&due[0], false, now);
    assert_eq!(assignment.due_rewinds(now + LATER), due, "it did not work, and is tried again");
    assignment.rewound(&due[0], true, now);
    assert_eq!(assignment.due_rewinds(now + LATER), []);
    take(&mut assignment, 0, 6).settle(PUBLISHED);
    assert_eq!(stored(&mut assignment), [(0, 7)]);
}

#[test]
fn what_is_settled_soon_after_a_message_behind_it_was_given_back_is_not_read_again() {
    let (mut assignment, metrics) = assignment(10, 1);
    let now = Instant::now();
    let [first, second, third] = [5, 6, 7].map(|offset| take(&mut assignment, 0, offset));
    drop(third);
    assert_eq!(assignment.advance(now), [("t".to_owned(), 0)]);
    first.settle(PUBLISHED);
    second.settle(PUBLISHED);
    assert_eq!(assignment.advance(now + LATER), []);
    let due = assignment.due_rewinds(now + LATER);
    assert_eq!(due, [Place { topic: "t".into(), partition: 0, offset: 7 }]);
    assert_eq!(metrics.late.get(), 0);
}

#[test]
fn a_partition_that_was_set_back_by_others_begins_anew() {
    let (mut assignment, _) = assignment(10, 1);
    let before = take(&mut assignment, 0, 500);
    // The topic was made anew: its offsets begin at 0.
    take(&mut assignment, 0, 0).settle(PUBLISHED);
    assert_eq!(stored(&mut assignment), [(0, 1)]);
    before.settle(PUBLISHED);
    assert_eq!(stored(&mut assignment), []);
}

#[test]
fn positions_below_what_the_group_has_committed_are_told() {
    let (mut assignment, _) = assignment(10, 1);
    let below = |assignment: &Assignment| {
        assignment.stored_below().into_iter().map(|place| place.offset).collect::<Vec<_>>()
    };
    assignment.was_committed(("t", 0), 400);
    take(&mut assignment, 0, 500).settle(PUBLISHED);
    assert_eq!((stored(&mut assignment), below(&assignment)), (vec![(0, 501)], vec![]));
    // The topic is made anew, and what librdkafka says of it is of a moment before.
    take(&mut assignment, 0, 0).settle(PUBLISHED);
    assert_eq!((stored(&mut assignment), below(&assignment)), (vec![(0, 1)], vec![1]));
    assignment.was_committed(("t", 0), 501);
    assert_eq!(below(&assignment), [1]);
    assignment.was_committed(("t", 0), 1);
    assert!(below(&assignment).is_empty());
    // Set back before it was read at all.
    assignment.remove("t", 0);
    assignment.add("t", 0);
    assignment.was_committed(("t", 0), 900);
    take(&mut assignment, 0, 7).settle(PUBLISHED);
    assert_eq!((stored(&mut assignment), below(&assignment)), (vec![(0, 8)], vec![8]));
}

#[test]
fn without_room_nothing_is_taken_and_nothing_is_lost() {
    let (mut assignment, _) = assignment(2, 1);
    let (one, _two) = (take(&mut assignment, 0, 1), take(&mut assignment, 0, 2));
    let found = assignment.find("t", 0, 3).unwrap();
    assert!(matches!(assignment.admit(found, 3, 1), Admitted::Full));
    one.settle(PUBLISHED);
    assignment.advance(Instant::now());
    assert!(matches!(assignment.admit(found, 3, 1), Admitted::Taken(_)));
}

#[test]
fn a_closed_assignment_waits_for_what_it_has() {
    let (mut assignment, _) = assignment(10, 2);
    let held = take(&mut assignment, 0, 5);
    assignment.close_only(&[("t".into(), 1)]);
    assert!(assignment.is_done(&[("t".into(), 1)]));
    assert!(!assignment.is_done(&[("t".into(), 0)]));
    assignment.close();
    assert!(assignment.find("t", 0, 6).is_none());
    assert!(!assignment.all_done());
    held.settle(PUBLISHED);
    assert_eq!(stored(&mut assignment), [(0, 6)]);
    assert!(assignment.all_done() && !assignment.has_released());
}

#[test]
fn a_partition_that_waits_to_be_read_again_ends_no_drain_and_is_read_no_more() {
    let (mut assignment, metrics) = assignment(10, 2);
    let (back, held) = (take(&mut assignment, 0, 5), take(&mut assignment, 1, 7));
    drop(back);
    let now = Instant::now();
    assert_eq!(assignment.advance(now), [("t".to_owned(), 0)]);
    assert_eq!(assignment.not_rewinding(), [("t".to_owned(), 1)]);
    assignment.close();
    assert_eq!(assignment.due_rewinds(now + LATER), []);
    assert!(!assignment.all_done(), "7 is under way");
    held.settle(PUBLISHED);
    assert_eq!(stored(&mut assignment), [(1, 8)]);
    assert!(assignment.all_done() && assignment.has_released());
    assert_eq!(metrics.rewinds.get(), 0);
}

#[derive(Clone, Debug)]
enum Event {
    Take(i32),
    Settle(prop::sample::Index, bool),
    Revoke(i32),
    Tick,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (0..3).prop_map(Event::Take),
        6 => (any::<prop::sample::Index>(), prop::bool::weighted(0.95))
            .prop_map(|(index, good)| Event::Settle(index, good)),
        1 => (0..3).prop_map(Event::Revoke),
        3 => Just(Event::Tick),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// Messages come, are settled in any order, given back, revoked and assigned again: a position that
    /// is stored has only messages before it whose duty was done, and never falls while the partition
    /// is owned. In the end everything is done, however often it was given back.
    #[test]
    fn nothing_undone_is_ever_behind_a_stored_position(events in prop::collection::vec(event(), 1..200)) {
        let (mut assignment, _) = assignment(8, 3);
        let mut now = Instant::now();
        // A log of offsets with gaps, of which each partition has read so far, and what was done of it.
        let log: Vec<i64> = (0..400).map(|i| i * 3 + i % 2).collect();
        let mut next = [0_usize; 3];
        let mut done = vec![std::collections::BTreeSet::new(); 3];
        let mut committed = [0_i64; 3];
        let mut floor = [0_i64; 3];
        let mut flying: Vec<(usize, i64, Settlement)> = Vec::new();
        for event in events {
            match event {
                Event::Take(partition) => {
                    let p = usize::try_from(partition).unwrap();
                    let offset = log[next[p]];
                    let Some(found) = assignment.find("t", partition, offset) else { continue };
                    if let Admitted::Taken(settlement) = assignment.admit(found, offset, 1) {
                        next[p] += 1;
                        flying.push((p, offset, settlement));
                    }
                }
                Event::Settle(index, good) if !flying.is_empty() => {
                    let (p, offset, settlement) = flying.swap_remove(index.index(flying.len()));
                    if good {
                        done[p].insert(offset);
                        settlement.settle(PUBLISHED);
                    }
                }
                Event::Settle(..) => {}
                Event::Revoke(partition) => {
                    let p = usize::try_from(partition).unwrap();
                    assignment.remove("t", partition);
                    assignment.add("t", partition);
                    next[p] = log.iter().position(|o| *o >= committed[p]).unwrap();
                    floor[p] = committed[p];
                }
                Event::Tick => {
                    now += LATER;
                    assignment.advance(now);
                    for place in assignment.due_rewinds(now + LATER) {
                        let p = usize::try_from(place.partition).unwrap();
                        next[p] = log.iter().position(|o| *o >= place.offset).unwrap();
                        assignment.rewound(&place, true, now);
                    }
                    for place in assignment.take_unstored() {
                        let p = usize::try_from(place.partition).unwrap();
                        prop_assert!(place.offset > committed[p] || committed[p] == 0);
                        let before = log.iter().filter(|o| **o < place.offset);
                        for offset in before {
                            prop_assert!(done[p].contains(offset), "{offset} of {p} is not done");
                        }
                        committed[p] = place.offset;
                    }
                }
            }
        }
    }
}

/// A message waits for room while another partition leaves: it is still one to take.
#[test]
fn a_message_that_was_found_is_admitted_though_other_partitions_leave() {
    let (mut assignment, _) = assignment(10, 2);
    let found = assignment.find("t", 1, 7).unwrap();
    assignment.remove("t", 0);
    assert!(matches!(assignment.admit(found, 7, 1), Admitted::Taken(_)));
    let found = assignment.find("t", 1, 8).unwrap();
    assignment.remove("t", 1);
    assignment.add("t", 1);
    assert!(matches!(assignment.admit(found, 8, 1), Admitted::Foreign), "another generation");
}

#[test]
fn where_a_partition_begins_is_not_asked_for_again_at_once() {
    let (mut assignment, _) = assignment(10, 1);
    let open = [("t".to_owned(), 0)];
    assignment.undecide(&open);
    let mut now = Instant::now();
    for _ in 0..20 {
        assert_eq!(assignment.undecided(now), open);
        assignment.put_off(&open, now);
        assert_eq!(assignment.undecided(now + Duration::from_millis(999)), []);
        now += LATER;
    }
}
