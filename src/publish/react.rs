//! The reaction to an answer: each event is settled, retried, or handed back.

use std::time::{Duration, Instant};

use super::entry::{Entry, Refused};
use super::lanes::{Batch, Held, Item};
use super::limit::Scope;
use super::post::{Failure, Fault, Post};
use super::report::Times;
use super::verdict::{EventVerdict, Refuser, Verdict, judge, why_again};
use super::workers::Ended;
use super::{ALONE_AFTER, BACKOFF_BASE, BACKOFF_CAP, Publisher, SECONDS, THROTTLED_WITH_OTHERS};
use crate::backoff::full_jitter;
use crate::delivery::{Done, Outcome};
use crate::event_api::Channel;
use crate::seeded_bugs::{self, Bug};

impl<P: Post> Publisher<P> {
    pub(super) fn react(&mut self, ended: Ended, now: Instant) {
        let Ended { mut batch, sent, result, worker } = ended;
        self.workers.free(worker);
        self.metrics.seconds.observe(now.duration_since(sent).as_secs_f64());
        // Before any branch, so that none can forget it: the next probe would never be sent.
        self.limits.pauses.ended(batch.channel.namespace(), sent, now);
        self.limits.breaker.ended(sent, now);
        self.trace(&batch, &result, sent, now);
        if self.limits.asked_in_vain(sent) {
            // Unless it got a better answer this time, of what is left nobody will: another event may.
            self.intake.let_one_in();
        }
        let (verdict, why) = match result {
            Ok(answer) => match judge(&answer, batch.items.len()) {
                retry @ Verdict::Retry { .. } => {
                    if answer.cut.is_some() && answer.status < 300 {
                        self.metrics.ambiguous.inc();
                    }
                    (retry, why_again(&answer))
                }
                // Only a retry needs a reason from here.
                verdict => (verdict, String::new()),
            },
            // There are no credentials to send, or the server's identity is not proven.
            Err(Failure { fault: fault @ (Fault::Refused | Fault::Trust), why }) => {
                self.pause(&Scope::Api, fault, &why, Times { sent, now });
                return self.retry(batch, fault, None, Times { sent, now });
            }
            Err(failure) => (Verdict::Retry { fault: failure.fault, after: None }, failure.why),
        };
        match verdict {
            Verdict::Decided(verdicts) => {
                self.answered(&batch, sent, now);
                self.acceptances.note(batch.channel.namespace(), now);
                self.decided(batch, verdicts, Times { sent, now });
            }
            Verdict::HandlerRefused { why } => {
                self.answered(&batch, sent, now);
                self.limits.rate.answered(batch.items.len(), now);
                self.handler_refused(batch, &why, now);
            }
            Verdict::Bad { why, certain } => {
                self.bad(batch, &why, certain, Refuser::Namespace, Times { sent, now });
            }
            Verdict::Refused { why, who: Refuser::Unsure } => {
                self.bad(batch, &why, false, Refuser::Api, Times { sent, now });
            }
            Verdict::Refused { why, who } => {
                self.is_there(now);
                self.refuse(batch, &why, who, Times { sent, now });
            }
            Verdict::Retry { fault, after } => {
                let after = after.filter(|wait| !wait.is_zero());
                let passes = after.is_some() && fault != Fault::Throttled;
                let alone = passes && self.waits_alone(&mut batch, sent);
                let (own, all) = if alone { (after, None) } else { (None, after) };
                self.fault(fault, all, &why, Times { sent, now });
                if let Some(batch) = self.unless_at_fault(batch, fault, &why, now) {
                    self.retry(batch, fault, own, Times { sent, now });
                }
            }
        }
    }

    /// The API asks for a wait because of this request. Whether that is only the event's own: it asked so because of it
    /// before, has taken others that were sent since, or beside it, and the event is alone for that. Else one that it
    /// always fails so would hold up everything.
    fn waits_alone(&self, batch: &mut Batch<Entry>, sent: Instant) -> bool {
        let mut own = batch.items.len() == 1;
        for tries in batch.items.iter_mut().map(Entry::tries_mut) {
            let asked = tries.wait_asked.replace(sent);
            let others = asked.is_some() && self.accepted_sent >= asked;
            own &= others && tries.alone;
            tries.alone |= others;
        }
        own
    }

    /// The API answered, and accepts requests to this namespace.
    pub(super) fn answered(&mut self, batch: &Batch<Entry>, sent: Instant, now: Instant) {
        self.limits.concurrency.answered(sent, now, self.workers.requests());
        if !self.limits.pauses.is_empty() {
            self.resume(&Scope::Api, sent, now);
            self.resume(&namespace_of(batch), sent, now);
        }
        self.is_there(now);
    }

    /// Each event has its verdict: settles it, hands it back, or retries it.
    fn decided(
        &mut self,
        batch: Batch<Entry>,
        verdicts: Vec<EventVerdict>,
        Times { sent, now }: Times,
    ) {
        let Batch { channel, items, held } = batch;
        let (mut back, mut accepted, mut reordered) = (Vec::<Entry>::new(), 0, 0);
        let (mut used, mut throttled, mut items_taken, mut rejected) = (items.len(), 0, 0, false);
        for (entry, verdict) in items.into_iter().zip(verdicts) {
            let taken = matches!(verdict, EventVerdict::Accepted | EventVerdict::Unconfirmed);
            items_taken += usize::from(taken);
            // An event to retry that stood before this one in the request is overtaken by it.
            let passes = |e: &Entry| e.order().is_some() && e.order() == entry.order();
            if taken && back.iter().any(passes) {
                reordered += 1;
            }
            match verdict {
                EventVerdict::Accepted => {
                    accepted += 1;
                    self.metrics.meter(entry.event().text().len());
                    entry.settle(Outcome::Accepted(Done::Published), &mut self.endings);
                }
                EventVerdict::Unconfirmed => {
                    self.metrics.unconfirmed.inc();
                    self.metrics.meter(entry.event().text().len());
                    entry.settle(Outcome::Accepted(Done::Unconfirmed), &mut self.endings);
                }
                EventVerdict::Hopeless { why } => {
                    rejected = true;
                    self.give_back(entry, &channel, why);
                }
                EventVerdict::Retry { why } => {
                    let again = self.another_try(entry, &channel, Fault::Event, &why, (true, now));
                    rejected |= again.is_none();
                    back.extend(again);
                }
                EventVerdict::Throttled { why } => {
                    used -= 1;
                    let entry = self.throttled(entry, &why, now);
                    throttled += usize::from(entry.tries().throttled <= THROTTLED_WITH_OTHERS);
                    back.push(entry);
                }
            }
        }
        self.metrics.accepted.inc_by(accepted);
        if items_taken > 0 {
            self.fares.taken(channel.namespace(), items_taken, sent);
            (self.accepted_at, self.events_in_vain, self.leaning) = (Some(now), 0, 0);
            self.accepted_sent = self.accepted_sent.max(Some(sent));
        }
        self.limits.rate.answered(used, now);
        self.limits.rate.singled_out(throttled, sent, now);
        self.metrics.reordered.inc_by(reordered);
        let whole = back.is_empty() && !rejected;
        self.metrics.request(if whole { "ok" } else { "partial" });
        let not_before = time_of(&back, now);
        self.lanes.finish(held, back, not_before);
    }

    /// An event is throttled by itself. At first that is the gate's to mend, as with a 429, and a backoff would
    /// outlast it. One that is throttled again and again is so for what it is, and gets a backoff, of seconds:
    /// nothing says when such throttling is over.
    fn throttled(&mut self, mut entry: Entry, why: &str, now: Instant) -> Entry {
        let tries = entry.tries_mut();
        tries.throttled = tries.throttled.saturating_add(1);
        if tries.throttled > THROTTLED_WITH_OTHERS && tries.failures < SECONDS {
            tries.failures += 1;
        }
        self.again(&mut entry, Fault::Throttled);
        self.fails(Fault::Throttled, why, now);
        entry
    }

    /// Retries the whole request, not before a wait of its `own`.
    fn retry(
        &mut self,
        batch: Batch<Entry>,
        fault: Fault,
        own: Option<Duration>,
        Times { sent, now }: Times,
    ) {
        let Batch { channel, mut items, held } = batch;
        self.metrics.request(fault.word());
        // The gate, the breaker and a pause hold everything back; a backoff of the entries on top would
        // outlast them.
        let held_back = fault == Fault::Throttled
            || self.limits.rate.is_held(now)
            || self.limits.breaker.is_open()
            || self.limits.pauses.hold(channel.namespace());
        let asked = self.limits.trouble().is_some_and(|since| sent > since);
        for entry in &mut items {
            self.again(entry, fault);
            let tries = entry.tries_mut();
            if asked {
                tries.in_vain_at = Some(now);
            }
            tries.failures = tries.failures.saturating_add(u32::from(!held_back));
            // A load balancer that gives up on a slow upload answers 408 or 504, or just closes.
            if matches!(fault, Fault::Ambiguous | Fault::Unavailable | Fault::UnknownAnswer) {
                tries.unanswered = tries.unanswered.saturating_add(1);
                tries.alone |= tries.unanswered >= ALONE_AFTER;
            }
        }
        let not_before = time_of(&items, now).filter(|_| !held_back);
        match not_before.max(own.map(|wait| now + wait)) {
            // The next probe is for those who have not asked.
            None if asked => self.lanes.finish_uncalled(held, items),
            not_before => self.lanes.finish(held, items, not_before),
        }
    }

    /// The bridge is refused, not an event: pauses, and keeps every event.
    pub(super) fn refuse(
        &mut self,
        mut batch: Batch<Entry>,
        why: &str,
        who: Refuser,
        Times { sent, now }: Times,
    ) {
        if seeded_bugs::is(Bug::DropOnRefusal) {
            let published = Outcome::Accepted(Done::Published);
            batch.items.into_iter().for_each(|e| e.settle(published, &mut self.endings));
            return self.lanes.finish(batch.held, Vec::new(), None);
        }
        let scope = if who == Refuser::Api { Scope::Api } else { namespace_of(&batch) };
        if self.singles_out(&mut batch, &scope) {
            return self.set_apart(batch, &scope, why, who, now);
        }
        for tries in batch.items.iter_mut().map(Entry::tries_mut) {
            *tries.refused_by(&scope) = Some(now);
        }
        self.pause(&scope, Fault::Refused, why, Times { sent, now });
        self.retry(batch, Fault::Refused, None, Times { sent, now });
    }

    /// Whether `scope` was paused for one of these events, accepted others after that, and now refuses
    /// this one again: then the event's content is refused. Such events are sent alone from here on.
    fn singles_out(&self, batch: &mut Batch<Entry>, scope: &Scope) -> bool {
        let mut some = false;
        for tries in batch.items.iter_mut().map(Entry::tries_mut) {
            let others = tries
                .refused_by(scope)
                .is_some_and(|at| self.limits.pauses.lifted_since(scope, at));
            tries.alone |= others;
            some |= others;
        }
        some && !self.limits.pauses.contains(scope)
    }

    /// An event is refused, not `scope`. It is retried alone with its own backoff; one that a firewall, or a handler without
    /// a name for it, never lets through is given up. Its next refusal still pauses `scope`, in case that is
    /// refused after all.
    fn set_apart(
        &mut self,
        mut batch: Batch<Entry>,
        scope: &Scope,
        why: &str,
        who: Refuser,
        now: Instant,
    ) {
        self.refuses_some(scope, why, now);
        self.metrics.request(Fault::Refused.word());
        if batch.items.len() > 1 {
            for entry in &mut batch.items {
                self.again(entry, Fault::Refused);
            }
            return self.lanes.finish(batch.held, batch.items, None);
        }
        *batch.items[0].tries_mut().refused_by(scope) = Some(now);
        let content = matches!(who, Refuser::Firewall | Refuser::Nameless);
        self.try_each_again(batch, Fault::Refused, why, content, now);
    }

    /// The namespace's handler refuses: retries each event alone, and not for ever.
    fn handler_refused(&mut self, batch: Batch<Entry>, why: &str, now: Instant) {
        self.metrics.request(Fault::Event.word());
        if batch.items.len() > 1 {
            return self.try_alone(batch.held, batch.items, Fault::Event);
        }
        self.try_each_again(batch, Fault::Event, why, true, now);
    }

    fn try_each_again(
        &mut self,
        batch: Batch<Entry>,
        fault: Fault,
        why: &str,
        own_fault: bool,
        now: Instant,
    ) {
        let Batch { channel, items, held } = batch;
        let again = |entry| self.another_try(entry, &channel, fault, why, (own_fault, now));
        let back: Vec<Entry> = items.into_iter().filter_map(again).collect();
        let not_before = time_of(&back, now);
        self.lanes.finish(held, back, not_before);
    }

    pub(super) fn try_alone(&mut self, held: Held, mut items: Vec<Entry>, fault: Fault) {
        for entry in &mut items {
            self.again(entry, fault);
            entry.tries_mut().alone = true;
        }
        self.lanes.finish(held, items, None);
    }

    /// Counts a failure of the event itself, unless all fail; hands it back after its last try.
    fn another_try(
        &mut self,
        mut entry: Entry,
        channel: &Channel,
        fault: Fault,
        why: &str,
        (mut own_fault, now): (bool, Instant),
    ) -> Option<Entry> {
        let most = entry.route().give_up_after;
        let tries = entry.tries_mut();
        tries.failures = tries.failures.saturating_add(1);
        if own_fault && fault == Fault::Event {
            let refused = &mut tries.refused_in;
            own_fault = self.fares.is_own_refusal(channel.namespace(), refused, now);
            if !own_fault {
                // What passes for all passes at once.
                tries.failures = tries.failures.min(SECONDS);
            }
        }
        tries.own_faults += u32::from(own_fault);
        if tries.own_faults < most {
            self.again(&mut entry, fault);
            return Some(entry);
        }
        let why = format!("given up after {} tries: {why}", tries.own_faults);
        self.fares.gave_up(channel.namespace(), tries.refused_in);
        self.give_back(entry, channel, why);
        None
    }

    /// `entry` is sent again, because of `fault`.
    pub(super) fn again(&self, entry: &mut Entry, fault: Fault) {
        entry.retried(fault.word());
        self.metrics.retry(fault.word(), 1);
    }

    pub(super) fn give_back(&self, mut entry: Entry, channel: &Channel, why: String) {
        entry.refused(&why);
        self.metrics.rejected.inc();
        // With the receiver gone it is dropped, which releases it.
        drop(self.refused.send(Refused { entry, channel: channel.clone(), why }));
    }
}

pub(super) fn namespace_of(batch: &Batch<Entry>) -> Scope {
    Scope::of(batch.channel.namespace())
}

/// When to retry these entries together, if that is not at once: where none has failed, the gate is all they
/// wait for.
pub(super) fn time_of(entries: &[Entry], now: Instant) -> Option<Instant> {
    let failures = entries.iter().map(|e| e.tries().failures).max()?.checked_sub(1)?;
    Some(now + full_jitter(BACKOFF_BASE, BACKOFF_CAP, failures))
}
