//! Whether an event is at fault of a bad request (400), or the API calls everything bad; and whether one is that has no answer.

mod fares;

use std::time::Instant;

use super::entry::{Entry, Tries};
use super::lanes::Batch;
use super::limit::Scope;
use super::post::{Fault, Post};
use super::react::{namespace_of, time_of};
use super::report::Times;
use super::verdict::Refuser;
use super::{GUILTY_AFTER, GUILTY_AFTER_VAIN, LATELY, Publisher};
pub(super) use fares::{Fares, Silence};

/// Of an event that the API calls bad: what became of others.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Others {
    /// It takes them.
    Taken,
    /// It took some that were sent before, which proves nothing of the time since.
    TakenBefore,
    NotTaken,
}

impl<P: Post> Publisher<P> {
    /// A bad request: its events are retried alone. One that gets bad requests alone, again and again while
    /// the API takes others, is the fault. If the API takes nothing else it is not the event: a bad signature
    /// may come as a 400. Then `who` refuses us.
    pub(super) fn bad(
        &mut self,
        mut batch: Batch<Entry>,
        why: &str,
        certain: bool,
        who: Refuser,
        Times { sent, now }: Times,
    ) {
        if certain {
            self.answered(&batch, sent, now);
        } else {
            self.is_there(now);
        }
        let scope = if who == Refuser::Api { Scope::Api } else { namespace_of(&batch) };
        let alone = batch.items.len() == 1;
        let others = if certain {
            Others::Taken
        } else {
            self.others(batch.items[0].tries_mut(), &scope, now)
        };
        for tries in batch.items.iter_mut().map(Entry::tries_mut) {
            tries.bad_since.get_or_insert(now);
            tries.bad_at = Some(now);
        }
        let in_vain = alone && others == Others::NotTaken;
        let only = in_vain && self.count_in_vain(batch.items[0].tries_mut());
        // Where the words are about us, they are believed unless others are taken.
        let only = only && who != Refuser::Api;
        if in_vain && !only {
            let tries = batch.items[0].tries_mut();
            if !std::mem::replace(&mut tries.doubted, true) {
                tries.bad_alone = 0;
            }
            return self.refuse(batch, why, who, Times { sent, now });
        }
        self.metrics.request(Fault::BadRequest.word());
        let Batch { channel, mut items, held } = batch;
        if !alone {
            return self.try_alone(held, items, Fault::BadRequest);
        }
        let tries = items[0].tries_mut();
        tries.alone = true;
        if std::mem::take(&mut tries.bad_in_vain) > 0 {
            // What it shared its first bad request with is no proof any more.
            tries.bad_since = Some(now);
        }
        tries.bad_alone += u32::from(others == Others::Taken);
        tries.failures = tries.failures.saturating_add(1);
        let leans = tries.leans_on.is_some() && tries.leans_on == self.accepted_at;
        let guilty = certain || only || tries.bad_alone >= GUILTY_AFTER;
        if guilty && let Some(entry) = items.pop() {
            // The rest was not at fault. Resume it here: there may be no other event to probe it with.
            self.resume(&scope, sent, now);
            self.leaning = self.leaning.saturating_sub(u32::from(leans));
            self.give_back(entry, &channel, why.to_owned());
        }
        for entry in &mut items {
            self.again(entry, Fault::BadRequest);
        }
        let not_before = time_of(&items, now);
        self.lanes.finish(held, items, not_before);
    }

    /// The request again, unless it is of one event that the API leaves without an answer while it answers others: that is
    /// given up.
    pub(super) fn unless_at_fault(
        &mut self,
        mut batch: Batch<Entry>,
        fault: Fault,
        why: &str,
        now: Instant,
    ) -> Option<Batch<Entry>> {
        if !matches!(fault, Fault::Ambiguous | Fault::Unavailable | Fault::UnknownAnswer) {
            return Some(batch);
        }
        let namespace = batch.channel.namespace();
        self.fares.unanswered(namespace, batch.items.len());
        let [entry] = &mut batch.items[..] else { return Some(batch) };
        let most = entry.route().give_up_after;
        let tries = entry.tries_mut();
        let own =
            tries.alone && self.fares.is_own_silence(namespace, &mut tries.silence, most, now);
        if !own {
            return Some(batch);
        }
        let times = tries.unanswered + 1;
        self.metrics.request(fault.word());
        let Batch { channel, items, held } = batch;
        for entry in items {
            let why = format!("given up after {times} tries, while others are taken: {why}");
            self.give_back(entry, &channel, why);
        }
        self.lanes.finish(held, Vec::new(), None);
        None
    }

    /// Whether the API takes others than an event that it calls bad once more.
    ///
    /// It took one that was sent since it last called this one bad; or, at the first time, one lately. Or it took one
    /// that was sent since the first time, such as a neighbour in that request, behind which nothing of their key can
    /// follow. That is no proof where this one or another was called bad in vain since, where a pause stood or ended, or
    /// where more than one event has no other: then it was not the event. Of one key that is one after the other: there a
    /// row of bad events and an API that broke look the same.
    fn others(&mut self, tries: &mut Tries, scope: &Scope, now: Instant) -> Others {
        let Some(last) = tries.bad_at else {
            let lately = self.accepted_at > now.checked_sub(LATELY);
            return if lately { Others::Taken } else { Others::NotTaken };
        };
        let pauses = &self.limits.pauses;
        let neighbour = tries.bad_since.is_some_and(|first| {
            self.accepted_sent >= Some(first)
                && tries.bad_in_vain + self.events_in_vain == 0
                && !(pauses.contains(scope) || pauses.lifted_since(scope, first))
        });
        if neighbour && tries.leans_on != self.accepted_at {
            tries.leans_on = self.accepted_at;
            self.leaning += 1;
        }
        if self.accepted_sent >= Some(last) || neighbour && self.leaning == 1 {
            Others::Taken
        } else if self.accepted_at > Some(last) {
            Others::TakenBefore
        } else {
            Others::NotTaken
        }
    }

    /// Counts a bad request of an event alone, since whose last the API took nothing. True if the event is the
    /// fault all the same: it holds up its key, and nothing else comes that could be taken.
    ///
    /// It is, if the API took others until shortly before, and is asked for long with this one and no other. If
    /// the API was broken at that moment, this one event is lost to the dead letter: of the next one it has taken
    /// nothing lately, and where several are to be sent, several are called bad.
    fn count_in_vain(&mut self, tries: &mut Tries) -> bool {
        if tries.bad_in_vain == 0 || tries.in_vain_since != self.accepted_at {
            self.events_in_vain += 1;
            (tries.bad_in_vain, tries.in_vain_since) = (0, self.accepted_at);
        }
        tries.bad_in_vain += 1;
        let lately = self.accepted_at.zip(tries.bad_since);
        self.events_in_vain == 1
            && tries.bad_in_vain >= GUILTY_AFTER_VAIN
            && lately.is_some_and(|(accepted, first)| accepted + LATELY > first)
    }
}
