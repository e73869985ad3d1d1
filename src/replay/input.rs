//! The files or standard input, and the filter of their records.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustix::fs::OFlags;
use tokio::sync::mpsc;

use super::BuildError;
use super::account::{Place, Unread};
use super::lines::{self, Line};
use super::plan::{self, Routes};
use crate::config::Config;
use crate::dead_letter::record::Kept;
use crate::route::{RouteName, Spec};
use crate::shutdown::Shutdown;

/// Named in place of a file: standard input.
const STDIN: &str = "-";

/// The options of a replay.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Dead-letter files, in this order; `-` is standard input.
    pub files: Vec<PathBuf>,
    /// Only records that failed on this route.
    pub route: Option<String>,
    /// Only records written at this time or later.
    pub since: Option<SystemTime>,
    /// The file for records that are rejected again; `None`: `FILE.rejected` beside each file.
    pub rejects: Option<PathBuf>,
}

/// The open files, and the filter.
pub(super) struct Input {
    lines: mpsc::Receiver<Line>,
    /// Everything was read.
    ended: bool,
    /// Of each file; not known of standard input.
    pub(super) lengths: Vec<Option<u64>>,
    /// The same files, whose lengths may grow: the bridge writes to one until it is moved away.
    files: Vec<Option<File>>,
    route: Option<RouteName>,
    since: Option<SystemTime>,
    pub(super) routes: Routes,
}

/// How far a file was read.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Read {
    lines: u64,
    bytes: u64,
}

impl Read {
    pub(super) fn take(&mut self, line: &Line) {
        if !line.is_fatal {
            self.lines = line.place.line;
            self.bytes += line.bytes;
        }
    }
}

impl Input {
    pub(super) fn open(config: &Config, options: &Options) -> Result<Self, BuildError> {
        let route = options.route.as_deref().map(|name| {
            let found = config.routes.iter().find(|route| &*route.name == name);
            found.map(|route| Arc::clone(&route.name)).ok_or_else(|| {
                let known: Vec<_> = config.routes.iter().map(|r| format!("`{}`", r.name)).collect();
                BuildError::Route { name: name.to_owned(), known: known.join(", ") }
            })
        });
        let route = route.transpose()?;
        let mut seen = HashSet::new();
        let mut files = Vec::new();
        for path in &options.files {
            let fail = |why| BuildError::File { path: path.display().to_string(), why };
            if is_stdin(path) {
                if !seen.insert(path.clone()) {
                    return Err(BuildError::Twice(path.display().to_string()));
                }
                let stdin = io::stdin().as_fd().try_clone_to_owned().map_err(fail)?;
                files.push((File::from(stdin), None));
                continue;
            }
            let real = path.canonicalize().map_err(fail)?;
            // A FIFO would block until somebody writes to it.
            let flags = OFlags::NONBLOCK.bits().cast_signed();
            let file = File::options().read(true).custom_flags(flags).open(&real).map_err(fail)?;
            let facts = file.metadata().map_err(fail)?;
            if !facts.is_file() {
                return Err(fail(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "it is no regular file",
                )));
            }
            if !seen.insert(real) {
                return Err(BuildError::Twice(path.display().to_string()));
            }
            files.push((file, Some(facts.len())));
        }
        for path in rejects_of(options) {
            if path.canonicalize().is_ok_and(|real| seen.contains(&real)) {
                return Err(BuildError::Both(path.display().to_string()));
            }
        }
        let lengths: Vec<_> = files.iter().map(|(_, length)| *length).collect();
        // One that can't be looked at again counts as it was.
        let again =
            |(file, length): &(File, Option<u64>)| length.and_then(|_| file.try_clone().ok());
        let kept = files.iter().map(again).collect();
        let lines = lines::read(files, plan::separators(config));
        let (ended, since, routes) = (false, options.since, Routes::new(config));
        Ok(Self { lines, ended, lengths, files: kept, route, since, routes })
    }

    /// The routes that records may take.
    pub(super) fn wanted<'a>(&self, config: &'a Config) -> impl Iterator<Item = &'a Spec> {
        let only = self.route.clone();
        config.routes.iter().filter(move |r| only.as_ref().is_none_or(|only| *only == r.name))
    }

    pub(super) fn wants(&self, kept: &Kept) -> bool {
        (self.route.is_none() || self.route == kept.route)
            && self.since.is_none_or(|since| kept.at >= since)
    }

    pub(super) fn start(&self) -> Vec<Read> {
        vec![Read::default(); self.lengths.len()]
    }

    pub(super) async fn next(&mut self, shutdown: &Shutdown) -> Option<Line> {
        tokio::select! {
            biased;
            () = shutdown.drain() => None,
            line = self.lines.recv() => {
                self.ended = line.is_none();
                line
            }
        }
    }

    /// What of the files was not read, as they are now.
    pub(super) fn unread(&self, read: &[Read]) -> Vec<Unread> {
        let now = |file: usize| {
            let facts = self.files[file].as_ref().and_then(|file| file.metadata().ok());
            facts.map_or(0, |facts| facts.len())
        };
        let left = |(file, (length, read)): (usize, (&Option<u64>, &Read))| {
            let from = Place { file, line: read.lines + 1 };
            let Some(length) = length.map(|length| length.max(now(file))) else {
                return (!self.ended).then_some(Unread { from, bytes: None });
            };
            let bytes = length.saturating_sub(read.bytes);
            (bytes > 0).then_some(Unread { from, bytes: Some(bytes) })
        };
        self.lengths.iter().zip(read).enumerate().filter_map(left).collect()
    }
}

/// Whether one of them is standard input.
pub(super) fn has_stdin(options: &Options) -> bool {
    options.files.iter().any(|path| is_stdin(path))
}

fn is_stdin(path: &Path) -> bool {
    path == Path::new(STDIN)
}

/// The files for records that are rejected again: one for all, or one for each input.
pub(super) fn rejects_of(options: &Options) -> Vec<PathBuf> {
    let beside = |path: &PathBuf| {
        let mut name = path.as_os_str().to_owned();
        name.push(".rejected");
        PathBuf::from(name)
    };
    match &options.rejects {
        Some(one) => vec![one.clone()],
        None => options.files.iter().map(beside).collect(),
    }
}

/// The file for records of `path` that are rejected again.
pub fn rejects_beside(options: &Options, file: usize) -> Option<PathBuf> {
    let all = rejects_of(options);
    all.get(file).or(all.first()).cloned()
}
