//! How the API stands: who refuses us, whether it answers, and who is told.

use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::Publisher;
use super::limit::Scope;
use super::post::Post;
use super::verdict::Fault;

/// What to look at when the endpoint's certificate is not trusted.
const TRUST_HINT: &str = "nothing was sent: is this the right host? if its CA is your own, name it in `ca_file`; if its certificate expired, renew it; is this clock right?";

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
        if self.breaker.answered(now) {
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
        let new = self.pauses.refused(scope, sent, now);
        if !self.pauses.contains(scope) {
            // A slow answer, from before a pause that is over.
            return;
        }
        let hint = if fault == Fault::Trust { TRUST_HINT } else { self.post.hint() };
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
            let hint = self.post.hint();
            warn!(api = %self.name, who = %scope, why, hint, count, "events are refused while others are taken: they are kept and tried alone");
        }
    }

    /// `scope` did not refuse a request that was sent then: if it was paused before that, it goes on.
    pub(super) fn resume(&mut self, scope: &Scope, sent: Instant, now: Instant) {
        if !self.pauses.taken(scope, sent, now) {
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
        self.metrics.paused.set(i64::from(!self.pauses.is_empty()));
        self.metrics.breaker.set(i64::from(self.breaker.is_open()));
        let last = Some(&self.last_refused).filter(|scope| self.pauses.contains(scope));
        if let Some(scope) = last.or(self.pauses.any()) {
            let why = self.refusals.get(scope).map_or("", |refusals| &refusals.why);
            self.health.not_ready(format!("{scope} refuses us: {why}"));
        } else if self.breaker.is_open() {
            self.health.not_ready(format!("the API does not answer: {}", self.why_silent));
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
            self.gate.throttled(sent, now);
            if let Some(after) = after {
                self.gate.hold(now + after);
            }
        } else {
            if matches!(fault, Fault::Ambiguous | Fault::Unavailable) {
                self.concurrency.overloaded(sent, now);
            }
            if self.breaker.failed(now, fault == Fault::UnknownAnswer) {
                warn!(api = %self.name, fault = fault.word(), why, "the API does not answer: asking once a second, everything is kept");
                why.clone_into(&mut self.why_silent);
                self.report();
            }
        }
        if fault == Fault::Ambiguous {
            self.metrics.ambiguous.inc();
        }
        if let Some(count) = self.fault_log.due(now) {
            warn!(api = %self.name, fault = fault.word(), why, count, "publishing fails and is tried again");
        }
    }
}
