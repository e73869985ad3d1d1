//! Whether each partition that is read is fetched from. Pure.
//!
//! librdkafka says once that a broker refuses to serve a partition, or says nothing of it, and tries on; the others
//! go on meanwhile. So this looks at positions: one that does not move, short of a log that goes on.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::Log;

/// For so long nothing moves before it is trouble.
const PATIENCE: Duration = Duration::from_mins(1);

/// The partitions, by topic and number, and since when they stand.
#[derive(Debug, Default)]
pub(crate) struct Fetching(HashMap<(String, i32), Standing>);

#[derive(Debug)]
struct Standing {
    /// As it was seen last.
    log: Option<Log>,
    since: Instant,
    said: Option<Trouble>,
}

/// Why a partition gives nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// It has messages, or nobody knows whether it has, and none is fetched.
    NotFetched,
    /// An open transaction holds back so much of the log.
    Transaction(i64),
}

impl Fetching {
    /// A partition was seen like this; `None` where it is not read now, or where there is no room for what it has. `Some`
    /// if it is to be said that its trouble has begun or is another one.
    pub(crate) fn look(
        &mut self,
        (topic, partition): (&str, i32),
        log: Option<Log>,
        now: Instant,
    ) -> Option<Trouble> {
        let standing = self.0.entry((topic.to_owned(), partition)).or_insert_with(|| Standing {
            log: None,
            since: now,
            said: None,
        });
        let Some(log) = log else {
            standing.since = now;
            return None;
        };
        let (trouble, before) = (log.trouble(), standing.log.replace(log));
        let stands = before.is_some_and(|b| (b.next, b.stable) == (log.next, log.stable));
        if !stands || trouble.is_none() {
            (standing.since, standing.said) = (now, None);
        }
        let trouble = trouble.filter(|_| now.duration_since(standing.since) >= PATIENCE)?;
        standing.said.replace(trouble).is_none().then_some(trouble)
    }

    /// The partitions that are not known to be assigned any more are forgotten.
    pub(crate) fn retain(&mut self, assigned: impl Fn(&str, i32) -> bool) {
        self.0.retain(|(topic, partition), _| assigned(topic, *partition));
    }

    /// A partition of which nothing is fetched.
    pub(crate) fn unfetched(&self) -> Option<(String, i32)> {
        let standing = self.0.iter().filter(|(_, s)| s.said == Some(Trouble::NotFetched));
        standing.map(|(name, _)| name.clone()).min()
    }
}

impl Log {
    /// What is wrong if it stays like this.
    fn trouble(&self) -> Option<Trouble> {
        if self.queued > 0 {
            return None;
        }
        let (Some(next), Some(stable)) = (self.next, self.stable) else {
            return Some(Trouble::NotFetched);
        };
        if next < stable {
            return Some(Trouble::NotFetched);
        }
        let held = self.end.map_or(0, |end| end - stable);
        (held > 0).then_some(Trouble::Transaction(held))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(next: i64, stable: i64, end: i64) -> Log {
        let known = |offset| Some(offset).filter(|offset| *offset >= 0);
        Log { next: known(next), stable: known(stable), end: known(end), queued: 0 }
    }

    #[test]
    fn what_stands_short_of_its_end_for_a_minute_is_said_once() {
        for (stuck, trouble) in [
            (log(5, 9, 9), Trouble::NotFetched),
            (log(-1, -1, -1), Trouble::NotFetched),
            (log(9, 9, 12), Trouble::Transaction(3)),
        ] {
            let (mut fetching, start) = (Fetching::default(), Instant::now());
            let mut look = |second, log| {
                let said = fetching.look(("t", 3), log, start + Duration::from_secs(second));
                (said, fetching.unfetched())
            };
            let unfetched = (trouble == Trouble::NotFetched).then(|| ("t".to_owned(), 3));
            for second in (0..60).step_by(2) {
                assert_eq!(look(second, Some(stuck)), (None, None), "{second}");
            }
            assert_eq!(look(60, Some(stuck)), (Some(trouble), unfetched.clone()));
            assert_eq!(look(62, Some(stuck)), (None, unfetched.clone()));
            // Nothing is known of it while it is paused.
            assert_eq!(look(64, None), (None, unfetched.clone()));
            assert_eq!(look(66, Some(stuck)), (None, unfetched));
            assert_eq!(look(68, Some(log(12, 12, 12))), (None, None));
        }
    }

    #[test]
    fn what_moves_or_waits_for_room_or_has_nothing_is_in_no_trouble() {
        let (mut fetching, start) = (Fetching::default(), Instant::now());
        let queued = Log { queued: 3, ..log(5, 9, 9) };
        for second in 0..300_u64 {
            let now = start + Duration::from_secs(second);
            let moving = i64::try_from(second).unwrap();
            assert_eq!(fetching.look(("t", 0), Some(log(moving, moving + 9, 999)), now), None);
            assert_eq!(fetching.look(("t", 1), None, now), None);
            assert_eq!(fetching.look(("t", 2), Some(queued), now), None);
            assert_eq!(fetching.look(("t", 3), Some(log(9, 9, 9)), now), None);
        }
        assert_eq!(fetching.unfetched(), None);
    }

    #[test]
    fn what_is_another_members_is_forgotten() {
        let (mut fetching, start) = (Fetching::default(), Instant::now());
        fetching.look(("t", 0), Some(log(5, 9, 9)), start);
        fetching.look(("t", 0), Some(log(5, 9, 9)), start + PATIENCE);
        assert!(fetching.unfetched().is_some());
        fetching.retain(|_, _| false);
        assert_eq!(fetching.unfetched(), None);
    }
}
