//! `replay`: dead letters through their routes again.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use aws_smithy_types::date_time::{DateTime, Format};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use tracing::info;

use super::{complain, exit, output, signals};
use crate::config::{self, Config};
use crate::redact;
use crate::replay::{
    self, Account, BuildError, Options, Place, Preview, Progress, Replay, rejects_beside,
};
use crate::shutdown::Shutdown;
use crate::telemetry;

const EXAMPLES: &str = "\
Examples:
  appsync-bridge replay dead-letters.jsonl --dry-run -c bridge.toml
  mv dead-letters.jsonl todo.jsonl && appsync-bridge replay todo.jsonl -c bridge.toml
  appsync-bridge replay todo.jsonl --route telemetry --since 2h -c bridge.toml
  mv dead-letters.jsonl.2 todo.2 && mv dead-letters.jsonl.1 todo.1
  appsync-bridge replay todo.2 todo.1 -c bridge.toml      the oldest first
  jq -c 'select(.reason == \"refused\")' todo | appsync-bridge replay - --rejects again

Rename a file before it is replayed, one that was set aside (`.1`, `.2`) too: the bridge may write to it
or set another aside meanwhile. Rename within the file system only: to another, mv copies and deletes, and
a record written in between is lost.

A record goes through the route it failed on, and through the whole table if no route took it. One that
names the channel which failed goes to that channel only, if the route still renders it. Records are
published in their order and at least once. The files are not changed: after an end with 0 they are done
with. What is rejected again, or names a route that is gone, is in FILE.rejected then; correct the routes
and replay that. To replay FILE itself once more publishes its records again, and appends to FILE.rejected
what is rejected again; a record there has the new reason, and under `first` the one that it became a dead
letter for.

SIGTERM and SIGINT finish what is in flight and say what is left. A second one aborts.
Exit codes: 0 everything was published, 1 something is left, 2 usage, 77 permissions, 78 configuration,
130 aborted.";

/// The log's filter: faults and progress.
const LEVEL: &str = "warn,appsync_bridge::cli=info";

/// Interval of progress lines without a terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Interval of redrawing the bar.
const DRAW_EVERY: Duration = Duration::from_millis(200);

/// How many lines of one kind are listed; `--json` lists more.
const LISTED: usize = 10;

/// Put dead letters through their routes again
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Dead-letter files, in this order; `-` is standard input
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,

    /// The configuration, for its routes and APIs; `-` is standard input
    #[arg(short, long, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    config: PathBuf,

    /// Only records that failed on this route
    #[arg(long, value_name = "NAME")]
    route: Option<String>,

    /// Only records written then or later: RFC 3339, or how long ago (`2h`, `3days`)
    #[arg(long, value_name = "TIME", value_parser = since, allow_hyphen_values = true)]
    since: Option<SystemTime>,

    /// Where records go that are rejected again [default: FILE.rejected beside each FILE]
    #[arg(long, value_name = "FILE")]
    rejects: Option<PathBuf>,

    /// Show what would be published where, and send nothing
    #[arg(long)]
    dry_run: bool,

    /// Print the account as one line of JSON; with `--dry-run`, a line for every event before it, and the
    /// account says `would_publish` and `would_reject`
    #[arg(long)]
    json: bool,
}

/// Replays the files; the account on stdout, all else on stderr.
pub async fn run(args: &Args) -> ExitCode {
    if config::is_stdin(&args.config) && args.files.iter().any(|file| config::is_stdin(file)) {
        complain(&"standard input can't be both the configuration and the dead letters");
        return ExitCode::from(exit::USAGE);
    }
    let config = match super::run::load(&args.config, Some(LEVEL)) {
        Ok(loaded) => loaded.config,
        Err(code) => return code,
    };
    let shutdown = Shutdown::new();
    signals::listen(shutdown.clone(), None);
    let options = Options {
        files: args.files.clone(),
        route: args.route.clone(),
        since: args.since,
        rejects: args.rejects.clone(),
    };
    let mut lines = output::Lines::new();
    let ended = if args.dry_run {
        preview(&config, &options, &shutdown, &mut lines, args.json).await
    } else {
        publish(&config, &options, &shutdown).await
    };
    let account = match ended {
        Ok(account) => account,
        Err(why) => {
            complain(&why);
            return exit_code(&why);
        }
    };
    let report = Report { account: &account, options: &options, dry_run: args.dry_run };
    lines.line(&if args.json { report.json().to_string() } else { report.text() });
    let printed = lines.finish();
    if account.aborted {
        return ExitCode::from(exit::ABORTED);
    }
    if !account.is_clean() {
        return ExitCode::from(exit::FAILED);
    }
    printed.map_or_else(|code| code, |()| ExitCode::SUCCESS)
}

async fn publish(
    config: &Config,
    options: &Options,
    shutdown: &Shutdown,
) -> Result<Account, BuildError> {
    let replay = Replay::build(config, options, shutdown.clone()).await?;
    let shown = tokio::spawn(show_progress(replay.progress(), shutdown.clone()));
    let account = replay.run().await;
    shown.abort();
    let _ = shown.await;
    Ok(account)
}

async fn preview(
    config: &Config,
    options: &Options,
    shutdown: &Shutdown,
    lines: &mut output::Lines,
    json: bool,
) -> Result<Account, BuildError> {
    replay::dry_run(config, options, shutdown, |place, preview| {
        let line = if json {
            preview_json(options, place, &preview)
        } else {
            preview_text(options, place, &preview)
        };
        lines.line(&line);
    })
    .await
}

fn preview_json(options: &Options, place: Place, preview: &Preview) -> String {
    let file = options.files[place.file].display().to_string();
    let line = place.line;
    let value = match preview {
        Preview::Event { route, channel, bytes } => {
            json!({ "file": file, "line": line, "route": &**route, "channel": channel, "bytes": bytes })
        }
        Preview::Rejected { route, reason, detail } => {
            json!({ "file": file, "line": line, "route": route.as_deref(), "reason": reason, "detail": detail })
        }
    };
    value.to_string()
}

fn preview_text(options: &Options, place: Place, preview: &Preview) -> String {
    let place = shown(options, place);
    match preview {
        Preview::Event { route, channel, bytes } => {
            format!("{place}  {route}  {channel}  {bytes} B")
        }
        Preview::Rejected { route, reason, detail } => {
            let route = route.as_deref().unwrap_or("no route").escape_debug();
            format!("{place}  {route}  rejected: {reason}: {detail}")
        }
    }
}

/// A bar on a terminal, lines elsewhere, of the log if that is JSON; never ends.
async fn show_progress(progress: Progress, shutdown: Shutdown) {
    let terminal = io::stderr().is_terminal() && !telemetry::is_json();
    let bar = ProgressBar::with_draw_target(
        progress.total_bytes,
        if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() },
    );
    // The template is a constant; an error in it would only change the look of the bar.
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {percent}%  {msg}") {
        bar.set_style(style);
    }
    let _clears = Clears(bar.clone());
    let mut clock = tokio::time::interval(if terminal { DRAW_EVERY } else { LINE_EVERY });
    clock.tick().await;
    loop {
        clock.tick().await;
        let (bytes, account, in_flight) = progress.now();
        let mut text = format!(
            "{} published, {} rejected again, {in_flight} in flight",
            account.published + account.unconfirmed,
            account.rejected + account.unknown_route
        );
        if shutdown.is_draining() {
            text.push_str(", stopping (a second signal stops at once)");
        }
        if let Some(why) = progress.held_up() {
            text = format!("{text}, held up by {}", why.escape_debug());
        }
        if terminal {
            bar.set_position(bytes);
            bar.set_message(redact::clean(&text).into_owned());
            continue;
        }
        let Some(total) = progress.total_bytes else {
            super::say(&text);
            continue;
        };
        let percent = bytes * 100 / total.max(1);
        if telemetry::is_json() {
            info!(percent, "{text}");
        } else {
            let _ = writeln!(redact::stderr(), "{percent}%, {text}");
        }
    }
}

/// Removes the bar from the screen on drop.
struct Clears(ProgressBar);

impl Drop for Clears {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// The text of an account.
struct Report<'a> {
    account: &'a Account,
    options: &'a Options,
    dry_run: bool,
}

impl Report<'_> {
    fn json(&self) -> Value {
        let account = self.account;
        let place = |place: Place| json!({ "file": self.options.files[place.file].display().to_string(), "line": place.line });
        let with = |at: Place, name: &str, value: Value| {
            let mut object = place(at);
            object[name] = value;
            object
        };
        let rejects: Vec<_> = self.rejects();
        // A dry run does not claim to have done anything.
        let (published, rejected) = if self.dry_run {
            ("would_publish", "would_reject")
        } else {
            ("published", "rejected")
        };
        json!({
            "dry_run": self.dry_run,
            "read": account.read,
            "skipped": account.skipped,
            published: account.published,
            "unconfirmed": account.unconfirmed,
            rejected: account.rejected,
            "unknown_route": account.unknown_route,
            "unsettled": account.unsettled.len(),
            "unreadable": account.unreadable,
            "unknown_routes": account.unknown_routes,
            "unsettled_lines": account.unsettled.iter().map(|at| place(*at)).collect::<Vec<_>>(),
            "unreadable_lines": account
                .unreadable_lines
                .iter()
                .map(|(at, why)| with(*at, "why", json!(why)))
                .collect::<Vec<_>>(),
            "unread": account
                .unread
                .iter()
                .map(|rest| with(rest.from, "bytes", json!(rest.bytes)))
                .collect::<Vec<_>>(),
            "rejects": rejects,
        })
    }

    fn text(&self) -> String {
        let account = self.account;
        let published = if self.dry_run { "would be published" } else { "published" };
        let rejected = if self.dry_run { "would be rejected again" } else { "rejected again" };
        let mut lines = vec![format!("{:>10}  read", account.read)];
        for (count, what) in [
            (account.skipped, "skipped by filter"),
            (account.published, published),
            (account.unconfirmed, "unconfirmed: the API's answer did not name them"),
            (account.rejected, rejected),
            (account.unknown_route, "of unknown routes"),
            (account.unsettled.len() as u64, "not settled when it stopped"),
        ] {
            lines.push(format!("{count:>10}  {what}"));
        }
        lines.push(format!("{:>10}  unreadable lines", account.unreadable));
        for (route, count) in account.unknown_routes.iter().take(LISTED) {
            lines.push(format!("no route `{}`: {count}", route.escape_debug()));
        }
        for (place, why) in account.unreadable_lines.iter().take(LISTED) {
            lines.push(format!(
                "unreadable: {}: {}",
                shown(self.options, *place),
                why.escape_debug()
            ));
        }
        for place in account.unsettled.iter().take(LISTED) {
            lines.push(format!("not settled: {}", shown(self.options, *place)));
        }
        let listed = [account.unreadable, account.unsettled.len() as u64];
        if listed.into_iter().any(|count| count > LISTED as u64) {
            lines.push("there are more of them: `--json` lists up to a thousand".to_owned());
        }
        for rest in &account.unread {
            let place = shown(self.options, rest.from);
            let bytes = rest.bytes.map_or_else(String::new, |bytes| format!(", {bytes} B"));
            lines.push(format!("not read: {place} and what follows{bytes}"));
        }
        for path in self.rejects() {
            lines.push(format!("what is rejected again is in {path}"));
        }
        lines.join("\n")
    }

    /// The files for records that are rejected again, if there are such records.
    fn rejects(&self) -> Vec<String> {
        if self.dry_run || self.account.rejected + self.account.unknown_route == 0 {
            return Vec::new();
        }
        let mut paths: Vec<String> = (0..self.options.files.len())
            .filter_map(|file| rejects_beside(self.options, file))
            .filter(|path| path.exists())
            .map(|path| path.display().to_string())
            .collect();
        paths.dedup();
        paths
    }
}

fn shown(options: &Options, place: Place) -> String {
    format!("{}:{}", options.files[place.file].display(), place.line)
}

fn is_denied(why: &io::Error) -> bool {
    why.kind() == ErrorKind::PermissionDenied
}

fn exit_code(why: &BuildError) -> ExitCode {
    ExitCode::from(match why {
        BuildError::File { why, .. } if is_denied(why) => exit::PERMISSIONS,
        BuildError::Rejects(error) if is_denied(&error.why) => exit::PERMISSIONS,
        BuildError::File { .. } | BuildError::Rejects(_) => exit::FAILED,
        BuildError::Twice(_)
        | BuildError::Both(_)
        | BuildError::NoRejects
        | BuildError::Route { .. } => exit::USAGE,
        BuildError::Api { .. } => exit::CONFIGURATION,
    })
}

/// RFC 3339 with any offset, or a duration before now.
fn since(text: &str) -> Result<SystemTime, String> {
    let wrong = || {
        "a time looks like `2026-11-22T10:31:16Z`, `2026-11-22T11:31:16+01:00` or `2h`".to_owned()
    };
    if let Ok(ago) = humantime::parse_duration(text) {
        return SystemTime::now().checked_sub(ago).ok_or_else(wrong);
    }
    let time = DateTime::from_str(text, Format::DateTimeWithOffset).map_err(|_| wrong())?;
    time.try_into().map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_said_in_full_or_by_how_long_ago() {
        let utc = since("2026-11-22T10:31:16Z").unwrap();
        assert_eq!(since("2026-11-22T12:01:16+01:30").unwrap(), utc);
        assert_eq!(since("2026-11-22t05:31:16-05:00").unwrap(), utc);
        let then = since("2h").unwrap();
        let ago = SystemTime::now().duration_since(then).unwrap();
        assert!(ago >= Duration::from_hours(2) && ago < Duration::from_hours(3), "{ago:?}");
        let then = since("10minutes").unwrap();
        let ago = SystemTime::now().duration_since(then).unwrap();
        assert!(ago >= Duration::from_mins(10) && ago < Duration::from_mins(11), "{ago:?}");
        assert!(since("2months").is_ok() && since("1h 5minutes").is_ok());
        for bad in [
            "",
            "2",
            "T",
            "yesterday",
            "2026-11-22T10:31:16",
            "2026-11-22T10:31:16+0100",
            "2026-02-30T10:31:16Z",
            "2026-11-22T10:31:16+1:00",
            "2026-11-22T10:31:16+01:99",
            "äääT",
        ] {
            assert!(since(bad).is_err(), "{bad}");
        }
    }
}
