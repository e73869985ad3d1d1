//! The lanes against examples, and against a reference model of their promises.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Thing {
    number: u32,
    order: Option<OrderKey>,
    strict: bool,
    alone: bool,
    bytes: usize,
}

impl Item for Thing {
    fn order(&self) -> Option<&OrderKey> {
        self.order.as_ref()
    }
    fn strict(&self) -> bool {
        self.strict
    }
    fn alone(&self) -> bool {
        self.alone
    }
    fn yields(&self) -> bool {
        self.alone
    }
    fn body_bytes(&self) -> usize {
        self.bytes
    }
}

fn thing(key: Option<&str>, number: u32) -> Thing {
    let order = key.map(|k| k.as_bytes().into());
    Thing { number, order, strict: false, alone: false, bytes: 10 }
}

fn channel(text: &str) -> Channel {
    Channel::parse(text).unwrap()
}

/// Lanes with one channel, and in it this many things of a key.
fn filled(key: Option<&str>, count: u32) -> (Lanes<Thing>, Channel) {
    let (mut lanes, a) = (Lanes::default(), channel("/a"));
    (0..count).for_each(|number| lanes.push(&a, thing(key, number)));
    (lanes, a)
}

fn batch(lanes: &mut Lanes<Thing>) -> Option<Batch<Thing>> {
    lanes.next_batch(|_| MAX_EVENTS)
}

fn numbers(batch: Option<&Batch<Thing>>) -> Vec<u32> {
    batch.into_iter().flat_map(|b| &b.items).map(|i| i.number).collect()
}

fn next(lanes: &mut Lanes<Thing>) -> Vec<u32> {
    numbers(batch(lanes).as_ref())
}

fn finish(lanes: &mut Lanes<Thing>, batch: Batch<Thing>) {
    lanes.finish(batch.held, Vec::new(), None);
}

#[test]
fn a_quiet_lane_sends_at_once_and_a_busy_one_fills_its_batches() {
    let (mut lanes, a) = filled(Some("k"), 1);
    let first = batch(&mut lanes).unwrap();
    assert_eq!(first.items.len(), 1);
    for n in 1..5 {
        lanes.push(&a, thing(Some(&format!("k{n}")), n));
        assert!(batch(&mut lanes).is_none(), "a part of a batch waits for the answer");
    }
    lanes.push(&a, thing(Some("k5"), 5));
    assert_eq!(next(&mut lanes), [1, 2, 3, 4, 5], "a full batch does not");
    lanes.push(&a, thing(Some("k6"), 6));
    finish(&mut lanes, first);
    assert!(batch(&mut lanes).is_none(), "the other request is still out");
}

#[test]
fn a_key_is_in_one_request_at_a_time() {
    let (mut lanes, _) = filled(Some("hot"), 12);
    let first = batch(&mut lanes).unwrap();
    assert!(batch(&mut lanes).is_none());
    finish(&mut lanes, first);
    assert_eq!(next(&mut lanes), [5, 6, 7, 8, 9]);
}

#[test]
fn what_comes_back_goes_first_and_in_order() {
    let (mut lanes, _) = filled(Some("k"), 7);
    let sent = batch(&mut lanes).unwrap();
    let back = vec![sent.items[1].clone(), sent.items[3].clone()];
    let later = Instant::now() + Duration::from_secs(1);
    lanes.finish(sent.held, back, Some(later));
    assert!(batch(&mut lanes).is_none(), "it waits for its time");
    assert_eq!(lanes.next_wake(), Some(later));
    lanes.wake(later);
    assert_eq!(next(&mut lanes), [1, 3, 5, 6]);
    assert_eq!(lanes.queued(), 0);
}

#[test]
fn only_the_key_that_failed_waits() {
    let (mut lanes, a) = (Lanes::default(), channel("/a"));
    for n in 0..4 {
        lanes.push(&a, thing(Some(if n % 2 == 0 { "bad" } else { "good" }), n));
    }
    let sent = batch(&mut lanes).unwrap();
    lanes.push(&a, thing(Some("bad"), 4));
    lanes.push(&a, thing(Some("good"), 5));
    lanes.push(&a, thing(None, 6));
    let back = sent.items.iter().filter(|i| i.number == 2).cloned().collect();
    lanes.finish(sent.held, back, Some(Instant::now() + Duration::from_secs(9)));
    let mut sent = next(&mut lanes);
    sent.sort_unstable();
    assert_eq!(sent, [5, 6]);
}

#[test]
fn the_unordered_come_back_without_holding_the_others() {
    let (mut lanes, _) = filled(None, 6);
    let sent = batch(&mut lanes).unwrap();
    let later = Instant::now() + Duration::from_secs(9);
    lanes.finish(sent.held, sent.items[..2].to_vec(), Some(later));
    let rest = batch(&mut lanes).unwrap();
    assert_eq!(rest.items[0].number, 5);
    finish(&mut lanes, rest);
    lanes.wake(later);
    assert_eq!(next(&mut lanes), [0, 1]);
}

#[test]
fn a_strict_key_has_one_event_a_request() {
    let (mut lanes, a) = (Lanes::default(), channel("/a"));
    for n in 0..3 {
        lanes.push(&a, Thing { strict: true, ..thing(Some("s"), n) });
        lanes.push(&a, thing(Some("k"), 10 + n));
    }
    assert_eq!(next(&mut lanes), [0, 10, 11, 12]);
}

#[test]
fn an_event_alone_has_a_request_of_its_own() {
    let (mut lanes, a) = (Lanes::default(), channel("/a"));
    lanes.push(&a, thing(Some("x"), 0));
    lanes.push(&a, Thing { alone: true, ..thing(Some("y"), 1) });
    lanes.push(&a, thing(Some("z"), 2));
    for expected in [0, 1, 2] {
        let sent = batch(&mut lanes).unwrap();
        assert_eq!(numbers(Some(&sent)), [expected]);
        finish(&mut lanes, sent);
    }
}

#[test]
fn a_body_stays_within_its_bytes() {
    let (mut lanes, a) = (Lanes::default(), channel("/a"));
    for n in 0..5 {
        lanes.push(&a, Thing { bytes: 400_000, ..thing(Some(&n.to_string()), n) });
    }
    assert_eq!(next(&mut lanes).len(), 2, "a third would pass 1,200,000 with the text around it");
}

#[test]
fn a_blocked_namespace_stands_aside() {
    let (mut lanes, a, b) = (Lanes::default(), channel("/a/x"), channel("/b/x"));
    lanes.push(&a, thing(None, 0));
    lanes.push(&b, thing(None, 1));
    assert_eq!(numbers(lanes.next_batch(|n| if n == "a" { 0 } else { MAX_EVENTS }).as_ref()), [1]);
    assert!(lanes.next_batch(|n| if n == "a" { 0 } else { MAX_EVENTS }).is_none());
    lanes.unpark("a");
    assert_eq!(next(&mut lanes), [0]);
}

#[test]
fn a_hot_key_leaves_the_others_their_turn() {
    let (mut lanes, a) = filled(Some("hot"), 100);
    lanes.push(&a, thing(Some("cold"), 1_000));
    let sent = batch(&mut lanes).unwrap();
    finish(&mut lanes, sent);
    assert_eq!(next(&mut lanes)[0], 1_000);
}

#[test]
fn an_empty_lane_is_forgotten() {
    let (mut lanes, _) = filled(Some("k"), 1);
    let sent = batch(&mut lanes).unwrap();
    finish(&mut lanes, sent);
    assert!(lanes.hold_nothing());
}

impl Lanes<Thing> {
    fn hold_nothing(&self) -> bool {
        self.by_channel.is_empty()
            && self.all.is_empty()
            && self.by_key.is_empty()
            && self.keys.is_empty()
            && self.items.hold_nothing()
            && self.turns.hold_nothing()
            && self.sleepers.first().is_none()
            && self.ready.is_empty()
            && self.parked.is_empty()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Push {
        channel: u8,
        key: Option<u8>,
        strict: bool,
        alone: bool,
        bytes: usize,
    },
    Send,
    /// Sends, while the namespace of the first channel is refused.
    SendBlocked,
    Unpark,
    WakeAll,
    /// Ends a request: which one, and which of its items come back, asleep or not.
    End {
        which: usize,
        back: u8,
        asleep: bool,
    },
    Wake,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let push = (
        0..3_u8,
        prop::option::weighted(0.8, 0..4_u8),
        any::<bool>(),
        prop::bool::weighted(0.1),
        1..700_000_usize,
    )
        .prop_map(|(channel, key, strict, alone, bytes)| Step::Push {
            channel,
            key,
            strict,
            alone,
            bytes,
        });
    let end = (any::<usize>(), any::<u8>(), any::<bool>())
        .prop_map(|(which, back, asleep)| Step::End { which, back, asleep });
    prop::collection::vec(
        prop_oneof![4 => push, 3 => Just(Step::Send), 2 => end, 1 => Just(Step::Wake),
            1 => Just(Step::SendBlocked), 1 => Just(Step::Unpark), 1 => Just(Step::WakeAll)],
        0..200,
    )
}

/// The promises, kept by the simplest means: per channel and key the numbers still to be done, in order.
#[derive(Default)]
struct Model {
    waiting: BTreeMap<(String, Option<OrderKey>), Vec<u32>>,
    out: BTreeSet<(String, OrderKey)>,
}

impl Model {
    fn sent(&mut self, batch: &Batch<Thing>) {
        let channel = batch.channel.as_str().to_owned();
        assert!((1..=MAX_EVENTS).contains(&batch.items.len()));
        let bytes: usize = batch.items.iter().map(|i| i.bytes).sum();
        assert!(
            batch.items.len() == 1
                || bytes + body_overhead(&batch.channel, batch.items.len()) <= MAX_BODY_BYTES
        );
        assert!(batch.items.len() == 1 || batch.items.iter().all(|i| !i.alone));
        let keys: BTreeSet<OrderKey> = batch.items.iter().filter_map(|i| i.order.clone()).collect();
        assert_eq!(keys.len(), batch.held.keys.len());
        for key in keys {
            let of_key: Vec<&Thing> =
                batch.items.iter().filter(|i| i.order.as_ref() == Some(&key)).collect();
            assert!(of_key.len() == 1 || of_key.iter().all(|i| !i.strict));
            assert!(self.out.insert((channel.clone(), key.clone())), "a key in two requests");
            let waiting = self.waiting.get_mut(&(channel.clone(), Some(key))).unwrap();
            let sent: Vec<u32> = of_key.iter().map(|i| i.number).collect();
            assert_eq!(waiting.drain(..sent.len()).collect::<Vec<_>>(), sent, "order");
        }
        for item in batch.items.iter().filter(|i| i.order.is_none()) {
            let waiting = self.waiting.get_mut(&(channel.clone(), None)).unwrap();
            let at = waiting.iter().position(|n| *n == item.number).expect("sent once");
            waiting.remove(at);
        }
    }

    fn ended(&mut self, batch: &Batch<Thing>, back: &[Thing]) {
        let channel = batch.channel.as_str().to_owned();
        for key in batch.items.iter().filter_map(|i| i.order.clone()) {
            self.out.remove(&(channel.clone(), key));
        }
        for item in back.iter().rev() {
            self.waiting
                .entry((channel.clone(), item.order.clone()))
                .or_default()
                .insert(0, item.number);
        }
    }
}

proptest! {
    #[test]
    fn the_lanes_keep_their_promises(steps in steps()) {
        let start = Instant::now();
        let (mut lanes, mut model, mut out, mut number) = (Lanes::default(), Model::default(), Vec::new(), 0);
        let mut now = start;
        for step in steps {
            match step {
                Step::Push { channel: c, key, strict, alone, bytes } => {
                    let order = key.map(|k| [k][..].into());
                    let to = channel(&format!("/c{c}"));
                    model.waiting.entry((to.to_string(), order.clone())).or_default().push(number);
                    lanes.push(&to, Thing { number, order, strict, alone, bytes });
                    number += 1;
                }
                Step::Send => if let Some(batch) = lanes.next_batch(|_| MAX_EVENTS) {
                    model.sent(&batch);
                    out.push(batch);
                },
                Step::SendBlocked => if let Some(batch) = lanes.next_batch(|n| if n == "c0" { 0 } else { MAX_EVENTS }) {
                    prop_assert_ne!(batch.channel.namespace(), "c0");
                    model.sent(&batch);
                    out.push(batch);
                },
                Step::Unpark => if number % 2 == 0 { lanes.unpark("c0") } else { lanes.unpark_all() },
                Step::WakeAll => lanes.wake_all(),
                Step::End { which, back, asleep } => if !out.is_empty() {
                    let batch = out.remove(which % out.len());
                    let back: Vec<Thing> = batch.items.iter().enumerate().filter(|(i, _)| back & (1 << i) != 0).map(|(_, t)| t.clone()).collect();
                    model.ended(&batch, &back);
                    lanes.finish(batch.held, back, asleep.then(|| now + Duration::from_secs(1)));
                },
                Step::Wake => {
                    now += Duration::from_secs(2);
                    lanes.wake(now);
                }
            }
            let waiting: usize = model.waiting.values().map(Vec::len).sum();
            prop_assert_eq!(lanes.queued(), waiting);
        }
        // Nothing is forgotten: with everything ended and awake, all that waits is sent.
        for _ in 0..=number {
            lanes.unpark_all();
            lanes.wake(now + Duration::from_mins(1));
            for batch in out.drain(..) {
                model.ended(&batch, &[]);
                lanes.finish(batch.held, Vec::new(), None);
            }
            while let Some(batch) = lanes.next_batch(|_| MAX_EVENTS) {
                model.sent(&batch);
                out.push(batch);
            }
        }
        prop_assert_eq!(lanes.queued(), 0);
        prop_assert!(model.waiting.values().all(Vec::is_empty));
        prop_assert!(lanes.hold_nothing());
    }
}
