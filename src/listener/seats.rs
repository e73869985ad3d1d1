//! The seats of a port: who has one, who waits in it, and who has to leave.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

/// From the connection to the end of its first request's head, with the handshake of TLS.
pub(super) const FIRST_HEAD: Duration = Duration::from_secs(10);

/// From an answer to the end of the next request's head. Above the minute in which most clients and
/// scrapers come again.
const NEXT_HEAD: Duration = Duration::from_secs(75);

/// Who has something to ask has asked it by then; sooner nobody has to give his seat. So it also bounds
/// what those cost who come again as soon as they are sent away: they wait before the door meanwhile.
const GRACE: Duration = Duration::from_millis(100);

/// Who was told to give his seat has gone within this, or another is told.
const LEAVING: Duration = Duration::from_secs(1);

/// What goes on is said so often.
const SAID_EVERY: Duration = Duration::from_mins(1);

/// What a connection takes of a port; given back when the last who has it drops it.
#[derive(Debug)]
pub struct Seat {
    seats: Arc<Seats>,
    /// In the order of those that wait; 0: it is being worked for.
    turn: AtomicU64,
    leave: CancellationToken,
}

#[derive(Debug)]
pub(super) struct Seats {
    /// Names the port in the log.
    what: &'static str,
    most: usize,
    state: Mutex<State>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct State {
    taken: usize,
    last_turn: u64,
    waiting: BTreeMap<u64, Waiting>,
    /// How many were sent away since that was last said, and when that was.
    sent_away: u64,
    said: Option<Instant>,
}

#[derive(Debug)]
struct Waiting {
    since: Instant,
    until: Instant,
    leave: CancellationToken,
}

/// While it lives, a request is worked on.
pub(super) struct Busy(Option<Arc<Seat>>);

impl Seat {
    /// Drives what the connection waits for, unless it waits too long or has to leave.
    pub async fn hold<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.leave.cancelled() => None,
            done = work => Some(done),
            () = self.waited_too_long() => None,
        }
    }

    /// A request came in, and is worked on.
    pub(super) fn busy(self: &Arc<Self>) -> Busy {
        self.stop_waiting();
        Busy(Some(Arc::clone(self)))
    }

    async fn waited_too_long(&self) {
        loop {
            let until = self.seats.lock().waiting.get(&self.turn()).map(|waiting| waiting.until);
            let now = Instant::now();
            if until.is_some_and(|until| until <= now) {
                return;
            }
            // What begins to wait meanwhile may do so for at least as long.
            sleep_until(until.unwrap_or(now + NEXT_HEAD)).await;
        }
    }

    fn turn(&self) -> u64 {
        self.turn.load(Ordering::Relaxed)
    }

    /// Begins to wait, behind all who do.
    fn wait(&self, how_long: Duration) {
        let mut state = self.seats.lock();
        state.last_turn += 1;
        let turn = state.last_turn;
        let since = Instant::now();
        let waiting = Waiting { since, until: since + how_long, leave: self.leave.clone() };
        state.waiting.insert(turn, waiting);
        self.turn.store(turn, Ordering::Relaxed);
    }

    /// Waits no more.
    fn stop_waiting(&self) {
        self.seats.lock().waiting.remove(&self.turn.swap(0, Ordering::Relaxed));
    }
}

impl Seats {
    pub(super) fn new(what: &'static str, most: usize) -> Self {
        Self { what, most, state: Mutex::default(), freed: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// A seat, if need be of one who waits; `None` if nobody does. One at a time may ask.
    pub(super) async fn take(self: &Arc<Self>) -> Option<Arc<Seat>> {
        loop {
            // Of a seat that was freed while nobody asked: it would end the wait for another one.
            let _ = self.freed.notified().now_or_never();
            let patience = {
                let mut state = self.lock();
                if state.taken < self.most {
                    state.taken += 1;
                    break;
                }
                let waited =
                    state.waiting.first_entry().map(|longest| longest.get().since.elapsed());
                match waited {
                    Some(waited) if waited < GRACE => GRACE.saturating_sub(waited),
                    _ => {
                        let longest = state.waiting.pop_first();
                        // While nobody can give it work.
                        let left = longest.map(|(_, longest)| longest.leave.cancel());
                        drop(state);
                        self.sent_away(left.is_some());
                        left?;
                        LEAVING
                    }
                }
            };
            let _ = timeout(patience, self.freed.notified()).await;
        }
        let (turn, leave) = (AtomicU64::new(0), CancellationToken::new());
        let seat = Arc::new(Seat { seats: Arc::clone(self), turn, leave });
        seat.wait(FIRST_HEAD);
        Some(seat)
    }

    /// Says that somebody had to go: who `waited` longest, or else the newest.
    fn sent_away(&self, waited: bool) {
        let mut state = self.lock();
        state.sent_away += 1;
        if state.said.is_none_or(|said| said.elapsed() >= SAID_EVERY) {
            state.said = Some(Instant::now());
            let (count, open) = (std::mem::take(&mut state.sent_away), state.taken);
            drop(state);
            let who = if waited { "who waited longest" } else { "new ones: all are in use" };
            tracing::warn!(
                port = self.what,
                count,
                open,
                most = self.most,
                closed = who,
                "every seat is taken: connections were closed; who opens so many?"
            );
        }
    }

    pub(super) fn refused(&self, error: &io::Error) {
        let mut state = self.lock();
        if state.said.is_none_or(|said| said.elapsed() >= SAID_EVERY) {
            state.said = Some(Instant::now());
            drop(state);
            tracing::warn!(port = self.what, %error, "no connection can be taken, trying again; if too many files are open, raise `LimitNOFILE=` of the unit, or `ulimit -Hn`");
        }
    }
}

impl Busy {
    /// There is an answer, from which on the client waits; not if it is another protocol's beginning.
    pub(super) fn over(mut self, upgrade: bool) {
        if upgrade {
            self.0 = None;
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if let Some(seat) = self.0.take().filter(|seat| !seat.leave.is_cancelled()) {
            seat.wait(NEXT_HEAD);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.stop_waiting();
        self.seats.lock().taken -= 1;
        self.seats.freed.notify_one();
    }
}
