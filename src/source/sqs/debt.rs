//! What is owed for one message of SQS, and which of them go next. Pure.

use std::collections::{HashSet, VecDeque};
use std::time::Instant;

use super::receipt::Receipt;
use crate::aws::sqs::BATCH;
use crate::message::OrderKey;
use crate::source::Place;

/// What is owed for one message.
#[derive(Debug)]
pub(super) struct Debt {
    pub(super) receipt: Receipt,
    /// Of a message that is to be deleted: it is in flight until that is confirmed, or SQS says that it is not ours.
    pub(super) place: Option<Place>,
    /// When it was received, as far as its lease may be extended.
    pub(super) received: Instant,
    /// When its lease ends.
    pub(super) due: Instant,
    /// Its lease has ended, or was ended.
    pub(super) lost: bool,
    /// It is asked for, and that is not answered.
    pub(super) asked: bool,
    pub(super) since: Instant,
    pub(super) not_before: Instant,
    /// No answer came to its last request: it waits for its time, or for the answer to another.
    pub(super) unheard: bool,
    pub(super) tries: u32,
}

impl Debt {
    pub(super) fn new(receipt: Receipt, place: Option<Place>, due: Instant, now: Instant) -> Self {
        let (received, since, not_before) = (now, now, now);
        let (lost, asked, unheard, tries) = (false, false, false, 0);
        Self { receipt, place, received, due, lost, asked, since, not_before, unheard, tries }
    }
}

/// Takes the first that may go now, up to a batch, if they are `enough`: they are asked for. Of a group whose earlier one
/// may not go, none does; neither does any behind a lost one, which
/// may have to be deleted again when it comes.
pub(super) fn take_ready(
    queue: &mut VecDeque<Debt>,
    busy: &HashSet<OrderKey>,
    now: Instant,
    enough: impl FnOnce(&[&Debt]) -> bool,
) -> Option<Vec<Receipt>> {
    let mut held: HashSet<&OrderKey> = HashSet::new();
    let (mut places, mut ready) = (Vec::new(), Vec::new());
    for (at, debt) in queue.iter().enumerate() {
        let group = debt.receipt.group.as_ref();
        let waits = debt.asked
            || debt.not_before > now
            || group.is_some_and(|group| busy.contains(group) || held.contains(group));
        if waits {
            held.extend(group);
            continue;
        }
        // Whether it can be deleted is not known: nothing behind it goes with it.
        held.extend(group.filter(|_| debt.lost));
        places.push(at);
        ready.push(debt);
        if places.len() == BATCH {
            break;
        }
    }
    if ready.is_empty() || !enough(&ready) {
        return None;
    }
    let take = |at: usize| {
        let debt = &mut queue[at];
        debt.asked = true;
        debt.receipt.clone()
    };
    Some(places.into_iter().map(take).collect())
}
