//! How much was counted in the last second.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Counted over this long.
pub(super) const WINDOW: Duration = Duration::from_secs(1);

/// …in grains of this length.
pub(super) const GRAIN: Duration = Duration::from_millis(10);

/// A sum of what came lately.
#[derive(Debug, Default)]
pub(super) struct Window {
    grains: VecDeque<(Instant, usize)>,
    sum: usize,
}

impl Window {
    /// So many came.
    pub(super) fn add(&mut self, count: usize, now: Instant) {
        if count == 0 {
            return;
        }
        self.sum += count;
        match self.grains.back_mut() {
            Some((at, sum)) if now.duration_since(*at) < GRAIN => *sum += count,
            _ => self.grains.push_back((now, count)),
        }
        self.sum(now);
    }

    /// All that is in it.
    pub(super) fn sum(&mut self, now: Instant) -> usize {
        while let Some((_, count)) =
            self.grains.pop_front_if(|(at, _)| now.duration_since(*at) >= WINDOW)
        {
            self.sum -= count;
        }
        self.sum
    }

    /// The same a second.
    #[allow(clippy::cast_precision_loss)] // thousands
    pub(super) fn rate(&mut self, now: Instant) -> f64 {
        let sum = self.sum(now) as f64;
        let span = self.grains.front().map_or(Duration::ZERO, |(at, _)| now.duration_since(*at));
        sum / span.as_secs_f64().max(0.2)
    }
}
