//! Every way into a server that asks who is there: a bridge relays over it, and one that is not known says so.

use std::fs;
use std::path::{Path, PathBuf};

use appsync_bridge::outbound::tls;
use async_nats::{Client, ConnectOptions};
use nkeys::KeyPair;

use super::core::{Relay, publish};
use crate::support::PATIENCE;
use crate::support::bridge::{Setup, write_secret};
use crate::support::nats::Nats;
use crate::support::nats::operator::Operator;
use crate::support::server::Authority;
use crate::support::until;

/// A secret that nothing may print.
const SECRET: &str = "canary-7f3a9c";

/// Certificates of a server and of a client in a directory.
struct Certificates {
    directory: tempfile::TempDir,
}

impl Certificates {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
        write("ca.pem", &authority.pem);
        for (name, of) in [("server", "localhost"), ("client", "bridge")] {
            let (certificate, key) = authority.issue(&[of]);
            write(&format!("{name}.pem"), &certificate);
            write(&format!("{name}.key"), &key);
        }
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// As a setting.
    fn quoted(&self, name: &str) -> String {
        format!("\"{}\"", self.path(name).display())
    }

    /// Lines of a server that speaks TLS; `more` go into its block.
    fn lines(&self, more: &str) -> String {
        let [ca, certificate, key] =
            ["ca.pem", "server.pem", "server.key"].map(|name| self.quoted(name));
        format!(
            "tls {{\n cert_file: {certificate}\n key_file: {key}\n ca_file: {ca}\n {more}\n}}\n"
        )
    }

    fn client(&self) -> ConnectOptions {
        let [ca, certificate, key] =
            ["ca.pem", "client.pem", "client.key"].map(|name| self.path(name));
        let identity = Some((certificate.as_path(), key.as_path()));
        ConnectOptions::new().tls_client_config(tls::client_config(Some(&ca), identity).unwrap())
    }
}

/// Lines of a source that trusts the CA; `more` go into its `tls`.
fn source(server: &Nats, certificates: &Certificates, more: &str) -> String {
    let ca = certificates.quoted("ca.pem");
    format!("servers = \"tls://localhost:{}\"\ntls = {{ ca_file = {ca}{more} }}\n", server.port)
}

/// That a bridge with these lines relays what `client` sends.
async fn relays(relay: &Relay, setup: &Setup, client: &Client) {
    let (yes, said) = setup.check().await;
    assert!(yes && said.contains("1 subscription granted, at most once"), "{said}");
    let bridge = setup.start_ready().await;
    publish(client, 0..40, 0).await;
    relay.is_relayed(&bridge, 40).await;
    assert!(!bridge.log().contains(SECRET) && !said.contains(SECRET));
}

/// That `check` refuses a bridge with these lines, in one line with these words, and that a bridge that runs says
/// what it lacks.
async fn refuses(setup: &Setup, words: &[&str]) {
    let (yes, said) = setup.check().await;
    let lines: Vec<_> = said.lines().filter(|line| line.contains("source it")).collect();
    assert!(!yes && lines.len() == 1, "{said}");
    assert!(words.iter().all(|word| lines[0].contains(word)), "{words:?}: {}", lines[0]);
    println!("{}", lines[0]);
    let bridge = setup.start().await;
    until("it says why it is not ready", PATIENCE, async || {
        let (status, text) = bridge.get("/readyz").await;
        assert_eq!(status, 503);
        words.iter().all(|word| text.contains(word)).then_some(())
    })
    .await;
    assert!(!bridge.log().contains(SECRET) && !said.contains(SECRET), "{}", bridge.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_lets_in() {
    let server = Nats::start(&format!("authorization {{ token: \"{SECRET}\" }}")).await;
    let client = server.client_of(ConnectOptions::with_token(SECRET.to_owned())).await;
    let relay = Relay::of(server);
    let setup = |token: &str| relay.setup(&format!("auth = {{ token = \"{token}\" }}"));
    relays(&relay, &setup(SECRET), &client).await;
    refuses(&setup("canary-wrong"), &["does not let the bridge in", "check `auth.token`"]).await;
    refuses(&relay.setup(""), &["does not let the bridge in", "`auth = { … }`"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_lets_in_and_may_change_in_its_file() {
    let lines = |password: &str| {
        format!("authorization {{ users: [ {{ user: \"bridge\", password: \"{password}\" }} ] }}")
    };
    let server = Nats::start(&lines(SECRET)).await;
    let options =
        |password: &str| ConnectOptions::with_user_and_password("bridge".into(), password.into());
    let client = server.client_of(options(SECRET)).await;
    let mut relay = Relay::of(server);
    let file = relay.server.file("password");
    write_secret(&file, SECRET);
    let setup =
        relay.setup(&format!("auth = {{ user = \"bridge\", password = {{ file = {file:?} }} }}"));
    relays(&relay, &setup, &client).await;
    let wrong = relay.setup("auth = { user = \"bridge\", password = \"canary-wrong\" }");
    refuses(&wrong, &["does not let the bridge in", "`auth.user` and `auth.password`"]).await;

    // A new password at the server and in the file: the next connection uses it.
    let bridge = setup.start_ready().await;
    relay.server.configure(&lines("canary-new"));
    relay.server.kill();
    bridge.metric_is("source_connected{source=\"it\"}", |v| v == 0.0).await;
    write_secret(&file, "canary-new");
    relay.server.restart().await;
    bridge.ready().await;
    publish(&relay.server.client_of(options("canary-new")).await, 40..80, 0).await;
    relay.is_relayed(&bridge, 80).await;
    assert!(!bridge.log().contains("canary-new"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_nkey_lets_in() {
    let user = KeyPair::new_user();
    let lines = format!("authorization {{ users: [ {{ nkey: {} }} ] }}", user.public_key());
    let server = Nats::start(&lines).await;
    let seed = user.seed().unwrap();
    let client = server.client_of(ConnectOptions::with_nkey(seed.clone())).await;
    let relay = Relay::of(server);
    let setup = |seed: &str| relay.setup("auth = { nkey = { env = \"SEED\" } }").env("SEED", seed);
    let known = setup(&seed);
    relays(&relay, &known, &client).await;
    let (_, said) = known.check().await;
    assert!(!said.contains(&seed));
    let stranger = KeyPair::new_user().seed().unwrap();
    refuses(&setup(&stranger), &["does not let the bridge in", "check `auth.nkey`"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credentials_file_lets_in_and_may_change() {
    let operator = Operator::new();
    let server = Nats::start(&operator.lines()).await;
    let options = || ConnectOptions::with_credentials(&operator.credentials()).unwrap();
    let client = server.client_of(options()).await;
    let mut relay = Relay::of(server);
    let file = relay.server.file("bridge.creds");
    let setup = |path: &Path| relay.setup(&format!("auth = {{ creds_file = {path:?} }}"));
    write_secret(&file, &operator.credentials());
    let known = setup(&file);
    relays(&relay, &known, &client).await;
    let other = relay.server.file("other.creds");
    write_secret(&other, &Operator::new().credentials());
    refuses(&setup(&other), &["does not let the bridge in", "check `auth.creds_file`"]).await;

    // Another operator: its users only are known from now on.
    let bridge = known.start_ready().await;
    let next = Operator::new();
    relay.server.configure(&next.lines());
    relay.server.kill();
    write_secret(&file, &next.credentials());
    relay.server.restart().await;
    bridge.metric_is("source_reconnects_total{source=\"it\"}", |v| v >= 1.0).await;
    bridge.ready().await;
    let options = ConnectOptions::with_credentials(&next.credentials()).unwrap();
    publish(&relay.server.client_of(options).await, 40..80, 0).await;
    relay.is_relayed(&bridge, 80).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_with_a_certificate_of_the_clients() {
    let certificates = Certificates::new();
    let server = Nats::start(&certificates.lines("verify: true")).await;
    let url = format!("tls://localhost:{}", server.port);
    let client = certificates.client().connect(url).await.unwrap();
    let relay = Relay::of(server);
    let [certificate, key] = ["client.pem", "client.key"].map(|name| certificates.quoted(name));
    let identity = format!(", cert_file = {certificate}, key_file = {key}");
    let setup = relay.setup(&source(&relay.server, &certificates, &identity));
    relays(&relay, &setup, &client).await;
    let without = relay.setup(&source(&relay.server, &certificates, ""));
    refuses(&without, &["the server wants a client's certificate"]).await;
    // Its CA is nobody's that is trusted.
    let servers = format!("servers = \"tls://localhost:{}\"", relay.server.port);
    refuses(&relay.setup(&servers), &["UnknownIssuer", "`tls = { ca_file = … }`"]).await;
    let plain = format!("servers = \"localhost:{}\"", relay.server.port);
    refuses(&relay.setup(&plain), &["the server wants TLS"]).await;
    let name = source(&relay.server, &certificates, &identity).replace("localhost", "127.0.0.1");
    refuses(&relay.setup(&name), &["is the name in `servers` in it?"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_tls_before_the_first_word() {
    let certificates = Certificates::new();
    let server = Nats::start(&certificates.lines("handshake_first: true")).await;
    let url = format!("tls://localhost:{}", server.port);
    let client = certificates.client().tls_first().connect(url).await.unwrap();
    let relay = Relay::of(server);
    let source = source(&relay.server, &certificates, "");
    relays(&relay, &relay.setup(&format!("{source}tls_first = true")), &client).await;
    refuses(&relay.setup(&source), &["without a word", "`tls_first = true`"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_begin_with_tls_is_named() {
    let certificates = Certificates::new();
    let relay = Relay::of(Nats::start(&certificates.lines("")).await);
    let source = source(&relay.server, &certificates, "");
    let setup = relay.setup(&format!("{source}tls_first = true"));
    refuses(&setup, &["leave `tls_first` away"]).await;
}
