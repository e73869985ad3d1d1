//! Bodies as AWS documents them, alone and inside of one another, and what is none.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::delivery::tests::Log;
use crate::message::tests::message;

const SNS: &str = include_str!("../../../../tests/fixtures/sqs/sns.json");
const SUBSCRIPTION: &str = include_str!("../../../../tests/fixtures/sqs/sns-subscription.json");
const EVENTBRIDGE: &str = include_str!("../../../../tests/fixtures/sqs/eventbridge.json");
const S3: &str = include_str!("../../../../tests/fixtures/sqs/s3.json");
const S3_TEST: &str = include_str!("../../../../tests/fixtures/sqs/s3-test.json");

/// What SNS makes of a message that was published to it.
fn by_sns(message: &str) -> String {
    json!({
        "Type": "Notification", "MessageId": "m-1", "TopicArn": "arn:aws:sns:us-west-2:123456789012:MyTopic",
        "Message": message, "Timestamp": "2012-05-02T00:54:06.655Z", "SignatureVersion": "1",
    })
    .to_string()
}

/// A body without headers.
fn bare(body: impl Into<Bytes>) -> Event {
    Event { payload: body.into(), headers: Headers::new() }
}

fn opened(envelopes: &[Envelope], body: &str) -> Vec<Event> {
    match unwrap(envelopes, bare(body.to_owned())) {
        Ok(Content::Events(events)) => events,
        other => panic!("{other:?}"),
    }
}

fn header<'e>(event: &'e Event, name: &str) -> Option<&'e str> {
    let (_, value) = event.headers.iter().find(|(header, _)| header == name)?;
    Some(std::str::from_utf8(value).unwrap())
}

fn why(envelopes: &[Envelope], body: &str) -> String {
    unwrap(envelopes, bare(body.to_owned())).unwrap_err().to_string()
}

#[test]
fn a_notification_of_sns_has_its_message_inside() {
    let [event] = &opened(&[Envelope::Sns], SNS)[..] else { panic!() };
    assert_eq!(event.payload, r#"{"order":{"id":"o-7"},"note":"café \"x\""}"#);
    for (name, value) in [
        ("tenant", "acme"),
        ("sizes", r#"["s","l"]"#),
        ("count", "3"),
        ("sns.TopicArn", "arn:aws:sns:us-west-2:123456789012:MyTopic"),
        ("sns.MessageId", "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324"),
        ("sns.Subject", "My First Message"),
        ("sns.Timestamp", "2012-05-02T00:54:06.655Z"),
    ] {
        assert_eq!(header(event, name), Some(value), "{name}");
    }
    assert_eq!(event.headers.iter().find(|(n, _)| n == "raw").unwrap().1, &b"bonvalue\xff"[..]);
    assert_eq!(event.headers.len(), 8);
    // Without attributes and a subject.
    assert_eq!(opened(&[Envelope::Sns], &by_sns("plain text"))[0].payload, "plain text");
}

#[test]
fn an_event_of_eventbridge_has_its_detail_inside() {
    let [event] = &opened(&[Envelope::EventBridge], EVENTBRIDGE)[..] else { panic!() };
    // Byte for byte.
    assert!(EVENTBRIDGE.contains(std::str::from_utf8(&event.payload).unwrap()));
    assert!(event.payload.starts_with(b"{\n    \"instance-id\"") && event.payload.ends_with(b"}"));
    let expected = [
        ("eventbridge.source", "aws.ec2"),
        ("eventbridge.detail-type", "EC2 Instance State-change Notification"),
        ("eventbridge.id", "6a7e8feb-b491-4cf7-a9f1-bf3703467718"),
        ("eventbridge.time", "2017-12-22T18:43:48Z"),
        ("eventbridge.region", "us-west-1"),
        ("eventbridge.account", "111122223333"),
    ];
    let expected = expected.map(|(name, value)| (name.to_owned(), Bytes::from(value)));
    assert_eq!(event.headers, expected);
}

#[test]
fn each_record_of_s3_is_an_event() {
    let events = opened(&[Envelope::S3], S3);
    let [put, delete] = &events[..] else { panic!() };
    for (event, name, time, bucket, key) in [
        (
            put,
            "ObjectCreated:Put",
            "1970-01-01T00:00:00.000Z",
            "amzn-s3-demo-bucket",
            "red flower+é.jpg",
        ),
        (
            delete,
            "ObjectRemoved:Delete",
            "1970-01-01T00:00:01.000Z",
            "amzn-s3-demo-bucket2",
            "folder/old.jpg",
        ),
    ] {
        assert!(S3.contains(std::str::from_utf8(&event.payload).unwrap()));
        let expected = [
            ("s3.eventName", name),
            ("s3.eventTime", time),
            ("s3.bucket", bucket),
            ("s3.key", key),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), Bytes::from(value)));
        assert_eq!(event.headers, expected);
    }
}

#[test]
fn what_is_not_encoded_in_a_key_stays() {
    let key = |key: &str| {
        let body = S3.replace("folder/old.jpg", key);
        opened(&[Envelope::S3], &body)[1].headers.last().unwrap().1.clone()
    };
    assert_eq!(key("100%"), "100%");
    assert_eq!(key("%zz%2"), "%zz%2");
    // Not every key is UTF-8; a route refuses it then.
    assert_eq!(key("%FF"), &b"\xff"[..]);
}

#[test]
fn envelopes_are_opened_from_the_outermost_to_the_innermost() {
    let events = opened(&[Envelope::Sns, Envelope::S3], &by_sns(S3));
    assert_eq!(events.len(), 2);
    for event in &events {
        assert_eq!(header(event, "sns.MessageId"), Some("m-1"));
    }
    assert_eq!(header(&events[1], "s3.key"), Some("folder/old.jpg"));
    let events = opened(&[Envelope::Sns, Envelope::EventBridge], &by_sns(EVENTBRIDGE));
    assert!(events[0].payload.starts_with(b"{\n    \"instance-id\""));
    assert_eq!(header(&events[0], "eventbridge.source"), Some("aws.ec2"));
    let twice = [Envelope::Sns, Envelope::Sns, Envelope::S3];
    assert_eq!(opened(&twice, &by_sns(&by_sns(S3))).len(), 2);
    assert_eq!(unwrap(&twice, bare(by_sns(&by_sns(S3_TEST)))), Ok(Content::Test));
}

#[test]
fn what_is_no_envelope_says_why_and_shows_nothing_of_it() {
    let (sns, s3, bridge) = (Envelope::Sns, Envelope::S3, Envelope::EventBridge);
    for (envelope, body, said) in [
        (sns, "hunter2", "no SNS notification: it is no JSON (line 1, column 1)"),
        (sns, r#"{"a":"hunter2"}"#, "no SNS notification: missing field `Type`"),
        (sns, SUBSCRIPTION, "no SNS notification: it asks to confirm a subscription"),
        (sns, EVENTBRIDGE, "missing field `Type`"),
        (sns, r#""hunter2""#, "a member is of another type"),
        (bridge, SNS, "no EventBridge event: missing field `id`"),
        (bridge, r#"{"detail":{"hunter2":1}}"#, "missing field `id`"),
        (bridge, "[]", "no EventBridge event: "),
        (s3, EVENTBRIDGE, "no S3 notification: it has no `Records`"),
        (s3, r#"{"Records":[]}"#, "no S3 notification: it has no `Records`"),
        (s3, r#"{"Records":[{"hunter2":1}]}"#, "no S3 notification: missing field `eventSource`"),
        (s3, r#"{"Records":"hunter2"}"#, "a member is of another type"),
        (s3, r#"{"Event":"hunter2"}"#, "it has no `Records`"),
    ] {
        let said_ = why(&[envelope], body);
        assert!(said_.contains(said), "{said_}");
        assert!(!said_.contains("hunter2"), "{said_}");
    }
    for (envelope, from, to, said) in [
        (sns, "\"Subject\"", "\"Message\"", "duplicate field `Message`"),
        (sns, "\"Message\"", "\"Text\"", "missing field `Message`"),
        (sns, "Ym9udmFsdWX/", "*", "a binary attribute is no base64"),
        (sns, "\"3\"", "3", "a member is of another type"),
        (sns, "Notification\"", "Hunter2\"", "its `Type` is not `Notification`"),
        (bridge, "\"version\"", "\"detail\"", "duplicate field `detail`"),
        (s3, "aws:s3", "aws:sqs", "a record's `eventSource` is not `aws:s3`"),
        (s3, "\"key\"", "\"name\"", "missing field `key`"),
    ] {
        let body = match envelope {
            Envelope::Sns => SNS,
            Envelope::EventBridge => EVENTBRIDGE,
            Envelope::S3 => S3,
        };
        let said_ = why(&[envelope], &body.replace(from, to));
        assert!(said_.contains(said), "{said_}");
    }
    // Deeper than any reader may go by recursion.
    let deep = "[".repeat(200_000);
    assert!(why(&[sns], &deep).starts_with("no SNS notification: "));
    let deep = format!(r#"{{"Type":{}"#, "[".repeat(200_000));
    assert!(why(&[sns], &deep).starts_with("no SNS notification: "));
}

#[test]
fn the_duty_of_a_message_ends_with_that_of_its_last_event() {
    let log = Arc::new(Log::default());
    let settlement = |token| Settlement::new(log.clone(), token);
    let outer = || Message { headers: vec![("tenant".into(), "acme".into())], ..message(S3) };
    let mut all = deliveries(&[Envelope::S3], outer(), settlement(1));
    assert_eq!(all.len(), 2);
    for delivery in &all {
        let headers = &delivery.message().headers;
        assert_eq!((headers.len(), &*headers[0].0), (5, "tenant"));
        assert_eq!(delivery.why_unreadable(), None);
    }
    all.remove(0).settle(Outcome::Accepted(Done::DeadLettered));
    assert_eq!(log.seen(), []);
    all.remove(0).settle(Outcome::Accepted(Done::Published));
    assert_eq!(log.seen(), [(1, Outcome::Accepted(Done::DeadLettered))]);

    assert!(deliveries(&[Envelope::S3], message(S3_TEST), settlement(2)).is_empty());
    assert_eq!(log.seen()[1], (2, Outcome::Accepted(Done::Filtered)));

    // As it came, and not done before it is kept.
    let mut bad = deliveries(&[Envelope::Sns], outer(), settlement(3));
    let bad = bad.pop().unwrap();
    assert_eq!(bad.message(), &outer());
    assert!(bad.why_unreadable().unwrap().contains("missing field `Type`"));
    drop(bad);
    assert_eq!(log.seen()[2], (3, Outcome::Released));

    let plain = deliveries(&[], message("no envelope"), settlement(4)).pop().unwrap();
    assert_eq!((plain.message(), plain.why_unreadable()), (&message("no envelope"), None));
}

#[test]
fn no_message_takes_many_times_its_size() {
    let with = |attributes: usize, name: &str, records: usize| {
        let attribute = |at| (format!("{name}{at}"), json!({"Type": "String", "Value": "v"}));
        let attributes: serde_json::Map<_, _> = (0..attributes).map(attribute).collect();
        let mut s3: serde_json::Value = serde_json::from_str(S3).unwrap();
        s3["Records"] = vec![s3["Records"][0].clone(); records].into();
        let mut body: serde_json::Value = serde_json::from_str(&by_sns(&s3.to_string())).unwrap();
        body["MessageAttributes"] = attributes.into();
        body.to_string()
    };
    let both = [Envelope::Sns, Envelope::S3];
    assert_eq!(opened(&both, &with(MOST, "a", 10))[9].headers.len(), MOST + 3 + 4);
    assert!(why(&both, &with(MOST + 1, "a", 1)).contains("it has more than 64 attributes"));
    let said = why(&both, &with(MOST, &"long".repeat(1_000), 100));
    assert!(said.contains("its headers, for each of its records, take too much"), "{said}");

    // The headers that the message came with are copied, too.
    let bytes = Bytes::from(with(0, "", 100));
    let headers = vec![("x".repeat(100_000), Bytes::new())];
    assert!(unwrap(&both, Event { payload: bytes, headers }).is_err());
}

#[test]
fn what_is_inside_is_charged_as_far_as_it_takes_more() {
    let log = Arc::new(Log::default());
    let all = deliveries(&[Envelope::S3], message(S3), Settlement::new(log.clone(), 1));
    let inside: usize = all.iter().map(|delivery| memory(delivery.message())).sum();
    assert_eq!(log.charged(), [(1, inside - memory(&message(S3)))]);
}

/// The attributes that a notification may have.
const MOST: usize = 64;

proptest! {
    #[test]
    fn no_body_is_too_strange_to_be_refused(
        body in any::<Vec<u8>>(), at in 0..3_usize, cut in any::<proptest::sample::Index>()
    ) {
        let envelopes = [Envelope::Sns, Envelope::EventBridge, Envelope::S3];
        let _ = unwrap(&envelopes, bare(body));
        let whole = [SNS, EVENTBRIDGE, S3][at].trim_end();
        let cut = cut.index(whole.len());
        let cut = Bytes::copy_from_slice(&whole.as_bytes()[..cut]);
        prop_assert!(unwrap(&envelopes[at..=at], bare(cut)).is_err());
    }
}
