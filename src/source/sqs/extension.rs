//! By how much a lease is extended, and when that is tried again after a failure. Pure.

use std::time::{Duration, Instant};

use super::receipt::Receipt;

/// A message whose lease is extended.
pub(super) struct Extending {
    /// At the record of leases; `None`: it is to be deleted.
    pub(super) token: Option<u64>,
    pub(super) receipt: Receipt,
    /// When its lease ends.
    pub(super) due: Instant,
    /// How long it is to be ours from now on.
    pub(super) by: Duration,
}

/// How long a message that was received at `since` may be ours from `now` on. `None` where it is ours for as long
/// already: SQS ends every lease 12 hours after the receipt, and refuses what goes beyond.
pub(super) fn extension(
    visibility: Duration,
    since: Instant,
    due: Instant,
    now: Instant,
) -> Option<Duration> {
    let left = (since + LIMIT).saturating_duration_since(now);
    let by = visibility.min(left);
    (by >= GAIN && now + by >= due + GAIN).then_some(by)
}

/// How long an answer is waited for, so that there is time left for another try.
pub(super) fn patience(visibility: Duration) -> Duration {
    (visibility / 4).max(GAIN)
}

/// How long after one that failed the next ones are asked for, where the queue is to be left alone for `wait`: a tenth
/// of the lease at most, since there is half of it for all tries. What `needs_somebody` waits for them.
pub(super) fn pause(visibility: Duration, wait: Duration, needs_somebody: bool) -> Duration {
    if needs_somebody { wait } else { wait.min(visibility / 10) }
}

/// The limit of SQS, and less, since it counts from before the receipt is known here.
const LIMIT: Duration = Duration::from_mins(12 * 60 - 1);

/// SQS knows whole seconds.
const GAIN: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_extension_goes_beyond_what_sqs_allows() {
        let (start, hour) = (Instant::now(), |hours| Duration::from_hours(hours));
        let by =
            |visibility, age, rest| extension(visibility, start, start + age + rest, start + age);
        let short = Duration::from_secs(2);
        assert_eq!(by(short, Duration::from_secs(1), short / 2), Some(short));
        assert_eq!(by(hour(10), hour(5), hour(5)), Some(Duration::from_mins(7 * 60 - 1)));
        assert_eq!(by(hour(12), hour(6), hour(6)), None, "it has all there is");
        assert_eq!(by(short, hour(12), Duration::ZERO), None, "none would give it back");
    }

    #[test]
    fn what_fails_is_asked_for_more_seldom_and_in_time() {
        let (second, minute) = (Duration::from_secs(1), Duration::from_mins(1));
        assert_eq!(pause(minute, second, false), second);
        assert_eq!(pause(minute, minute, false), 6 * second);
        assert_eq!(pause(2 * second, 20 * second, true), 20 * second, "denied");
    }
}
