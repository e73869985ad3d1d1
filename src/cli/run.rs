//! `run`: the daemon.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use tracing::{error, info, warn};

use super::{check, exit, signals};
use crate::bridge::{Bridge, RunError};
use crate::config::{self, Environment, Loaded, LogFormat, broker};
use crate::shutdown::Shutdown;
use crate::telemetry::{self, Format};

const EXAMPLES: &str = "\
Examples:
  appsync-bridge run
  appsync-bridge run -c bridge.toml

SIGTERM and SIGINT drain: take nothing new, finish what is in flight. A second one aborts.
Exit codes: 0 done, 1 failed or the drain was not clean, 77 permissions, 78 configuration, 130 aborted.";

/// Run the daemon
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The configuration: a file of 4 MiB at most, or `-` for standard input
    #[arg(short, long, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    config: PathBuf,
}

/// Runs the bridge until it is drained.
pub async fn run(args: &Args) -> ExitCode {
    let config = match load(&args.config, None) {
        Ok(loaded) => loaded.config,
        Err(code) => return code,
    };
    let shutdown = Shutdown::new();
    signals::listen(shutdown.clone());
    let bridge = match Bridge::build(&config, shutdown.clone()).await {
        Ok(bridge) => bridge,
        Err(why) => {
            error!("{why}");
            return exit::of_bridge(&why);
        }
    };
    if let Ok(admin) = bridge.admin_addr() {
        let files = config.dead_letters.iter();
        let files =
            files.filter_map(|(name, to)| Some(format!("{name}: {}", to.path()?.display())));
        let dead_letter_files = files.collect::<Vec<_>>().join(", ");
        info!(%admin, sources = config.sources.len(), routes = config.routes.len(), apis = config.apis.len(), dead_letter_files, "started");
    }
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
            error!("{why}");
            ExitCode::from(exit::FAILED)
        }
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
