//! The publisher of one API: takes entries, batches them by channel, posts them, reads the verdict on
//! each from the answer, and settles.
//!
//! One loop decides; workers post. Transient faults are retried until they
//! succeed or the bridge stops. An event that the API will never accept is handed back with the reason. A
//! refusal of *the bridge* (401, 403, no credentials) pauses the namespace, or the API: every event is
//! kept, none settled.

mod blame;
mod deadline;
mod entry;
mod http;
pub mod lanes;
pub mod limit;
pub mod post;
mod react;
mod report;
mod retry_after;
mod steering;
mod traced;
pub mod verdict;
mod words;
mod workers;

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tracing::warn;

pub use entry::{Addressed, Entry, Refused, Text};
pub use http::{AuthError, BuildError, Client, Raw, probe};
pub use steering::{Change, Helm};

use crate::config::ApiConfig;
use crate::delivery::{Done, Endings, Gate, Outcome};
use crate::health::{Health, Part};
use crate::metrics::{ApiMetrics, Metrics, ends_at};
use crate::repeats::Repeats;
use crate::shutdown::Shutdown;
use blame::Fares;
use deadline::Deadline;
use lanes::Lanes;
use limit::{Limits, Scope};
use post::{Fault, Post};
use report::{Acceptances, Refusals, RetryAfter};
use workers::Workers;

/// Longest backoff of the first retry.
const BACKOFF_BASE: Duration = Duration::from_millis(100);

/// Longest backoff of any retry.
const BACKOFF_CAP: Duration = Duration::from_secs(30);

/// After so many attempts without a decisive answer an event is sent alone: a batch that the network can't
/// carry within the timeout would be sent, and perhaps processed, again and again.
const ALONE_AFTER: u32 = 3;

/// After so many bad requests that held it alone, an event counts as the fault.
const GUILTY_AFTER: u32 = 3;

/// So often an event that is throttled by itself counts as throttled with all others.
const THROTTLED_WITH_OTHERS: u32 = 5;

/// After so many failures a backoff may take seconds, and not yet half a minute.
const SECONDS: u32 = 7;

/// After so many, a second apart, it counts as the fault though nothing else was taken in between: there may be nothing
/// else to send before it. Only while it is the one event that is called bad.
const GUILTY_AFTER_VAIN: u32 = 30;

/// On an event's first bad request, acceptances this recent count as proof that the API accepts others.
const LATELY: Duration = Duration::from_secs(10);

/// Most entries, and most ended requests, handled in one turn of the loop.
const AT_ONCE: usize = 256;

/// How often expired events are logged.
const EXPIRED_EVERY: Duration = Duration::from_mins(5);

/// How often the loop gives a sign of life.
const ALIVE_EVERY: Duration = Duration::from_secs(10);

/// Results of a request, for metrics; a failed one has its fault as result.
const RESULTS: [&str; 2] = ["ok", "partial"];

/// The publisher of one API.
pub struct Publisher<P> {
    post: Arc<P>,
    lanes: Lanes<Entry>,
    workers: Workers<P>,
    limits: Limits,
    refused: mpsc::UnboundedSender<Refused>,
    metrics: ApiMetrics,
    health: Part,
    intake: Gate,
    /// When an event was last accepted, confirmed or not, and when the newest request with such a one was sent.
    accepted_at: Option<Instant>,
    accepted_sent: Option<Instant>,
    /// How many events got bad requests alone since then, without a proof that the API takes others.
    events_in_vain: u32,
    /// How many others are called bad with that acceptance as their one proof.
    leaning: u32,
    fault_log: Repeats,
    expired_log: Repeats,
    refusals: HashMap<Scope, Refusals>,
    /// Why the breaker opened.
    why_silent: String,
    retry_after: Option<RetryAfter>,
    retry_after_log: Repeats,
    acceptances: Acceptances,
    fares: Fares,
    last_refused: Scope,
    /// Duties that have ended in this turn, until their sources are told.
    endings: Endings,
    /// `None` when nobody steers it, or not any more.
    changes: Option<mpsc::UnboundedReceiver<Change<P>>>,
    name: Arc<str>,
}

impl Publisher<Client> {
    /// A publisher for `api` that hands events that are never accepted back over `refused`.
    pub async fn build(
        api: &ApiConfig,
        metrics: &Metrics,
        health: &Health,
        refused: mpsc::UnboundedSender<Refused>,
    ) -> Result<Self, BuildError> {
        let client = Client::build(api).await?;
        let limits = (api.max_concurrency, f64::from(api.max_rate));
        let publisher = Self::new(client, &api.name, limits, metrics, health, refused);
        publisher.watch_credentials();
        Ok(publisher)
    }
}

impl<P: Post> Publisher<P> {
    /// A publisher over `post` for the API called `name`, with limits for requests in flight and for events
    /// a second.
    pub fn new(
        post: P,
        name: &Arc<str>,
        (max_concurrency, max_rate): (usize, f64),
        metrics: &Metrics,
        health: &Health,
        refused: mpsc::UnboundedSender<Refused>,
    ) -> Self {
        let faults = Fault::ALL.map(Fault::word);
        let metrics = metrics.api(name, RESULTS.into_iter().chain(faults), faults);
        let health = health.register(format!("api {name}"), "starting");
        health.ready();
        let (now, post) = (clock(), Arc::new(post));
        Self {
            lanes: Lanes::default(),
            workers: Workers::new(Arc::clone(&post)),
            post,
            limits: Limits::new(max_concurrency, max_rate, now),
            refused,
            metrics,
            health,
            intake: Gate::default(),
            accepted_at: None,
            accepted_sent: None,
            events_in_vain: 0,
            leaning: 0,
            fault_log: Repeats::default(),
            expired_log: Repeats::default(),
            refusals: HashMap::new(),
            why_silent: String::new(),
            retry_after: None,
            retry_after_log: Repeats::default(),
            acceptances: Acceptances::default(),
            fares: Fares::default(),
            last_refused: Scope::Api,
            endings: Endings::default(),
            changes: None,
            name: Arc::clone(name),
        }
    }

    /// The metrics show from now on when the credentials in use end.
    fn watch_credentials(&self) {
        let end = &self.metrics.credentials_expiry;
        end.set(0);
        self.post.tell_end(ends_at(end));
    }

    /// Closed while the API is paused as a whole or does not answer, and an event is left to probe it
    /// with. Where only such are left that have asked in vain, it lets in one after each probe.
    pub fn gate(&self) -> Gate {
        self.intake.clone()
    }

    /// Publishes the entries from `entries` until that is closed and everything is settled, or until
    /// the abort, which releases the rest.
    pub async fn run(
        mut self,
        mut entries: mpsc::UnboundedReceiver<Addressed>,
        shutdown: Shutdown,
    ) {
        let (mut incoming, mut finished) = (Vec::with_capacity(AT_ONCE), Vec::new());
        let (mut open, mut steered) = (true, None);
        let mut alive_at = clock();
        let mut deadline = Deadline::default();
        let mut abort = pin!(shutdown.abort());
        loop {
            let now = clock();
            if let Some(change) = steered.take() {
                self.steered(change);
            }
            for (channel, entry) in incoming.drain(..) {
                self.lanes.push(&channel, entry);
            }
            let answered = !finished.is_empty();
            for ended in finished.drain(..) {
                self.react(ended, now);
            }
            if answered {
                // Behind them: one that asks for another wait prolongs the old one.
                self.end_wait(now);
            }
            self.endings.tell();
            self.send(now);
            if !open && self.workers.requests() == 0 && self.lanes.queued() == 0 {
                // What was not said yet.
                self.tell_expired(now + EXPIRED_EVERY);
                return;
            }
            if now >= alive_at {
                self.health.alive();
                self.tell_expired(now);
                alive_at = now + ALIVE_EVERY;
            }
            let wake = self.next_wake(now).map_or(alive_at, |wake| wake.min(alive_at));
            // Everything at hand, whatever the wakeup was for: fewer turns cost less.
            let arrivals = poll_fn(|context| {
                let mut some = false;
                if open
                    && let Poll::Ready(count) =
                        entries.poll_recv_many(context, &mut incoming, AT_ONCE)
                {
                    (open, some) = (count > 0, true);
                }
                if let Some(Poll::Ready(change)) =
                    self.changes.as_mut().map(|changes| changes.poll_recv(context))
                {
                    if change.is_none() {
                        self.changes = None;
                    }
                    (steered, some) = (change, true);
                }
                match self.workers.poll_ended(context, &mut finished) {
                    Poll::Pending if some => Poll::Ready(Ok(())),
                    ended => ended,
                }
            });
            tokio::select! {
                biased;
                () = &mut abort => return,
                arrived = deadline.before(wake.into(), arrivals) => {
                    // The panic released the worker's entries. Their lane would wait for them for ever,
                    // so the whole publisher stops: fail closed.
                    if let Some(Err(error)) = arrived {
                        tracing::error!(api = %self.name, %error, "a publish request panicked; the publisher stops");
                        return;
                    }
                }
            }
        }
    }

    /// Sends the batches that may go now, and wakes retries whose backoff is over. Done on every turn of
    /// the loop, whatever woke it, so that no deadline is missed.
    fn send(&mut self, now: Instant) {
        self.lanes.wake(now);
        for namespace in self.limits.pauses.due(now) {
            self.lanes.unpark(&namespace);
        }
        self.call_one(now);
        self.dispatch(None, now);
        if self.limits.pauses.may_ask_api(now) && self.may_send(now) {
            // All lanes are parked now. One namespace with something to send probes for all.
            for namespace in self.limits.pauses.in_turn(self.lanes.parked(), now) {
                self.lanes.unpark(&namespace);
                self.dispatch(Some(&namespace), now);
                if !self.limits.pauses.may_ask_api(now) {
                    break;
                }
            }
        }
        let (requests, queued) = (self.workers.requests(), self.lanes.queued());
        if requests == 0 && queued == 0 {
            if self.limits.breaker.close_if_idle(now) {
                self.is_back();
            }
            self.end_wait(now);
        }
        if let Some(open) = self.limits.takes_more(requests, queued, || self.is_one_awake()) {
            self.intake.set_open(open);
        }
        self.metrics.concurrency.set(self.limits.concurrency.limit());
        self.metrics.rate.set(self.limits.rate.rate());
    }

    /// If a probe of an API in trouble is due, and nobody is awake who has not asked in vain, calls one who has.
    fn call_one(&mut self, now: Instant) {
        let waits =
            self.limits.pauses.contains(&Scope::Api) && !self.limits.pauses.may_ask_api(now);
        if self.limits.trouble().is_none() || waits || !self.may_send(now) {
            return;
        }
        let mut again = self.limits.asks_again();
        while (again || !self.is_one_awake()) && self.lanes.call() {
            again = false;
        }
    }

    /// Whether something may be sent that does not wait for a pause of its namespace.
    fn is_one_awake(&self) -> bool {
        let pauses = &self.limits.pauses;
        self.lanes.is_awake(|namespace| !pauses.contains(&Scope::of(namespace)))
    }

    /// Sends batches. `asker` is the namespace that may probe a paused API.
    fn dispatch(&mut self, asker: Option<&str>, now: Instant) {
        while self.may_send(now) {
            let room = |namespace: &str| self.limits.pauses.room(namespace, asker, now);
            let Some(mut batch) = self.lanes.next_batch(room) else { break };
            self.drop_expired(&mut batch.items, now);
            if batch.items.is_empty() {
                self.lanes.finish(batch.held, Vec::new(), None);
                continue;
            }
            let again = self.limits.trouble().is_some_and(|since| {
                batch.items.iter().all(|entry| entry.tries().in_vain_at > Some(since))
            });
            self.limits.sent(batch.channel.namespace(), batch.items.len(), again, now);
            #[allow(clippy::cast_precision_loss)] // 1 to 5
            self.metrics.batch.observe(batch.items.len() as f64);
            self.workers.send(batch, now);
        }
    }

    /// Settles the events whose time was over before their turn came.
    fn drop_expired(&mut self, items: &mut Vec<Entry>, now: Instant) {
        if !items.iter().any(|entry| entry.is_expired(now)) {
            return;
        }
        for entry in std::mem::take(items) {
            if !entry.is_expired(now) {
                items.push(entry);
                continue;
            }
            entry.settle(Outcome::Accepted(Done::Expired), &mut self.endings);
            self.metrics.expired.inc();
        }
        // A whole backlog may expire in one turn.
        self.endings.tell();
        self.tell_expired(now);
    }

    /// Says how many events had expired, at intervals.
    fn tell_expired(&mut self, now: Instant) {
        if let Some(count) =
            self.expired_log.reached(self.metrics.expired.get(), EXPIRED_EVERY, now)
        {
            let hint = "their publishers limit how long they are of use (message expiry); waiting for the API takes longer";
            warn!(api = %self.name, count, hint, "dropped events that had expired when their turn came");
        }
    }

    fn may_send(&mut self, now: Instant) -> bool {
        self.limits.hold(self.workers.requests(), self.lanes.queued(), now).is_none()
    }

    /// When [`send`](Self::send) is due next, if nothing else happens.
    fn next_wake(&self, now: Instant) -> Option<Instant> {
        let change = self.limits.next_change(self.workers.requests(), self.lanes.queued(), now);
        // One that is over ends with the next answer, which wakes the loop by itself.
        let wait = self.retry_after.as_ref().map(RetryAfter::ends).filter(|ends| *ends > now);
        [self.lanes.next_wake(), change, wait].into_iter().flatten().min()
    }
}

/// The clock of the runtime, which a simulation can set.
fn clock() -> Instant {
    tokio::time::Instant::now().into_std()
}
