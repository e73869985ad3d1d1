//! How the connection of a source to NATS stands: told to `/readyz`, to the metrics and to the log.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tracing::{info, warn};

use crate::backoff::Backoff;
use crate::config::nats::Connection;
use crate::health::Part;
use crate::message::SourceName;
use crate::metrics::SourceMetrics;
use crate::nats::{Change, Kind, Trouble};
use crate::repeats::Repeats;
use crate::source::reconnect::{CAP, Reconnect};

/// The same complaint is not said again sooner.
const SAY_EVERY: Duration = Duration::from_mins(5);

/// The longest first wait before what was refused is asked for again: a reload of the server may allow it.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// What is known of a connection, and what the source lacks on it.
#[derive(Debug)]
pub(super) struct Standing {
    name: SourceName,
    config: Connection,
    metrics: SourceMetrics,
    health: Part,
    state: Mutex<State>,
    /// Something was refused.
    refusal: Notify,
}

#[derive(Debug)]
#[allow(clippy::struct_excessive_bools)] // each may be by itself
struct State {
    /// Since when there is a connection.
    since: Option<Instant>,
    /// Whether there was one before.
    known: bool,
    /// What is told of failures; the waits between them are the client's.
    policy: Reconnect<Kind>,
    complaint: Option<(Trouble, Repeats)>,
    /// What the source needs and is not allowed: the subjects, as the server names them.
    refused: BTreeSet<String>,
    /// Of those that were refused, the ones that are not known to be granted since.
    lacking: BTreeSet<String>,
    /// How often something was asked for.
    round: u64,
    /// The waits before that is asked for again.
    again: Backoff,
    /// It works, or did before something was refused.
    granted: bool,
    /// The connection ended, and nobody has said why.
    cut: bool,
    cuts: Repeats,
    /// Nothing is taken any more.
    left: bool,
}

impl Standing {
    /// Nothing is known yet.
    pub(super) fn new(
        name: SourceName,
        config: Connection,
        metrics: SourceMetrics,
        health: Part,
    ) -> Self {
        let policy = Reconnect::new(Duration::ZERO);
        let state = Mutex::new(State {
            since: None,
            known: false,
            policy,
            complaint: None,
            refused: BTreeSet::new(),
            lacking: BTreeSet::new(),
            round: 0,
            again: Backoff::new(ASK_AGAIN, CAP),
            granted: true,
            cut: false,
            cuts: Repeats::default(),
            left: false,
        });
        Self { name, config, metrics, health, state, refusal: Notify::new() }
    }

    /// The part of the source, for signs of life.
    pub(super) fn health(&self) -> &Part {
        &self.health
    }

    /// Whether there is a connection.
    pub(super) fn is_connected(&self) -> bool {
        self.state.lock().since.is_some()
    }

    /// A confirmation is of what was asked for in the same round.
    pub(super) fn round(&self) -> u64 {
        self.state.lock().round
    }

    /// What was refused has been asked for again.
    pub(super) fn asked_again(&self) {
        self.state.lock().round += 1;
    }

    /// The source does its work, unless the connection was lost meanwhile, or something was refused on it, or asked
    /// for again since that `round`.
    pub(super) fn works(&self, round: u64) {
        let mut state = self.state.lock();
        if state.left || state.since.is_none() || state.round != round {
            return;
        }
        let State { lacking, refused, .. } = &mut *state;
        lacking.clone_from(refused);
        if !state.refused.is_empty() {
            return;
        }
        if !state.granted {
            info!(source = %self.name, "the server grants what it refused");
        }
        state.granted = true;
        state.again.reset();
        self.metrics.connected.set(1);
        self.health.ready();
    }

    /// Waits until something is refused; how long to wait before it is asked for again.
    pub(super) async fn refusal(&self) -> Duration {
        self.refusal.notified().await;
        self.state.lock().again.next_wait()
    }

    /// The subjects that were refused, which are asked for again now: whatever is refused from here on is new.
    pub(super) fn asking_again(&self) -> BTreeSet<String> {
        let mut state = self.state.lock();
        state.round += 1;
        std::mem::take(&mut state.refused)
    }

    /// Whether the server refuses the subject, as far as is known.
    pub(super) fn is_refused(&self, subject: &str) -> bool {
        self.state.lock().lacking.contains(subject)
    }

    /// Nothing more is asked for: from now on it is not ready, whatever becomes of the connection.
    pub(super) fn draining(&self) {
        self.state.lock().left = true;
        self.health.not_ready("draining");
    }

    /// Nothing is taken any more: what becomes of the connection is of no concern, and the numbers may be another's.
    pub(super) fn leave(&self) {
        self.state.lock().left = true;
        self.metrics.connected.set(0);
    }

    /// Something became of the connection.
    pub(super) fn changed(&self, change: &Change) {
        let mut state = self.state.lock();
        match change {
            _ if state.left => {}
            Change::Connected => self.connected(&mut state),
            Change::Lost => {
                self.metrics.connected.set(0);
                let complaint = state.complaint.take().map(|(trouble, _)| trouble);
                let complaint = complaint.filter(|trouble| trouble.kind != Kind::Permission);
                state.cut = complaint.is_none();
                let trouble = complaint.unwrap_or_else(Trouble::closed);
                let held = state.since.take().map(|since| since.elapsed());
                self.failed(&mut state, &trouble, held, "trying again");
            }
            Change::Failed { server, trouble, wait } => {
                state.cut = false;
                let next = format!("{server}; next try in {wait:.1?}");
                self.failed(&mut state, trouble, None, &next);
            }
            Change::LameDuck => {
                let source = &self.name;
                info!(%source, "the server is about to end; another is tried when it closes the connection");
            }
            Change::Complaint(trouble) => self.complained(&mut state, trouble),
            Change::Slow | Change::Closed => {}
        }
    }

    fn connected(&self, state: &mut State) {
        self.metrics.connected.set(1);
        if state.known {
            self.metrics.reconnects.inc();
        }
        (state.known, state.since) = (true, Some(Instant::now()));
        state.round += 1;
        state.complaint = None;
        state.refused.clear();
        self.health.not_ready("connected; waiting for the server to confirm what was asked for");
        info!(source = %self.name, "connected");
        // The client ends the connection when it can't read what comes, and tells nobody.
        if std::mem::take(&mut state.cut)
            && let Some(times) = state.cuts.again(SAY_EVERY, Instant::now())
        {
            let hint = "look for who publishes such headers: names are ASCII without blanks";
            warn!(
                source = %self.name, times, hint,
                "the connection ended, and a server was there at once; if none was restarted, a message came whose \
                 headers can't be read: it is lost, with what came behind it until now"
            );
        }
    }

    fn failed(&self, state: &mut State, trouble: &Trouble, held: Option<Duration>, next: &str) {
        let (why, hint) = (&trouble.what, trouble.hint(&self.config));
        let words = trouble.in_words(&self.config);
        self.health.not_ready(format!("{words} ({next})"));
        if state.policy.ended(trouble.kind, held).say {
            warn!(source = %self.name, why, hint, next, "not connected; trying again");
        }
    }

    fn complained(&self, state: &mut State, trouble: &Trouble) {
        let now = Instant::now();
        let known = state.complaint.take().filter(|(known, _)| known == trouble);
        let (_, mut repeats) = known.unwrap_or_else(|| (trouble.clone(), Repeats::default()));
        if let Some(times) = repeats.again(SAY_EVERY, now) {
            let (why, hint) = (&trouble.what, trouble.hint(&self.config));
            warn!(source = %self.name, why, hint, times, "the server complains");
        }
        state.complaint = Some((trouble.clone(), repeats));
        if trouble.kind == Kind::Permission && state.since.is_some() {
            let subject = subject(&trouble.what);
            state.refused.insert(subject.to_owned());
            state.lacking.insert(subject.to_owned());
            state.granted = false;
            self.metrics.connected.set(0);
            self.health.not_ready(trouble.in_words(&self.config));
            self.refusal.notify_one();
        }
    }
}

/// The subject in `Permissions Violation for Subscription to "a.*"`, or all of it.
fn subject(words: &str) -> &str {
    words.split('"').nth(1).unwrap_or(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::Health;
    use crate::metrics::Metrics;

    fn standing(health: &Health) -> Standing {
        let config = Connection { servers: Vec::new(), auth: None, tls: None, tls_first: false };
        let part = health.register("it", "starting");
        Standing::new("it".into(), config, Metrics::new().source("it"), part)
    }

    fn missing(health: &Health) -> String {
        health.not_ready().pop().map(|(_, why)| why).unwrap_or_default()
    }

    #[test]
    fn it_works_when_the_server_has_confirmed_and_not_before() {
        let health = Health::default();
        let standing = standing(&health);
        // An answer that was asked for over a connection that is lost.
        standing.works(standing.round());
        assert_eq!(missing(&health), "starting");
        standing.changed(&Change::Connected);
        assert!(missing(&health).contains("waiting for the server to confirm"));
        standing.works(standing.round());
        assert_eq!(missing(&health), "");
        let counts = |of: &Standing| (of.metrics.connected.get(), of.metrics.reconnects.get());
        assert_eq!(counts(&standing), (1, 0));
        standing.changed(&Change::Lost);
        standing.works(standing.round());
        assert_eq!(missing(&health), "the connection was lost (trying again)");
        assert_eq!(counts(&standing), (0, 0));
        let (trouble, wait) = (Trouble::of_words("Connection refused"), Duration::from_secs(2));
        standing.changed(&Change::Failed { server: "nats://a:1".to_owned(), trouble, wait });
        let why = missing(&health);
        assert!(why.contains("is the port right? (nats://a:1; next try in 2.0s)"), "{why}");
        standing.changed(&Change::Connected);
        standing.works(standing.round());
        assert_eq!((missing(&health), counts(&standing)), (String::new(), (1, 1)));
    }

    #[test]
    fn what_the_server_complained_of_is_why_it_ends_the_connection() {
        let health = Health::default();
        let standing = standing(&health);
        standing.changed(&Change::Connected);
        let complaint = |words: &str| Change::Complaint(Trouble::of_words(words));
        standing.changed(&complaint("nats: User Authentication Expired"));
        standing.changed(&Change::Lost);
        assert!(missing(&health).starts_with("User Authentication Expired; renew"));
    }

    #[test]
    fn without_a_subscription_that_is_refused_it_never_works() {
        let health = Health::default();
        let standing = standing(&health);
        standing.changed(&Change::Connected);
        let words = "nats: Permissions Violation for Subscription to \"a\"";
        standing.changed(&Change::Complaint(Trouble::of_words(words)));
        standing.works(standing.round());
        assert!(missing(&health).starts_with("Permissions Violation for Subscription to \"a\""));
        assert_eq!(standing.metrics.connected.get(), 0, "nothing is consumed");
        // Asked for again, it is refused again, and then no more.
        assert_eq!(standing.asking_again(), BTreeSet::from(["a".to_owned()]));
        assert!(standing.is_refused("a") && !standing.is_refused("b"), "until it is granted");
        standing.changed(&Change::Complaint(Trouble::of_words(words)));
        standing.works(standing.round());
        assert!(missing(&health).starts_with("Permissions Violation"));
        assert_eq!(standing.asking_again().len(), 1);
        standing.works(standing.round());
        assert_eq!((missing(&health), standing.metrics.connected.get()), (String::new(), 1));
        assert!(!standing.is_refused("a"));
        standing.changed(&Change::Complaint(Trouble::of_words(words)));
        // The next server may allow it.
        standing.changed(&Change::Lost);
        standing.changed(&Change::Connected);
        standing.works(standing.round());
        assert_eq!(missing(&health), "");
    }
}
