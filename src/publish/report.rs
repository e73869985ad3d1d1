//! The state of the API, refused, silent or throttling, as logged, counted and shown in `/readyz`.

use std::time::{Duration, Instant, SystemTime};

use tracing::{info, warn};

use super::Publisher;
use super::limit::Scope;
use super::post::{Fault, Post};
use crate::repeats::Repeats;

/// While the API asks for a wait.
const WAIT_HINT: &str =
    "nothing needs to be done; where it goes on, compare `max_rate` with the API's quota";

/// The remedy when the endpoint's certificate is not trusted.
const TRUST_HINT: &str = "nothing was sent: is this the right host? if its CA is your own, name it in `ca_file`; if its certificate expired, renew it; is this clock right?";

/// How long an acceptance proves the credentials good.
const ACCEPTED_LATELY: Duration = Duration::from_mins(1);

/// A `Retry-After` longer than this makes the API not ready.
const BRIEF: Duration = Duration::from_secs(3);

/// How often a lasting fault is logged.
const LOG_EVERY: Duration = Duration::from_secs(30);

/// When a request was sent, and when its answer is handled.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub(super) sent: Instant,
    pub(super) now: Instant,
}

/// The refusals of one scope, and their log lines.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    /// The text of the last one.
    why: String,
    /// What ends them.
    hint: String,
    log: Repeats,
    /// Whether the log's last line on the scope is a refusal.
    logged: bool,
    /// For single events that are refused while others are accepted.
    events: Repeats,
}

/// The time before which the API wants no request, by both clocks, and the text of its answer.
#[derive(Debug)]
pub(super) struct RetryAfter {
    ends: Instant,
    until: SystemTime,
    why: String,
}

impl RetryAfter {
    /// When it is over.
    pub(super) fn ends(&self) -> Instant {
        self.ends
    }
}

/// The last two namespaces that accepted events: they prove the credentials good when another one refuses.
#[derive(Debug, Default)]
pub(super) struct Acceptances {
    last: Option<(String, Instant)>,
    other: Option<(String, Instant)>,
}

impl Acceptances {
    /// A namespace accepted an event.
    pub(super) fn note(&mut self, namespace: &str, now: Instant) {
        if self.last.as_ref().is_none_or(|(name, _)| name != namespace) {
            std::mem::swap(&mut self.last, &mut self.other);
        }
        match &mut self.last {
            Some((name, at)) if name == namespace => *at = now,
            last => *last = Some((namespace.to_owned(), now)),
        }
    }

    /// Whether another namespace than this accepted an event lately.
    fn elsewhere(&self, scope: &Scope, now: Instant) -> bool {
        let Scope::Namespace(namespace) = scope else { return false };
        [&self.last, &self.other].into_iter().flatten().any(|(name, at)| {
            name != namespace && now.saturating_duration_since(*at) < ACCEPTED_LATELY
        })
    }
}

impl<P: Post> Publisher<P> {
    /// The API answered, with whatever status.
    pub(super) fn is_there(&mut self, now: Instant) {
        if self.limits.breaker.answered(now) {
            self.is_back();
        }
    }

    /// The outage is over, so no backoff from it is waited out.
    pub(super) fn is_back(&mut self) {
        info!(api = %self.name, "the API answers again");
        self.lanes.wake_all();
        self.report();
    }

    /// `scope` refused a request sent at `sent`.
    pub(super) fn pause(
        &mut self,
        scope: &Scope,
        fault: Fault,
        why: &str,
        Times { sent, now }: Times,
    ) {
        let new = self.limits.pauses.refused(scope, sent, now);
        if !self.limits.pauses.contains(scope) {
            // A late answer, to a request from before the end of an earlier pause.
            return;
        }
        let elsewhere = self.acceptances.elsewhere(scope, now);
        let hint = if fault == Fault::Trust { TRUST_HINT } else { self.post.hint(elsewhere) };
        let refusals = self.refusals.entry(scope.clone()).or_default();
        why.clone_into(&mut refusals.why);
        hint.clone_into(&mut refusals.hint);
        self.last_refused.clone_from(scope);
        if let Some(count) = refusals.log.again(LOG_EVERY, now) {
            refusals.logged = true;
            if new {
                warn!(api = %self.name, who = %scope, why, hint, "the API refuses requests; keeping all events, and probing once a second");
            } else {
                warn!(api = %self.name, who = %scope, why, hint, count, "the API still refuses requests; probing once a second");
            }
        }
        self.report();
    }

    /// `scope` refuses some events while it takes others.
    pub(super) fn refuses_some(&mut self, scope: &Scope, why: &str, now: Instant) {
        let refusals = self.refusals.entry(scope.clone()).or_default();
        if let Some(count) = refusals.events.again(LOG_EVERY, now) {
            let hint = self.post.hint(true);
            warn!(api = %self.name, who = %scope, why, hint, count, "some events are refused and others accepted; retrying the refused ones alone");
        }
    }

    /// `scope` did not refuse a request sent at `sent`: ends a pause that began before that.
    pub(super) fn resume(&mut self, scope: &Scope, sent: Instant, now: Instant) {
        if !self.limits.pauses.taken(scope, sent, now) {
            return;
        }
        let logged = self.refusals.get_mut(scope).is_some_and(|r| std::mem::take(&mut r.logged));
        if logged {
            info!(api = %self.name, who = %scope, "the API accepts requests again");
        }
        match scope {
            Scope::Api => self.lanes.unpark_all(),
            Scope::Namespace(name) => self.lanes.unpark(name),
        }
        self.report();
    }

    /// Updates metrics, `/readyz` and `/status`.
    pub(super) fn report(&self) {
        let paused = !self.limits.pauses.is_empty() || self.retry_after.is_some();
        self.metrics.paused.set(i64::from(paused));
        let pauses = &self.limits.pauses;
        let whole = pauses.contains(&Scope::Api) || self.retry_after.is_some();
        self.metrics.namespaces_paused(|name| whole || pauses.contains(&Scope::of(name)));
        let scopes = self.limits.pauses.scopes().filter_map(|scope| {
            let Refusals { why, hint, .. } = self.refusals.get(scope)?;
            Some((scope.to_string(), why.clone(), hint.clone()))
        });
        self.health.pauses(scopes);
        self.metrics.breaker.set(i64::from(self.limits.breaker.is_open()));
        let last = Some(&self.last_refused).filter(|scope| self.limits.pauses.contains(scope));
        if let Some(scope) = last.or(self.limits.pauses.any()) {
            let said = self.refusals.get(scope).map(|it| (it.why.as_str(), it.hint.as_str()));
            let (why, hint) = said.unwrap_or_default();
            self.health.not_ready(in_words(&format!("{scope} refuses us: {why}"), hint));
        } else if self.limits.breaker.is_open() {
            self.health.not_ready(self.why_silent.as_str());
        } else if let Some(RetryAfter { until, why, .. }) = &self.retry_after {
            let until = humantime::format_rfc3339_seconds(*until);
            let words = format!("waiting until {until}, as the API asked: {why}");
            self.health.not_ready(in_words(&words, WAIT_HINT));
        } else {
            self.health.ready();
        }
    }

    /// Applies a fault of the connection, or of the API as a whole, to the limits, and logs it.
    ///
    /// A wait that the API asks for holds everything back, whatever the fault. A 503 without one is met by the
    /// limit of requests in flight, not by the rate gate: a service that fails a share of its requests does so at
    /// any rate, and one that is down at none, so the gate would find no rate to settle at.
    pub(super) fn fault(
        &mut self,
        fault: Fault,
        after: Option<Duration>,
        why: &str,
        Times { sent, now }: Times,
    ) {
        if let Some(after) = after {
            self.limits.rate.hold(now + after);
        }
        if fault == Fault::Throttled {
            self.is_there(now);
            self.limits.rate.throttled(sent, now);
        } else {
            if matches!(fault, Fault::Ambiguous | Fault::Unavailable) {
                self.limits.concurrency.overloaded(now);
            }
            let again = self.limits.asked_in_vain(sent);
            if self.limits.breaker.failed(now, fault == Fault::UnknownAnswer, again) {
                let what = if matches!(fault, Fault::UnknownAnswer | Fault::Unavailable) {
                    "the API gives no valid answer"
                } else {
                    "the API does not answer"
                };
                let hint = silence_hint(fault);
                warn!(api = %self.name, fault = fault.word(), why, hint, "{what}; keeping all events, and probing once a second");
                self.why_silent = in_words(&format!("{what}: {why}"), hint);
                self.report();
            }
        }
        if fault == Fault::Ambiguous {
            self.metrics.ambiguous.inc();
        }
        if !self.wait_as_asked(after, why, now) {
            self.fails(fault, why, now);
        }
    }

    /// Logs at intervals that events are tried again.
    pub(super) fn fails(&mut self, fault: Fault, why: &str, now: Instant) {
        if let Some(count) = self.fault_log.again(LOG_EVERY, now) {
            warn!(api = %self.name, fault = fault.word(), why, count, "publishing fails; retrying");
        }
    }

    /// Says that the API asks for a wait (`Retry-After`), if it does. Whether that was logged now.
    fn wait_as_asked(&mut self, after: Option<Duration>, why: &str, now: Instant) -> bool {
        let Some(after) = after.filter(|after| *after > BRIEF) else { return false };
        let ends = now + after;
        if self.retry_after.as_ref().is_none_or(|wait| wait.ends < ends) {
            let until = SystemTime::now() + after;
            self.retry_after = Some(RetryAfter { ends, until, why: why.to_owned() });
            self.report();
        }
        let Some(RetryAfter { until, .. }) = &self.retry_after else { return false };
        let Some(count) = self.retry_after_log.again(LOG_EVERY, now) else { return false };
        let until = humantime::format_rfc3339_seconds(*until);
        let hint = WAIT_HINT;
        warn!(api = %self.name, why, hint, %until, count, "the API asks for no requests until then (`Retry-After`); keeping all events, and retrying then");
        true
    }

    /// The wait that the API asked for is no more, if its time is over: there is an answer without one, or nothing
    /// left to get one with.
    pub(super) fn end_wait(&mut self, now: Instant) {
        if self.retry_after.take_if(|wait| wait.ends <= now).is_some() {
            self.report();
        }
    }
}

/// What to look at while an API gives no valid answer.
fn silence_hint(fault: Fault) -> &'static str {
    match fault {
        Fault::UnknownAnswer => {
            "is `endpoint` that of an Event API, or does a proxy answer in its place?"
        }
        Fault::Unavailable => {
            "it is the service's to mend: see its health, or a proxy before it; nothing is lost meanwhile"
        }
        Fault::Ambiguous => {
            "check the network and any proxy; if it answers slowly, raise `timeout`"
        }
        _ => "check the host and port of `endpoint`, DNS, the network and `HTTPS_PROXY`",
    }
}

/// A clause and what to do about it, in one line.
fn in_words(what: &str, hint: &str) -> String {
    let what = what.trim_end_matches('.');
    if hint.is_empty() { what.to_owned() } else { format!("{what}; {hint}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_an_api_fails_by_there_is_something_to_do() {
        for fault in Fault::ALL {
            assert!(silence_hint(fault).len() > 20, "{}", fault.word());
        }
        assert_eq!(in_words("it refuses us: no.", "ask"), "it refuses us: no; ask");
        assert_eq!(in_words("it refuses us", ""), "it refuses us");
    }

    #[test]
    fn an_acceptance_proves_the_credentials_for_other_namespaces_but_not_its_own() {
        let (mut acceptances, now) = (Acceptances::default(), Instant::now());
        let speak =
            |acceptances: &Acceptances, name: &str, at| acceptances.elsewhere(&Scope::of(name), at);
        assert!(!speak(&acceptances, "a", now));
        acceptances.note("a", now);
        acceptances.note("a", now);
        assert!(!speak(&acceptances, "a", now) && speak(&acceptances, "b", now));
        assert!(!acceptances.elsewhere(&Scope::Api, now));
        let later = now + ACCEPTED_LATELY / 2;
        acceptances.note("b", later);
        assert!(speak(&acceptances, "a", later) && speak(&acceptances, "b", later));
        assert!(
            !speak(&acceptances, "b", now + ACCEPTED_LATELY)
                && speak(&acceptances, "a", now + ACCEPTED_LATELY)
        );
        acceptances.note("a", later);
        assert!(speak(&acceptances, "b", now + ACCEPTED_LATELY));
    }
}
