//! What the operator wrote, checked: a TOML file becomes a [`Config`], or a list of everything that
//! is wrong with it.
//!
//! A file is read once, by hand-written readers, one for each kind of table. They report and go on;
//! only a file without any problem becomes a [`Config`], so inside the bridge nothing is validated
//! again. Nothing here reaches a broker or an API.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

pub mod api;
mod auth;
mod daemon;
mod dead_letter;
mod endpoint;
mod environment;
mod field;
mod filter;
pub mod kafka;
mod ledger;
mod librdkafka;
mod mask;
mod mqtt;
mod names;
mod problem;
mod reader;
mod reference;
mod route;
pub mod sasl;
mod secret;
pub mod source;
mod syntax;
mod value;
mod whole;
mod words;

pub use api::{ApiConfig, ApiName};
pub use daemon::{AdminConfig, LogConfig, LogFormat};
pub use dead_letter::{DeadLetterConfig, DeadLetterName, Rotation};
pub use environment::{Environment, NoText};
pub use problem::{Kind, Problem, Problems};
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

/// Reads the file at `path`; relative paths in it start at the working directory.
pub fn load(path: &Path, environment: &Environment) -> Result<Loaded, Problems> {
    let shown = path.display().to_string();
    match std::fs::read(path) {
        Ok(bytes) => match String::from_utf8(bytes) {
            Ok(text) => parse(&text, path, environment),
            Err(error) => Err(not_utf8(&shown, &error)),
        },
        Err(error) => Err(unreadable(&shown, &error)),
    }
}

/// As [`load`], of a text that was read already; `path` is only shown.
pub fn parse(text: &str, path: &Path, environment: &Environment) -> Result<Loaded, Problems> {
    let shown = path.display().to_string();
    let (config, list, secrets) = whole::read(text, environment);
    let found = Problems::new(&shown, text, &secrets, list);
    match config {
        Some(config) if found.errors() == 0 => Ok(Loaded { config, warnings: found }),
        _ => Err(found),
    }
}

fn unreadable(path: &str, error: &std::io::Error) -> Problems {
    let (kind, message, hint) = match error.kind() {
        ErrorKind::NotFound => {
            let hint = "create it, or name another with `--config FILE`";
            (Kind::Unreadable, "there is no such file".to_owned(), hint)
        }
        ErrorKind::PermissionDenied => {
            let hint = "let this user read it: `ls -l` shows whose it is";
            (Kind::Forbidden, "this user may not read the file".to_owned(), hint)
        }
        ErrorKind::IsADirectory => {
            (Kind::Unreadable, "this is a directory".to_owned(), "name the file in it")
        }
        _ => {
            let message = format!("the file can't be read: {error}");
            (Kind::Unreadable, message, "name another with `--config FILE`")
        }
    };
    Problems::new(path, "", &[], vec![Problem::new(kind, None, message).help(hint)])
}

fn not_utf8(path: &str, error: &std::string::FromUtf8Error) -> Problems {
    let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
    let line = valid.split(|b| *b == b'\n').count();
    let message = format!("line {line} is not UTF-8");
    let problem = Problem::new(Kind::Syntax, None, message).help("TOML is UTF-8: save it as that");
    Problems::new(path, "", &[], vec![problem])
}

#[cfg(test)]
mod tests;
