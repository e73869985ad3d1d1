//! What is subscribed to: asked, granted, refused. Pure.
//!
//! What is refused is asked again, since an access list can change. Filters that meet no other are asked
//! for in pieces as large as AWS takes them; those that overlap one by one, if the broker has
//! [identifiers], and the one that counts most first. A copy counts under the
//! subscription of the highest QoS that was granted, and of equal ones the first of the configuration.
//! When a grant changes that, the subscriptions concerned are made anew under a true identifier: first
//! those that stand back for one that does not count more any longer, so that there are never two, each
//! of which stands back for the other.
//!
//! Identifiers also tell what comes by a subscription that another configuration has left in the session ([`Foreign`]).

mod foreign;
mod identifiers;
mod state;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::backoff::Backoff;
use crate::config::mqtt::Subscription;
pub(super) use foreign::Foreign;
use identifiers::{Identifiers, Meaning};
pub(super) use state::Change;
use state::{Asking, Grant, State};

/// AWS takes no more filters in a SUBSCRIBE (a quota of `IoT Core`).
const FILTERS_AT_ONCE: usize = 8;

/// The broker has this long for its next SUBACK, from its last sign of life.
const SUBACK_TIMEOUT: Duration = Duration::from_secs(15);

/// It has no longer than this, whatever else it sends.
const SUBACK_PATIENCE: Duration = Duration::from_mins(10);

/// What is refused is asked again after up to this long at first.
const AGAIN_BASE: Duration = Duration::from_secs(1);

/// It is asked again at least this often.
const AGAIN_CAP: Duration = Duration::from_secs(30);

/// A session that was left no longer ago has what it had then: a broker that crashes comes back with what it had saved
/// before, and tells nobody.
const KEPT: Duration = Duration::from_mins(1);

/// A broker that grants now this and now that is not followed for ever: a filter that was corrected so
/// often on a connection stands back for none.
const CORRECTIONS: u32 = 8;

/// The subscriptions of a source, over all its connections.
#[derive(Debug)]
pub(super) struct Subscriptions {
    all: Vec<State>,
    identifiers: Identifiers,
    /// Whether identifiers are used on this connection, and whether they may be on the next.
    identified: bool,
    may_be: bool,
    /// When a connection was left on which all was answered.
    left: Option<Instant>,
    /// It was said that they are not.
    said: bool,
    /// Asked, and not yet written.
    queued: VecDeque<Asked>,
    /// Written, by packet id.
    unanswered: HashMap<u16, Asked>,
    answer_by: Option<Instant>,
    /// It is not waited for any longer.
    patience_ends: Option<Instant>,
    again: Backoff,
    again_at: Option<Instant>,
}

/// One SUBSCRIBE.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ask {
    pub(super) subscriptions: Vec<Subscription>,
    pub(super) identifier: Option<u32>,
}

/// The broker's word on one filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// With this QoS.
    Granted(u8),
    /// Not, for this reason.
    Refused(String),
    /// It has no subscription identifiers.
    NoIdentifiers,
}

#[derive(Debug)]
struct Asked {
    filters: Vec<usize>,
    /// With an identifier of its own, that of the one filter.
    before: Option<BTreeSet<usize>>,
    /// With an identifier.
    identified: bool,
}

impl Subscriptions {
    /// All of them due; `identifiers`: whether the protocol has any.
    pub(super) fn new(wanted: &[Subscription], identifiers: bool) -> Self {
        let filters = wanted.iter().map(|subscription| subscription.filter.clone());
        let spelled = wanted.iter().map(Subscription::spelled).collect();
        let mut given = Identifiers::new(filters.collect(), &spelled);
        // The copies of a group go to different clients.
        let shared = wanted.iter().any(|subscription| subscription.share.is_some());
        let state = |(number, subscription): (usize, &Subscription)| State {
            subscription: subscription.clone(),
            meets: if shared { Vec::new() } else { given.meeting(number) },
            asking: Asking::Due,
            grant: None,
            refused: None,
            at_most_once: false,
            corrections: 0,
        };
        let all: Vec<_> = wanted.iter().enumerate().map(state).collect();
        // What an earlier process was granted, if it was all it asked for.
        let meet = all.iter().enumerate().filter(|(_, s)| !s.meets.is_empty());
        for (filter, state) in meet {
            let more = |other: &usize| all[*other].rank(*other) < state.rank(filter);
            let before = state.meets.iter().copied().filter(more).collect();
            given.give(&Meaning { filter, before }, |_| true);
        }
        Self {
            all,
            identifiers: given,
            identified: identifiers,
            may_be: identifiers,
            left: None,
            said: false,
            queued: VecDeque::new(),
            unanswered: HashMap::new(),
            answer_by: None,
            patience_ends: None,
            again: Backoff::new(AGAIN_BASE, AGAIN_CAP),
            again_at: None,
        }
    }

    /// A new connection: everything is due. `identifiers`: whether the broker has them.
    pub(super) fn connected(&mut self, identifiers: bool) -> Option<Change> {
        self.queued.clear();
        self.unanswered.clear();
        (self.answer_by, self.patience_ends, self.again_at) = (None, None, None);
        for state in &mut self.all {
            (state.asking, state.grant, state.corrections) = (Asking::Due, None, 0);
        }
        self.identified = self.may_be;
        self.identifiers.connected();
        if identifiers { None } else { self.without_identifiers() }
    }

    /// A connection was left with a goodbye, to be followed by another.
    pub(super) fn left(&mut self, now: Instant) {
        // What is refused is asked again in its time.
        self.left = self.all_answered().then_some(now);
    }

    /// The broker may have forgotten the session, or come back with an older one.
    pub(super) fn forgotten(&mut self) {
        self.left = None;
    }

    /// A new connection of a session that the broker kept: whether it has every subscription that it granted, so
    /// that nothing is due.
    pub(super) fn resume(&mut self, now: Instant) -> bool {
        self.left.take().is_some_and(|left| now.duration_since(left) < KEPT)
    }

    /// What to ask now.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Ask> {
        if self.again_at.is_some_and(|at| at <= now) {
            self.again_at = None;
            for state in self.all.iter_mut().filter(|state| state.is_refused()) {
                state.asking = Asking::Due;
            }
        }
        let due = (0..self.all.len()).filter(|number| self.all[*number].asking == Asking::Due);
        let (alone, together): (Vec<_>, Vec<_>) = due.partition(|number| self.is_alone(*number));
        let (mut asks, is_true) = (Vec::new(), self.is_true());
        for number in alone {
            if !self.waits(number) {
                let meaning = Meaning { filter: number, before: self.before(number, is_true) };
                let all = &self.all;
                let identifier = self.identifiers.give(&meaning, |meaning| {
                    let grant = all[meaning.filter].grant.as_ref();
                    grant.is_some_and(|grant| grant.before == meaning.before)
                });
                asks.push(self.ask(vec![number], Some(meaning.before), Some(identifier)));
            }
        }
        let common = self.identified.then(|| self.identifiers.common());
        for piece in together.chunks(FILTERS_AT_ONCE) {
            asks.push(self.ask(piece.to_vec(), None, common));
        }
        if !asks.is_empty() {
            self.answer_by.get_or_insert(now + SUBACK_TIMEOUT);
            self.patience_ends.get_or_insert(now + SUBACK_PATIENCE);
        }
        asks
    }

    /// The next SUBSCRIBE was written, with this packet id.
    pub(super) fn written(&mut self, packet_id: u16) {
        if let Some(asked) = self.queued.pop_front() {
            self.unanswered.insert(packet_id, asked);
        }
    }

    /// A SUBACK. Other filters may be due then.
    pub(super) fn answered(
        &mut self,
        packet_id: u16,
        answers: Vec<Answer>,
        now: Instant,
    ) -> Vec<Change> {
        let Some(asked) = self.unanswered.remove(&packet_id) else { return Vec::new() };
        let idle = self.queued.is_empty() && self.unanswered.is_empty();
        self.answer_by = (!idle).then(|| now + SUBACK_TIMEOUT);
        self.patience_ends = (!idle).then(|| now + SUBACK_PATIENCE);
        let mut changes = Vec::new();
        for (number, answer) in asked.filters.into_iter().zip(answers) {
            let state = &mut self.all[number];
            state.asking = Asking::Answered;
            match (answer, &asked.before) {
                (Answer::Granted(qos), before) => {
                    let before = before.clone().unwrap_or_default();
                    changes.extend(state.granted(Grant { qos, before }));
                }
                (Answer::Refused(why), _) => changes.extend(state.refused(why)),
                (Answer::NoIdentifiers, _) if asked.identified => {
                    state.asking = Asking::Due;
                    changes.extend(self.no_identifiers());
                }
                (Answer::NoIdentifiers, _) => {
                    changes.extend(state.refused("it has no subscription identifiers".to_owned()));
                }
            }
        }
        self.correct();
        if self.all_granted() {
            self.again.reset();
        } else if self.again_at.is_none() && self.all.iter().any(State::is_refused) {
            self.again_at = Some(now + self.again.next_wait());
        }
        changes
    }

    /// The broker ended the connection over them.
    pub(super) fn no_identifiers(&mut self) -> Option<Change> {
        self.may_be = false;
        self.without_identifiers()
    }

    /// When there is something to do although nothing comes: to ask, or to see that the broker is late.
    pub(super) fn next_at(&self) -> Option<Instant> {
        [self.answer_by, self.again_at].into_iter().flatten().min()
    }

    /// A message came. The answer may be behind a whole backlog, which would come again over another connection.
    pub(super) fn heard(&mut self, now: Instant) {
        if let (Some(by), Some(end)) = (&mut self.answer_by, self.patience_ends) {
            *by = (now + SUBACK_TIMEOUT).min(end);
        }
    }

    /// Whether the broker should have answered.
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        self.answer_by.is_some_and(|at| at <= now)
    }

    /// Whether every filter is granted.
    pub(super) fn all_granted(&self) -> bool {
        self.all.iter().all(|state| state.grant.is_some())
    }

    /// Whether the broker has answered for every filter.
    pub(super) fn all_answered(&self) -> bool {
        self.all.iter().all(|state| state.grant.is_some() || state.is_refused())
    }

    /// The filters that are refused, each with the reason in words.
    pub(super) fn refused(&self) -> Vec<String> {
        let without = self.all.iter().filter(|state| state.grant.is_none());
        let words =
            |s: &State| Some(format!("`{}` ({})", s.subscription.filter, s.refused.as_ref()?));
        without.filter_map(words).collect()
    }

    /// Whether a copy on `topic` with these identifiers is the one that counts.
    pub(super) fn counts(&self, topic: &str, identifiers: &[usize]) -> bool {
        self.identifiers.counts(topic, identifiers)
    }

    /// Whether a message came by a subscription that is not of this configuration, as far as that can be told: what waited
    /// in the session since before the last SUBSCRIBE may bear what was of it then.
    pub(super) fn is_foreign(&mut self, topic: &str, identifiers: &[usize]) -> bool {
        self.identifiers.is_foreign(topic, identifiers, self.identified)
    }

    /// Whether it has a SUBSCRIBE of its own.
    fn is_alone(&self, number: usize) -> bool {
        self.identified && !self.all[number].meets.is_empty()
    }

    /// Whether one that may count more is not answered yet: its identifier says whether it is granted.
    fn waits(&self, number: usize) -> bool {
        self.all[number].meets.iter().any(|other| {
            let state = &self.all[*other];
            let open = state.grant.is_none() && state.asking != Asking::Answered;
            open && self.counts_more(*other, number)
        })
    }

    fn counts_more(&self, other: usize, number: usize) -> bool {
        self.all[other].rank(other) < self.all[number].rank(number)
    }

    /// Those that a subscription should stand back for; fewer while `is_true` does not hold.
    fn before(&self, number: usize, is_true: bool) -> BTreeSet<usize> {
        let state = &self.all[number];
        if state.corrections > CORRECTIONS {
            return BTreeSet::new();
        }
        let granted = |other: &usize| self.all[*other].grant.is_some();
        let already =
            |other: &usize| state.grant.as_ref().is_some_and(|g| g.before.contains(other));
        let more = |other: &usize| granted(other) && self.counts_more(*other, number);
        let meets = state.meets.iter().copied();
        meets.filter(|other| more(other) && (is_true || already(other))).collect()
    }

    /// Whether every identifier that is in use or asked for is true: what it stands back for is granted
    /// and counts more.
    fn is_true(&self) -> bool {
        let granted = self.all.iter().enumerate();
        let granted = granted.filter_map(|(number, s)| Some((number, &s.grant.as_ref()?.before)));
        let asked = self.queued.iter().chain(self.unanswered.values());
        let asked =
            asked.filter_map(|asked| Some((*asked.filters.first()?, asked.before.as_ref()?)));
        granted.chain(asked).all(|(number, before)| {
            let holds = |other: &usize| {
                self.all[*other].grant.is_some() && self.counts_more(*other, number)
            };
            before.iter().all(holds)
        })
    }

    /// Marks subscriptions with a wrong identifier as due.
    fn correct(&mut self) {
        let is_true = self.is_true();
        for number in 0..self.all.len() {
            if !self.is_alone(number) || self.all[number].asking != Asking::Answered {
                continue;
            }
            let right = self.before(number, is_true);
            let state = &mut self.all[number];
            if state.grant.as_ref().is_some_and(|grant| grant.before != right) {
                state.asking = Asking::Due;
                state.corrections += 1;
            }
        }
    }

    /// From now on nothing is told apart: said once, until it is again.
    fn without_identifiers(&mut self) -> Option<Change> {
        let overlap = self.all.iter().any(|state| !state.meets.is_empty());
        if !std::mem::take(&mut self.identified) || !overlap {
            return None;
        }
        for state in self.all.iter_mut().filter(|state| !state.meets.is_empty()) {
            state.asking = Asking::Due;
        }
        (!std::mem::replace(&mut self.said, true)).then_some(Change::NoIdentifiers)
    }

    fn ask(
        &mut self,
        filters: Vec<usize>,
        before: Option<BTreeSet<usize>>,
        identifier: Option<u32>,
    ) -> Ask {
        let mut subscriptions = Vec::with_capacity(filters.len());
        for number in &filters {
            self.all[*number].asking = Asking::Asked;
            subscriptions.push(self.all[*number].subscription.clone());
        }
        self.queued.push_back(Asked { filters, before, identified: identifier.is_some() });
        Ask { subscriptions, identifier }
    }
}

#[cfg(test)]
mod tests;
