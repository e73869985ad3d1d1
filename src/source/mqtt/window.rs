//! How many messages a broker of MQTT 5 is told that it may send ahead, and when that is too few by now. Pure.
//!
//! It is told once a connection, by what there was room for then. A connection that was made while the room was nearly
//! full, to save a session that the broker was about to forget, would bring one message a round trip for as long as it
//! holds; so one that announced too little ends, as a full one does, when there is room again.

use std::time::{Duration, Instant};

/// A connection ends for this no sooner after another.
const AGAIN: Duration = Duration::from_mins(1);

/// The receive maximum for `left` messages.
pub(super) fn announced(left: usize) -> u16 {
    u16::try_from(left).unwrap_or(u16::MAX).max(1)
}

/// What was done for wider windows, over all connections.
#[derive(Debug, Default)]
pub(super) struct Widening {
    last: Option<Instant>,
    acknowledged: u64,
}

/// How a connection does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flow {
    /// What the broker was told.
    pub(super) window: u16,
    /// Acknowledgements so far.
    pub(super) acknowledged: u64,
    /// Nothing is in flight.
    pub(super) idle: bool,
}

impl Widening {
    /// Whether a connection should end for a wider window: half of the room is free, more than twice as much would be
    /// announced for what is `left` of it, and no slow head holds up its end. Asked every now and then.
    pub(super) fn is_due(
        &mut self,
        flow: Flow,
        left: usize,
        half_free: bool,
        now: Instant,
    ) -> bool {
        let before = std::mem::replace(&mut self.acknowledged, flow.acknowledged);
        let moves = flow.idle || flow.acknowledged != before;
        let narrow = u32::from(flow.window) * 2 < u32::from(announced(left));
        let lately = self.last.is_some_and(|last| now.duration_since(last) < AGAIN);
        let due = half_free && moves && narrow && !lately;
        if due {
            self.last = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_narrow_window_is_widened_once_in_a_while() {
        let (mut widening, start) = (Widening::default(), Instant::now());
        let flow = |window, acknowledged, idle| Flow { window, acknowledged, idle };
        assert!(!widening.is_due(flow(1, 7, true), 1_000, false, start), "no room");
        assert!(!widening.is_due(flow(500, 7, true), 1_000, true, start), "wide enough");
        assert!(!widening.is_due(flow(1, 7, false), 1_000, true, start), "a slow head");
        assert!(widening.is_due(flow(499, 8, false), 1_000, true, start));
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(!widening.is_due(flow(1, 8, true), 1_000, true, at(59)), "just now");
        assert!(widening.is_due(flow(1, 8, true), 3, true, at(60)));
        assert!(!widening.is_due(flow(u16::MAX, 8, true), usize::MAX, true, at(999)));
    }
}
