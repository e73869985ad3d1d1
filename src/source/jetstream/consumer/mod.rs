//! The consumer that a source works with: what it creates, and how one that exists differs from it. Pure.
//!
//! A consumer that exists is never changed: somebody may have made it so on purpose, and its other clients rely
//! on it.

mod asking;
mod binding;
mod order;

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, Config, DeliverPolicy, ReplayPolicy};
use async_nats::jetstream::stream;

use crate::config::nats::{self, Consumers, Deliver, JetStreamConfig};
use crate::config::source::Limits;
pub(super) use asking::{Answer, Asking};
pub(super) use binding::{Binding, Bound};
pub(super) use order::{Hold, Order, Passed};

/// The subject of everything in a stream.
const EVERYTHING: &str = ">";

/// What a source would create.
pub(super) fn wanted(config: &JetStreamConfig, limits: Limits) -> Config {
    let last = config.deliver == Deliver::LastPerSubject;
    let mut subjects = config.subjects.clone();
    if last && subjects.is_empty() {
        // The server wants to be told of which subjects.
        subjects.push(EVERYTHING.to_owned());
    }
    // Servers before 2.10 know no more than one, and take several for none.
    let one = if subjects.len() == 1 { subjects.pop() } else { None };
    Config {
        durable_name: Some(config.durable.clone()),
        name: Some(config.durable.clone()),
        description: Some("appsync-bridge".to_owned()),
        deliver_policy: match config.deliver {
            Deliver::All => DeliverPolicy::All,
            Deliver::New => DeliverPolicy::New,
            Deliver::LastPerSubject => DeliverPolicy::LastPerSubject,
        },
        ack_policy: AckPolicy::Explicit,
        ack_wait: config.ack_wait,
        max_deliver: -1,
        max_ack_pending: match config.consumers {
            Consumers::One => i64::try_from(limits.messages).unwrap_or(i64::MAX),
            // Each replica keeps to its own limit.
            Consumers::Many => -1,
        },
        filter_subject: one.unwrap_or_default(),
        filter_subjects: subjects,
        ..Config::default()
    }
}

/// Whether a consumer takes every message of its stream.
pub(super) fn takes_all(config: &Config) -> bool {
    filters(config).is_empty() && config.deliver_policy != DeliverPolicy::LastPerSubject
}

/// How `found` differs from what is `wanted`, as far as it matters: clauses.
pub(super) fn differences(found: &Config, wanted: &Config, limits: Limits) -> Vec<String> {
    let mut all = Vec::new();
    let mut differs = |key: &str, there: &dyn std::fmt::Display, here: &dyn std::fmt::Display| {
        all.push(format!("`{key}` is {there} there and {here} here"));
    };
    if found.deliver_subject.is_some() {
        differs("deliver_subject", &"set (it pushes)", &"unset (it is pulled from)");
    }
    if found.durable_name.is_none() {
        differs("durable_name", &"unset", &"set");
    }
    if filters(found) != filters(wanted) {
        differs("filter_subjects", &listed(&filters(found)), &listed(&filters(wanted)));
    }
    if found.deliver_policy != wanted.deliver_policy {
        differs("deliver_policy", &policy(found.deliver_policy), &policy(wanted.deliver_policy));
    }
    if found.ack_policy != AckPolicy::Explicit {
        let policy = format!("{:?}", found.ack_policy).to_lowercase();
        differs("ack_policy", &policy, &"explicit");
    }
    if !found.backoff.is_empty() {
        differs("backoff", &"set (it overrides `ack_wait`)", &"unset");
    } else if found.ack_wait != wanted.ack_wait {
        differs("ack_wait", &shown(found.ack_wait), &shown(wanted.ack_wait));
    }
    let least = i64::try_from(limits.messages).unwrap_or(i64::MAX);
    if (0..least).contains(&found.max_ack_pending) {
        let here = format!("at least {least} (`max_in_flight`)");
        differs("max_ack_pending", &found.max_ack_pending, &here);
    }
    if found.max_waiting == 1 {
        // The server drops a second request, and says nothing.
        differs("max_waiting", &1, &"at least 2");
    }
    if found.headers_only {
        differs("headers_only", &"true (no payload)", &"false");
    }
    if !found.priority_groups.is_empty() {
        differs("priority_groups", &"set", &"unset");
    }
    all
}

/// How `found` differs from what is needed to be given every message, which takes requests for `least` bytes.
pub(super) fn narrow(found: &Config, least: usize) -> Option<String> {
    let least = i64::try_from(least).unwrap_or(i64::MAX);
    (1..least).contains(&found.max_bytes).then(|| {
        format!(
            "`max_bytes` of a request is {} there and at least {least} (the server's `max_payload`, and what a \
             message has beside it) here",
            found.max_bytes
        )
    })
}

/// Why the server would not make the consumer that is `wanted` of a stream: a clause with a hint.
pub(super) fn unmakeable(wanted: &Config, stream: &stream::Config) -> Option<String> {
    let queue = stream.retention == stream::RetentionPolicy::WorkQueue;
    if queue && wanted.deliver_policy != DeliverPolicy::All {
        return Some(
            "a work queue is taken from its oldest message on: say `deliver = \"all\"`".to_owned(),
        );
    }
    let most = stream.consumer_limits.as_ref().map_or(0, |limits| limits.max_ack_pending);
    (most > 0 && wanted.max_ack_pending > most).then(|| {
        format!("the stream allows no more than {most} messages in flight (`max_ack_pending`): lower `max_in_flight`")
    })
}

/// Settings of a consumer that somebody else made that may lose messages, or hold them up.
pub(super) fn hazards(found: &Config) -> Vec<&'static str> {
    let all = [
        (
            found.max_deliver > 0,
            "`max_deliver` is limited: a message that came so often unacknowledged is not delivered any more",
        ),
        (
            found.inactive_threshold > Duration::ZERO,
            "`inactive_threshold` is set: the consumer is deleted when the bridge is away for so long",
        ),
        (
            found.memory_storage,
            "`mem_storage` is set: a restart of the server forgets what was acknowledged",
        ),
        (
            found.replay_policy == ReplayPolicy::Original,
            "`replay_policy` is `original`: a backlog is delivered as slowly as it was written",
        ),
    ];
    all.into_iter().filter_map(|(is, text)| is.then_some(text)).collect()
}

/// Which of the consumer's filters no subject of its stream fits: a clause with a hint. The server takes such filters
/// (nats-server 2.15), for a stream may be changed. What a stream has of others is not known from its settings.
pub(super) fn astray(consumer: &Config, stream: &stream::Config) -> Option<String> {
    let others = stream.mirror.is_some()
        || stream.sources.as_ref().is_some_and(|sources| !sources.is_empty())
        || stream.subject_transform.is_some();
    if others || stream.subjects.is_empty() {
        return None;
    }
    let fits = |filter: &str| stream.subjects.iter().any(|subject| nats::meet(subject, filter));
    let astray: BTreeSet<_> =
        filters(consumer).into_iter().filter(|filter| !fits(filter)).collect();
    let (name, subjects) = (&stream.name, stream.subjects.iter().map(String::as_str).collect());
    (!astray.is_empty()).then(|| {
        format!(
            "no subject of the stream `{name}` ({}) fits {}, so nothing new comes of that; correct `subjects`, or \
             those of the stream",
            listed(&subjects),
            listed(&astray)
        )
    })
}

fn filters(config: &Config) -> BTreeSet<&str> {
    let one = Some(config.filter_subject.as_str()).filter(|subject| !subject.is_empty());
    let many = config.filter_subjects.iter().map(String::as_str);
    many.chain(one).filter(|subject| *subject != EVERYTHING).collect()
}

fn listed(subjects: &BTreeSet<&str>) -> String {
    if subjects.is_empty() {
        return "every subject".to_owned();
    }
    let subjects: Vec<_> = subjects.iter().map(|subject| format!("`{subject}`")).collect();
    subjects.join(", ")
}

fn policy(policy: DeliverPolicy) -> String {
    match policy {
        DeliverPolicy::All => "`all`".to_owned(),
        DeliverPolicy::New => "`new`".to_owned(),
        DeliverPolicy::LastPerSubject => "`last-per-subject`".to_owned(),
        DeliverPolicy::Last => "`last`".to_owned(),
        DeliverPolicy::ByStartSequence { start_sequence } => {
            format!("the sequence {start_sequence}")
        }
        DeliverPolicy::ByStartTime { .. } => "a start time".to_owned(),
    }
}

fn shown(duration: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { messages: 1000, bytes: 1 << 20 };

    fn config() -> JetStreamConfig {
        JetStreamConfig {
            subjects: vec!["a.>".to_owned(), "b".to_owned()],
            ..crate::config::nats::tests::jetstream()
        }
    }

    fn wanted() -> Config {
        super::wanted(&config(), LIMITS)
    }

    #[test]
    fn what_it_creates_does_not_differ() {
        for deliver in [Deliver::All, Deliver::New, Deliver::LastPerSubject] {
            for consumers in [Consumers::One, Consumers::Many] {
                for subjects in [vec![], vec!["a.>".to_owned()], config().subjects] {
                    let config = JetStreamConfig { subjects, deliver, consumers, ..config() };
                    let wanted = super::wanted(&config, LIMITS);
                    assert_eq!(differences(&wanted, &wanted, LIMITS), [""; 0]);
                    assert!(hazards(&wanted).is_empty());
                }
            }
        }
    }

    #[test]
    fn the_same_said_otherwise_does_not_differ() {
        let found = Config {
            filter_subjects: vec!["b".into(), "a.>".into()],
            max_ack_pending: -1,
            max_waiting: 512,
            ..wanted()
        };
        assert_eq!(differences(&found, &wanted(), LIMITS), [""; 0]);
        let one = JetStreamConfig { subjects: vec!["a.>".into()], ..config() };
        let one = super::wanted(&one, LIMITS);
        assert_eq!((&*one.filter_subject, one.filter_subjects.len()), ("a.>", 0));
        let found = Config { filter_subjects: vec!["a.>".into()], ..wanted() };
        assert_eq!(differences(&found, &one, LIMITS), [""; 0]);
        let every = Config { filter_subjects: vec![], ..wanted() };
        let found = Config { filter_subjects: vec![">".into()], ..wanted() };
        assert_eq!(differences(&found, &every, LIMITS), [""; 0]);
    }

    #[test]
    fn every_difference_is_listed() {
        let found = Config {
            durable_name: None,
            deliver_subject: Some("out".into()),
            filter_subjects: vec!["c".into()],
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: 7 },
            ack_policy: AckPolicy::All,
            ack_wait: Duration::from_secs(5),
            max_ack_pending: 999,
            max_waiting: 1,
            headers_only: true,
            priority_groups: vec!["g".into()],
            ..wanted()
        };
        let expected = [
            "`deliver_subject` is set (it pushes) there and unset (it is pulled from) here",
            "`durable_name` is unset there and set here",
            "`filter_subjects` is `c` there and `a.>`, `b` here",
            "`deliver_policy` is the sequence 7 there and `all` here",
            "`ack_policy` is all there and explicit here",
            "`ack_wait` is 5s there and 30s here",
            "`max_ack_pending` is 999 there and at least 1000 (`max_in_flight`) here",
            "`max_waiting` is 1 there and at least 2 here",
            "`headers_only` is true (no payload) there and false here",
            "`priority_groups` is set there and unset here",
        ];
        assert_eq!(differences(&found, &wanted(), LIMITS), expected);
        let found = Config { backoff: vec![Duration::from_secs(1)], ..wanted() };
        let expected = ["`backoff` is set (it overrides `ack_wait`) there and unset here"];
        assert_eq!(differences(&found, &wanted(), LIMITS), expected);
    }

    #[test]
    fn requests_that_may_not_bring_every_message_are_a_difference() {
        for (max_bytes, differs) in
            [(0, false), (-1, false), (1, true), (999, true), (1_000, false)]
        {
            let found = Config { max_bytes, ..wanted() };
            assert_eq!(narrow(&found, 1_000).is_some(), differs, "{max_bytes}");
        }
    }

    #[test]
    fn what_a_stream_does_not_allow_is_known_before() {
        use stream::{ConsumerLimits, RetentionPolicy};
        let queue = stream::Config { retention: RetentionPolicy::WorkQueue, ..Default::default() };
        assert_eq!(unmakeable(&wanted(), &queue), None);
        let new = JetStreamConfig { deliver: Deliver::New, ..config() };
        let new = super::wanted(&new, LIMITS);
        assert!(unmakeable(&new, &queue).unwrap().contains("`deliver = \"all\"`"));
        assert_eq!(unmakeable(&new, &stream::Config::default()), None);
        for (most, allowed) in [(999, false), (1_000, true), (0, true)] {
            let limits = ConsumerLimits { max_ack_pending: most, ..Default::default() };
            let narrow = stream::Config { consumer_limits: Some(limits), ..Default::default() };
            assert_eq!(unmakeable(&wanted(), &narrow).is_none(), allowed, "{most}");
        }
    }

    #[test]
    fn hazards_are_no_differences() {
        let found = Config {
            max_deliver: 5,
            inactive_threshold: Duration::from_mins(1),
            memory_storage: true,
            replay_policy: ReplayPolicy::Original,
            ..wanted()
        };
        assert_eq!(differences(&found, &wanted(), LIMITS), [""; 0]);
        assert_eq!(hazards(&found).len(), 4);
    }

    #[test]
    fn filters_that_fit_no_subject_of_the_stream_are_named() {
        let of = |subjects: &[&str]| stream::Config {
            name: "S".to_owned(),
            subjects: subjects.iter().map(|&subject| subject.to_owned()).collect(),
            ..stream::Config::default()
        };
        let said = astray(&wanted(), &of(&["a.b.*", "c"])).unwrap();
        assert!(
            said.starts_with("no subject of the stream `S` (`a.b.*`, `c`) fits `b`, so"),
            "{said}"
        );
        let said = astray(&wanted(), &of(&["c"])).unwrap();
        assert!(said.contains("fits `a.>`, `b`, so"), "{said}");
        assert_eq!(astray(&wanted(), &of(&["a.b.*", "*"])), None);
        assert_eq!(astray(&Config { filter_subjects: vec![], ..wanted() }, &of(&["c"])), None);
        // A mirror has those of another stream.
        assert_eq!(astray(&wanted(), &of(&[])), None);
        let sources = Some(vec![stream::Source::default()]);
        assert_eq!(astray(&wanted(), &stream::Config { sources, ..of(&["c"]) }), None);
    }

    #[test]
    fn only_one_without_filters_takes_all() {
        assert!(!takes_all(&wanted()));
        assert!(takes_all(&Config { filter_subjects: vec![], ..wanted() }));
        let last = DeliverPolicy::LastPerSubject;
        assert!(!takes_all(&Config { filter_subjects: vec![], deliver_policy: last, ..wanted() }));
    }
}
