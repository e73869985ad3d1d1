//! What is done about an answer: each event settled, tried again, or handed back.

use std::time::{Duration, Instant};

use super::entry::{Entry, Refused};
use super::lanes::{Batch, Held, Item};
use super::limit::Scope;
use super::post::Post;
use super::verdict::{EventVerdict, Fault, Verdict, judge};
use super::workers::Ended;
use super::{ALONE_AFTER, BACKOFF_BASE, BACKOFF_CAP, GUILTY_AFTER, Publisher};
use crate::backoff::full_jitter;
use crate::delivery::Outcome;
use crate::event_api::Channel;
use crate::seeded::{self, Bug};

impl<P: Post> Publisher<P> {
    pub(super) fn judge(&mut self, ended: Ended, now: Instant) {
        let Ended { batch, sent, result, worker } = ended;
        self.workers.free(worker);
        self.metrics.seconds.observe(now.duration_since(sent).as_secs_f64());
        let (verdict, why) = match result {
            Ok(answer) => match judge(&answer, batch.items.len()) {
                retry @ Verdict::Retry { .. } => (retry, format!("status {}", answer.status)),
                // Only a retry needs a reason from here.
                verdict => (verdict, String::new()),
            },
            Err(failure) if failure.fault == Fault::Refused => {
                (Verdict::Refused { why: failure.why, whole: true }, String::new())
            }
            Err(failure) => (Verdict::Retry { fault: failure.fault, after: None }, failure.why),
        };
        match verdict {
            Verdict::Decided(verdicts) => {
                self.answered(&batch, sent, now);
                self.decided(batch, verdicts, now);
            }
            Verdict::HandlerRefused { why } => {
                self.answered(&batch, sent, now);
                self.handler_refused(batch, &why, now);
            }
            Verdict::Bad { why, certain } => self.bad(batch, &why, certain, sent, now),
            Verdict::Refused { why, whole } => {
                self.refuse(batch, Fault::Refused, &why, whole, now);
            }
            // Nobody can say that this is our API, so it gets nothing; a probe a second asks again.
            Verdict::Retry { fault: Fault::Trust, .. } => {
                self.refuse(batch, Fault::Trust, &why, true, now);
            }
            Verdict::Retry { fault, after } => {
                self.pauses.unanswered(batch.channel.namespace(), now);
                self.fault(fault, after, &why, sent, now);
                self.retry(batch, fault, after, now);
            }
        }
    }

    /// The API is there, and takes what we send to this namespace.
    fn answered(&mut self, batch: &Batch<Entry>, sent: Instant, now: Instant) {
        self.concurrency.answered(sent, now, self.workers.requests());
        self.resume(batch.channel.namespace());
        self.is_there(now);
    }

    /// Each event has its verdict: settle, hand back, or try again.
    fn decided(&mut self, batch: Batch<Entry>, verdicts: Vec<EventVerdict>, now: Instant) {
        let Batch { channel, items, held } = batch;
        let (mut back, mut accepted, mut reordered) = (Vec::<Entry>::new(), 0, 0);
        for (entry, verdict) in items.into_iter().zip(verdicts) {
            let taken = matches!(verdict, EventVerdict::Accepted | EventVerdict::Unconfirmed);
            // What comes back stood before it in the request, and is passed by it.
            let passes = |e: &Entry| e.order().is_some() && e.order() == entry.order();
            if taken && back.iter().any(passes) {
                reordered += 1;
            }
            match verdict {
                EventVerdict::Accepted => {
                    accepted += 1;
                    entry.delivery.settle(Outcome::Accepted);
                }
                EventVerdict::Unconfirmed => {
                    self.metrics.unconfirmed.inc();
                    entry.delivery.unconfirmed();
                    entry.delivery.settle(Outcome::Accepted);
                }
                EventVerdict::Hopeless { why } => self.give_back(entry, &channel, why),
                EventVerdict::Retry { why, own_fault } => {
                    if let Some(entry) = self.another_try(entry, &channel, &why, own_fault) {
                        self.metrics.retry(Fault::Event.word(), 1);
                        back.push(entry);
                    }
                }
            }
        }
        if accepted > 0 {
            self.metrics.accepted.inc_by(accepted.into());
            self.accepted_at = Some(now);
            self.gate.accepted(accepted, now);
        }
        self.metrics.reordered.inc_by(reordered);
        self.metrics.request(if back.is_empty() { "ok" } else { "partial" });
        let not_before = (!back.is_empty()).then(|| now + wait_of(&back));
        self.lanes.finish(held, back, not_before);
    }

    /// The whole request is to be tried again.
    fn retry(&mut self, batch: Batch<Entry>, fault: Fault, after: Option<Duration>, now: Instant) {
        let Batch { mut items, held, .. } = batch;
        self.metrics.request(fault.word());
        self.metrics.retry(fault.word(), items.len());
        for tries in items.iter_mut().map(Entry::tries_mut) {
            tries.failures = tries.failures.saturating_add(1);
            // A front that gives up on a slow upload may say so (408, 504) or just close.
            if matches!(fault, Fault::Ambiguous | Fault::Unavailable) {
                tries.unanswered = tries.unanswered.saturating_add(1);
                tries.alone |= tries.unanswered >= ALONE_AFTER;
            }
        }
        let wait = match fault {
            // The pause, the gate and the breaker hold everything back; the entries need no wait of
            // their own on top, which would outlast theirs.
            Fault::Refused | Fault::Trust | Fault::Throttled => None,
            _ if self.breaker.is_open() => None,
            _ => Some(wait_of(&items)),
        };
        let not_before = wait.into_iter().chain(after).max().map(|wait| now + wait);
        self.lanes.finish(held, items, not_before);
    }

    /// We are refused: pause, and keep everything.
    fn refuse(&mut self, batch: Batch<Entry>, fault: Fault, why: &str, whole: bool, now: Instant) {
        if fault == Fault::Refused {
            self.is_there(now);
        }
        if seeded::is(Bug::DropOnRefusal) {
            batch.items.into_iter().for_each(|e| e.delivery.settle(Outcome::Accepted));
            return self.lanes.finish(batch.held, Vec::new(), None);
        }
        let namespace = batch.channel.namespace();
        // If this was the probe of something else as well, that has no answer yet.
        self.pauses.unanswered(namespace, now);
        let scope = if whole { Scope::Api } else { Scope::Namespace(namespace.to_owned()) };
        self.pause(scope, fault, why, now);
        self.retry(batch, fault, None, now);
    }

    /// A bad request: its events are tried alone. One that is called bad alone, again and again while
    /// the API accepts others in between, is guilty. If the API takes nothing else it is not the
    /// event: a bad signature may come as a 400.
    fn bad(
        &mut self,
        mut batch: Batch<Entry>,
        why: &str,
        certain: bool,
        sent: Instant,
        now: Instant,
    ) {
        let alone = batch.items.len() == 1;
        let before = batch.items.first().and_then(|e| e.tries().bad_at);
        for entry in &mut batch.items {
            entry.tries_mut().bad_at = Some(now);
        }
        // Ends that are judged in one turn have one time: such an acceptance comes with the next try.
        let others = certain || self.accepted_at > before;
        if alone && !others {
            return self.refuse(batch, Fault::Refused, why, false, now);
        }
        if others {
            self.answered(&batch, sent, now);
        } else {
            self.pauses.unanswered(batch.channel.namespace(), now);
            self.is_there(now);
        }
        self.metrics.request(Fault::BadRequest.word());
        let Batch { channel, mut items, held } = batch;
        if !alone {
            return self.try_alone(held, items);
        }
        self.metrics.retry(Fault::BadRequest.word(), 1);
        for tries in items.iter_mut().map(Entry::tries_mut) {
            tries.alone = true;
            tries.bad_alone += 1;
            tries.failures = tries.failures.saturating_add(1);
        }
        let guilty = items
            .extract_if(.., |e| certain || e.tries().bad_alone >= GUILTY_AFTER)
            .collect::<Vec<_>>();
        for entry in guilty {
            self.give_back(entry, &channel, why.to_owned());
        }
        let not_before = (!items.is_empty()).then(|| now + wait_of(&items));
        self.lanes.finish(held, items, not_before);
    }

    /// The namespace's handler refuses: alone each, and not for ever.
    fn handler_refused(&mut self, batch: Batch<Entry>, why: &str, now: Instant) {
        self.metrics.request(Fault::Event.word());
        let Batch { channel, mut items, held } = batch;
        if items.len() > 1 {
            return self.try_alone(held, items);
        }
        let back: Vec<Entry> =
            items.drain(..).filter_map(|e| self.another_try(e, &channel, why, true)).collect();
        let not_before = (!back.is_empty()).then(|| now + wait_of(&back));
        self.lanes.finish(held, back, not_before);
    }

    fn try_alone(&mut self, held: Held, mut items: Vec<Entry>) {
        self.metrics.retry(Fault::BadRequest.word(), items.len());
        for entry in &mut items {
            entry.tries_mut().alone = true;
        }
        self.lanes.finish(held, items, None);
    }

    /// Counts a failure of the event itself; hands it back when it had its tries.
    fn another_try(
        &self,
        mut entry: Entry,
        channel: &Channel,
        why: &str,
        own_fault: bool,
    ) -> Option<Entry> {
        let most = entry.policy().give_up_after;
        let tries = entry.tries_mut();
        tries.failures = tries.failures.saturating_add(1);
        tries.own_faults += u32::from(own_fault);
        if tries.own_faults < most {
            return Some(entry);
        }
        let why = format!("given up after {} tries: {why}", tries.own_faults);
        self.give_back(entry, channel, why);
        None
    }

    fn give_back(&self, entry: Entry, channel: &Channel, why: String) {
        self.metrics.rejected.inc();
        // Nobody there to take it: dropped, which releases it.
        drop(self.refused.send(Refused { entry, channel: channel.clone(), why }));
    }
}

/// The wait of entries that are tried again together.
fn wait_of(entries: &[Entry]) -> Duration {
    let failures = entries.iter().map(|e| e.tries().failures).max().unwrap_or(1);
    full_jitter(BACKOFF_BASE, BACKOFF_CAP, failures.saturating_sub(1))
}
