//! The members of `/status`.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::metrics::gauge::Gauge;
use serde::Serialize;
use serde_json::{Value, json};

use super::history::{History, Reading, STEP};
use super::numbers::Numbers;
use crate::admin::facts::{ApiFacts, DeadLetterFacts, RouteFacts, SourceFacts};
use crate::health::{Pause, Standing};
use crate::metrics::OUTCOMES;
use crate::telemetry;

/// What it is made of, at one moment.
pub(super) struct Document<'a> {
    pub(super) numbers: &'a Numbers,
    /// By the name of the part.
    pub(super) standings: BTreeMap<String, Standing>,
    /// Parts that do nothing any more.
    pub(super) stuck: Vec<String>,
    pub(super) draining: bool,
    pub(super) started: SystemTime,
    pub(super) now: SystemTime,
    pub(super) reading: &'a Reading,
    pub(super) history: &'a History,
}

/// Counts by a word of a fixed list; those at zero are left out.
type Counts = BTreeMap<&'static str, u64>;

/// Whether a part does its work.
#[derive(Serialize)]
struct State {
    /// `ready`, `not_ready`, or `stopped` when the part has ended.
    #[serde(rename = "state")]
    word: &'static str,
    /// Why it is not ready, and what ends that.
    why: Option<String>,
    since: Option<String>,
}

#[derive(Serialize)]
struct Source<'a> {
    #[serde(flatten)]
    facts: &'a SourceFacts,
    #[serde(flatten)]
    state: State,
    connected: bool,
    received: u64,
    received_per_second: f64,
    in_flight: i64,
    in_flight_bytes: i64,
    lag: Option<i64>,
    settled: Counts,
    dropped: u64,
    unrouted: u64,
    reconnects: u64,
    /// Lately: from its time at the broker, or its arrival, half of the messages were published within this.
    delivery_p50_seconds: Option<f64>,
    delivery_p99_seconds: Option<f64>,
    credentials_end: Option<String>,
}

#[derive(Serialize)]
struct Route<'a> {
    #[serde(flatten)]
    facts: &'a RouteFacts,
    matched: u64,
    matched_per_second: f64,
    rejected: Counts,
    rejected_per_second: f64,
}

#[derive(Serialize)]
struct Api<'a> {
    #[serde(flatten)]
    facts: &'a ApiFacts,
    #[serde(flatten)]
    state: State,
    accepted: u64,
    accepted_per_second: f64,
    rejected: u64,
    unconfirmed: u64,
    requests: Counts,
    retries: Counts,
    reordered: u64,
    ambiguous: u64,
    expired: u64,
    metered_units: u64,
    estimated_cost: Cost<'a>,
    credentials_end: Option<String>,
    concurrency_limit: i64,
    rate_limit: f64,
    breaker_open: bool,
    paused: bool,
    pauses: Vec<Value>,
}

/// What publishing cost so far, by `[cost]`.
#[derive(Serialize)]
struct Cost<'a> {
    amount: f64,
    currency: &'a str,
}

#[derive(Serialize)]
struct DeadLetter<'a> {
    #[serde(flatten)]
    facts: &'a DeadLetterFacts,
    #[serde(flatten)]
    state: State,
    written: Counts,
}

impl Document<'_> {
    pub(super) fn value(&self) -> Result<Value, serde_json::Error> {
        let parts = self.standings.iter();
        let not_ready: Vec<_> =
            parts.filter_map(|(part, how)| Some((part, how.not_ready.as_deref()?))).collect();
        let state = match (self.draining, not_ready.is_empty()) {
            (true, _) => "draining",
            (false, true) => "ready",
            (false, false) => "not_ready",
        };
        let not_ready = not_ready.iter().map(|(part, why)| json!({ "part": part, "why": why }));
        let uptime = self.now.duration_since(self.started).unwrap_or_default().as_secs();
        Ok(json!({
            "version": env!("CARGO_PKG_VERSION"),
            "now": time(self.now),
            "started": time(self.started),
            "uptime_seconds": uptime,
            "state": state,
            "not_ready": not_ready.collect::<Vec<_>>(),
            "stuck": self.stuck,
            "sources": serde_json::to_value(self.sources())?,
            "routes": serde_json::to_value(self.routes())?,
            "apis": serde_json::to_value(self.apis())?,
            "dead_letters": serde_json::to_value(self.dead_letters())?,
            "log": log(),
            "history": self.history(),
        }))
    }

    fn sources(&self) -> Vec<Source<'_>> {
        let sources = self.numbers.sources.iter().enumerate();
        sources
            .map(|(at, (facts, numbers))| {
                let settled = OUTCOMES.into_iter().zip(&numbers.settled);
                Source {
                    state: self.state("source", &facts.name).0,
                    connected: numbers.connected.get() == 1,
                    received: self.reading.sources[at].received,
                    received_per_second: self
                        .history
                        .rate(self.reading, |r| r.sources[at].received),
                    in_flight: self.reading.sources[at].in_flight,
                    in_flight_bytes: numbers.in_flight_bytes.get(),
                    lag: self.numbers.metrics.lag(&facts.name),
                    settled: some(settled.map(|(outcome, count)| (outcome, count.get()))),
                    dropped: numbers.dropped.get(),
                    unrouted: numbers.unrouted.get(),
                    reconnects: numbers.reconnects.get(),
                    delivery_p50_seconds: self.took(0.5, at),
                    delivery_p99_seconds: self.took(0.99, at),
                    credentials_end: end(&numbers.credentials_expiry),
                    facts,
                }
            })
            .collect()
    }

    fn routes(&self) -> Vec<Route<'_>> {
        let routes = self.numbers.routes.iter().enumerate();
        routes
            .map(|(at, (facts, numbers))| Route {
                facts,
                matched: self.reading.routes[at].matched,
                matched_per_second: self.history.rate(self.reading, |r| r.routes[at].matched),
                rejected: some(numbers.rejected()),
                rejected_per_second: self.history.rate(self.reading, |r| r.routes[at].rejected),
            })
            .collect()
    }

    fn apis(&self) -> Vec<Api<'_>> {
        let apis = self.numbers.apis.iter().enumerate();
        apis.map(|(at, (facts, numbers))| {
            let (state, pauses) = self.state("api", &facts.name);
            Api {
                facts,
                state,
                accepted: self.reading.apis[at],
                accepted_per_second: self.history.rate(self.reading, |r| r.apis[at]),
                rejected: numbers.rejected.get(),
                unconfirmed: numbers.unconfirmed.get(),
                requests: some(numbers.requests()),
                retries: some(numbers.retries()),
                reordered: numbers.reordered.get(),
                ambiguous: numbers.ambiguous.get(),
                expired: numbers.expired.get(),
                metered_units: numbers.metered.get(),
                estimated_cost: Cost {
                    amount: numbers.cost.get(),
                    currency: &numbers.tariff().currency,
                },
                credentials_end: end(&numbers.credentials_expiry),
                concurrency_limit: numbers.concurrency.get(),
                rate_limit: numbers.rate.get().round(),
                breaker_open: numbers.breaker.get() == 1,
                paused: numbers.paused.get() == 1,
                pauses: pauses.iter().map(pause).collect(),
            }
        })
        .collect()
    }

    fn dead_letters(&self) -> Vec<DeadLetter<'_>> {
        let dead_letters = self.numbers.dead_letters.iter();
        dead_letters
            .map(|(facts, numbers)| DeadLetter {
                facts,
                state: self.state("dead_letter", &facts.name).0,
                written: some(numbers.written()),
            })
            .collect()
    }

    fn took(&self, share: f64, source: usize) -> Option<f64> {
        self.history.took(share, self.reading, source).map(|took| took.as_secs_f64())
    }

    fn history(&self) -> Value {
        let Numbers { sources, apis, .. } = self.numbers;
        let source = |(at, (facts, _)): (usize, &(SourceFacts, _))| {
            json!({
                "name": facts.name,
                "received_per_second": self.history.rates(|r| r.sources[at].received),
                "in_flight": self.history.values(|r| r.sources[at].in_flight),
            })
        };
        let api = |(at, (facts, _)): (usize, &(ApiFacts, _))| {
            let accepted = self.history.rates(|r| r.apis[at]);
            json!({ "name": facts.name, "accepted_per_second": accepted })
        };
        json!({
            "step_seconds": STEP.as_secs(),
            "sources": sources.iter().enumerate().map(source).collect::<Vec<_>>(),
            "apis": apis.iter().enumerate().map(api).collect::<Vec<_>>(),
            "dead_letters": self.history.values(|r| r.dead_letters),
        })
    }

    /// How a part does, and what of it is held up.
    fn state(&self, kind: &str, name: &str) -> (State, Vec<Pause>) {
        match self.standings.get(&format!("{kind} {name}")) {
            None => (State { word: "stopped", why: None, since: None }, Vec::new()),
            Some(Standing { not_ready, since, pauses }) => {
                let word = if not_ready.is_some() { "not_ready" } else { "ready" };
                let (why, since) = (not_ready.clone(), Some(time(*since)));
                (State { word, why, since }, pauses.clone())
            }
        }
    }
}

fn some(counts: impl IntoIterator<Item = (&'static str, u64)>) -> Counts {
    counts.into_iter().filter(|(_, count)| *count > 0).collect()
}

fn pause(pause: &Pause) -> Value {
    let Pause { scope, why, hint, since } = pause;
    json!({ "scope": scope, "why": why, "hint": hint, "since": time(*since) })
}

fn log() -> Vec<Value> {
    let line = |line: telemetry::Line| {
        let telemetry::Line { at, level, message, fields, count } = line;
        // A list: the order is that of the log, and a name may stand there twice.
        json!({ "at": time(at), "level": level, "message": message, "fields": fields, "count": count })
    };
    telemetry::recent().into_iter().map(line).collect()
}

/// A time of a metric; `None` where it is not known.
fn end(gauge: &Gauge) -> Option<String> {
    let seconds = u64::try_from(gauge.get()).ok().filter(|seconds| *seconds > 0)?;
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).map(time)
}

fn time(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}
