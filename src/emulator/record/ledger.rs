//! The ledger: a file with one JSON line for each answered event, for tests to compare with the events
//! they sent.
//!
//! The lines of a request are appended with one write, before the request is answered. Nothing is
//! buffered in this process, so the lines survive a kill of the emulator; they are not synced, so they
//! may be lost in a crash of the machine.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;

use parking_lot::Mutex;
use serde::Serialize;

/// An open ledger.
pub(crate) struct Ledger(Mutex<File>);

/// One event of an answered publish request. A request that was refused as a whole has no lines.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct LedgerLine<'a> {
    /// Unix time in milliseconds.
    pub(crate) at: u64,
    /// `x-amzn-RequestId` of the answer over HTTP, the frame's `id` over WebSocket.
    pub(crate) request: &'a str,
    /// `http` or `ws`.
    pub(crate) transport: &'a str,
    /// Normalised: with its leading slash.
    pub(crate) channel: &'a str,
    /// The position in the request.
    pub(crate) index: usize,
    /// As in the answer.
    pub(crate) identifier: &'a str,
    /// The JSON text of the event.
    pub(crate) event: &'a str,
    /// `accepted` or `failed`.
    pub(crate) outcome: &'a str,
    /// As in the answer, for a failed event.
    pub(crate) code: Option<&'a str>,
}

impl Ledger {
    /// Opens `path` for appending, and creates it if it does not exist.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self(Mutex::new(file)))
    }

    /// Appends all lines of one request. The write goes to the page cache and takes microseconds,
    /// less than handing it to another thread would.
    pub(crate) fn append<'a>(
        &self,
        lines: impl IntoIterator<Item = LedgerLine<'a>>,
    ) -> io::Result<()> {
        let mut text = Vec::with_capacity(1024);
        for line in lines {
            serde_json::to_writer(&mut text, &line)?;
            text.push(b'\n');
        }
        let mut file = self.0.lock();
        file.write_all(&text)?;
        file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_appended_and_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger.jsonl");
        let line = LedgerLine {
            at: 1,
            request: "r",
            transport: "http",
            channel: "/a/b",
            index: 0,
            identifier: "i",
            event: "{\"a\":\"\u{fc}\\n\"}",
            outcome: "accepted",
            code: None,
        };
        for _ in 0..2 {
            let ledger = Ledger::open(&path).unwrap();
            ledger.append([line.clone(), line.clone()]).unwrap();
        }
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 4);
        for read in text.lines() {
            let read: serde_json::Value = serde_json::from_str(read).unwrap();
            assert_eq!(read, serde_json::to_value(&line).unwrap());
        }
    }
}
