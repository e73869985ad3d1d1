//! Command line in, exit code out.

use std::process::ExitCode;
use std::time::Duration;

use appsync_bridge::cli::Cli;
use clap::Parser;
use mimalloc::MiMalloc;

/// An event is allocated in one thread and freed in another, which is where glibc's allocator waits for
/// locks: a quarter of the CPU of an event went there.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return appsync_bridge::cli::failed(&error.into()),
    };
    let code = runtime.block_on(cli.run());
    // A blocking call that hangs (a name that is not resolved, a disk that does not answer) must not
    // hold up an end that was asked for.
    runtime.shutdown_timeout(Duration::from_millis(100));
    code
}
