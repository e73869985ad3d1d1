//! Dead letters as JSON lines in a file, on disk before their messages are acknowledged.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::{Record, Target, WriteError};

/// A file of JSON lines; one record a line, mode 0600.
#[derive(Debug)]
pub struct FileTarget {
    path: PathBuf,
    /// `None` after a failure: opened again at the next write.
    file: Option<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    /// Bytes that are whole lines. A write that failed half-way is cut back to here.
    good: u64,
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
    /// Opens the file, making it and its directory if need be.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let open =
            Open::at(path).map_err(|why| OpenError { path: path.display().to_string(), why })?;
        Ok(Self { path: path.to_owned(), file: Some(open) })
    }
}

impl Target for FileTarget {
    async fn write(&mut self, records: &[Record]) -> Result<(), WriteError> {
        let mut text = Vec::new();
        for record in records {
            text.extend_from_slice(line(record).to_string().as_bytes());
            text.push(b'\n');
        }
        let (file, path) = (self.file.take(), self.path.clone());
        let written = tokio::task::spawn_blocking(move || {
            let mut open = match file.filter(|open| open.is_at(&path)) {
                Some(open) => open,
                None => Open::at(&path)?,
            };
            open.append(&text)?;
            Ok(open)
        });
        let fail = |why: String| WriteError(format!("`{}`: {why}", self.path.display()));
        let result: io::Result<Open> = written.await.map_err(|e| fail(e.to_string()))?;
        self.file = Some(result.map_err(|e| fail(e.to_string()))?);
        Ok(())
    }
}

impl Open {
    fn at(path: &Path) -> io::Result<Self> {
        if let Some(directory) = path.parent().filter(|d| !d.as_os_str().is_empty() && !d.exists())
        {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        }
        let mut file =
            OpenOptions::new().create(true).read(true).append(true).mode(0o600).open(path)?;
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
        if let Some(directory) = path.parent() {
            let directory =
                if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
            File::open(directory)?.sync_all()?;
        }
        Ok(Self { file, good })
    }

    /// Whether this still is the file at `path`. One that was moved away or deleted would go on
    /// confirming what nobody finds again.
    fn is_at(&self, path: &Path) -> bool {
        let same = |a: &fs::Metadata, b: &fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
        matches!((self.file.metadata(), fs::metadata(path)), (Ok(ours), Ok(there)) if same(&ours, &there))
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

/// What stands in the file for a record.
fn line(record: &Record) -> Value {
    let message = &record.message;
    let headers: Vec<Value> = message
        .headers
        .iter()
        .map(|(name, value)| {
            let mut header = Map::from_iter([("name".to_owned(), json!(name))]);
            put_bytes(&mut header, "value", value);
            Value::Object(header)
        })
        .collect();
    let coordinates: Map<String, Value> = message
        .coordinates
        .iter()
        .map(|(name, value)| ((*name).to_owned(), json!(value)))
        .collect();
    let mut line = Map::new();
    line.insert("at".into(), json!(humantime::format_rfc3339_millis(record.at).to_string()));
    line.insert("reason".into(), json!(record.reason));
    line.insert("detail".into(), json!(record.detail));
    line.insert("source".into(), json!(&*message.source));
    line.insert("route".into(), json!(record.route.as_deref()));
    line.insert("channel".into(), json!(record.channel));
    line.insert("topic".into(), json!(message.topic.as_str()));
    if let Some(key) = &message.key {
        put_bytes(&mut line, "key", key);
    }
    line.insert("headers".into(), Value::Array(headers));
    line.insert("coordinates".into(), Value::Object(coordinates));
    put_bytes(&mut line, "payload", &message.payload);
    Value::Object(line)
}

/// Bytes as text where they are text, else under `NAME_base64`.
fn put_bytes(object: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => object.insert(name.to_owned(), json!(text)),
        Err(_) => object.insert(format!("{name}_base64"), json!(STANDARD.encode(bytes))),
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Message, Topic};
    use bytes::Bytes;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Arc;
    use std::time::{Duration, UNIX_EPOCH};

    fn record(payload: &'static [u8]) -> Record {
        let message = Message {
            source: "plant".into(),
            topic: Topic::new("a/b", '/'),
            key: None,
            headers: vec![("h".into(), Bytes::from_static(b"v"))],
            payload: Bytes::from_static(payload),
            order: None,
            published: None,
            coordinates: vec![("qos", "1".into())],
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

    fn lines(path: &Path) -> Vec<Value> {
        let text = fs::read_to_string(path).unwrap();
        text.lines().map(|l| serde_json::from_str(l).unwrap_or(Value::Null)).collect()
    }

    #[tokio::test]
    async fn a_record_holds_all_that_came() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/rejects.jsonl");
        let mut target = FileTarget::open(&path).unwrap();
        target.write(&[record(b"{"), record(b"\xff")]).await.unwrap();
        target.write(&[record(b"3")]).await.unwrap();
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
        FileTarget::open(&path).unwrap().write(&[record(b"1")]).await.unwrap();
        let lines = lines(&path);
        assert_eq!((lines.len(), lines[1]["payload"].clone()), (2, json!("1")));
    }

    #[tokio::test]
    async fn a_file_that_was_moved_away_is_made_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rejects.jsonl");
        let mut target = FileTarget::open(&path).unwrap();
        target.write(&[record(b"1")]).await.unwrap();
        fs::rename(&path, directory.path().join("kept.jsonl")).unwrap();
        target.write(&[record(b"2")]).await.unwrap();
        assert_eq!(lines(&path)[0]["payload"], json!("2"));
    }

    #[tokio::test]
    async fn a_full_disk_fails_the_write() {
        // The kernel's own always-full device.
        let mut target = FileTarget { path: "/dev/full".into(), file: None };
        let file = OpenOptions::new().append(true).open("/dev/full").unwrap();
        target.file = Some(Open { file, good: 0 });
        let error = target.write(&[record(b"1")]).await.unwrap_err();
        assert!(error.to_string().contains("No space left"), "{error}");
    }

    #[test]
    fn a_place_that_can_not_be_written_says_so() {
        let error = FileTarget::open(Path::new("/proc/none/rejects.jsonl")).unwrap_err();
        assert!(error.to_string().contains("/proc/none/rejects.jsonl"), "{error}");
    }
}
