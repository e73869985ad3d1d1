//! `demo`: everything in one process, with nothing to install.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context;

use super::{exit, signals};
use crate::config::broker;
use crate::demo::Demo;
use crate::shutdown::Shutdown;
use crate::telemetry::{self, Format};

const EXAMPLES: &str = "\
Examples:
  appsync-bridge demo
  appsync-bridge demo --port 8080";

/// Show the whole thing: a broker, a fleet, the bridge and a page in the browser; nothing to install
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Port of the page on 127.0.0.1; 0 takes a free one
    #[arg(long, default_value_t = 0)]
    port: u16,
}

/// Runs the demo until it is told to stop.
pub async fn run(args: &Args) -> anyhow::Result<ExitCode> {
    telemetry::start("warn,mqtt5=error", Format::Auto, broker::quiet());
    let shutdown = Shutdown::new();
    signals::listen(shutdown.clone(), None);
    let demo = Demo::build(args.port).await?;
    let facts = &demo.facts;
    let mut out = std::io::stdout().lock();
    let text = format!(
        "
  Open in a browser        {page}

  Make an event appear     {publish}
  The Event API            {endpoint}
  The bridge's status      http://{admin}/
  The bridge's metrics     http://{admin}/metrics
  What can't be published  {rejects}

--- the bridge's configuration ---------------------------------------------------------------
{config}
--- subscribe with aws-amplify ---------------------------------------------------------------
{subscribe}
----------------------------------------------------------------------------------------------

Ctrl-C ends it.
",
        page = facts.page,
        publish = facts.publish_hint(),
        endpoint = facts.endpoint,
        admin = facts.admin,
        rejects = facts.rejects.display(),
        config = facts.config,
        subscribe = facts.subscribe_hint(),
    );
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .context("standard output is closed")?;
    drop(out);
    demo.run(shutdown.clone()).await?;
    Ok(if shutdown.is_aborting() { ExitCode::from(exit::ABORTED) } else { ExitCode::SUCCESS })
}
