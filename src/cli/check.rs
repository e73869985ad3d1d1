//! `check`: reads a configuration and prints every problem.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use tracing::{error, warn};

use super::exit;
use crate::bridge;
use crate::config::{self, Config, DeadLetterConfig, Environment, Loaded, LogLine, Problems};
use crate::redact;
use crate::source;
use crate::telemetry;

const EXAMPLES: &str = "\
Examples:
  appsync-bridge check -c bridge.toml
  appsync-bridge check -c bridge.toml --connect

What `run` would refuse is refused here, with the same code; nothing is made, and no port is taken.
Exit codes: 0 good, 1 a broker can't be reached or won't have us, 77 permissions, 78 there are problems.";

/// Read a configuration and print every problem of it, with its place and a hint
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The configuration to check: a file of 4 MiB at most, or `-` for standard input
    #[arg(short, long, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    config: PathBuf,

    /// Reach the brokers and the collector too, without taking or acknowledging a message
    #[arg(long)]
    connect: bool,
}

/// Checks the file: a summary on stdout if it is good; problems and warnings on stderr.
pub async fn run(args: &Args) -> ExitCode {
    let loaded = match load(&args.config) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    let lossy = loaded.config.sources.iter().filter_map(|source| {
        let why = source.kind.settings().at_most_once()?;
        Some(format!("source `{}` is at most once: {why}", source.name))
    });
    for note in notes(&loaded.config).into_iter().chain(lossy) {
        let _ = writeln!(redact::stderr(), "note: {note}");
    }
    // Refuses whatever `run` would, with the same exit code.
    let found = bridge::examine(&loaded.config).await;
    for why in &found {
        let _ = writeln!(redact::stderr(), "error: {why}");
    }
    if let Some(first) = found.first() {
        return exit::of_bridge(first);
    }
    // With standard output closed there is no one to report to.
    let _ = writeln!(redact::stdout(), "{}", summary(&args.config, &loaded.config));
    if args.connect { connect(&loaded.config).await } else { ExitCode::SUCCESS }
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

/// Probes every broker: a line each, on stderr for failures.
async fn connect(config: &Config) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for source in &config.sources {
        let name = &source.name;
        let _ = match source::probe(source).await {
            Ok(found) => writeln!(redact::stdout(), "source {name}: connected: {found}"),
            Err(why) => {
                code = ExitCode::from(exit::FAILED);
                writeln!(redact::stderr(), "error: source {name}: {why}")
            }
        };
    }
    for (name, dead_letter) in &config.dead_letters {
        let _ = match bridge::probe_dead_letter(config, dead_letter).await {
            Some(Ok(found)) => writeln!(redact::stdout(), "dead_letter {name}: connected: {found}"),
            Some(Err(why)) => {
                code = ExitCode::from(exit::FAILED);
                writeln!(redact::stderr(), "error: dead_letter {name}: {why}")
            }
            None => Ok(()),
        };
    }
    let _ = match bridge::probe_collector(config).await {
        Some(Ok(found)) => writeln!(redact::stdout(), "otlp: connected: {found}"),
        Some(Err(why)) => {
            code = ExitCode::from(exit::FAILED);
            writeln!(redact::stderr(), "error: otlp: {why}")
        }
        None => Ok(()),
    };
    code
}

/// Reads the file and prints its problems; without a configuration, the exit code.
fn load(path: &Path) -> Result<Loaded, ExitCode> {
    match config::load(path, &Environment::of_process()) {
        Ok(loaded) => {
            show(&loaded.warnings);
            Ok(loaded)
        }
        Err(problems) => {
            show(&problems);
            Err(exit::of_problems(&problems))
        }
    }
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
    let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let colour = io::stderr().is_terminal() && !no_colour;
    let _ = writeln!(redact::stderr(), "{}", problems.render(colour));
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
