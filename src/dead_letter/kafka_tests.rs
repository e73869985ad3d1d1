//! The producer of dead letters, over librdkafka's mock cluster.

use super::*;

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey as Api, RDKafkaRespErr as Answer};

use crate::dead_letter::tests::record;
use crate::message::Message;
use crate::message::tests::message;

const TOPIC: &str = "rejects";

async fn target(mock: &MockCluster<'static, DefaultProducerContext>) -> KafkaTarget {
    let mut cluster = crate::config::kafka::tests::config();
    cluster.brokers = vec![mock.bootstrap_servers()];
    KafkaTarget::build(cluster, TOPIC.to_owned(), Vec::new()).await.unwrap()
}

/// How many records the topic has.
async fn there(target: &mut KafkaTarget) -> i64 {
    let producer = target.producer().await.unwrap().clone();
    let ask = move || producer.client().fetch_watermarks(TOPIC, 0, ANSWER).unwrap().1;
    tokio::task::spawn_blocking(ask).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_by_one_records_are_sent_until_another_failure() {
    const TOO_LARGE: Answer = Answer::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE;
    const FORBIDDEN: Answer = Answer::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
    let mock = MockCluster::new(1).unwrap();
    mock.create_topic(TOPIC, 1, 1).unwrap();
    let mut target = target(&mock).await;
    let keyed = |number: u8| {
        record(Message { key: Some(b"key"[..].into()), ..message(number.to_string()) })
    };
    let records: Vec<_> = (0..20).map(keyed).collect();
    // The batch; then the first of it, which is too large, the second, and the third.
    mock.request_errors(Api::Produce, &[TOO_LARGE, TOO_LARGE]);
    mock.request_errors(Api::Produce, &[Answer::RD_KAFKA_RESP_ERR_NO_ERROR, FORBIDDEN]);
    let error = target.write(&records).await.unwrap_err();
    assert_eq!(error.kept, 0, "{error}");
    assert_eq!(there(&mut target).await, 1, "it was tried on");
    // What was confirmed behind the first is not there twice.
    target.write(&records).await.unwrap();
    assert_eq!(there(&mut target).await, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_that_is_over_is_not_told_again() {
    let mock = MockCluster::new(1).unwrap();
    mock.create_topic(TOPIC, 1, 1).unwrap();
    let mut target = target(&mock).await;
    let trouble = || Some((Code::SaslAuthenticationFailed, "wrong password".to_owned()));
    target.look().await.unwrap();
    *target.trouble.lock() = trouble();
    assert!(target.why(Code::MessageTimedOut).contains("wrong password"));
    target.look().await.unwrap();
    assert!(!target.why(Code::MessageTimedOut).contains("wrong password"));
    *target.trouble.lock() = trouble();
    let of_the_last = target.trouble.clone();
    target.close();
    // It is what this one failed for.
    assert!(target.why(Code::MessageTimedOut).contains("wrong password"));
    target.producer().await.unwrap();
    *of_the_last.lock() = trouble();
    assert!(!target.why(Code::MessageTimedOut).contains("wrong password"));
}

/// So that `check --connect` names it.
#[tokio::test(flavor = "multi_thread")]
async fn a_look_tells_the_step_at_which_it_ends() {
    let mock = MockCluster::new(1).unwrap();
    mock.create_topic(TOPIC, 1, 1).unwrap();
    let mut target = target(&mock).await;
    target.look().await.unwrap();
    for (answer, step) in [
        (Answer::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART, Step::Exists),
        (Answer::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, Step::Allowed),
    ] {
        mock.topic_error(TOPIC, answer).unwrap();
        let complaint = target.look().await.unwrap_err();
        assert_eq!(complaint.step, step, "{complaint}");
        assert!(!complaint.remedy.is_empty(), "{complaint}");
    }
}

#[test]
fn nothing_is_confirmed_by_fewer_than_all() {
    let mut cluster = crate::config::kafka::tests::config();
    cluster.options = vec![("acks".into(), "0".into()), ("linger.ms".into(), "1".into())];
    let properties = connection(&cluster, &DEFAULTS, &FIXED).unwrap();
    assert_eq!(properties.get("acks"), Some("all"));
    assert_eq!(properties.get("enable.idempotence"), Some("true"));
    assert_eq!(properties.get("linger.ms"), Some("1"));
    check::<BaseProducer>(&properties).unwrap();
}
