//! Command line in, exit code out.

use std::process::ExitCode;

use appsync_bridge::cli::{self, Cli};
use mimalloc::MiMalloc;

/// An event is allocated in one thread and freed in another, which is where glibc's allocator waits for
/// locks: a quarter of the CPU of an event went there.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    cli::forget_empty();
    Cli::of_process().map_or_else(|code| code, Cli::run)
}
