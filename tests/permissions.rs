//! T89: files with secrets and dead letters in them, with every mode and owner, and links to them. Only root can give a file
//! away, so only root sees all of it.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::Path;

use crate::support::certificates::certificates;
use crate::support::unprivileged::{Unprivileged, is_root};

/// The user that the bridge is: of an image, and of a pod.
const US: u32 = 65_532;

/// Somebody else.
const OTHER: u32 = 65_533;

/// Files that hold a secret or a private key.
const SECRETS: [&str; 5] = ["key", "creds", "client.key", "server.key", "password"];

/// A folder with a configuration, and all that it names; and the program as one of us runs it.
struct Place(tempfile::TempDir, Unprivileged);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap(), Unprivileged::new(US));
        certificates(place.0.path());
        fs::write(place.at("key"), "da2-0123456789").unwrap();
        fs::write(place.at("password"), "a-password-of-mqtt").unwrap();
        fs::write(
            place.at("creds"),
            "-----BEGIN NATS USER JWT-----\neyJ\n------END NATS USER JWT------\n\
             -----BEGIN USER NKEY SEED-----\nSUA\n------END USER NKEY SEED------\n",
        )
        .unwrap();
        let at = |name: &str| place.at(name).display().to_string();
        let text = format!(
            "[api.main]\nendpoint = \"http://127.0.0.1:9/event\"\nauth = {{ type = \"api-key\", key = {{ file = \"{}\" }} }}\n\
             [source.plant]\ntype = \"mqtt\"\nurl = \"mqtts://127.0.0.1:9\"\nclient_id = \"c\"\nsubscriptions = [\"plant/#\"]\n\
             username = \"u\"\npassword = {{ file = \"{}\" }}\n\
             tls = {{ ca_file = \"{}\", cert_file = \"{}\", key_file = \"{}\" }}\n\
             [source.orders]\ntype = \"nats\"\nservers = [\"127.0.0.1:9\"]\nsubjects = [\"orders\"]\n\
             auth = {{ creds_file = \"{}\" }}\n\
             [route.all]\nfrom = [\"plant\", \"orders\"]\nchannel = \"/a/b\"\n\
             [dead_letter.rejects]\ntype = \"file\"\npath = \"{}\"\n\
             [admin]\nlisten = \"127.0.0.1:0\"\ntls = {{ cert_file = \"{}\", key_file = \"{}\" }}\n",
            at("key"),
            at("password"),
            at("ca.pem"),
            at("client.pem"),
            at("client.key"),
            at("creds"),
            at("state/rejects.jsonl"),
            at("server.pem"),
            at("server.key"),
        );
        fs::write(place.at("bridge.toml"), text).unwrap();
        fs::create_dir(place.at("state")).unwrap();
        if is_root() {
            fs::set_permissions(place.0.path(), fs::Permissions::from_mode(0o755)).unwrap();
            chown(place.at("state"), Some(US), Some(US)).unwrap();
        }
        for name in SECRETS {
            place.give(name, 0o600, US, US);
        }
        place
    }

    fn at(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    /// Sets mode and, where that can be, the owner of a file.
    fn give(&self, name: &str, mode: u32, owner: u32, group: u32) {
        fs::set_permissions(self.at(name), fs::Permissions::from_mode(mode)).unwrap();
        if is_root() {
            chown(self.at(name), Some(owner), Some(group)).unwrap();
        }
    }

    /// `check`: its exit code, and what it says.
    fn check(&self) -> (Option<i32>, String) {
        let mut command = self.1.bridge();
        let output = command.args(["check", "-c"]).arg(self.at("bridge.toml")).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(said).unwrap())
    }
}

/// The line of what was said that tells of a file.
fn line<'a>(said: &'a str, path: &Path) -> Option<&'a str> {
    let path = path.display().to_string();
    said.lines().find(|line| line.contains(&path) && line.contains("others can read it"))
}

#[test]
fn who_else_can_read_a_secret_is_said() {
    let place = Place::new();
    let (code, said) = place.check();
    assert!(code == Some(0) && !said.contains("warning"), "{said}");
    // Mode, owner, group, and whether it is warned of.
    let ours = [
        (0o644, US, US, true),
        (0o640, US, US, true),
        (0o604, US, US, true),
        (0o400, US, US, false),
    ];
    let given = [
        // As Kubernetes mounts it, and as a package would have it.
        (0o440, 0, US, false),
        (0o640, 0, US, false),
        (0o644, 0, US, true),
        (0o640, OTHER, US, true),
        (0o444, OTHER, OTHER, true),
    ];
    let given = if is_root() { &given[..] } else { &[] };
    for (mode, owner, group, warned) in ours.iter().chain(given) {
        for name in SECRETS {
            place.give(name, *mode, *owner, *group);
            let (code, said) = place.check();
            assert_eq!(code, Some(0), "{name} {mode:o} of {owner}: {said}");
            let found = line(&said, &place.at(name));
            assert_eq!(found.is_some(), *warned, "{name} {mode:o} of {owner}:{group}: {said}");
            assert!(
                !warned || said.contains(&format!("chmod 600 {}", place.at(name).display())),
                "{said}"
            );
            place.give(name, 0o600, US, US);
        }
    }
    // What counts is the file behind a link, which Kubernetes makes of each.
    for name in SECRETS {
        fs::rename(place.at(name), place.at("behind")).unwrap();
        symlink(place.at("behind"), place.at(name)).unwrap();
        assert_eq!(line(&place.check().1, &place.at(name)), None, "{name}");
        place.give("behind", 0o644, US, US);
        assert!(line(&place.check().1, &place.at(name)).is_some(), "{name}");
        fs::remove_file(place.at(name)).unwrap();
        fs::rename(place.at("behind"), place.at(name)).unwrap();
        place.give(name, 0o600, US, US);
    }
}

/// One that can't be read is refused, with what to do.
#[test]
fn a_secret_that_is_another_users_is_refused() {
    if !is_root() {
        println!("not tried: only root can give a file away");
        return;
    }
    let place = Place::new();
    for name in SECRETS {
        place.give(name, 0o600, OTHER, OTHER);
        let (code, said) = place.check();
        assert_eq!(code, Some(77), "{name}: {said}");
        assert!(said.to_lowercase().contains("permission denied"), "{name}: {said}");
        place.give(name, 0o600, US, US);
    }
}

/// In the configuration itself: whatever its mode, it is warned of. In a variable it is not.
#[test]
fn a_secret_in_the_configuration_is_warned_of() {
    let place = Place::new();
    let text = fs::read_to_string(place.at("bridge.toml")).unwrap();
    let file = format!("{{ file = \"{}\" }}", place.at("password").display());
    fs::write(place.at("bridge.toml"), text.replace(&file, "\"a-password-of-mqtt\"")).unwrap();
    for mode in [0o644, 0o600] {
        place.give("bridge.toml", mode, US, US);
        let (code, said) = place.check();
        assert!(code == Some(0) && said.contains("`password` is in plain text"), "{said}");
        assert!(!said.contains("a-password-of-mqtt"), "{said}");
    }
}

/// A file of dead letters of somebody else, or behind a link, could be read there: it is refused, and nothing is changed.
#[test]
fn a_file_of_dead_letters_is_ours_or_refused() {
    let place = Place::new();
    let (path, elsewhere) = ("state/rejects.jsonl", "elsewhere");
    fs::write(place.at(path), "").unwrap();
    for mode in [0o600, 0o644] {
        place.give(path, mode, US, US);
        let (code, said) = place.check();
        assert_eq!(code, Some(0), "{mode:o}: {said}");
    }
    if is_root() {
        for mode in [0o600, 0o666] {
            place.give(path, mode, OTHER, US);
            let (code, said) = place.check();
            assert!(
                code == Some(77) && said.contains("it belongs to user 65533"),
                "{code:?} {said}"
            );
        }
    }
    fs::rename(place.at(path), place.at(elsewhere)).unwrap();
    place.give(elsewhere, 0o600, US, US);
    symlink(place.at(elsewhere), place.at(path)).unwrap();
    let (code, said) = place.check();
    assert!(code.is_some_and(|code| code != 0) && said.contains("it is a symbolic link"), "{said}");
    assert_eq!(fs::read(place.at(elsewhere)).unwrap(), b"");
}

/// The name of a file is kept by its directory, which has to be synced, and where a full file gets another name.
#[test]
fn a_directory_that_does_not_let_us_is_said_before_the_first_reject() {
    if !is_root() {
        println!("not tried: only root can give a file away");
        return;
    }
    let place = Place::new();
    fs::write(place.at("state/rejects.jsonl"), "").unwrap();
    place.give("state/rejects.jsonl", 0o600, US, US);
    let text = fs::read_to_string(place.at("bridge.toml")).unwrap();
    let rotated = text.replace("type = \"file\"\n", "type = \"file\"\nmax_size = \"1MB\"\n");
    for (mode, text, good) in
        [(0o711, &text, false), (0o755, &text, true), (0o755, &rotated, false)]
    {
        fs::write(place.at("bridge.toml"), text).unwrap();
        place.give("state", mode, 0, 0);
        let (code, said) = place.check();
        assert_eq!(code, Some(if good { 0 } else { 77 }), "{mode:o}: {said}");
        let run = || {
            let mut run = place.1.bridge();
            run.args(["run", "-c"]).arg(place.at("bridge.toml")).output().unwrap()
        };
        if !good {
            let hint = "change its mode, or name another file";
            assert!(said.contains("its directory `") && said.contains(hint), "{said}");
            let output = run();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.code() == Some(77) && said.contains(hint), "{said}");
        }
    }
}
