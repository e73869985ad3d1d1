//! The keeper: it tells SQS what became of the messages, and keeps those that wait.

use std::collections::{HashMap, HashSet, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep_until, timeout};
use tracing::warn;

use super::abort::abort;
use super::debts::{Ask, Losses, Request};
use super::extension::{Extending, extension, patience, pause};
use super::receipt::Receipt;
use super::receiver::receive;
use super::{Shared, now};
use crate::aws::sqs::{BATCH, Call, Failed, Kind, Trouble};
use crate::delivery::{Intake, Outcome};
use crate::repeats::Repeats;
use crate::shutdown::Shutdown;
use crate::source::Unclean;

/// Requests at a time, beside those of the receivers; and as many extensions.
const MOST_REQUESTS: usize = 16;

/// A message goes back after this, whatever it waits for: SQS ends every lease 12 hours after the receipt.
const LONGEST: Duration = Duration::from_hours(11);

/// Leases are looked at so often, in parts of the visibility timeout; and at least and most.
const LOOKS: u32 = 10;
const LOOK: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// A sign of life.
const ALIVE_EVERY: Duration = Duration::from_secs(10);

const SAY_EVERY: Duration = Duration::from_mins(1);

/// Drives the receivers, and answers for what they took.
pub(super) struct Keeper {
    shared: Arc<Shared>,
    intake: Intake,
    receivers: u32,
    receiving: JoinSet<()>,
    asked: JoinSet<Answer>,
    extending: JoinSet<Extended>,
    /// To be extended next.
    halfway: VecDeque<Extending>,
    /// The orders of these, and of those that are asked for.
    extended_now: HashSet<u64>,
    /// No extension is asked for before.
    extends_from: Instant,
    released: Repeats,
    lost: Repeats,
    unclean: bool,
}

/// What came of a request: the entries that failed, or how long to wait before all are tried again, and why.
struct Answer {
    request: Request,
    said: Result<Vec<Failed>, (Duration, Kind)>,
}

/// What came of an extension; a failure tells the pause of all.
struct Extended {
    leases: Vec<Extending>,
    /// Until when it makes them ours.
    until: Instant,
    said: Result<Vec<Failed>, Duration>,
}

impl Keeper {
    pub(super) fn new(shared: Arc<Shared>, intake: Intake, receivers: u32) -> Self {
        Self {
            shared,
            intake,
            receivers,
            receiving: JoinSet::new(),
            asked: JoinSet::new(),
            extending: JoinSet::new(),
            halfway: VecDeque::new(),
            extended_now: HashSet::new(),
            extends_from: now(),
            released: Repeats::default(),
            lost: Repeats::default(),
            unclean: false,
        }
    }

    /// Runs until the drain is done.
    pub(super) async fn run(mut self, shutdown: &Shutdown) -> Result<(), Unclean> {
        for _ in 0..self.receivers {
            self.receiving.spawn(receive(
                Arc::clone(&self.shared),
                self.intake.clone(),
                shutdown.clone(),
            ));
        }
        let look = (self.shared.visibility / LOOKS).clamp(LOOK.0, LOOK.1);
        let (mut look, mut alive) = (interval(look), interval(ALIVE_EVERY));
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut draining = false;
        loop {
            self.collect(draining);
            let wakes = self.ask(draining).into_iter().chain(self.extend()).min();
            if draining && self.is_done() {
                return if self.unclean {
                    Err(Unclean("a message was given back while draining"))
                } else {
                    Ok(())
                };
            }
            let changed = Arc::clone(&self.shared.changed);
            tokio::select! {
                biased;
                () = shutdown.abort() => {
                    self.receiving.abort_all();
                    return abort(&self.shared).await;
                }
                () = shutdown.drain(), if !draining => {
                    draining = true;
                    self.shared.leases.close();
                    self.shared.link.drains();
                    self.shared.debts.lock().hurry(now());
                }
                // Before the answers: there may always be one.
                _ = look.tick() => self.look(),
                _ = alive.tick() => self.shared.link.alive(),
                Some(answer) = self.asked.join_next() => self.answered(answer.ok(), draining),
                Some(answer) = self.extending.join_next() => self.extended(answer.ok()),
                Some(ended) = self.receiving.join_next() => {
                    if let Err(error) = ended && !draining {
                        warn!(source = %self.shared.name, %error, "a receiver broke off; starting another");
                        let (shared, intake) = (Arc::clone(&self.shared), self.intake.clone());
                        self.receiving.spawn(receive(shared, intake, shutdown.clone()));
                    }
                }
                () = changed.notified() => {}
                () = wait_until(wakes) => {}
            }
        }
    }

    fn is_done(&self) -> bool {
        self.receiving.is_empty()
            && self.shared.leases.is_empty()
            && self.shared.debts.lock().is_empty()
    }

    /// Takes what ended out of the record.
    fn collect(&mut self, draining: bool) {
        let shared = &self.shared;
        let released = shared.leases.released_leases();
        if !released.is_empty() {
            self.unclean |= draining;
            if let Some(count) = self.released.again(SAY_EVERY, now()) {
                warn!(source = %shared.name, count, "a message was given back; SQS hands it out again");
            }
            // What breaks on a message breaks again.
            let pause = |receipt: &Receipt| if draining { Duration::ZERO } else { receipt.pause() };
            let released = released.into_iter();
            let back = released.map(|lease| (pause(&lease.handle), lease.handle, lease.due));
            shared.give_back(back.collect());
        }
        // Locked first, lest a message that comes again meanwhile be known to nobody.
        let (now, mut debts) = (now(), shared.debts.lock());
        let ended = shared.leases.ended(usize::MAX);
        for (lease, place) in ended {
            match place.outcome {
                Outcome::Accepted(_) => debts.delete(lease, place, now),
                // The redrive policy has it when its lease has ended often enough.
                Outcome::Rejected | Outcome::Released => {}
            }
        }
    }

    /// Sends what is to be sent now; gives when to look again.
    fn ask(&mut self, draining: bool) -> Option<Instant> {
        let now = now();
        let losses = self.shared.debts.lock().expire(now, draining);
        self.lost(losses, now);
        let mut debts = self.shared.debts.lock();
        while self.asked.len() < MOST_REQUESTS {
            let Some(request) = debts.next(now, draining) else { break };
            let shared = Arc::clone(&self.shared);
            self.asked.spawn(async move {
                let receipts: Vec<_> = request.receipts.iter().collect();
                let (queue, patience) = (&shared.queue, patience(shared.visibility));
                let asked = async {
                    let (call, said) = match request.ask {
                        Ask::Delete => {
                            (Call::Delete, timeout(patience, queue.delete(&receipts)).await)
                        }
                        Ask::Return => {
                            let said = queue.set_visibility(&receipts, Duration::ZERO);
                            (Call::Visibility, timeout(patience, said).await)
                        }
                    };
                    shared.heard(call, said.unwrap_or_else(|_| Err(Trouble::silent()))).await
                };
                // Of one that breaks off the debts stay, lest a drain wait for its answer.
                let asked = AssertUnwindSafe(asked).catch_unwind().await;
                let said = asked.unwrap_or(Err((LOOK.1, Kind::Service)));
                Answer { request, said }
            });
        }
        debts.wakes().filter(|_| self.asked.len() < MOST_REQUESTS)
    }

    fn answered(&mut self, answer: Option<Answer>, draining: bool) {
        // Of one that broke off the leases end, and the messages come again.
        let Some(Answer { request, said }) = answer else { return };
        let now = now();
        match said {
            Ok(failed) => {
                if request.ask == Ask::Delete {
                    self.shared.numbers.delete_retries.inc_by(failed.len() as u64);
                }
                let losses = self.shared.debts.lock().answered(request, &failed, now);
                self.lost(losses, now);
            }
            Err((wait, kind)) => {
                // A stop has no time for long waits.
                let wait = if draining { wait.min(LOOK.1) } else { wait };
                let mut debts = self.shared.debts.lock();
                debts.failed(request, wait, kind.is_unheard(), now);
            }
        }
    }

    /// Looks which leases are half over, and ends those that are too old.
    fn look(&mut self) {
        let (shared, now) = (&self.shared, now());
        if let Some(long_ago) = now.checked_sub(LONGEST) {
            let old = shared.leases.lose(|lease| lease.since <= long_ago, now);
            if !old.is_empty() {
                warn!(source = %shared.name, count = old.len(), "messages were held for 11 hours, and SQS ends a lease after 12; giving them back, to be received again");
                shared.let_go(old, now);
            }
        }
        if self.extends_from > now + LOOK.1 {
            // By then some will be settled, or known by another receipt.
            return;
        }
        let half = now + shared.visibility / 2;
        let extending = |token, receipt, since, due| {
            let by = extension(shared.visibility, since, due, now)?;
            Some(Extending { token, receipt, due, by })
        };
        let mut due: Vec<_> = Vec::new();
        due.extend(shared.leases.due(half).into_iter().filter_map(|lease| {
            extending(Some(lease.token), lease.handle, lease.since, lease.due)
        }));
        due.extend(
            shared
                .debts
                .lock()
                .due(half)
                .filter_map(|debt| extending(None, debt.receipt.clone(), debt.received, debt.due)),
        );
        due.retain(|lease| self.extended_now.insert(lease.receipt.order));
        self.halfway.extend(due);
    }

    /// Extends those, as many at a time as may be asked for; gives when to look again.
    fn extend(&mut self) -> Option<Instant> {
        if self.extends_from > now() {
            return Some(self.extends_from).filter(|_| !self.halfway.is_empty());
        }
        while self.extending.len() < MOST_REQUESTS && !self.halfway.is_empty() {
            let most = self.halfway.len().min(BATCH);
            let leases: Vec<_> = self.halfway.drain(..most).collect();
            let by = leases.iter().map(|lease| lease.by).min().unwrap_or_default();
            let shared = Arc::clone(&self.shared);
            self.extending.spawn(async move {
                let until = self::now() + by;
                let receipts: Vec<_> = leases.iter().map(|lease| &lease.receipt).collect();
                let asked = timeout(
                    patience(shared.visibility),
                    shared.queue.set_visibility(&receipts, by),
                );
                let said = asked.await.unwrap_or_else(|_| Err(Trouble::silent()));
                let said = shared.heard(Call::Visibility, said).await;
                let said = said
                    .map_err(|(wait, kind)| pause(shared.visibility, wait, kind.needs_somebody()));
                Extended { leases, until, said }
            });
        }
        None
    }

    fn extended(&mut self, answer: Option<Extended>) {
        let Some(Extended { leases, until, said }) = answer else {
            // It broke off, and nobody knows whose it was: all are looked at again.
            self.halfway.clear();
            return self.extended_now.clear();
        };
        for lease in &leases {
            self.extended_now.remove(&lease.receipt.order);
        }
        let failed = match said {
            Ok(failed) => failed,
            Err(pause) => return self.pause_extensions(now() + pause),
        };
        let failed: HashMap<_, Failed> = failed.into_iter().map(|f| (f.at, f)).collect();
        let (now, mut losses) = (now(), Losses::default());
        for (at, lease) in leases.into_iter().enumerate() {
            // It may have been received again meanwhile.
            let is = |known: &Receipt| known.handle == lease.receipt.handle;
            match failed.get(&at) {
                None => {
                    self.shared.numbers.leases_extended.inc();
                    if let Some(token) = lease.token {
                        self.shared.leases.extended_as(token, is, until);
                    }
                    // It may have been settled meanwhile.
                    self.shared.debts.lock().extended(&lease.receipt, until);
                }
                // SQS may be wrong as long as the lease lasts.
                Some(failed) if failed.stale && lease.due <= now => {
                    if lease.token.is_some_and(|token| self.shared.leases.lost(token, is)) {
                        losses.count += 1;
                        losses.lost.add(&lease.receipt);
                    }
                }
                Some(_) => {}
            }
        }
        self.lost(losses, now);
    }

    /// The looks from then on try again.
    fn pause_extensions(&mut self, until: Instant) {
        self.extends_from = self.extends_from.max(until);
        if self.extends_from > now() + LOOK.1 {
            for lease in self.halfway.drain(..) {
                self.extended_now.remove(&lease.receipt.order);
            }
        }
    }

    /// Messages come again although they were, or will be, done.
    fn lost(&mut self, Losses { count, lost, given_up }: Losses, now: Instant) {
        self.shared.let_go_behind(&lost, now);
        self.shared.withdraw_behind(&given_up, now);
        if count == 0 {
            return;
        }
        self.shared.numbers.leases_lost.inc_by(count);
        let all = self.shared.numbers.leases_lost.get();
        if let Some(count) = self.lost.reached(all, SAY_EVERY, now) {
            let hint = "a longer `visibility_timeout` survives longer interruptions";
            warn!(source = %self.shared.name, count, hint, "leases ended before their messages were deleted: these come again, and are known, or are another consumer's");
        }
    }
}

async fn wait_until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
#[path = "keeper_tests.rs"]
mod tests;
