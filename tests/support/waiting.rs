//! Waiting for what is outside of this process.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::Mutex;
use std::time::Duration;

/// What is awaited has come by then, whatever else the machine does; a test that passes does not wait
/// for it to end.
pub(crate) const PATIENCE: Duration = Duration::from_mins(3);

/// A port that is free now.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Ports that are free now, that nobody here was given before, and that no client's connection takes
/// meanwhile, as it would one of those that the system gives out.
pub(crate) fn ports<const N: usize>() -> [u16; N] {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut given = GIVEN.lock().unwrap();
    std::array::from_fn(|_| {
        loop {
            let port = rand::random_range(16_384..32_768);
            if TcpListener::bind(("127.0.0.1", port)).is_ok() && given.insert(port) {
                return port;
            }
        }
    })
}

/// Looks at something outside of this process until it is so; panics with `what` when it is not
/// within `patience`.
pub(crate) async fn until<T>(
    what: &str,
    patience: Duration,
    mut look: impl AsyncFnMut() -> Option<T>,
) -> T {
    let deadline = tokio::time::Instant::now() + patience;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "not within {patience:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
