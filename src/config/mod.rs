//! What the operator wrote, checked: a TOML file becomes a [`Config`], or a list of everything that
//! is wrong with it.
//!
//! A file is read once, by hand-written readers, one for each kind of table. They report and go on;
//! only a file without any problem becomes a [`Config`], so inside the bridge nothing is validated
//! again. Nothing here reaches a broker or an API.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

pub mod address;
pub mod api;
mod auth;
mod broken;
mod certificates;
mod circles;
mod cover;
mod coverage;
mod daemon;
mod dead_letter;
mod endpoint;
mod environment;
mod excerpt;
mod field;
mod file;
mod filter;
mod harmless;
pub mod kafka;
mod ledger;
mod librdkafka;
mod lines;
mod mask;
mod mqtt;
mod names;
pub mod overlap;
mod problem;
mod reader;
mod reference;
mod route;
pub mod sasl;
mod secret;
pub mod source;
mod syntax;
pub mod topics;
mod value;
mod whole;
mod words;

pub use api::{ApiConfig, ApiName};
pub use daemon::{AdminConfig, LogConfig, LogFormat};
pub use dead_letter::{
    DEFAULT_FILE as DEFAULT_DEAD_LETTERS, DeadLetterConfig, DeadLetterName, Rotation,
};
pub use environment::{Environment, NoText};
pub use file::shown;
pub use problem::{Kind, Problem, Problems, Told};
pub use secret::Secret;
pub use source::SourceConfig;

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
    /// `[shutdown]`: how long the drain may take; 25 s unless set.
    pub grace: Duration,
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

/// As [`load`], of a text that was read already; `path` is only shown.
pub fn parse(text: &str, path: &Path, environment: &Environment) -> Result<Loaded, Problems> {
    let shown = file::shown(path);
    let masked = mask::Masked::new(text);
    let (config, mut list, log_format) = whole::read(text, &masked, environment);
    // Every line of it would be wrong.
    if list.iter().any(|problem| problem.kind() == Kind::Syntax)
        && let Some(foreign) = file::foreign(text)
    {
        list = vec![foreign];
    }
    let found = Problems::new(&shown, text, masked, list).of_log(log_format);
    match config {
        Some(config) if found.errors() == 0 => Ok(Loaded { config, warnings: found }),
        _ => Err(found),
    }
}

#[cfg(test)]
mod hiding_tests;
#[cfg(test)]
mod hint_tests;
#[cfg(test)]
mod size_tests;
#[cfg(test)]
mod tests;
