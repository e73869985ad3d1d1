//! Faults on demand: the list of them, and its decision on each request. `http` carries it out,
//! `control` changes the list.
//!
//! Faults apply to publishes over HTTP only. A fault is a JSON object; `fault` holds one kind:
//!
//! | kind | fields | effect |
//! | --- | --- | --- |
//! | `throttle` | `requests_per_second`, `events_per_second`, `retry_after` (s) | 429 `ThrottlingException` above the rate; a full second's number may come at once |
//! | `answer` | `status`, `body`, `headers`, `when` | that answer; a `body` that is a string is sent literally, anything else as JSON |
//! | `refuse_namespace` | | 401 `UnauthorizedException` without a message, as for an unknown namespace |
//! | `handler_refuses` | `error_type`, `message` | 403 with the error of an `onPublish` handler |
//! | `fail_events` | `code`, `message`, `probability`, `indexes` | these events are listed in `failed`; a code of digits is sent as a number |
//! | `wrong_answer` | a word | the events are accepted, but the answer is `missing` the last, has the first `doubled` or `in_both_lists`, has an index `out_of_range`, is `truncated` or `empty` |
//! | `hang` | `when` | no answer until the fault is removed or over; then the request continues |
//! | `cut` | `when` | the connection ends without an answer |
//! | `slow` | `delay`, `jitter`, `when` | a delay, and up to `jitter` more |
//! | `clock` | `offset` | the clock for signatures and `Date` is wrong by this much, such as `-10m` |
//! | `headers` | a map | these are added to any answer, such as `age` or a bad `date` |
//!
//! `when` is `before` the events are accepted (the default, except for `slow`) or `after` they are in
//! the ledger. A fault `before` comes first of all, even before the check of the credentials.
//!
//! Fields beside `fault`: `namespace` and `channel` limit its scope, `skip` is the number of requests
//! that pass first, `times` the number that it strikes at most, `for` its duration, `probability` the
//! chance for each request, `seed` that of its random numbers. Without a `seed` they are the same for
//! every start of the list, too; they are drawn in order of arrival. Faults are evaluated in the order
//! of the list, until one ends the request.

mod body;
mod fields;
mod rules;
mod spec;

use std::time::{Instant, SystemTime};

use parking_lot::Mutex;
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
    /// The number of changes of the list, awaited by requests that hang.
    changes: watch::Sender<u64>,
}

impl Faults {
    /// A list in force from `now` on.
    pub(super) fn new(faults: Vec<Fault>, now: Instant) -> Self {
        let rules = Mutex::new(Rules::new(faults, now));
        Self { rules, changes: watch::Sender::new(0) }
    }

    /// Replaces the list, and wakes the requests that hang.
    pub(super) fn replace(&self, faults: Vec<Fault>, now: Instant) {
        *self.rules.lock() = Rules::new(faults, now);
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// Subscribes to the changes of the list from now on.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The list as it was written, each with `asked`, `struck` and `events`.
    pub(super) fn show(&self) -> Value {
        self.rules.lock().show()
    }

    /// How often those of the list have struck together.
    pub(super) fn struck(&self) -> u64 {
        self.rules.lock().struck()
    }

    /// The strikes on a request at this stage, in their order.
    pub(super) fn strikes(&self, stage: Stage, subject: Subject<'_>, now: Instant) -> Vec<Strike> {
        self.rules.lock().strikes(stage, subject, now)
    }

    /// The time of the clock; `None` if it is right.
    pub(super) fn clock(&self, subject: Subject<'_>, now: Instant) -> Option<SystemTime> {
        let offset = self.rules.lock().first(subject, now, |kind| match kind {
            Kind::Clock { offset } => Some(*offset),
            _ => None,
        })?;
        Some(offset.apply(SystemTime::now()))
    }

    /// The error in the answer to accepted events, if any.
    pub(super) fn wrong(&self, subject: Subject<'_>, now: Instant) -> Option<Wrong> {
        self.rules.lock().first(subject, now, |kind| match kind {
            Kind::WrongAnswer(wrong) => Some(*wrong),
            _ => None,
        })
    }

    /// The failures of otherwise accepted events, by their position.
    pub(super) fn failures(&self, subject: Subject<'_>, now: Instant) -> Vec<Option<EventFailure>> {
        self.rules.lock().failures(subject, now)
    }

    /// Whether there are no faults.
    pub(super) fn is_empty(&self) -> bool {
        self.rules.lock().is_empty()
    }
}
