//! The dead letters of the demo's bridge, read as they are written.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// The file, and how far it was read.
pub(super) struct Rejects {
    path: PathBuf,
    read: u64,
}

/// A dead letter.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reject {
    pub(super) topic: String,
    pub(super) payload: Vec<u8>,
    /// In words.
    pub(super) reason: String,
}

impl Rejects {
    /// Nothing was read yet.
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, read: 0 }
    }

    /// Those that were written since the last call. Before the first there is no file.
    pub(super) fn fresh(&mut self) -> Vec<Reject> {
        self.read().unwrap_or_default()
    }

    fn read(&mut self) -> io::Result<Vec<Reject>> {
        let mut file = File::open(&self.path)?;
        if file.metadata()?.len() <= self.read {
            return Ok(Vec::new());
        }
        file.seek(SeekFrom::Start(self.read))?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        // A line that is being written has no end yet.
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        self.read += whole as u64;
        Ok(text[..whole].split(|byte| *byte == b'\n').filter_map(parse).collect())
    }
}

fn parse(line: &[u8]) -> Option<Reject> {
    let record: Value = serde_json::from_slice(line).ok()?;
    let text = |name: &str| record[name].as_str().map(str::to_owned);
    let payload = match text("payload") {
        Some(payload) => payload.into_bytes(),
        None => STANDARD.decode(text("payload_base64")?).ok()?,
    };
    let detail = text("detail").filter(|detail| !detail.is_empty());
    Some(Reject { topic: text("topic")?, payload, reason: detail.or_else(|| text("reason"))? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn each_line_is_read_once_and_when_it_is_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rejects.jsonl");
        let mut rejects = Rejects::new(path.clone());
        assert_eq!(rejects.fresh(), []);
        let mut file = File::create(&path).unwrap();
        write!(file, "{{\"topic\":\"demo/a\",\"payload\":\"x\",\"reason\":\"decode\",\"det")
            .unwrap();
        assert_eq!(rejects.fresh(), []);
        let second = r#"{"topic":"demo/b","payload_base64":"/w==","reason":"decode","detail":""}"#;
        write!(file, "ail\":\"no JSON\"}}\n{second}\n").unwrap();
        let reject = |topic: &str, payload: &[u8], reason: &str| Reject {
            topic: topic.to_owned(),
            payload: payload.to_vec(),
            reason: reason.to_owned(),
        };
        let expected = [reject("demo/a", b"x", "no JSON"), reject("demo/b", &[0xff], "decode")];
        assert_eq!(rejects.fresh(), expected);
        assert_eq!(rejects.fresh(), []);
    }
}
