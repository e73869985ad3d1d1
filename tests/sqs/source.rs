//! What a queue brings, where it goes, and how the source leaves.

use std::time::Duration;

use aws_sdk_sqs::types::QueueAttributeName::VisibilityTimeout;
use serde_json::json;

use super::{IN_FLIGHT, Relay, all_deleted, bodies, source_of};
use crate::support::emulator::Emulator;
use crate::support::ledger::assert_order;
use crate::support::sqs::fake::{Action, Fake, Refusal};
use crate::support::sqs::{CREDENTIALS, Outgoing};
use crate::support::{PATIENCE, signal, until};

#[tokio::test(flavor = "multi_thread")]
async fn all_that_is_known_of_a_message_reaches_the_route() {
    let fake = Fake::start().await;
    let queue = fake.queue("known", &[]).await;
    let relay = Relay::open(&[]);
    let route = "topic = \"{queue}\"\n\
                 channel = \"/it/{queue}/{header.tenant}/{header.ApproximateReceiveCount}/{header.SenderId}\"\n";
    let setup = relay.setup_of(&source_of("it", &queue, ""), route, "");
    let bridge = setup.start_ready().await;
    let message = Outgoing::new("{\"id\":1,\"key\":2}").attribute("tenant", "acme");
    queue
        .send([message.bytes("raw", &[0, 255]), Outgoing::new("no json").attribute("tenant", "b")])
        .await;
    relay.has_all(&bridge, 1).await;
    assert_eq!(relay.ledger.read()[0].channel, format!("/it/{}/acme/1/AIDATEST", queue.name));
    all_deleted(&fake, &queue).await;
    let [reject] = &setup.rejects()[..] else { panic!("{:?}", setup.rejects()) };
    assert_eq!(
        (&reject["topic"], &reject["payload"]),
        (&queue.name.as_str().into(), &"no json".into())
    );
    assert!(reject["coordinates"]["message_id"].is_string(), "{reject}");
    assert!(reject["published"].is_string(), "{reject}");
    assert_eq!(bridge.metric("source_receive_count_count{source=\"it\"}").await, 2.0);
}

/// Room is reserved before it is asked for, by each receiver.
#[tokio::test(flavor = "multi_thread")]
async fn no_more_is_received_than_may_be_in_flight() {
    let fake = Fake::start().await;
    let queue = fake.queue("room", &[]).await;
    fake.fill(&queue.name, bodies(0..500, 5));
    let relay = Relay::open(&[]);
    let bridge = relay.setup(&queue, "max_in_flight = 53\nreceivers = 8").start_ready().await;
    signal(relay.emulator.pid(), "STOP");
    bridge.metric_is(IN_FLIGHT, |v| v == 53.0).await;
    for _ in 0..10 {
        let handed =
            fake.history(&queue.name).iter().filter(|m| m.receives > 0 && !m.deleted).count();
        assert!(handed <= 53, "{handed}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    signal(relay.emulator.pid(), "CONT");
    relay.has_all(&bridge, 500).await;
    assert_eq!(all_deleted(&fake, &queue).await[&1], 500);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_queues_are_several_sources() {
    let fake = Fake::start().await;
    let (one, two) = (fake.queue("one", &[]).await, fake.queue("two.fifo", &[]).await);
    let relay = Relay::open(&[]);
    let sources = source_of("it", &one, "") + &source_of("other", &two, "");
    let route = "channel = \"/it/one\"\n[route.other]\nfrom = \"other\"\nchannel = \"/it/two\"\n";
    let bridge = relay.setup_of(&sources, route, "").start_ready().await;
    fake.fill(&one.name, bodies(0..20, 5));
    two.send(super::grouped(20..40, 5)).await;
    relay.has_all(&bridge, 40).await;
    let accepted = relay.ledger.read();
    assert_eq!(accepted.iter().filter(|a| a.channel == "/it/two").count(), 20);
    all_deleted(&fake, &one).await;
    all_deleted(&fake, &two).await;
}

/// A group whose events fail holds back itself alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_fails_stops_no_other() {
    let fake = Fake::start().await;
    let queue = fake.queue("groups.fifo", &[(VisibilityTimeout, "2")]).await;
    let relay = Relay::open(&["--control"]);
    let fails = json!([{ "fault": { "answer": { "status": 500 } }, "channel": "/it/dev-1" }]);
    relay.emulator.set_faults(fails).await;
    let bridge = relay.setup(&queue, "").start_ready().await;
    queue.send(super::grouped(0..50, 5)).await;
    relay.ledger.has_ids(40, PATIENCE).await;
    until("the others are deleted", PATIENCE, async || {
        (fake.history(&queue.name).iter().filter(|m| m.deleted).count() == 40).then_some(())
    })
    .await;
    assert!(relay.emulator.strikes().await[0] > 0);
    let other = |a: &crate::support::ledger::Accepted| a.event["key"] != 1;
    assert!(relay.ledger.read().iter().all(other));
    relay.emulator.set_faults(json!([])).await;
    relay.has_all(&bridge, 50).await;
    assert_order(&relay.ledger.read(), 0);
    assert_eq!(all_deleted(&fake, &queue).await[&1], 50);
}

/// What a receive brings that was open when the drain came has never been ours: it is anybody's at once.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_open_receive_brings_in_the_drain_goes_back() {
    let fake = Fake::start().await;
    let queue = fake.queue("open", &[]).await;
    let relay = Relay::open(&[]);
    let mut bridge = relay.setup(&queue, "wait_time = \"10s\"").start_ready().await;
    until("both receivers wait", PATIENCE, async || (fake.open_polls() == 2).then_some(())).await;
    bridge.signal("TERM");
    until("it drains", PATIENCE, async || {
        (bridge.get("/readyz").await.1.contains("draining")).then_some(())
    })
    .await;
    fake.fill(&queue.name, bodies(0..3, 3));
    let status = bridge.ended(Duration::from_secs(25)).await;
    assert_eq!(status.code(), Some(0), "{}", bridge.log());
    assert_eq!(relay.ledger.len(), 0);
    let counts = queue.counts().await;
    assert_eq!((counts.waiting, counts.in_flight), (3, 0));
    assert!(fake.history(&queue.name).iter().all(|m| !m.deleted && m.receives <= 2));
}

/// The abort has a moment to give back what nobody has answered for.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_done_at_the_end_of_the_grace_goes_back() {
    let fake = Fake::start().await;
    let queue = fake.queue("grace", &[(VisibilityTimeout, "600")]).await;
    let mut relay = Relay::open(&[]);
    let source = source_of("it", &queue, "");
    let grace = "[shutdown]\ngrace = \"2s\"\n";
    let route = "channel = \"/it/dev-{json.key}\"\n";
    let tables = format!("{source}\n[route.data]\nfrom = \"it\"\n{route}");
    let setup = crate::support::bridge::Setup::of(
        &relay.emulator.endpoint,
        "timeout = \"1s\"",
        &tables,
        grace,
    );
    let setup = setup.env("AWS_ACCESS_KEY_ID", "AKIDTEST").env("AWS_SECRET_ACCESS_KEY", "secret");
    let address = relay.emulator.host().to_owned();
    let mut bridge = setup.start_ready().await;
    signal(relay.emulator.pid(), "KILL");
    fake.fill(&queue.name, bodies(0..30, 3));
    bridge.metric_is(IN_FLIGHT, |v| v == 30.0).await;
    bridge.signal("TERM");
    assert_eq!(bridge.ended(PATIENCE).await.code(), Some(1));
    let counts = queue.counts().await;
    assert_eq!((counts.waiting, counts.in_flight), (30, 0), "{}", bridge.log());
    relay.emulator =
        Emulator::start_at(&address, &["--ledger", relay.ledger.path.to_str().unwrap()]);
    let bridge = setup.start_ready().await;
    relay.has_all(&bridge, 30).await;
}

/// `dead_letter = "source"`.
#[tokio::test(flavor = "multi_thread")]
async fn rejects_are_left_to_the_redrive_policy_and_nothing_else_is() {
    let fake = Fake::start().await;
    let (queue, dead) = fake.with_redrive("left", &[(VisibilityTimeout, "2")], 2).await;
    let relay = Relay::open(&[]);
    let route = "channel = \"/it/dev-{json.key}\"\ndead_letter = \"source\"\n";
    let setup = relay.setup_of(&source_of("it", &queue, ""), route, "");
    let bridge = setup.start_ready().await;
    fake.fill(&queue.name, bodies(0..5, 5));
    fake.fill(&queue.name, ["no json".to_owned()]);
    relay.has_all(&bridge, 5).await;
    until("it is in the other queue", PATIENCE, async || {
        (fake.history(&dead.name).len() == 1).then_some(())
    })
    .await;
    let history = fake.history(&queue.name);
    assert!(history[..5].iter().all(|m| m.deleted && m.receives == 1), "{history:?}");
    assert!(history[5].moved && history[5].receives == 2, "{history:?}");
    let settled = bridge.settled("it").await;
    assert_eq!((settled["published"], settled["left_to_broker"]), (5.0, 2.0));
    assert!(setup.rejects().is_empty());
}

/// At a reload that ends nothing: it is refused, or waited for if the queue did not say.
#[tokio::test(flavor = "multi_thread")]
async fn a_reload_that_leaves_rejects_to_a_queue_without_a_policy_ends_nothing() {
    let fake = Fake::start().await;
    let queue = fake.queue("poor", &[]).await;
    let relay = Relay::open(&[]);
    let setup = relay.setup(&queue, "");
    let bridge = setup.start_ready().await;
    let good = std::fs::read_to_string(setup.config()).unwrap();
    let channel = "channel = \"/it/dev-{json.key}\"\n";
    let left = good.replace(channel, &format!("{channel}dead_letter = \"source\"\n"));
    std::fs::write(setup.config(), &left).unwrap();
    let (status, answer) = bridge.reload(&[]).await;
    let said = answer["problems"][0]["message"].as_str().unwrap_or_default();
    assert_eq!(status, 422, "{answer}");
    assert!(said.contains("source `it`") && said.contains("no redrive policy"), "{said}");
    assert_eq!(bridge.get("/readyz").await.0, 200);

    fake.faults().requests.insert(Action::GetQueueAttributes, (Refusal::Unavailable, 1));
    assert_eq!(bridge.reload(&[]).await.0, 200);
    until("it says what is missing", PATIENCE, async || {
        let (status, said) = bridge.get("/readyz").await;
        (status == 503 && said.contains("no redrive policy")).then_some(())
    })
    .await;
    let receives = fake.asked(Action::ReceiveMessage);
    fake.fill(&queue.name, bodies(0..5, 5));
    assert_eq!(bridge.get("/livez").await.0, 200);
    assert_eq!(fake.asked(Action::ReceiveMessage), receives);

    std::fs::write(setup.config(), &good).unwrap();
    assert_eq!(bridge.reload(&[]).await.0, 200);
    relay.has_all(&bridge, 5).await;
    bridge.ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_redrive_policy_rejects_can_not_be_left() {
    let fake = Fake::start().await;
    let queue = fake.queue("poor", &[]).await;
    fake.fill(&queue.name, bodies(0..5, 5));
    let relay = Relay::open(&[]);
    let route = "channel = \"/it/dev-{json.key}\"\ndead_letter = \"source\"\n";
    let setup = relay.setup_of(&source_of("it", &queue, ""), route, "");
    let mut run = tokio::process::Command::from(crate::support::emulator::bridge());
    run.args(["run", "-c"]).arg(setup.config()).envs(CREDENTIALS);
    let output = run.output().await.unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{log}");
    assert!(log.contains("a source (its queue has no redrive policy"), "{log}");
    assert!(!log.contains("\"ready\""), "{log}");
    assert_eq!(fake.asked(Action::ReceiveMessage), 0);
    let (good, said) = setup.check().await;
    assert!(!good && said.contains("has no redrive policy"), "{said}");
    assert_eq!(fake.asked(Action::ReceiveMessage), 0);
}
