//! What is handed out beside the program: `deploy`, and what the program prints of itself.

mod canaries;
mod compose;
mod container;
mod inventory;
mod package;
mod schema;

use std::process::Command;

use crate::support::emulator::bridge;

/// Runs a script with the program, a Debian and `more`, in the long run only: it needs root.
fn succeeds(script: &str, more: &[&str]) {
    if std::env::var_os("LONG_TESTS").is_none() {
        return;
    }
    let program = bridge();
    let output = Command::new(script)
        .arg(program.get_args().last().unwrap())
        .arg("tests/.cache/debian")
        .args(more)
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr]
        .map(|text| String::from_utf8_lossy(&text).into_owned())
        .concat();
    println!("{said}");
    assert!(output.status.success() && said.contains("== good"), "{said}");
}
