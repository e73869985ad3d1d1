//! What SQS is still to be told: which messages to delete, which to hand out again. Pure.
//!
//! Deletions gather, ten or 200 ms, and every entry is retried by itself until it is confirmed. Those of a FIFO
//! queue wait for nothing, and go in the order of their group: the next ones when those before are
//! answered. What goes back of a group goes back from its end: SQS keeps the whole group from everybody while one
//! message of it is not visible, so nobody can receive a later one before an earlier one.
//!
//! A receipt whose lease has ended is not used any more: the message may be somebody else's by now.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use super::receipt::Receipt;
use crate::aws::sqs::{BATCH, Failed};
use crate::backoff::full_jitter;
use crate::message::OrderKey;
use crate::source::{Lease, Place};

/// A deletion waits this long for others.
const GATHER: Duration = Duration::from_millis(200);

/// The first and the longest wait of an entry that failed.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// So often an entry is tried whose receipt SQS calls invalid: it may be wrong, but not for ever.
const STALE_TRIES: u32 = 20;

/// What is owed for one message.
#[derive(Debug)]
pub(super) struct Debt {
    pub(super) receipt: Receipt,
    /// Of a message that is to be deleted: it is in flight until that is confirmed.
    _place: Option<Place>,
    /// When it was received, as far as its lease may be extended.
    pub(super) received: Instant,
    /// When its lease ends.
    pub(super) due: Instant,
    since: Instant,
    not_before: Instant,
    tries: u32,
}

/// What is owed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// The message is done.
    Delete,
    /// It is not, and may be received again at once.
    Return,
}

/// What to ask for now.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) ask: Ask,
    pub(super) debts: Vec<Debt>,
}

/// All that is owed.
#[derive(Debug, Default)]
pub(super) struct Debts {
    /// In the order in which they were settled.
    deletions: VecDeque<Debt>,
    /// By their order of receipt, the last one first.
    returns: VecDeque<Debt>,
    /// Entries of requests that are not answered yet.
    asked: usize,
    /// Their groups.
    busy: HashSet<OrderKey>,
}

impl Debts {
    /// A message is done.
    pub(super) fn delete(&mut self, lease: Lease<Receipt>, place: Place, now: Instant) {
        let Lease { handle, since: received, due, .. } = lease;
        self.deletions.push_back(Debt { received, ..Debt::new(handle, Some(place), due, now) });
    }

    /// A message is not done, and goes back at `from`. After `due` anybody can receive it in any case.
    pub(super) fn give_back(&mut self, receipt: Receipt, due: Instant, from: Instant) {
        let at = self.returns.partition_point(|debt| debt.receipt.order > receipt.order);
        self.returns.insert(at, Debt::new(receipt, None, due, from));
    }

    /// What goes back does so now.
    pub(super) fn hurry(&mut self, now: Instant) {
        for debt in &mut self.returns {
            debt.not_before = debt.not_before.min(now);
        }
    }

    /// A message goes back: those behind it in its group do, too.
    pub(super) fn withdraw_behind(&mut self, receipt: &Receipt, now: Instant) {
        if receipt.group.is_none() {
            return;
        }
        let (back, deletions) = std::mem::take(&mut self.deletions)
            .into_iter()
            .partition::<Vec<_>, _>(|debt| debt.receipt.follows(receipt));
        self.deletions = deletions.into();
        for debt in back {
            self.give_back(debt.receipt, debt.due, now);
        }
    }

    /// A message that is to be deleted came again. False if none is it.
    pub(super) fn received_again(
        &mut self,
        receipt: &Receipt,
        since: Instant,
        due: Instant,
    ) -> bool {
        let known = self.deletions.iter_mut().find(|debt| debt.receipt.id == receipt.id);
        known
            .map(|debt| {
                debt.receipt.handle.clone_from(&receipt.handle);
                (debt.received, debt.due) = (since, due);
            })
            .is_some()
    }

    /// The next request, if there is one to make now; what gathers is asked for at once in a `hurry`. Counts what
    /// is given up into `lost`.
    pub(super) fn next(&mut self, now: Instant, hurry: bool, lost: &mut u64) -> Option<Request> {
        // Anybody can receive it.
        self.returns.retain(|debt| debt.due > now);
        let before = self.deletions.len();
        self.deletions.retain(|debt| debt.due > now);
        *lost += (before - self.deletions.len()) as u64;
        if let Some(debts) = take_ready(&mut self.returns, &self.busy, now, |_| true) {
            return Some(self.asking(Ask::Return, debts));
        }
        let gathered = |ready: &[&Debt]| {
            let waited = |debt: &&Debt| now.duration_since(debt.since) >= GATHER;
            let ordered = |debt: &&Debt| debt.receipt.group.is_some();
            hurry || ready.len() == BATCH || ready.iter().any(|d| waited(d) || ordered(d))
        };
        let debts = take_ready(&mut self.deletions, &self.busy, now, gathered)?;
        Some(self.asking(Ask::Delete, debts))
    }

    fn asking(&mut self, ask: Ask, debts: Vec<Debt>) -> Request {
        self.asked += debts.len();
        self.busy.extend(debts.iter().filter_map(|debt| debt.receipt.group.clone()));
        Request { ask, debts }
    }

    /// A request was answered, and these entries failed: they are retried. Gives how many are given up.
    pub(super) fn answered(&mut self, request: Request, failed: &[Failed], now: Instant) -> u64 {
        let mut lost = 0;
        let failed = self.back_again(request, |at, debt| {
            let failed = failed.iter().find(|failed| failed.at == at)?;
            debt.tries += 1;
            if failed.stale && debt.tries >= STALE_TRIES {
                lost += 1;
                return None;
            }
            Some(full_jitter(RETRY.0, RETRY.1, debt.tries - 1))
        });
        self.retry(failed, now);
        lost
    }

    /// A request failed as a whole: it is retried after a wait.
    pub(super) fn failed(&mut self, request: Request, wait: Duration, now: Instant) {
        let failed = self.back_again(request, |_, _| Some(wait));
        self.retry(failed, now);
    }

    /// The entries of an answered request that `wait` for another try.
    fn back_again(
        &mut self,
        request: Request,
        mut wait: impl FnMut(usize, &mut Debt) -> Option<Duration>,
    ) -> (Ask, Vec<(Debt, Duration)>) {
        let Request { ask, debts } = request;
        self.asked -= debts.len();
        for group in debts.iter().filter_map(|debt| debt.receipt.group.as_ref()) {
            self.busy.remove(group);
        }
        let again = debts.into_iter().enumerate();
        let again = again.filter_map(|(at, mut debt)| Some((wait(at, &mut debt)?, debt)));
        (ask, again.map(|(wait, debt)| (debt, wait)).collect())
    }

    fn retry(&mut self, (ask, debts): (Ask, Vec<(Debt, Duration)>), now: Instant) {
        let queue = match ask {
            Ask::Delete => &mut self.deletions,
            Ask::Return => &mut self.returns,
        };
        // In front, where they were.
        for (mut debt, wait) in debts.into_iter().rev() {
            debt.not_before = now + wait;
            queue.push_front(debt);
        }
        if ask == Ask::Return {
            queue.make_contiguous().sort_by_key(|debt| std::cmp::Reverse(debt.receipt.order));
        }
    }

    /// When [`next`](Self::next) has something to do, unless an answer comes before.
    pub(super) fn wakes(&self) -> Option<Instant> {
        let returns = self.heads(&self.returns).map(|debt| debt.not_before.min(debt.due));
        let deletions = self.heads(&self.deletions).map(|debt| {
            let gathered = debt.since + GATHER;
            let ready = if debt.receipt.group.is_some() { debt.since } else { gathered };
            ready.max(debt.not_before).min(debt.due)
        });
        returns.chain(deletions).min()
    }

    /// Those that wait for their time alone: of a group the first, unless an answer is awaited.
    fn heads<'a>(&'a self, queue: &'a VecDeque<Debt>) -> impl Iterator<Item = &'a Debt> {
        let mut seen: HashSet<&OrderKey> = HashSet::new();
        queue.iter().filter(move |debt| match &debt.receipt.group {
            Some(group) => !self.busy.contains(group) && seen.insert(group),
            None => true,
        })
    }

    /// Deletions whose lease ends by `by`: those to extend before then.
    pub(super) fn due(&self, by: Instant) -> impl Iterator<Item = &Debt> {
        self.deletions.iter().filter(move |debt| debt.due <= by)
    }

    /// The message is ours until `due`, if it is still to be deleted.
    pub(super) fn extended(&mut self, receipt: &Receipt, due: Instant) {
        let known = |debt: &&mut Debt| {
            debt.receipt.order == receipt.order && debt.receipt.handle == receipt.handle
        };
        if let Some(debt) = self.deletions.iter_mut().find(known) {
            debt.due = due;
        }
    }

    /// Whether nothing is owed.
    pub(super) fn is_empty(&self) -> bool {
        self.deletions.is_empty() && self.returns.is_empty() && self.asked == 0
    }

    /// All that is to be deleted, and all that is to go back, for a last try; but nothing that anybody can receive.
    pub(super) fn close(&mut self, now: Instant) -> (Vec<Receipt>, Vec<Receipt>) {
        let all = |queue: &mut VecDeque<Debt>| {
            let ours = std::mem::take(queue).into_iter().filter(|debt| debt.due > now);
            ours.map(|debt| debt.receipt).collect()
        };
        (all(&mut self.deletions), all(&mut self.returns))
    }
}

impl Debt {
    fn new(receipt: Receipt, place: Option<Place>, due: Instant, now: Instant) -> Self {
        let (received, since, not_before) = (now, now, now);
        Self { receipt, _place: place, received, due, since, not_before, tries: 0 }
    }
}

/// Takes out the first that may go now, up to a batch, if they are `enough`. Of a group whose earlier one may not go,
/// none does.
fn take_ready(
    queue: &mut VecDeque<Debt>,
    busy: &HashSet<OrderKey>,
    now: Instant,
    enough: impl FnOnce(&[&Debt]) -> bool,
) -> Option<Vec<Debt>> {
    let mut held: HashSet<&OrderKey> = HashSet::new();
    let (mut places, mut ready) = (Vec::new(), Vec::new());
    for (at, debt) in queue.iter().enumerate() {
        let group = debt.receipt.group.as_ref();
        let waits = debt.not_before > now
            || group.is_some_and(|group| busy.contains(group) || held.contains(group));
        if waits {
            held.extend(group);
            continue;
        }
        places.push(at);
        ready.push(debt);
        if places.len() == BATCH {
            break;
        }
    }
    if ready.is_empty() || !enough(&ready) {
        return None;
    }
    // As a rule they are the first.
    if places.last() == Some(&(places.len() - 1)) {
        return Some(queue.drain(..places.len()).collect());
    }
    let taken: Vec<_> = places.iter().rev().filter_map(|at| queue.remove(*at)).collect();
    Some(taken.into_iter().rev().collect())
}

#[cfg(test)]
#[path = "debts_tests.rs"]
mod tests;
