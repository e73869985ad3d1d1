//! What runs the bridge elsewhere: the manifests of `deploy/kubernetes`, the templates of `deploy/aws`, and the
//! configurations in both and on the pages of `deploy`. No cluster and no account is there: this is what their tools
//! and schemas say.

mod aws;
mod kubernetes;
mod pages;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::support::emulator::bridge;

/// Where `tests/run` puts them.
const PROGRAMS: &str = "tests/.cache/cloud/bin";

/// What stands where a secret of a file would be.
const NATS_CREDENTIALS: &str = "-----BEGIN NATS USER JWT-----\neyJ\n------END NATS USER JWT------\n\
                                -----BEGIN USER NKEY SEED-----\nSUA\n------END USER NKEY SEED------\n";

/// One of the programs.
fn program(name: &str) -> Command {
    let path = Path::new(PROGRAMS).join(name);
    assert!(path.exists(), "{} is not there: `tests/run` fetches it", path.display());
    Command::new(path)
}

/// One of the programs that are scripts: their first line names the Python of the folder that they were made in, and a
/// folder may be copied.
fn script(name: &str) -> Command {
    let mut command = program("python");
    command.arg(Path::new(PROGRAMS).join(name));
    command
}

/// Whether it went well, and what was said on both.
fn said(output: &Output) -> (bool, String) {
    let both = [&output.stdout[..], &output.stderr].concat();
    (output.status.success(), String::from_utf8(both).unwrap())
}

/// `check` of a configuration with these variables and no others, as a container has them: whether it is good, and
/// what was said. The credentials of NATS are there, and `/var/lib/appsync-bridge` is a directory of ours.
fn check<'a>(
    text: &str,
    variables: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> (bool, String) {
    let directory = tempfile::tempdir().unwrap();
    let place = |name: &str| directory.path().join(name).display().to_string();
    let text = text
        .replace("/run/secrets/nats/nats.creds", &place("nats.creds"))
        .replace("/var/lib/appsync-bridge", &place("state"));
    write(&directory.path().join("nats.creds"), NATS_CREDENTIALS);
    fs::create_dir_all(directory.path().join("state")).unwrap();
    write(&directory.path().join("bridge.toml"), &text);
    let mut command = bridge();
    command.args(["check", "-c", &place("bridge.toml")]).env_clear();
    let path = std::env::var("PATH").unwrap();
    // Nobody's home: dead letters have a place of their own, or none is asked for.
    command.env("PATH", path).env("HOME", "/proc/none").env("NO_COLOR", "1");
    command.env("AWS_CONFIG_FILE", "/dev/null").env("AWS_EC2_METADATA_DISABLED", "true");
    let (good, said) = said(&command.envs(variables).output().unwrap());
    (good && said.contains("is good") && !said.contains("warning"), said)
}

/// A file that only its owner can read.
fn write(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// The variables that a configuration asks for.
fn variables(text: &str) -> Vec<&str> {
    let names = text.split("env = \"").skip(1).map(|rest| rest.split('"').next().unwrap());
    names.collect()
}
