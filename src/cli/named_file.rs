//! Files that a command line names: what is wrong with one, and the exit code that says so.

use std::fmt::{self, Display};
use std::io::ErrorKind;
use std::path::Path;
use std::process::ExitCode;

use super::{complain, exit};
use crate::config::Secret;
use crate::files::regular;

/// Largest file of a key or a token.
const MAX_SECRET_BYTES: u64 = 64 * 1024;

/// Largest file of certificates.
const MAX_PEM_BYTES: u64 = crate::outbound::tls::MAX_BYTES;

/// What a command line says and can't be done.
#[derive(Debug)]
pub(super) struct Refused {
    why: String,
    code: u8,
}

impl Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl Refused {
    /// Prints why; the exit code.
    pub(super) fn report(&self) -> ExitCode {
        complain(&self.why);
        ExitCode::from(self.code)
    }
}

impl<T: Into<String>> From<T> for Refused {
    fn from(why: T) -> Self {
        Self { why: why.into(), code: exit::USAGE }
    }
}

/// The secret that the file of `flag` holds, and follows.
pub(super) fn secret(flag: &str, path: &Path) -> Result<Secret, Refused> {
    let bytes = read(flag, path, MAX_SECRET_BYTES)?;
    let named = |why| named(flag, path, &why);
    let text = String::from_utf8(bytes).map_err(|_| named("is not UTF-8"))?;
    let text = text.trim_end_matches(['\r', '\n']);
    if text.is_empty() {
        return Err(named("is empty").into());
    }
    Ok(Secret::of_file(text, path))
}

/// Whether the certificates of `flag` may be read.
pub(super) fn certificates(flag: &str, path: &Path) -> Result<(), Refused> {
    read(flag, path, MAX_PEM_BYTES).map(drop)
}

fn read(flag: &str, path: &Path, most: u64) -> Result<Vec<u8>, Refused> {
    let read = regular::read(path, most).map_err(|why| match why.kind() {
        Some(ErrorKind::PermissionDenied) => Refused {
            why: named(flag, path, &format_args!("{why}; let this user read it")),
            code: exit::PERMISSIONS,
        },
        _ => named(flag, path, &why).into(),
    })?;
    Ok(read.bytes)
}

fn named(flag: &str, path: &Path, why: &dyn Display) -> String {
    format!("`{flag}`: `{}` {why}", path.display())
}
