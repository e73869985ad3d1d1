//! Dead letters as JSON lines in a file, on disk before their messages are acknowledged.

use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;

use super::record::line;
use super::rotation::{set_aside, sync_directory};
use super::{Record, Target, WriteError};
use crate::config::Rotation;

/// A file of JSON lines; one record a line, mode 0600. When it is full it is set aside.
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
    /// Bytes that are whole lines. A write that failed half-way is cut back to here.
    good: u64,
    /// Device and inode.
    identity: (u64, u64),
    /// Not a device, which can't be set aside.
    is_regular: bool,
}

/// Why the file can't be used.
#[derive(Debug, thiserror::Error)]
#[error("the dead-letter file `{path}` can't be written: {why}")]
pub struct OpenError {
    /// As configured.
    pub path: String,
    /// What went wrong.
    pub why: io::Error,
}

impl FileTarget {
    /// Opens the file, making it and its directory if need be. Files that `rotation` removes are
    /// counted in `removed`.
    pub fn open(path: &Path, rotation: Rotation, removed: Counter) -> Result<Self, OpenError> {
        let open =
            Open::at(path).map_err(|why| OpenError { path: path.display().to_string(), why })?;
        let place = Place { path: path.to_owned(), rotation, removed };
        Ok(Self { place: Arc::new(place), file: Some(open) })
    }

    /// A file that is made with the first record, and grows without end.
    pub fn when_needed(path: PathBuf) -> Self {
        let place = Place { path, rotation: Rotation::default(), removed: Counter::default() };
        Self { place: Arc::new(place), file: None }
    }
}

impl Target for FileTarget {
    async fn write(&mut self, records: &[Record]) -> Result<(), WriteError> {
        let lines: Vec<Vec<u8>> = records
            .iter()
            .map(|record| {
                let mut text = line(record).to_string().into_bytes();
                text.push(b'\n');
                text
            })
            .collect();
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
        result.map_err(|e| fail(kept, e.to_string()))?;
        self.file = file;
        Ok(())
    }
}

impl Place {
    /// Appends `lines`, setting the file aside where it is full; `kept` counts those on disk.
    fn append(
        &self,
        file: &mut Option<Open>,
        lines: &[Vec<u8>],
        kept: &mut usize,
    ) -> io::Result<()> {
        while *kept < lines.len() {
            // Somebody may have moved it away, to replay it; what goes there now would not be found.
            let open = match file.take().filter(|open| open.is_at(&self.path)) {
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
            // What is larger than a file may be gets one of its own.
            count = count.max(1);
            open.append(&lines[*kept..*kept + count].concat())?;
            *kept += count;
        }
        Ok(())
    }
}

/// How many of the first lines have room.
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
        if let Some(directory) = path.parent() {
            make_directory(directory)?;
        }
        let mut file =
            OpenOptions::new().create(true).read(true).append(true).mode(0o600).open(path)?;
        lock(&file)?;
        let mut good = file.seek(SeekFrom::End(0))?;
        if good > 0 {
            let mut last = [0];
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                // A line that a crash cut off was never confirmed; the next one starts afresh.
                file.write_all(b"\n")?;
                good += 1;
            }
        }
        // The name of a new file is on disk only when its directory is.
        sync_directory(path)?;
        let facts = file.metadata()?;
        Ok(Self { file, good, identity: identity(&facts), is_regular: facts.is_file() })
    }

    /// Whether this is still the file of that name.
    fn is_at(&self, path: &Path) -> bool {
        fs::metadata(path).is_ok_and(|facts| identity(&facts) == self.identity)
    }

    fn append(&mut self, text: &[u8]) -> io::Result<()> {
        let result = self.file.write_all(text).and_then(|()| self.file.sync_data());
        match result {
            Ok(()) => {
                self.good += text.len() as u64;
                Ok(())
            }
            Err(error) => {
                // Best effort: what stays is a broken line, which `at` ends with a line break.
                let _ = self.file.set_len(self.good);
                Err(error)
            }
        }
    }
}

/// Makes a directory and those it is in, each on disk before the next: what is in them would be lost
/// with their names.
fn make_directory(path: &Path) -> io::Result<()> {
    if path.as_os_str().is_empty() || path.exists() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        make_directory(parent)?;
    }
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => sync_directory(path),
    }
}

/// One writer at a time: a second one, cutting back a write that failed, would cut away what the
/// first has confirmed. The lock ends with the handle, and so with the process.
fn lock(file: &File) -> io::Result<()> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            let why = "another process writes to it; give each its own file";
            Err(io::Error::new(io::ErrorKind::ResourceBusy, why))
        }
        // A file system without locks is no reason to keep nothing.
        Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn identity(facts: &Metadata) -> (u64, u64) {
    (facts.dev(), facts.ino())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Coordinates, Message, Topic};
    use bytes::Bytes;
    use proptest::prelude::*;
    use serde_json::{Value, json};
    use std::os::unix::fs::PermissionsExt;
    use std::time::{Duration, UNIX_EPOCH};

    fn record(payload: impl Into<Bytes>) -> Record {
        let message = Message {
            source: "plant".into(),
            topic: Topic::new("a/b", '/'),
            key: None,
            headers: vec![("h".into(), Bytes::from_static(b"v"))],
            payload: payload.into(),
            order: Some(b"a/b"[..].into()),
            published: None,
            coordinates: Coordinates::Named(vec![("qos".into(), "1".into())]),
        };
        Record {
            message: Arc::new(message),
            route: Some("telemetry".into()),
            channel: None,
            reason: "invalid_json",
            detail: "not JSON".into(),
            at: UNIX_EPOCH + Duration::from_millis(1_795_343_476_123),
        }
    }

    fn open(path: &Path, rotation: Rotation) -> FileTarget {
        FileTarget::open(path, rotation, Counter::default()).unwrap()
    }

    fn lines(path: &Path) -> Vec<Value> {
        let text = fs::read_to_string(path).unwrap();
        text.lines().map(|l| serde_json::from_str(l).unwrap_or(Value::Null)).collect()
    }

    #[tokio::test]
    async fn a_record_holds_all_that_came() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/rejects.jsonl");
        let mut target = open(&path, Rotation::default());
        target.write(&[record(&b"{"[..]), record(&b"\xff"[..])]).await.unwrap();
        target.write(&[record(&b"3"[..])]).await.unwrap();
        let lines = lines(&path);
        assert_eq!(lines.len(), 3);
        assert_eq!(
            lines[0],
            json!({
                "at": "2026-11-22T10:31:16.123Z", "reason": "invalid_json", "detail": "not JSON",
                "source": "plant", "route": "telemetry", "channel": null, "topic": "a/b",
                "headers": [{ "name": "h", "value": "v" }], "coordinates": { "qos": "1" }, "payload": "{"
            })
        );
        assert_eq!(lines[1]["payload_base64"], json!("/w=="));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(
            fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777,
            0o700
        );
    }

    #[tokio::test]
    async fn a_line_that_a_crash_cut_off_spoils_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rejects.jsonl");
        fs::write(&path, "{\"at\":\"20").unwrap();
        open(&path, Rotation::default()).write(&[record(&b"1"[..])]).await.unwrap();
        let lines = lines(&path);
        assert_eq!((lines.len(), lines[1]["payload"].clone()), (2, json!("1")));
    }

    #[test]
    fn a_second_writer_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rejects.jsonl");
        let open = || FileTarget::open(&path, Rotation::default(), Counter::default());
        let first = open().unwrap();
        assert!(open().unwrap_err().to_string().contains("another process writes to it"));
        drop(first);
        assert!(open().is_ok());
    }

    #[tokio::test]
    async fn a_full_disk_fails_the_write() {
        // The kernel's own always-full device.
        let rotation = Rotation { max_size: Some(1), max_files: Some(2) };
        let mut target = open(Path::new("/dev/full"), rotation);
        let error = target.write(&[record(&b"1"[..])]).await.unwrap_err();
        assert!(error.to_string().contains("No space left") && error.kept == 0, "{error}");
    }

    #[test]
    fn a_place_that_can_not_be_written_says_so() {
        let error = FileTarget::open(
            Path::new("/proc/none/rejects.jsonl"),
            Rotation::default(),
            Counter::default(),
        )
        .unwrap_err();
        assert!(error.to_string().contains("/proc/none/rejects.jsonl"), "{error}");
    }

    #[tokio::test]
    async fn a_file_that_was_moved_away_gets_nothing_more() {
        let directory = tempfile::tempdir().unwrap();
        let (path, moved) = (directory.path().join("r"), directory.path().join("todo"));
        let mut target = open(&path, Rotation::default());
        target.write(&[record("1")]).await.unwrap();
        fs::rename(&path, &moved).unwrap();
        target.write(&[record("2")]).await.unwrap();
        fs::remove_file(&path).unwrap();
        target.write(&[record("3")]).await.unwrap();
        assert_eq!((lines(&moved).len(), lines(&path)[0]["payload"].clone()), (1, json!("3")));
    }

    #[tokio::test]
    async fn what_was_kept_before_a_failure_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("r");
        let one = line(&record("1")).to_string().len() as u64 + 1;
        let mut target = open(&path, Rotation { max_size: Some(one * 2), max_files: Some(2) });
        // A directory in the place of the oldest can't be removed.
        fs::create_dir(directory.path().join("r.1")).unwrap();
        let records = ["1", "2", "3"].map(record);
        let error = target.write(&records).await.unwrap_err();
        assert_eq!(error.kept, 2, "{error}");
        fs::remove_dir(directory.path().join("r.1")).unwrap();
        target.write(&records[error.kept..]).await.unwrap();
        let payloads = |file: &str| -> Vec<Value> {
            lines(&directory.path().join(file)).iter().map(|l| l["payload"].clone()).collect()
        };
        assert_eq!(
            (payloads("r.1"), payloads("r")),
            (vec![json!("1"), json!("2")], vec![json!("3")])
        );
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    /// Every line of the file and of those set aside, the oldest first, and the size of each file.
    fn everything(path: &Path) -> (Vec<Value>, Vec<(u64, usize)>) {
        let (mut all, mut sizes) = (Vec::new(), Vec::new());
        let name = |n: usize| PathBuf::from(format!("{}.{n}", path.display()));
        let aside = (1..1_000).take_while(|n| name(*n).exists()).count();
        for file in (1..=aside).rev().map(name).chain([path.to_owned()]) {
            let found = lines(&file);
            sizes.push((fs::metadata(&file).unwrap().len(), found.len()));
            all.extend(found);
        }
        (all, sizes)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        // Random sizes, batches and limits, with a stop and a start here and there.
        #[test]
        fn no_confirmed_line_is_lost_or_broken(
            batches in proptest::collection::vec(
                (proptest::collection::vec(0..2_000_usize, 1..6), any::<bool>()), 1..8),
            max_size in 300..3_000_u64,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("r");
            let rotation = Rotation { max_size: Some(max_size), max_files: None };
            let mut target = Some(open(&path, rotation));
            let mut written = Vec::new();
            for (sizes, again) in batches {
                let payload = |size: usize| format!("{}:{}", written.len(), "x".repeat(size));
                let payloads: Vec<String> = sizes.into_iter().map(payload).collect();
                let records: Vec<Record> = payloads.iter().cloned().map(record).collect();
                runtime.block_on(target.as_mut().unwrap().write(&records)).unwrap();
                written.extend(payloads.into_iter().map(Value::String));
                if again {
                    drop(target.take());
                    target = Some(open(&path, rotation));
                }
            }
            let (found, sizes) = everything(&path);
            let found: Vec<Value> = found.iter().map(|l| l["payload"].clone()).collect();
            prop_assert_eq!(found, written);
            prop_assert!(sizes.iter().all(|(size, lines)| *size <= max_size || *lines == 1));
        }
    }
}
