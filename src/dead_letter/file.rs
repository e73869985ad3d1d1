//! Dead letters as JSON lines in a file, on disk before their messages are acknowledged.

use std::fs::{self, File, Metadata, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;

use super::record::line;
use super::rotation::{all_aside, set_aside, sync_directory};
use super::{Record, Target, WriteError, private_file};
use crate::config::Rotation;

/// A file of JSON lines, one record a line, readable by its owner only. When full it is rotated.
#[derive(Debug)]
pub struct FileTarget {
    place: Arc<Place>,
    /// `None` after a failure: opened again at the next write.
    file: Option<Open>,
}

#[derive(Debug)]
struct Place {
    path: PathBuf,
    rotation: Rotation,
    removed: Counter,
}

#[derive(Debug)]
struct Open {
    file: File,
    /// Length in whole lines. A partial write is cut back to here.
    good: u64,
    /// Device and inode.
    identity: (u64, u64),
    /// No device: only a regular file can be rotated.
    is_regular: bool,
}

/// Why the file can't be used.
#[derive(Debug, thiserror::Error)]
#[error("`{path}` can't be written: {why}")]
pub struct OpenError {
    /// As configured.
    pub path: String,
    /// The error, and the remedy.
    pub why: io::Error,
}

impl OpenError {
    fn new(path: &Path, why: io::Error) -> Self {
        Self { path: path.display().to_string(), why: private_file::explained(path, why) }
    }
}

impl FileTarget {
    /// Opens the file, creating it and its directory if missing. Files that `rotation` removes are counted
    /// in `removed`. It and the rotated ones are made private to their owner.
    pub fn open(path: &Path, rotation: Rotation, removed: Counter) -> Result<Self, OpenError> {
        let fail = |why| OpenError::new(path, why);
        if let Ok(facts) = path.metadata() {
            let is_rotated = rotation.max_size.is_some() && facts.is_file();
            private_file::look_at_directory(path, is_rotated).map_err(fail)?;
        }
        let open = Open::at(path).map_err(fail)?;
        for (_, aside) in all_aside(path).map_err(fail)? {
            private_file::close_to_others(&aside);
        }
        let place = Place { path: path.to_owned(), rotation, removed };
        Ok(Self { place: Arc::new(place), file: Some(open) })
    }

    /// Whether the file at `path` could be used, as far as can be told without a change: a lock of another
    /// process is not noticed.
    pub fn look(path: &Path, rotation: Rotation) -> Result<(), OpenError> {
        let is_rotated = rotation.max_size.is_some();
        private_file::look(path, is_rotated).map_err(|why| OpenError::new(path, why))
    }

    /// A file that is created with the first record, if missing, and is never rotated.
    pub fn when_needed(path: PathBuf) -> Result<Self, OpenError> {
        let there = private_file::open_if_there(&path);
        let opened = there.and_then(|opened| opened.map(|it| Open::take(&path, it)).transpose());
        let file = opened.map_err(|why| OpenError::new(&path, why))?;
        let place = Place { path, rotation: Rotation::default(), removed: Counter::default() };
        Ok(Self { place: Arc::new(place), file })
    }
}

impl Target for FileTarget {
    fn place(&self) -> String {
        self.place.path.display().to_string()
    }

    fn again(&self) -> String {
        let path = self.place.path.display();
        format!(
            "mend the cause; then `mv {path} todo.jsonl && appsync-bridge replay todo.jsonl -c FILE` sends them again, \
             with the configuration of this bridge"
        )
    }

    async fn write(&mut self, records: &[Record]) -> Result<(), WriteError> {
        let text = |record| format!("{}\n", line(record)).into_bytes();
        let lines: Vec<Vec<u8>> = records.iter().map(text).collect();
        let (mut file, place) = (self.file.take(), Arc::clone(&self.place));
        let written = tokio::task::spawn_blocking(move || {
            let mut kept = 0;
            let result = place.append(&mut file, &lines, &mut kept);
            (file, kept, result)
        });
        let fail = |kept, why: String| WriteError {
            kept,
            why: format!("`{}`: {why}", self.place.path.display()),
        };
        let (file, kept, result) = written.await.map_err(|e| fail(0, e.to_string()))?;
        let explained = |error| private_file::explained(&self.place.path, error).to_string();
        result.map_err(|error| fail(kept, explained(error)))?;
        self.file = file;
        Ok(())
    }
}

impl Place {
    /// Appends `lines`, rotating the file where it is full; `kept` counts those on disk.
    fn append(
        &self,
        file: &mut Option<Open>,
        lines: &[Vec<u8>],
        kept: &mut usize,
    ) -> io::Result<()> {
        while *kept < lines.len() {
            // The file may have been moved away, to replay it: later records there would not be found. Or
            // its mode was changed, or another file was put in its place.
            let open = match file.take().filter(|open| open.is_still(&self.path)) {
                Some(open) => file.insert(open),
                None => file.insert(Open::at(&self.path)?),
            };
            let room = match self.rotation.max_size {
                Some(max) if open.is_regular => max.saturating_sub(open.good),
                _ => u64::MAX,
            };
            let mut count = fitting(&lines[*kept..], room);
            if count == 0 && open.good > 0 {
                *file = None;
                set_aside(&self.path, self.rotation, &self.removed)?;
                continue;
            }
            // A record larger than `max_size` gets a file of its own.
            count = count.max(1);
            open.append(&lines[*kept..*kept + count].concat())?;
            *kept += count;
        }
        Ok(())
    }
}

/// How many of the first lines fit.
fn fitting(lines: &[Vec<u8>], room: u64) -> usize {
    let mut bytes = 0;
    let fits = |line: &&Vec<u8>| {
        bytes += line.len() as u64;
        bytes <= room
    };
    lines.iter().take_while(fits).count()
}

impl Open {
    fn at(path: &Path) -> io::Result<Self> {
        Self::take(path, private_file::open_or_make(path)?)
    }

    fn take(path: &Path, (mut file, facts): (File, Metadata)) -> io::Result<Self> {
        lock(&file)?;
        let mut good = file.seek(SeekFrom::End(0))?;
        if good > 0 {
            let mut last = [0];
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                // A line that a crash cut off was never confirmed; the next one begins a new line.
                file.write_all(b"\n")?;
                good += 1;
            }
        }
        // A new file's name is on disk only after its directory is synced.
        sync_directory(path)?;
        Ok(Self { file, good, identity: identity(&facts), is_regular: facts.is_file() })
    }

    /// Whether this is still the file of that name, private, and of the length after the last write.
    fn is_still(&self, path: &Path) -> bool {
        let untouched = |facts: &Metadata| {
            !self.is_regular || (private_file::is_private(facts) && facts.len() == self.good)
        };
        fs::symlink_metadata(path)
            .is_ok_and(|facts| identity(&facts) == self.identity && untouched(&facts))
    }

    fn append(&mut self, text: &[u8]) -> io::Result<()> {
        let written = self.file.write_all(text).and_then(|()| self.file.sync_data());
        match written {
            Ok(()) => self.good += text.len() as u64,
            // Best effort: else a broken line stays, which `at` ends with a line break.
            Err(_) => drop(self.file.set_len(self.good)),
        }
        written
    }
}

/// One writer at a time: a second one, cutting back a write that failed, would cut away what the
/// first has confirmed. The lock ends with the handle, and so with the process.
fn lock(file: &File) -> io::Result<()> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            let why = "another process or dead letter writes to it: stop that one, or give each a file of its own";
            Err(io::Error::new(io::ErrorKind::ResourceBusy, why))
        }
        // On a file system without locks it is written without one.
        Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn identity(facts: &Metadata) -> (u64, u64) {
    (facts.dev(), facts.ino())
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
