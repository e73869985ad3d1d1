//! `check`: reads a configuration and prints every problem; reaches what it names, if that is asked for.

mod table;

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tracing::{error, warn};

use super::{exit, output};
use crate::bridge;
use crate::config::{self, Config, DeadLetterConfig, Environment, Loaded, LogLine, Problems};
use crate::event_api::Channel;
use crate::publish;
use crate::redact;
use crate::source;
use crate::telemetry;
use table::Part;

const EXAMPLES: &str = "\
Examples:
  appsync-bridge check -c bridge.toml
  appsync-bridge check -c bridge.toml --connect
  appsync-bridge check -c bridge.toml --publish /orders/check

What `run` would refuse is refused here, with the same code; nothing is made, and no port is taken.
--connect prints a line a part, with what was tried: `reach`, `TLS`, `clock`, `credentials`, `login` (does it know us),
`allowed` (may we), `exists`, `write`, `publish`. Signs: ✓ good, ! works and should be looked at, ✗ does not work, · not
tried. Below are what is wrong and its remedy.
Exit codes: 0 good, 1 a part can't be reached or won't have us, 77 permissions, 78 there are problems.";

/// Read a configuration and print every problem of it, with its place and a hint
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The configuration to check: a file of 4 MiB at most, or `-` for standard input
    #[arg(short, long, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    config: PathBuf,

    /// Reach the brokers, the dead letters, the APIs and the collector too: nothing is taken, acknowledged or published
    #[arg(long)]
    connect: bool,

    /// With that, publish one event to this channel of each API, and read the answer
    #[arg(long, value_name = "CHANNEL", value_parser = channel)]
    publish: Option<Channel>,

    /// Print one line of JSON, and nothing else
    #[arg(long)]
    json: bool,
}

/// Checks the file, and what it names if that is asked for. The summary and the table are on stdout; problems and
/// warnings on stderr. With `--json` all of it is one line on stdout.
pub async fn run(args: &Args) -> ExitCode {
    let report = Box::pin(Report::of(args)).await;
    if args.json {
        return output::print_last(&report.json(&args.config), report.code);
    }
    report.code
}

/// What was found out.
struct Report {
    code: ExitCode,
    problems: Option<Problems>,
    notes: Vec<String>,
    /// What only an attempt to build the bridge tells.
    unusable: Vec<String>,
    counts: Option<[usize; 3]>,
    parts: Option<Vec<Part>>,
}

impl Report {
    /// Checks, and says what it finds as it does, unless that is to be JSON.
    async fn of(args: &Args) -> Self {
        let mut report = Self {
            code: ExitCode::SUCCESS,
            problems: None,
            notes: Vec::new(),
            unusable: Vec::new(),
            counts: None,
            parts: None,
        };
        let loaded = config::load(&args.config, &Environment::of_process());
        let (config, problems) = match loaded {
            Ok(Loaded { config, warnings }) => (Some(config), warnings),
            Err(problems) => {
                report.code = exit::of_problems(&problems);
                (None, problems)
            }
        };
        if !args.json {
            show(&problems);
        }
        report.problems = Some(problems);
        let Some(config) = config else { return report };
        let lossy = config.sources.iter().filter_map(|source| {
            let why = source.kind.settings().at_most_once()?;
            Some(format!("source `{}` is at most once: {why}", source.name))
        });
        report.notes = notes(&config).into_iter().chain(lossy).collect();
        // Refuses whatever `run` would, with the same exit code.
        let found = bridge::examine(&config).await;
        report.unusable = found.iter().map(ToString::to_string).collect();
        report.say(args);
        if !found.is_empty() {
            report.code = ExitCode::from(exit::of_bridge(&found));
            return report;
        }
        report.counts = Some([config.apis.len(), config.sources.len(), config.routes.len()]);
        if !args.json
            && let Err(code) = output::print(&summary(&args.config, &config))
        {
            report.code = code;
            return report;
        }
        if args.connect || args.publish.is_some() {
            let parts = look(&config, args.publish.as_ref()).await;
            if !parts.iter().all(|part| part.looked.is_good()) {
                report.code = ExitCode::from(exit::FAILED);
            }
            if !args.json {
                let table = table::text(&parts, colour(&io::stdout()));
                report.code = output::print_last(&table.trim_end_matches('\n'), report.code);
            }
            report.parts = Some(parts);
        }
        report
    }

    fn say(&self, args: &Args) {
        if args.json {
            return;
        }
        for note in &self.notes {
            let _ = writeln!(redact::stderr(), "note: {note}");
        }
        for why in &self.unusable {
            let _ = writeln!(redact::stderr(), "error: {why}");
        }
    }

    fn json(&self, path: &Path) -> Value {
        let of_file = |warning: bool| {
            let lines = self.problems.iter().flat_map(Problems::log_lines);
            let lines = lines.filter(move |line| line.warning == warning);
            lines.map(|LogLine { message, place, help, .. }| {
                let (line, column) = place.unzip();
                json!({ "message": message, "line": line, "column": column, "help": help })
            })
        };
        let unusable = self
            .unusable
            .iter()
            .map(|why| json!({ "message": why, "line": null, "column": null, "help": null }));
        let errors: Vec<_> = of_file(false).chain(unusable).collect();
        let count = |at: usize| self.counts.map(|counts| counts[at]);
        json!({
            "file": config::shown(path),
            "good": self.code == ExitCode::SUCCESS,
            "errors": errors,
            "warnings": of_file(true).collect::<Vec<_>>(),
            "notes": self.notes,
            "apis": count(0),
            "sources": count(1),
            "routes": count(2),
            "connect": self.parts.as_deref().map(table::json),
        })
    }
}

/// Tries everything that the configuration reaches out to, all at the same time.
async fn look(config: &Config, channel: Option<&Channel>) -> Vec<Part> {
    let sources = config.sources.iter().map(|source| async {
        let (name, looked) = (source.name.to_string(), source::probe(source, config.grace).await);
        Some(Part { kind: "source", name: Some(name), looked })
    });
    let dead_letters = config.dead_letters.keys().map(|name| async {
        let looked = bridge::probe_dead_letter(config, name).await?;
        Some(Part { kind: "dead_letter", name: Some(name.to_string()), looked })
    });
    let apis = config.apis.iter().map(|(name, api)| async {
        let looked = publish::probe(api, channel).await;
        Some(Part { kind: "api", name: Some(name.to_string()), looked })
    });
    let otlp = async {
        let looked = bridge::probe_collector(config).await?;
        Some(Part { kind: "otlp", name: None, looked })
    };
    let (sources, dead_letters, apis, otlp) =
        tokio::join!(join_all(sources), join_all(dead_letters), join_all(apis), otlp);
    sources.into_iter().chain(dead_letters).chain(apis).chain([otlp]).flatten().collect()
}

/// Whether what goes there may have colours.
fn colour(to: &impl IsTerminal) -> bool {
    let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    to.is_terminal() && !no_colour
}

/// Warns where the service may meet other conditions than this check.
fn notes(config: &Config) -> Vec<String> {
    // A unit's process has one, and runs under the service's own conditions.
    if std::env::var_os("INVOCATION_ID").is_some() {
        return Vec::new();
    }
    let default = |dead_letter: &DeadLetterConfig| match dead_letter {
        DeadLetterConfig::File { path, .. } if path.ends_with(config::DEFAULT_DEAD_LETTERS) => {
            Some(path.display().to_string())
        }
        _ => None,
    };
    let path = config.dead_letters.get("default").and_then(default);
    let unset = std::env::var_os("STATE_DIRECTORY").is_none_or(|value| value.is_empty());
    let state = path.filter(|_| unset).map(|path| {
        format!(
            "`$STATE_DIRECTORY` is not set, so dead letters would go to `{path}`; \
             a systemd unit with `StateDirectory=` keeps them elsewhere"
        )
    });
    let root = rustix::process::geteuid().is_root().then(|| {
        "checked as root, who may read and write everything; a service with `User=` or `DynamicUser=` \
         may not: check as its user (`systemd-run --pipe --wait -p User=NAME appsync-bridge check`)"
            .to_owned()
    });
    state.into_iter().chain(root).collect()
}

/// Prints problems to stderr: a report for people, in colour on a terminal unless `NO_COLOR` is set; or
/// a line of the log each, where all that is said has to be one.
pub(super) fn show(problems: &Problems) {
    if problems.is_empty() {
        return;
    }
    if telemetry::is_json() {
        return log(problems);
    }
    let _ = writeln!(redact::stderr(), "{}", problems.render(colour(&io::stderr())));
}

fn log(problems: &Problems) {
    for LogLine { warning, message, file, place, help } in problems.log_lines() {
        let (line, column) = place.unzip();
        if warning {
            warn!(file, line, column, help, "{message}");
        } else {
            error!(file, line, column, help, "{message}");
        }
    }
    if problems.errors() > 0 {
        let (problems, warnings) = (problems.errors(), problems.warnings());
        error!(problems, warnings, "the configuration can't be used");
    }
}

/// A channel to publish to.
fn channel(text: &str) -> Result<Channel, String> {
    Channel::parse(text).map_err(|why| format!("{why}; a channel is `/namespace/…`"))
}

fn summary(path: &Path, config: &Config) -> String {
    let counts = [
        (config.apis.len(), "api", "apis"),
        (config.sources.len(), "source", "sources"),
        (config.routes.len(), "route", "routes"),
    ];
    let counts =
        counts.map(|(count, one, many)| format!("{count} {}", if count == 1 { one } else { many }));
    format!("{} is good: {}", config::shown(path), counts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<config::Loaded, Problems> {
        let environment = Environment::of([("HOME", "/home/b")]);
        config::parse(text, Path::new("bridge.toml"), &environment)
    }

    #[test]
    fn says_what_was_understood() {
        let text = "
            [api.main]
            endpoint = \"http://localhost/event\"
            auth = { type = \"iam\" }
            [source.plant]
            type = \"mqtt\"
            url = \"mqtt://localhost\"
            client_id = \"b\"
            subscriptions = \"#\"
            [route.a]
            from = \"plant\"
            channel = \"/a\"
            [route.b]
            from = \"plant\"
            channel = \"/b\"
        ";
        let config = load(text).unwrap().config;
        let expected = "bridge.toml is good: 1 api, 1 source, 2 routes";
        assert_eq!(summary(Path::new("bridge.toml"), &config), expected);
    }

    #[test]
    fn exit_codes_tell_configuration_from_permissions() {
        let problems = load("").unwrap_err();
        assert_eq!(
            format!("{:?}", exit::of_problems(&problems)),
            format!("{:?}", ExitCode::from(78))
        );
        assert!(!problems.is_forbidden());
    }
}
