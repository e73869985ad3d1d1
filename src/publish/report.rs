//! How the API stands: who refuses us, whether it answers, and who is told.

use std::time::{Duration, Instant, SystemTime};

use tracing::{info, warn};

use super::Publisher;
use super::limit::Scope;
use super::post::{Fault, Post};

/// What to look at when the endpoint's certificate is not trusted.
const TRUST_HINT: &str = "nothing was sent: is this the right host? if its CA is your own, name it in `ca_file`; if its certificate expired, renew it; is this clock right?";

/// How long a namespace that was taken speaks for the credentials.
const VOUCHES: Duration = Duration::from_mins(1);

/// Who wants to be left alone for longer makes us not ready.
const BRIEF: Duration = Duration::from_secs(3);

/// A fault that goes on is logged this often.
const LOG_EVERY: Duration = Duration::from_secs(30);

/// One line an interval for a fault that goes on.
#[derive(Debug, Default)]
pub(super) struct FaultLog {
    last: Option<Instant>,
    since: u64,
}

/// The refusals of one scope, and what was said of them.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    /// In the words of the last one.
    why: String,
    log: FaultLog,
    /// Whether the log says last that it refuses us.
    told: bool,
    /// Of events that are refused while others are taken.
    events: FaultLog,
}

/// Until when the API wants to be left alone, and its words for that.
#[derive(Debug)]
pub(super) struct LeftAlone {
    until: SystemTime,
    why: String,
}

/// The namespaces that were taken last, two different ones: they speak for the credentials when another
/// one is refused.
#[derive(Debug, Default)]
pub(super) struct Vouchers {
    last: Option<(String, Instant)>,
    other: Option<(String, Instant)>,
}

impl Vouchers {
    /// What was sent to a namespace was taken.
    pub(super) fn took(&mut self, namespace: &str, now: Instant) {
        if self.last.as_ref().is_none_or(|(name, _)| name != namespace) {
            std::mem::swap(&mut self.last, &mut self.other);
        }
        match &mut self.last {
            Some((name, at)) if name == namespace => *at = now,
            last => *last = Some((namespace.to_owned(), now)),
        }
    }

    /// Whether another one than this was taken lately.
    fn speak(&self, scope: &Scope, now: Instant) -> bool {
        let Scope::Namespace(namespace) = scope else { return false };
        [&self.last, &self.other]
            .into_iter()
            .flatten()
            .any(|(name, at)| name != namespace && now.saturating_duration_since(*at) < VOUCHES)
    }
}

impl FaultLog {
    /// How many faults came since the last line, if a line is due.
    pub(super) fn due(&mut self, now: Instant) -> Option<u64> {
        self.since += 1;
        if self.last.is_some_and(|last| now.duration_since(last) < LOG_EVERY) {
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.since))
    }
}

impl<P: Post> Publisher<P> {
    /// The API is there, whatever it says.
    pub(super) fn is_there(&mut self, now: Instant) {
        if self.limits.breaker.answered(now) {
            info!(api = %self.name, "the API answers again");
            // Nobody sleeps out a wait of an outage that is over.
            self.lanes.wake_all();
            self.report();
        }
    }

    /// `scope` refused a request that was sent then.
    pub(super) fn pause(
        &mut self,
        scope: &Scope,
        fault: Fault,
        why: &str,
        (sent, now): (Instant, Instant),
    ) {
        let new = self.limits.pauses.refused(scope, sent, now);
        if !self.limits.pauses.contains(scope) {
            // A slow answer, from before a pause that is over.
            return;
        }
        let elsewhere = self.vouchers.speak(scope, now);
        let hint = if fault == Fault::Trust { TRUST_HINT } else { self.post.hint(elsewhere) };
        let refusals = self.refusals.entry(scope.clone()).or_default();
        why.clone_into(&mut refusals.why);
        self.last_refused.clone_from(scope);
        if let Some(count) = refusals.log.due(now) {
            refusals.told = true;
            if new {
                warn!(api = %self.name, who = %scope, why, hint, "we are refused: everything is kept and tried again once a second");
            } else {
                warn!(api = %self.name, who = %scope, why, hint, count, "still refused");
            }
        }
        self.report();
    }

    /// `scope` refuses some events while it takes others.
    pub(super) fn refuses_some(&mut self, scope: &Scope, why: &str, now: Instant) {
        let refusals = self.refusals.entry(scope.clone()).or_default();
        if let Some(count) = refusals.events.due(now) {
            let hint = self.post.hint(true);
            warn!(api = %self.name, who = %scope, why, hint, count, "events are refused while others are taken: they are kept and tried alone");
        }
    }

    /// `scope` did not refuse a request that was sent then: if it was paused before that, it goes on.
    pub(super) fn resume(&mut self, scope: &Scope, sent: Instant, now: Instant) {
        if !self.limits.pauses.taken(scope, sent, now) {
            return;
        }
        let told = self.refusals.get_mut(scope).is_some_and(|r| std::mem::take(&mut r.told));
        if told {
            info!(api = %self.name, who = %scope, "takes events again");
        }
        match scope {
            Scope::Api => self.lanes.unpark_all(),
            Scope::Namespace(name) => self.lanes.unpark(name),
        }
        self.report();
    }

    /// Says to metrics and `/readyz` how the API stands.
    pub(super) fn report(&self) {
        let paused = !self.limits.pauses.is_empty() || self.left_alone.is_some();
        self.metrics.paused.set(i64::from(paused));
        self.metrics.breaker.set(i64::from(self.limits.breaker.is_open()));
        let last = Some(&self.last_refused).filter(|scope| self.limits.pauses.contains(scope));
        if let Some(scope) = last.or(self.limits.pauses.any()) {
            let why = self.refusals.get(scope).map_or("", |refusals| &refusals.why);
            self.health.not_ready(format!("{scope} refuses us: {why}"));
        } else if self.limits.breaker.is_open() {
            self.health.not_ready(self.why_silent.as_str());
        } else if let Some(LeftAlone { until, why }) = &self.left_alone {
            let until = humantime::format_rfc3339_seconds(*until);
            self.health.not_ready(format!("left alone until {until}: {why}"));
        } else {
            self.health.ready();
        }
    }

    /// Tells the limits of a fault on the way or of the API as a whole.
    pub(super) fn fault(
        &mut self,
        fault: Fault,
        after: Option<Duration>,
        why: &str,
        sent: Instant,
        now: Instant,
    ) {
        if fault == Fault::Throttled {
            self.is_there(now);
            self.limits.rate.throttled(sent, now);
            if let Some(after) = after {
                self.limits.rate.hold(now + after);
            }
        } else {
            if matches!(fault, Fault::Ambiguous | Fault::Unavailable) {
                self.limits.concurrency.overloaded(sent, now);
            }
            if self.limits.breaker.failed(now, fault == Fault::UnknownAnswer) {
                let what = if matches!(fault, Fault::UnknownAnswer | Fault::Unavailable) {
                    "the API gives no answer that counts"
                } else {
                    "the API does not answer"
                };
                warn!(api = %self.name, fault = fault.word(), why, "{what}: asking once a second, everything is kept");
                self.why_silent = format!("{what}: {why}");
                self.report();
            }
        }
        let told = self.leave_alone(after, why, now);
        if fault == Fault::Ambiguous {
            self.metrics.ambiguous.inc();
        }
        if let Some(count) = self.fault_log.due(now).filter(|_| !told) {
            warn!(api = %self.name, fault = fault.word(), why, count, "publishing fails and is tried again");
        }
    }

    /// The API wants to be left alone for so long, if at all. Whether the log says so now.
    fn leave_alone(&mut self, after: Option<Duration>, why: &str, now: Instant) -> bool {
        let new = after
            .filter(|after| *after > BRIEF)
            .map(|after| LeftAlone { until: SystemTime::now() + after, why: why.to_owned() });
        if self.left_alone.is_none() && new.is_none() {
            return false;
        }
        self.left_alone = new;
        self.report();
        let Some(LeftAlone { until, .. }) = &self.left_alone else { return false };
        let Some(count) = self.left_alone_log.due(now) else { return false };
        let until = humantime::format_rfc3339_seconds(*until);
        warn!(api = %self.name, why, %until, count, "the API wants to be left alone: it is tried again then, everything is kept");
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_taken_lately_speaks_for_the_credentials_of_others_but_not_its_own() {
        let (mut vouchers, now) = (Vouchers::default(), Instant::now());
        let speak = |vouchers: &Vouchers, name: &str, at| vouchers.speak(&Scope::of(name), at);
        assert!(!speak(&vouchers, "a", now));
        vouchers.took("a", now);
        vouchers.took("a", now);
        assert!(!speak(&vouchers, "a", now) && speak(&vouchers, "b", now));
        assert!(!vouchers.speak(&Scope::Api, now));
        let later = now + VOUCHES / 2;
        vouchers.took("b", later);
        assert!(speak(&vouchers, "a", later) && speak(&vouchers, "b", later));
        assert!(!speak(&vouchers, "b", now + VOUCHES) && speak(&vouchers, "a", now + VOUCHES));
        vouchers.took("a", later);
        assert!(speak(&vouchers, "b", now + VOUCHES));
    }
}
