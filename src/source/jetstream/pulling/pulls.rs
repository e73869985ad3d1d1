//! The pull requests that are open, each with the room that was reserved for it. Pure but for the room.
//!
//! A message does not tell which request it answers, so only their sum is known: how many messages may still
//! come. When half of a window has come the next request goes out, so that the server always has one; large
//! requests cost both sides the least.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::Config;
use bytes::Bytes;
use serde_json::json;

use crate::source::Reservation;

/// Messages asked for at most. A quarter of what the client holds for a subscription, 65,536 by default, is
/// the most that is safe: beyond what it holds it drops messages.
const WINDOW: usize = 4096;

/// A request ends after this, and the next one is made. A drain waits as long.
const EXPIRES: Duration = Duration::from_secs(1);

/// A request for less than a quarter of a window waits so long for more room.
const GATHER: Duration = Duration::from_millis(50);

/// What a message mostly has beside its payload and its headers: subjects.
const OVERHEAD: usize = 256;

/// What it may have: the subjects of the message and of its acknowledgement, and headers that a stream added which
/// has it from another one.
const MOST_OVERHEAD: usize = 16 * 1024;

/// No message of NATS is larger.
const MOST_BYTES: usize = 1 << 30;

/// The assumed size before there is a message.
const FIRST_SIZE: usize = 2048;

/// The bytes of a request that brings every message whose payload and headers the server limits to `largest`.
pub(in crate::source::jetstream) fn least_bytes(largest: usize) -> usize {
    largest + MOST_OVERHEAD
}

/// Open requests.
pub(in crate::source::jetstream) struct Pulls {
    window: usize,
    expires: Duration,
    /// The oldest first; one that is used up stays until there is another.
    open: VecDeque<Reservation>,
    /// How many messages were asked for, and when, by requests that may be open.
    asked: VecDeque<(usize, Instant)>,
    opened: Option<Instant>,
    /// A moving average.
    size: usize,
    /// A request for fewer bytes than the largest message could get none for ever.
    least_bytes: usize,
    /// The consumer allows no more.
    most_bytes: usize,
}

impl Pulls {
    /// None open, for a consumer that may restrict them; `limit` is that in flight, `largest` the bytes of a
    /// payload that the server takes.
    pub(in crate::source::jetstream) fn new(
        limit: usize,
        largest: usize,
        consumer: &Config,
    ) -> Self {
        let most = usize::try_from(consumer.max_batch).unwrap_or(0);
        let window = WINDOW.min(limit);
        let (window, expires) = (
            if most > 0 { window.min(most) } else { window },
            if consumer.max_expires.is_zero() {
                EXPIRES
            } else {
                consumer.max_expires.min(EXPIRES)
            },
        );
        Self {
            window,
            expires,
            open: VecDeque::new(),
            asked: VecDeque::new(),
            opened: None,
            size: FIRST_SIZE,
            least_bytes: least_bytes(largest),
            most_bytes: match usize::try_from(consumer.max_bytes) {
                Ok(0) | Err(_) => usize::MAX,
                Ok(most) => most,
            },
        }
    }

    /// Messages that may still come.
    pub(in crate::source::jetstream) fn outstanding(&self) -> usize {
        self.open.iter().map(Reservation::messages).sum()
    }

    /// How many to ask for now where there is room for `free`: 0 for none.
    pub(in crate::source::jetstream) fn wanted(&self, free: usize, now: Instant) -> usize {
        let outstanding = self.outstanding();
        if outstanding > self.window / 2 {
            return 0;
        }
        let wanted = (self.window - outstanding).min(free);
        let gathered =
            outstanding == 0 && self.opened.is_none_or(|at| now.duration_since(at) >= GATHER);
        if wanted >= self.window.div_ceil(4) || gathered { wanted } else { 0 }
    }

    /// The size to assume of a message: more than the average, so that requests seldom end by their bytes.
    pub(in crate::source::jetstream) fn each(&self) -> usize {
        self.size * 2 + OVERHEAD
    }

    /// Opens a request, and gives its words.
    pub(in crate::source::jetstream) fn open(
        &mut self,
        reservation: Reservation,
        now: Instant,
    ) -> Bytes {
        let nanoseconds =
            |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let bytes = reservation.messages() * self.each();
        let request = json!({
            "batch": reservation.messages(),
            "max_bytes": bytes.max(self.least_bytes).min(self.most_bytes),
            "expires": nanoseconds(self.expires),
            "idle_heartbeat": nanoseconds(self.expires / 2),
        });
        if self.open.front().is_some_and(|oldest| oldest.messages() == 0) {
            self.open.pop_front();
        }
        self.asked.retain(|(_, at)| now.duration_since(*at) <= self.expires * 2);
        self.asked.push_back((reservation.messages(), now));
        self.open.push_back(reservation);
        self.opened = Some(now);
        request.to_string().into()
    }

    /// The reservation that the next message takes from; used up if more come than were asked for. `None`
    /// before the first request.
    pub(in crate::source::jetstream) fn next(&mut self) -> Option<&mut Reservation> {
        while self.open.len() > 1 && self.open.front().is_some_and(|oldest| oldest.messages() == 0)
        {
            self.open.pop_front();
        }
        self.open.front_mut()
    }

    /// A message of `bytes` came.
    pub(in crate::source::jetstream) fn came(&mut self, bytes: usize) {
        self.size = (self.size * 15 + bytes).div_ceil(16);
    }

    /// So many messages will not come, since a request ended.
    pub(in crate::source::jetstream) fn ended(&mut self, mut messages: usize) {
        for reservation in &mut self.open {
            let part = reservation.messages().min(messages);
            reservation.give_back(part);
            messages -= part;
        }
    }

    /// A request ended with so many messages to come since the next is too large for it. If it has brought none it
    /// would be so for ever: the next ones ask for twice the bytes. Gives how many then.
    pub(in crate::source::jetstream) fn exceeded(&mut self, left: usize) -> Option<usize> {
        self.ended(left);
        let none_came = self.asked.iter().any(|(asked, _)| *asked == left);
        let larger = (self.least_bytes * 2).min(self.most_bytes).min(MOST_BYTES);
        (none_came && larger > self.least_bytes).then(|| {
            self.least_bytes = larger;
            larger
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::FutureExt as _;

    use super::*;
    use crate::config::source::Limits;
    use crate::metrics::Metrics;
    use crate::source::Room;

    fn room(messages: usize) -> Arc<Room> {
        Room::new(Limits { messages, bytes: 64 << 20 }, Metrics::new().source("s"))
    }

    /// Asks if it is wanted; how many were asked for.
    fn ask(pulls: &mut Pulls, room: &Arc<Room>, now: Instant) -> usize {
        let wanted = pulls.wanted(room.messages_left(), now);
        if wanted == 0 {
            return 0;
        }
        let reservation = room.reserve(wanted, pulls.each()).now_or_never().unwrap();
        let asked = reservation.messages();
        let words: serde_json::Value =
            serde_json::from_slice(&pulls.open(reservation, now)).unwrap();
        assert_eq!(words["batch"], asked);
        asked
    }

    #[test]
    fn the_next_request_goes_out_when_half_of_a_window_has_come() {
        let (room, now) = (room(10_000), Instant::now());
        let mut pulls = Pulls::new(10_000, 1 << 20, &Config::default());
        assert_eq!(ask(&mut pulls, &room, now), WINDOW);
        assert_eq!(ask(&mut pulls, &room, now), 0);
        pulls.ended(WINDOW / 2);
        assert_eq!(ask(&mut pulls, &room, now), WINDOW / 2);
        assert_eq!((pulls.outstanding(), room.messages_left()), (WINDOW, 10_000 - WINDOW));
        pulls.ended(usize::MAX);
        assert_eq!((pulls.outstanding(), room.messages_left()), (0, 10_000));
        assert!(pulls.next().is_some(), "what comes all the same has a place to be refused");
    }

    #[test]
    fn little_room_is_gathered_but_not_for_ever() {
        let (room, start) = (room(100), Instant::now());
        let mut pulls = Pulls::new(100, 1 << 20, &Config::default());
        assert_eq!(ask(&mut pulls, &room, start), 100);
        pulls.ended(usize::MAX);
        let _held = room.reserve(90, 1).now_or_never().unwrap();
        assert_eq!(ask(&mut pulls, &room, start), 0);
        assert_eq!(ask(&mut pulls, &room, start + GATHER), 10);
        assert_eq!(ask(&mut pulls, &room, start + GATHER * 9), 0, "one of these is open");
    }

    #[test]
    fn a_consumer_may_restrict_requests() {
        let consumer =
            Config { max_batch: 7, max_expires: Duration::from_millis(4), ..Config::default() };
        let (mut pulls, room) = (Pulls::new(100, 1 << 20, &consumer), room(100));
        let reservation = room.reserve(7, 1).now_or_never().unwrap();
        assert_eq!(pulls.wanted(100, Instant::now()), 7);
        let words: serde_json::Value =
            serde_json::from_slice(&pulls.open(reservation, Instant::now())).unwrap();
        assert_eq!(
            (&words["expires"], &words["idle_heartbeat"]),
            (&4_000_000.into(), &2_000_000.into())
        );
    }

    #[test]
    fn a_message_too_large_for_a_whole_request_makes_the_next_larger() {
        let (room, now) = (room(100), Instant::now());
        let mut pulls = Pulls::new(100, 1 << 20, &Config::default());
        let before = pulls.least_bytes;
        assert!(before >= (1 << 20) + MOST_OVERHEAD);
        assert_eq!(ask(&mut pulls, &room, now), 100);
        // It has brought some: the next one begins with the large message.
        assert_eq!(pulls.exceeded(60), None);
        pulls.ended(usize::MAX);
        assert_eq!(ask(&mut pulls, &room, now + GATHER), 100);
        assert_eq!(pulls.exceeded(100), Some(before * 2));
        assert_eq!((pulls.outstanding(), room.messages_left()), (0, 100));
        let larger: Vec<_> = (0..99).map_while(|_| pulls.exceeded(100)).collect();
        assert_eq!(larger.last(), Some(&MOST_BYTES), "no larger message exists");
        let consumer = Config { max_bytes: 7, ..Config::default() };
        let mut pulls = Pulls::new(100, 1 << 20, &consumer);
        let reservation = room.reserve(1, 1).now_or_never().unwrap();
        let words: serde_json::Value =
            serde_json::from_slice(&pulls.open(reservation, now)).unwrap();
        assert_eq!((words["max_bytes"].as_u64(), pulls.exceeded(1)), (Some(7), None));
    }

    #[test]
    fn large_messages_make_small_requests() {
        let (room, now) = (room(10_000), Instant::now());
        let mut pulls = Pulls::new(10_000, 1 << 20, &Config::default());
        (0..200).for_each(|_| pulls.came(1 << 20));
        assert!((28..=32).contains(&ask(&mut pulls, &room, now)));
    }
}
