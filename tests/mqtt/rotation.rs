//! A user and a password that change while the bridge runs: a broker that is told ends the connections made with the old one.

use std::path::Path;
use std::process::Command;

use crate::support::bridge::{Setup, write_secret};
use crate::support::emulator::Emulator;
use crate::support::ledger::{assert_order, ids};
use crate::support::mosquitto::Mosquitto;
use crate::support::producer::Load;
use crate::support::{PATIENCE, free_port, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_new_password_is_used_without_a_restart_and_nothing_is_lost() {
    for version in ["version = 5", "version = 3"] {
        let directory = tempfile::tempdir().unwrap();
        let (emulator, ledger) = Emulator::with_ledger(&directory, &[]);
        let passwords = directory.path().join("passwords");
        let secret = directory.path().join("password");
        let name = directory.path().join("name");
        add(&passwords, "relay", "first-word");
        write_secret(&secret, "first-word\n");
        write_secret(&name, "relay\n");
        // The producer stays on the listener that asks nobody.
        let port = free_port();
        let lines = format!(
            "per_listener_settings true\nallow_anonymous true\nlistener {port} 127.0.0.1\n\
             allow_anonymous false\npassword_file {}\n",
            passwords.display()
        );
        let mosquitto = Mosquitto::start(&lines).await;
        let source = format!(
            "{version}\nurl = \"mqtt://127.0.0.1:{port}\"\nusername = {{ file = \"{}\" }}\n\
             password = {{ file = \"{}\" }}",
            name.display(),
            secret.display()
        );
        let setup = Setup::new(&emulator.endpoint, 0, "", &source, "");
        let bridge = setup.start_ready().await;
        let load = Load::start(mosquitto.port, 500, 5);
        bridge.metric_is("source_received_total{source=\"plant\"}", |v| v > 100.0).await;

        // The broker is first: the bridge is put off, and says why.
        add(&passwords, "relay", "second-word");
        mosquitto.reload();
        until("the refusal is told", PATIENCE, async || {
            bridge.get("/readyz").await.1.contains("`password`").then_some(())
        })
        .await;
        write_secret(&secret, "second-word\n");
        bridge.ready().await;

        // The file is first: the connection stays, and the next one is made with what is in it.
        let reconnects = bridge.metric("source_reconnects_total{source=\"plant\"}").await;
        write_secret(&secret, "third-word\n");
        write_secret(&name, "another\n");
        add(&passwords, "another", "third-word");
        delete(&passwords, "relay");
        mosquitto.reload();
        bridge.metric_is("source_reconnects_total{source=\"plant\"}", |v| v > reconnects).await;
        bridge.ready().await;

        let count = usize::try_from(load.stop().await).unwrap();
        ledger.has_ids(count, PATIENCE).await;
        bridge.nothing_in_flight().await;
        assert_eq!(ids(&ledger.read()).len(), count, "{version}");
        assert_order(&ledger.read(), 2);
        assert!(!bridge.log().contains("-word"), "a password is in the log");
    }
}

/// Gives a user this password.
fn add(passwords: &Path, user: &str, password: &str) {
    let new: &[&str] = if passwords.exists() { &["-b"] } else { &["-c", "-b"] };
    let mut command = Command::new("mosquitto_passwd");
    let status = command.args(new).arg(passwords).args([user, password]).status();
    assert!(status.expect("`mosquitto_passwd` cannot be run").success());
}

fn delete(passwords: &Path, user: &str) {
    let status = Command::new("mosquitto_passwd").arg("-D").arg(passwords).arg(user).status();
    assert!(status.unwrap().success());
}
