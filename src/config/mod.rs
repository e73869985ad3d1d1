//! What the operator wrote, checked: a TOML file becomes a [`Config`], or a list of everything that
//! is wrong with it.
//!
//! A file is read once, by hand-written readers, one for each kind of table. They report and go on;
//! only a file without any problem becomes a [`Config`], so inside the bridge nothing is validated
//! again. Nothing here reaches a broker or an API.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use crate::message::SourceName;
use crate::route::{Pattern, RejectTo};

pub mod api;
pub mod broker;
mod certificates;
mod common;
mod daemon;
mod dead_letter;
mod document;
pub mod endpoint;
mod environment;
mod file;
mod home;
pub mod kafka;
mod log_format;
pub mod mqtt;
pub mod nats;
mod otlp;
mod reader;
mod route;
mod schema;
mod secret;
pub mod source;
pub mod sqs;

pub use api::{ApiConfig, ApiName};
use broker::SourceKind;
pub use common::{Client, Settings, Tls};
pub use daemon::{AdminConfig, CostConfig, LogConfig};
pub use dead_letter::{
    DEFAULT_FILE as DEFAULT_DEAD_LETTERS, DeadLetterConfig, DeadLetterName,
    MOST_FILES as MOST_DEAD_LETTER_FILES, Rotation, is_same_file,
};
pub use environment::{Environment, NoText};
pub use file::{is_stdin, shown};
pub use log_format::LogFormat;
use nats::JetStreamConfig;
pub use otlp::OtlpConfig;
use reader::Masked;
pub use reader::{Kind, LogLine, Problem, Problems};
pub use schema::{page as reference, schema};
pub use secret::Secret;
pub use source::SourceConfig;
use source::Unrouted;

/// Where the configuration is, unless the command line names another file.
pub const DEFAULT_PATH: &str = "/etc/appsync-bridge/bridge.toml";

/// A whole configuration, every reference in it resolved.
#[derive(Clone, Debug)]
pub struct Config {
    /// By name.
    pub apis: BTreeMap<ApiName, ApiConfig>,
    /// In the order of the file.
    pub sources: Vec<SourceConfig>,
    /// In the order of the file. Each one's `api` and `dead_letter` exist.
    pub routes: Vec<crate::route::Spec>,
    /// By name; never empty: the default one is called `default`.
    pub dead_letters: BTreeMap<DeadLetterName, DeadLetterConfig>,
    /// `[admin]`.
    pub admin: AdminConfig,
    /// `[log]`.
    pub log: LogConfig,
    /// `[otlp]`: where metrics and traces go; `None`: nowhere.
    pub otlp: Option<OtlpConfig>,
    /// `[shutdown]`: how long the drain may take; 25 s unless set.
    pub grace: Duration,
    /// `[cost]`.
    pub cost: CostConfig,
}

impl Config {
    /// The sources whose rejects go to the dead letter of this name.
    pub fn rejecting<'a>(&'a self, dead_letter: &'a str) -> impl Iterator<Item = &'a SourceConfig> {
        let routed = |source: &SourceConfig| {
            let here =
                |to: &RejectTo| matches!(to, RejectTo::DeadLetter(name) if **name == *dead_letter);
            let mut routes = self.routes.iter().filter(|route| here(&route.dead_letter));
            routes.any(|route| route.from.contains(&source.name))
        };
        let unrouted = |source: &SourceConfig| matches!(&source.unrouted, Unrouted::DeadLetter(name) if **name == *dead_letter);
        self.sources.iter().filter(move |source| unrouted(source) || routed(source))
    }

    /// Of [those](Self::rejecting) the ones that take a whole stream of JetStream, where the dead letter is at perhaps:
    /// which subjects that has only its server knows.
    pub fn takers_of_streams(&self, dead_letter: &str) -> Vec<StreamTaker> {
        let Some(DeadLetterConfig::JetStream(rejects)) = self.dead_letters.get(dead_letter) else {
            return Vec::new();
        };
        let home = self.sources.iter().find(|source| source.name == rejects.source);
        let Some((home, _)) = home.and_then(|home| home.kind.nats()) else { return Vec::new() };
        let taken = |source: &SourceConfig| {
            let takes = |topic: &Option<Pattern>| {
                topic.as_ref().is_none_or(|topic| topic.takes(&rejects.subject, nats::SEPARATOR))
            };
            let mut routes = self.routes.iter().filter(|route| takes(&route.topic));
            source.unrouted != Unrouted::Ignore
                || routes.any(|route| route.from.contains(&source.name))
        };
        let whole = self.rejecting(dead_letter).filter_map(|source| match &source.kind {
            // Another user may be of another account, whose streams are others.
            SourceKind::JetStream(JetStreamConfig { connection, subjects, stream, .. })
                if subjects.is_empty()
                    && connection.may_meet(home)
                    && connection.auth == home.auth =>
            {
                let (source, takes_rejects) = (source.name.clone(), taken(source));
                Some(StreamTaker { source, stream: stream.clone(), takes_rejects })
            }
            _ => None,
        });
        whole.collect()
    }
}

/// A source that takes a whole stream, and whose rejects go to a subject that this may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamTaker {
    /// Its name.
    pub source: SourceName,
    /// Of which it takes everything.
    pub stream: String,
    /// What comes of that subject is routed, or is itself a reject; else it is acknowledged as what no route takes.
    pub takes_rejects: bool,
}

/// A configuration that can be used, and what its author may want to know all the same.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Warnings, maybe none.
    pub warnings: Problems,
}

/// Reads the file at `path`, or standard input where that is `-`; relative paths in it start at the
/// working directory.
pub fn load(path: &Path, environment: &Environment) -> Result<Loaded, Problems> {
    match file::read(path) {
        Ok(text) => parse(&text, path, environment),
        Err(problem) => Err(Problems::alone(&file::shown(path), *problem)),
    }
}

/// As [`load`], while a configuration from there is in force: what came by standard input can't be read again.
pub fn load_again(path: &Path, environment: &Environment) -> Result<Loaded, Problems> {
    if file::is_stdin(path) {
        let message = "standard input was read at the start, and can't be read again";
        let problem = Problem::new(Kind::Unreadable, None, message);
        let problem = problem.help("restart the bridge, or give it a file with `--config FILE`");
        return Err(Problems::alone(&file::shown(path), problem));
    }
    load(path, environment)
}

/// Reads `[admin]` of the file at `path` and nothing else, to ask the bridge that runs: what it runs with may be
/// another version of the file, and a mistake elsewhere is no reason not to be answered.
pub fn load_admin(path: &Path, environment: &Environment) -> Result<AdminConfig, Problems> {
    let shown = file::shown(path);
    let text = file::read(path).map_err(|problem| Problems::alone(&shown, *problem))?;
    let text = without_mark(&text);
    let masked = Masked::new(text);
    let (admin, list) = document::read_admin(text, &masked, environment);
    let found = Problems::new(&shown, text, masked, list);
    admin.filter(|_| found.errors() == 0).ok_or(found)
}

/// As [`load`], of a text that was read already; `path` is only shown.
pub fn parse(text: &str, path: &Path, environment: &Environment) -> Result<Loaded, Problems> {
    let shown = file::shown(path);
    let text = without_mark(text);
    let masked = Masked::new(text);
    let (config, mut list, log_format) = document::read(text, &masked, environment);
    // Every line of it would be wrong.
    if list.iter().any(|problem| problem.kind() == Kind::Syntax)
        && let Some(foreign) = file::foreign(text)
    {
        list = vec![foreign];
    }
    let is_error = |problem: &Problem| problem.kind() != Kind::Warning;
    if config.is_none() && !list.iter().any(is_error) {
        debug_assert!(false, "a file is refused, and nothing says why");
        let message =
            "the file can't be used, and the bridge can't say why: that is a mistake of the bridge";
        let problem = Problem::new(Kind::Unreadable, None, message);
        list.push(
            problem
                .help("report it with the file, without its secrets; a smaller file may be taken"),
        );
    }
    let found = Problems::new(&shown, text, masked, list).of_log(log_format);
    match config {
        Some(config) if found.errors() == 0 => Ok(Loaded { config, warnings: found }),
        _ => Err(found),
    }
}

/// Without the mark that some editors put before UTF-8: no line or column counts it.
fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

#[cfg(test)]
mod tests;
