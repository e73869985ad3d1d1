//! What the tests share.

pub(crate) mod amplify;
pub(crate) mod bad_network;
pub(crate) mod bridge;
pub(crate) mod broker;
pub(crate) mod demo;
pub(crate) mod emulator;
pub(crate) mod kafka;
pub(crate) mod ledger;
pub(crate) mod mosquitto;
pub(crate) mod page;
pub(crate) mod producer;
pub(crate) mod script;
pub(crate) mod scripted;
pub(crate) mod server;
pub(crate) mod shop;
pub(crate) mod socket;
#[cfg(feature = "sqs")]
pub(crate) mod sqs;
pub(crate) mod stub;
pub(crate) mod tokens;

use std::net::TcpListener;
use std::time::Duration;

/// What is awaited has come by then, whatever else the machine does; a test that passes does not wait
/// for it to end.
pub(crate) const PATIENCE: Duration = Duration::from_mins(3);

/// A port that is free now.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
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

/// Runs the test that asks in a process of its own with these variables, unless this is that one: nobody may set
/// them here, where other tests run. True when it has run there, and was good.
pub(crate) fn runs_elsewhere_with(variables: &[(&str, &str)]) -> bool {
    let here = |(name, value): &(&str, &str)| std::env::var(name).is_ok_and(|v| v == *value);
    if variables.iter().all(here) {
        return false;
    }
    let test = std::thread::current().name().unwrap().to_owned();
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args([&test, "--exact"]).envs(variables.iter().copied());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.contains("1 passed"), "{test} in its process: {said}");
    true
}

/// Sends a signal to a process of our own.
pub(crate) fn signal(pid: u32, name: &str) {
    let status =
        std::process::Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status();
    assert!(status.unwrap().success(), "kill -{name} {pid}");
}

/// The lines of a file that another process is writing.
pub(crate) fn whole_lines(text: &str) -> std::str::Lines<'_> {
    text.rfind('\n').map_or("", |end| &text[..end]).lines()
}
