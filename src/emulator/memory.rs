//! The memory that clients occupy, in bytes, with one limit for all of them: incomplete bodies,
//! incomplete frames, and events that wait for a subscriber.
//!
//! No request is refused for lack of memory. Above the limit, the connection with the oldest bytes is
//! cut, then the next one, until the rest fits: a client that reads and writes at a normal speed holds
//! its bytes for moments only, so it is never the oldest. An event that waits for many subscribers is
//! held and counted once.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// Bytes of all connections together.
pub(super) const MAX_HELD_BYTES: usize = 64 * 1024 * 1024;

/// Bytes that may wait for one connection: some seconds of a busy channel.
pub(super) const MAX_QUEUED_BYTES: usize = 32 * 1024 * 1024;

/// The charge for a queued frame in addition to its text.
const FRAME_BYTES: usize = 64;

/// The bytes of all connections.
#[derive(Debug)]
pub(super) struct Memory {
    held: AtomicUsize,
    limit: usize,
    holders: Mutex<HashMap<u64, Arc<Holder>>>,
    next: AtomicU64,
    cuts: AtomicU64,
}

/// The account of one connection; its charges end with it.
#[derive(Debug)]
pub(super) struct Holding {
    memory: Arc<Memory>,
    id: u64,
    holder: Arc<Holder>,
}

#[derive(Debug)]
struct Holder {
    /// The address at the other end.
    client: SocketAddr,
    state: Mutex<State>,
    /// Notified when a frame is queued.
    queued: Notify,
    cut: CancellationToken,
}

#[derive(Debug, Default)]
struct State {
    /// Bytes of its own, by [`Side`].
    own: [Charge; 2],
    queue: VecDeque<Queued>,
    /// Bytes of the queue, a shared text counted in full.
    queue_bytes: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Charge {
    bytes: usize,
    /// When the first of them came.
    since: Option<Instant>,
}

/// The direction of bytes that belong to one connection alone.
#[derive(Clone, Copy, Debug)]
pub(super) enum Side {
    /// Read so far of a body or a frame.
    Read,
    /// The frame that is being written.
    Written,
}

#[derive(Debug)]
struct Queued {
    frame: Frame,
    at: Instant,
}

/// A frame in a queue: an event for a subscription, or a text that is sent unchanged.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    /// The id of the subscription that the event is for: letters, digits, `-`, `_` and `+`.
    pub(super) subscription: Option<Arc<str>>,
    /// The event as a string of JSON, or the text.
    pub(super) text: Arc<HeldText>,
}

/// A text, charged until its last reference is dropped.
#[derive(Debug)]
pub(super) struct HeldText {
    text: Box<str>,
    memory: Arc<Memory>,
}

impl Memory {
    /// No bytes held, at most `limit`.
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            held: AtomicUsize::new(0),
            limit,
            holders: Mutex::default(),
            next: AtomicU64::new(0),
            cuts: AtomicU64::new(0),
        })
    }

    /// Opens the account of a connection with this client.
    pub(super) fn holding(self: &Arc<Self>, client: SocketAddr) -> Holding {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let holder = Arc::new(Holder {
            client,
            state: Mutex::default(),
            queued: Notify::new(),
            cut: CancellationToken::new(),
        });
        self.holders.lock().insert(id, Arc::clone(&holder));
        Holding { memory: Arc::clone(self), id, holder }
    }

    /// Charges a text, which may then be queued for several connections.
    pub(super) fn hold(self: &Arc<Self>, text: &str) -> Arc<HeldText> {
        self.charge(text.len());
        Arc::new(HeldText { text: text.into(), memory: Arc::clone(self) })
    }

    /// How many connections were cut.
    pub(super) fn cuts(&self) -> u64 {
        self.cuts.load(Ordering::Relaxed)
    }

    fn charge(&self, bytes: usize) {
        if self.held.fetch_add(bytes, Ordering::Relaxed) + bytes > self.limit {
            self.make_room();
        }
    }

    fn refund(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Cuts the connections with the oldest bytes until the rest fits.
    fn make_room(&self) {
        // Under the lock: two calls at once would each cut a connection for the same bytes.
        let holders = self.holders.lock();
        let mut oldest: Vec<_> =
            holders.values().filter_map(|h| Some((h.state.lock().since()?, h))).collect();
        oldest.sort_unstable_by_key(|(since, _)| *since);
        for (_, holder) in oldest {
            if self.held.load(Ordering::Relaxed) <= self.limit {
                return;
            }
            self.cut(
                holder,
                "the connections hold too much memory, and this one has the oldest bytes",
            );
        }
    }

    /// Drops the bytes of a connection, and tells it to end.
    fn cut(&self, holder: &Holder, why: &str) {
        let (own, queue) = holder.state.lock().clear();
        self.refund(own + queue.len() * FRAME_BYTES);
        drop(queue);
        if !holder.cut.is_cancelled() {
            holder.cut.cancel();
            let cuts = self.cuts.fetch_add(1, Ordering::Relaxed) + 1;
            warn!(
                client = %holder.client,
                why,
                cuts,
                hint = "read frames as they come, and send bodies without a pause",
                "cut a connection that is too slow"
            );
        }
    }
}

impl Holding {
    /// Charges `bytes` to this side.
    pub(super) fn add(&self, side: Side, bytes: usize) {
        {
            let mut state = self.holder.state.lock();
            if self.holder.cut.is_cancelled() || bytes == 0 {
                return;
            }
            let own = &mut state.own[side as usize];
            own.bytes += bytes;
            own.since.get_or_insert_with(Instant::now);
        }
        self.memory.charge(bytes);
    }

    /// Ends the charge of this side.
    pub(super) fn clear(&self, side: Side) {
        let own = std::mem::take(&mut self.holder.state.lock().own[side as usize]);
        self.memory.refund(own.bytes);
    }

    /// Queues a frame; never waits. A connection with more than [`MAX_QUEUED_BYTES`] is cut.
    pub(super) fn push(&self, frame: Frame) {
        let overflow = {
            let mut state = self.holder.state.lock();
            if self.holder.cut.is_cancelled() {
                return;
            }
            state.queue_bytes += frame.text.len() + FRAME_BYTES;
            state.queue.push_back(Queued { frame, at: Instant::now() });
            state.queue_bytes > MAX_QUEUED_BYTES
        };
        self.memory.charge(FRAME_BYTES);
        if overflow {
            self.memory.cut(&self.holder, "its queue of unread frames is full");
        }
        self.holder.queued.notify_one();
    }

    /// The next frame, in the order of queueing; for one reader.
    pub(super) async fn next(&self) -> Frame {
        loop {
            if let Some(frame) = self.try_next() {
                return frame;
            }
            self.holder.queued.notified().await;
        }
    }

    /// The next frame if it is there already.
    pub(super) fn try_next(&self) -> Option<Frame> {
        let frame = {
            let mut state = self.holder.state.lock();
            let Queued { frame, .. } = state.queue.pop_front()?;
            state.queue_bytes -= frame.text.len() + FRAME_BYTES;
            frame
        };
        self.memory.refund(FRAME_BYTES);
        Some(frame)
    }

    /// Waits until the connection has to end.
    pub(super) async fn cut(&self) {
        self.holder.cut.cancelled().await;
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.memory.holders.lock().remove(&self.id);
        let (own, queue) = self.holder.state.lock().clear();
        self.memory.refund(own + queue.len() * FRAME_BYTES);
    }
}

impl State {
    /// The time of its oldest bytes.
    fn since(&self) -> Option<Instant> {
        let queued = self.queue.front().map(|queued| queued.at);
        self.own.iter().map(|own| own.since).chain([queued]).flatten().min()
    }

    fn clear(&mut self) -> (usize, VecDeque<Queued>) {
        self.queue_bytes = 0;
        let own = std::mem::take(&mut self.own);
        (own.iter().map(|own| own.bytes).sum(), std::mem::take(&mut self.queue))
    }
}

impl Frame {
    /// The text to send. It differs for each subscriber only in the id, so the event is escaped once,
    /// before it is queued.
    pub(super) fn into_text(self) -> String {
        match &self.subscription {
            Some(id) => [r#"{"type":"data","id":""#, id, r#"","event":"#, &self.text, "}"].concat(),
            None => self.text.to_string(),
        }
    }
}

impl std::ops::Deref for HeldText {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

impl Drop for HeldText {
    fn drop(&mut self) {
        self.memory.refund(self.text.len());
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::event_api::wire::ServerFrame;

    const CLIENT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1);

    fn frame(text: &Arc<HeldText>) -> Frame {
        Frame { subscription: None, text: Arc::clone(text) }
    }

    #[test]
    fn an_event_for_many_is_charged_once_and_all_is_given_back() {
        let memory = Memory::new(10_000);
        let readers: Vec<_> = (0..10).map(|_| memory.holding(CLIENT)).collect();
        let text = memory.hold(&"x".repeat(5_000));
        for reader in &readers {
            reader.push(frame(&text));
        }
        drop(text);
        assert_eq!(memory.held.load(Ordering::Relaxed), 5_000 + 10 * FRAME_BYTES);
        for reader in &readers[..9] {
            assert_eq!(reader.try_next().unwrap().text.len(), 5_000);
        }
        assert_eq!(memory.held.load(Ordering::Relaxed), 5_000 + FRAME_BYTES);
        drop(readers);
        assert_eq!((memory.held.load(Ordering::Relaxed), memory.cuts()), (0, 0));
    }

    #[test]
    fn who_has_held_something_for_the_longest_is_cut_and_nobody_else() {
        let memory = Memory::new(10_000);
        let (slow, quick, idle) =
            (memory.holding(CLIENT), memory.holding(CLIENT), memory.holding(CLIENT));
        slow.add(Side::Read, 4_000);
        for _ in 0..10 {
            quick.add(Side::Written, 5_900);
            quick.clear(Side::Written);
        }
        quick.add(Side::Written, 5_900);
        assert_eq!(memory.cuts(), 0);
        quick.add(Side::Read, 200);
        let cut = |holding: &Holding| holding.holder.cut.is_cancelled();
        assert_eq!((cut(&slow), cut(&quick), cut(&idle)), (true, false, false));
        assert_eq!((memory.held.load(Ordering::Relaxed), memory.cuts()), (6_100, 1));
        // After the cut nothing is charged to it.
        slow.add(Side::Read, 100_000);
        slow.push(frame(&memory.hold("x")));
        assert_eq!(memory.held.load(Ordering::Relaxed), 6_100);
        quick.clear(Side::Written);
        quick.clear(Side::Read);
        drop((slow, quick));
        assert_eq!((memory.held.load(Ordering::Relaxed), memory.cuts()), (0, 1));
    }

    #[test]
    fn a_queue_has_a_bound_of_its_own() {
        let memory = Memory::new(usize::MAX);
        let (slow, quick) = (memory.holding(CLIENT), memory.holding(CLIENT));
        let text = memory.hold(&"x".repeat(200_000));
        for _ in 0..=MAX_QUEUED_BYTES / 200_000 {
            slow.push(frame(&text));
            quick.push(frame(&text));
            quick.try_next().unwrap();
        }
        assert!(slow.holder.cut.is_cancelled() && !quick.holder.cut.is_cancelled());
        assert!(slow.try_next().is_none());
    }

    #[test]
    fn an_event_goes_out_as_the_protocol_has_it() {
        let event = "{\"a\":\"\u{fc}\\n\"}";
        let text = serde_json::to_string(event).unwrap();
        let frame = Frame { subscription: Some("s-1".into()), text: Memory::new(99).hold(&text) };
        let expected = serde_json::to_string(&ServerFrame::Data { id: "s-1", event }).unwrap();
        assert_eq!(frame.into_text(), expected);
    }

    #[tokio::test]
    async fn a_reader_is_woken_by_what_is_queued_in_its_order() {
        let memory = Memory::new(10_000);
        let reader = Arc::new(memory.holding(CLIENT));
        let task = tokio::spawn({
            let reader = Arc::clone(&reader);
            async move { [reader.next().await, reader.next().await].map(|f| f.text.to_string()) }
        });
        tokio::task::yield_now().await;
        reader.push(frame(&memory.hold("one")));
        reader.push(frame(&memory.hold("two")));
        assert_eq!(task.await.unwrap(), ["one", "two"]);
    }
}
