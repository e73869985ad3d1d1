//! Files that are read whole: regular ones, up to a limit.
//!
//! A path may lead to anything. Opening a FIFO blocks until a writer comes, a device never ends, and a file
//! of gigabytes exhausts the memory: each is opened and read only as far as needed to notice that.

use std::fmt;
use std::fs::{Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::SystemTime;

use rustix::fs::OFlags;

/// A file as it was when it was read.
#[derive(Debug)]
pub struct Content {
    /// All of it.
    pub bytes: Vec<u8>,
    /// Of the file that the bytes are from, even if its name leads to another by now.
    pub metadata: Metadata,
}

impl Content {
    /// Whether others can read it, or change it. Its group may read it where root has given it to a group, for that is
    /// how this process reads it: as Kubernetes mounts a secret.
    pub fn is_open_to_others(&self) -> bool {
        is_open(self.metadata.mode(), self.metadata.uid(), rustix::process::geteuid().as_raw())
    }
}

fn is_open(mode: u32, owner: u32, us: u32) -> bool {
    const ROOT: u32 = 0;
    let lent = owner == ROOT && us != ROOT;
    let closed = if lent { 0o027 } else { 0o077 };
    mode & closed != 0
}

/// Tells a change of a file without reading it. Symbolic links are followed, so
/// the switch that Kubernetes makes (one link is replaced) shows as another inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    file: (u64, u64),
}

/// Why a file was not read. `Display` is a clause about it: "is a FIFO, not a regular file".
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// Reading it could block, or never end.
    #[error("is {0}, not a regular file")]
    NotRegular(&'static str),
    /// It holds more than was asked for.
    #[error("is larger than {limit} bytes", limit = Grouped(*limit))]
    TooLarge {
        /// In bytes.
        limit: u64,
    },
    /// The system's error: it does not exist, may not be read, and so on.
    #[error("can't be read: {0}")]
    Io(#[from] io::Error),
}

/// Reads the regular file at `path`, of `limit` bytes at most. Symbolic links are followed. Blocks as
/// long as its file system does, which on a network may be for ever.
pub fn read(path: &Path, limit: u64) -> Result<Content, Unreadable> {
    // Before it is opened, too: opening a device can have effects, and would wake a FIFO's writer.
    fit(&std::fs::metadata(path)?, limit)?;
    // A file that took the name in between must not block either.
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits();
    let file = OpenOptions::new().read(true).custom_flags(flags.cast_signed()).open(path)?;
    let metadata = file.metadata()?;
    fit(&metadata, limit)?;
    let bytes = bounded(&file, limit)?;
    Ok(Content { bytes, metadata })
}

/// Reads all that comes from `source`, `limit` bytes at most.
pub fn bounded(source: impl Read, limit: u64) -> Result<Vec<u8>, Unreadable> {
    let mut bytes = Vec::new();
    source.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit { Err(Unreadable::TooLarge { limit }) } else { Ok(bytes) }
}

impl Stamp {
    /// That of a file with this metadata.
    pub fn of(metadata: &Metadata) -> Self {
        Self {
            modified: metadata.modified().ok(),
            length: metadata.len(),
            file: (metadata.dev(), metadata.ino()),
        }
    }
}

impl Unreadable {
    /// The kind of the system's error, if it is one.
    pub fn kind(&self) -> Option<ErrorKind> {
        match self {
            Self::Io(error) => Some(error.kind()),
            Self::NotRegular(_) | Self::TooLarge { .. } => None,
        }
    }
}

fn fit(metadata: &Metadata, limit: u64) -> Result<(), Unreadable> {
    let kind = metadata.file_type();
    if kind.is_file() {
        let fits = metadata.len() <= limit;
        return if fits { Ok(()) } else { Err(Unreadable::TooLarge { limit }) };
    }
    Err(Unreadable::NotRegular(if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    }))
}

/// A number in groups of three.
struct Grouped(u64);

impl fmt::Display for Grouped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        for (at, digit) in digits.chars().enumerate() {
            let comma = if at > 0 && (digits.len() - at).is_multiple_of(3) { "," } else { "" };
            write!(f, "{comma}{digit}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_open_to_whoever_is_not_its_owner_or_was_given_it_by_root() {
        const US: u32 = 65_532;
        for (mode, owner, us, open) in [
            (0o600, US, US, false),
            (0o400, US, US, false),
            (0o640, US, US, true),
            (0o604, US, US, true),
            (0o620, US, US, true),
            (0o440, 0, US, false),
            (0o640, 0, US, false),
            (0o660, 0, US, true),
            (0o444, 0, US, true),
            (0o640, 7, US, true),
            (0o440, 0, 0, true),
            (0o600, 0, 0, false),
        ] {
            assert_eq!(is_open(mode, owner, us), open, "{mode:o} of {owner} for {us}");
        }
    }

    #[test]
    fn reads_regular_files_up_to_the_limit() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert_eq!(read(&link, 9).unwrap_err().kind(), Some(ErrorKind::NotFound));
        std::fs::write(&path, "123456").unwrap();
        for name in [&path, &link] {
            assert_eq!(read(name, 6).unwrap().bytes, b"123456");
            let refused = read(name, 5).unwrap_err();
            assert_eq!(refused.to_string(), "is larger than 5 bytes");
        }
        assert_eq!(read(&path, u64::MAX).unwrap().metadata.len(), 6);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_file_without_a_size_is_bounded_too() {
        // The kernel's own files say that they are empty.
        assert!(!read(Path::new("/proc/self/status"), 1 << 20).unwrap().bytes.is_empty());
        let refused = read(Path::new("/proc/self/status"), 10).unwrap_err();
        assert!(matches!(refused, Unreadable::TooLarge { limit: 10 }), "{refused}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn nothing_else_is_opened() {
        let directory = tempfile::tempdir().unwrap();
        let (fifo, socket) = (directory.path().join("fifo"), directory.path().join("socket"));
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, mode).unwrap();
        let _listening = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for (path, what) in [
            (fifo.as_path(), "a FIFO"),
            (&socket, "a socket"),
            (directory.path(), "a directory"),
            (Path::new("/dev/zero"), "a device"),
        ] {
            let refused = read(path, 100).unwrap_err().to_string();
            assert_eq!(refused, format!("is {what}, not a regular file"));
        }
    }

    #[test]
    fn a_stream_is_bounded() {
        assert_eq!(bounded(&b"123"[..], 3).unwrap(), b"123");
        let refused = bounded(io::repeat(0), 4_194_304).unwrap_err().to_string();
        assert_eq!(refused, "is larger than 4,194,304 bytes");
    }
}
