//! A circuit breaker: whether an API answers at all. While it is open, one probe goes at a time, at most one
//! a second; everything else waits, and is sent at once when the API is back. With nothing left to probe with,
//! the last answer decides after a while: an idle bridge would say for hours that its API is gone.

use std::time::{Duration, Instant};

/// Failures in a row that open it.
const IN_A_ROW: u32 = 5;

/// Answers without a clear meaning, in a row, that open it.
const UNKNOWN_IN_A_ROW: u32 = 3;

/// Requests are counted over this long.
const WINDOW: Duration = Duration::from_secs(10);

/// With fewer requests than this a share of failures means nothing.
const ENOUGH: u32 = 20;

/// Successes that close it.
const TO_CLOSE: u32 = 3;

/// Wait between the end of a failed probe and the next.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// A circuit breaker.
#[derive(Debug)]
pub struct Breaker {
    state: State,
    in_a_row: u32,
    unknown: u32,
    began: Instant,
    failed: u32,
    total: u32,
}

#[derive(Debug)]
enum State {
    Closed,
    /// `probe`: when the one in flight was sent. `probe_at` is that of the last answer while `successes` is not 0.
    Open {
        since: Instant,
        probe_at: Instant,
        probe: Option<Instant>,
        successes: u32,
    },
}

impl Breaker {
    /// A closed one.
    pub fn new(now: Instant) -> Self {
        Self { state: State::Closed, in_a_row: 0, unknown: 0, began: now, failed: 0, total: 0 }
    }

    /// Whether a request may go now.
    pub fn allows(&self, now: Instant) -> bool {
        match self.state {
            State::Closed => true,
            State::Open { probe_at, probe, .. } => probe.is_none() && probe_at <= now,
        }
    }

    /// When the next probe may go, if it has to wait.
    pub fn probes_at(&self) -> Option<Instant> {
        match self.state {
            State::Open { probe_at, probe: None, .. } => Some(probe_at),
            _ => None,
        }
    }

    /// Whether it is open.
    pub fn is_open(&self) -> bool {
        self.since().is_some()
    }

    /// Since when it is open.
    pub fn since(&self) -> Option<Instant> {
        match self.state {
            State::Closed => None,
            State::Open { since, .. } => Some(since),
        }
    }

    /// Notes a request sent now: the probe, if one is due.
    pub fn sent(&mut self, now: Instant) {
        if let State::Open { probe, .. } = &mut self.state {
            *probe = Some(now);
        }
    }

    /// Notes the end of the request sent at `sent`, whatever its result: if it was the probe, another one may
    /// follow. The result comes in another call, if it matters here.
    pub fn ended(&mut self, sent: Instant, now: Instant) {
        if let State::Open { probe_at, probe, .. } = &mut self.state
            && *probe == Some(sent)
        {
            (*probe, *probe_at) = (None, now + PROBE_EVERY);
        }
    }

    /// The API answered a request, with whatever status. True when that closed the breaker.
    pub fn answered(&mut self, now: Instant) -> bool {
        self.count(now, false);
        self.in_a_row = 0;
        self.unknown = 0;
        let State::Open { probe_at, successes, .. } = &mut self.state else { return false };
        *successes += 1;
        *probe_at = now;
        let closes = *successes >= TO_CLOSE;
        if closes {
            self.close(now);
        }
        closes
    }

    /// When it closes with nothing left to probe with: as long after the last answer as further probes would take.
    pub fn idle_until(&self) -> Option<Instant> {
        match self.state {
            State::Open { probe_at, successes: 1.., .. } => Some(probe_at + PROBE_EVERY * TO_CLOSE),
            _ => None,
        }
    }

    /// Nothing is left to probe with. True when that closed it.
    pub fn close_if_idle(&mut self, now: Instant) -> bool {
        let closes = self.idle_until().is_some_and(|at| at <= now);
        if closes {
            self.close(now);
        }
        closes
    }

    fn close(&mut self, now: Instant) {
        self.state = State::Closed;
        (self.failed, self.total, self.began) = (0, 0, now);
    }

    /// A request got no answer, or one without a clear meaning (`unknown`). True when that opened it. One that failed
    /// before while it is open (`again`) says nothing new against the answers since.
    pub fn failed(&mut self, now: Instant, unknown: bool, again: bool) -> bool {
        self.count(now, true);
        self.in_a_row += 1;
        self.unknown = if unknown { self.unknown + 1 } else { 0 };
        let share = self.total >= ENOUGH && self.failed * 2 >= self.total;
        if let State::Open { successes, .. } = &mut self.state {
            *successes = if again { *successes } else { 0 };
            return false;
        }
        let opens = share || self.in_a_row >= IN_A_ROW || self.unknown >= UNKNOWN_IN_A_ROW;
        if opens {
            let probe_at = now + PROBE_EVERY;
            self.state = State::Open { since: now, probe_at, probe: None, successes: 0 };
        }
        opens
    }

    fn count(&mut self, now: Instant, failed: bool) {
        if now.duration_since(self.began) > WINDOW {
            (self.failed, self.total, self.began) = (0, 0, now);
        }
        self.total += 1;
        self.failed += u32::from(failed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(now: Instant) -> Breaker {
        let mut breaker = Breaker::new(now);
        assert_eq!((0..IN_A_ROW).filter(|_| breaker.failed(now, false, false)).count(), 1);
        breaker
    }

    #[test]
    fn it_opens_after_failures_in_a_row_and_probes_once_a_second() {
        let now = Instant::now();
        let mut breaker = Breaker::new(now);
        for n in 1..=IN_A_ROW {
            assert!(breaker.allows(now));
            assert_eq!(breaker.failed(now, false, false), n == IN_A_ROW);
        }
        assert!(breaker.is_open() && !breaker.allows(now));
        let later = now + PROBE_EVERY;
        assert_eq!(breaker.probes_at(), Some(later));
        assert!(breaker.allows(later));
        breaker.sent(later);
        assert!(!breaker.allows(later + PROBE_EVERY), "one probe at a time");
        breaker.ended(now, later);
        assert!(
            !breaker.failed(later, false, false) && !breaker.allows(later + PROBE_EVERY),
            "an old one"
        );
        breaker.ended(later, later);
        assert!(!breaker.failed(later, false, false));
        assert!(!breaker.allows(later) && breaker.allows(later + PROBE_EVERY));
    }

    #[test]
    fn with_nothing_left_the_last_answer_decides() {
        let now = Instant::now();
        let mut breaker = opened(now);
        let later = now + PROBE_EVERY * TO_CLOSE;
        assert!(!breaker.close_if_idle(later), "nothing has answered");
        assert!(!breaker.answered(now) && !breaker.failed(now, false, false));
        assert!(!breaker.close_if_idle(later), "the last one failed");
        assert!(!breaker.answered(now) && !breaker.close_if_idle(now));
        assert_eq!(breaker.idle_until(), Some(later));
        assert!(breaker.close_if_idle(later) && !breaker.is_open());
        assert!(!breaker.close_if_idle(later));
    }

    #[test]
    fn a_probe_that_tells_nothing_is_followed_by_another() {
        let now = Instant::now();
        let mut breaker = opened(now);
        let later = now + PROBE_EVERY;
        breaker.sent(later);
        assert_eq!(breaker.probes_at(), None);
        breaker.ended(later, later);
        assert_eq!(breaker.probes_at(), Some(later + PROBE_EVERY));
    }

    #[test]
    fn three_answers_close_it() {
        let now = Instant::now();
        let mut breaker = opened(now);
        let later = now + PROBE_EVERY;
        for n in 1..=TO_CLOSE {
            assert!(breaker.allows(later), "the probe after a good one does not wait");
            breaker.sent(later);
            breaker.ended(later, later);
            assert_eq!(breaker.answered(later), n == TO_CLOSE);
        }
        assert!(!breaker.is_open());
    }

    #[test]
    fn what_fails_again_and_again_does_not_keep_it_open() {
        let now = Instant::now();
        let mut breaker = opened(now);
        assert_eq!(breaker.since(), Some(now));
        for n in 1..=TO_CLOSE {
            assert_eq!(breaker.answered(now), n == TO_CLOSE);
            assert!(!breaker.failed(now, false, true));
        }
        assert!(!breaker.is_open());
    }

    #[test]
    fn answers_that_mean_nothing_open_it_sooner() {
        let now = Instant::now();
        let mut breaker = Breaker::new(now);
        assert!(!breaker.failed(now, true, false) && !breaker.failed(now, true, false));
        assert!(breaker.failed(now, true, false));
    }

    #[test]
    fn half_of_many_requests_failing_opens_it_and_a_few_do_not() {
        let now = Instant::now();
        let mut breaker = Breaker::new(now);
        let mut opened = 0;
        for n in 1..=ENOUGH {
            if n % 2 == 0 {
                opened += u32::from(breaker.failed(now, false, false));
            } else {
                breaker.answered(now);
            }
        }
        assert_eq!(opened, 1);
        let mut breaker = Breaker::new(now);
        for n in 1..=100 {
            if n % 4 == 0 {
                assert!(!breaker.failed(now, false, false));
            } else {
                breaker.answered(now);
            }
        }
        assert!(!breaker.is_open());
    }
}
