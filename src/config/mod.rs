//! What the operator wrote, checked.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub mod api;
pub mod source;

pub use api::{ApiConfig, ApiName};
pub use source::SourceConfig;

use crate::route;

/// The name of a `[dead_letter.NAME]`.
pub type DeadLetterName = Arc<str>;

/// A whole configuration, every reference in it resolved.
#[derive(Clone, Debug)]
pub struct Config {
    /// By name.
    pub apis: BTreeMap<ApiName, ApiConfig>,
    /// In the order of the file.
    pub sources: Vec<SourceConfig>,
    /// In the order of the file. Each one's `api` and `dead_letter` exist.
    pub routes: Vec<route::Spec>,
    /// By name; never empty: the default one is called `default`.
    pub dead_letters: BTreeMap<DeadLetterName, DeadLetterConfig>,
    /// `[admin]`; `None` when it is switched off.
    pub admin: AdminConfig,
    /// `[log]`.
    pub log: LogConfig,
    /// `[shutdown]`: how long the drain may take; 25 s unless set.
    pub grace: Duration,
}

/// A checked `[dead_letter.NAME]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeadLetterConfig {
    /// JSON lines in a file.
    File {
        /// Of the file.
        path: PathBuf,
    },
}

/// A checked `[admin]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminConfig {
    /// 127.0.0.1:9464 unless set.
    pub listen: SocketAddr,
}

/// A checked `[log]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// A directive of `tracing_subscriber`'s `EnvFilter`; `info` unless set.
    pub level: String,
    /// How lines look.
    pub format: LogFormat,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// A text that never shows itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that sends it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}
