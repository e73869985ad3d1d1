//! `check --connect`: what is wrong, in one line, and nothing is taken or made.

use std::time::Duration;

use async_nats::jetstream::consumer::pull;

use super::Site;
use crate::support::bridge::Setup;
use crate::support::jetstream::{DURABLE, STREAM};
use crate::support::{PATIENCE, until};

/// The line of the source.
async fn said(setup: &Setup) -> (bool, String) {
    let (good, said) = setup.check().await;
    let line = said.lines().find(|line| line.contains("source it: "));
    (good, line.unwrap_or_else(|| panic!("{said}")).to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_is_said_and_nothing_is_taken_or_made() {
    let site = Site::open("").await;
    site.produce(5_000, 0..3, 1).await;
    let (good, line) = said(&site.setup("")).await;
    assert!(good && line.contains("the stream `IT` with 3 messages"), "{line}");
    assert!(line.contains("yet to be created") && site.stream.consumer().await.is_none());
    let bridge = site.setup("").start_ready().await;
    assert_eq!(site.is_relayed(&bridge, 3).await, 0);
    drop(bridge);
    site.produce(5_000, 3..5, 1).await;
    let (good, line) = said(&site.setup("")).await;
    assert!(good && line.contains("2 messages to come and 0 not acknowledged"), "{line}");
    assert_eq!(site.stream.consumer().await.unwrap().num_pending, 2);
}

/// Nor is it asked for by a bridge that runs.
#[tokio::test(flavor = "multi_thread")]
async fn the_state_of_the_stream_is_no_condition() {
    let users = "authorization: { users: [ { user: \"all\", password: \"p\" }, { user: \"few\", password: \"p\", \
                 permissions: { publish: { deny: \"$JS.API.STREAM.INFO.>\" } } } ] }\nno_auth_user: all";
    let site = Site::open(users).await;
    site.produce(5_000, 0..3, 1).await;
    let setup = site.setup("auth = { user = \"few\", password = \"p\" }");
    let (good, line) = said(&setup).await;
    assert!(good && line.contains("the stream `IT`; the consumer"), "{line}");
    let bridge = setup.start_ready().await;
    assert_eq!(site.is_relayed(&bridge, 3).await, 0);
}

/// The server makes such a consumer, which is given nothing.
#[tokio::test(flavor = "multi_thread")]
async fn subjects_that_the_stream_does_not_have_are_said_by_check_and_by_run() {
    let site = Site::open("").await;
    site.produce(5_000, 0..3, 1).await;
    let words = "no subject of the stream `IT` (`in.>`) fits `out.*`";
    let setup = site.setup("subjects = [\"in.>\", \"out.*\"]\nunrouted = \"ignore\"");
    let (good, said) = setup.check().await;
    assert!(good && said.contains(words) && said.contains("correct `subjects`"), "{said}");
    let bridge = setup.start_ready().await;
    assert_eq!(site.is_relayed(&bridge, 3).await, 0);
    until("it is said", PATIENCE, async || (!bridge.lines(&[words]).is_empty()).then_some(()))
        .await;
    let (good, said) = setup.check().await;
    assert!(good && said.contains(words), "of the consumer that is there: {said}");
    assert_eq!(bridge.lines(&[words]).len(), 1, "{}", bridge.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_is_one_line() {
    let users = "authorization: { users: [ { user: \"all\", password: \"p\" }, { user: \"few\", password: \"p\", \
                 permissions: { publish: { deny: \"$JS.API.CONSUMER.>\" } } } ] }\nno_auth_user: all";
    let mut site = Site::open(users).await;
    let stream = site.stream.context().await.get_stream(STREAM).await.unwrap();
    let made = pull::Config {
        durable_name: Some(DURABLE.into()),
        ack_wait: Duration::from_secs(7),
        max_ack_pending: -1,
        ..Default::default()
    };
    stream.create_consumer(made).await.unwrap();
    let text = std::fs::read_to_string(site.setup("").config()).unwrap();
    let with = |from: &str, to: &str| {
        let setup = site.setup("");
        std::fs::write(setup.config(), text.replace(from, to)).unwrap();
        setup
    };
    let user = |user: &str, password: &str| {
        format!("durable = \"other\"\nauth = {{ user = \"{user}\", password = \"{password}\" }}")
    };
    for (setup, words) in [
        (with("", ""), "`ack_wait` is 7s there and 30s here"),
        (with("stream = \"IT\"", "stream = \"NO\""), "there is no stream `NO`"),
        (with("durable = \"bridge\"", &user("few", "p")), "ermissions Violation"),
        (with("durable = \"bridge\"", &user("all", "wrong")), "does not let the bridge in"),
    ] {
        let (good, line) = said(&setup).await;
        assert!(!good && line.contains(words) && line.starts_with("error: source it: "), "{line}");
    }
    let setup = site.setup("");
    site.stream.nats.kill();
    let (good, line) = said(&setup).await;
    assert!(!good && line.contains("refused"), "{line}");
}
