//! Texts that must not be seen, and that may change while the bridge runs.

use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::redact;

/// What a file with a secret in it holds at most; more is not a secret but a mistake.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// A secret's file is looked at no more often, unless the secret was refused.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A text that never shows itself. One that came from a file follows the file: keys rotate without a
/// restart. A file that is gone, empty or unreadable changes nothing: the last good text stays.
#[derive(Clone)]
pub struct Secret(Arc<Kept>);

struct Kept {
    file: Option<PathBuf>,
    last: Mutex<Last>,
}

struct Last {
    text: Arc<str>,
    stamp: Option<Stamp>,
    looked: Instant,
    warned: bool,
}

/// What tells one content of a file from the next without reading it. Symbolic links are followed, so
/// the switch that Kubernetes makes (one link is replaced) shows as another inode.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    file: (u64, u64),
}

/// What a secret's file holds.
pub(super) struct Content {
    /// Without the line break at its end; never empty.
    pub(super) text: String,
    pub(super) open_to_others: bool,
    stamp: Stamp,
}

/// Why a file gives no secret: a clause about it.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("does not exist")]
    Missing,
    #[error("can't be read: {0}")]
    Io(io::Error),
    #[error("is far too large for a secret")]
    TooLarge,
    #[error("is not UTF-8")]
    NotUtf8,
    #[error("is empty")]
    Empty,
}

impl Secret {
    /// Wraps a text that stays as it is.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self::kept(text.into(), None)
    }

    /// A text that was read from `file`, and follows it.
    pub fn of_file(text: impl Into<Arc<str>>, file: &Path) -> Self {
        Self::kept(text.into(), Some(file.to_owned()))
    }

    fn kept(text: Arc<str>, file: Option<PathBuf>) -> Self {
        redact::learn(&text);
        let last = Last { text, stamp: None, looked: Instant::now(), warned: false };
        Self(Arc::new(Kept { file, last: Mutex::new(last) }))
    }

    /// Whether it comes from a file, and may be another one later.
    pub fn is_followed(&self) -> bool {
        self.0.file.is_some()
    }

    /// The text as it is now, for the one place that sends it. Looks at the file at most once a second.
    pub fn reveal(&self) -> Arc<str> {
        self.look(Instant::now(), false)
    }

    /// As [`reveal`](Self::reveal), and surely what the file says now: the text was refused, or is used
    /// so seldom that reading costs nothing.
    pub fn reread(&self) -> Arc<str> {
        self.look(Instant::now(), true)
    }

    fn look(&self, now: Instant, surely: bool) -> Arc<str> {
        let mut last = self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = &self.0.file
            && (surely || now.duration_since(last.looked) >= LOOK_EVERY)
        {
            last.looked = now;
            last.follow(file, surely);
        }
        Arc::clone(&last.text)
    }
}

impl Last {
    fn follow(&mut self, file: &Path, surely: bool) {
        let stamp = std::fs::metadata(file).ok().map(|metadata| Stamp::of(&metadata));
        if !surely && stamp.is_some() && stamp == self.stamp {
            return;
        }
        match read(file) {
            Ok(content) => {
                if *self.text != *content.text {
                    redact::learn(&content.text);
                    self.text = content.text.into();
                    tracing::info!(file = %file.display(), "the secret in the file changed; the new one is used");
                }
                self.stamp = Some(content.stamp);
                self.warned = false;
            }
            Err(why) => {
                if !self.warned {
                    tracing::warn!(file = %file.display(), %why, "the secret's file can't be used; its last content stays in force");
                }
                self.stamp = None;
                self.warned = true;
            }
        }
    }
}

impl PartialEq for Secret {
    /// Whether both are the same text now and come from the same place.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
            || (self.0.file == other.0.file && self.reveal() == other.reveal())
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Reads a file that holds a secret.
pub(super) fn read(path: &Path) -> Result<Content, Unreadable> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| {
        let metadata = file.metadata()?;
        file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
        Ok(metadata)
    });
    let metadata = read.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Unreadable::Missing,
        _ => Unreadable::Io(error),
    })?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(Unreadable::TooLarge);
    }
    let mut text = String::from_utf8(bytes).map_err(|_| Unreadable::NotUtf8)?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    if text.is_empty() {
        return Err(Unreadable::Empty);
    }
    Ok(Content { text, open_to_others: is_open_to_others(&metadata), stamp: Stamp::of(&metadata) })
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            modified: metadata.modified().ok(),
            length: metadata.len(),
            file: identity(metadata),
        }
    }
}

#[cfg(unix)]
fn identity(metadata: &Metadata) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    (metadata.dev(), metadata.ino())
}

#[cfg(not(unix))]
fn identity(_metadata: &Metadata) -> (u64, u64) {
    (0, 0)
}

#[cfg(unix)]
fn is_open_to_others(metadata: &Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt;
    metadata.permissions().mode() & 0o077 != 0
}

#[cfg(not(unix))]
fn is_open_to_others(_metadata: &Metadata) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Replaces the content as an editor or a rotation does: another file takes the name.
    fn replace(path: &Path, text: &str) {
        let beside = path.with_extension("new");
        std::fs::write(&beside, text).unwrap();
        std::fs::rename(beside, path).unwrap();
    }

    #[test]
    fn follows_its_file_at_most_once_a_second() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        replace(&path, "one\n");
        let secret = Secret::of_file("one", &path);
        let start = Instant::now();
        let at = |ms: u64| secret.look(start + Duration::from_millis(ms), false);
        assert_eq!(&*at(1_100), "one");
        replace(&path, "two\r\n");
        assert_eq!(&*at(1_900), "one", "looked at less than a second ago");
        assert_eq!(&*at(2_200), "two");
        replace(&path, "six");
        assert_eq!(&*secret.look(start + Duration::from_millis(2_300), true), "six", "refused");
        // What can't be used changes nothing, and is tried again.
        for bad in ["", "\n", "\u{0}".repeat(70_000).as_str()] {
            replace(&path, bad);
            assert_eq!(&*secret.reread(), "six");
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!(&*at(10_000), "six");
        replace(&path, "new");
        assert_eq!(&*at(11_100), "new");
        assert_eq!(format!("{secret:?}"), "Secret(…)");
    }

    #[cfg(unix)]
    #[test]
    fn follows_a_link_that_is_switched_as_kubernetes_does() {
        use std::os::unix::fs::symlink;
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for (name, text) in [("v1", "old"), ("v2", "new")] {
            std::fs::create_dir(at(name)).unwrap();
            std::fs::write(at(name).join("key"), text).unwrap();
        }
        symlink("v1", at("..data")).unwrap();
        symlink("..data/key", at("key")).unwrap();
        let secret = Secret::of_file("old", &at("key"));
        let later = |s| secret.look(Instant::now() + Duration::from_secs(s), false);
        assert_eq!(&*later(2), "old");
        symlink("v2", at("..next")).unwrap();
        std::fs::rename(at("..next"), at("..data")).unwrap();
        assert_eq!(&*later(4), "new");
    }
}
