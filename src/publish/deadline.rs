//! A deadline that is moved again and again.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

use tokio::time::{Instant, Sleep};

/// A timer that is reset only when it would fire too late, or fired too early, not for every new
/// deadline.
#[derive(Default)]
pub(super) struct Deadline {
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Deadline {
    /// The output of `future`; `None` if it is not ready before `until`.
    pub(super) async fn before<T>(
        &mut self,
        until: Instant,
        mut future: impl Future<Output = T> + Unpin,
    ) -> Option<T> {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        if sleep.deadline() > until {
            sleep.as_mut().reset(until);
        }
        poll_fn(|context| {
            if let Poll::Ready(given) = Pin::new(&mut future).poll(context) {
                return Poll::Ready(Some(given));
            }
            while sleep.as_mut().poll(context).is_ready() {
                if sleep.deadline() >= until {
                    return Poll::Ready(None);
                }
                sleep.as_mut().reset(until);
            }
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn a_deadline_rings_in_time_whatever_it_was_set_to_before() {
        let (mut deadline, began) = (Deadline::default(), Instant::now());
        let never = std::future::pending::<()>;
        let at = |seconds| began + Duration::from_secs(seconds);
        assert_eq!(deadline.before(at(3), pin!(async {})).await, Some(()));
        for (set, after) in [(5, "one that would have rung too early"), (8, "one that rang")] {
            assert_eq!(deadline.before(at(set), pin!(never())).await, None);
            assert_eq!(began.elapsed(), Duration::from_secs(set), "after {after}");
        }
        let mut late = Deadline::default();
        assert_eq!(late.before(at(20), pin!(async {})).await, Some(()));
        assert_eq!(late.before(at(9), pin!(never())).await, None);
        assert_eq!(began.elapsed(), Duration::from_secs(9), "after one that would ring too late");
        assert_eq!(deadline.before(at(2), pin!(never())).await, None, "a time that has passed");
    }
}
