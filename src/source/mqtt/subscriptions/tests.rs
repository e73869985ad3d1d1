//! The subscriptions against small brokers.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::config::mqtt::{FilterTree, Qos};

fn subscription(filter: &str, qos: u8) -> Subscription {
    let qos = if qos == 0 { Qos::AtMostOnce } else { Qos::AtLeastOnce };
    Subscription { filter: filter.to_owned(), qos, share: None }
}

fn of(filters: &[(&str, u8)], identifiers: bool) -> Subscriptions {
    let wanted: Vec<_> = filters.iter().map(|(filter, qos)| subscription(filter, *qos)).collect();
    Subscriptions::new(&wanted, identifiers)
}

fn filters(ask: &Ask) -> Vec<&str> {
    ask.subscriptions.iter().map(|s| s.filter.as_str()).collect()
}

/// Asks what is due, gives it packet ids from `first` on, and tells what it was.
fn ask(subscriptions: &mut Subscriptions, first: u16, now: Instant) -> Vec<Ask> {
    let asks = subscriptions.due(now);
    for packet_id in (first..).take(asks.len()) {
        subscriptions.written(packet_id);
    }
    asks
}

fn granted(qos: u8) -> Vec<Answer> {
    vec![Answer::Granted(qos)]
}

fn refused() -> Vec<Answer> {
    vec![Answer::Refused("not authorized".to_owned())]
}

#[test]
fn what_overlaps_nothing_is_asked_in_pieces_of_eight() {
    let names: Vec<_> = (0..19).map(|n| format!("a/{n}")).collect();
    let wanted: Vec<_> = names.iter().map(|name| (name.as_str(), 1)).collect();
    for identifiers in [true, false] {
        let (mut subscriptions, now) = (of(&wanted, identifiers), Instant::now());
        assert_eq!(subscriptions.connected(true), None);
        let asks = ask(&mut subscriptions, 1, now);
        assert_eq!(asks.iter().flat_map(filters).collect::<Vec<_>>(), names);
        assert_eq!(asks.iter().map(|a| a.subscriptions.len()).collect::<Vec<_>>(), [8, 8, 3]);
        // That of the configuration.
        assert!(asks.iter().all(|ask| ask.identifier == asks[0].identifier));
        assert_eq!(asks[0].identifier.is_some(), identifiers);
        // In whatever order the broker answers.
        for (packet_id, count) in [(2, 8), (3, 3), (1, 8)] {
            assert!(!subscriptions.all_granted() && !subscriptions.all_answered());
            assert!(
                subscriptions.answered(packet_id, vec![Answer::Granted(1); count], now).is_empty()
            );
        }
        assert!(subscriptions.all_granted() && subscriptions.due(now).is_empty());
        assert_eq!(subscriptions.next_at(), None);
    }
}

#[test]
fn a_broker_that_does_not_answer_is_late_by_its_last_answer() {
    let (mut subscriptions, start) =
        (of(&[("a", 1), ("b/#", 1), ("b/c", 1)], true), Instant::now());
    let at = |seconds| start + Duration::from_secs(seconds);
    assert_eq!(ask(&mut subscriptions, 1, at(0)).len(), 2);
    assert!(!subscriptions.is_overdue(at(14)) && subscriptions.is_overdue(at(15)));
    subscriptions.answered(1, granted(1), at(14));
    assert_eq!(ask(&mut subscriptions, 3, at(14)).len(), 1);
    assert!(!subscriptions.is_overdue(at(28)) && subscriptions.is_overdue(at(29)));
    subscriptions.answered(2, granted(1), at(28));
    subscriptions.answered(3, granted(1), at(28));
    assert_eq!(subscriptions.next_at(), None);
    ask(&mut subscriptions, 1, at(40));
    assert_eq!(subscriptions.connected(true), None);
    assert!(!subscriptions.is_overdue(at(90)), "that was another connection");
}

#[test]
fn an_answer_may_be_behind_a_backlog_but_not_for_ever() {
    let (mut subscriptions, start) = (of(&[("a", 1)], true), Instant::now());
    let at = |seconds| start + Duration::from_secs(seconds);
    subscriptions.heard(at(0));
    assert_eq!(subscriptions.next_at(), None, "nothing is asked");
    ask(&mut subscriptions, 1, at(0));
    for second in (0..590).step_by(10) {
        subscriptions.heard(at(second));
        assert!(!subscriptions.is_overdue(at(second + 14)));
    }
    assert!(subscriptions.is_overdue(at(595)), "a silence");
    subscriptions.heard(at(599));
    assert!(subscriptions.is_overdue(at(600)));
}

#[test]
fn what_is_refused_is_asked_again_and_said_once() {
    for identifiers in [true, false] {
        let wanted = [("a", 1), ("b", 1)];
        let (mut subscriptions, start) = (of(&wanted, identifiers), Instant::now());
        ask(&mut subscriptions, 1, start);
        let answer = [granted(1), refused()].concat();
        let changes = subscriptions.answered(1, answer, start);
        assert_eq!(changes, [Change::Refused("b".into(), "not authorized".into())]);
        assert_eq!(subscriptions.refused(), ["`b` (not authorized)"]);
        assert!(subscriptions.all_answered() && !subscriptions.all_granted());

        let mut now = start;
        for round in 0..20 {
            let at = subscriptions.next_at().unwrap();
            assert!(at - now <= AGAIN_CAP, "{round}");
            assert!(at == now || subscriptions.due(now).is_empty());
            now = at;
            let asks = ask(&mut subscriptions, 7, now);
            assert_eq!(asks.iter().map(filters).collect::<Vec<_>>(), [["b"]]);
            assert_eq!(subscriptions.answered(7, refused(), now), []);
        }
        // It is still known on the next connection.
        assert_eq!(subscriptions.connected(true), None);
        ask(&mut subscriptions, 1, now);
        assert_eq!(subscriptions.answered(1, [granted(1), refused()].concat(), now), []);

        now = subscriptions.next_at().unwrap();
        ask(&mut subscriptions, 2, now);
        assert_eq!(subscriptions.answered(2, granted(1), now), [Change::Granted("b".into())]);
        assert!(subscriptions.all_granted() && subscriptions.refused().is_empty());
        assert_eq!(subscriptions.next_at(), None);
    }
}

#[test]
fn a_lower_grant_is_said_once() {
    let (mut subscriptions, now) = (of(&[("a", 1)], true), Instant::now());
    for connection in 0..3 {
        subscriptions.connected(true);
        ask(&mut subscriptions, 1, now);
        let said = subscriptions.answered(1, granted(0), now);
        assert_eq!(said.len(), usize::from(connection == 0));
    }
}

#[test]
fn what_overlaps_waits_for_what_counts_more() {
    // `acc/x` counts most, for its QoS; the two others in their order.
    let wanted = [("acc/#", 0), ("acc/+", 0), ("acc/x", 1), ("b", 1)];
    let (mut subscriptions, now) = (of(&wanted, true), Instant::now());
    let first = ask(&mut subscriptions, 1, now);
    assert_eq!(first.iter().map(filters).collect::<Vec<_>>(), [["acc/x"], ["b"]]);
    let x = first[0].identifier.unwrap() as usize;
    let common = first[1].identifier.unwrap() as usize;
    assert!(common != x && subscriptions.counts("b", &[common]));
    subscriptions.answered(1, granted(1), now);
    let second = ask(&mut subscriptions, 3, now);
    assert_eq!(second.iter().map(filters).collect::<Vec<_>>(), [["acc/#"]]);
    let all = second[0].identifier.unwrap() as usize;
    // The last one stands back for one of them alone.
    subscriptions.answered(3, refused(), now);
    let third = ask(&mut subscriptions, 4, now);
    assert_eq!(third.iter().map(filters).collect::<Vec<_>>(), [["acc/+"]]);
    let one = third[0].identifier.unwrap() as usize;
    subscriptions.answered(4, granted(0), now);
    assert!(subscriptions.counts("acc/x", &[x]) && subscriptions.counts("acc/y", &[all]));
    assert!(!subscriptions.counts("acc/x", &[one]) && subscriptions.counts("acc/y", &[one]));

    // Granted at last, it takes `acc/y` over.
    let later = subscriptions.next_at().unwrap().max(now + SUBACK_TIMEOUT);
    subscriptions.answered(2, granted(1), now);
    let again = ask(&mut subscriptions, 5, later);
    assert_eq!((filters(&again[0]), again[0].identifier.unwrap() as usize), (vec!["acc/#"], all));
    subscriptions.answered(5, granted(0), later);
    let corrected = ask(&mut subscriptions, 6, later);
    assert_eq!(corrected.iter().map(filters).collect::<Vec<_>>(), [["acc/+"]]);
    let new = corrected[0].identifier.unwrap() as usize;
    assert!(new != one && !subscriptions.counts("acc/y", &[new]));
    assert!(subscriptions.counts("acc/y", &[one]), "a copy of before, when there was no other");
}

#[test]
fn a_broker_without_identifiers_gets_pieces_and_that_is_said_once() {
    let wanted = [("acc/#", 1), ("acc/+", 1), ("b", 1)];
    let three = || vec![Answer::Granted(1); 3];
    // Its CONNACK says so.
    let (mut subscriptions, now) = (of(&wanted, true), Instant::now());
    assert_eq!(subscriptions.connected(false), Some(Change::NoIdentifiers));
    assert_eq!(ask(&mut subscriptions, 1, now)[0].subscriptions.len(), 3);
    assert!(subscriptions.answered(1, three(), now).is_empty() && subscriptions.all_granted());
    assert_eq!(subscriptions.connected(false), None);
    assert_eq!(ask(&mut subscriptions, 1, now).len(), 1);
    // And the next broker has them.
    assert_eq!(subscriptions.connected(true), None);
    assert_eq!(ask(&mut subscriptions, 1, now).len(), 2);

    // Its SUBACK says so.
    let mut subscriptions = of(&wanted, true);
    assert_eq!(ask(&mut subscriptions, 1, now).len(), 2);
    let changes = subscriptions.answered(1, vec![Answer::NoIdentifiers], now);
    assert_eq!(changes, [Change::NoIdentifiers]);
    let asks = ask(&mut subscriptions, 3, now);
    assert_eq!((asks.len(), filters(&asks[0])), (1, vec!["acc/#", "acc/+"]));
    subscriptions.answered(3, vec![Answer::Granted(1), Answer::NoIdentifiers], now);
    assert_eq!(subscriptions.refused().len(), 1, "it was not given any");
    assert!(subscriptions.due(now).is_empty());

    // Of filters that meet no other it is no less true, and there is nothing to say.
    let mut subscriptions = of(&[("a", 1), ("b", 1)], true);
    assert!(ask(&mut subscriptions, 1, now)[0].identifier.is_some());
    assert_eq!(subscriptions.answered(1, vec![Answer::NoIdentifiers; 2], now), []);
    let asks = ask(&mut subscriptions, 2, now);
    assert_eq!((filters(&asks[0]), asks[0].identifier), (vec!["a", "b"], None));
    subscriptions.answered(2, vec![Answer::Granted(1); 2], now);
    assert!(subscriptions.all_granted());

    // Nothing overlaps, or the protocol has none: nothing to say.
    assert_eq!(of(&[("a", 1), ("b", 1)], true).connected(false), None);
    assert_eq!(of(&wanted, false).connected(false), None);
}

#[test]
fn a_broker_that_grants_now_this_and_now_that_is_not_followed_for_ever() {
    let (mut subscriptions, now) = (of(&[("a/#", 1), ("a/+", 1)], true), Instant::now());
    let mut asks = 0;
    for (packet_id, qos) in (1..).zip([1, 0].into_iter().cycle()) {
        let due = subscriptions.due(now);
        let Some(_) = due.first() else { break };
        assert_eq!(due.len(), 1);
        subscriptions.written(packet_id);
        subscriptions.answered(packet_id, granted(qos), now);
        asks += 1;
        assert!(asks < 100);
    }
    assert!(subscriptions.all_granted());
}

#[test]
fn two_never_stand_back_for_one_another() {
    let wanted = [("a/#", 1), ("a/+", 1), ("a/b", 1)];
    let (mut subscriptions, now) = (of(&wanted, true), Instant::now());
    for (packet_id, answer) in [(1, refused()), (2, granted(1)), (3, granted(1))] {
        assert_eq!(ask(&mut subscriptions, packet_id, now).len(), 1);
        subscriptions.answered(packet_id, answer, now);
    }
    // `a/#` is granted at last, so both others are made anew; `a/+` gets less than before.
    let now = subscriptions.next_at().unwrap();
    ask(&mut subscriptions, 4, now);
    subscriptions.answered(4, granted(1), now);
    let asks = ask(&mut subscriptions, 5, now);
    assert_eq!(asks.iter().map(filters).collect::<Vec<_>>(), [["a/+"], ["a/b"]]);
    subscriptions.answered(5, granted(0), now);
    // Now `a/b` counts more than `a/+`, for which it stands back, also under the identifier to come.
    assert!(ask(&mut subscriptions, 7, now).is_empty());
    subscriptions.answered(6, granted(1), now);
    let asks = ask(&mut subscriptions, 7, now);
    assert_eq!(asks.iter().map(filters).collect::<Vec<_>>(), [["a/b"]], "first this one");
    subscriptions.answered(7, granted(1), now);
    let asks = ask(&mut subscriptions, 8, now);
    assert_eq!(asks.iter().map(filters).collect::<Vec<_>>(), [["a/+"]], "and then that");
    subscriptions.answered(8, granted(0), now);
    assert!(ask(&mut subscriptions, 9, now).is_empty() && subscriptions.all_granted());
}

#[test]
fn a_session_that_was_left_just_now_has_what_it_had() {
    let (mut subscriptions, start) = (of(&[("a", 1), ("b", 1)], false), Instant::now());
    let answer = |subscriptions: &mut Subscriptions, second: Answer| {
        subscriptions.connected(true);
        ask(subscriptions, 1, start);
        subscriptions.answered(1, vec![Answer::Granted(1), second], start);
    };
    subscriptions.connected(true);
    ask(&mut subscriptions, 1, start);
    subscriptions.left(start);
    assert!(!subscriptions.resume(start), "nobody knows what it has");
    answer(&mut subscriptions, refused().remove(0));
    subscriptions.left(start);
    assert!(subscriptions.resume(start) && subscriptions.due(start).is_empty());
    let again = subscriptions.next_at().unwrap();
    assert_eq!(filters(&subscriptions.due(again)[0]), ["b"], "what is refused is asked again");
    answer(&mut subscriptions, Answer::Granted(1));
    subscriptions.left(start);
    assert!(subscriptions.resume(start) && subscriptions.due(start).is_empty());
    assert!(!subscriptions.resume(start), "the next one was lost");
    subscriptions.left(start);
    subscriptions.forgotten();
    assert!(!subscriptions.resume(start));
    subscriptions.left(start);
    assert!(!subscriptions.resume(start + KEPT), "long ago");
}

#[test]
fn what_another_configuration_left_is_told_once_one_of_ours_came() {
    let (mut old, mut new) = (of(&[("a/#", 1)], true), of(&[("a/+", 1)], true));
    let now = Instant::now();
    let identifier = |of: &mut Subscriptions| of.due(now)[0].identifier.unwrap() as usize;
    let (before, ours) = (identifier(&mut old), identifier(&mut new));
    assert!(!new.is_foreign("a/b", &[before]), "it may have waited");
    assert!(new.is_foreign("a/b/c", &[before]), "but not this one");
    assert!(!new.is_foreign("a/b", &[ours]) && new.is_foreign("a/b", &[before]));
    assert!(new.is_foreign("a/b", &[]) && !new.is_foreign("a/b", &[before, ours]));
    new.connected(true);
    assert!(!new.is_foreign("a/b", &[before]), "it may have waited");
    // A broker without identifiers.
    new.connected(false);
    assert!(!new.is_foreign("a/b", &[]) && new.is_foreign("c", &[]));
}

#[test]
fn an_identifier_that_both_configurations_have_tells_nothing_of_what_waited() {
    let now = Instant::now();
    let mut old = of(&[("a/#", 1), ("a/b", 1), ("c", 1), ("d", 1)], true);
    let mut new = of(&[("a/#", 1), ("a/b", 1), ("c", 1)], true);
    let identifiers = |of: &mut Subscriptions| -> Vec<_> {
        of.due(now).iter().map(|ask| ask.identifier.unwrap() as usize).collect()
    };
    let (before, ours) = (identifiers(&mut old), identifiers(&mut new));
    // Those of `a/#`, and of all that overlaps nothing.
    assert!(before.len() == 2 && before[0] == ours[0] && before[1] != ours[1]);
    assert!(!new.is_foreign("a/b", &[ours[0]]) && !new.is_foreign("c", &[before[1]]));
    assert!(new.is_foreign("d", &[before[1]]), "the topic tells");
    assert!(!new.is_foreign("c", &[ours[1]]) && new.is_foreign("c", &[before[1]]));
}

const FILTERS: [&str; 7] = ["#", "a/#", "+/b", "a/b", "a/+", "$s/#", "c"];
const TOPICS: [&str; 7] = ["a/b", "a", "a/c", "c", "x/b", "$s/x", "a/b/c"];

/// A broker that keeps to the rules, and the client's end.
struct World {
    client: Subscriptions,
    wanted: Vec<Subscription>,
    now: Instant,
    packet_id: u16,
    /// Of each filter: the QoS it grants, if any.
    policy: BTreeMap<String, Option<u8>>,
    /// The session: QoS and identifier.
    session: BTreeMap<String, (u8, Option<u32>)>,
    asked: VecDeque<(u16, Ask)>,
    answers: VecDeque<(u16, Vec<Answer>)>,
    /// Of each message the topic and its copies.
    published: Vec<(&'static str, Vec<Sent>)>,
    one_copy: bool,
}

/// A copy: its identifiers and its QoS.
type Sent = (Vec<usize>, u8);

#[derive(Clone, Copy, Debug)]
enum Step {
    Ask,
    Handle,
    Answer,
    Publish(usize),
    Policy(usize, Option<u8>),
    Wait,
    Reconnect,
    /// The next process has the filters in another order, and some with another QoS.
    Restart(usize),
}

impl World {
    fn new(wanted: &[(usize, u8)], one_copy: bool) -> Self {
        let wanted: Vec<_> =
            wanted.iter().map(|(number, qos)| subscription(FILTERS[*number], *qos)).collect();
        Self {
            client: Subscriptions::new(&wanted, true),
            wanted,
            now: Instant::now(),
            packet_id: 0,
            policy: FILTERS.iter().map(|filter| ((*filter).to_owned(), Some(1))).collect(),
            session: BTreeMap::new(),
            asked: VecDeque::new(),
            answers: VecDeque::new(),
            published: Vec::new(),
            one_copy,
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Ask => {
                for ask in self.client.due(self.now) {
                    self.packet_id += 1;
                    self.client.written(self.packet_id);
                    self.asked.push_back((self.packet_id, ask));
                }
            }
            Step::Handle => {
                let Some((packet_id, ask)) = self.asked.pop_front() else { return };
                let mut answers = Vec::new();
                for wanted in ask.subscriptions {
                    let most = self.policy[&wanted.filter];
                    answers.push(match most.map(|most| most.min(wanted.qos as u8)) {
                        Some(qos) => {
                            self.session.insert(wanted.filter, (qos, ask.identifier));
                            Answer::Granted(qos)
                        }
                        None => refused().remove(0),
                    });
                }
                self.answers.push_back((packet_id, answers));
            }
            Step::Answer => {
                if let Some((packet_id, answers)) = self.answers.pop_front() {
                    self.client.answered(packet_id, answers, self.now);
                }
            }
            Step::Publish(topic) => self.publish(TOPICS[topic]),
            Step::Policy(filter, qos) => {
                self.policy.insert(FILTERS[filter].to_owned(), qos);
            }
            Step::Wait => self.now += AGAIN_CAP,
            Step::Reconnect => self.reconnect(),
            Step::Restart(by) => {
                let count = self.wanted.len();
                self.wanted.rotate_left(by % count);
                let changed = &mut self.wanted[by % count];
                *changed = subscription(&changed.filter, 1 - changed.qos as u8);
                self.client = Subscriptions::new(&self.wanted, true);
                self.reconnect();
            }
        }
    }

    fn reconnect(&mut self) {
        self.asked.clear();
        self.answers.clear();
        self.client.connected(true);
    }

    fn publish(&mut self, topic: &'static str) {
        let takes = |filter: &str| {
            let mut tree = FilterTree::new();
            tree.insert(filter, 0);
            tree.meeting(topic).next().is_some()
        };
        let taking = self.session.iter().filter(|(filter, _)| takes(filter));
        let mut copies: Vec<_> = taking
            .map(|(_, (qos, id))| (id.iter().map(|id| *id as usize).collect::<Vec<_>>(), *qos))
            .collect();
        if self.one_copy && !copies.is_empty() {
            let ids = copies.iter().flat_map(|(ids, _)| ids.clone()).collect();
            copies = vec![(ids, copies.iter().map(|(_, qos)| *qos).max().unwrap())];
        }
        if !copies.is_empty() {
            self.published.push((topic, copies));
        }
    }

    fn counting(&self, topic: &str, copies: &[Sent]) -> Vec<u8> {
        let counting = copies.iter().filter(|(ids, _)| self.client.counts(topic, ids));
        counting.map(|(_, qos)| *qos).collect()
    }

    fn nothing_is_lost(&self) {
        for (topic, copies) in &self.published {
            assert!(
                !self.counting(topic, copies).is_empty(),
                "{topic} {copies:?} {:?}",
                self.client
            );
        }
    }

    /// Until nothing happens any more.
    fn come_to_rest(&mut self) {
        for round in 0.. {
            self.step(Step::Ask);
            if self.asked.is_empty() && self.answers.is_empty() {
                return;
            }
            while !self.asked.is_empty() {
                self.step(Step::Handle);
            }
            while !self.answers.is_empty() {
                self.step(Step::Answer);
            }
            assert!(round < 1_000, "it goes on for ever: {:?}", self.client);
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let qos = prop_oneof![Just(None), Just(Some(0)), Just(Some(1))];
    let step = prop_oneof![
        4 => Just(Step::Ask),
        4 => Just(Step::Handle),
        4 => Just(Step::Answer),
        4 => (0..TOPICS.len()).prop_map(Step::Publish),
        2 => (0..FILTERS.len(), qos).prop_map(|(filter, qos)| Step::Policy(filter, qos)),
        1 => Just(Step::Wait),
        1 => Just(Step::Reconnect),
        1 => (0..FILTERS.len()).prop_map(Step::Restart),
    ];
    prop::collection::vec(step, 0..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever the broker grants when: of each message some copy counts, whenever it comes, and to
    /// whichever process. And at rest just one does, of the highest QoS.
    #[test]
    fn nothing_is_lost_and_nothing_comes_twice_at_rest(
        order in Just((0..FILTERS.len()).collect::<Vec<_>>()).prop_shuffle(),
        qos in prop::collection::vec(0..=1_u8, FILTERS.len()),
        count in 1..=FILTERS.len(),
        one_copy: bool,
        steps in steps(),
    ) {
        let wanted: Vec<_> = order.into_iter().zip(qos).take(count).collect();
        let mut world = World::new(&wanted, one_copy);
        for step in steps {
            world.step(step);
            world.nothing_is_lost();
        }
        world.come_to_rest();
        world.nothing_is_lost();
        // What is refused now may have been granted before, and is still in the session.
        world.reconnect();
        world.session.clear();
        world.come_to_rest();
        world.published.clear();
        for topic in TOPICS {
            world.publish(topic);
        }
        for (topic, copies) in &world.published {
            let most = copies.iter().map(|(_, qos)| *qos).max().unwrap();
            prop_assert_eq!(world.counting(topic, copies), [most], "{}", topic);
        }
    }
}
