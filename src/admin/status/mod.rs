//! `/status`: how every part does, for the page and for scripts. Made of the typed metrics, the states of the
//! parts, the last lines of the log and a short history; what is a number here is the same in `/metrics`.
//!
//! Not here: the configuration, of which only [`Facts`] are known, and what is done about any of it.

mod document;
mod history;
mod numbers;

use std::convert::Infallible;
use std::time::{Instant, SystemTime};

use parking_lot::Mutex;
use serde_json::Value;

use super::facts::Facts;
use crate::health::Health;
use crate::metrics::Metrics;
use crate::redact;
use crate::shutdown::Shutdown;
use document::Document;
use history::{History, STEP};
use numbers::Numbers;

/// What `/status` is made of.
#[derive(Debug)]
pub(super) struct Status {
    metrics: Metrics,
    health: Health,
    shutdown: Shutdown,
    started: SystemTime,
    shown: Mutex<Shown>,
}

/// The parts, and what they did.
#[derive(Debug)]
struct Shown {
    numbers: Numbers,
    history: History,
}

impl Status {
    /// Of the parts that are built by now.
    pub(super) fn new(facts: Facts, metrics: &Metrics, health: Health, shutdown: Shutdown) -> Self {
        let shown = Shown { numbers: Numbers::of(facts, metrics), history: History::default() };
        let (metrics, started, shown) = (metrics.clone(), SystemTime::now(), Mutex::new(shown));
        Self { metrics, health, shutdown, started, shown }
    }

    /// Shows these parts from now on. Those that were shown before keep their history.
    pub(super) fn show(&self, facts: Facts) {
        let numbers = Numbers::of(facts, &self.metrics);
        let mut shown = self.shown.lock();
        let places = numbers.places_in(&shown.numbers);
        shown.history.reorder(&places);
        shown.numbers = numbers;
    }

    /// Takes a reading at each step, for ever.
    pub(super) async fn sample(&self) -> Infallible {
        let mut clock = tokio::time::interval(STEP);
        clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            clock.tick().await;
            let mut shown = self.shown.lock();
            let reading = shown.numbers.read(Instant::now());
            shown.history.note(reading);
        }
    }

    /// The document, without secrets.
    pub(super) fn document(&self) -> Result<String, serde_json::Error> {
        let shown = self.shown.lock();
        let reading = shown.numbers.read(Instant::now());
        let document = Document {
            numbers: &shown.numbers,
            standings: self.health.standings(),
            stuck: self.health.stuck(),
            draining: self.shutdown.is_draining(),
            started: self.started,
            now: SystemTime::now(),
            reading: &reading,
            history: &shown.history,
        };
        let mut value = document.value()?;
        drop(shown);
        clean(&mut value);
        serde_json::to_string(&value)
    }
}

/// Masks the secrets in texts. Names of members are ours, and a reader needs them unchanged.
pub(super) fn clean(value: &mut Value) {
    match value {
        Value::String(text) => {
            if let std::borrow::Cow::Owned(cleaned) = redact::clean(text) {
                *text = cleaned;
            }
        }
        Value::Array(values) => values.iter_mut().for_each(clean),
        Value::Object(members) => members.values_mut().for_each(clean),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
