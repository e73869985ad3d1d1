use std::sync::atomic::AtomicUsize;

use futures_util::FutureExt as _;
use proptest::prelude::*;

use super::*;
use crate::metrics::Metrics;

const LIMITS: Limits = Limits { messages: 5, bytes: 100 };

fn room() -> (Arc<Room>, SourceMetrics) {
    let metrics = Metrics::new().source("s");
    (Room::new(LIMITS, metrics.clone()), metrics)
}

fn try_reserve(room: &Arc<Room>, most: usize, each: usize) -> Option<Reservation> {
    room.reserve(most, each).now_or_never()
}

#[test]
fn what_comes_takes_the_place_of_what_was_assumed() {
    let (room, metrics) = room();
    let mut first = try_reserve(&room, 10, 30).unwrap();
    assert_eq!((first.messages(), room.messages_left()), (3, 2), "bytes bound it");
    assert!(try_reserve(&room, 1, 30).is_none() && !room.fits(30));
    assert_eq!(metrics.in_flight.get(), 0, "nothing has come");
    assert!(first.take(5) && first.take(40));
    assert_eq!((metrics.in_flight.get(), metrics.in_flight_bytes.get()), (2, 45));
    assert_eq!(metrics.over_limit.get(), 0, "what is larger fits, by what was smaller");
    assert!(first.take(56));
    assert_eq!(metrics.over_limit.get(), 1, "counted, and taken all the same");
    assert!(!first.take(1), "three were asked for");
    room.free(3, 101);
    drop(first);
    assert_eq!(try_reserve(&room, 9, 0).unwrap().messages(), 5);
    assert_eq!(try_reserve(&room, 9, 101).unwrap().messages(), 1, "or it would wait for ever");
    assert_eq!(room.held(), (0, 0));
}

#[test]
fn what_will_not_come_gives_its_room_back() {
    let (room, _) = room();
    let mut some = try_reserve(&room, 4, 10).unwrap();
    some.give_back(3);
    assert_eq!((some.messages(), room.messages_left(), room.held()), (1, 4, (1, 10)));
    some.give_back(9);
    drop(some);
    assert_eq!(room.held(), (0, 0), "nothing twice");
}

#[tokio::test(start_paused = true)]
async fn who_waits_hears_of_all_that_frees_room() {
    let (room, _) = room();
    let wait = |each| {
        let room = Arc::clone(&room);
        tokio::spawn(async move { drop(room.reserve(1, each).await) })
    };
    let later = || tokio::time::sleep(std::time::Duration::from_secs(1));
    let mut full = room.reserve(5, 20).await;
    let (small, large) = (wait(10), wait(90));
    later().await;
    assert!(!small.is_finished() && !large.is_finished());
    // Smaller than was assumed; but the messages are five.
    assert!(full.take(1));
    later().await;
    assert!(!small.is_finished());
    room.free(1, 1);
    later().await;
    assert!(small.is_finished() && !large.is_finished());
    drop(full);
    later().await;
    assert!(large.is_finished());
    // Messages are free, bytes are not, until a smaller one comes.
    let mut two = room.reserve(2, 50).await;
    let third = wait(10);
    later().await;
    assert!(!third.is_finished());
    assert!(two.take(40));
    later().await;
    assert!(third.is_finished());
}

#[tokio::test]
async fn who_gives_up_waiting_holds_nothing() {
    let (room, _) = room();
    let all = room.reserve(5, 1).await;
    assert!(try_reserve(&room, 1, 1).is_none());
    drop(all);
    assert_eq!(room.held(), (0, 0));
}

/// On several threads: none overbooks, and none is forgotten.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn several_that_ask_share_the_room() {
    let (room, metrics) = room();
    let out = Arc::new(AtomicUsize::new(0));
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let (room, out) = (Arc::clone(&room), Arc::clone(&out));
            tokio::spawn(async move {
                for round in 0..500 {
                    let mut reservation = room.reserve(1 + round % 4, 10).await;
                    let messages = reservation.messages();
                    let now = out.fetch_add(messages, Ordering::SeqCst) + messages;
                    assert!(now <= LIMITS.messages, "{now} are promised");
                    tokio::task::yield_now().await;
                    assert!(reservation.take(10));
                    tokio::task::yield_now().await;
                    out.fetch_sub(messages, Ordering::SeqCst);
                    room.free(1, 10);
                }
            })
        })
        .collect();
    for task in tasks {
        let ended = tokio::time::timeout(std::time::Duration::from_mins(2), task).await;
        ended.expect("somebody was forgotten").unwrap();
    }
    assert_eq!((room.held(), metrics.over_limit.get()), ((0, 0), 0));
}

#[derive(Clone, Debug)]
enum Step {
    Reserve { asker: usize, most: usize, each: usize },
    Come { asker: usize, bytes: usize },
    GiveBack { asker: usize },
    Charge { bytes: usize },
    Leave,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let asker = 0..3_usize;
    let reserve = (asker.clone(), 1..8_usize, 0..120_usize);
    let step = prop_oneof![
        2 => reserve.prop_map(|(asker, most, each)| Step::Reserve { asker, most, each }),
        4 => (asker.clone(), 0..60_usize).prop_map(|(asker, bytes)| Step::Come { asker, bytes }),
        1 => asker.prop_map(|asker| Step::GiveBack { asker }),
        1 => (0..30_usize).prop_map(|bytes| Step::Charge { bytes }),
        3 => Just(Step::Leave),
    ];
    prop::collection::vec(step, 0..120)
}

proptest! {
    /// Whatever several ask for and get: the most that fits beside all that is in flight or promised.
    #[test]
    fn promised_is_the_most_that_fits(steps in steps()) {
        let (room, metrics) = room();
        let mut askers: [Option<Reservation>; 3] = Default::default();
        // Messages still to come and their assumed size, by asker; the bytes of those in flight.
        let (mut promised, mut in_flight) = ([(0, 0); 3], Vec::<usize>::new());
        for step in steps {
            let messages = in_flight.len() + promised.iter().map(|(n, _)| n).sum::<usize>();
            let bytes = in_flight.iter().sum::<usize>()
                + promised.iter().map(|(n, each)| n * each).sum::<usize>();
            let within = |n: usize, size: usize| {
                messages + n <= LIMITS.messages && bytes + size <= LIMITS.bytes
            };
            match step {
                Step::Reserve { asker, most, each } if askers[asker].is_none() => {
                    let fits = (1..=most).rev().find(|n| within(*n, n * each));
                    let fits = fits.or((messages == 0).then_some(1));
                    askers[asker] = try_reserve(&room, most, each);
                    prop_assert_eq!(askers[asker].as_ref().map(Reservation::messages), fits);
                    promised[asker] = (fits.unwrap_or(0), each);
                }
                Step::Come { asker, bytes: size } => {
                    let Some(reservation) = &mut askers[asker] else { continue };
                    let (left, each) = promised[asker];
                    let over = metrics.over_limit.get();
                    prop_assert_eq!(reservation.take(size), left > 0);
                    if left > 0 {
                        let alone = messages == 1;
                        let fits = alone
                            || (messages <= LIMITS.messages
                                && bytes - each + size <= LIMITS.bytes);
                        prop_assert_eq!(metrics.over_limit.get() - over, u64::from(!fits));
                        promised[asker] = (left - 1, each);
                        in_flight.push(size);
                    }
                }
                Step::GiveBack { asker } => {
                    askers[asker] = None;
                    promised[asker] = (0, 0);
                }
                Step::Charge { bytes } => {
                    let Some(last) = in_flight.last_mut() else { continue };
                    room.charge(bytes);
                    *last += bytes;
                }
                Step::Leave => {
                    if let Some(bytes) = in_flight.pop() {
                        room.free(1, bytes);
                    }
                }
                Step::Reserve { .. } => {}
            }
        }
        drop(askers);
        prop_assert_eq!(room.held(), (in_flight.len(), in_flight.iter().sum()));
    }
}

/// A source that a reload ended by force is followed by one of its name.
#[test]
fn what_a_room_before_still_holds_takes_none_of_the_next() {
    let (before, metrics) = room();
    let mut full = try_reserve(&before, 5, 10).unwrap();
    assert!((0..5).all(|_| full.take(10)));
    let next = Room::new(LIMITS, metrics.clone());
    assert_eq!(try_reserve(&next, 9, 10).map(|all| all.messages()), Some(5));
    assert!(next.half_free(100).now_or_never().is_some());
    assert_eq!((metrics.in_flight.get(), metrics.in_flight_bytes.get()), (5, 50));
    before.free(3, 30);
    drop((full, before));
    assert_eq!((metrics.in_flight.get(), metrics.in_flight_bytes.get()), (0, 0));
    let released = usize::from(Outcome::Released.rank());
    assert_eq!(metrics.settled[released].get(), 2, "what never left comes again");
}
