//! The Debian package and its unit in a machine of their own, and the restrictions of the unit.

use std::process::Command;

const UNIT: &str = "deploy/systemd/appsync-bridge.service";

/// T85 is in it: killed twenty times. Only root can boot a machine, so it is one of the long ones.
#[test]
fn the_package_is_installed_confined_killed_upgraded_and_removed() {
    super::succeeds("tests/shipped/package", &["20"]);
}

#[test]
fn the_unit_leaves_little_to_reach() {
    let analyze = |args: &[&str]| {
        let output = Command::new("systemd-analyze").args(args).arg(UNIT).output();
        let output = output.expect("`systemd-analyze` cannot be run: it is in Debian's `systemd`");
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(said).unwrap())
    };
    let (good, said) = analyze(&["security", "--offline=true", "--threshold=12", "--no-pager"]);
    assert!(good, "{said}");
    println!("{}", said.lines().last().unwrap());
    // What is not looked for finds nothing: a unit without its sandbox is far above.
    let bare = tempfile::Builder::new().suffix(".service").tempfile().unwrap();
    std::fs::write(&bare, "[Service]\nExecStart=/bin/true\n").unwrap();
    let mut command = Command::new("systemd-analyze");
    command.args(["security", "--offline=true", "--threshold=12"]).arg(bare.path());
    assert!(!command.output().unwrap().status.success());
    // All that it may say is that the program is not installed here.
    let (_, said) = analyze(&["verify", "--man=no"]);
    let other = said.lines().filter(|line| {
        line.contains("appsync-bridge.service") && !line.contains("is not executable")
    });
    assert_eq!(other.count(), 0, "{said}");
}

/// A pair of times that must fit: what the drain may take, and systemd's patience with it.
#[test]
fn systemd_waits_longer_than_a_drain_takes() {
    let unit = std::fs::read_to_string(UNIT).unwrap();
    let stop = unit.lines().find_map(|line| line.strip_prefix("TimeoutStopSec=")).unwrap();
    assert!(stop.parse::<u64>().unwrap() > 25, "{stop}: `shutdown.grace` is 25s unless set");
    let newer = std::fs::read_to_string("deploy/systemd/notify-reload.conf").unwrap();
    assert!(newer.contains("Type=notify-reload") && newer.contains("\nExecReload=\n"), "{newer}");
}
