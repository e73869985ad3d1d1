//! Dead letters in an SQS queue.

use std::collections::BTreeMap;

use aws_sdk_sqs::types::{Message, MessageSystemAttributeName};
use serde_json::{Value, json};

use crate::support::bridge::{Bridge, Setup};
use crate::support::emulator::Emulator;
use crate::support::sqs::fake::{ALWAYS, Action, Fake, Refusal};
use crate::support::sqs::servers::ElasticMq;
use crate::support::sqs::{CREDENTIALS, Counts, Outgoing, Queue, REGION, Server};
use crate::support::{PATIENCE, until};

/// A bridge from one queue, which keeps what can't be published in another.
async fn setup(emulator: &Emulator, server: &Server, rejects: &str) -> (Setup, Queue, Queue) {
    let (from, to) = (server.queue("orders", &[]).await, server.queue(rejects, &[]).await);
    let queue = |queue: &Queue| {
        format!("type = \"sqs\"\nqueue = \"{}\"\naws = {{ region = \"{REGION}\" }}\n", queue.url)
    };
    let tables = format!(
        "[source.shop]\n{}wait_time = \"1s\"\n\
         [route.data]\nfrom = \"shop\"\nchannel = \"/shop/{{json.tenant}}\"\ndead_letter = \"queue\"\n\
         [dead_letter.queue]\n{}",
        queue(&from),
        queue(&to)
    );
    let mut setup = Setup::of(&emulator.endpoint, "", &tables, "");
    for (name, value) in CREDENTIALS {
        setup = setup.env(name, value);
    }
    (setup, from, to)
}

fn bad(id: u64) -> Outgoing {
    Outgoing::new(format!("no json {id}")).attribute("tenant", "acme")
}

/// The record of a message that is whole.
fn record(message: &Message) -> Value {
    serde_json::from_str(message.body().unwrap()).unwrap()
}

fn attribute<'m>(message: &'m Message, name: &str) -> Option<&'m str> {
    message.message_attributes()?.get(&format!("appsync-bridge.{name}"))?.string_value()
}

/// How often each payload is there.
fn payloads(messages: &[Message]) -> BTreeMap<String, usize> {
    let mut all = BTreeMap::new();
    for message in messages {
        *all.entry(record(message)["payload"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    all
}

async fn is_empty(queue: &Queue) {
    until("the queue is empty", PATIENCE, async || {
        (queue.counts().await == Counts::default()).then_some(())
    })
    .await;
}

/// Waits for `/readyz` to say this of the dead letter.
async fn is_held(bridge: &Bridge, why: &str) {
    until(why, PATIENCE, async || {
        let (status, text) = bridge.get("/readyz").await;
        let line =
            text.lines().any(|line| line.contains("dead_letter queue") && line.contains(why));
        (status == 503 && line).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reject_is_in_a_queue_as_it_came_with_its_reason() {
    let elasticmq = ElasticMq::shared().await;
    for (rejects, kind) in [("rejects", "standard"), ("rejects.fifo", "FIFO")] {
        let emulator = Emulator::start(&[]);
        let (setup, from, to) = setup(&emulator, elasticmq, rejects).await;
        let (yes, said) = setup.check().await;
        let found =
            format!("dead_letter queue: connected: a {kind} queue, which takes messages of");
        assert!(yes && said.contains(&found), "{said}");
        assert_eq!(to.counts().await, Counts::default(), "a check sends nothing");
        from.send([bad(0), Outgoing::new("{\"tenant\":\"../x\"}")]).await;
        let bridge = setup.start_ready().await;
        is_empty(&from).await;
        bridge.metric_is("dead_letters_total{reason=\"invalid_json\"}", |v| v == 1.0).await;

        let kept = to.take_all().await;
        assert_eq!(kept.len(), 2, "{kept:?}");
        let of = |reason| kept.iter().find(|kept| attribute(kept, "reason") == reason).unwrap();
        let json = of(Some("invalid_json"));
        assert_eq!(attribute(json, "source"), Some("shop"));
        assert_eq!(attribute(json, "route"), Some("data"));
        assert_eq!(attribute(json, "part"), None);
        let written = record(json);
        assert_eq!(written["payload"], "no json 0");
        assert_eq!(written["topic"], from.name);
        let tenant = json!({ "name": "tenant", "value": "acme" });
        assert!(written["headers"].as_array().unwrap().contains(&tenant), "{written}");
        assert!(written["coordinates"]["message_id"].is_string(), "{written}");
        assert_eq!(record(of(Some("bad_channel_segment")))["payload"], "{\"tenant\":\"../x\"}");
        let group = |message: &Message| {
            message.attributes().unwrap().get(&MessageSystemAttributeName::MessageGroupId).cloned()
        };
        assert_eq!(group(json).is_some(), kind == "FIFO");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_for_a_message_goes_in_parts() {
    let (emulator, fake) = (Emulator::start(&[]), Fake::start().await);
    for rejects in ["rejects", "rejects.fifo"] {
        let (setup, from, to) = setup(&emulator, &fake, rejects).await;
        // Twice as long when it is written, and a small one before and behind it.
        let large = "\"".repeat(1_000_000);
        from.send([bad(0)]).await;
        from.send([Outgoing::new(large.clone())]).await;
        from.send([bad(1)]).await;
        let _bridge = setup.start_ready().await;
        is_empty(&from).await;
        let mut kept = to.take_all().await;
        let parted: Vec<_> =
            kept.extract_if(.., |kept| attribute(kept, "part").is_some()).collect();
        assert_eq!(payloads(&kept).into_keys().collect::<Vec<_>>(), ["no json 0", "no json 1"]);
        let of = attribute(&parted[0], "record");
        assert!(of.is_some() && parted.iter().all(|part| attribute(part, "record") == of));
        let count = parted.len();
        let parts: BTreeMap<_, _> =
            parted.iter().map(|part| (attribute(part, "part").unwrap(), part)).collect();
        let numbered = (1..=count).map(|at| parts[format!("{at}/{count}").as_str()]);
        let whole: String = numbered.map(|part| part.body().unwrap()).collect();
        let whole: Value = serde_json::from_str(&whole).unwrap();
        assert!(count > 1 && whole["payload"] == large, "{count}");
    }
}

/// It refuses the whole batch, and is asked again what it takes.
#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_takes_less_by_now_gets_parts() {
    let (emulator, fake) = (Emulator::start(&[]), Fake::start().await);
    let (setup, from, to) = setup(&emulator, &fake, "rejects").await;
    let _bridge = setup.start_ready().await;
    from.send([bad(0)]).await;
    is_empty(&from).await;
    fake.limit_size(&to.name, 10_000);
    from.send([Outgoing::new("x".repeat(50_000))]).await;
    is_empty(&from).await;
    let kept = to.take_all().await;
    let parts = kept.iter().filter(|kept| attribute(kept, "part").is_some()).count();
    assert!(parts >= 5 && kept.len() == parts + 1, "{parts} of {}", kept.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_reject_is_there_when_its_message_is_gone() {
    const BAD: usize = 200;
    let (emulator, fake) = (Emulator::start(&[]), Fake::start().await);
    for rejects in ["rejects", "rejects.fifo"] {
        let (setup, from, to) = setup(&emulator, &fake, rejects).await;
        fake.faults().entries.insert(Action::SendMessageBatch, 0.0);
        from.send((0..BAD as u64).map(bad)).await;
        fake.faults().entries.insert(Action::SendMessageBatch, 0.3);
        let bridge = setup.start_ready().await;
        is_empty(&from).await;
        let kept = payloads(&to.take_all().await);
        assert_eq!((kept.len(), kept.values().sum::<usize>()), (BAD, BAD), "none twice");
        drop(bridge);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_takes_none_holds_the_messages_and_says_why() {
    const BAD: usize = 25;
    let (emulator, fake) = (Emulator::start(&[]), Fake::start().await);
    let (setup, from, to) = setup(&emulator, &fake, "rejects.fifo").await;
    from.send((0..BAD as u64).map(bad)).await;
    let refuse = |refusal, times| {
        fake.faults().requests.insert(Action::SendMessageBatch, (refusal, times));
    };
    refuse(Refusal::AccessDenied, ALWAYS);
    let (yes, said) = setup.check().await;
    assert!(!yes && said.contains("`sqs:SendMessage` is denied"), "{said}");
    let bridge = setup.start().await;
    is_held(&bridge, "`sqs:SendMessage` is denied").await;
    let resource = format!("arn:aws:sqs:{REGION}:123456789012:{}", to.name);
    is_held(&bridge, &format!("allow `sqs:SendMessage` on `{resource}`")).await;
    refuse(Refusal::KmsAccessDenied, ALWAYS);
    is_held(&bridge, "`kms:Decrypt` and `kms:GenerateDataKey`").await;
    refuse(Refusal::NoQueue, ALWAYS);
    is_held(&bridge, &format!("there is no queue `{}`", to.name)).await;
    assert!(fake.history(&from.name).iter().all(|message| !message.deleted));
    // They were taken, and the answers were lost: a FIFO queue has each of them once.
    let asked = fake.asked(Action::SendMessageBatch);
    refuse(Refusal::Lost, 3);
    is_empty(&from).await;
    assert!(fake.asked(Action::SendMessageBatch) > asked + 3);
    let kept = payloads(&to.take_all().await);
    assert_eq!((kept.len(), kept.values().sum::<usize>()), (BAD, BAD));
    assert!(fake.history(&from.name).iter().all(|message| message.receives == 1));
}
