//! The result of every record: the account, and the tally that keeps it while records are in flight.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::dead_letter::First;
use crate::delivery::{Done, Outcome, Settlement, Tracker};

/// Records in flight at most.
const MAX_IN_FLIGHT: usize = 1_000;

/// Bytes of payload in flight at most, but for one record that is larger by itself.
const MAX_BYTES: usize = 64 << 20;

/// How many unreadable lines, and unknown routes, are listed; more are only counted.
const MAX_NAMED: usize = 1_000;

/// A line of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Which of the files.
    pub file: usize,
    /// From 1.
    pub line: u64,
}

/// The rest of a file that was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unread {
    /// The first line that was not read.
    pub from: Place,
    /// From its beginning to the end of the file; not known of standard input.
    pub bytes: Option<u64>,
}

/// The result of every line. A line is a record or unreadable; a record is counted once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Lines that are records.
    pub read: u64,
    /// Records that the filters leave out.
    pub skipped: u64,
    /// Records all of whose events the API accepted; in a dry run, those it would be sent.
    pub published: u64,
    /// Records with an event that a success of the API named in neither list.
    pub unconfirmed: u64,
    /// Records that were rejected again, and written to the file for rejects.
    pub rejected: u64,
    /// Records of routes that the configuration does not have, and written to the file for rejects.
    pub unknown_route: u64,
    /// How many by route, for the first routes.
    pub unknown_routes: BTreeMap<String, u64>,
    /// Lines that are no records.
    pub unreadable: u64,
    /// The first of them, and why.
    pub unreadable_lines: Vec<(Place, String)>,
    /// Records with an unknown outcome: they were in flight when the replay was stopped.
    pub unsettled: Vec<Place>,
    /// The part that was not read.
    pub unread: Vec<Unread>,
    /// Aborted: records in flight were not waited for.
    pub aborted: bool,
}

impl Account {
    /// Whether every record that was read is counted exactly once.
    pub fn adds_up(&self) -> bool {
        let ends = [
            self.skipped,
            self.published,
            self.unconfirmed,
            self.rejected,
            self.unknown_route,
            self.unsettled.len() as u64,
        ];
        self.read == ends.iter().sum::<u64>()
    }

    /// Whether nothing is left to do.
    pub fn is_clean(&self) -> bool {
        let left = self.rejected + self.unknown_route + self.unreadable;
        left == 0 && self.unsettled.is_empty() && self.unread.is_empty()
    }

    pub(super) fn unreadable(&mut self, place: Place, why: String) {
        self.unreadable += 1;
        if self.unreadable_lines.len() < MAX_NAMED {
            self.unreadable_lines.push((place, why));
        }
    }

    pub(super) fn unknown(&mut self, route: &str) {
        self.unknown_route += 1;
        if self.unknown_routes.contains_key(route) || self.unknown_routes.len() < MAX_NAMED {
            *self.unknown_routes.entry(route.to_owned()).or_default() += 1;
        }
    }
}

/// Keeps the account while records are in flight, and bounds how many those are.
#[derive(Debug, Default)]
pub(super) struct Tally {
    state: Mutex<State>,
    /// Notified when there may be room, for the one task that waits for it.
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    account: Account,
    held: HashMap<u64, Held>,
    bytes: usize,
    next: u64,
}

#[derive(Debug)]
struct Held {
    place: Place,
    bytes: usize,
    unknown_route: Option<Arc<str>>,
    first: First,
}

impl Tally {
    /// Changes the account.
    pub(super) fn count(&self, change: impl FnOnce(&mut Account)) {
        change(&mut self.state.lock().account);
    }

    /// Waits until a record of `bytes` may be taken.
    pub(super) async fn room(&self, bytes: usize) {
        let fits = |state: &State| {
            state.held.is_empty()
                || (state.held.len() < MAX_IN_FLIGHT && state.bytes + bytes <= MAX_BYTES)
        };
        while !fits(&self.state.lock()) {
            self.changed.notified().await;
        }
    }

    /// Takes a record, whose first rejection is `first`; `unknown_route` is its route if no route has that
    /// name.
    pub(super) fn take(
        self: &Arc<Self>,
        place: Place,
        bytes: usize,
        unknown_route: Option<Arc<str>>,
        first: First,
    ) -> Settlement {
        let mut state = self.state.lock();
        let token = state.next;
        state.next += 1;
        state.bytes += bytes;
        state.held.insert(token, Held { place, bytes, unknown_route, first });
        drop(state);
        Settlement::new(Arc::clone(self) as Arc<dyn Tracker>, token)
    }

    /// Of a record in flight, by its token: where it stands, and what it became one for.
    pub(super) fn origin(&self, token: u64) -> Option<(Place, First)> {
        self.state.lock().held.get(&token).map(|held| (held.place, held.first.clone()))
    }

    /// The account so far, and how many records are in flight.
    pub(super) fn now(&self) -> (Account, usize) {
        let state = self.state.lock();
        (state.account.clone(), state.held.len())
    }
}

impl Tracker for Tally {
    fn charge(&self, token: u64, bytes: usize) {
        let mut state = self.state.lock();
        if let Some(held) = state.held.get_mut(&token) {
            held.bytes += bytes;
            state.bytes += bytes;
        }
    }

    fn settled(&self, token: u64, outcome: Outcome) {
        let mut state = self.state.lock();
        let Some(held) = state.held.remove(&token) else { return };
        state.bytes -= held.bytes;
        let account = &mut state.account;
        match (outcome, held.unknown_route) {
            (Outcome::Accepted(Done::Published), _) => account.published += 1,
            (Outcome::Accepted(Done::Unconfirmed), _) => account.unconfirmed += 1,
            (Outcome::Accepted(Done::DeadLettered), None) => account.rejected += 1,
            (Outcome::Accepted(Done::DeadLettered), Some(route)) => account.unknown(&route),
            // With any other outcome a record was neither published nor kept.
            (Outcome::Accepted(_) | Outcome::Rejected | Outcome::Released, _) => {
                account.unsettled.push(held.place);
            }
        }
        drop(state);
        self.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, SystemTime};

    #[tokio::test(start_paused = true)]
    async fn every_record_is_counted_once_and_room_is_bounded() {
        let tally = Arc::new(Tally::default());
        let take = |line, unknown: Option<&str>| {
            tally.count(|a| a.read += 1);
            let first = First { reason: "r".into(), detail: String::new(), at: SystemTime::now() };
            tally.take(Place { file: 0, line }, 10, unknown.map(Into::into), first)
        };
        let end = |settlement: Settlement, done| settlement.settle(Outcome::Accepted(done));
        end(take(1, None), Done::Published);
        end(take(2, None), Done::Unconfirmed);
        end(take(3, None), Done::DeadLettered);
        end(take(4, Some("gone")), Done::DeadLettered);
        let fifth = take(5, None);
        tally.charge(4, MAX_BYTES);
        let room = tokio::time::timeout(Duration::from_secs(1), tally.room(1)).await;
        assert!(room.is_err(), "what is made of a record takes room");
        drop(fifth);
        let held: Vec<_> = (6..6 + MAX_IN_FLIGHT as u64).map(|line| take(line, None)).collect();
        let room = tokio::time::timeout(Duration::from_secs(1), tally.room(1)).await;
        assert!(room.is_err(), "{} are in flight", tally.now().1);
        for settlement in held {
            end(settlement, Done::Published);
        }
        let (account, in_flight) = tally.now();
        assert_eq!((account.published, account.unconfirmed, account.rejected), (1_001, 1, 1));
        assert_eq!(tally.state.lock().bytes, 0, "what was charged has gone with its record");
        assert_eq!(account.unknown_routes, BTreeMap::from([("gone".to_owned(), 1)]));
        assert_eq!(account.unsettled, [Place { file: 0, line: 5 }]);
        assert!(account.adds_up() && !account.is_clean() && in_flight == 0);
    }
}
