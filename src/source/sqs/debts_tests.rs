use std::sync::Arc;

use futures_util::FutureExt as _;
use proptest::prelude::*;

use super::*;
use crate::config::source::Limits;
use crate::delivery::{Done, Outcome};
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
        self.debts.next(self.at(ms), false, &mut self.lost)
    }
}

fn orders<'a>(request: impl IntoIterator<Item = &'a Request>) -> Vec<u64> {
    request.into_iter().flat_map(|r| &r.debts).map(|debt| debt.receipt.order).collect()
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
    assert!(f.debts.next(f.at(400), true, &mut f.lost).is_some(), "in a hurry");
    assert_eq!(f.in_flight(), 0, "a request that is dropped frees its places");
}

#[test]
fn every_entry_that_failed_is_tried_again_until_it_is_confirmed() {
    let mut f = fixture();
    (0..10).for_each(|order| f.done(order, None, 0));
    let request = f.next(0).unwrap();
    assert_eq!(f.debts.answered(request, &[failed(3, false), failed(7, true)], f.at(1)), 0);
    assert_eq!(f.in_flight(), 2);
    let request = f.next(500);
    assert_eq!((orders(&request), f.in_flight()), (vec![3, 7], 2));
    assert_eq!(f.debts.answered(request.unwrap(), &[], f.at(501)), 0);
    assert!(f.debts.is_empty() && f.lost == 0 && f.in_flight() == 0);
}

#[test]
fn an_invalid_receipt_is_given_up_at_last_and_one_whose_lease_has_ended_at_once() {
    let mut f = fixture();
    f.done(0, None, 0);
    let far = f.at(10_000_000);
    let mut lost = 0;
    for round in 1..=u64::from(STALE_TRIES) {
        f.debts.extended(&receipt(0, None), far);
        let request = f.next(round * 6_000).unwrap();
        lost += f.debts.answered(request, &[failed(0, true)], f.at(round * 6_000));
        assert_eq!(lost, u64::from(round == u64::from(STALE_TRIES)));
    }
    assert!(f.debts.is_empty());
    f.done(1, None, 0);
    f.back(2, None, 0);
    assert!(f.next(30_000).is_none() && f.lost == 1);
    assert!(f.debts.is_empty() && f.in_flight() == 0);
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
    assert_eq!(f.debts.answered(first.unwrap(), &[failed(0, false)], f.at(2)), 0);
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
    f.debts.withdraw_behind(&receipt(2, a), f.at(0));
    let back = f.next(0);
    assert_eq!((back.as_ref().unwrap().ask, orders(&back)), (Ask::Return, vec![4, 3, 2]));
    assert_eq!(orders(&f.next(0)), [2], "of the other group; 1 waits for the answer");
    // The last one has to be visible before those before it are tried again.
    f.debts.answered(back.unwrap(), &[failed(0, false), failed(2, false)], f.at(1));
    let again = f.next(400).unwrap();
    assert_eq!((again.ask, orders([&again])), (Ask::Return, vec![4, 2]));
    f.debts.answered(again, &[], f.at(401));
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
fn the_last_try_leaves_what_anybody_can_receive() {
    let mut f = fixture();
    f.done(1, None, 0);
    f.back(2, None, 0);
    f.done(3, None, 1);
    f.back(4, None, 1);
    assert_eq!(f.debts.close(f.at(30_000)), (vec![receipt(3, None)], vec![receipt(4, None)]));
}

#[test]
fn what_came_again_is_deleted_by_its_new_receipt() {
    let mut f = fixture();
    f.done(1, None, 0);
    let mut newer = receipt(9, None);
    newer.id = "id-1".into();
    assert!(f.debts.received_again(&newer, f.at(60_000), f.at(90_000)));
    newer.id = "id-2".into();
    assert!(!f.debts.received_again(&newer, f.at(60_000), f.at(90_000)));
    let request = f.next(60_000).unwrap();
    assert_eq!(
        (&*request.debts[0].receipt.handle, request.debts[0].receipt.order),
        ("handle-9", 1)
    );
    assert_eq!(request.debts[0].received, f.at(60_000));
}

#[test]
fn a_call_that_failed_is_made_again_with_all_its_entries() {
    let mut f = fixture();
    (0..10).for_each(|order| f.done(order, None, 0));
    let request = f.next(0).unwrap();
    f.debts.failed(request, Duration::from_secs(2), f.at(0));
    assert!(f.next(1_999).is_none());
    assert_eq!((f.debts.wakes(), f.in_flight()), (Some(f.at(2_000)), 10));
    assert_eq!(f.debts.due(f.at(30_000)).count(), 10);
    assert_eq!(orders(&f.next(2_000)), (0..10).collect::<Vec<_>>());
    assert_eq!(f.debts.due(f.at(30_000)).count(), 0, "it is asked for");
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
                let bad: Vec<_> = (0..request.debts.len()).filter(|_| luck.next() == Some(0)).collect();
                for (at, debt) in request.debts.iter().enumerate() {
                    if !bad.contains(&at) {
                        confirmed.push(debt.receipt.clone());
                    }
                }
                let bad: Vec<_> = bad.into_iter().map(|at| failed(at, false)).collect();
                f.debts.answered(request, &bad, f.at(ms));
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
