//! Messages in the envelopes of other services of AWS: as AWS documents them, and as moto makes them.

use std::collections::BTreeMap;

use aws_sdk_sqs::types::QueueAttributeName;
use http::Method;
use serde_json::{Value, json};

use crate::support::bridge::{Bridge, Setup};
use crate::support::emulator::{Emulator, request};
use crate::support::ledger::Ledger;
use crate::support::sqs::servers::{ElasticMq, Moto};
use crate::support::sqs::{CREDENTIALS, Counts, Outgoing, Queue, REGION};
use crate::support::{PATIENCE, until};

const SNS: &str = include_str!("../fixtures/sqs/sns.json");
const EVENTBRIDGE: &str = include_str!("../fixtures/sqs/eventbridge.json");
const S3: &str = include_str!("../fixtures/sqs/s3.json");
const S3_TEST: &str = include_str!("../fixtures/sqs/s3-test.json");

/// A bridge with a source for each of these: its name, its `unwrap`, its queue and a channel by what is inside.
fn setup(emulator: &Emulator, sources: &[(&str, &str, &Queue, &str)]) -> Setup {
    let table = |(name, unwrap, queue, channel): &(&str, &str, &Queue, &str)| {
        format!(
            "[source.{name}]\ntype = \"sqs\"\nqueue = \"{}\"\naws = {{ region = \"{REGION}\" }}\n\
             wait_time = \"1s\"\nunwrap = {unwrap}\n\
             [route.{name}]\nfrom = \"{name}\"\nchannel = \"{channel}\"\n",
            queue.url
        )
    };
    let tables: String = sources.iter().map(table).collect();
    let mut setup = Setup::of(&emulator.endpoint, "", &tables, "");
    for (name, value) in CREDENTIALS {
        setup = setup.env(name, value);
    }
    setup
}

/// What SNS makes of a message that is published to a topic.
fn by_sns(message: &str) -> String {
    let mut envelope: Value = serde_json::from_str(SNS).unwrap();
    envelope["Message"] = json!(message);
    envelope.to_string()
}

async fn is_empty(queue: &Queue) {
    until("the queue is empty", PATIENCE, async || {
        (queue.counts().await == Counts::default()).then_some(())
    })
    .await;
}

/// The events of each channel.
fn channels(ledger: &Ledger) -> BTreeMap<String, Vec<Value>> {
    let mut all = BTreeMap::<_, Vec<_>>::new();
    for accepted in ledger.read() {
        all.entry(accepted.channel).or_default().push(accepted.event);
    }
    all
}

async fn settled(bridge: &Bridge, source: &str, outcome: &str) -> f64 {
    bridge.settled(source).await.get(outcome).copied().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_as_aws_documents_them_are_routed_by_a_field_inside() {
    let elasticmq = ElasticMq::shared().await;
    let mut queues = Vec::new();
    for name in ["sns", "raw", "bridge", "s3", "s3-by-sns", "bridge-by-sns"] {
        queues.push(elasticmq.queue(name, &[]).await);
    }
    let [sns, raw, bus, s3, s3_by_sns, bus_by_sns] = &queues[..] else { panic!() };
    let directory = tempfile::tempdir().unwrap();
    let (emulator, ledger) = Emulator::with_ledger(&directory, &[]);
    let setup = setup(
        &emulator,
        &[
            ("sns", "\"sns\"", sns, "/sns/{json.order.id}/{header.tenant}"),
            ("raw", "\"none\"", raw, "/raw/{json.order.id}/{header.tenant}"),
            ("bridge", "\"eventbridge\"", bus, "/bus/{json.state}/{header.eventbridge.account}"),
            ("s3", "\"s3\"", s3, "/s3/{json.s3.bucket.name}"),
            (
                "s3-by-sns",
                "[\"sns\", \"s3\"]",
                s3_by_sns,
                "/sns/s3/{header.s3.bucket}/{header.count}",
            ),
            (
                "bridge-by-sns",
                "[\"sns\", \"eventbridge\"]",
                bus_by_sns,
                "/sns/bus/{json.instance-id}",
            ),
        ],
    );
    let order = "{\"order\":{\"id\":\"o-7\"}}";
    sns.send([Outgoing::new(SNS)]).await;
    // Raw message delivery: the attributes are those of the message.
    raw.send([Outgoing::new(order).attribute("tenant", "acme")]).await;
    bus.send([Outgoing::new(EVENTBRIDGE)]).await;
    s3.send([Outgoing::new(S3_TEST), Outgoing::new(S3)]).await;
    s3_by_sns.send([Outgoing::new(by_sns(S3)), Outgoing::new(by_sns(S3_TEST))]).await;
    bus_by_sns.send([Outgoing::new(by_sns(EVENTBRIDGE))]).await;
    let bridge = setup.start_ready().await;
    for queue in &queues {
        is_empty(queue).await;
    }
    let records: Value = serde_json::from_str(S3).unwrap();
    let [put, delete] = [0, 1].map(|at| records["Records"][at].clone());
    let detail = serde_json::from_str::<Value>(EVENTBRIDGE).unwrap()["detail"].clone();
    let expected = [
        ("/sns/o-7/acme", json!({ "order": { "id": "o-7" }, "note": "café \"x\"" })),
        ("/raw/o-7/acme", json!({ "order": { "id": "o-7" } })),
        ("/bus/terminated/111122223333", detail.clone()),
        ("/s3/amzn-s3-demo-bucket", put.clone()),
        ("/s3/amzn-s3-demo-bucket2", delete.clone()),
        ("/sns/s3/amzn-s3-demo-bucket/3", put),
        ("/sns/s3/amzn-s3-demo-bucket2/3", delete),
        ("/sns/bus/i-1234567890abcdef0", detail),
    ];
    let expected = expected.map(|(channel, event)| (channel.to_owned(), vec![event])).into();
    assert_eq!(channels(&ledger), expected);
    for source in ["s3", "s3-by-sns"] {
        assert_eq!(settled(&bridge, source, "filtered").await, 1.0, "the test event");
        // One with two records is one message.
        assert_eq!(settled(&bridge, source, "published").await, 1.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_no_envelope_is_rejected_as_it_came() {
    let elasticmq = ElasticMq::shared().await;
    let queue = elasticmq.queue("sns", &[]).await;
    let directory = tempfile::tempdir().unwrap();
    let (emulator, ledger) = Emulator::with_ledger(&directory, &[]);
    let setup = setup(&emulator, &[("it", "[\"sns\", \"s3\"]", &queue, "/it/all")]);
    let one_bad = S3.replace("\"key\":\"folder", "\"name\":\"folder");
    let bodies =
        ["{\"fine\":\"json\"}", "no json", S3, &by_sns("{\"fine\":\"json\"}"), &by_sns(&one_bad)];
    queue.send(bodies.map(|body| Outgoing::new(body).attribute("tenant", "acme"))).await;
    let bridge = setup.start_ready().await;
    is_empty(&queue).await;
    bridge
        .metric_is("route_rejected_total{route=\"it\",reason=\"bad_envelope\"}", |v| v == 5.0)
        .await;
    let kept = setup.rejects();
    let payloads: std::collections::BTreeSet<_> =
        kept.iter().map(|record| record["payload"].as_str().unwrap()).collect();
    assert_eq!(payloads, bodies.into());
    for record in &kept {
        assert_eq!(record["reason"], "bad_envelope");
        let detail = record["detail"].as_str().unwrap();
        assert!(
            detail.starts_with("no SNS notification: ") || detail.starts_with("no S3 "),
            "{detail}"
        );
        let tenant = json!({ "name": "tenant", "value": "acme" });
        assert!(record["headers"].as_array().unwrap().contains(&tenant), "{record}");
    }
    assert_eq!(ledger.len(), 0);
    assert_eq!(settled(&bridge, "it", "dead_lettered").await, 5.0);
}

/// After a mistake in `unwrap` the records are opened as it says now; what is still in no envelope stays one.
#[tokio::test(flavor = "multi_thread")]
async fn a_replay_opens_the_envelopes_as_the_source_would() {
    let directory = tempfile::tempdir().unwrap();
    let (emulator, ledger) = Emulator::with_ledger(&directory, &[]);
    let elasticmq = ElasticMq::shared().await;
    let queue = elasticmq.queue("replayed", &[]).await;
    let with = |unwrap: &'static str| {
        setup(&emulator, &[("it", unwrap, &queue, "/it/all/{header.tenant}")])
    };
    queue
        .send([S3, S3_TEST, "{}"].map(|body| Outgoing::new(body).attribute("tenant", "acme")))
        .await;
    let wrong = with("\"sns\"");
    let bridge = wrong.start_ready().await;
    is_empty(&queue).await;
    drop(bridge);
    assert_eq!((wrong.rejects().len(), ledger.len()), (3, 0));

    let right = with("\"s3\"");
    let file = wrong.file("rejects.jsonl");
    let replay = |more: &[&str]| {
        let mut command = crate::support::emulator::bridge();
        command.arg("replay").arg(&file).arg("-c").arg(right.config()).args(more);
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (code, said) = replay(&["--dry-run"]);
    assert_eq!((code, said.matches("/it/all/acme").count()), (Some(1), 2), "{said}");
    assert_eq!(ledger.len(), 0);
    let (code, said) = replay(&[]);
    assert_eq!(code, Some(1), "{said}");
    let records: Value = serde_json::from_str(S3).unwrap();
    let expected = [0, 1].map(|at| records["Records"][at].clone()).to_vec();
    assert_eq!(channels(&ledger), [("/it/all/acme".to_owned(), expected)].into());
    let again = std::fs::read_to_string(wrong.file("rejects.jsonl.rejected")).unwrap();
    let again: Vec<Value> = again.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(again.len(), 1, "{again:?}");
    assert_eq!((&again[0]["payload"], &again[0]["reason"]), (&json!("{}"), &json!("bad_envelope")));
    assert!(again[0]["detail"].as_str().unwrap().contains("S3"), "{again:?}");
}

/// Asks another service of moto: with a form, or with JSON for a `target`. No signature is looked at.
async fn ask(moto: &Moto, service: &str, body: &str, target: &str) -> String {
    let form = if target.is_empty() { "x-www-form-urlencoded" } else { "x-amz-json-1.1" };
    let form = format!("application/{form}");
    let headers = [("content-type", form.as_str()), ("x-amz-target", target)];
    asked(Method::POST, &moto.endpoint, service, &headers, body).await
}

/// Puts a bucket or an object, or a setting of one.
async fn put(moto: &Moto, path: &str, body: &str) {
    asked(Method::PUT, &format!("{}/{path}", moto.endpoint), "s3", &[], body).await;
}

async fn asked(
    method: Method,
    url: &str,
    service: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> String {
    let scope = format!("AKIDTEST/20260101/{REGION}/{service}/aws4_request");
    let by = format!("AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0");
    let headers = [headers, &[("authorization", by.as_str())]].concat();
    let answer = request(method, url, &headers, body.to_owned()).await;
    let said = String::from_utf8(answer.body.to_vec()).unwrap();
    assert!(answer.status.is_success(), "{service}: {} {said}", answer.status);
    said
}

/// SNS, `EventBridge` and S3 themselves, as far as moto is them.
#[tokio::test(flavor = "multi_thread")]
async fn what_other_services_put_into_a_queue_is_understood() {
    let moto = Moto::shared().await;
    let (by_topic, by_bus, by_bucket) = (
        moto.queue("by-topic", &[]).await,
        moto.queue("by-bus", &[]).await,
        moto.queue("by-bucket", &[]).await,
    );
    let directory = tempfile::tempdir().unwrap();
    let (emulator, ledger) = Emulator::with_ledger(&directory, &[]);
    let setup = setup(
        &emulator,
        &[
            ("topic", "\"sns\"", &by_topic, "/topic/{json.id}/{header.tenant}"),
            ("bus", "\"eventbridge\"", &by_bus, "/bus/{json.id}/{header.eventbridge.source}"),
            ("bucket", "\"s3\"", &by_bucket, "/bucket/{header.s3.bucket}/{header.s3.key}"),
        ],
    );
    let arn = async |queue: &Queue| queue.attribute(QueueAttributeName::QueueArn).await.unwrap();
    let topic = ask(moto, "sns", "Action=CreateTopic&Name=topic", "").await;
    let topic = topic.split("<TopicArn>").nth(1).unwrap().split('<').next().unwrap().to_owned();
    let subscribe = format!("Action=Subscribe&TopicArn={topic}&Protocol=sqs&Endpoint=");
    ask(moto, "sns", &(subscribe + &arn(&by_topic).await), "").await;
    let attribute = "MessageAttributes.entry.1";
    let publish = format!(
        "Action=Publish&TopicArn={topic}&Message=%7B%22id%22%3A%22t-1%22%7D&{attribute}.Name=tenant\
         &{attribute}.Value.DataType=String&{attribute}.Value.StringValue=acme"
    );
    ask(moto, "sns", &publish, "").await;

    let rule = json!({ "Name": "rule", "EventPattern": "{\"source\":[\"shop\"]}" });
    ask(moto, "events", &rule.to_string(), "AWSEvents.PutRule").await;
    let target = json!({ "Id": "queue", "Arn": arn(&by_bus).await });
    let target = json!({ "Rule": "rule", "Targets": [target] });
    ask(moto, "events", &target.to_string(), "AWSEvents.PutTargets").await;
    let event = json!({ "Source": "shop", "DetailType": "order", "Detail": "{\"id\":\"b-1\"}" });
    let events = json!({ "Entries": [event] }).to_string();
    ask(moto, "events", &events, "AWSEvents.PutEvents").await;

    let region = format!("<LocationConstraint>{REGION}</LocationConstraint>");
    let here = format!("<CreateBucketConfiguration>{region}</CreateBucketConfiguration>");
    put(moto, "files", &here).await;
    let configuration = format!(
        "<NotificationConfiguration><QueueConfiguration><Id>it</Id><Queue>{}</Queue>\
         <Event>s3:ObjectCreated:*</Event></QueueConfiguration></NotificationConfiguration>",
        arn(&by_bucket).await
    );
    put(moto, "files?notification", &configuration).await;
    put(moto, "files/photo-1", "x").await;

    let _bridge = setup.start_ready().await;
    ledger.reaches(3, PATIENCE).await;
    for queue in [&by_topic, &by_bus, &by_bucket] {
        is_empty(queue).await;
    }
    assert_eq!(setup.rejects(), Vec::<Value>::new());
    let channels = channels(&ledger);
    let found: Vec<_> = channels.keys().map(String::as_str).collect();
    assert_eq!(found, ["/bucket/files/photo-1", "/bus/b-1/shop", "/topic/t-1/acme"]);
}
