//! `run`: the daemon.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use tokio::sync::Notify;
use tracing::{Level, enabled, error, info, warn};

use super::{check, complain, exit, signals};
use crate::bridge::{self, Bridge, Operator, RunError};
use crate::config::{self, Environment, Loaded, LogFormat, Problems, broker};
use crate::shutdown::Shutdown;
use crate::telemetry::{self, Format};

const EXAMPLES: &str = "\
Examples:
  appsync-bridge run
  appsync-bridge run -c bridge.toml

SIGTERM and SIGINT drain: take nothing new, finish what is in flight. A second one aborts.
SIGHUP reads the configuration again: what is different in it changes, the rest goes on. So does POST /reload
of the admin port, on this machine. A file with an error changes nothing.
Exit codes: 0 done, 1 failed or the drain was not clean, 77 permissions, 78 configuration, 130 aborted.";

/// Run the daemon
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The configuration: a file of 4 MiB at most, or `-` for standard input
    #[arg(short, long, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    config: PathBuf,

    /// Abort when standard input ends, as it does with a process that holds its other end
    #[arg(long, hide = true)]
    until_stdin_ends: bool,
}

/// Runs the bridge until it is drained.
pub async fn run(args: &Args) -> ExitCode {
    let hidden = hide_memory();
    let config = match load(&args.config, None) {
        Ok(loaded) => loaded.config,
        Err(code) => return code,
    };
    if let Err(why) = hidden {
        warn!(%why, "other processes of this user may read the memory of this one");
    }
    let shutdown = Shutdown::new();
    let hangup = Arc::new(Notify::new());
    signals::listen(shutdown.clone(), Some(Arc::clone(&hangup)));
    if args.until_stdin_ends {
        let shutdown = shutdown.clone();
        // Not a task: reading a pipe to its end blocks its thread for as long as this process runs.
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
            shutdown.start_abort();
        });
    }
    let mut bridge = match Bridge::build(&config, shutdown.clone()).await {
        Ok(bridge) => bridge,
        Err(why) => {
            // All that is wrong, as `check` says it; what may pass by itself is no concern of that.
            let mut all = bridge::examine(&config).await;
            if all.iter().all(|other| other.to_string() != why.to_string()) {
                all.insert(0, why);
            }
            for why in &all {
                fatal(why);
            }
            return ExitCode::from(exit::of_bridge(&all));
        }
    };
    if let Ok(admin) = bridge.admin_addr() {
        let files = config.dead_letters.iter();
        let files =
            files.filter_map(|(name, to)| Some(format!("{name}: {}", to.path()?.display())));
        let dead_letter_files = files.collect::<Vec<_>>().join(", ");
        let version = env!("CARGO_PKG_VERSION");
        let whole =
            std::path::absolute(&args.config).ok().filter(|_| !config::is_stdin(&args.config));
        let config_file = config::shown(whole.as_deref().unwrap_or(&args.config));
        info!(version, config = config_file, %admin, sources = config.sources.len(), routes = config.routes.len(), apis = config.apis.len(), dead_letter_files, "started");
    }
    bridge.reload_by(File(args.config.clone()));
    let reloader = bridge.reloader();
    tokio::spawn(async move {
        loop {
            hangup.notified().await;
            // What came of it is logged by the bridge.
            if reloader.reload().await.is_none() {
                info!("no reload after SIGHUP: the bridge is ending");
            }
        }
    });
    signals::tell_systemd(bridge.health(), shutdown.clone());
    match bridge.run().await {
        Ok(()) => {
            info!("drained");
            ExitCode::SUCCESS
        }
        Err(why @ RunError::Aborted) => {
            warn!("{why}");
            ExitCode::from(exit::ABORTED)
        }
        Err(why) => {
            fatal(&why);
            ExitCode::from(exit::FAILED)
        }
    }
}

/// Says why the process ends: in the log, or past one that keeps quiet.
fn fatal(why: &dyn Display) {
    if enabled!(Level::ERROR) {
        error!("{why}");
    } else {
        complain(why);
    }
}

/// Keeps keys and payloads out of core dumps, and from other processes of the same user.
fn hide_memory() -> std::io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    Ok(())
}

/// The file that the configuration is in.
struct File(PathBuf);

impl Operator for File {
    fn begins(&self) {
        signals::tell_reloading();
    }

    fn load(&self) -> Result<Loaded, Problems> {
        let read = config::load_again(&self.0, &Environment::of_process());
        check::show(read.as_ref().map_or_else(|problems| problems, |loaded| &loaded.warnings));
        read
    }

    fn ended(&self, words: &str) {
        signals::tell_reloaded(words);
    }
}

/// Reads the file, starts the log as configured, at `level` if that is given, and logs the file's problems;
/// without a configuration, the exit code.
pub(super) fn load(path: &Path, level: Option<&str>) -> Result<Loaded, ExitCode> {
    match config::load(path, &Environment::of_process()) {
        Ok(loaded) => {
            let log = &loaded.config.log;
            telemetry::start(level.unwrap_or(&log.level), format(log.format), broker::quiet());
            check::show(&loaded.warnings);
            Ok(loaded)
        }
        Err(problems) => {
            telemetry::start("info", format(problems.log_format()), broker::quiet());
            check::show(&problems);
            Err(exit::of_problems(&problems))
        }
    }
}

fn format(configured: LogFormat) -> Format {
    match configured {
        LogFormat::Auto => Format::Auto,
        LogFormat::Text => Format::Text,
        LogFormat::Json => Format::Json,
    }
}
