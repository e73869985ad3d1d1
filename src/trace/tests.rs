//! The spans of a message, by what is done with it.

use std::time::Duration;

use super::*;
use crate::message::Coordinates;
use crate::message::tests::message;

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn tracer(sample: f64, room: usize) -> (Tracer, mpsc::Receiver<Span>, Counter) {
    let (queue, spans) = mpsc::channel(room);
    let dropped = Counter::default();
    (Tracer::new(sample, queue, dropped.clone()), spans, dropped)
}

fn with_parent(parent: &str) -> Message {
    let mut message = message("{\"secret\":\"payload\"}");
    message.headers.push(("traceparent".to_owned(), parent.to_owned().into()));
    message.headers.push(("tracestate".to_owned(), "v=1".into()));
    message.coordinates = Coordinates::Log { partition: 3, offset: 42 };
    message
}

fn value<'s>(span: &'s Span, name: &str) -> &'s Value {
    let found = span.attributes.iter().find(|(known, _)| known == name);
    &found.unwrap_or_else(|| panic!("no {name} in {span:?}")).1
}

#[test]
fn the_spans_of_a_message_hang_together_below_its_publisher() {
    let (tracer, mut spans, dropped) = tracer(0.0, 8);
    let whole = tracer.begin(&with_parent(PARENT), "log").unwrap();
    let mut events = ["/a/1", "/a/2"].map(|channel| whole.event("r", "main", channel, 20));
    events[1].retried("throttled");
    let now = Instant::now();
    let request = Request {
        api: "main",
        channel: "/a/1",
        events: 2,
        began: now.checked_sub(Duration::from_secs(2)).unwrap(),
        ended: now,
        result: Ok(200),
    };
    request.trace(events.iter());
    Request { result: Err(("connect", "no\nway")), ..request }.trace(events[1..].iter());
    let [one, two] = events;
    one.end("published");
    two.refused("it is bad");
    whole.end("dead_lettered", true);

    let all: Vec<_> = (0..5).map(|_| spans.try_recv().unwrap()).collect();
    assert!(spans.try_recv().is_err());
    let [request, failed, one, two, whole] = &all[..] else { panic!("{all:?}") };
    assert!(all.iter().all(|span| span.at.trace == whole.at.trace && &*span.state == "v=1"));
    assert_eq!(whole.at.trace[..2], [0x4b, 0xf9]);
    assert_eq!(whole.parent, Some([0, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 0x02, 0xb7]));
    assert_eq!([one.parent, two.parent], [Some(whole.at.span); 2]);
    assert_eq!((request.parent, &request.links[..]), (Some(one.at.span), &[one.at, two.at][..]));
    assert_eq!((failed.parent, &failed.links[..]), (Some(two.at.span), &[two.at][..]));
    assert_eq!(request.ended.duration_since(request.began).unwrap(), Duration::from_secs(2));
    assert_eq!(value(request, "http.response.status_code"), &Value::Number(200));
    assert_eq!((failed.error.as_deref(), &request.error), (Some("no way"), &None));
    assert_eq!((one.error.as_deref(), two.error.as_deref()), (None, Some("it is bad")));
    assert_eq!((two.notes.len(), two.notes[0].name), (1, "retry"));
    assert_eq!(whole.error.as_deref(), Some("dead_lettered"));
    for (name, expected) in [
        ("messaging.system", Value::Word("log")),
        ("messaging.destination.name", "t".to_owned().into()),
        ("messaging.destination.partition.id", "3".to_owned().into()),
        ("messaging.log.offset", Value::Number(42)),
        ("appsync_bridge.outcome", Value::Word("dead_lettered")),
    ] {
        assert_eq!(value(whole, name), &expected, "{name}");
    }
    assert_eq!(value(two, "messaging.destination.name"), &"/a/2".to_owned().into());
    assert_eq!(dropped.get(), 0);
    assert!(!format!("{all:?}").contains("payload\""), "a payload is in no span");
}

#[test]
fn the_publisher_decides_and_without_one_a_share_is_traced() {
    let unsampled = PARENT.replace("-01", "-00");
    for (sample, parent, traced) in [
        (0.0, PARENT, true),
        (0.0, unsampled.as_str(), false),
        (1.0, unsampled.as_str(), false),
        (0.0, "no parent", false),
        (1.0, "no parent", true),
    ] {
        let (tracer, ..) = tracer(sample, 1);
        let whole = tracer.begin(&with_parent(parent), "log");
        assert_eq!(whole.is_some(), traced, "{sample} {parent}");
    }
    let (tracer, ..) = tracer(0.5, 1);
    let traced = (0..1_000).filter(|_| tracer.begin(&message("1"), "log").is_some()).count();
    assert!((350..650).contains(&traced), "{traced}");
}

#[test]
fn what_is_dropped_says_so() {
    let (tracer, mut spans, dropped) = tracer(1.0, 2);
    let whole = tracer.begin(&message("1"), "log").unwrap();
    assert!(whole.span.lock().parent.is_none());
    drop(whole.event("r", "main", "/a", 1));
    let event = spans.try_recv().unwrap();
    assert_eq!(value(&event, "appsync_bridge.outcome"), &Value::Word("released"));
    assert_eq!(event.error.as_deref(), Some("released"));
    whole.rejected(Some("r"), "invalid_json");
    whole.rejected(None, "too_large");
    whole.end("discarded", true);
    let whole = spans.try_recv().unwrap();
    assert_eq!(whole.error.as_deref(), Some("discarded: invalid_json"));
    assert_eq!(whole.notes.iter().map(|note| note.name).collect::<Vec<_>>(), ["rejected"; 2]);
    // One that went well in the end is no failure, whatever else happened.
    let whole = tracer.begin(&message("1"), "log").unwrap();
    whole.end("published", false);
    assert_eq!(spans.try_recv().unwrap().error, None);
    assert_eq!(dropped.get(), 0);
}

#[test]
fn of_a_long_topic_the_begin_is_kept() {
    let (tracer, mut spans, _dropped) = tracer(1.0, 1);
    let mut long = message("1");
    long.topic = crate::message::Topic::new("é".repeat(30_000), '/');
    tracer.begin(&long, "log").unwrap().end("published", false);
    let span = spans.try_recv().unwrap();
    let kept = Value::from("é".repeat(MOST_TOPIC));
    assert_eq!(value(&span, "messaging.destination.name"), &kept);
}

#[test]
fn what_has_no_room_is_counted_and_does_not_wait() {
    let (tracer, mut spans, dropped) = tracer(1.0, 2);
    for _ in 0..5 {
        tracer.begin(&message("1"), "log").unwrap().end("published", false);
    }
    assert_eq!(dropped.get(), 3);
    while spans.try_recv().is_ok() {}
    drop(spans);
    tracer.begin(&message("1"), "log").unwrap().end("published", false);
    assert_eq!(dropped.get(), 4, "nobody takes them any more");
}
