//! Standard output, for every command: what can't be written there is a failure, unless its reader has enough.

use std::fmt::Display;
use std::io::{self, BufWriter, ErrorKind, Write};
use std::process::ExitCode;

use super::failed;
use crate::redact::{self, Clean};

/// Prints lines with their secrets masked. What can't be written is said; the exit code.
pub(super) fn print(text: &dyn Display) -> Result<(), ExitCode> {
    // In one piece, so that a reader that ends early sees whole lines.
    let mut out = redact::stdout();
    written(out.write_all(format!("{text}\n").as_bytes()).and_then(|()| out.flush()))
}

/// Prints what no secret can be in, or what is asked for as it is.
pub(super) fn print_as_is(text: &[u8]) -> Result<(), ExitCode> {
    let mut out = io::stdout().lock();
    written(out.write_all(text).and_then(|()| out.flush()))
}

/// Prints the last lines of a command that ends with `code`, which stays if it is that of a failure already.
pub(super) fn print_last(text: &dyn Display, code: ExitCode) -> ExitCode {
    match print(text) {
        Err(failed) if code == ExitCode::SUCCESS => failed,
        _ => code,
    }
}

/// The exit code of a command that can't print any more.
pub(super) fn end_of(why: io::Error) -> ExitCode {
    written(Err(why)).err().unwrap_or(ExitCode::SUCCESS)
}

fn written(written: io::Result<()>) -> Result<(), ExitCode> {
    match written {
        Ok(()) => Ok(()),
        // Whoever read it has enough.
        Err(why) if why.kind() == ErrorKind::BrokenPipe => Ok(()),
        Err(why) => Err(failed(&anyhow::Error::new(why).context("can't write to standard output"))),
    }
}

/// Many lines, with their secrets masked: after one that can't be written there are no more.
pub(super) struct Lines {
    out: BufWriter<Clean<io::Stdout>>,
    state: io::Result<()>,
}

impl Lines {
    pub(super) fn new() -> Self {
        Self { out: BufWriter::new(redact::stdout()), state: Ok(()) }
    }

    /// Prints one, or nothing.
    pub(super) fn line(&mut self, text: &str) {
        if self.state.is_ok() {
            self.state = writeln!(self.out, "{text}");
        }
    }

    /// To be called at the end, for what is not written until then. What could not be written is said; the exit code.
    pub(super) fn finish(mut self) -> Result<(), ExitCode> {
        let state = std::mem::replace(&mut self.state, Ok(()));
        written(state.and_then(|()| self.out.flush()))
    }
}
