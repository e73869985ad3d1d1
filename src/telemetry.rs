//! Log lines: text on a terminal, JSON elsewhere, always to standard error.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::layer;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Libraries whose warnings say in many lines what our own error says in one. A level of the
/// configuration that names them comes later and wins.
const QUIET: &str = "aws_config=error,aws_runtime=error";

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Whether [`start`] can be told `level`.
pub fn is_level(level: &str) -> bool {
    level.parse::<EnvFilter>().is_ok()
}

/// Starts logging at `level`, a directive of `EnvFilter` such as `info` or `appsync_bridge=debug`.
/// A second start in one process is ignored.
pub fn start(level: &str, format: Format) {
    // The configuration has checked the directive; if that was wrong, say more rather than nothing.
    let filter =
        EnvFilter::try_new(format!("{QUIET},{level}")).unwrap_or_else(|_| EnvFilter::new("info"));
    let terminal = io::stderr().is_terminal();
    let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let registry = tracing_subscriber::registry().with(filter);
    let json = match format {
        Format::Json => true,
        Format::Text => false,
        Format::Auto => !terminal,
    };
    let _ = if json {
        registry.with(layer().json().flatten_event(true).with_writer(io::stderr)).try_init()
    } else {
        registry.with(layer().with_ansi(colour).with_writer(io::stderr)).try_init()
    };
}
