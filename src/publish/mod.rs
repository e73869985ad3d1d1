//! The publisher of one API: takes entries, batches them by channel, posts them, reads what the answer
//! says of each, and settles.
//!
//! One loop decides; requests run as tasks of their own. Transient faults are retried until they
//! succeed or the bridge stops. What the API will never take is handed back with its reason. A refusal
//! of *us* (401, 403, no credentials) pauses the namespace: everything is kept, nothing acknowledged.

mod auth;
mod client;
mod entry;
pub mod lanes;
pub mod limit;
pub mod post;
pub mod verdict;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{info, warn};

pub use client::{BuildError, Client};
pub use entry::{Entry, Policy, Refused, Tries};

use crate::backoff::full_jitter;
use crate::config::ApiConfig;
use crate::delivery::{OrderKey, Outcome};
use crate::event_api::Channel;
use crate::event_api::wire::publish_body;
use crate::health::{Health, Part};
use crate::metrics::{ApiMetrics, Metrics};
use crate::seeded::{self, Bug};
use crate::shutdown::Shutdown;
use lanes::{Batch, Lanes};
use limit::{Breaker, Concurrency, Pauses, RateGate};
use post::{Failure, Post};
use verdict::{Answer, EventVerdict, Fault, Verdict, judge};

/// The first retry waits up to this long.
const BACKOFF_BASE: Duration = Duration::from_millis(100);

/// No retry waits longer.
const BACKOFF_CAP: Duration = Duration::from_secs(30);

/// A bad request's event is guilty after so many refusals of it alone.
const GUILTY_AFTER: u32 = 3;

/// A fault that goes on is logged this often.
const LOG_EVERY: Duration = Duration::from_secs(30);

/// The loop gives a sign of life this often.
const ALIVE_EVERY: Duration = Duration::from_secs(10);

/// Events a second that an API takes unless it says otherwise (Service Quotas `L-D91E563A`).
const MAX_RATE: f64 = 10_000.0;

/// How a request may end, for metrics; a request that is not answered in order ends with its fault.
const RESULTS: [&str; 2] = ["ok", "partial"];

/// The publisher of one API.
pub struct Publisher<P> {
    post: Arc<P>,
    lanes: Lanes<Entry>,
    requests: JoinSet<Ended>,
    concurrency: Concurrency,
    gate: RateGate,
    breaker: Breaker,
    pauses: Pauses,
    refused: mpsc::UnboundedSender<Refused>,
    metrics: ApiMetrics,
    health: Part,
    accepted_at: Option<Instant>,
    fault_log: FaultLog,
    why_paused: Option<String>,
    name: Arc<str>,
}

struct Ended {
    batch: Batch<Entry>,
    sent: Instant,
    result: Result<Answer, Failure>,
}

/// One line an interval for a fault that goes on.
#[derive(Debug, Default)]
struct FaultLog {
    last: Option<Instant>,
    since: u64,
}

impl Publisher<Client> {
    /// A publisher for `api` that hands back what it will never take over `refused`.
    pub async fn build(
        api: &ApiConfig,
        metrics: &Metrics,
        health: &Health,
        refused: mpsc::UnboundedSender<Refused>,
    ) -> Result<Self, BuildError> {
        let client = Client::build(api).await?;
        Ok(Self::new(client, &api.name, api.max_concurrency, metrics, health, refused))
    }
}

impl<P: Post> Publisher<P> {
    /// A publisher over `post` for the API called `name`.
    pub fn new(
        post: P,
        name: &Arc<str>,
        max_concurrency: usize,
        metrics: &Metrics,
        health: &Health,
        refused: mpsc::UnboundedSender<Refused>,
    ) -> Self {
        let faults = Fault::ALL.map(Fault::word);
        let metrics = metrics.api(name, RESULTS.into_iter().chain(faults), faults);
        let health = health.register(format!("api {name}"), "starting");
        health.ready();
        let now = clock();
        Self {
            post: Arc::new(post),
            lanes: Lanes::new(),
            requests: JoinSet::new(),
            concurrency: Concurrency::new(max_concurrency),
            gate: RateGate::new(MAX_RATE, now),
            breaker: Breaker::new(now),
            pauses: Pauses::default(),
            refused,
            metrics,
            health,
            accepted_at: None,
            fault_log: FaultLog::default(),
            why_paused: None,
            name: Arc::clone(name),
        }
    }

    /// Publishes what comes over `entries` until that is closed and everything is settled, or until
    /// the abort, which releases what is left.
    pub async fn run(mut self, mut entries: mpsc::UnboundedReceiver<Entry>, shutdown: Shutdown) {
        let mut incoming = Vec::with_capacity(256);
        let mut open = true;
        let mut alive = tokio::time::interval(ALIVE_EVERY);
        loop {
            self.send();
            if !open && self.requests.is_empty() && self.lanes.queued() == 0 {
                return;
            }
            let wake = self.next_wake();
            tokio::select! {
                count = entries.recv_many(&mut incoming, 256), if open => {
                    open = count > 0;
                    for entry in incoming.drain(..) {
                        let channel = entry.channel.clone();
                        self.lanes.push(&channel, entry);
                    }
                }
                Some(ended) = self.requests.join_next() => match ended {
                    Ok(ended) => self.judge(ended).await,
                    // The task took its entries down with it, which released them. A lane that waits
                    // for them would wait for ever, so the whole publisher stops: fail closed.
                    Err(error) => {
                        tracing::error!(api = %self.name, %error, "a publish request panicked");
                        return;
                    }
                },
                () = sleep_until(wake) => {}
                _ = alive.tick() => self.health.alive(),
                () = shutdown.abort() => return,
            }
        }
    }

    /// Sends what may be sent now, and takes up what has waited for its time. Done on every turn of
    /// the loop, whatever woke it, so that no time can be passed over.
    fn send(&mut self) {
        let now = clock();
        self.lanes.wake(now);
        for namespace in self.pauses.due(now) {
            self.lanes.unpark(&namespace);
        }
        while self.concurrency.allows(self.requests.len())
            && self.breaker.allows(now)
            && self.gate.is_open(now)
        {
            let Some(batch) = self.lanes.next_batch(|namespace| self.pauses.blocks(namespace, now))
            else {
                break;
            };
            self.pauses.sent(batch.channel.namespace());
            self.breaker.sent();
            self.gate.sent(batch.items.len());
            #[allow(clippy::cast_precision_loss)] // 1 to 5
            self.metrics.batch.observe(batch.items.len() as f64);
            let post = Arc::clone(&self.post);
            self.requests.spawn(async move {
                let body = publish_body(&batch.channel, batch.items.iter().map(|e| &e.event));
                let sent = clock();
                let result = post.post(body).await;
                Ended { batch, sent, result }
            });
        }
        self.metrics.concurrency.set(self.concurrency.limit());
        self.metrics.rate.set(self.gate.rate());
    }

    /// When [`send`](Self::send) has something to look at, if nothing else happens.
    fn next_wake(&self) -> Option<Instant> {
        let now = clock();
        let gate = if self.lanes.queued() > 0 { self.gate.opens_at(now) } else { None };
        // A time that has come was seen by `send` just now: to wait for it again would spin.
        let probe = self.breaker.probes_at().filter(|at| *at > now);
        [self.lanes.next_wake(), self.pauses.next_due(now), gate, probe].into_iter().flatten().min()
    }

    async fn judge(&mut self, ended: Ended) {
        let Ended { batch, sent, result } = ended;
        let now = clock();
        self.metrics.seconds.observe(now.duration_since(sent).as_secs_f64());
        let (verdict, why) = match result {
            Ok(answer) => (judge(&answer, batch.items.len()), format!("status {}", answer.status)),
            Err(failure) if failure.fault == Fault::Refused => {
                (Verdict::Refused { why: failure.why }, String::new())
            }
            Err(failure) => (Verdict::Retry { fault: failure.fault, after: None }, failure.why),
        };
        match verdict {
            Verdict::Decided(verdicts) => {
                self.answered(&batch, sent, now);
                self.decided(batch, verdicts, now);
            }
            Verdict::HandlerRefused { why } => {
                self.answered(&batch, sent, now);
                self.handler_refused(batch, &why, now);
            }
            Verdict::Bad { why } => self.bad(batch, &why, sent, now).await,
            Verdict::Refused { why } => self.refuse(batch, &why, now).await,
            Verdict::Retry { fault, after } => {
                self.pauses.unanswered(batch.channel.namespace(), now);
                self.fault(fault, after, &why, sent, now);
                self.retry(batch, fault, after, now);
            }
        }
    }

    /// The API is there, and takes what we send to this namespace.
    fn answered(&mut self, batch: &Batch<Entry>, sent: Instant, now: Instant) {
        self.concurrency.answered(sent, now, self.requests.len());
        self.resume(batch.channel.namespace());
        self.is_there(now);
    }

    /// The API is there, whatever it says.
    fn is_there(&mut self, now: Instant) {
        if self.breaker.answered(now) {
            info!(api = %self.name, "the API answers again");
            // Nobody sleeps out a wait of an outage that is over.
            self.lanes.wake_all();
            self.report();
        }
    }

    /// Each event has its verdict: settle, hand back, or try again.
    fn decided(&mut self, batch: Batch<Entry>, verdicts: Vec<EventVerdict>, now: Instant) {
        let Batch { channel, keys, items } = batch;
        let (mut back, mut accepted) = (Vec::new(), 0);
        let mut passed: Vec<(Option<OrderKey>, usize)> = Vec::new();
        for (entry, verdict) in items.into_iter().zip(verdicts) {
            if let (EventVerdict::Accepted | EventVerdict::Unconfirmed, Some(key)) =
                (&verdict, &entry.order)
            {
                let overtaken =
                    back.iter().filter(|e: &&Entry| e.order.as_ref() == Some(key)).count();
                passed.push((Some(key.clone()), overtaken));
            }
            match verdict {
                EventVerdict::Accepted => {
                    self.metrics.accepted.inc();
                    accepted += 1;
                    entry.delivery.settle(Outcome::Accepted);
                }
                EventVerdict::Unconfirmed => {
                    self.metrics.unconfirmed.inc();
                    entry.delivery.settle(Outcome::Accepted);
                }
                EventVerdict::Hopeless { why } => self.give_back(entry, why),
                EventVerdict::Retry { why, own_fault } => {
                    if let Some(entry) = self.another_try(entry, &why, own_fault) {
                        self.metrics.retry(Fault::Event.word()).inc();
                        back.push(entry);
                    }
                }
            }
        }
        if accepted > 0 {
            self.accepted_at = Some(now);
            self.gate.accepted(accepted, now);
        }
        let reordered = passed.iter().filter(|(_, overtaken)| *overtaken > 0).count();
        self.metrics.reordered.inc_by(reordered as u64);
        self.metrics.request(if back.is_empty() { "ok" } else { "partial" }).inc();
        let not_before = (!back.is_empty()).then(|| now + wait_of(&back));
        self.lanes.finish(&channel, &keys, back, not_before);
    }

    /// The whole request is to be tried again.
    fn retry(&mut self, batch: Batch<Entry>, fault: Fault, after: Option<Duration>, now: Instant) {
        let Batch { channel, keys, mut items } = batch;
        self.metrics.request(fault.word()).inc();
        self.metrics.retry(fault.word()).inc_by(items.len() as u64);
        for entry in &mut items {
            entry.tries.failures = entry.tries.failures.saturating_add(1);
        }
        let wait = match fault {
            // The pause, the gate and the breaker hold everything back; the entries need no wait of
            // their own on top, which would outlast theirs.
            Fault::Refused | Fault::Throttled => None,
            _ if self.breaker.is_open() => None,
            _ => Some(wait_of(&items)),
        };
        let not_before = wait.into_iter().chain(after).max().map(|wait| now + wait);
        self.lanes.finish(&channel, &keys, items, not_before);
    }

    /// We are refused: pause, and keep everything.
    async fn refuse(&mut self, batch: Batch<Entry>, why: &str, now: Instant) {
        self.is_there(now);
        if seeded::is(Bug::DropOnRefusal) {
            batch.items.into_iter().for_each(|e| e.delivery.settle(Outcome::Accepted));
            return self.lanes.finish(&batch.channel, &batch.keys, Vec::new(), None);
        }
        self.pause(batch.channel.namespace(), why, now).await;
        self.retry(batch, Fault::Refused, None, now);
    }

    /// A bad request: its events are tried alone. One that is called bad alone, again and again while
    /// the API accepts others in between, is guilty. If the API takes nothing else it is not the
    /// event: a bad signature may come as a 400.
    async fn bad(&mut self, mut batch: Batch<Entry>, why: &str, sent: Instant, now: Instant) {
        let alone = batch.items.len() == 1;
        let before = batch.items.first().and_then(|e| e.tries.bad_at);
        for entry in &mut batch.items {
            entry.tries.bad_at = Some(now);
        }
        if alone && self.accepted_at <= before {
            return self.refuse(batch, why, now).await;
        }
        self.answered(&batch, sent, now);
        self.metrics.request(Fault::BadRequest.word()).inc();
        let Batch { channel, keys, mut items } = batch;
        if !alone {
            return self.try_alone(&channel, &keys, items);
        }
        self.metrics.retry(Fault::BadRequest.word()).inc();
        for entry in &mut items {
            entry.tries.alone = true;
            entry.tries.bad_alone += 1;
            entry.tries.failures = entry.tries.failures.saturating_add(1);
        }
        let guilty =
            items.extract_if(.., |e| e.tries.bad_alone >= GUILTY_AFTER).collect::<Vec<_>>();
        for entry in guilty {
            self.give_back(entry, why.to_owned());
        }
        let not_before = (!items.is_empty()).then(|| now + wait_of(&items));
        self.lanes.finish(&channel, &keys, items, not_before);
    }

    /// The namespace's handler refuses: alone each, and not for ever.
    fn handler_refused(&mut self, batch: Batch<Entry>, why: &str, now: Instant) {
        self.metrics.request(Fault::Event.word()).inc();
        let Batch { channel, keys, mut items } = batch;
        if items.len() > 1 {
            return self.try_alone(&channel, &keys, items);
        }
        let back: Vec<Entry> =
            items.drain(..).filter_map(|e| self.another_try(e, why, true)).collect();
        let not_before = (!back.is_empty()).then(|| now + wait_of(&back));
        self.lanes.finish(&channel, &keys, back, not_before);
    }

    fn try_alone(&mut self, channel: &Channel, keys: &[OrderKey], mut items: Vec<Entry>) {
        self.metrics.retry(Fault::BadRequest.word()).inc_by(items.len() as u64);
        for entry in &mut items {
            entry.tries.alone = true;
        }
        self.lanes.finish(channel, keys, items, None);
    }

    /// Counts a failure of the event itself; hands it back when it had its tries.
    fn another_try(&self, mut entry: Entry, why: &str, own_fault: bool) -> Option<Entry> {
        entry.tries.failures = entry.tries.failures.saturating_add(1);
        entry.tries.own_faults += u32::from(own_fault);
        if entry.tries.own_faults < entry.policy.give_up_after {
            return Some(entry);
        }
        let tries = entry.tries.own_faults;
        self.give_back(entry, format!("given up after {tries} tries: {why}"));
        None
    }

    fn give_back(&self, entry: Entry, why: String) {
        self.metrics.rejected.inc();
        // Nobody there to take it: dropped, which releases it.
        drop(self.refused.send(Refused { entry, why }));
    }

    async fn pause(&mut self, namespace: &str, why: &str, now: Instant) {
        let hint = "check the credentials (an API key expires), the policy, the endpoint, and that the namespace exists";
        if self.pauses.refused(namespace, now) {
            warn!(api = %self.name, namespace, why, hint, "the API refuses us: everything is kept and tried again once a second");
            self.post.refused().await;
            // The line after this one is an interval away.
            let _ = self.fault_log.due(now);
        } else if self.fault_log.due(now).is_some() {
            warn!(api = %self.name, namespace, why, hint, "still paused");
        }
        self.why_paused = Some(format!("namespace `{namespace}` is refused: {why}"));
        self.report();
    }

    fn resume(&mut self, namespace: &str) {
        if self.pauses.resumed(namespace) {
            info!(api = %self.name, namespace, "the API takes events again");
            self.lanes.unpark(namespace);
            self.report();
        }
    }

    /// Says to metrics and `/readyz` how the API stands.
    fn report(&mut self) {
        if self.pauses.is_empty() {
            self.why_paused = None;
        }
        self.metrics.paused.set(i64::from(self.why_paused.is_some()));
        self.metrics.breaker.set(i64::from(self.breaker.is_open()));
        match &self.why_paused {
            Some(why) => self.health.not_ready(why),
            None if self.breaker.is_open() => self.health.not_ready("the API does not answer"),
            None => self.health.ready(),
        }
    }

    /// Tells the limits of a fault on the way or of the API as a whole.
    fn fault(
        &mut self,
        fault: Fault,
        after: Option<Duration>,
        why: &str,
        sent: Instant,
        now: Instant,
    ) {
        if fault == Fault::Throttled {
            self.is_there(now);
            self.gate.throttled(sent, now);
            if let Some(after) = after {
                self.gate.hold(now + after);
            }
        } else {
            if matches!(fault, Fault::Ambiguous | Fault::Unavailable) {
                self.concurrency.overloaded(sent, now);
            }
            if self.breaker.failed(now, fault == Fault::UnknownAnswer) {
                warn!(api = %self.name, fault = fault.word(), why, "the API does not answer: asking once a second, everything is kept");
                self.report();
            }
        }
        if fault == Fault::Ambiguous {
            self.metrics.ambiguous.inc();
        }
        if let Some(count) = self.fault_log.due(now) {
            warn!(api = %self.name, fault = fault.word(), why, count, "publishing fails and is tried again");
        }
    }
}

impl FaultLog {
    /// How many faults came since the last line, if a line is due.
    fn due(&mut self, now: Instant) -> Option<u64> {
        self.since += 1;
        if self.last.is_some_and(|last| now.duration_since(last) < LOG_EVERY) {
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.since))
    }
}

/// The wait of entries that are tried again together.
fn wait_of(entries: &[Entry]) -> Duration {
    let failures = entries.iter().map(|e| e.tries.failures).max().unwrap_or(1);
    full_jitter(BACKOFF_BASE, BACKOFF_CAP, failures.saturating_sub(1))
}

/// The clock of the runtime, which a simulation can turn.
fn clock() -> Instant {
    tokio::time::Instant::now().into_std()
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
