//! Log lines: text on a terminal, JSON elsewhere, always to standard error, and never with a secret.

mod recent;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::Cell;
use std::io::{self, IsTerminal, Write as _};
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::sync::OnceLock;
use std::thread;
use std::time::SystemTime;

use serde_json::{Value, json};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::layer;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::redact;
pub use recent::{Line, recent};

/// Libraries whose warnings say in many lines what our own error says in one, or that write payloads to the log (that of
/// AWS writes answers at `trace`). A level of the configuration that names them comes later and wins.
const QUIET: &str = "aws_config=error,aws_runtime=error,aws_smithy_runtime=error";

/// For a panic that says nothing.
const NO_WORDS: &str = "no words";

/// Whether the lines that were started are JSON.
static JSON: OnceLock<bool> = OnceLock::new();

thread_local! {
    /// Whether a panic of this thread is no fault.
    static EXPECTED: Cell<bool> = const { Cell::new(false) };
}

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

/// Starts logging at `level`, a directive of `EnvFilter` such as `info` or `appsync_bridge=debug`, which outdoes those
/// of `quiet`, of libraries. A second start in one process is ignored.
pub fn start(level: &str, format: Format, quiet: impl Iterator<Item = &'static str>) {
    let quiet = quiet.filter(|directive| !directive.is_empty());
    let directives: Vec<_> = std::iter::once(QUIET).chain(quiet).collect();
    // The configuration has checked the directive; if that was wrong, say more rather than nothing.
    let filter = EnvFilter::try_new(format!("{},{level}", directives.join(",")))
        .unwrap_or_else(|_| EnvFilter::new("info"));
    let terminal = io::stderr().is_terminal();
    let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let registry = tracing_subscriber::registry().with(filter);
    let json = match format {
        Format::Json => true,
        Format::Text => false,
        Format::Auto => !terminal,
    };
    let started = if json {
        let lines = layer().json().flatten_event(true).with_writer(redact::stderr);
        registry.with(lines).with(recent::Layer::default()).try_init()
    } else {
        let lines = layer().with_ansi(colour).with_writer(redact::stderr);
        registry.with(lines).with(recent::Layer::default()).try_init()
    };
    if started.is_ok() {
        let _ = JSON.set(json);
    }
}

/// Whether all that is said on standard error has to be JSON, because the log there is.
#[must_use]
pub fn is_json() -> bool {
    JSON.get().copied().unwrap_or_default()
}

/// A line of a log that is JSON, for an error that is to be said even where the log keeps quiet.
#[must_use]
pub fn error_line(message: &str, target: &str) -> String {
    error_value(message, target).to_string()
}

/// Says of a panic what Rust would say, as a line like the others.
pub fn tell_of_panics() {
    std::panic::set_hook(Box::new(|panic| {
        if EXPECTED.get() {
            return;
        }
        let backtrace = Backtrace::capture();
        let backtrace =
            (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
        // Not through the log: that may be what panics, or be told to keep quiet.
        let line = if is_json() { as_json(panic, backtrace) } else { as_text(panic, backtrace) };
        let _ = writeln!(redact::stderr(), "{line}");
        recent::note_panic(&format!("panicked: {}", panic.payload_as_str().unwrap_or(NO_WORDS)));
    }));
}

/// Reads by a library that panics at what others may have written; `None` if it did, of which nothing is
/// said: that is no fault. What is read must not be changed by that.
pub fn unless_it_panics<T>(read: impl FnOnce() -> T) -> Option<T> {
    let before = EXPECTED.replace(true);
    let found = catch_unwind(AssertUnwindSafe(read));
    EXPECTED.set(before);
    found.ok()
}

fn as_text(panic: &PanicHookInfo<'_>, backtrace: Option<String>) -> String {
    let thread = thread::current();
    let (name, backtrace) = (thread.name().unwrap_or("<unnamed>"), backtrace.unwrap_or_default());
    format!("thread `{name}` {panic}\n{backtrace}").trim_end().to_owned()
}

fn as_json(panic: &PanicHookInfo<'_>, backtrace: Option<String>) -> String {
    let words = panic.payload_as_str().unwrap_or(NO_WORDS);
    let mut line = error_value(&format!("panicked: {words}"), module_path!());
    line["location"] = panic.location().map(ToString::to_string).into();
    line["thread"] = thread::current().name().into();
    if let Some(backtrace) = backtrace {
        line["backtrace"] = backtrace.into();
    }
    line.to_string()
}

fn error_value(message: &str, target: &str) -> Value {
    let now = humantime::format_rfc3339_micros(SystemTime::now()).to_string();
    json!({ "timestamp": now, "level": "ERROR", "message": message, "target": target })
}
