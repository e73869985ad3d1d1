use std::sync::Arc;

use futures_util::FutureExt as _;
use proptest::prelude::*;

use super::*;
use crate::config::source::Limits;
use crate::delivery::{Done, Outcome};
use crate::message::OrderKey;
use crate::metrics::Metrics;
use crate::source::sqs::receipt::tests::receipt;
use crate::source::{Leases, Room};

struct Fixture {
    debts: Debts,
    leases: Arc<Leases<u64>>,
    room: Arc<Room>,
    start: Instant,
    lost: u64,
}

fn fixture() -> Fixture {
    let limits = Limits { messages: 1_000, bytes: 1_000 };
    let room = Room::new(limits, Metrics::new().source("s"));
    let leases = Leases::new(Arc::clone(&room), Arc::default());
    Fixture { debts: Debts::default(), leases, room, start: Instant::now(), lost: 0 }
}

impl Fixture {
    fn at(&self, ms: u64) -> Instant {
        self.start + Duration::from_millis(ms)
    }

    fn done(&mut self, order: u64, group: Option<&str>, ms: u64) {
        let (handle, due) = (receipt(order, group), self.at(ms + 30_000));
        let lease = Lease { token: order, handle, since: self.at(ms), due };
        let place = self.place();
        self.debts.delete(lease, place, self.at(ms));
    }

    fn place(&self) -> Place {
        let mut one = self.room.reserve(1, 0).now_or_never().unwrap();
        let taken = self.leases.take(&mut one, 0, 1, self.start, self.start).unwrap();
        taken.settle(Outcome::Accepted(Done::Published));
        self.leases.ended(1).remove(0).1
    }

    fn in_flight(&self) -> usize {
        1_000 - self.room.messages_left()
    }

    fn back(&mut self, order: u64, group: Option<&str>, ms: u64) {
        self.debts.give_back(receipt(order, group), self.at(ms + 30_000), self.at(ms));
    }

    fn next(&mut self, ms: u64) -> Option<Request> {
        self.expire(ms, false);
        self.debts.next(self.at(ms), false)
    }

    fn expire(&mut self, ms: u64, draining: bool) -> Losses {
        let losses = self.debts.expire(self.at(ms), draining);
        self.lost += losses.count;
        losses
    }

    fn answered(
        &mut self,
        request: impl Into<Option<Request>>,
        failed: &[Failed],
        ms: u64,
    ) -> Losses {
        self.debts.answered(request.into().unwrap(), failed, self.at(ms))
    }

    /// The message of `order` comes again.
    fn again(&mut self, order: u64, ms: u64) -> Option<u64> {
        let newer = Receipt {
            order: 1_000 + order,
            handle: format!("again-{order}").into(),
            ..receipt(order, None)
        };
        self.debts.received_again(&newer, self.at(ms), self.at(ms + 30_000))
    }
}

fn orders<'a>(request: impl IntoIterator<Item = &'a Request>) -> Vec<u64> {
    request.into_iter().flat_map(|r| &r.receipts).map(|receipt| receipt.order).collect()
}

fn failed(at: usize, stale: bool) -> Failed {
    Failed { at, stale, why: String::new() }
}

#[test]
fn deletions_gather_by_ten_or_for_a_moment() {
    let mut f = fixture();
    (0..9).for_each(|order| f.done(order, None, 0));
    assert!(f.next(199).is_none());
    assert_eq!(f.debts.wakes(), Some(f.at(200)));
    f.done(9, None, 199);
    f.done(10, None, 199);
    assert_eq!(orders(&f.next(199)), (0..10).collect::<Vec<_>>());
    assert!(f.next(398).is_none());
    assert_eq!(orders(&f.next(399)), [10]);
    f.done(11, None, 400);
    assert!(f.debts.next(f.at(400), true).is_some(), "in a hurry");
    assert_eq!(f.in_flight(), 12, "none is answered");
}

#[test]
fn every_entry_that_failed_is_tried_again_until_it_is_confirmed() {
    let mut f = fixture();
    (0..10).for_each(|order| f.done(order, None, 0));
    let request = f.next(0);
    assert_eq!(f.answered(request, &[failed(3, false), failed(7, true)], 1).count, 0);
    assert_eq!(f.in_flight(), 2);
    let request = f.next(500);
    assert_eq!((orders(&request), f.in_flight()), (vec![3, 7], 2));
    assert_eq!(f.answered(request, &[], 501).count, 0);
    assert!(f.debts.is_empty() && f.lost == 0 && f.in_flight() == 0);
}

#[test]
fn an_invalid_receipt_is_given_up_at_last() {
    for group in [None, Some("a")] {
        let mut f = fixture();
        f.done(0, group, 0);
        let mut lost = 0;
        for round in 1..=u64::from(STALE_TRIES) {
            let far = f.at(10_000_000);
            f.debts.extended(&receipt(0, None), far);
            let request = f.next(round * 6_000);
            let losses = f.answered(request, &[failed(0, true)], round * 6_000);
            lost += losses.count;
            let last = round == u64::from(STALE_TRIES);
            assert_eq!(lost, u64::from(last));
            assert_eq!(losses.given_up.are_before(&receipt(1, group)), last && group.is_some());
        }
        assert!(f.debts.is_empty() && f.in_flight() == 0);
    }
}

#[test]
fn one_whose_lease_has_ended_is_counted_once_and_still_to_be_deleted() {
    for group in [None, Some("a")] {
        let mut f = fixture();
        f.done(1, group, 0);
        f.back(2, group, 0);
        let mut request = f.next(30_000);
        assert_eq!((orders(&request), f.lost), (vec![1], 1));
        assert!(f.debts.due(f.at(99_000)).next().is_none(), "there is no lease to extend");
        for round in 1..u64::from(STALE_TRIES) {
            let losses = f.answered(request, &[failed(0, true)], 30_000 + round * 6_000);
            assert!(losses.count == 0 && losses.given_up.is_empty());
            assert_eq!(f.in_flight(), 0, "its room is for what comes again");
            request = f.next(36_000 + round * 6_000);
            assert_eq!(orders(&request), [1]);
        }
        let losses = f.answered(request, &[failed(0, true)], 300_000);
        assert_eq!(losses.given_up.is_empty(), group.is_none());
        assert!(f.debts.is_empty() && losses.count == 0 && f.lost == 1);
    }
}

#[test]
fn what_no_answer_says_to_be_gone_keeps_its_place_and_is_owed_for_ever() {
    let mut f = fixture();
    f.done(1, Some("a"), 0);
    for round in 0..u64::from(STALE_TRIES) * 2 {
        let request = f.next(round * 6_000).unwrap();
        f.debts.failed(request, Duration::ZERO, true, f.at(round * 6_000));
    }
    assert_eq!((f.debts.is_empty(), f.in_flight()), (false, 1));
}

#[test]
fn what_is_behind_a_lost_one_is_let_go_and_known_when_it_comes() {
    let (a, b) = (Some("a"), Some("b"));
    let mut f = fixture();
    f.done(1, a, 0);
    for (order, group) in [(2, a), (3, b), (4, a)] {
        f.done(order, group, 100);
    }
    let request = f.next(100);
    assert_eq!(orders(&request), [1, 2, 3, 4]);
    f.debts.failed(request.unwrap(), Duration::ZERO, true, f.at(100));
    let losses = f.expire(30_000, false);
    assert_eq!((losses.count, f.debts.let_go_behind(&losses.lost, f.at(30_000))), (1, 2));
    let back = f.next(30_000).unwrap();
    assert_eq!((back.ask, orders([&back])), (Ask::Return, vec![4, 2]), "from its end");
    f.answered(back, &[], 30_001);
    assert_eq!([1, 2, 4].map(|order| f.again(order, 30_002)), [Some(1), Some(2), Some(4)]);
    assert_eq!((f.again(9, 30_002), f.lost), (None, 1));
    let request = f.next(30_002).unwrap();
    assert_eq!((request.ask, orders([&request])), (Ask::Delete, vec![1, 2, 3, 4]));
    let handles = request.receipts.iter().map(|receipt| &*receipt.handle);
    assert_eq!(handles.collect::<Vec<_>>(), ["again-1", "again-2", "handle-3", "again-4"]);
    f.answered(request, &[], 30_003);
    assert!(f.debts.is_empty() && f.in_flight() == 0);
}

#[test]
fn nothing_behind_a_lost_one_is_deleted_with_it() {
    let mut f = fixture();
    f.done(1, Some("a"), 0);
    f.done(2, Some("a"), 10_000);
    assert_eq!(orders(&f.next(30_000)), [1], "its lease has ended");
    assert!(f.next(30_000).is_none());
}

#[test]
fn what_came_again_before_it_went_back_does_not_go_back() {
    let mut f = fixture();
    f.done(1, Some("a"), 0);
    f.done(2, Some("a"), 100);
    let cuts = [receipt(1, Some("a"))].iter().collect();
    assert_eq!(f.debts.let_go_behind(&cuts, f.at(200)), 1);
    assert_eq!(f.again(2, 201), Some(2));
    assert_eq!(orders(&f.next(201)), [1, 2], "to be deleted");
}

#[test]
fn what_was_lost_and_overtaken_in_its_group_is_gone() {
    let (a, b) = (Some("a"), Some("b"));
    let mut f = fixture();
    for (order, group) in [(1, a), (2, a), (3, b), (4, None)] {
        f.done(order, group, 0);
    }
    let first = f.next(0);
    f.expire(30_000, false);
    assert_eq!(f.again(2, 30_001), Some(2));
    let group = |name: &str| OrderKey::from(name.as_bytes());
    f.debts.came_after(&group("a"), 2);
    f.debts.came_after(&group("a"), 9);
    assert_eq!(f.in_flight(), 3, "1 is not in the queue any more");
    f.answered(first, &[failed(0, true), failed(2, true), failed(3, true)], 30_002);
    assert_eq!(orders(&f.next(40_000)), [2, 3, 4], "the answer was about its first receipt");
}

#[test]
fn a_drain_waits_for_nothing_that_would_have_to_come_again() {
    let mut f = fixture();
    f.done(1, Some("a"), 0);
    f.done(2, None, 0);
    let losses = f.expire(30_000, true);
    assert!(losses.count == 2 && losses.given_up.are_before(&receipt(2, Some("a"))));
    let request = f.debts.next(f.at(30_000), true);
    assert_eq!(orders(&request), [2], "its receipt may be good");
    f.answered(request, &[], 30_001);
    assert!(f.debts.is_empty());
}

#[test]
fn what_is_asked_for_is_extended_and_known_when_it_comes() {
    let mut f = fixture();
    (0..10).for_each(|order| f.done(order, None, 0));
    let request = f.next(0).unwrap();
    assert_eq!(f.debts.due(f.at(30_000)).count(), 10);
    let far = f.at(60_000);
    f.debts.extended(&receipt(3, None), far);
    f.expire(30_000, false);
    assert_eq!(f.lost, 9);
    assert_eq!(f.again(5, 31_000), Some(5));
    f.answered(request, &[], 32_000);
    let request = f.next(32_000).unwrap();
    assert_eq!((orders([&request]), &*request.receipts[0].handle), (vec![5], "again-5"));
}

#[test]
fn groups_keep_their_order_and_wait_for_nobody() {
    let (a, b) = (Some("a"), Some("b"));
    let mut f = fixture();
    f.done(0, a, 0);
    f.done(1, a, 0);
    let first = f.next(0);
    assert_eq!(orders(&first), [0, 1], "at once");
    f.done(2, a, 1);
    f.done(3, b, 1);
    assert_eq!(orders(&f.next(1)), [3], "the group of 2 is not answered yet");
    assert_eq!(f.answered(first, &[failed(0, false)], 2).count, 0);
    f.debts.deletions.front_mut().unwrap().not_before = f.at(50);
    assert_eq!(f.debts.wakes(), Some(f.at(50)));
    assert!(f.next(49).is_none(), "2 comes after 0, which waits");
    assert_eq!(orders(&f.next(50)), [0, 2]);
}

#[test]
fn what_is_behind_goes_back_from_the_end() {
    let (a, b) = (Some("a"), Some("b"));
    let mut f = fixture();
    for (order, group) in [(1, a), (2, b), (3, a), (4, a)] {
        f.done(order, group, 0);
    }
    f.back(2, a, 0);
    f.debts.withdraw_behind(&[receipt(2, a)].iter().collect(), f.at(0));
    let back = f.next(0);
    assert_eq!((back.as_ref().unwrap().ask, orders(&back)), (Ask::Return, vec![4, 3, 2]));
    assert_eq!(orders(&f.next(0)), [2], "of the other group; 1 waits for the answer");
    // The last one has to be visible before those before it are tried again.
    f.answered(back, &[failed(0, false), failed(2, false)], 1);
    let again = f.next(400).unwrap();
    assert_eq!((again.ask, orders([&again])), (Ask::Return, vec![4, 2]));
    f.answered(again, &[], 401);
    assert_eq!(orders(&f.next(401)), [1]);
}

#[test]
fn what_is_to_go_back_later_goes_at_once_in_a_drain() {
    let mut f = fixture();
    for order in [1, 2] {
        f.debts.give_back(receipt(order, Some("a")), f.at(30_000), f.at(400 * order));
    }
    assert!(f.next(399).is_none());
    assert_eq!(f.debts.wakes(), Some(f.at(800)), "1 is before 2, so it goes behind it");
    f.debts.hurry(f.at(100));
    assert_eq!(orders(&f.next(100)), [2, 1]);
}

#[test]
fn what_was_not_answered_is_asked_for_in_a_drain_and_when_another_is_answered() {
    let mut f = fixture();
    for order in 0..40 {
        f.done(order, None, 0);
    }
    let requests = [0, 1, 2, 3].map(|_| f.next(0).unwrap());
    let [first, second, third, answered] = requests;
    let (half, far) = (Duration::from_millis(500), Duration::from_secs(30));
    f.debts.failed(first, far, true, f.at(0));
    f.debts.failed(second, far, false, f.at(0));
    assert!(f.next(9_000).is_none());
    f.answered(answered, &[], 9_000);
    let again = f.next(9_000).unwrap();
    assert_eq!(orders([&again]), (0..10).collect::<Vec<_>>());
    assert!(f.next(9_000).is_none(), "SQS wants them later");
    f.debts.failed(third, half, true, f.at(9_000));
    assert_eq!(f.debts.wakes(), Some(f.at(9_500)));
    f.debts.hurry(f.at(9_100));
    assert_eq!(orders(&f.next(9_100)), (10..20).collect::<Vec<_>>());
    assert_eq!(orders(&f.next(9_100)), (20..30).collect::<Vec<_>>());
}

#[test]
fn the_last_try_leaves_what_anybody_can_receive() {
    let mut f = fixture();
    f.done(1, None, 0);
    f.back(2, None, 0);
    f.done(3, None, 1);
    f.back(4, None, 1);
    f.done(5, Some("a"), 0);
    f.done(6, Some("b"), 1);
    let deleted = vec![receipt(1, None), receipt(3, None), receipt(6, Some("b"))];
    assert_eq!(f.debts.close(f.at(30_000)), (deleted, vec![receipt(4, None)]));
}

#[test]
fn what_came_again_is_deleted_by_its_new_receipt() {
    let mut f = fixture();
    f.done(1, None, 0);
    assert_eq!((f.again(1, 60_000), f.again(2, 60_000)), (Some(1), None));
    let request = f.next(60_000).unwrap();
    assert_eq!((&*request.receipts[0].handle, orders([&request])), ("again-1", vec![1]));
    assert_eq!(f.debts.deletions[0].received, f.at(60_000));
}

#[test]
fn a_call_that_failed_is_made_again_with_all_its_entries() {
    let mut f = fixture();
    (0..10).for_each(|order| f.done(order, None, 0));
    let request = f.next(0).unwrap();
    f.debts.failed(request, Duration::from_secs(2), true, f.at(0));
    assert!(f.next(1_999).is_none());
    assert_eq!((f.debts.wakes(), f.in_flight()), (Some(f.at(2_000)), 10));
    assert_eq!(f.debts.due(f.at(30_000)).count(), 10);
    assert_eq!(orders(&f.next(2_000)), (0..10).collect::<Vec<_>>());
}

proptest! {
    /// Whatever fails, everything is confirmed in the end; of a group in its order, however often.
    #[test]
    fn all_is_deleted_in_the_end(
        groups in prop::collection::vec(prop::option::of(0..3_u8), 1..60),
        luck in prop::collection::vec(0..10_u8, 1..40),
    ) {
        let mut f = fixture();
        let names = ["a", "b", "c"];
        for (order, group) in groups.iter().enumerate() {
            f.done(order as u64, group.map(|g| names[usize::from(g)]), 0);
        }
        let (mut confirmed, mut luck, mut ms) = (Vec::new(), luck.into_iter().chain([9, 5, 8, 9, 7]).cycle(), 0);
        let mut asked = Vec::new();
        while !f.debts.is_empty() {
            ms += 100;
            for order in 0..groups.len() as u64 {
                let (known, due) = (receipt(order, None), f.at(ms + 60_000));
                f.debts.extended(&known, due);
            }
            asked.extend(f.next(ms));
            // Answers come in any order.
            if luck.next() > Some(4) && !asked.is_empty() {
                let at = usize::from(luck.next().unwrap()) % asked.len();
                let request: Request = asked.remove(at);
                let bad: Vec<_> = (0..request.receipts.len()).filter(|_| luck.next() == Some(0)).collect();
                for (at, receipt) in request.receipts.iter().enumerate() {
                    if !bad.contains(&at) {
                        confirmed.push(receipt.clone());
                    }
                }
                let bad: Vec<_> = bad.into_iter().map(|at| failed(at, false)).collect();
                f.answered(request, &bad, ms);
            }
            prop_assume!(ms < 10_000_000);
        }
        prop_assert_eq!((confirmed.len(), f.lost, f.in_flight()), (groups.len(), 0, 0));
        let mut orders: Vec<_> = confirmed.iter().map(|receipt| receipt.order).collect();
        orders.sort_unstable();
        orders.dedup();
        prop_assert_eq!(orders.len(), groups.len(), "none twice");
    }
}
