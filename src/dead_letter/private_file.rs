//! A file that only its owner can read: created with that mode, opened without following a link, and checked
//! after opening, so that nothing can be put in its place in between.

use std::fs::{self, DirBuilder, File, FileType, Metadata, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{Access, OFlags};
use rustix::io::Errno;
use tracing::warn;

use super::rotation::{directory, sync_directory};

/// Mode of the file. Its directory is private to the owner, too, if it is created here.
const MODE: u32 = 0o600;

/// Types of file systems, from `linux/magic.h`.
const PROC: i64 = 0x9fa0;
const SYSFS: i64 = 0x6265_6572;
const CGROUP: i64 = 0x0027_e0eb;
const CGROUP2: i64 = 0x6367_7270;

/// The mode bits of the group and of others.
const OTHERS: u32 = 0o077;

/// Opens the file at `path` to read and append, and creates it and its directory if missing.
pub(super) fn open_or_make(path: &Path) -> io::Result<(File, Metadata)> {
    if let Some(directory) = path.parent() {
        make_directory(directory).map_err(|error| explained(path, error))?;
    }
    open(path, OpenOptions::new().create(true).read(true).append(true).mode(MODE))
}

/// Opens the file at `path` to read and append; `None` if there is none.
pub(super) fn open_if_there(path: &Path) -> io::Result<Option<(File, Metadata)>> {
    match open(path, OpenOptions::new().read(true).append(true)) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        opened => opened.map(Some),
    }
}

/// Whether what the directory of the file at `path` has to let this user do may be done: it is synced when the file is new,
/// and one that is full gets another name there.
pub(super) fn look_at_directory(path: &Path, is_rotated: bool) -> io::Result<()> {
    let (writing, needed) = if is_rotated {
        (Access::WRITE_OK, "read and writable, for `max_size` renames the file")
    } else {
        (Access::empty(), "readable")
    };
    let place = directory(path);
    let looked = rustix::fs::access(place, Access::READ_OK | Access::EXEC_OK | writing);
    looked.map_err(|error| {
        let why = format!(
            "its directory `{}` has to be {needed} for this user ({error}): change its mode, or name another file",
            place.display()
        );
        io::Error::new(io::Error::from(error).kind(), why)
    })
}

/// Whether the file at `path` could be opened or created, as far as can be told without a change.
pub(super) fn look(path: &Path, is_rotated: bool) -> io::Result<()> {
    let access = |path: &Path, access| rustix::fs::access(path, access).map_err(io::Error::from);
    let looked = match fs::symlink_metadata(path) {
        Ok(facts) => match refusal(&facts) {
            Some(refusal) => Err(refusal),
            None => access(path, Access::READ_OK | Access::WRITE_OK)
                .and_then(|()| look_at_directory(path, is_rotated && facts.is_file())),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let mut there = directory(path);
            while let Some(parent) = there.parent().filter(|_| !there.exists()) {
                there = parent;
            }
            let there = if there.as_os_str().is_empty() { Path::new(".") } else { there };
            // Read permission is needed to sync the directory, which holds the file's name.
            access(there, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK)
                .and_then(|()| of_the_kernel(there))
        }
        Err(error) => Err(error),
    };
    looked.map_err(|error| explained(path, error))
}

/// The error of creating a file in one of the kernel's own file systems, whatever its directory's mode.
fn of_the_kernel(directory: &Path) -> io::Result<()> {
    match rustix::fs::statfs(directory)?.f_type {
        PROC => Err(Errno::NOENT.into()),
        SYSFS | CGROUP | CGROUP2 => Err(Errno::ACCESS.into()),
        _ => Ok(()),
    }
}

/// Makes a rotated file private; logs a warning if that fails.
pub(super) fn close_to_others(path: &Path) {
    if let Err(why) = open(path, OpenOptions::new().read(true)) {
        warn!(file = %path.display(), %why, "these dead letters can't be made private; other users may be able to read them");
    }
}

/// Whether a file is private: owned by this user, without another hard link, closed to others.
pub(super) fn is_private(facts: &Metadata) -> bool {
    is_ours(facts) && facts.nlink() == 1 && is_closed(facts)
}

/// An error of the system with its remedy, where one is known.
pub(super) fn explained(path: &Path, error: io::Error) -> io::Error {
    if error.raw_os_error().is_none() {
        return error;
    }
    let there = fs::symlink_metadata(path);
    if let Some(strange) = there.as_ref().ok().and_then(|facts| strange(facts.file_type())) {
        return no_file(error.kind(), strange);
    }
    let hint = match (error.kind(), error.raw_os_error().map(Errno::from_raw_os_error)) {
        (ErrorKind::PermissionDenied, _) if there.is_ok() => {
            "let this user read and write it, or name another file"
        }
        (ErrorKind::PermissionDenied | ErrorKind::NotFound, _) => {
            "make its directory writable, or name another file"
        }
        (ErrorKind::ReadOnlyFilesystem, _) => "its file system is read-only: name another file",
        (ErrorKind::NotADirectory, _) => "a part of its path is no directory: name another file",
        (ErrorKind::StorageFull | ErrorKind::QuotaExceeded, _) => "make room for it",
        (_, Some(Errno::MFILE)) => {
            "this process may open no more files: raise `LimitNOFILE` of its unit, or `ulimit -n`"
        }
        (_, Some(Errno::NFILE)) => "this system opens no more files: raise `fs.file-max`",
        _ => return error,
    };
    io::Error::new(error.kind(), format!("{error}; {hint}"))
}

fn open(path: &Path, options: &mut OpenOptions) -> io::Result<(File, Metadata)> {
    // A FIFO would block until somebody is at its other end.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = options
        .custom_flags(flags.bits().cast_signed())
        .open(path)
        .map_err(|error| explained(path, error))?;
    let facts = made_private(path, &file)?;
    Ok((file, facts))
}

/// Makes an open file private, or says why it can't be.
fn made_private(path: &Path, file: &File) -> io::Result<Metadata> {
    let facts = file.metadata()?;
    if let Some(refusal) = refusal(&facts) {
        return Err(refusal);
    }
    if !facts.is_file() || is_closed(&facts) {
        return Ok(facts);
    }
    let was = facts.mode() & 0o7777;
    let changed = file.set_permissions(Permissions::from_mode(MODE));
    let facts = file.metadata()?;
    if !is_closed(&facts) {
        let why = changed.err().map_or_else(String::new, |error| format!(": {error}"));
        return Err(denied(format!(
            "others can read it (mode {was:04o}), and that can't be changed{why}; name a file of a file system that keeps modes"
        )));
    }
    warn!(
        file = %path.display(),
        mode = format!("{was:04o}"),
        "others could read this file of dead letters, or write to it; now only its owner can (mode 0600)"
    );
    Ok(facts)
}

/// Why a file can't be made private, whatever is done to its mode.
fn refusal(facts: &Metadata) -> Option<io::Error> {
    if let Some(strange) = strange(facts.file_type()) {
        return Some(no_file(ErrorKind::InvalidInput, strange));
    }
    // `/dev/full` says of each write that it keeps nothing; others keep nothing and say nothing.
    if !facts.is_file() {
        let is_full = rustix::fs::major(facts.rdev()) == 1 && rustix::fs::minor(facts.rdev()) == 7;
        let why = || no_file(ErrorKind::InvalidInput, "a device, which keeps nothing");
        return (!is_full).then(why);
    }
    if !is_ours(facts) {
        let (owner, us) = (facts.uid(), rustix::process::geteuid());
        return Some(denied(format!(
            "it belongs to user {owner}, who can read it, and this is user {us}: `chown` it, or move it away"
        )));
    }
    let others = facts.nlink().saturating_sub(1);
    let s = if others == 1 { "" } else { "s" };
    (others > 0).then(|| {
        denied(format!("it has {others} more name{s} (hard links): remove them, or move it away"))
    })
}

fn is_ours(facts: &Metadata) -> bool {
    facts.uid() == rustix::process::geteuid().as_raw()
}

fn is_closed(facts: &Metadata) -> bool {
    facts.mode() & OTHERS == 0
}

/// What it is that keeps no lines for later.
fn strange(kind: FileType) -> Option<&'static str> {
    if kind.is_symlink() {
        Some("a symbolic link, and none is followed")
    } else if kind.is_dir() {
        Some("a directory")
    } else if kind.is_fifo() {
        Some("a FIFO")
    } else if kind.is_socket() {
        Some("a socket")
    } else if kind.is_block_device() {
        Some("a block device")
    } else {
        None
    }
}

fn denied(why: String) -> io::Error {
    io::Error::new(ErrorKind::PermissionDenied, why)
}

fn no_file(kind: ErrorKind, what: &str) -> io::Error {
    io::Error::new(kind, format!("it is {what}: remove it, or name another file"))
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
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => sync_directory(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn whatever_is_open_to_others_is_closed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/r");
        for loose in [0o644, 0o640, 0o666, 0o602, 0o4755] {
            drop(open_or_make(&path).unwrap());
            assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
            fs::set_permissions(&path, Permissions::from_mode(loose)).unwrap();
            assert!(!is_private(&fs::metadata(&path).unwrap()), "{loose:o}");
            let (_, facts) = open_or_make(&path).unwrap();
            assert!(is_private(&facts) && mode(&path) == 0o600, "{loose:o}");
            fs::set_permissions(&path, Permissions::from_mode(loose)).unwrap();
            assert!(open_if_there(&path).unwrap().is_some() && mode(&path) == 0o600);
            fs::set_permissions(&path, Permissions::from_mode(loose)).unwrap();
            close_to_others(&path);
            assert_eq!(mode(&path), 0o600);
        }
    }

    #[test]
    fn what_is_no_file_or_has_another_name_is_refused_and_left_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("target"), "theirs").unwrap();
        fs::set_permissions(at("target"), Permissions::from_mode(0o644)).unwrap();
        symlink(at("target"), at("link")).unwrap();
        symlink(at("nothing"), at("dangling")).unwrap();
        fs::create_dir(at("directory")).unwrap();
        let fifo = std::process::Command::new("mkfifo").arg(at("fifo")).status();
        assert!(fifo.unwrap().success());
        let _socket = UnixListener::bind(at("socket")).unwrap();
        fs::write(at("first"), "").unwrap();
        fs::hard_link(at("first"), at("second")).unwrap();
        for (name, what) in [
            ("link", "it is a symbolic link, and none is followed"),
            ("dangling", "it is a symbolic link"),
            ("directory", "it is a directory"),
            ("fifo", "it is a FIFO"),
            ("socket", "it is a socket"),
            ("second", "it has 1 more name (hard links)"),
        ] {
            let made = open_or_make(&at(name)).unwrap_err().to_string();
            let found = open_if_there(&at(name)).unwrap_err().to_string();
            assert!(made.contains(what) && found == made, "{name}: {made} / {found}");
            assert_eq!(look(&at(name), false).unwrap_err().to_string(), made);
        }
        assert_eq!((mode(&at("target")), at("nothing").exists()), (0o644, false));
        assert_eq!(fs::read_to_string(at("target")).unwrap(), "theirs");
    }

    #[test]
    fn a_look_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("loose"), "").unwrap();
        fs::set_permissions(at("loose"), Permissions::from_mode(0o644)).unwrap();
        for good in [at("loose"), at("none"), at("deep/er/none"), "/dev/full".into(), "none".into()]
        {
            assert!(look(&good, false).is_ok(), "{}", good.display());
        }
        assert_eq!(mode(&at("loose")), 0o644);
        let error = look(Path::new("/proc/none/r"), false).map_err(|error| error.to_string());
        // Root may write anything that its file system lets be written.
        assert!(rustix::process::geteuid().is_root() || error.unwrap_err().contains("make its"));
        let error = look(&at("loose/r"), false).unwrap_err().to_string();
        assert!(error.contains("a part of its path is no directory"), "{error}");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_hint_is_for_its_error() {
        let directory = tempfile::tempdir().unwrap();
        let (none, some) = (directory.path().join("none"), directory.path().join("some"));
        fs::write(&some, "").unwrap();
        for (path, code, hint) in [
            (&none, Errno::ACCESS, "make its directory writable"),
            (&some, Errno::ACCESS, "let this user read and write it"),
            (&some, Errno::MFILE, "this process may open no more files: raise `LimitNOFILE`"),
            (&some, Errno::NFILE, "this system opens no more files: raise `fs.file-max`"),
            (&some, Errno::ROFS, "its file system is read-only"),
            (&some, Errno::NOSPC, "make room for it"),
            (&some, Errno::IO, ""),
        ] {
            let error = explained(path, code.into()).to_string();
            let said = error.split_once("; ").map_or("", |(_, hint)| hint);
            assert!(said.starts_with(hint) && said.is_empty() == hint.is_empty(), "{error}");
        }
    }

    /// What is said is what happens, and nothing is made by saying it.
    #[test]
    fn looking_says_what_opening_would() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("file"), "").unwrap();
        fs::create_dir(at("directory")).unwrap();
        symlink(at("file"), at("link")).unwrap();
        let ours = ["new", "a/b/new", "directory", "file/new", "file", "link"].map(at);
        let kernels = ["/proc/none/new", "/sys/new", "/dev/full", "/dev/null/new"].map(Into::into);
        for path in ours.into_iter().chain(kernels) {
            let there = || (path.exists(), path.parent().is_some_and(Path::exists));
            let before = there();
            let looked = look(&path, false);
            assert_eq!(there(), before, "looking makes nothing");
            let opened = open_or_make(&path);
            // The exit code is by this.
            let denied = |error: io::Error| error.kind() == ErrorKind::PermissionDenied;
            let (looked, opened) = (looked.err().map(denied), opened.err().map(denied));
            assert_eq!(looked, opened, "{}", path.display());
        }
    }
}
