//! Writes the letters of one dead letter, and settles each once it is confirmed.
//!
//! No letter is given up: a failed write is retried, and its messages stay unsettled meanwhile.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tracing::{info, warn};

use super::{Record, Target};
use crate::backoff::Backoff;
use crate::delivery::{Delivery, Done, Outcome};
use crate::health::Part;
use crate::metrics::{DeadLetterMetrics, Fails};
use crate::repeats::Repeats;
use crate::seeded_bugs::{self, Bug};
use crate::shutdown::Shutdown;

/// Most records in one write.
const LETTERS_AT_ONCE: usize = 256;

/// How often a line for the same route and reason is logged.
const LOG_EVERY: Duration = Duration::from_mins(5);

/// A record on its way into a dead letter, with the duty that its confirmation ends.
#[derive(Debug)]
pub struct Letter {
    pub(crate) record: Record,
    pub(crate) delivery: Delivery,
}

impl Letter {
    /// A record whose confirmation ends `delivery` as dead-lettered.
    pub fn new(record: Record, delivery: Delivery) -> Self {
        Self { record, delivery }
    }
}

/// Writes the letters of one dead letter, and settles each when it is confirmed. A failed write is retried
/// until it works or the abort comes: meanwhile the sources hold the unsettled messages.
pub async fn write_letters<T: Target>(
    mut target: T,
    mut letters: mpsc::UnboundedReceiver<Letter>,
    metrics: DeadLetterMetrics,
    health: Part,
    shutdown: Shutdown,
) {
    target.tell_end(&metrics);
    let (mut batch, mut log) = (Vec::new(), LetterLog::of(&target));
    let mut fails = None;
    // Letters do not wait for the probe: writing them finds the same faults.
    tokio::select! {
        () = open(&mut target, &metrics, &mut fails, &health) => {}
        _ = letters.recv_many(&mut batch, LETTERS_AT_ONCE) => {}
    }
    let mut ready = batch.is_empty();
    while !batch.is_empty() || letters.recv_many(&mut batch, LETTERS_AT_ONCE).await > 0 {
        let (records, duties): (Vec<Record>, Vec<Delivery>) =
            batch.drain(..).map(|letter| (letter.record, letter.delivery)).unzip();
        let (mut records, mut duties) = (records.as_slice(), duties.into_iter());
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        while !records.is_empty() {
            let failure = target.write(records).await.err();
            let unseen = failure.is_none() || seeded_bugs::is(Bug::DeadLetterUnconfirmed);
            let kept = match &failure {
                Some(failure) if !unseen => failure.kept.min(records.len()),
                _ => records.len(),
            };
            let (done, left) = records.split_at(kept);
            for (record, delivery) in done.iter().zip(&mut duties) {
                metrics.wrote(record.reason);
                log.note(record);
                delivery.settle(Outcome::Accepted(Done::DeadLettered));
            }
            records = left;
            let Some(error) = failure else { break };
            if backoff.failures() == 0 {
                warn!(%error, letters = left.len(), "dead letters can't be written; holding their messages and retrying");
            }
            fails.get_or_insert_with(|| metrics.fails());
            health.not_ready(error.to_string());
            tokio::select! {
                () = tokio::time::sleep(backoff.next_wait()) => {}
                () = shutdown.abort() => return,
            }
        }
        if backoff.failures() > 0 {
            info!("dead letters can be written again");
        }
        if backoff.failures() > 0 || !std::mem::replace(&mut ready, true) {
            fails = None;
            health.ready();
        }
    }
}

/// Waits until `target` can be written, and reports why it can't before.
async fn open<T: Target>(
    target: &mut T,
    metrics: &DeadLetterMetrics,
    fails: &mut Option<Fails>,
    health: &Part,
) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    while let Err(error) = target.open().await {
        if backoff.failures() == 0 {
            warn!(%error, "a probe of the dead letter failed: it could not be written now");
        }
        fails.get_or_insert_with(|| metrics.fails());
        health.not_ready(error.to_string());
        tokio::time::sleep(backoff.next_wait()).await;
    }
    *fails = None;
    health.ready();
}

/// Logs the rejects: a line for each route and reason, and not again for a while.
#[derive(Debug)]
struct LetterLog {
    place: String,
    /// How they are sent again.
    again: String,
    named: HashMap<(Option<Arc<str>>, &'static str), Repeats>,
}

impl LetterLog {
    fn of(target: &impl Target) -> Self {
        Self { place: target.place(), again: target.again(), named: HashMap::new() }
    }

    fn note(&mut self, record: &Record) {
        let key = (record.route.clone(), record.reason);
        let named = self.named.entry(key).or_default();
        let Some(letters) = named.again(LOG_EVERY, Instant::now()) else { return };
        warn!(
            source = %record.message.source,
            topic = record.message.topic.as_str(),
            route = record.route.as_deref(),
            reason = record.reason,
            detail = record.detail,
            letters,
            kept_in = self.place,
            hint = self.again,
            "can't be published, and is kept"
        );
    }
}

/// However the writer ends, what was not said yet is said.
impl Drop for LetterLog {
    fn drop(&mut self) {
        for ((route, reason), named) in &mut self.named {
            let letters = named.rest();
            if letters > 0 {
                let (route, kept_in, hint) = (route.as_deref(), &self.place, &self.again);
                warn!(
                    route,
                    reason, letters, kept_in, hint, "more could not be published, and are kept"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dead_letter::{WriteError, tests::record};
    use crate::delivery::tests::{Log, delivery};
    use crate::health::Health;
    use crate::message::tests::message;
    use crate::metrics::Metrics;

    /// Full, or not.
    struct Disk(bool);

    impl Target for Disk {
        fn place(&self) -> String {
            "a disk".to_owned()
        }

        async fn write(&mut self, _: &[Record]) -> Result<(), WriteError> {
            if self.0 { Err(WriteError { kept: 0, why: "full".into() }) } else { Ok(()) }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_writer_that_is_given_up_while_it_fails_does_not_fail_for_ever() {
        let (metrics, health) = (Metrics::new(), Health::default());
        let failing = || {
            let text = metrics.encode();
            text.contains("dead_letter_failing{dead_letter=\"rejects\"} 1\n")
        };
        let (log, clocks) = (Arc::new(Log::default()), [Shutdown::new(), Shutdown::new()]);
        let mut writers = Vec::new();
        for (full, clock) in [true, false].into_iter().zip(&clocks) {
            let (letters, queue) = mpsc::unbounded_channel();
            let numbers = metrics.dead_letter("rejects", ["invalid_json"]);
            let part = health.register("dead_letter rejects", "not opened");
            let run = write_letters(Disk(full), queue, numbers, part, clock.clone());
            writers.push((letters, tokio::spawn(run)));
        }
        let letter = |number| {
            let record = Record { reason: "invalid_json", ..record(message("{")) };
            Letter::new(record, delivery(&log, number))
        };
        let (old, new) = (&writers[0].0, &writers[1].0);
        assert!(old.send(letter(1)).is_ok());
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(failing());
        assert!(new.send(letter(2)).is_ok());
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(failing(), "the messages of the old one are held");
        clocks[0].start_abort();
        writers.remove(0).1.await.unwrap();
        assert!(!failing());
        drop(writers.remove(0).0);
    }
}
