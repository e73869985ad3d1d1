//! The slots of a port: the idle connections in their order, and the choice of the one to close.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::repeats::Repeats;

/// Time from the connection to the end of its first request's head, with the TLS handshake.
pub(super) const FIRST_HEAD: Duration = Duration::from_secs(10);

/// Time from an answer to the end of the next request's head. Above a minute, the interval of most
/// clients and scrapers.
const NEXT_HEAD: Duration = Duration::from_secs(75);

/// The least idle time before a connection is closed for another one: an active client has sent its
/// request by then. It also limits the cost of clients that reconnect at once: they wait in the
/// system's queue meanwhile.
const MIN_IDLE: Duration = Duration::from_millis(100);

/// Time for a connection to close; then the next one is closed, too.
const CLOSE_TIME: Duration = Duration::from_secs(1);

/// The least time between two log lines.
const LOG_INTERVAL: Duration = Duration::from_mins(1);

/// A connection's place in the limit of a port; free again when its last reference is dropped.
#[derive(Debug)]
pub struct Slot {
    slots: Arc<Slots>,
    /// Its key in `State::idle`; 0 while a request is being answered.
    position: AtomicU64,
    leave: CancellationToken,
}

#[derive(Debug)]
pub(super) struct Slots {
    /// The name of the port in the log.
    what: &'static str,
    most: usize,
    state: Mutex<State>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct State {
    taken: usize,
    last_position: u64,
    idle: BTreeMap<u64, Idle>,
    closed: Repeats,
    refused: Repeats,
    strange: Repeats,
}

#[derive(Debug)]
struct Idle {
    since: Instant,
    until: Instant,
    leave: CancellationToken,
}

/// A guard: a request is being answered.
pub(super) struct Busy(Option<Arc<Slot>>);

impl Slot {
    /// Drives the connection until it is idle for too long or has to close for another one.
    pub async fn hold<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.leave.cancelled() => None,
            done = work => Some(done),
            () = self.idle_too_long() => None,
        }
    }

    /// What came over its connection is not HTTP/1.1.
    pub(super) fn strange(&self) {
        self.slots.strange();
    }

    /// Ends the idle time: the head of a request has come, and it is being answered.
    pub(super) fn busy(self: &Arc<Self>) -> Busy {
        self.end_idle();
        Busy(Some(Arc::clone(self)))
    }

    async fn idle_too_long(&self) {
        loop {
            let until = self.slots.state.lock().idle.get(&self.position()).map(|idle| idle.until);
            let now = Instant::now();
            if until.is_some_and(|until| until <= now) {
                return;
            }
            // An idle time that begins meanwhile ends no earlier.
            sleep_until(until.unwrap_or(now + NEXT_HEAD)).await;
        }
    }

    fn position(&self) -> u64 {
        self.position.load(Ordering::Relaxed)
    }

    /// Begins an idle time, behind all others.
    fn begin_idle(&self, at_most: Duration) {
        let mut state = self.slots.state.lock();
        state.last_position += 1;
        let position = state.last_position;
        let since = Instant::now();
        let idle = Idle { since, until: since + at_most, leave: self.leave.clone() };
        state.idle.insert(position, idle);
        self.position.store(position, Ordering::Relaxed);
    }

    /// Ends the idle time.
    fn end_idle(&self) {
        self.slots.state.lock().idle.remove(&self.position.swap(0, Ordering::Relaxed));
    }
}

impl Slots {
    pub(super) fn new(what: &'static str, most: usize) -> Self {
        Self { what, most, state: Mutex::default(), freed: Notify::new() }
    }

    /// Takes a slot, if need be from an idle connection; `None` if there is none. Not for concurrent
    /// calls.
    pub(super) async fn take(self: &Arc<Self>) -> Option<Arc<Slot>> {
        loop {
            // Clears the permit of a slot that was freed earlier: it would end the wait below.
            let _ = self.freed.notified().now_or_never();
            let patience = {
                let mut state = self.state.lock();
                if state.taken < self.most {
                    state.taken += 1;
                    break;
                }
                let waited = state.idle.first_entry().map(|longest| longest.get().since.elapsed());
                match waited {
                    Some(waited) if waited < MIN_IDLE => MIN_IDLE.saturating_sub(waited),
                    _ => {
                        let longest = state.idle.pop_first();
                        // Under the lock, so that it cannot begin a request before.
                        let left = longest.map(|(_, longest)| longest.leave.cancel());
                        drop(state);
                        self.log_closed(left.is_some());
                        left?;
                        CLOSE_TIME
                    }
                }
            };
            let _ = timeout(patience, self.freed.notified()).await;
        }
        let (position, leave) = (AtomicU64::new(0), CancellationToken::new());
        let slot = Arc::new(Slot { slots: Arc::clone(self), position, leave });
        slot.begin_idle(FIRST_HEAD);
        Some(slot)
    }

    /// Logs that a connection was closed: the longest `idle` one, or else the new one.
    fn log_closed(&self, idle: bool) {
        let mut state = self.state.lock();
        let due = state.closed.again(LOG_INTERVAL, Instant::now().into_std());
        let open = state.taken;
        drop(state);
        if let Some(count) = due {
            let closed = if idle { "the longest idle ones" } else { "new ones: none is idle" };
            tracing::warn!(
                port = self.what,
                count,
                open,
                most = self.most,
                closed,
                "every connection slot is taken: connections were closed; find the client that opens so many"
            );
        }
    }

    fn strange(&self) {
        let due = self.state.lock().strange.again(LOG_INTERVAL, Instant::now().into_std());
        if let Some(count) = due {
            tracing::warn!(
                port = self.what,
                count,
                "a client was refused that does not speak HTTP/1.1; `https://` to a port without TLS looks like this, too"
            );
        }
    }

    pub(super) fn refused(&self, error: &io::Error) {
        let due = self.state.lock().refused.again(LOG_INTERVAL, Instant::now().into_std());
        if let Some(count) = due {
            tracing::warn!(port = self.what, %error, count, "no connection can be accepted, trying again; if too many files are open, raise `LimitNOFILE=` of the unit, or `ulimit -Hn`");
        }
    }
}

impl Busy {
    /// There is an answer, and a new idle time begins; not after an upgrade to another protocol.
    pub(super) fn over(mut self, upgrade: bool) {
        if upgrade {
            self.0 = None;
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if let Some(slot) = self.0.take().filter(|slot| !slot.leave.is_cancelled()) {
            slot.begin_idle(NEXT_HEAD);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.end_idle();
        self.slots.state.lock().taken -= 1;
        self.slots.freed.notify_one();
    }
}
