//! The program as somebody who is not root, whoever runs the tests.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use tempfile::TempDir;

use super::emulator::bridge;

/// Whether this is root, who can be anybody, and may read everything.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The program where anybody can run it: what was built may be in a folder that only root enters.
pub(crate) struct Unprivileged {
    user: u32,
    copy: Option<TempDir>,
}

impl Unprivileged {
    /// For this user, where root runs the tests; else for who does.
    pub(crate) fn new(user: u32) -> Self {
        let copy = is_root().then(|| {
            let directory = tempfile::tempdir().unwrap();
            fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
            let program = bridge();
            let mut strip = Command::new("strip");
            strip.arg("-o").arg(directory.path().join("program"));
            strip.arg(program.get_args().last().unwrap());
            assert!(strip.status().expect("`strip` cannot be run").success());
            directory
        });
        Self { user, copy }
    }

    /// A command of the program's.
    pub(crate) fn bridge(&self) -> Command {
        let Some(directory) = &self.copy else { return bridge() };
        let mut command = Command::new("setpriv");
        let (user, group) = (format!("--reuid={}", self.user), format!("--regid={}", self.user));
        command.args([&user, &group, "--clear-groups"]).arg(directory.path().join("program"));
        command.current_dir("/");
        command
    }
}
