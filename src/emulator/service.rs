//! A publish, over HTTP or WebSocket: checks, ledger, fan-out, answer. Each transport has its own texts
//! for a refusal, as AWS does.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use uuid::Uuid;

use super::access::{Access, Mode, Namespace, Operation};
use super::amplify::AmplifyLines;
use super::fanout::Fanout;
use super::fault::{EventFailure, Faults, Subject};
use super::memory::Memory;
use super::record::{Journal, Ledger, LedgerLine, Published, Stats};
use crate::event_api::wire::{AcceptedEvent, FailedEvent, PublishAnswer};
use crate::event_api::{Channel, Event, EventError, MAX_EVENTS};

/// The state that all connections share.
pub(super) struct Service {
    pub(super) access: Access,
    /// Empty: every well-formed namespace exists.
    pub(super) namespaces: Vec<Namespace>,
    pub(super) fanout: Fanout,
    /// Bytes of the connections.
    pub(super) memory: Arc<Memory>,
    pub(super) ledger: Option<Ledger>,
    pub(super) keep_alive: Duration,
    pub(super) latency: Duration,
    pub(super) faults: Faults,
    /// Whether the faults can be changed from outside.
    pub(super) control: bool,
    /// The address it listens on.
    pub(super) local: SocketAddr,
    /// The endpoint, and how a client is told of it.
    pub(super) endpoint: String,
    pub(super) amplify: AmplifyLines,
    pub(super) stats: Stats,
    /// What was accepted of late.
    pub(super) journal: Journal,
    /// Is told of what is accepted, before its subscribers.
    pub(super) watch: Option<Watch>,
}

/// Whoever is told of accepted events; must not wait.
pub type Watch = Box<dyn Fn(Published<'_>) + Send + Sync>;

/// The transport that faults apply to.
pub(super) const HTTP: &str = "http";

/// A publish that passed the access check.
#[derive(Clone, Copy)]
pub(super) struct Publish<'a> {
    /// The id of the request in the ledger.
    pub(super) request: &'a str,
    /// [`HTTP`] or `ws`.
    pub(super) transport: &'static str,
    /// How the client has shown who it is; `None` takes what is only said here, on the emulator's own page.
    pub(super) mode: Option<Mode>,
    /// As the client wrote it.
    pub(super) channel: &'a str,
    /// As the client wrote them.
    pub(super) events: &'a [String],
}

/// Why a publish is refused as a whole.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    /// More than [`MAX_EVENTS`].
    #[error("more than {MAX_EVENTS} events")]
    TooManyEvents,
    /// No event at all.
    #[error("at least one event is required")]
    NoEvents,
    /// The channel does not fit the grammar.
    #[error("`{channel}` is no channel to publish to: {why}")]
    BadChannel {
        /// As the client wrote it.
        channel: String,
        /// The rule that it breaks.
        why: crate::event_api::ChannelError,
    },
    /// The namespace does not exist.
    #[error("unknown namespace")]
    UnknownNamespace,
    /// The namespace does not take the client's mode.
    #[error("the namespace takes no {mode} here ({takes})")]
    OtherMode {
        /// The client's.
        mode: Mode,
        /// Those that it takes, in words.
        takes: String,
    },
    /// An event is not JSON.
    #[error("event {index} is {why}")]
    NotJson {
        /// Its position.
        index: usize,
        /// The error of the parser.
        why: EventError,
    },
    /// The ledger could not be written, so no event counts as accepted.
    #[error("the ledger cannot be written: {0}")]
    Ledger(#[from] io::Error),
}

impl Refusal {
    /// The remedy, for the log.
    pub(super) fn hint(&self) -> &'static str {
        match self {
            Self::TooManyEvents | Self::NoEvents => "send one to five events",
            Self::BadChannel { .. } => {
                "a channel has one to five segments of 1 to 50 letters, digits and `-`"
            }
            Self::UnknownNamespace => "name it with `--namespace`",
            Self::OtherMode { .. } => {
                "send another credential, or allow this mode in `--namespace NAME=MODE+MODE`"
            }
            Self::NotJson { .. } => "each event is a text of JSON, such as \"{\\\"n\\\":1}\"",
            Self::Ledger(_) => "make room for the file of `--ledger`",
        }
    }
}

impl Service {
    /// Whether a namespace exists, and takes this mode for that.
    pub(super) fn admit(
        &self,
        name: &str,
        mode: Option<Mode>,
        operation: Operation,
    ) -> Result<(), Refusal> {
        if self.namespaces.is_empty() {
            return Ok(());
        }
        let namespace = self.namespaces.iter().find(|known| known.name() == name);
        let namespace = namespace.ok_or(Refusal::UnknownNamespace)?;
        match mode.filter(|mode| !namespace.takes(*mode, operation)) {
            Some(mode) => Err(Refusal::OtherMode { mode, takes: namespace.words() }),
            None => Ok(()),
        }
    }

    /// Accepts the valid events, sends them to the subscribers, and answers for every event.
    ///
    /// A subscriber may get an event before its publisher gets the answer. The ledger is written before
    /// either.
    pub(super) fn publish(&self, publish: Publish<'_>) -> Result<PublishAnswer, Refusal> {
        if publish.events.len() > MAX_EVENTS {
            return Err(Refusal::TooManyEvents);
        }
        if publish.events.is_empty() {
            return Err(Refusal::NoEvents);
        }
        let channel = Channel::parse(publish.channel)
            .map_err(|why| Refusal::BadChannel { channel: publish.channel.to_owned(), why })?;
        self.admit(channel.namespace(), publish.mode, Operation::Publish)?;
        let mut answer = PublishAnswer::default();
        let mut accepted = Vec::with_capacity(publish.events.len());
        for (index, text) in publish.events.iter().enumerate() {
            let identifier = Uuid::new_v4().to_string();
            match Event::parse(text.as_bytes()) {
                Ok(_) => {
                    accepted.push(text.as_str());
                    answer.successful.push(AcceptedEvent { identifier, index });
                }
                Err(EventError::TooLarge { .. }) => answer.failed.push(FailedEvent {
                    identifier,
                    index,
                    code: "EventTooLargeException".to_owned(),
                    message: "Transformed event is larger than 240KB".to_owned(),
                }),
                Err(why) => return Err(Refusal::NotJson { index, why }),
            }
        }
        if publish.transport == HTTP {
            self.fail_events(&channel, &mut answer, &mut accepted);
        }
        if let Some(ledger) = &self.ledger {
            ledger.append(ledger_lines(publish, &channel, &answer))?;
        }
        if accepted.is_empty() {
            return Ok(answer);
        }
        if publish.transport == HTTP {
            self.stats.accepted(accepted.len());
        }
        if let Some(watch) = &self.watch {
            watch(Published { channel: channel.as_str(), events: &accepted });
        }
        let receivers = self.fanout.publish(&channel, accepted.iter().copied());
        self.journal.note(publish.transport, &channel, &accepted, receivers);
        Ok(answer)
    }

    /// Fails accepted events by order of the faults.
    fn fail_events(&self, channel: &Channel, answer: &mut PublishAnswer, accepted: &mut Vec<&str>) {
        if self.faults.is_empty() {
            return;
        }
        let events = answer.successful.len() + answer.failed.len();
        let subject = Subject { channel: Some(channel), events };
        let mut failures = self.faults.failures(subject, Instant::now());
        let old = std::mem::take(&mut answer.successful).into_iter().zip(std::mem::take(accepted));
        for (event, text) in old {
            match failures.get_mut(event.index).and_then(Option::take) {
                None => {
                    answer.successful.push(event);
                    accepted.push(text);
                }
                Some(EventFailure { code, message }) => {
                    let AcceptedEvent { identifier, index } = event;
                    answer.failed.push(FailedEvent { code, identifier, index, message });
                }
            }
        }
        answer.failed.sort_by_key(|event| event.index);
    }
}

fn ledger_lines<'a>(
    publish: Publish<'a>,
    channel: &'a Channel,
    answer: &'a PublishAnswer,
) -> impl Iterator<Item = LedgerLine<'a>> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let at = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
    let line = move |index: usize, identifier: &'a str, code: Option<&'a str>| LedgerLine {
        at,
        request: publish.request,
        transport: publish.transport,
        channel: channel.as_str(),
        index,
        identifier,
        event: publish.events.get(index).map_or("", String::as_str),
        outcome: if code.is_none() { "accepted" } else { "failed" },
        code,
    };
    let accepted = answer.successful.iter().map(move |e| line(e.index, &e.identifier, None));
    let failed = answer.failed.iter().map(move |e| line(e.index, &e.identifier, Some(&e.code)));
    accepted.chain(failed)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::event_api::MAX_EVENT_BYTES;

    fn service(ledger: Option<Ledger>) -> Service {
        Service {
            access: Access {
                api_keys: Vec::new(),
                tokens: Vec::new(),
                any_jwt: false,
                users: Vec::new(),
                region: None,
                verify_signatures: true,
            },
            namespaces: vec!["demo".parse().unwrap(), "signed=iam".parse().unwrap()],
            fanout: Fanout::new(Memory::new(usize::MAX)),
            memory: Memory::new(usize::MAX),
            ledger,
            keep_alive: Duration::from_mins(1),
            latency: Duration::ZERO,
            faults: Faults::new(Vec::new(), Instant::now()),
            control: false,
            local: "127.0.0.1:1".parse().unwrap(),
            endpoint: String::new(),
            amplify: AmplifyLines::new("", None, "", "", None),
            stats: Stats::default(),
            journal: Journal::default(),
            watch: None,
        }
    }

    fn publish(
        service: &Service,
        channel: &str,
        events: &[&str],
    ) -> Result<PublishAnswer, Refusal> {
        let events: Vec<String> = events.iter().map(|e| (*e).to_owned()).collect();
        let mode = Some(Mode::ApiKey);
        service.publish(Publish { request: "r", transport: HTTP, mode, channel, events: &events })
    }

    #[test]
    fn every_event_is_answered_at_its_index() {
        let big = format!("\"{}\"", "x".repeat(MAX_EVENT_BYTES - 1));
        let answer = publish(&service(None), "demo/a", &["1", &big, "{}"]).unwrap();
        assert_eq!(answer.successful.iter().map(|e| e.index).collect::<Vec<_>>(), [0, 2]);
        assert_eq!(answer.failed.len(), 1);
        assert_eq!(answer.failed[0].index, 1);
        assert_eq!(answer.failed[0].code, "EventTooLargeException");
        assert_eq!(answer.failed[0].message, "Transformed event is larger than 240KB");
        assert!(Uuid::parse_str(&answer.failed[0].identifier).is_ok());
    }

    #[test]
    fn of_events_that_all_fail_nothing_is_counted_or_told() {
        let told = Arc::new(AtomicUsize::new(0));
        let mut service = service(None);
        let count = Arc::clone(&told);
        service.watch = Some(Box::new(move |published| {
            count.fetch_add(published.events.len().max(100), Ordering::Relaxed);
        }));
        let big = "1".repeat(MAX_EVENT_BYTES + 1);
        assert_eq!(publish(&service, "demo/a", &[&big]).unwrap().failed.len(), 1);
        let stats = service.stats.show(0);
        assert_eq!(
            (&stats["accepted_requests"], &stats["accepted_events"]),
            (&0.into(), &0.into())
        );
        assert_eq!((told.load(Ordering::Relaxed), service.journal.counts().publishes), (0, 0));
        publish(&service, "demo/a", &[&big, "1"]).unwrap();
        assert_eq!(service.stats.show(0)["accepted_requests"], 1);
        assert_eq!(told.load(Ordering::Relaxed), 100);
    }

    #[test]
    fn a_request_is_refused_whole() {
        let service = service(None);
        for (channel, events, why) in [
            ("demo/a", &["1"; 6][..], "more than 5 events"),
            ("demo/a", &[][..], "at least one event is required"),
            ("demo/*", &["1"][..], "`demo/*` is no channel"),
            ("other/a", &["1"][..], "unknown namespace"),
            ("signed/a", &["1"][..], "the namespace takes no api-key here (publish: iam"),
            ("demo/a", &["1", "{"][..], "event 1 is not a JSON value"),
        ] {
            let refusal = publish(&service, channel, events).unwrap_err().to_string();
            assert!(refusal.starts_with(why), "{refusal}");
        }
    }

    #[test]
    fn the_ledger_holds_what_was_answered_and_nothing_of_a_refused_request() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger");
        let service = service(Some(Ledger::open(&path).unwrap()));
        let big = "1".repeat(MAX_EVENT_BYTES + 1);
        let answer = publish(&service, "demo/a/", &["{\"n\": 1}", &big]).unwrap();
        assert!(publish(&service, "demo/a", &["1", "{"]).is_err());
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["event"], "{\"n\": 1}");
        assert_eq!(lines[0]["channel"], "/demo/a");
        assert_eq!(lines[0]["outcome"], "accepted");
        assert_eq!(lines[0]["code"], serde_json::Value::Null);
        assert_eq!(lines[0]["identifier"], answer.successful[0].identifier.as_str());
        assert_eq!(lines[1]["outcome"], "failed");
        assert_eq!(lines[1]["code"], "EventTooLargeException");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_the_ledger_cannot_hold_is_not_accepted() {
        let full = Ledger::open(std::path::Path::new("/dev/full")).unwrap();
        assert!(matches!(publish(&service(Some(full)), "demo/a", &["1"]), Err(Refusal::Ledger(_))));
    }
}
