//! The lines of the files, read by a thread of its own.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};

use tokio::sync::mpsc;

use super::account::Place;
use crate::dead_letter::record::{self, Kept};

/// A longer line counts as unreadable, so that it is not held in memory. An event has at most 240,000 bytes, and the
/// largest message that may become smaller ones, of SQS, 1 MiB: a line has six for a byte that is escaped.
const MAX_LINE: u64 = 8 << 20;

/// Most lines read ahead.
const AHEAD: usize = 16;

/// A line, and its record.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) place: Place,
    /// With the line break.
    pub(super) bytes: u64,
    /// The record, or why it is none.
    pub(super) kept: Result<Kept, String>,
    /// The file could not be read any further.
    pub(super) is_fatal: bool,
}

/// Starts to read `files`, each to its present length: lines appended meanwhile are for the next replay. One whose length
/// is not known is read to its end.
/// Ends when the receiver is dropped.
pub(super) fn read(
    files: Vec<(File, Option<u64>)>,
    separator: impl Fn(&str) -> char + Send + 'static,
) -> mpsc::Receiver<Line> {
    let (sender, lines) = mpsc::channel(AHEAD);
    tokio::task::spawn_blocking(move || {
        for (file, (text, length)) in files.into_iter().enumerate() {
            let mut text = BufReader::with_capacity(1 << 16, text.take(length.unwrap_or(u64::MAX)));
            for line in 1.. {
                let place = Place { file, line };
                let (bytes, kept, is_fatal) = match next(&mut text, MAX_LINE) {
                    Ok((0, _)) => break,
                    Ok((bytes, Some(text))) => {
                        // Editors put one at the beginning of a file.
                        let bom = text.strip_prefix("\u{feff}".as_bytes()).filter(|_| line == 1);
                        (bytes, parsed(bom.unwrap_or(&text), &separator), false)
                    }
                    Ok((bytes, None)) => (
                        bytes,
                        Err(format!("the line has {bytes} bytes, at most {MAX_LINE} are read")),
                        false,
                    ),
                    Err(error) => (0, Err(error.to_string()), true),
                };
                let sent = sender.blocking_send(Line { place, bytes, kept, is_fatal });
                if sent.is_err() {
                    return;
                }
                if is_fatal {
                    break;
                }
            }
        }
    });
    lines
}

fn parsed(text: &[u8], separator: impl Fn(&str) -> char) -> Result<Kept, String> {
    let whole = text.strip_suffix(b"\n");
    record::parse(whole.unwrap_or(text), separator).map_err(|error| match whole {
        Some(_) => error.to_string(),
        None => format!("the line is cut off, or still being written: {error}"),
    })
}

/// The next line with its line break, and its length; no text if it is longer than `most`.
fn next(text: &mut impl BufRead, most: u64) -> io::Result<(u64, Option<Vec<u8>>)> {
    let mut line = Vec::new();
    let mut bytes = text.by_ref().take(most).read_until(b'\n', &mut line)? as u64;
    if bytes < most || line.ends_with(b"\n") {
        return Ok((bytes, Some(line)));
    }
    drop(line);
    loop {
        let rest = text.fill_buf()?;
        let end = rest.iter().position(|b| *b == b'\n').map(|at| at + 1);
        let taken = end.unwrap_or(rest.len());
        text.consume(taken);
        bytes += taken as u64;
        if end.is_some() || taken == 0 {
            return Ok((bytes, None));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_too_long_is_passed_and_its_neighbours_are_read() {
        let mut text: &[u8] = b"one\n0123456789abcdef\nthree\n0123456789abcdef";
        let mut found = Vec::new();
        loop {
            match next(&mut text, 8).unwrap() {
                (0, _) => break,
                (bytes, line) => found.push((bytes, line.map(|l| String::from_utf8(l).unwrap()))),
            }
        }
        let expected = [(4, Some("one\n")), (17, None), (6, Some("three\n")), (16, None)];
        assert_eq!(found, expected.map(|(b, l)| (b, l.map(str::to_owned))));
    }
}
