//! Faults on demand: what the emulator does wrong, to whom, and how often. Pure: told the time, it
//! says what to do; `http` does it, `control` changes the list.
//!
//! Only publishes over HTTP are struck. A fault is a JSON object; `fault` holds one kind:
//!
//! | kind | fields | what happens |
//! | --- | --- | --- |
//! | `throttle` | `requests_per_second`, `events_per_second`, `retry_after` (s) | 429 `ThrottlingException` beyond a bucket of a second's worth |
//! | `answer` | `status`, `body`, `headers`, `when` | that answer; a `body` that is a text goes out literally, anything else as JSON |
//! | `refuse_namespace` | | 401 `UnauthorizedException` without a message, as for an unknown namespace |
//! | `handler_refuses` | `error_type`, `message` | 403 with the words of an `onPublish` handler |
//! | `fail_events` | `code`, `message`, `probability`, `indexes` | these events are named in `failed`; a code of digits goes out as a number |
//! | `wrong_answer` | a word | the events are taken, and the answer is `missing` the last, has the first `doubled` or `in_both_lists`, has an index `out_of_range`, is `truncated` or `empty` |
//! | `hang` | `when` | no answer until the fault is lifted or over; then all goes on |
//! | `cut` | `when` | the connection ends without an answer |
//! | `slow` | `delay`, `jitter`, `when` | that much later, and up to `jitter` more |
//! | `clock` | `offset` | signatures are checked, and `Date` is written, by a clock that is off, such as `-10m` |
//! | `headers` | a map | these are added to whatever the answer is, such as `age` or a bad `date` |
//!
//! `when` is `before` the events are taken (the default, but for `slow`) or `after` they are in the
//! ledger. What strikes before stands in front of everything, the check of the caller included.
//!
//! Beside `fault`: `namespace` and `channel` say whom it strikes, `skip` how many requests are let
//! through first, `times` how often it strikes at most, `for` how long, `probability` how likely, and
//! `seed` repeats the dice. The dice of a list fall the same way every time, in order of arrival.
//! Faults are asked in their order; after one that ends the request the rest is not asked.

mod body;
mod fields;
mod rules;
mod spec;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use serde_json::Value;
use tokio::sync::watch;

pub(super) use body::answer_body;
use rules::Rules;
pub(super) use rules::{EventFailure, Stage, Strike, Subject};
pub use spec::{Fault, FaultError};
use spec::{Kind, Wrong};

/// The list in force, shared by all connections.
pub(super) struct Faults {
    rules: Mutex<Rules>,
    /// Counts the changes of the list, for those who hang.
    changes: watch::Sender<u64>,
}

impl Faults {
    /// These faults, from now on.
    pub(super) fn new(faults: Vec<Fault>, now: Instant) -> Self {
        let rules = Mutex::new(Rules::new(faults, now));
        Self { rules, changes: watch::Sender::new(0) }
    }

    /// Puts these in the place of all others, and lets go what hangs.
    pub(super) fn replace(&self, faults: Vec<Fault>, now: Instant) {
        *self.rules() = Rules::new(faults, now);
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// Hears of every change of the list from now on.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The list as it was written, each with `asked`, `struck` and `events`.
    pub(super) fn show(&self) -> Value {
        self.rules().show()
    }

    /// What happens to a request at this stage, in this order.
    pub(super) fn strikes(&self, stage: Stage, subject: Subject<'_>, now: Instant) -> Vec<Strike> {
        self.rules().strikes(stage, subject, now)
    }

    /// The time that the clock shows; `None` if it is right.
    pub(super) fn clock(&self, subject: Subject<'_>, now: Instant) -> Option<SystemTime> {
        let offset = self.rules().first(subject, now, |kind| match kind {
            Kind::Clock { offset } => Some(*offset),
            _ => None,
        })?;
        Some(offset.apply(SystemTime::now()))
    }

    /// What is wrong with the answer to events that were taken.
    pub(super) fn wrong(&self, subject: Subject<'_>, now: Instant) -> Option<Wrong> {
        self.rules().first(subject, now, |kind| match kind {
            Kind::WrongAnswer(wrong) => Some(*wrong),
            _ => None,
        })
    }

    /// Which events fail that would be accepted, by their position.
    pub(super) fn failures(&self, subject: Subject<'_>, now: Instant) -> Vec<Option<EventFailure>> {
        self.rules().failures(subject, now)
    }

    /// Whether there is nothing to ask.
    pub(super) fn is_empty(&self) -> bool {
        self.rules().is_empty()
    }

    fn rules(&self) -> MutexGuard<'_, Rules> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
