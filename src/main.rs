//! Command line in, exit code out.

use std::process::ExitCode;

use appsync_bridge::cli::Cli;
use clap::Parser;

#[tokio::main]
async fn main() -> ExitCode {
    Cli::parse().run().await
}
