//! How the events of each namespace fare: by that one that fails on its own is told from an outage. Pure.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Refusals of all events of a namespace are an outage of its handler for so long, and then what it means.
const OUTAGE: Duration = Duration::from_secs(15);

/// So many events that are refused at a time, with none taken, are more than each by itself.
const MANY: u32 = 5;

/// So many others are taken before an event that is not answered is at fault.
const LEAST_TAKEN: u64 = 20;

/// A part of the API may be away for so long, as that of a channel, without a fault of its events.
const PARTLY_AWAY: Duration = Duration::from_mins(2);

/// The largest chance at which an event that only had bad luck is given up, as a power of e: one in a million.
const CHANCE: f64 = -13.8;

/// The namespaces of an API.
#[derive(Debug, Default)]
pub(in crate::publish) struct Fares {
    fares: Vec<Fare>,
    /// The place of each namespace among them.
    at: HashMap<String, usize>,
}

#[derive(Debug, Default)]
struct Fare {
    /// Events that were taken, and that were sent without an answer.
    taken: u64,
    unanswered: u64,
    /// When the newest request was sent of which one was taken.
    taken_sent: Option<Instant>,
    refused: Option<Refused>,
}

/// Events are refused, and none that was sent since is taken.
#[derive(Debug)]
struct Refused {
    since: Instant,
    last: Instant,
    /// Those that are tried again.
    events: u32,
}

/// What an event that was sent alone, and not answered, has met.
#[derive(Clone, Copy, Debug)]
pub(in crate::publish) struct Silence {
    since: Instant,
    at: Instant,
    times: u32,
    taken: u64,
    unanswered: u64,
}

impl Fares {
    /// So many events of a request sent at `sent` were taken.
    pub(in crate::publish) fn taken(&mut self, namespace: &str, events: usize, sent: Instant) {
        let fare = self.of(namespace);
        fare.taken += events as u64;
        fare.taken_sent = fare.taken_sent.max(Some(sent));
        fare.refused.take_if(|refused| sent >= refused.since);
    }

    /// An event was refused, by the handler or as one of a request, and so it was `before` in the time that began then.
    /// False while that may be an outage: many are refused, and none is taken.
    pub(in crate::publish) fn is_own_refusal(
        &mut self,
        namespace: &str,
        before: &mut Option<Instant>,
        now: Instant,
    ) -> bool {
        let refused = &mut self.of(namespace).refused;
        // What was refused long ago says nothing of now.
        refused.take_if(|refused| now.duration_since(refused.last) > OUTAGE);
        let refused = refused.get_or_insert(Refused { since: now, last: now, events: 0 });
        refused.last = now;
        if before.replace(refused.since) != Some(refused.since) {
            refused.events += 1;
        }
        refused.events < MANY || now.duration_since(refused.since) >= OUTAGE
    }

    /// An event that was refused `before` is not tried again.
    pub(in crate::publish) fn gave_up(&mut self, namespace: &str, before: Option<Instant>) {
        let refused = &mut self.of(namespace).refused;
        if let Some(refused) = refused.as_mut().filter(|it| Some(it.since) == before) {
            refused.events = refused.events.saturating_sub(1);
        }
    }

    /// A request with so many events was not answered, or with nothing that decides.
    pub(in crate::publish) fn unanswered(&mut self, namespace: &str, events: usize) {
        self.of(namespace).unanswered += events as u64;
    }

    /// The same of an event alone, which met this `before`. Whether it is the fault, with `most` tries: for long, each time
    /// others were taken meanwhile, and by the share of those that are answered it can't be chance.
    pub(in crate::publish) fn is_own_silence(
        &mut self,
        namespace: &str,
        before: &mut Option<Silence>,
        most: u32,
        now: Instant,
    ) -> bool {
        let fare = self.of(namespace);
        let (taken, unanswered) = (fare.taken, fare.unanswered);
        let met =
            before.get_or_insert(Silence { since: now, at: now, times: 0, taken, unanswered });
        if met.times > 0 && fare.taken_sent < Some(met.at) {
            return false;
        }
        (met.at, met.times) = (now, met.times + 1);
        let taken = taken - met.taken;
        let others = (unanswered - met.unanswered).saturating_sub(u64::from(met.times - 1));
        let long = now.duration_since(met.since) >= PARTLY_AWAY;
        let enough = taken >= LEAST_TAKEN && met.times >= most;
        long && enough && chance(others, taken, met.times) < CHANCE
    }

    fn of(&mut self, namespace: &str) -> &mut Fare {
        let at = self.at.get(namespace).copied().unwrap_or_else(|| {
            self.at.insert(namespace.to_owned(), self.fares.len());
            self.fares.push(Fare::default());
            self.fares.len() - 1
        });
        &mut self.fares[at]
    }
}

/// How likely it is that one that is not at fault has so many `times` no answer, where `others` had none and `taken` were
/// taken; as a power of e. As if each failed by itself: that several fail together is what the time is for.
#[allow(clippy::cast_precision_loss)] // thousands
fn chance(others: u64, taken: u64, times: u32) -> f64 {
    let share = (others + 1) as f64 / (others + taken + 2) as f64;
    f64::from(times) * share.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// How often an event alone is tried until it is at fault, with so many others taken, and without an answer, between two
    /// tries that are so far apart.
    fn tries(taken: usize, unanswered: usize, apart: Duration) -> Option<u32> {
        let (mut fares, mut now, mut met) = (Fares::default(), Instant::now(), None);
        (1..=200).find(|_| {
            fares.unanswered("a", 1);
            let own = fares.is_own_silence("a", &mut met, 5, now);
            now += apart / 2;
            fares.unanswered("a", unanswered);
            if taken > 0 {
                fares.taken("a", taken, now);
            }
            now += apart / 2;
            own
        })
    }

    #[test]
    fn an_event_without_an_answer_is_at_fault_where_others_have_one_for_long() {
        assert_eq!(tries(100, 0, PARTLY_AWAY), Some(5), "as often as the route says");
        assert_eq!(tries(100, 0, PARTLY_AWAY / 10), Some(11), "not sooner");
        assert_eq!(tries(3, 0, PARTLY_AWAY), Some(8), "not before enough were taken");
        assert_eq!((tries(0, 0, PARTLY_AWAY), tries(0, 5, PARTLY_AWAY)), (None, None), "an outage");
        // Of a share of requests without an answer it is one.
        assert!(tries(100, 100, PARTLY_AWAY).is_some_and(|tries| tries > 15));
        assert!(tries(20, 80, PARTLY_AWAY).is_some_and(|tries| tries > 50));
    }

    #[test]
    fn what_was_taken_before_an_outage_is_no_proof_in_it() {
        let (mut fares, mut now, mut met) = (Fares::default(), Instant::now(), None);
        for _ in 0..4 {
            assert!(!fares.is_own_silence("a", &mut met, 5, now));
            now += PARTLY_AWAY;
            fares.taken("a", 1_000, now);
            fares.taken("b", 1_000, now);
            now += SECOND;
        }
        assert!(fares.is_own_silence("a", &mut met.clone(), 5, now));
        // Nothing is taken from here on but in another namespace.
        let mut met = Some(Silence { at: now, ..met.unwrap() });
        for _ in 0..100 {
            now += SECOND;
            fares.taken("b", 1_000, now);
            assert!(!fares.is_own_silence("a", &mut met, 5, now));
        }
    }

    #[test]
    fn refusals_of_many_events_are_an_outage_for_a_while() {
        let (mut fares, start) = (Fares::default(), Instant::now());
        let at = |seconds| start + SECOND * seconds;
        let refused = |fares: &mut Fares, events: &mut [Option<Instant>], seconds| {
            let own = |event| fares.is_own_refusal("a", event, at(seconds));
            events.iter_mut().map(own).collect::<Vec<_>>()
        };
        let mut events = [None; 6];
        let one_by_one = [true, true, true, true, false, false];
        assert_eq!(refused(&mut fares, &mut events, 0), one_by_one);
        assert_eq!(refused(&mut fares, &mut events, 14), [false; 6]);
        assert!(fares.is_own_refusal("b", &mut None, at(1)), "of another namespace");
        // It was sent before, and says nothing of the time since.
        fares.taken("a", 1, start.checked_sub(SECOND).unwrap());
        assert_eq!(refused(&mut fares, &mut events, 14), [false; 6]);
        assert_eq!(refused(&mut fares, &mut events, 15), [true; 6], "it is meant so");
        // One that gets through begins anew, and so do hours.
        fares.taken("a", 1, at(15));
        assert_eq!(refused(&mut fares, &mut events, 16), one_by_one);
        assert_eq!(refused(&mut fares, &mut events, 9_000), one_by_one);
        // Of a few that are left each is by itself.
        for event in &events[2..] {
            fares.gave_up("a", *event);
        }
        assert_eq!(refused(&mut fares, &mut events[..2], 9_001), [true; 2]);
    }
}
