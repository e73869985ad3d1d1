//! Exit codes, for the shell and systemd.

use std::io::{self, ErrorKind};
use std::process::ExitCode;

use crate::bridge::BuildError;
use crate::config::Problems;

/// Failed while running, or the drain was not clean.
pub const FAILED: u8 = 1;
/// A wrong command line.
pub const USAGE: u8 = 2;
/// Permissions (`EX_NOPERM` of `sysexits.h`).
pub const PERMISSIONS: u8 = 77;
/// Configuration (`EX_CONFIG` of `sysexits.h`).
pub const CONFIGURATION: u8 = 78;
/// Aborted by a second signal.
pub const ABORTED: u8 = 130;

/// The code for a configuration with these problems.
pub(super) fn of_problems(problems: &Problems) -> ExitCode {
    ExitCode::from(if problems.is_forbidden() { PERMISSIONS } else { CONFIGURATION })
}

/// The code for what failed while it ran, or before.
pub(super) fn of_error(error: &anyhow::Error) -> u8 {
    let causes = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    let denied = causes.map(io::Error::kind).any(|kind| kind == ErrorKind::PermissionDenied);
    if denied { PERMISSIONS } else { FAILED }
}

/// The code for a bridge that could not be built for these reasons: a mistake of the file, which no other try mends, counts
/// before a lack of permission, and that before what may pass by itself.
pub(super) fn of_bridge<'a>(all: impl IntoIterator<Item = &'a BuildError>) -> u8 {
    let code = |why: &BuildError| {
        let kind = match why {
            BuildError::DeadLetter { why, .. } => why.why.kind(),
            BuildError::Admin { why, .. } => why.kind(),
            _ => return CONFIGURATION,
        };
        match (kind, why) {
            (ErrorKind::PermissionDenied, _) => PERMISSIONS,
            (ErrorKind::ResourceBusy | ErrorKind::StorageFull | ErrorKind::QuotaExceeded, _)
            | (_, BuildError::Admin { .. }) => FAILED,
            _ => CONFIGURATION,
        }
    };
    all.into_iter().map(code).max().unwrap_or(CONFIGURATION)
}
