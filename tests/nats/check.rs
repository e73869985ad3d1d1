//! `check` and `check --connect` of sources of core NATS: one line each, with what to look at, and no harm to a bridge
//! that runs.

use super::core::{Relay, publish};
use crate::support::bridge::Setup;
use crate::support::free_port;
use crate::support::nats::Nats;
use crate::support::{PATIENCE, until};

const CONNECTED: &str = "source_connected{source=\"it\"}";

/// That the one line of the source has these words, and whether it is good.
async fn says(setup: &Setup, good: bool, words: &[&str]) {
    let (yes, said) = setup.check().await;
    let lines: Vec<_> = said.lines().filter(|line| line.contains("source it:")).collect();
    assert!(yes == good && lines.len() == 1, "{said}");
    assert!(words.iter().all(|word| lines[0].contains(word)), "{words:?}: {}", lines[0]);
    println!("{}", lines[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_will_do_says_what_it_grants() {
    let relay = Relay::open().await;
    let setup = relay.setup("subjects = [\"in.*\", \"out.>\"]\nunrouted = \"ignore\"");
    says(&setup, true, &["connected: nats-server 2.", "2 subscriptions granted, at most once"])
        .await;
    let (_, said) = setup.check().await;
    assert!(said.contains("note: source `it` is at most once"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_is_and_where_somebody_else_is() {
    let relay = Relay::open().await;
    let of = |servers: &str| relay.setup(&format!("servers = {servers}"));
    let nobody = free_port();
    says(&of(&format!("\"localhost:{nobody}\"")), false, &["refused", "is the port right?"]).await;
    says(&of("\"nats.invalid\""), false, &["check the name in `servers`"]).await;
    let host = relay.emulator.host().to_owned();
    says(&of(&format!("\"{host}\"")), false, &["does not answer"]).await;
    // One that answers will do.
    let both = format!("[\"localhost:{nobody}\", \"{}\"]", relay.server.url());
    says(&of(&both), true, &["1 subscription granted"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_subscription_is_named_and_the_source_is_not_ready() {
    let permissions =
        "permissions: { subscribe: { allow: [\"in.*\", \"_INBOX.>\"] }, publish: { deny: \">\" } }";
    let users = format!("users: [ {{ user: \"b\", password: \"canary\", {permissions} }} ]");
    let relay = Relay::of(Nats::start(&format!("authorization {{ {users} }}")).await);
    let auth = "auth = { user = \"b\", password = \"canary\" }\nunrouted = \"ignore\"\n";
    says(&relay.setup(auth), true, &["1 subscription granted"]).await;
    let setup = relay.setup(&format!("{auth}subjects = [\"in.*\", \"out.*\"]"));
    let words =
        ["Permissions Violation for Subscription to \"out.*\"", "let the bridge's user do so"];
    says(&setup, false, &words).await;
    let bridge = setup.start().await;
    until("it says what it lacks", PATIENCE, async || {
        let (status, text) = bridge.get("/readyz").await;
        (status == 503 && text.contains("Permissions Violation")).then_some(())
    })
    .await;
    assert_eq!(bridge.lines(&["the server complains", "out.*"]).len(), 1, "{}", bridge.log());
}

/// What a reload of the server grants is asked for again over the connection that there is.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_subscription_comes_by_itself_when_the_server_allows_it() {
    let lines = |allowed: &str| {
        format!(
            "authorization {{ users: [ {{ user: \"all\", password: \"canary\" }}, {{ user: \"b\", password: \"canary\", \
             permissions: {{ subscribe: {{ allow: [{allowed}] }} }} }} ] }}\nno_auth_user: \"all\""
        )
    };
    let relay = Relay::of(Nats::start(&lines("\"_INBOX.>\"")).await);
    let bridge = relay.setup("auth = { user = \"b\", password = \"canary\" }").start().await;
    let refused = async || {
        until("it says what it lacks", PATIENCE, async || {
            let (status, text) = bridge.get("/readyz").await;
            (status == 503 && text.contains("Permissions Violation")).then_some(())
        })
        .await;
        bridge.metric_is(CONNECTED, |v| v == 0.0).await;
    };
    let client = relay.server.client().await;
    for round in 0..2 {
        refused().await;
        relay.server.configure(&lines("\"in.*\", \"_INBOX.>\""));
        relay.server.reload().await;
        bridge.ready().await;
        bridge.metric_is(CONNECTED, |v| v == 1.0).await;
        publish(&client, round * 20..(round + 1) * 20, 0).await;
        relay.is_relayed(&bridge, (round as usize + 1) * 20).await;
        // It may be taken away, too.
        relay.server.configure(&lines("\"_INBOX.>\""));
        relay.server.reload().await;
    }
    refused().await;
    assert_eq!(bridge.metric("source_reconnects_total{source=\"it\"}").await, 0.0);
    assert_eq!(bridge.lines(&["the server grants what it refused"]).len(), 2, "{}", bridge.log());
}

/// Who may not subscribe to what the bridge asks the server by, either.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_with_no_more_than_its_subjects_will_do() {
    let permissions = "permissions: { subscribe: \"in.*\", publish: { deny: \">\" } }";
    let users = format!("users: [ {{ user: \"b\", password: \"canary\", {permissions} }} ]");
    let relay = Relay::of(Nats::start(&format!("authorization {{ {users} }}")).await);
    let setup = relay.setup("auth = { user = \"b\", password = \"canary\" }");
    says(&setup, true, &["1 subscription granted"]).await;
    let bridge = setup.start_ready().await;
    assert!(bridge.lines(&["complains"]).is_empty(), "{}", bridge.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_that_runs_is_not_disturbed() {
    let relay = Relay::open().await;
    let setup = relay.setup("queue = \"bridge\"");
    let bridge = setup.start_ready().await;
    let client = relay.server.client().await;
    let load = async {
        for id in 0..600 {
            publish(&client, id..id + 1, 0).await;
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    };
    let check = async {
        for _ in 0..3 {
            says(&setup, true, &["1 subscription granted"]).await;
        }
    };
    tokio::join!(load, check);
    relay.is_relayed(&bridge, 600).await;
}
