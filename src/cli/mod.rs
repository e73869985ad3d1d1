//! The command line: output for people, and exit codes.

use std::fmt::Display;
use std::io::{self, Write as _};
#[cfg(any(feature = "demo", feature = "emulator"))]
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::Context as _;
use clap::error::{ContextKind, ContextValue};
use clap::{Parser, Subcommand};
use parking_lot::RwLock;
use tokio::runtime::Runtime;
use tracing::{Level, enabled, error, info, warn};

use crate::files::descriptors;
use crate::metrics;
use crate::redact;
use crate::telemetry;

mod admin;
pub mod channel;
pub mod check;
#[cfg(feature = "demo")]
pub mod demo;
#[cfg(feature = "emulator")]
pub mod emulate;
mod environment;
pub mod exit;
pub mod generated;
pub mod health;
mod named_file;
mod output;
pub mod replay;
pub mod run;
mod signals;
#[cfg(feature = "top")]
pub mod top;

pub use environment::forget_empty;

const EXAMPLES: &str = "\
Examples:
  appsync-bridge demo                     see it work, with nothing to install
  appsync-bridge check -c bridge.toml     every mistake of a configuration at once
  appsync-bridge run -c bridge.toml       the daemon
  appsync-bridge top                      how it does, in a terminal
  appsync-bridge subscribe '/orders/*'     what arrives in a channel
  appsync-bridge publish /orders/7 '{}'   an event, by hand
  appsync-bridge replay todo.jsonl        what could not be published, once more
  appsync-bridge emulate                  a local Event API to develop against
  appsync-bridge schema                   the configuration's JSON Schema, for an editor";

/// Relays what backends say on Kafka, NATS, MQTT and SQS into AWS AppSync Events, and acknowledges only what is settled
#[derive(Parser)]
#[command(name = "appsync-bridge", version, long_version = VERSION.as_str(), after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(run::Args),
    Check(check::Args),
    Publish(Box<channel::Publish>),
    Subscribe(Box<channel::Subscribe>),
    Replay(replay::Args),
    #[cfg(feature = "top")]
    Top(top::Args),
    Health(health::Args),
    #[cfg(feature = "demo")]
    Demo(demo::Args),
    #[cfg(feature = "emulator")]
    Emulate(Box<emulate::Args>),
    Schema(generated::Schema),
    Completions(generated::Completions),
    Man(generated::Man),
}

/// Version, commit and features, a line each.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let facts = metrics::build();
    let fact = |name: &str| {
        let found = facts.iter().find(|(known, _)| *known == name);
        found.map_or_else(String::new, |(_, value)| value.clone())
    };
    format!("{}\ncommit {}\nfeatures {}", fact("version"), fact("commit"), fact("features"))
});

impl Cli {
    /// That of this process, which ends with a message if it can't be read; the exit code, if all that is asked for is
    /// a help or the version.
    pub fn of_process() -> Result<Self, ExitCode> {
        Self::try_parse().map_err(|mut error| {
            if let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidArg)
                && Path::new(word).extension().is_some_and(|extension| extension == "toml")
            {
                let hint = format!("a configuration is named with `-c {word}`").into();
                error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![hint]));
            }
            if error.use_stderr() {
                error.exit();
            }
            let printed = error.print().and_then(|()| io::stdout().flush());
            printed.map_or_else(output::end_of, |()| ExitCode::SUCCESS)
        })
    }

    /// Runs the command to its end. All asynchronous code stays in here, so that it is compiled with this
    /// library, and not once more with the program.
    pub fn run(self) -> ExitCode {
        telemetry::tell_of_panics();
        redact::learn_environment();
        let ready = enough_descriptors().and_then(|()| enough_threads());
        let runtime = match ready.and_then(|()| Ok(Runtime::new()?)) {
            Ok(runtime) => runtime,
            Err(error) => return failed(&error),
        };
        let code = runtime.block_on(self.drive());
        // A blocking call that hangs (a name that is not resolved, a disk that does not answer) must
        // not hold up an end that was asked for.
        runtime.shutdown_timeout(Duration::from_millis(100));
        code
    }

    async fn drive(self) -> ExitCode {
        match self.command {
            Command::Run(args) => run::run(&args).await,
            Command::Check(args) => check::run(&args).await,
            Command::Publish(args) => channel::publish(&args).await,
            Command::Subscribe(args) => channel::subscribe(&args).await,
            Command::Replay(args) => replay::run(&args).await,
            #[cfg(feature = "top")]
            Command::Top(args) => top::run(&args).await,
            Command::Health(args) => health::run(&args).await,
            #[cfg(feature = "demo")]
            Command::Demo(args) => demo::run(&args).await.unwrap_or_else(|e| failed(&e)),
            #[cfg(feature = "emulator")]
            Command::Emulate(args) => {
                let shutdown = crate::shutdown::Shutdown::new();
                signals::listen(shutdown.clone(), None);
                emulate::run(*args, shutdown).await.unwrap_or_else(|e| failed(&e))
            }
            Command::Schema(args) => generated::schema(&args),
            Command::Completions(args) => generated::completions(&args),
            Command::Man(args) => generated::man(&args),
        }
    }
}

/// Whether this process may open the files and connections that any command needs.
fn enough_descriptors() -> anyhow::Result<()> {
    let (limit, least) = (descriptors::raise(), descriptors::LEAST);
    anyhow::ensure!(
        limit >= least,
        "this process may open {limit} files and connections, and needs {least} at least; raise the limit \
         (`ulimit -n`, `LimitNOFILE=` of systemd)"
    );
    Ok(())
}

/// Whether this user may start the threads that any command needs: without them the runtime panics.
fn enough_threads() -> anyhow::Result<()> {
    // Its workers, and some for what blocks: names, files, signals.
    let count = std::thread::available_parallelism().map_or(1, usize::from) + 4;
    let gate = RwLock::new(());
    let closed = gate.write();
    std::thread::scope(|scope| {
        // All at once: each waits until the last was started, or failed to.
        let made = (0..count).try_for_each(|_| {
            let wait = || drop(gate.read());
            std::thread::Builder::new().spawn_scoped(scope, wait).map(drop)
        });
        drop(closed);
        made.with_context(|| {
            format!(
                "{count} threads can't be started; raise the limit of processes \
                 (`ulimit -u`, `TasksMax=` of systemd, the container's `pids` limit)"
            )
        })
    })
}

/// Prints an error; where permissions are what is wrong, the exit code says so.
pub fn failed(error: &anyhow::Error) -> ExitCode {
    complain(&format_args!("{error:#}"));
    ExitCode::from(exit::of_error(error))
}

/// Says how it goes: as a line of the log, if all output has to be that.
fn say(what: &dyn Display) {
    if telemetry::is_json() {
        info!("{what}");
    } else {
        let _ = writeln!(redact::stderr(), "{what}");
    }
}

/// Prints a warning: as a line of the log, if all output has to be that.
fn caution(what: &dyn Display) {
    if telemetry::is_json() {
        warn!("{what}");
    } else {
        let _ = writeln!(redact::stderr(), "warning: {what}");
    }
}

/// Prints an error: as a line of the log, if all output has to be that, whatever level that has.
fn complain(why: &dyn Display) {
    if telemetry::is_json() && enabled!(Level::ERROR) {
        error!("{why}");
        return;
    }
    let line = if telemetry::is_json() {
        telemetry::error_line(&why.to_string(), module_path!())
    } else {
        format!("error: {why}")
    };
    // With standard error closed there is no one to report to.
    let _ = writeln!(redact::stderr(), "{line}");
}

/// How a time is written.
const A_TIME: &str = "a time looks like `500ms`, `30s` or `5m`";

/// The time that a flag gives, in one or more units.
fn time(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| A_TIME.to_owned())
}

/// The address to listen on that a flag gives.
#[cfg(any(feature = "demo", feature = "emulator"))]
fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "an address is an IP address and a port, such as `127.0.0.1:8787` or `[::1]:8787`"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_time_or_address_is_answered_with_one() {
        assert_eq!(time("1m 30s"), Ok(Duration::from_secs(90)));
        for text in ["", "-1s", "soon", "5"] {
            assert!(time(text).unwrap_err().contains("`30s`"), "{text:?}");
        }
        #[cfg(any(feature = "demo", feature = "emulator"))]
        for text in ["", "foo", "localhost:8787", "8787", "127.0.0.1"] {
            assert!(address(text).unwrap_err().contains("`127.0.0.1:8787`"), "{text:?}");
        }
    }

    /// A sub-command's own help is where its exit codes are looked for.
    #[test]
    fn every_help_says_what_a_command_ends_with() {
        use clap::CommandFactory as _;
        for command in Cli::command().get_subcommands_mut() {
            let help = command.render_long_help().to_string();
            assert!(help.contains("Exit codes: 0"), "{}", command.get_name());
        }
    }
}
