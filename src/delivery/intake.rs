//! Where a source hands its deliveries over, and whether it makes sense to take more.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use futures_util::future::select_all;
use parking_lot::RwLock;
use tokio::sync::Notify;

use super::Delivery;

/// The queue that a source hands its deliveries to. Handing over never waits: the source's in-flight limit
/// bounds the queue.
#[derive(Clone)]
pub struct Intake {
    course: Arc<Course>,
}

/// Where the deliveries of a source go, which may be changed between two of them.
struct Course {
    now: RwLock<Way>,
    changed: Notify,
}

#[derive(Clone)]
struct Way {
    take: Arc<dyn Fn(Delivery) + Send + Sync>,
    gates: Vec<Gate>,
}

/// Whether an API takes events: closed while it is paused as a whole or does not answer, as long as an event
/// is there to probe it with that has not done so in vain.
#[derive(Clone, Debug, Default)]
pub struct Gate {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: AtomicU8,
    opened: Notify,
}

const OPEN: u8 = 0;

/// Open until a delivery comes.
const AJAR: u8 = 1;

const CLOSED: u8 = 2;

impl Intake {
    /// So many messages a source asks for at most while the gate [is ajar](Self::is_ajar).
    pub const FEW: usize = 16;

    /// An intake that gives each delivery to `take`, on the thread of the source.
    pub fn new(take: impl Fn(Delivery) + Send + Sync + 'static) -> Self {
        Self::of(Way { take: Arc::new(take), gates: Vec::new() })
    }

    /// The same intake for a source that feeds the APIs of these gates.
    #[must_use]
    pub fn behind(&self, gates: Vec<Gate>) -> Self {
        Self::of(Way { take: Arc::clone(&self.course.now.read().take), gates })
    }

    fn of(way: Way) -> Self {
        Self { course: Arc::new(Course { now: RwLock::new(way), changed: Notify::new() }) }
    }

    /// From now on deliveries go the way of `other`, behind its gates. Each one goes one way as a whole, and when
    /// this returns none is left on the old one.
    pub fn redirect(&self, other: &Self) {
        let way = other.course.now.read().clone();
        // Dropped when nobody waits for the lock any more.
        let _old = std::mem::replace(&mut *self.course.now.write(), way);
        self.course.changed.notify_waiters();
    }

    /// Whether taking messages makes sense now: one of the source's APIs takes events. So a working API is not
    /// starved by another; the in-flight limit bounds the messages waiting for that one. A source that can
    /// leave messages with its broker asks; handing over works in any case.
    pub fn is_open(&self) -> bool {
        let way = self.course.now.read();
        way.gates.is_empty() || way.gates.iter().any(Gate::is_open)
    }

    /// Whether it is open for a few only.
    pub fn is_ajar(&self) -> bool {
        let way = self.course.now.read();
        !way.gates.is_empty() && way.gates.iter().all(|gate| gate.state() != OPEN)
    }

    /// Waits until it [is open](Self::is_open), for a source that has to ask for its messages.
    pub async fn until_open(&self) {
        while !self.is_open() {
            // First, so that other gates than those waited for are not missed.
            let changed = self.course.changed.notified();
            let gates = self.course.now.read().gates.clone();
            // A gate that opens from here on wakes, and one that did before is seen.
            let opened = gates.iter().map(|gate| gate.shared.opened.notified());
            let changes: Vec<_> = opened.chain([changed]).map(Box::pin).collect();
            if self.is_open() {
                return;
            }
            select_all(changes).await;
        }
    }

    /// Hands a delivery over.
    pub fn submit(&self, delivery: Delivery) {
        // Held over the call: that never waits, and a change has to come before it or after it.
        let way = self.course.now.read();
        // By one that is open it would have come anyway.
        if way.gates.iter().all(|gate| gate.state() != OPEN) {
            way.gates.iter().for_each(Gate::passed);
        }
        (way.take)(delivery);
    }
}

impl Gate {
    /// Opens or closes it.
    pub fn set_open(&self, open: bool) {
        let state = if open { OPEN } else { CLOSED };
        // Asked at every turn of a publisher, and nearly always so already.
        if self.state() == state {
            return;
        }
        self.shared.state.store(state, Ordering::Relaxed);
        if open {
            self.shared.opened.notify_waiters();
        }
    }

    /// Opens it until the next delivery comes, if it is closed. A source that takes several at a time brings those.
    pub fn let_one_in(&self) {
        if self.change(CLOSED, AJAR) {
            self.shared.opened.notify_waiters();
        }
    }

    fn passed(&self) {
        if self.state() == AJAR {
            self.change(AJAR, CLOSED);
        }
    }

    fn change(&self, from: u8, to: u8) -> bool {
        let state = &self.shared.state;
        state.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    pub(super) fn is_open(&self) -> bool {
        self.state() != CLOSED
    }

    fn state(&self) -> u8 {
        self.shared.state.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Intake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Intake")
    }
}
