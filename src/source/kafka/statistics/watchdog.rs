//! Whether a source whose lag grows delivers anything. Pure.

use std::time::{Duration, Instant};

/// Without a settlement for this long, while the lag grows, the source makes no progress.
const PATIENCE: Duration = Duration::from_mins(1);

/// Detects a source without progress.
#[derive(Debug, Default)]
pub(crate) struct Watchdog {
    /// When there was progress last, with the count of settled messages and the lag at that time.
    last_progress: Option<(Instant, u64, i64)>,
    no_progress: bool,
}

impl Watchdog {
    /// Takes the lag over all partitions, and the count of messages settled so far. `Some` when the
    /// verdict changes: `true` for no progress.
    pub(crate) fn look(&mut self, lag: i64, settled: u64, now: Instant) -> Option<bool> {
        let (since, before, lag_then) = *self.last_progress.get_or_insert((now, settled, lag));
        if settled != before || lag == 0 || lag < lag_then {
            self.last_progress = Some((now, settled, lag));
            return std::mem::take(&mut self.no_progress).then_some(false);
        }
        let grows = lag > lag_then;
        if !self.no_progress && grows && now.duration_since(since) >= PATIENCE {
            self.no_progress = true;
            return Some(true);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_growing_lag_without_deliveries_is_noticed_once() {
        let (mut dog, start) = (Watchdog::default(), Instant::now());
        let at = |s| start + Duration::from_secs(s);
        assert_eq!(dog.look(0, 5, at(0)), None);
        for s in 1..60 {
            assert_eq!(dog.look(i64::try_from(s).unwrap(), 5, at(s)), None, "{s}");
        }
        assert_eq!(dog.look(70, 5, at(60)), Some(true));
        assert_eq!(dog.look(80, 5, at(90)), None);
        assert_eq!(dog.look(80, 6, at(91)), Some(false));
        assert_eq!(dog.look(81, 6, at(92)), None);
    }

    #[test]
    fn idle_or_busy_is_not_stuck() {
        let (mut dog, start) = (Watchdog::default(), Instant::now());
        for s in 0..300 {
            assert_eq!(dog.look(0, 5, start + Duration::from_secs(s)), None);
        }
        for s in 300..600 {
            assert_eq!(dog.look(1_000, s, start + Duration::from_secs(s)), None);
        }
    }
}
