//! How many acknowledgements may be written that the broker has not read yet: PUBACKs, and the PUBRECs of QoS 2,
//! which are meant by the word in this file. Pure.
//!
//! A written PUBACK may still be unread by the broker. mosquitto with `autosave_on_changes` saves its whole
//! database for each; with some thousand messages in it that is a hundred a second, and what lies in the
//! socket meanwhile is lost with the connection, or makes the answer to a ping come too late for the
//! keep-alive. So *marks* go out between the PUBACKs, requests whose answer tells that all before them was
//! read, and no more PUBACKs are under way than the broker reads in a sixth of the keep-alive.

use std::time::{Duration, Instant};

/// At first so many may be unread.
const FIRST: usize = 256;

/// Never fewer.
const LEAST: usize = 16;

/// Never more: that is enough for any distance.
const MOST: usize = 8_192;

/// The PUBACKs of a connection, counted from its start.
#[derive(Debug)]
pub(super) struct Pace {
    keep_alive: Duration,
    /// Where no pings tell: when to look again whether the broker answers.
    look_at: Option<Instant>,
    most: usize,
    released: u64,
    written: u64,
    read: u64,
    mark: Option<Mark>,
    /// How many PUBACKs stand before the last ping.
    pinged: u64,
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    asked: Instant,
    /// Its packet id, and how many PUBACKs stand before it.
    written: Option<(u16, u64)>,
}

/// What a goodbye has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goodbye {
    /// Send a mark.
    Mark,
    /// Wait for the broker.
    Wait,
    /// Say it: the broker has read every PUBACK.
    Say,
}

/// Whether the broker still answers, where no pings tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// It does, as far as can be known now.
    Alive,
    /// Send a mark, which it has to answer.
    Mark,
    /// It does not.
    Silent,
}

impl Pace {
    /// For a connection that is given up when the broker is silent for twice `keep_alive`.
    pub(super) fn new(keep_alive: Duration) -> Self {
        Self {
            keep_alive,
            look_at: None,
            most: FIRST,
            released: 0,
            written: 0,
            read: 0,
            mark: None,
            pinged: 0,
        }
    }

    /// The broker took us, and this is the keep-alive in force. Without `pings`, marks go out in their place.
    pub(super) fn connected(&mut self, keep_alive: Duration, pings: bool, now: Instant) {
        self.keep_alive = keep_alive;
        self.look_at = (!pings).then(|| now + keep_alive);
    }

    /// The keep-alive in force.
    pub(super) fn keep_alive(&self) -> Duration {
        self.keep_alive
    }

    /// When to [look](Self::look) again, if ever.
    pub(super) fn look_at(&self) -> Option<Instant> {
        self.look_at
    }

    /// Whether the broker still answers: a mark has the time that a ping would have.
    pub(super) fn look(&mut self, now: Instant) -> Look {
        let Some(at) = &mut self.look_at else { return Look::Alive };
        if *at > now {
            return Look::Alive;
        }
        *at = now + self.keep_alive;
        match self.mark {
            None => {
                self.mark = Some(Mark { asked: now, written: None });
                Look::Mark
            }
            Some(mark) if now.duration_since(mark.asked) >= self.keep_alive => Look::Silent,
            Some(_) => Look::Alive,
        }
    }

    /// How many PUBACKs may be sent now.
    pub(super) fn room(&self) -> usize {
        self.most.saturating_sub(self.unread())
    }

    /// So many are sent.
    pub(super) fn released(&mut self, acknowledgements: usize) {
        self.released += acknowledgements as u64;
    }

    /// How many were sent.
    pub(super) fn sent(&self) -> u64 {
        self.released
    }

    /// Whether to send a mark now: with half of the room used, so that more can follow in time.
    pub(super) fn wants_mark(&mut self, now: Instant) -> bool {
        let due = self.mark.is_none() && self.unread() * 2 >= self.most;
        if due {
            self.mark = Some(Mark { asked: now, written: None });
        }
        due
    }

    /// Whether to send a mark now, where nothing is on its way any more: else the last few are unread until the next ping,
    /// as far as can be known, and a connection that is lost by then would seem to owe them.
    pub(super) fn wants_last_mark(&mut self, now: Instant) -> bool {
        let due = self.mark.is_none() && self.unread() > 0;
        if due {
            self.mark = Some(Mark { asked: now, written: None });
        }
        due
    }

    /// What to do when nothing more is to be sent but DISCONNECT, which would overtake PUBACKs.
    pub(super) fn goodbye(&mut self, now: Instant) -> Goodbye {
        // The client library may have answered a repeated message of QoS 2 by itself: that counts, too.
        if self.read >= self.released {
            return Goodbye::Say;
        }
        if self.mark.is_some() || self.written < self.released {
            return Goodbye::Wait;
        }
        self.mark = Some(Mark { asked: now, written: None });
        Goodbye::Mark
    }

    /// A PUBACK went into the socket.
    pub(super) fn ack_written(&mut self) {
        self.written += 1;
    }

    /// A mark went into the socket.
    pub(super) fn mark_written(&mut self, packet_id: u16) {
        if let Some(mark) = &mut self.mark {
            mark.written = Some((packet_id, self.written));
        }
    }

    /// The answer to a mark; true if it was to the one under way.
    pub(super) fn mark_read(&mut self, packet_id: u16, now: Instant) -> bool {
        let Some(Mark { asked, written: Some((id, before)) }) = self.mark else { return false };
        if id != packet_id {
            return false;
        }
        self.mark = None;
        self.read = self.read.max(before);
        let took = now.duration_since(asked);
        // A mark should not be under way longer.
        let slow = self.keep_alive / 6;
        if took > slow {
            self.most = (self.most / 2).max(LEAST);
        } else if took < slow / 2 {
            self.most = (self.most * 2).min(MOST);
        }
        true
    }

    /// A ping went into the socket.
    pub(super) fn ping_written(&mut self) {
        self.pinged = self.written;
    }

    /// The answer to a ping. It tells what a mark does, and helps where a broker answers no mark.
    pub(super) fn ping_read(&mut self) {
        self.read = self.read.max(self.pinged);
        if self.mark.is_some_and(|m| m.written.is_some_and(|(_, before)| before <= self.pinged)) {
            self.mark = None;
        }
    }

    /// How many were sent that the broker may not have read.
    pub(super) fn unread(&self) -> usize {
        usize::try_from(self.released.saturating_sub(self.read)).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP_ALIVE: Duration = Duration::from_secs(30);

    /// Sends all that may be sent, and a mark if one is due; true if so.
    fn send(pace: &mut Pace, now: Instant) -> bool {
        for _ in 0..pace.room() {
            pace.released(1);
            pace.ack_written();
        }
        let due = pace.wants_mark(now);
        if due {
            pace.mark_written(7);
        }
        due
    }

    #[test]
    fn a_quick_broker_gets_more_and_a_slow_one_fewer() {
        let (mut pace, start) = (Pace::new(KEEP_ALIVE), Instant::now());
        assert_eq!(pace.room(), FIRST);
        assert!(send(&mut pace, start));
        assert_eq!(pace.room(), 0);
        assert!(!pace.mark_read(8, start), "of another mark");
        assert!(pace.mark_read(7, start));
        assert_eq!(pace.room(), FIRST * 2);
        for _ in 0..20 {
            assert!(send(&mut pace, start) && pace.mark_read(7, start));
        }
        assert_eq!(pace.room(), MOST);
        for _ in 0..20 {
            assert!(send(&mut pace, start));
            assert!(pace.mark_read(7, start + KEEP_ALIVE / 5));
        }
        assert_eq!(pace.room(), LEAST);
    }

    #[test]
    fn a_few_need_no_mark_before_the_goodbye() {
        let (mut pace, start) = (Pace::new(KEEP_ALIVE), Instant::now());
        pace.released(1);
        assert!(!pace.wants_mark(start));
        assert_eq!(pace.goodbye(start), Goodbye::Wait, "it is not written");
        pace.ack_written();
        assert_eq!(pace.goodbye(start), Goodbye::Mark);
        assert_eq!(pace.goodbye(start), Goodbye::Wait, "it is not read");
        pace.mark_written(1);
        assert!(pace.mark_read(1, start));
        assert_eq!(pace.goodbye(start), Goodbye::Say);
    }

    #[test]
    fn the_last_ones_get_a_mark_when_nothing_else_is_on_its_way() {
        let (mut pace, start) = (Pace::new(KEEP_ALIVE), Instant::now());
        assert!(!pace.wants_last_mark(start), "there is nothing to know");
        pace.released(1);
        pace.ack_written();
        assert!(pace.wants_last_mark(start) && !pace.wants_last_mark(start), "one at a time");
        pace.mark_written(1);
        assert!(pace.mark_read(1, start));
        assert_eq!(pace.unread(), 0);
        assert!(!pace.wants_last_mark(start));
    }

    #[test]
    fn an_answer_tells_only_of_what_was_before_it() {
        let (mut pace, start) = (Pace::new(KEEP_ALIVE), Instant::now());
        pace.released(200);
        pace.ack_written();
        assert!(pace.wants_mark(start));
        pace.mark_written(1);
        (0..199).for_each(|_| pace.ack_written());
        assert!(pace.mark_read(1, start));
        assert_eq!(pace.unread(), 199);
        assert_eq!(pace.goodbye(start), Goodbye::Mark);
    }

    #[test]
    fn where_no_pings_go_out_marks_tell_whether_the_broker_answers() {
        let (mut pace, start) = (Pace::new(2 * KEEP_ALIVE), Instant::now());
        assert_eq!((pace.look_at(), pace.look(start)), (None, Look::Alive));
        pace.connected(KEEP_ALIVE, true, start);
        assert_eq!(pace.look_at(), None);
        pace.connected(KEEP_ALIVE, false, start);
        let at = |periods| start + KEEP_ALIVE * periods;
        assert_eq!((pace.look_at(), pace.look(start)), (Some(at(1)), Look::Alive));
        assert_eq!(pace.look(at(1)), Look::Mark);
        pace.mark_written(1);
        assert!(pace.mark_read(1, at(1)));
        // One that goes out for another reason serves as well, and has as long.
        pace.released(FIRST);
        assert!(pace.wants_mark(at(1) + KEEP_ALIVE / 2));
        assert_eq!(pace.look(at(2)), Look::Alive);
        assert_eq!(pace.look(at(3)), Look::Silent);
    }

    #[test]
    fn a_ping_helps_where_no_mark_is_answered() {
        let (mut pace, start) = (Pace::new(KEEP_ALIVE), Instant::now());
        assert!(send(&mut pace, start));
        pace.ping_written();
        pace.ping_read();
        assert_eq!(pace.room(), FIRST);
        assert!(!pace.mark_read(7, start), "an answer that comes late is to nothing");
        assert_eq!(pace.goodbye(start), Goodbye::Say);
    }
}
