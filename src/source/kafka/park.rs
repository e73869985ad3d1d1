//! Waiting on a plain thread for a future that other threads complete. It needs no runtime, which may be
//! gone while librdkafka, as its client is dropped, still runs callbacks.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// Waits for a notification or a cancellation, at most `patience`; `None` if it did not come. A future
/// that needs the timers or sockets of a runtime would never complete.
pub(super) fn park<F: Future>(patience: Duration, future: F) -> Option<F::Output> {
    let deadline = Instant::now() + patience;
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return Some(output);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        thread::park_timeout(left);
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::Notify;

    #[test]
    fn waits_for_another_thread_and_no_longer_than_it_may() {
        let notify = Arc::new(Notify::new());
        assert!(park(Duration::from_millis(20), notify.notified()).is_none());
        let other = Arc::clone(&notify);
        let thread = thread::spawn(move || other.notify_one());
        assert!(park(Duration::from_mins(1), notify.notified()).is_some());
        thread.join().unwrap();
        // Notified before anyone waits.
        notify.notify_one();
        assert!(park(Duration::ZERO, notify.notified()).is_some());
    }
}
