//! `demo`: everything with one command, and nothing to install.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};

use anyhow::Context;

use super::{address, caution, exit, signals};
use crate::config::broker;
use crate::demo::Demo;
use crate::shutdown::Shutdown;
use crate::telemetry::{self, Format};

const EXAMPLES: &str = "\
Examples:
  appsync-bridge demo
  appsync-bridge demo --open
  appsync-bridge demo --port 8080
  appsync-bridge demo --listen 0.0.0.0:8080    # for a phone in the same network

Exit codes: 0 ended by a signal, 1 failed, 2 usage, 77 permissions, 130 aborted by a second signal.";

/// What opens an address in the user's browser.
const OPENER: &str = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };

/// Show the whole thing: a broker, a fleet, the bridge and a page on which to break them; nothing to install
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Port of the page on 127.0.0.1; 0 takes a free one
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    port: u16,

    /// Address of the page, so that a phone can open it: everybody who reaches it can look and subscribe, and who has
    /// the token of the printed address can press the buttons and send. The Event API is on another port of the same
    /// address, and there only the bridge can publish
    #[arg(long, value_name = "ADDRESS", conflicts_with = "port", value_parser = address)]
    listen: Option<SocketAddr>,

    /// Append one JSON line for every event that the Event API answers
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,

    /// Open the page in the browser
    #[arg(long)]
    open: bool,
}

/// Runs the demo until it is told to stop.
pub async fn run(args: &Args) -> anyhow::Result<ExitCode> {
    telemetry::start("warn,mqtt5=error", Format::Auto, broker::quiet());
    let shutdown = Shutdown::new();
    signals::listen(shutdown.clone(), None);
    let listen = args.listen.unwrap_or_else(|| (Ipv4Addr::LOCALHOST, args.port).into());
    let demo = tokio::select! {
        demo = Demo::start(listen, args.ledger.clone()) => demo?,
        () = shutdown.drain() => return Ok(ExitCode::SUCCESS),
    };
    if !listen.ip().is_loopback() {
        caution(&format_args!(
            "{} can be reached from other machines: who reaches it can open the page and subscribe; to press the \
             buttons and to send messages, one needs the token in the printed address; and nobody but the bridge can \
             publish to its Event API",
            listen.ip()
        ));
    }
    let facts = &demo.facts;
    let mut out = std::io::stdout().lock();
    let text = format!(
        "
--- the bridge's configuration ---------------------------------------------------------------
{config}
--- subscribe with aws-amplify ---------------------------------------------------------------
{subscribe}
----------------------------------------------------------------------------------------------

  Make an event appear     {publish}
  The Event API            {endpoint}
  The bridge's status      http://{admin}/
  The bridge's metrics     http://{admin}/metrics
  What can't be published  {rejects}

Ctrl-C ends it.

  Open in a browser        {page}
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
        .context("can't write to standard output")?;
    drop(out);
    if args.open {
        open(&facts.page);
    }
    demo.run(shutdown.clone()).await?;
    Ok(if shutdown.is_aborting() { ExitCode::from(exit::ABORTED) } else { ExitCode::SUCCESS })
}

/// Opens the address, without waiting for the browser.
fn open(address: &str) {
    let mut command = tokio::process::Command::new(OPENER);
    command.arg(address).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    match command.spawn() {
        Ok(mut child) => {
            tokio::spawn(async move {
                if !child.wait().await.is_ok_and(|ended| ended.success()) {
                    caution(&format_args!(
                        "`{OPENER}` opened no browser: open the address by hand"
                    ));
                }
            });
        }
        Err(why) => {
            caution(&format_args!("`{OPENER}` can't be run ({why}): open the address by hand"));
        }
    }
}
