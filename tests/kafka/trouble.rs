//! A Kafka that can't be used: one clear line in `check --connect` and one in the log, tried again without
//! a busy loop, and at work when it is mended.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::security::{password, setup, token};
use crate::support::PATIENCE;
use crate::support::bridge::{Bridge, Setup, write_secret};
use crate::support::kafka::Kafka;
use crate::support::kafka::security::{Listener, PASSWORD, USER};
use crate::support::shop::{Shop, record, stop};
use crate::support::tokens::Issuer;
use crate::support::until;

/// How long the processor time is counted.
const LOOK: Duration = Duration::from_secs(3);

/// `check --connect` says why in one line, with what to look at.
async fn check_says(setup: &Setup, why: &str, hint: &str) {
    let (yes, said) = setup.check().await;
    let lines: Vec<_> = said.lines().filter(|line| line.contains(why)).collect();
    assert!(!yes && lines.len() == 1 && lines[0].contains(hint), "{why}; {hint}:\n{said}");
    println!("check: {}", lines[0].trim());
}

/// Starts a bridge that can't work; expects `/readyz` to say why, the log to say it in one line with what
/// to look at, and no busy loop.
async fn can_not_work(setup: &Setup, why: &str, hint: &str) -> Bridge {
    let bridge = setup.start().await;
    until(why, PATIENCE, async || {
        let (status, text) = bridge.get("/readyz").await;
        (status == 503 && text.contains(why)).then_some(())
    })
    .await;
    let (before, began) = (bridge.cpu(), Instant::now());
    tokio::time::sleep(LOOK).await;
    let (used, looked) = (bridge.cpu() - before, began.elapsed());
    // A busy loop takes all of a core that it can get.
    assert!(used < looked.as_secs_f64() / 2.0, "{used} s of processor time in {looked:?}");
    let lines = bridge.lines(&["Kafka client error", why]);
    assert!(lines.len() == 1 && lines[0].contains(hint), "{why}; {hint}:\n{}", bridge.log());
    println!("log, with {used:.2} s of CPU in {LOOK:?}: {}", lines[0]);
    bridge
}

/// It was tried again, and works: ten messages are relayed.
async fn is_mended(kafka: &Kafka, shop: &Shop, bridge: Bridge) {
    shop.produce(kafka, 0..10, 1_000, 1).await;
    shop.ledger.has_ids(10, PATIENCE).await;
    bridge.ready().await;
    stop(bridge).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_topic_is_named_and_taken_up_when_it_is_there() {
    let kafka = Kafka::shared().await;
    let shop = Shop::open(kafka, "known", 1).await;
    let (yes, said) = shop.setup("").check().await;
    assert!(yes && said.contains("connected: 1 broker, 1 topic with 1 partition"), "{said}");

    let missing = format!("{}-missing", shop.topic);
    let setup = shop.setup_of(
        &format!(
            "topics = [\"{}\", \"{missing}\"]\n\
             options = {{ \"topic.metadata.refresh.interval.ms\" = 1000 }}",
            shop.topic
        ),
        "",
    );
    let hint = "check `topics`; a topic created later is subscribed to then";
    let why = format!("the topic `{missing}` can't be read: Unknown topic or partition");
    check_says(&setup, &why, hint).await;
    let bridge = can_not_work(&setup, &missing, hint).await;
    shop.produce(kafka, 0..10, 1_000, 1).await;
    shop.ledger.has_ids(10, PATIENCE).await;
    kafka.create_topic(&missing, 1, &[]).await;
    kafka.produce(&missing, [record(10, 1)]).await;
    shop.ledger.has_ids(11, PATIENCE).await;
    bridge.ready().await;
    stop(bridge).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_not_there_is_said_and_waited_for() {
    let kafka = Kafka::shared().await;
    let shop = Shop::open(kafka, "away", 1).await;
    // A port that is taken, where nobody listens.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    let source = format!("brokers = \"{address}\"\ntopics = \"{}\"", shop.topic);
    let setup = shop.setup_of(&source, "");
    let hint = "check `brokers`, the network, and whether the port needs `tls`";
    check_says(&setup, "Connection refused", hint).await;
    let mut bridge = can_not_work(&setup, "Connection refused", hint).await;
    bridge.signal("TERM");
    assert_eq!(bridge.ended(Duration::from_secs(10)).await.code(), Some(0), "{}", bridge.log());

    let bridge = setup.start().await;
    until("the broker is missed", PATIENCE, async || {
        (bridge.lines(&["Kafka client error"]).len() == 1).then_some(())
    })
    .await;
    let listener = socket.listen(16).unwrap();
    let passing = tokio::spawn(pass_on(listener, kafka.address()));
    is_mended(kafka, &shop, bridge).await;
    passing.abort();
}

/// Passes every connection on; it is the first one that counts, the broker names itself in its answers.
async fn pass_on(listener: TcpListener, to: String) {
    while let Ok((mut from, _)) = listener.accept().await {
        let mut to = TcpStream::connect(&to).await.unwrap();
        tokio::spawn(async move { tokio::io::copy_bidirectional(&mut from, &mut to).await });
    }
}

const PASSWORD_HINT: &str = "check `sasl`: the user, the password and the mechanism";

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_is_unknown_is_said_and_let_in_when_he_is_known() {
    let kafka = Kafka::shared().await;
    let shop = Shop::open(kafka, "user", 1).await;
    let user = format!("late-{:08x}", rand::random::<u32>());
    let sasl = password("scram-sha-512", &user, "later");
    let setup = setup(kafka, &shop, Listener::Password, &sasl);
    check_says(&setup, "invalid credentials", PASSWORD_HINT).await;
    let bridge = can_not_work(&setup, "invalid credentials", PASSWORD_HINT).await;
    let (address, user) = (kafka.address(), format!("--entity-name={user}"));
    let added = "--add-config=SCRAM-SHA-512=[password=later]";
    let arguments = ["--bootstrap-server", &address, "--alter", "--entity-type", "users"];
    kafka.tool("kafka.admin.ConfigCommand", &[&arguments[..], &[&user, added]].concat()).await;
    is_mended(kafka, &shop, bridge).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_said_and_another_one_in_its_file_is_taken() {
    let kafka = Kafka::shared().await;
    let shop = Shop::open(kafka, "password", 1).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("password");
    write_secret(&file, "wrong");
    let sasl = format!(
        "mechanism = \"plain\", username = \"{USER}\", password = {{ file = \"{}\" }}",
        file.display()
    );
    let setup = setup(kafka, &shop, Listener::Password, &sasl);
    check_says(&setup, "Invalid username or password", PASSWORD_HINT).await;
    let bridge = can_not_work(&setup, "Invalid username or password", PASSWORD_HINT).await;
    write_secret(&file, PASSWORD);
    is_mended(kafka, &shop, bridge).await;
}

const TOKEN_HINT: &str =
    "check `sasl`: the issuer and the client, and the claims that the broker expects in a token";

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_gives_no_token_is_said_and_asked_again() {
    let kafka = Kafka::shared().await;
    let shop = Shop::open(kafka, "issuer", 1).await;
    let endpoint = kafka.security().issuer.serve().await;
    endpoint.refuse(503);
    let setup = setup(kafka, &shop, Listener::Token, &token(&endpoint));
    check_says(&setup, "the token endpoint answers 503", TOKEN_HINT).await;
    let bridge = can_not_work(&setup, "the token endpoint answers 503", TOKEN_HINT).await;
    endpoint.refuse(0);
    is_mended(kafka, &shop, bridge).await;
}

/// Its tokens would be good for an hour: another one is asked for all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_the_broker_refuses_is_said_and_replaced() {
    let kafka = Kafka::shared().await;
    let shop = Shop::open(kafka, "refused", 1).await;
    let endpoint = Arc::new(Issuer::new()).serve().await;
    let setup = setup(kafka, &shop, Listener::Token, &token(&endpoint));
    check_says(&setup, "invalid_token", TOKEN_HINT).await;
    let bridge = can_not_work(&setup, "invalid_token", TOKEN_HINT).await;
    endpoint.gives_of(&kafka.security().issuer);
    is_mended(kafka, &shop, bridge).await;
}

/// The broker is none of Amazon's: it refuses what is signed with AWS credentials, and without any
/// nothing is sent to it.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_aws_is_sent_and_its_refusal_said() {
    let kafka = Kafka::shared().await;
    let shop = Shop::open(kafka, "aws", 1).await;
    let sasl = "mechanism = \"aws-msk-iam\", aws = { region = \"eu-west-1\" }";
    let hint =
        "check the AWS credentials, their permission for `kafka-cluster:Connect`, and the region";
    let known = setup(kafka, &shop, Listener::Token, sasl)
        .env("AWS_ACCESS_KEY_ID", "AKIDTEST")
        .env("AWS_SECRET_ACCESS_KEY", "top-secret");
    check_says(&known, "invalid_token", hint).await;
    let bridge = can_not_work(&known, "invalid_token", hint).await;
    assert!(!bridge.log().contains("X-Amz") && !bridge.log().contains("top-secret"));
    stop(bridge).await;

    let unknown = setup(kafka, &shop, Listener::Token, sasl)
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("HOME", "/nonexistent");
    check_says(&unknown, "redentials", hint).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_of_an_unknown_authority_is_said() {
    let kafka = Kafka::shared().await;
    let shop = Shop::open(kafka, "authority", 1).await;
    let brokers = kafka.address_of(Listener::Tls);
    let source = format!("brokers = \"{brokers}\"\ntopics = \"{}\"\ntls = true", shop.topic);
    let setup = shop.setup_of(&source, "");
    let hint = "check `tls`: its `ca_file` and certificate";
    check_says(&setup, "certificate verify failed", hint).await;
    let bridge = can_not_work(&setup, "certificate verify failed", hint).await;
    stop(bridge).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_bridges_of_one_instance_are_told_of_each_other() {
    let kafka = Kafka::shared().await;
    let shop = Shop::open(kafka, "twins", 1).await;
    let setups = [0, 1].map(|_| shop.setup("group_instance_id = \"twin\""));
    let first = setups[0].start_ready().await;
    let second = setups[1].start().await;
    until("the first is told", PATIENCE, async || {
        (!first.lines(&["another bridge has the same `group_instance_id`"]).is_empty())
            .then_some(())
    })
    .await;
    stop(second).await;
    first.ready().await;
    stop(first).await;
}
