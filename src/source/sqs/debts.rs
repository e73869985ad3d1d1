//! What SQS is still to be told: which messages to delete, which to hand out again. Pure.
//!
//! Deletions gather, ten or 200 ms, and every entry is retried by itself until it is confirmed. Those of a FIFO
//! queue wait for nothing, and go in the order of their group: the next ones when those before are
//! answered. What goes back of a group goes back from its end: SQS keeps the whole group from everybody while one
//! message of it is not visible, so nobody can receive a later one before an earlier one.
//!
//! A message whose lease has ended is *lost*: it comes again, or is somebody else's. It is still to be deleted. SQS takes
//! the old receipt of a standard queue as long as nobody has a newer one; of a FIFO queue it takes none, but the message
//! is known when it comes again. What is behind it is let go then, or SQS would keep all of its group back. One that
//! does not come is given up in the end, and what is behind it goes back, to be done once more after it.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use super::debt::{Debt, take_ready};
use super::receipt::{Cuts, Receipt};
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

/// What is owed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// The message is done.
    Delete,
    /// It is not, and may be received again at once.
    Return,
}

/// What to ask for now. It stays owed until it is [answered](Debts::answered).
#[derive(Debug)]
pub(super) struct Request {
    pub(super) ask: Ask,
    pub(super) receipts: Vec<Receipt>,
}

/// What became of deletions.
#[derive(Debug, Default)]
pub(super) struct Losses {
    /// So many messages come again.
    pub(super) count: u64,
    /// They are known then, and what is behind them is to be let go.
    pub(super) lost: Cuts,
    /// They are known no more, and what is behind them has to go back.
    pub(super) given_up: Cuts,
}

/// All that is owed.
#[derive(Debug, Default)]
pub(super) struct Debts {
    /// In the order in which they were settled.
    deletions: VecDeque<Debt>,
    /// By their order of receipt, the last one first.
    returns: VecDeque<Debt>,
    /// The groups of what is asked for.
    busy: HashSet<OrderKey>,
    /// Lost ones of groups may come again.
    some_lost: bool,
}

impl Debts {
    /// A message is done.
    pub(super) fn delete(&mut self, lease: Lease<Receipt>, place: Place, now: Instant) {
        let Lease { handle: receipt, since: received, due, .. } = lease;
        if receipt.group.is_none() {
            // It need not be anybody's any more.
            self.forget_return(receipt.order);
        }
        let lost = place.lost;
        let debt = Debt { received, lost, ..Debt::new(receipt, Some(place), due, now) };
        self.deletions.push_back(debt);
    }

    /// A message is to be anybody's at `from`. After `due` it is in any case.
    pub(super) fn give_back(&mut self, receipt: Receipt, due: Instant, from: Instant) {
        let at = self.returns.partition_point(|debt| debt.receipt.order > receipt.order);
        if self.returns.get(at).is_none_or(|debt| debt.receipt.order != receipt.order) {
            self.returns.insert(at, Debt::new(receipt, None, due, from));
        }
    }

    /// What waits to be asked for is asked for now.
    pub(super) fn hurry(&mut self, now: Instant) {
        for debt in self.returns.iter_mut().chain(&mut self.deletions) {
            debt.not_before = debt.not_before.min(now);
        }
    }

    /// What is behind these goes back, and is not deleted.
    pub(super) fn withdraw_behind(&mut self, cuts: &Cuts, now: Instant) {
        let (back, deletions) = std::mem::take(&mut self.deletions)
            .into_iter()
            .partition::<Vec<_>, _>(|debt| !debt.asked && cuts.are_before(&debt.receipt));
        self.deletions = deletions.into();
        for debt in back {
            self.give_back(debt.receipt, debt.due, now);
        }
    }

    /// What is behind these is anybody's at once, and still to be deleted when it comes again. Gives how many.
    pub(super) fn let_go_behind(&mut self, cuts: &Cuts, now: Instant) -> usize {
        let behind = self.deletions.iter_mut().filter(|debt| !debt.lost);
        let behind = behind.filter(|debt| cuts.are_before(&debt.receipt)).map(|debt| {
            (debt.lost, debt.tries) = (true, 0);
            (debt.receipt.clone(), std::mem::replace(&mut debt.due, now))
        });
        let behind: Vec<_> = behind.collect();
        let count = behind.len();
        for (receipt, due) in behind {
            self.give_back(receipt, due, now);
        }
        self.some_lost |= count > 0;
        count
    }

    /// A message that is to be deleted came again, and is known by this receipt from now on. Gives its order; `None`
    /// if none is it.
    pub(super) fn received_again(
        &mut self,
        receipt: &Receipt,
        since: Instant,
        due: Instant,
    ) -> Option<u64> {
        let debt = self.deletions.iter_mut().find(|debt| debt.receipt.id == receipt.id)?;
        debt.receipt.handle.clone_from(&receipt.handle);
        (debt.received, debt.due, debt.not_before) = (since, due, since);
        (debt.lost, debt.tries) = (false, 0);
        let order = debt.receipt.order;
        self.forget_return(order);
        Some(order)
    }

    /// The message of this order is not to go back, or has gone.
    pub(super) fn forget_return(&mut self, order: u64) {
        self.returns.retain(|debt| debt.receipt.order != order);
    }

    /// A message of a group came, and those before it that were lost did not: they are gone from the queue, since SQS
    /// hands a group out in its order.
    pub(super) fn came_after(&mut self, group: &OrderKey, order: u64) {
        if self.some_lost {
            let is_gone = |debt: &Debt| {
                debt.lost
                    && debt.receipt.order < order
                    && debt.receipt.group.as_ref() == Some(group)
            };
            self.deletions.retain(|debt| !is_gone(debt));
        }
    }

    /// Looks which leases have ended. In a drain nothing comes again: those of groups are given up.
    pub(super) fn expire(&mut self, now: Instant, draining: bool) -> Losses {
        // Anybody can receive it.
        self.returns.retain(|debt| debt.due > now);
        let mut losses = Losses::default();
        for debt in self.deletions.iter_mut().filter(|debt| !debt.lost && debt.due <= now) {
            (debt.lost, debt.tries) = (true, 0);
            losses.count += 1;
            losses.lost.add(&debt.receipt);
        }
        if draining {
            self.deletions.retain(|debt| {
                let gives_up = debt.lost && debt.receipt.group.is_some() && !debt.asked;
                if gives_up {
                    losses.given_up.add(&debt.receipt);
                }
                !gives_up
            });
        }
        self.some_lost =
            self.deletions.iter().any(|debt| debt.lost && debt.receipt.group.is_some());
        losses
    }

    /// The next request, if there is one to make now; what gathers is asked for at once in a `hurry`.
    pub(super) fn next(&mut self, now: Instant, hurry: bool) -> Option<Request> {
        if let Some(receipts) = take_ready(&mut self.returns, &self.busy, now, |_| true) {
            return Some(self.asking(Ask::Return, receipts));
        }
        let gathered = |ready: &[&Debt]| {
            let waited = |debt: &&Debt| now.duration_since(debt.since) >= GATHER;
            let ordered = |debt: &&Debt| debt.receipt.group.is_some();
            hurry || ready.len() == BATCH || ready.iter().any(|d| waited(d) || ordered(d))
        };
        let receipts = take_ready(&mut self.deletions, &self.busy, now, gathered)?;
        Some(self.asking(Ask::Delete, receipts))
    }

    fn asking(&mut self, ask: Ask, receipts: Vec<Receipt>) -> Request {
        self.busy.extend(receipts.iter().filter_map(|receipt| receipt.group.clone()));
        Request { ask, receipts }
    }

    /// A request was answered, and these entries failed: they are retried. So are others of its kind at once that were
    /// not answered.
    pub(super) fn answered(&mut self, request: Request, failed: &[Failed], now: Instant) -> Losses {
        let mut losses = Losses::default();
        let ask = request.ask;
        self.each_answered(
            request,
            |at, debt, is_known| {
                if !is_known {
                    // The answer is about an earlier receipt.
                    return Some(Duration::ZERO);
                }
                let failed = failed.iter().find(|failed| failed.at == at)?;
                debt.tries += 1;
                if failed.stale && debt.lost {
                    // Its room is for what comes again.
                    debt.place = None;
                }
                if failed.stale && debt.tries >= STALE_TRIES {
                    losses.count += u64::from(!debt.lost && ask == Ask::Delete);
                    if ask == Ask::Delete {
                        losses.given_up.add(&debt.receipt);
                    }
                    return None;
                }
                Some(full_jitter(RETRY.0, RETRY.1, debt.tries - 1))
            },
            now,
        );
        for debt in self.queue(ask).iter_mut().filter(|debt| debt.unheard) {
            (debt.unheard, debt.not_before) = (false, now);
        }
        losses
    }

    /// A request failed as a whole: it is retried after a wait, which an answer to another cuts short where none came.
    pub(super) fn failed(&mut self, request: Request, wait: Duration, unheard: bool, now: Instant) {
        let wait = |_: usize, debt: &mut Debt, is_known: bool| {
            debt.unheard = unheard;
            Some(if is_known { wait } else { Duration::ZERO })
        };
        self.each_answered(request, wait, now);
    }

    fn queue(&mut self, ask: Ask) -> &mut VecDeque<Debt> {
        match ask {
            Ask::Delete => &mut self.deletions,
            Ask::Return => &mut self.returns,
        }
    }

    /// The entries of an answered request that `wait` for another try stay, where they are. The wait is told whether
    /// the receipt that was used is still the known one.
    fn each_answered(
        &mut self,
        Request { ask, receipts }: Request,
        mut wait: impl FnMut(usize, &mut Debt, bool) -> Option<Duration>,
        now: Instant,
    ) {
        for group in receipts.iter().filter_map(|receipt| receipt.group.as_ref()) {
            self.busy.remove(group);
        }
        for (at, receipt) in receipts.into_iter().enumerate() {
            let queue = self.queue(ask);
            let is = |debt: &Debt| debt.asked && debt.receipt.order == receipt.order;
            let Some(place) = queue.iter().position(is) else { continue };
            let debt = &mut queue[place];
            (debt.asked, debt.unheard) = (false, false);
            let is_known = debt.receipt.handle == receipt.handle;
            if let Some(wait) = wait(at, debt, is_known) {
                debt.not_before = now + wait;
            } else {
                queue.remove(place);
                if ask == Ask::Delete {
                    self.forget_return(receipt.order);
                }
            }
        }
    }

    /// When there is something to do, unless an answer comes before.
    pub(super) fn wakes(&self) -> Option<Instant> {
        let returns = self.heads(&self.returns).map(|debt| debt.not_before.min(debt.due));
        let deletions = self.heads(&self.deletions).map(|debt| {
            let gathered = debt.since + GATHER;
            let ready = if debt.receipt.group.is_some() { debt.since } else { gathered };
            let ready = ready.max(debt.not_before);
            if debt.lost { ready } else { ready.min(debt.due) }
        });
        returns.chain(deletions).min()
    }

    /// Those that wait for their time alone: of a group the first, unless an answer is awaited.
    fn heads<'a>(&'a self, queue: &'a VecDeque<Debt>) -> impl Iterator<Item = &'a Debt> {
        let mut seen: HashSet<&OrderKey> = HashSet::new();
        queue.iter().filter(move |debt| match &debt.receipt.group {
            Some(group) => !self.busy.contains(group) && seen.insert(group),
            None => !debt.asked,
        })
    }

    /// Deletions whose lease ends by `by`: those to extend before then.
    pub(super) fn due(&self, by: Instant) -> impl Iterator<Item = &Debt> {
        self.deletions.iter().filter(move |debt| !debt.lost && debt.due <= by)
    }

    /// The message is ours until `due`, if it is still to be deleted.
    pub(super) fn extended(&mut self, receipt: &Receipt, due: Instant) {
        let known = |debt: &&mut Debt| {
            let is = |held: &Receipt| held.order == receipt.order && held.handle == receipt.handle;
            !debt.lost && is(&debt.receipt)
        };
        if let Some(debt) = self.deletions.iter_mut().find(known) {
            debt.due = due;
        }
    }

    /// Whether nothing is owed.
    pub(super) fn is_empty(&self) -> bool {
        self.deletions.is_empty() && self.returns.is_empty()
    }

    /// All that is to be deleted, and all that is to go back, for a last try; but nothing that is asked for, and nothing
    /// of a group that anybody can receive.
    pub(super) fn close(&mut self, now: Instant) -> (Vec<Receipt>, Vec<Receipt>) {
        let all = |queue: &mut VecDeque<Debt>, ours: fn(&Debt, Instant) -> bool| {
            let ours = |debt: &Debt| !debt.asked && ours(debt, now);
            let queue = std::mem::take(queue).into_iter().filter(ours);
            queue.map(|debt| debt.receipt).collect()
        };
        let deletions = all(&mut self.deletions, |debt, now| {
            debt.receipt.group.is_none() || (!debt.lost && debt.due > now)
        });
        (deletions, all(&mut self.returns, |debt, now| debt.due > now))
    }
}

#[cfg(test)]
#[path = "debts_tests.rs"]
mod tests;
