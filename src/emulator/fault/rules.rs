//! The rules of a list of faults, and what they decide about a request. Pure: it takes the time.

use std::time::{Duration, Instant};

use axum::body::Body;
use http::{HeaderMap, Response, StatusCode, header};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};

use super::fields::LiteralBody;
use super::spec::{Fault, Kind, When};
use crate::emulator::answer::json_answer;
use crate::emulator::rate::Rate;
use crate::event_api::Channel;
use crate::event_api::wire::{ErrorAnswer, ErrorItem};

/// A list of faults, with the counts of each.
#[derive(Default)]
pub(super) struct Rules(Vec<Rule>);

struct Rule {
    fault: Fault,
    /// The end of its duration.
    end: Option<Instant>,
    random: StdRng,
    requests: Option<Rate>,
    events: Option<Rate>,
    counts: Counts,
}

#[derive(Clone, Copy, Default)]
struct Counts {
    /// Requests in its scope and its time.
    asked: u64,
    /// Requests that it struck.
    struck: u64,
    /// Events of the requests that it struck; for `fail_events`, those that it failed.
    events: u64,
}

/// The properties of a request that its faults depend on.
#[derive(Clone, Copy)]
pub(crate) struct Subject<'a> {
    /// `None` if it cannot be read.
    pub(crate) channel: Option<&'a Channel>,
    pub(crate) events: usize,
}

/// The progress of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It was read.
    Arrived,
    /// It has an answer, perhaps from another fault.
    Answered,
}

/// The effect of a fault on a request.
#[derive(Debug)]
pub(crate) enum Strike {
    /// Wait.
    Wait(Duration),
    /// Wait for the list to change or this time to come.
    Hang(Option<Instant>),
    /// End the connection; ends the request.
    Cut,
    /// Answer this instead; ends the request.
    Answer(Response<Body>),
    /// Add to the answer.
    Headers(HeaderMap),
}

/// The failure of one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EventFailure {
    pub(crate) code: String,
    pub(crate) message: String,
}

impl Rules {
    pub(super) fn new(faults: Vec<Fault>, now: Instant) -> Self {
        let rule = |(index, fault)| Rule::new(fault, index, now);
        Self((0..).zip(faults).map(rule).collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn struck(&self) -> u64 {
        self.0.iter().map(|rule| rule.counts.struck).sum()
    }

    pub(super) fn show(&self) -> Value {
        let show = |rule: &Rule| {
            let mut shown = rule.fault.text.clone();
            let Counts { asked, struck, events } = rule.counts;
            for (name, count) in [("asked", asked), ("struck", struck), ("events", events)] {
                shown[name] = json!(count);
            }
            shown
        };
        self.0.iter().map(show).collect()
    }

    pub(super) fn strikes(
        &mut self,
        stage: Stage,
        subject: Subject<'_>,
        now: Instant,
    ) -> Vec<Strike> {
        let mut strikes = Vec::new();
        for rule in self.0.iter_mut().filter(|rule| rule.stage() == Some(stage)) {
            let Some(strike) = rule.strike(subject, now) else { continue };
            let last = matches!(strike, Strike::Cut | Strike::Answer(_));
            strikes.push(strike);
            if last {
                break;
            }
        }
        strikes
    }

    /// The first fault of a kind that strikes; `of` selects the kind.
    pub(super) fn first<T>(
        &mut self,
        subject: Subject<'_>,
        now: Instant,
        of: impl Fn(&Kind) -> Option<T>,
    ) -> Option<T> {
        self.0.iter_mut().find_map(|rule| {
            let found = of(&rule.fault.spec.fault)?;
            rule.applies_to(subject, now).then(|| rule.struck(subject.events))?;
            Some(found)
        })
    }

    pub(super) fn failures(
        &mut self,
        subject: Subject<'_>,
        now: Instant,
    ) -> Vec<Option<EventFailure>> {
        let mut failures = vec![None; subject.events];
        for rule in &mut self.0 {
            let Kind::FailEvents { code, message, probability, indexes } =
                rule.fault.spec.fault.clone()
            else {
                continue;
            };
            if !rule.applies_to(subject, now) {
                continue;
            }
            let mut failed = 0;
            for (index, failure) in failures.iter_mut().enumerate() {
                let meant = indexes.is_empty() || indexes.contains(&index);
                // An event fails once.
                if meant && failure.is_none() && rule.random.random_bool(probability) {
                    *failure = Some(EventFailure { code: code.clone(), message: message.clone() });
                    failed += 1;
                }
            }
            if failed > 0 {
                rule.struck(failed);
            }
        }
        failures
    }
}

impl Rule {
    fn new(fault: Fault, index: u64, now: Instant) -> Self {
        let spec = &fault.spec;
        let (requests, events) = match spec.fault {
            Kind::Throttle { requests_per_second, events_per_second, .. } => {
                let rate = |n: Option<u32>| n.map(|n| Rate::new(n, now));
                (rate(requests_per_second), rate(events_per_second))
            }
            _ => (None, None),
        };
        Self {
            end: spec.lasts.and_then(|lasts| now.checked_add(lasts)),
            random: StdRng::seed_from_u64(spec.seed.unwrap_or(index)),
            requests,
            events,
            counts: Counts::default(),
            fault,
        }
    }

    /// `None` for a kind that is evaluated elsewhere.
    fn stage(&self) -> Option<Stage> {
        let side = |when: When| match when {
            When::Before => Stage::Arrived,
            When::After => Stage::Answered,
        };
        match &self.fault.spec.fault {
            Kind::Throttle { .. } | Kind::RefuseNamespace {} | Kind::HandlerRefuses { .. } => {
                Some(Stage::Arrived)
            }
            Kind::Answer { when, .. }
            | Kind::Hang { when }
            | Kind::Cut { when }
            | Kind::Slow { when, .. } => Some(side(*when)),
            Kind::Headers(_) => Some(Stage::Answered),
            Kind::FailEvents { .. } | Kind::WrongAnswer(_) | Kind::Clock { .. } => None,
        }
    }

    /// Whether it strikes this request, but for its rate; counts the request as asked.
    fn applies_to(&mut self, subject: Subject<'_>, now: Instant) -> bool {
        let spec = &self.fault.spec;
        let namespace = subject.channel.map(Channel::namespace);
        let in_scope = spec.namespace.as_deref().is_none_or(|wanted| namespace == Some(wanted))
            && spec.channel.as_ref().is_none_or(|wanted| subject.channel == Some(wanted));
        let over = self.end.is_some_and(|end| now >= end)
            || spec.times.is_some_and(|times| self.counts.struck >= times);
        if !in_scope || over {
            return false;
        }
        self.counts.asked += 1;
        self.counts.asked > spec.skip && self.random.random_bool(spec.probability)
    }

    fn struck(&mut self, events: usize) {
        self.counts.struck += 1;
        self.counts.events += events as u64;
    }

    fn strike(&mut self, subject: Subject<'_>, now: Instant) -> Option<Strike> {
        if !self.applies_to(subject, now) || self.has_room(subject, now) {
            return None;
        }
        let strike = match &self.fault.spec.fault {
            Kind::Throttle { retry_after, .. } => {
                let status = StatusCode::TOO_MANY_REQUESTS;
                let mut answer = error(status, "ThrottlingException", Some("Rate exceeded"));
                let seconds = retry_after.map(|seconds| (header::RETRY_AFTER, seconds.into()));
                answer.headers_mut().extend(seconds);
                Strike::Answer(answer)
            }
            Kind::RefuseNamespace {} => {
                Strike::Answer(error(StatusCode::UNAUTHORIZED, "UnauthorizedException", None))
            }
            Kind::HandlerRefuses { error_type, message } => {
                Strike::Answer(error(StatusCode::FORBIDDEN, error_type, message.as_deref()))
            }
            Kind::Answer { status, body, headers, .. } => {
                Strike::Answer(literal(*status, body, headers))
            }
            Kind::Hang { .. } => Strike::Hang(self.end),
            Kind::Cut { .. } => Strike::Cut,
            Kind::Slow { delay, jitter, .. } => {
                Strike::Wait(*delay + jitter.mul_f64(self.random.random_range(0.0..=1.0)))
            }
            Kind::Headers(headers) => Strike::Headers(headers.clone()),
            Kind::FailEvents { .. } | Kind::WrongAnswer(_) | Kind::Clock { .. } => return None,
        };
        self.struck(subject.events);
        Some(strike)
    }

    /// Whether it is a throttle and its rate allows this request.
    fn has_room(&mut self, subject: Subject<'_>, now: Instant) -> bool {
        let events = u32::try_from(subject.events).unwrap_or(u32::MAX);
        match (&mut self.requests, &mut self.events) {
            (None, None) => false,
            (requests, of_events) => {
                requests.as_mut().is_none_or(|rate| rate.admit(now))
                    && of_events.as_mut().is_none_or(|rate| rate.admit_many(events, now))
            }
        }
    }
}

fn error(status: StatusCode, kind: &str, message: Option<&str>) -> Response<Body> {
    let text = |text: &str| Some(text.to_owned().into());
    let (error_type, message) = (text(kind), message.and_then(text));
    let item = ErrorItem { error_type, message, ..ErrorItem::default() };
    json_answer(status, &ErrorAnswer { errors: vec![item] })
}

fn literal(status: StatusCode, body: &LiteralBody, headers: &HeaderMap) -> Response<Body> {
    let mut answer = Response::new(Body::from(body.bytes.clone()));
    *answer.status_mut() = status;
    if let Some(kind) = &body.kind {
        answer.headers_mut().insert(header::CONTENT_TYPE, kind.clone());
    }
    answer.headers_mut().extend(headers.clone());
    answer
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
