//! `health`: whether a running bridge is alive or ready, for a container's probe.

use std::process::ExitCode;

use super::admin::{Admin, At};
use super::{complain, exit, output};
use crate::error_chain::printable;

const EXAMPLES: &str = "\
Examples:
  appsync-bridge health                     of a container: HEALTHCHECK CMD [\"appsync-bridge\", \"health\"]
  appsync-bridge health --ready -c bridge.toml

Exit codes: 0 yes, 1 no or no answer within 5 s, 2 usage, 77 permissions, 78 `[admin]` of the configuration.";

/// Characters of a reason that are repeated.
const MOST: usize = 2_000;

/// Ask a running bridge whether it is alive, or ready
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    at: At,

    /// Ask `/readyz` (does every source consume, and is no API paused) in place of `/livez`
    #[arg(long)]
    ready: bool,
}

/// Asks once.
pub async fn run(args: &Args) -> ExitCode {
    let admin = match Admin::of(&args.at) {
        Ok(admin) => admin,
        Err(code) => return code,
    };
    let (path, good) = if args.ready { ("/readyz", "ready") } else { ("/livez", "alive") };
    let answer = admin.get(path).await;
    let why = match answer {
        Ok(answer) if answer.status == 200 => {
            return output::print_last(&good, ExitCode::SUCCESS);
        }
        Ok(answer) if answer.status == 503 => {
            let reasons: Vec<_> = answer.text.lines().map(|line| printable(line, MOST)).collect();
            format!("not {good}: {}", reasons.join("; "))
        }
        Ok(answer) => answer.good().err().unwrap_or_default(),
        Err(why) => why,
    };
    complain(&why);
    ExitCode::from(exit::FAILED)
}
