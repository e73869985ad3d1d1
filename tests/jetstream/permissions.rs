//! A user who may not do everything that a source has to, which the server says of each message.

use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::stream;
use futures_util::StreamExt as _;

use super::Site;
use crate::support::bridge::Setup;
use crate::support::broker::{Broker as _, Sent};
use crate::support::jetstream::{DURABLE, STREAM};
use crate::support::{PATIENCE, until};

/// Lines of a server whose user may not publish to `denied`.
fn denying(denied: &str) -> String {
    format!(
        "authorization: {{ users: [ {{ user: \"all\", password: \"p\" }}, {{ user: \"few\", password: \"p\", \
         permissions: {{ publish: {{ deny: \"{denied}\" }} }} }} ] }}\nno_auth_user: all"
    )
}

const FEW: &str = "auth = { user = \"few\", password = \"p\" }\nack_wait = \"2s\"";

/// To make the consumer, to keep the order after a kill, and to write dead letters.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_page_on_security_lists_is_enough() {
    let page = std::fs::read_to_string("SECURITY.md").unwrap();
    let page = page.replace(".S.D", ".IT.bridge").replace("STREAM.INFO.S", "STREAM.INFO.IT");
    let listed = page.split('`').filter(|words| words.starts_with("$JS."));
    let mut listed: Vec<_> = listed.map(|subject| format!("\"{subject}\"")).collect();
    assert_eq!(listed.len(), 7, "{listed:?}");
    listed.push("\"rejects.it\"".to_owned());
    let site = Site::open(&format!(
        "authorization: {{ users: [ {{ user: \"all\", password: \"p\" }}, {{ user: \"few\", password: \"p\", \
         permissions: {{ publish: [{}], subscribe: \"_INBOX.>\" }} }} ] }}\nno_auth_user: all",
        listed.join(", ")
    ))
    .await;
    let context = site.stream.context().await;
    let (name, subjects) = ("R".to_owned(), vec!["rejects.>".to_owned()]);
    let rejects = stream::Config { name, subjects, ..stream::Config::default() };
    context.create_stream(rejects).await.unwrap();
    let tables = format!(
        "{}{FEW}\n[route.data]\nfrom = \"it\"\nchannel = \"/it/dev-{{json.key}}\"\ndead_letter = \"subject\"\n\
         [dead_letter.subject]\ntype = \"jetstream\"\nsource = \"it\"\nsubject = \"rejects.it\"\n",
        site.stream.source()
    );
    let setup = Setup::of(&site.emulator.endpoint, "", &tables, "");
    drop(setup.start_ready().await);
    // Delivered to a process that is gone.
    site.produce(5_000, 0..10, 1).await;
    let stream = context.get_stream(STREAM).await.unwrap();
    let consumer: PullConsumer = stream.get_consumer(DURABLE).await.unwrap();
    let held = consumer.fetch().max_messages(5).messages().await.unwrap();
    assert_eq!(held.count().await, 5);
    let bridge = setup.start_ready().await;
    assert_eq!(site.is_relayed(&bridge, 10).await, 0);
    bridge.metric_is("source_consumer_resets_total{source=\"it\"}", |v| v == 1.0).await;
    site.stream.produce(5_000, vec![Sent { key: 7, payload: b"no json".to_vec() }]).await;
    let dead = "source_settled_total{source=\"it\",outcome=\"dead_lettered\"}";
    bridge.metric_is(dead, |v| v == 1.0).await;
    assert!(bridge.lines(&["complains"]).is_empty(), "{}", bridge.log());
    let (good, said) = setup.check().await;
    assert!(good, "{said}");
}

/// Messages are delivered and published, and come again and again.
#[tokio::test(flavor = "multi_thread")]
async fn acknowledgements_that_are_refused_are_named_and_said_once_in_a_while() {
    let site = Site::open(&denying("$JS.ACK.>")).await;
    let bridge = site.setup(FEW).start_ready().await;
    site.produce(5_000, 0..500, 5).await;
    site.ledger.has_ids(500, PATIENCE).await;
    let named = "\"$JS.ACK.>\"";
    until("it is named", PATIENCE, async || {
        let (status, text) = bridge.get("/readyz").await;
        (status == 503 && text.contains(&named.replace('"', ""))).then_some(())
    })
    .await;
    bridge.metric_is("source_redelivered_total{source=\"it\"}", |v| v >= 500.0).await;
    // The server is asked for the consumer meanwhile, which is well.
    assert_eq!(bridge.get("/readyz").await.0, 503);
    let said = bridge.lines(&["the server complains"]);
    assert_eq!(said.len(), 1, "{said:?}");
    // Allowed at last, it goes on by itself.
    site.stream.nats.configure(&denying("nothing"));
    site.stream.nats.reload().await;
    bridge.ready().await;
    site.produce(5_000, 500..510, 5).await;
    assert_eq!(site.is_relayed(&bridge, 510).await, 0);
    until("all are acknowledged", PATIENCE, async || {
        (site.stream.consumer().await?.num_ack_pending == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_refused_are_named_for_as_long_as_they_are() {
    let site = Site::open(&denying("$JS.API.CONSUMER.MSG.NEXT.>")).await;
    site.produce(5_000, 0..10, 1).await;
    let bridge = site.setup(FEW).start().await;
    let named = "$JS.API.CONSUMER.MSG.NEXT.IT.bridge";
    until("it is named", PATIENCE, async || {
        let (status, text) = bridge.get("/readyz").await;
        (status == 503 && text.contains(named)).then_some(())
    })
    .await;
    // The consumer is bound again in between.
    until("it was tried again", PATIENCE, async || {
        let (status, text) = bridge.get("/readyz").await;
        assert!(status == 503 && text.contains(named), "{status}: {text}");
        (bridge.metric("source_reconnects_total{source=\"it\"}").await >= 2.0).then_some(())
    })
    .await;
    assert!(bridge.lines(&["several heartbeats"]).is_empty(), "{}", bridge.log());
    site.stream.nats.configure(&denying("nothing"));
    site.stream.nats.reload().await;
    assert_eq!(site.is_relayed(&bridge, 10).await, 0);
    bridge.ready().await;
}

/// Nothing is answered then, and the client asks for that once a connection: from the start, and taken away later.
#[tokio::test(flavor = "multi_thread")]
async fn answers_that_were_refused_come_when_they_are_allowed() {
    let refusing = |refused: &str| {
        denying("nothing")
            .replace("publish: {", &format!("subscribe: {{ deny: \"{refused}\" }}, publish: {{"))
    };
    let site = Site::open(&refusing("_INBOX.>")).await;
    let bridge = site.setup(FEW).start().await;
    for count in [10, 20] {
        until("it is named", PATIENCE, async || {
            let (status, text) = bridge.get("/readyz").await;
            (status == 503 && text.contains("for Subscription to")).then_some(())
        })
        .await;
        site.produce(5_000, count - 10..count, 5).await;
        site.stream.nats.configure(&refusing("nothing"));
        site.stream.nats.reload().await;
        assert_eq!(site.is_relayed(&bridge, count).await, 0);
        bridge.ready().await;
        site.stream.nats.configure(&refusing("_INBOX.>"));
        site.stream.nats.reload().await;
    }
}
