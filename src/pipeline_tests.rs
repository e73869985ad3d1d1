use super::*;
use crate::delivery::Settlement;
use crate::delivery::tests::{Log, delivery};
use crate::event_api::{Channel, Event};
use crate::message::tests::message;
use crate::route::{OrderBy, Template};

fn route(name: &str, channel: &str, dead_letter: &str) -> Spec {
    Spec {
        name: name.into(),
        from: vec!["s".into()],
        topic: None,
        channels: vec![Template::channel(channel, &[]).unwrap()],
        api: "main".into(),
        order: OrderBy::Nothing,
        strict_order: false,
        give_up_after: 5,
        dead_letter: RejectTo::DeadLetter(dead_letter.into()),
    }
}

/// The entries that a table makes of a message; the table is gone then.
fn routed(routes: Vec<Spec>, rejects: &Rejects, log: &Arc<Log>) -> Vec<Addressed> {
    made(routes, rejects, delivery(log, 1))
}

fn made(routes: Vec<Spec>, rejects: &Rejects, delivery: Delivery) -> Vec<Addressed> {
    let metrics = Metrics::new();
    let unrouted = Some(RejectTo::DeadLetter("one".into()));
    let policy =
        SourcePolicy { max_payload: 1_000, unrouted, system: "s", metrics: metrics.source("s") };
    let (entries, mut queue) = mpsc::unbounded_channel();
    let publishers = HashMap::from([("main".into(), entries)]);
    let (table, sources) =
        (Arc::new(RouteTable::new(routes)), HashMap::from([("s".into(), policy)]));
    Pipeline::new(table, sources, &publishers, rejects.clone(), &metrics).route(delivery);
    std::iter::from_fn(|| queue.try_recv().ok()).collect()
}

#[tokio::test]
async fn a_refused_event_goes_where_the_route_said_that_it_came_by() {
    let (one, mut ones) = mpsc::unbounded_channel();
    let (two, mut twos) = mpsc::unbounded_channel();
    let rejects = Rejects::new(HashMap::from([("one".into(), one), ("two".into(), two)]));
    let log = Arc::<Log>::default();
    let before = vec![route("a", "/x/a", "one"), route("b", "/x/b", "two")];
    let mut entries = routed(before, &rejects, &log);
    // The same names in other places, and with another dead letter: one that is not there any more.
    let after = vec![route("b", "/x/b", "one"), route("c", "/x/c", "gone")];
    entries.extend(routed(after, &rejects, &log));
    let (refused, queue) = mpsc::unbounded_channel();
    for (channel, entry) in entries {
        refused.send(Refused { entry, channel, why: "no".to_owned() }).unwrap();
    }
    drop(refused);
    rejects.run(queue).await;
    let seen = |letters: &mut mpsc::UnboundedReceiver<Letter>| -> Vec<_> {
        let letters = std::iter::from_fn(|| letters.try_recv().ok());
        letters
            .map(|Letter { record, delivery }| {
                delivery.settle(Outcome::Accepted(Done::DeadLettered));
                (record.route.unwrap().to_string(), record.channel.unwrap())
            })
            .collect()
    };
    let letter = |route: &str, channel: &str| (route.to_owned(), channel.to_owned());
    assert_eq!(seen(&mut ones), [letter("a", "/x/a"), letter("b", "/x/b")]);
    assert_eq!(seen(&mut twos), [letter("b", "/x/b")]);
    let done = Outcome::Accepted(Done::DeadLettered);
    assert_eq!(log.seen(), [(1, Outcome::Released), (1, done)], "without a letter it is not done");
}

#[test]
fn no_route_sees_what_its_source_could_not_read() {
    let (letters, mut queue) = mpsc::unbounded_channel();
    let rejects = Rejects::new(HashMap::from([("one".into(), letters)]));
    let log = Arc::<Log>::default();
    // It would be a fine event.
    let read = Settlement::new(log.clone(), 1);
    let unreadable = Delivery::unreadable(message("{}"), read, "no envelope");
    let routes = vec![route("a", "/x/a", "one"), route("b", "/x/b", "one")];
    assert!(made(routes, &rejects, unreadable).is_empty());
    for name in ["a", "b"] {
        let Letter { record, delivery } = queue.try_recv().unwrap();
        assert_eq!((record.route.as_deref(), &record.channel), (Some(name), &None));
        assert_eq!((record.reason, &*record.detail), ("bad_envelope", "no envelope"));
        assert_eq!(record.message.payload, "{}");
        assert_eq!(log.seen(), []);
        delivery.settle(Outcome::Accepted(Done::DeadLettered));
    }
    assert_eq!(log.seen(), [(1, Outcome::Accepted(Done::DeadLettered))]);
}

#[test]
fn what_no_route_takes_is_still_known_to_be_in_its_envelope() {
    let (letters, mut queue) = mpsc::unbounded_channel();
    let rejects = Rejects::new(HashMap::from([("one".into(), letters)]));
    let log = Arc::<Log>::default();
    let duty = || Settlement::new(log.clone(), 1);
    made(vec![], &rejects, Delivery::unreadable(message("{}"), duty(), "no envelope"));
    made(vec![], &rejects, Delivery::new(message("{}"), duty()));
    let mut seen = || {
        let record = queue.try_recv().unwrap().record;
        (record.route, record.reason, record.detail)
    };
    assert_eq!(seen(), (None, "bad_envelope", "no envelope".to_owned()));
    assert_eq!(seen(), (None, "unrouted", "no route takes this topic".to_owned()));
}

#[test]
fn a_rendered_text_is_charged_once_for_all_its_channels() {
    let (log, text) = (Arc::<Log>::default(), r#"{"rendered":true}"#);
    let whole = delivery(&log, 1);
    let rendered = |text: Option<&'static str>| Rendered {
        escaped_len: Event::parse(text.unwrap_or("{}").as_bytes()).unwrap().escaped_len(),
        text: text.map(Into::into),
        channels: ["/x/a", "/x/b"].into_iter().map(|c| Channel::parse(c).unwrap()).collect(),
        order: None,
    };
    let route = Arc::new(route("a", "/x/a", "one"));
    let texts = |rendered| -> Vec<_> {
        let entries = entries(&whole, rendered, &route);
        entries.map(|(_, entry)| entry.event().text().to_owned()).collect()
    };
    assert_eq!(texts(rendered(None)), [b"{}", b"{}"]);
    assert_eq!(log.charged(), [], "the payload was counted when it came");
    assert_eq!(texts(rendered(Some(text))), [text.as_bytes(), text.as_bytes()]);
    assert_eq!(log.charged(), [(1, text.len())]);
}
