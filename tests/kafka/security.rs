//! Every way to secure a connection: a bridge relays over it, from the real broker.

use std::time::{Duration, Instant};

use futures_util::future::join_all;

use crate::support::bridge::Setup;
use crate::support::kafka::Kafka;
use crate::support::kafka::security::{Listener, PASSWORD, USER};
use crate::support::shop::{Shop, record, stop};
use crate::support::tokens::{CLIENT_ID, CLIENT_SECRET, TokenEndpoint};
use crate::support::{PATIENCE, until};

/// A bridge that comes in by this listener, with this `sasl`.
pub(crate) fn setup(kafka: &Kafka, shop: &Shop, listener: Listener, sasl: &str) -> Setup {
    let security = kafka.security();
    let mut tls = format!("ca_file = \"{}\"", security.ca.display());
    if listener == Listener::Mutual {
        let (certificate, key) = (security.certificate.display(), security.key.display());
        tls = format!("{tls}, cert_file = \"{certificate}\", key_file = \"{key}\"");
    }
    let tls = if listener == Listener::PasswordInClear {
        String::new()
    } else {
        format!("tls = {{ {tls} }}\n")
    };
    let sasl = if sasl.is_empty() { String::new() } else { format!("sasl = {{ {sasl} }}\n") };
    let brokers = kafka.address_of(listener);
    shop.setup_of(&format!("brokers = \"{brokers}\"\ntopics = \"{}\"\n{tls}{sasl}", shop.topic), "")
}

/// A user of the broker, by this mechanism.
pub(crate) fn password(mechanism: &str, user: &str, password: &str) -> String {
    format!("mechanism = \"{mechanism}\", username = \"{user}\", password = '{password}'")
}

/// A client of a token endpoint.
pub(crate) fn token(endpoint: &TokenEndpoint) -> String {
    format!(
        "mechanism = \"oauthbearer\", token_url = \"{}\", client_id = \"{CLIENT_ID}\", client_secret = \"{CLIENT_SECRET}\"",
        endpoint.url
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn relays_over_tls_and_with_every_kind_of_password() {
    let kafka = Kafka::shared().await;
    let known = |mechanism| password(mechanism, USER, PASSWORD);
    let ways = [
        (Listener::Tls, String::new()),
        (Listener::Mutual, String::new()),
        (Listener::Password, known("plain")),
        (Listener::Password, known("scram-sha-256")),
        (Listener::Password, known("scram-sha-512")),
        (Listener::PasswordInClear, known("scram-sha-512")),
    ];
    join_all(ways.iter().map(async |(listener, sasl)| {
        let shop = Shop::open(kafka, "secure", 2).await;
        let setup = setup(kafka, &shop, *listener, sasl);
        let (yes, said) = setup.check().await;
        assert!(yes && said.contains("1 topic with 2 partitions"), "{listener:?} {sasl}: {said}");
        let bridge = setup.start_ready().await;
        shop.produce(kafka, 0..40, 1_000, 4).await;
        assert_eq!(shop.is_relayed(40, 0).await, 0);
        assert!(bridge.lines(&["trouble"]).is_empty(), "{listener:?} {sasl}: {}", bridge.log());
        assert!(!bridge.log().contains(PASSWORD));
        stop(bridge).await;
    }))
    .await;
}

/// The broker cuts off who shows no other token before the last is over.
#[tokio::test(flavor = "multi_thread")]
async fn relays_with_tokens_that_are_renewed_in_time() {
    const LIFETIME: Duration = Duration::from_secs(20);
    let kafka = Kafka::shared().await;
    let endpoint = kafka.security().issuer.serve().await;
    let shop = Shop::open(kafka, "tokens", 2).await;
    let setup = setup(kafka, &shop, Listener::Token, &token(&endpoint));
    let (yes, said) = setup.check().await;
    assert!(yes && said.contains("1 topic with 2 partitions"), "{said}");
    endpoint.lifetime(LIFETIME);
    let (began, asked) = (Instant::now(), endpoint.asked());
    let bridge = setup.start_ready().await;
    let load = shop.load(kafka, 50, 4);
    until("the first token is over", LIFETIME * 4, async || {
        let over = endpoint.asked() >= asked + 2 && began.elapsed() > LIFETIME * 3 / 2;
        over.then_some(())
    })
    .await;
    let count = load.stop().await;
    assert_eq!(shop.is_relayed(count, 0).await, 0);
    println!("{count} messages over {} tokens", endpoint.asked() - asked);
    assert!(bridge.lines(&["trouble"]).is_empty(), "{}", bridge.log());
    stop(bridge).await;
}

/// librdkafka says so once, and goes on with what it may read.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_may_be_seen_and_not_read_is_no_secret() {
    let kafka = Kafka::start(
        "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n\
         allow.everyone.if.no.acl.found=true",
    )
    .await;
    let shop = Shop::open(&kafka, "open", 1).await;
    let closed = kafka.topic("closed", 1, &[]).await;
    let allow = async |operation| {
        let address = kafka.address();
        let arguments = [
            ["--bootstrap-server", &address],
            ["--allow-principal", "User:*"],
            ["--operation", operation],
            ["--topic", &closed],
        ];
        let arguments = [&["--add", "--force"], arguments.as_flattened()].concat();
        kafka.tool("org.apache.kafka.tools.AclCommand", &arguments).await;
    };
    allow("Describe").await;
    allow("Write").await;
    let topics = format!("topics = [\"{}\", \"{closed}\"]", shop.topic);
    let bridge = shop.setup_of(&topics, "").start().await;
    kafka.produce(&closed, [record(0, 1)]).await;
    shop.produce(&kafka, 1..41, 1_000, 1).await;
    shop.ledger.has_ids(40, PATIENCE).await;
    until("it says so", PATIENCE, async || {
        let (status, text) = bridge.get("/readyz").await;
        (status == 503 && text.contains(&format!("the partition 0 of `{closed}`"))).then_some(())
    })
    .await;
    assert_eq!(bridge.lines(&["nothing is fetched of a partition", &closed]).len(), 1);
    allow("Read").await;
    shop.ledger.has_ids(41, PATIENCE).await;
    bridge.ready().await;
    stop(bridge).await;
}
