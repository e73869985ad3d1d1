//! What the tests share.

pub(crate) mod amplify;
pub(crate) mod bad_network;
pub(crate) mod bridge;
pub(crate) mod broker;
pub(crate) mod certificates;
#[cfg(feature = "otlp")]
pub(crate) mod collector;
pub(crate) mod crowd;
pub(crate) mod demo;
pub(crate) mod emulator;
pub(crate) mod hivemq;
pub(crate) mod iot_core;
pub(crate) mod jetstream;
mod jvm;
pub(crate) mod kafka;
pub(crate) mod ledger;
pub(crate) mod mosquitto;
pub(crate) mod nats;
pub(crate) mod page;
pub(crate) mod producer;
pub(crate) mod prometheus;
pub(crate) mod script;
pub(crate) mod scripted;
pub(crate) mod server;
pub(crate) mod shop;
pub(crate) mod socket;
#[cfg(feature = "sqs")]
pub(crate) mod sqs;
pub(crate) mod stub;
pub(crate) mod tap;
pub(crate) mod tokens;
pub(crate) mod unprivileged;
mod waiting;

pub(crate) use waiting::{PATIENCE, free_port, ports, until};

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
