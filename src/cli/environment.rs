//! Empty variables, as from `NAME=` in a unit or a container's settings: they count as not set, for every
//! library that reads them.

use std::ffi::OsStr;
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;

/// Those of TLS's CAs and of proxies; those of AWS begin with [`AWS`].
const NAMES: [&str; 6] =
    ["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"];

const AWS: &str = "AWS_";

/// Executes this program anew without them, if there are any: once there are threads, a process can't unset a
/// variable. To be called first; returns if there are none.
pub fn forget_empty() {
    let empty: Vec<_> =
        std::env::vars_os().filter(|(name, value)| is_blank(value) && counts(name)).collect();
    if empty.is_empty() {
        return;
    }
    let names = empty.iter().map(|(name, _)| name.as_os_str());
    let Err(error) = again_without(names);
    let names: Vec<_> = empty.iter().map(|(name, _)| name.to_string_lossy()).collect();
    let (stderr, names) = (&mut io::stderr(), names.join("`, `"));
    let _ = writeln!(stderr, "warning: `{names}` can't be taken as not set ({error}); unset them");
}

fn again_without<'a>(
    names: impl Iterator<Item = &'a OsStr>,
) -> io::Result<std::convert::Infallible> {
    let mut command = std::process::Command::new(std::env::current_exe()?);
    let mut args = std::env::args_os();
    command.arg0(args.next().unwrap_or_default()).args(args);
    names.for_each(|name| {
        command.env_remove(name);
    });
    // `exec` keeps the process, and returns only on an error.
    Err(command.exec())
}

fn is_blank(value: &OsStr) -> bool {
    value.to_str().is_some_and(|value| value.trim().is_empty())
}

fn counts(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else { return false };
    name.starts_with(AWS) || NAMES.iter().any(|known| known.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_libraries_read_counts_and_nothing_else() {
        for name in [
            "AWS_REGION",
            "AWS_PROFILE",
            "AWS_ENDPOINT_URL_STS",
            "HTTPS_PROXY",
            "no_proxy",
            "SSL_CERT_FILE",
        ] {
            assert!(counts(OsStr::new(name)), "{name}");
        }
        for name in ["HOME", "PATH", "MY_AWS_REGION", "TOKEN", "aws", ""] {
            assert!(!counts(OsStr::new(name)), "{name}");
        }
        assert!(
            is_blank(OsStr::new("")) && is_blank(OsStr::new(" \n")) && !is_blank(OsStr::new("x"))
        );
    }
}
