//! Numbers of dead letters.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

use super::{Metrics, label};

/// Numbers of one dead letter.
#[derive(Clone, Debug)]
pub struct DeadLetterMetrics {
    /// Whether letters can't be written: their messages are held.
    failing: Arc<Failing>,
    /// When the credentials in use end, in seconds since 1970; 0 where that is not known.
    pub credentials_expiry: Gauge,
    /// The series of the reason, which all dead letters share, and this one's part of it.
    written: BTreeMap<&'static str, (Counter, Counter)>,
}

/// The writers of one dead letter that can't write.
#[derive(Debug)]
struct Failing {
    writers: Mutex<usize>,
    gauge: Gauge,
}

/// A writer that can't write.
#[derive(Debug)]
pub struct Fails(Arc<Failing>);

impl Metrics {
    /// The numbers of a dead letter, from zero for each of `reasons`.
    pub fn dead_letter(
        &self,
        name: &str,
        reasons: impl IntoIterator<Item = &'static str>,
    ) -> DeadLetterMetrics {
        if let Some(known) = self.made_dead_letter(name) {
            return known;
        }
        let written = |reason: &'static str| {
            let help = "Messages written to a dead letter";
            let all = self.one("dead_letters", help, &label("reason", reason));
            (reason, (all, Counter::default()))
        };
        let metrics = DeadLetterMetrics {
            failing: Arc::new(Failing {
                writers: Mutex::new(0),
                gauge: self.one(
                    "dead_letter_failing",
                    "1 while dead letters can't be written, and their messages are held",
                    &label("dead_letter", name),
                ),
            }),
            credentials_expiry: self.credentials_expiry("dead_letter", name),
            written: reasons.into_iter().map(written).collect(),
        };
        self.made.lock().dead_letters.insert(name.to_owned(), metrics.clone());
        metrics
    }

    /// The numbers of a dead letter, if any were made.
    pub fn made_dead_letter(&self, name: &str) -> Option<DeadLetterMetrics> {
        self.made.lock().dead_letters.get(name).cloned()
    }
}

impl DeadLetterMetrics {
    /// A writer can't write, until what this gives is dropped. After a reload there may be two of one name.
    #[must_use]
    pub fn fails(&self) -> Fails {
        self.failing.count(|writers| writers + 1);
        Fails(Arc::clone(&self.failing))
    }

    /// A letter was written for `reason`, one of those the metrics were made with.
    pub fn wrote(&self, reason: &'static str) {
        if let Some((all, own)) = self.written.get(reason) {
            all.inc();
            own.inc();
        }
    }

    /// The letters by reason.
    pub fn written(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.written.iter().map(|(reason, (_, own))| (*reason, own.get()))
    }
}

impl Failing {
    fn count(&self, count: impl FnOnce(usize) -> usize) {
        let mut writers = self.writers.lock();
        *writers = count(*writers);
        self.gauge.set((*writers > 0).into());
    }
}

impl Drop for Fails {
    fn drop(&mut self) {
        self.0.count(|writers| writers - 1);
    }
}
