//! Setting a full file aside: `FILE` becomes `FILE.1`, what was `FILE.1` becomes `FILE.2`, and so on.
//!
//! Every step is a rename onto a name that is free, so a crash between two of them leaves a gap in the
//! numbers and never a file less. The next rotation closes the gap.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use prometheus_client::metrics::counter::Counter;
use rustix::fs::OFlags;
use tracing::warn;

use crate::config::{MOST_DEAD_LETTER_FILES, Rotation};

/// Sets the file at `path` aside. Where that makes more than `max_files`, the oldest are removed first,
/// each with a line in the log and counted in `removed`.
pub(super) fn set_aside(path: &Path, rotation: Rotation, removed: &Counter) -> io::Result<()> {
    let mut free = 1;
    while fs::symlink_metadata(aside(path, free)).is_ok() {
        is_ours(&aside(path, free))?;
        free += 1;
    }
    if let Some(files) = rotation.max_files {
        // One of them is the file that will be written.
        let most = u64::from(files).saturating_sub(1).max(1);
        let last = if free > most { most - 1 } else { most };
        for (number, file) in all_aside(path)? {
            if number > last {
                is_ours(&file)?;
                remove(&file, removed)?;
            }
        }
        free = free.min(most);
    }
    for number in (1..free).rev() {
        fs::rename(aside(path, number), aside(path, number + 1))?;
    }
    fs::rename(path, aside(path, 1))?;
    sync_directory(path)
}

/// That nobody writes to a file that was set aside: it would be another's, of that name.
fn is_ours(file: &Path) -> io::Result<()> {
    // A FIFO of that name would block until somebody writes to it.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(file);
    let Ok(opened) = opened else { return Ok(()) };
    match opened.try_lock_shared() {
        Err(TryLockError::WouldBlock) => {
            let why = format!(
                "`{}` is locked: it is the file of another dead letter, which needs another name, or somebody holds it",
                file.display()
            );
            Err(io::Error::new(io::ErrorKind::ResourceBusy, why))
        }
        // On a file system without locks nothing is known of others.
        _ => Ok(()),
    }
}

/// Syncs the directory of `path`: before that, a crash may undo a new name.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(directory(path))?.sync_all()
}

fn remove(file: &Path, removed: &Counter) -> io::Result<()> {
    let bytes = fs::metadata(file).map_or(0, |m| m.len());
    fs::remove_file(file)?;
    removed.inc();
    warn!(
        file = %file.display(),
        bytes,
        "the oldest dead letters were removed to keep to `max_files`; what was in them is lost"
    );
    Ok(())
}

/// The files that were set aside, with their numbers.
pub(super) fn all_aside(path: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return Ok(found) };
    for entry in fs::read_dir(directory(path))? {
        let entry = entry?;
        let number = entry.file_name().to_str().and_then(|other| {
            let digits = other.strip_prefix(name)?.strip_prefix('.')?;
            let number: u64 = digits.parse().ok()?;
            // Neither `+1` nor `01` is a name of ours, nor is a date, under which somebody else set a file aside.
            let ours = 1..=u64::from(MOST_DEAD_LETTER_FILES);
            (ours.contains(&number) && number.to_string() == digits).then_some(number)
        });
        found.extend(number.map(|number| (number, entry.path())));
    }
    Ok(found)
}

fn aside(path: &Path, number: u64) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

pub(super) fn directory(path: &Path) -> &Path {
    path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Place {
        directory: tempfile::TempDir,
        removed: Counter,
    }

    impl Place {
        fn with(files: &[&str]) -> Self {
            let directory = tempfile::tempdir().unwrap();
            for file in files {
                fs::write(directory.path().join(file), file).unwrap();
            }
            Self { directory, removed: Counter::default() }
        }

        fn rotate(&self, max_files: Option<u32>) -> Vec<(String, String)> {
            let rotation = Rotation { max_size: Some(1), max_files };
            set_aside(&self.directory.path().join("r"), rotation, &self.removed).unwrap();
            let mut files: Vec<_> = fs::read_dir(self.directory.path())
                .unwrap()
                .map(|e| e.unwrap())
                .map(|e| {
                    let text = fs::read_to_string(e.path()).unwrap();
                    (e.file_name().into_string().unwrap(), text)
                })
                .collect();
            files.sort();
            files
        }
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
    }

    #[test]
    fn what_somebody_writes_to_is_neither_moved_nor_removed() {
        for (name, max_files) in [("r.1", None), ("r.2", Some(2))] {
            let place = Place::with(&["r", "r.1", "r.2"]);
            let path = place.directory.path();
            let theirs = File::options().append(true).open(path.join(name)).unwrap();
            theirs.lock().unwrap();
            let rotation = Rotation { max_size: Some(1), max_files };
            let why = set_aside(&path.join("r"), rotation, &place.removed).unwrap_err().to_string();
            assert!(why.contains(&format!("{name}` is locked")), "{why}");
            assert_eq!((fs::read_dir(path).unwrap().count(), place.removed.get()), (3, 0));
            drop(theirs);
            set_aside(&path.join("r"), rotation, &place.removed).unwrap();
        }
    }

    #[test]
    fn the_newest_is_one_and_all_are_kept() {
        let place = Place::with(&["r", "r.1", "r.2", "r.01", "r.x", "other.1"]);
        let left = pairs(&[
            ("other.1", "other.1"),
            ("r.01", "r.01"),
            ("r.1", "r"),
            ("r.2", "r.1"),
            ("r.3", "r.2"),
            ("r.x", "r.x"),
        ]);
        assert_eq!((place.rotate(None), place.removed.get()), (left, 0));
    }

    #[test]
    fn a_gap_that_a_crash_left_is_closed_before_anything_is_removed() {
        let place = Place::with(&["r", "r.1", "r.3"]);
        let left = pairs(&[("r.1", "r"), ("r.2", "r.1"), ("r.3", "r.3")]);
        assert_eq!((place.rotate(Some(4)), place.removed.get()), (left, 0));
    }

    #[test]
    fn the_oldest_goes_and_is_counted() {
        let place = Place::with(&["r", "r.1", "r.2"]);
        let left = pairs(&[("r.1", "r"), ("r.2", "r.1")]);
        assert_eq!((place.rotate(Some(3)), place.removed.get()), (left, 1));
        // One that somebody else set aside, by its date.
        let place = Place::with(&["r", "r.1", "r.20261201"]);
        let left = pairs(&[("r.1", "r"), ("r.2", "r.1"), ("r.20261201", "r.20261201")]);
        assert_eq!((place.rotate(Some(3)), place.removed.get()), (left, 0));
        // A smaller `max_files` than yesterday's.
        let place = Place::with(&["r", "r.1", "r.2", "r.3", "r.7"]);
        assert_eq!((place.rotate(Some(2)), place.removed.get()), (pairs(&[("r.1", "r")]), 4));
    }
}
