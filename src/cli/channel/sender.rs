//! Sends batches, reads the verdict on each event, and keeps the account.

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use super::feed::{Feed, Item, Text};
use crate::backoff::Backoff;
use crate::cli::{complain, say};
use crate::event_api::Channel;
use crate::event_api::wire::publish_body;
use crate::publish::Client;
use crate::publish::post::{Failure, Fault, Post};
use crate::publish::verdict::{EventVerdict, Verdict, judge, why_again};
use crate::shutdown::Shutdown;
use crate::telemetry;

/// Shortest ceiling and longest of the wait before a retry.
const AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Failures that are listed; all are counted and said.
const LISTED: usize = 1_000;

/// Interval of redrawing the progress on a terminal, and of a line of it elsewhere.
const DRAW_EVERY: Duration = Duration::from_millis(200);
const LINE_EVERY: Duration = Duration::from_secs(5);

/// What became of the events.
#[derive(Clone, Debug, Default)]
pub(super) struct Account {
    pub(super) published: u64,
    /// Accepted as far as anybody knows.
    pub(super) unconfirmed: u64,
    pub(super) failed: u64,
    /// Read, and not sent any more, or without an answer.
    pub(super) unsent: u64,
    pub(super) requests: u64,
    /// Which, and why; the first of them.
    pub(super) failures: Vec<(String, String)>,
    /// Why it ended before the last event.
    pub(super) stopped: Option<String>,
}

impl Account {
    /// Whether everything that was read was accepted.
    pub(super) fn is_clean(&self) -> bool {
        self.failed == 0 && self.unsent == 0 && self.stopped.is_none()
    }

    /// Whether the API, and not a signal, ended it.
    pub(super) fn stopped_by_refusal(&self) -> bool {
        self.stopped.is_some()
    }
}

/// Sends to one channel.
pub(super) struct Sender {
    client: Client,
    channel: Channel,
    retry_for: Duration,
    shutdown: Shutdown,
    account: Mutex<Account>,
    bar: ProgressBar,
}

/// An event on its way.
struct Sent {
    origin: String,
    text: Text,
}

type Connection = <Client as Post>::Connection;

/// No longer than a clock can count.
const LONGEST: Duration = Duration::from_hours(24 * 365);

impl Sender {
    pub(super) fn new(
        client: Client,
        channel: Channel,
        retry_for: Duration,
        shutdown: Shutdown,
    ) -> Self {
        let terminal = std::io::stderr().is_terminal() && !telemetry::is_json();
        let target =
            if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(None, target);
        // The template is a constant; an error in it would only change the look.
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
            bar.set_style(style);
        }
        Self { client, channel, retry_for, shutdown, account: Mutex::default(), bar }
    }

    /// Sends what `feed` brings over so many connections, until its end, the drain or a refusal.
    pub(super) async fn run(self, feed: Feed, connections: usize) -> Account {
        let (whole, feed) = (Arc::new(self), Arc::new(tokio::sync::Mutex::new(feed)));
        let shown = tokio::spawn(Arc::clone(&whole).show_progress());
        let mut workers = tokio::task::JoinSet::new();
        for _ in 0..connections {
            workers.spawn(Arc::clone(&whole).work(Arc::clone(&feed)));
        }
        while let Some(ended) = workers.join_next().await {
            if let Err(error) = ended {
                whole
                    .account
                    .lock()
                    .stopped
                    .get_or_insert(format!("a bug in this program: {error}"));
                whole.shutdown.start_drain();
            }
        }
        shown.abort();
        let _ = shown.await;
        whole.bar.finish_and_clear();
        let mut account = whole.account.lock().clone();
        // What was read and is not sent, when the end came early.
        account.unsent += feed.lock().await.rest();
        account
    }

    async fn work(self: Arc<Self>, feed: Arc<tokio::sync::Mutex<Feed>>) {
        let mut connection = Connection::default();
        loop {
            let next = async { feed.lock().await.next().await };
            let batch = tokio::select! {
                biased;
                () = self.shutdown.drain() => return,
                batch = next => batch,
            };
            let Some(batch) = batch else { return };
            let mut sent = Vec::with_capacity(batch.len());
            for Item { origin, text } in batch {
                match text {
                    Ok(text) => sent.push(Sent { origin, text }),
                    Err(why) => self.fail(origin, why),
                }
            }
            let left = sent.len() as u64;
            let stopped = tokio::select! {
                biased;
                () = self.shutdown.abort() => Err(None),
                delivered = self.deliver(&mut connection, sent) => delivered.map_err(Some),
            };
            let Err(why) = stopped else { continue };
            let mut account = self.account.lock();
            if let Some((why, unsent)) = why {
                account.unsent += unsent;
                if account.stopped.is_none() {
                    self.bar.suspend(|| complain(&why));
                    account.stopped = Some(why);
                }
            } else {
                account.unsent += left;
            }
            self.shutdown.start_drain();
            return;
        }
    }

    /// Sends until each event is accepted or has failed. An error is why nothing more is to be sent, and how many of
    /// these were not.
    async fn deliver(
        &self,
        connection: &mut Connection,
        batch: Vec<Sent>,
    ) -> Result<(), (String, u64)> {
        let mut backoff = Backoff::new(AGAIN.0, AGAIN.1);
        let until = Instant::now() + self.retry_for.min(LONGEST);
        // The next one last.
        let mut open = if batch.is_empty() { Vec::new() } else { vec![batch] };
        while let Some(mut batch) = open.pop() {
            let unsent = |batch: &[Sent], open: &[Vec<Sent>]| {
                (batch.len() + open.iter().map(Vec::len).sum::<usize>()) as u64
            };
            let body = publish_body(
                &self.channel,
                batch.iter().map(|sent| sent.text.event()).collect::<Vec<_>>(),
            );
            self.account.lock().requests += 1;
            let (why, after) = match self.client.post(connection, body).await {
                Err(Failure { fault: Fault::Refused, why }) => {
                    return Err((why, unsent(&batch, &open)));
                }
                Err(Failure { fault: Fault::Trust, why }) => {
                    let why = format!(
                        "the API is not trusted: {why}; a CA of your own is `--ca-file FILE`, or `ca_file` of the API"
                    );
                    return Err((why, unsent(&batch, &open)));
                }
                Err(Failure { why, .. }) => (format!("the API can't be reached: {why}"), None),
                Ok(answer) => match judge(&answer, batch.len()) {
                    Verdict::Decided(verdicts) => {
                        let again = self.settle(batch, verdicts, Instant::now() >= until);
                        if again.is_empty() {
                            continue;
                        }
                        open.push(again);
                        sleep(backoff.next_wait()).await;
                        continue;
                    }
                    Verdict::Refused { why, .. } => {
                        let causes =
                            self.client.causes(Some(self.channel.namespace()), "Publish", &why);
                        let why = why.trim_end_matches('.');
                        let why = format!("the API refuses: {why}; {causes}");
                        return Err((why, unsent(&batch, &open)));
                    }
                    Verdict::Bad { .. } | Verdict::HandlerRefused { .. } if batch.len() > 1 => {
                        // One of them may be the cause: each alone, in their order.
                        open.extend(batch.into_iter().rev().map(|sent| vec![sent]));
                        continue;
                    }
                    Verdict::Bad { why, .. } | Verdict::HandlerRefused { why } => {
                        batch.drain(..).for_each(|sent| self.fail(sent.origin, why.clone()));
                        continue;
                    }
                    Verdict::Retry { after, .. } => (why_again(&answer), after),
                },
            };
            let wait = after.unwrap_or_else(|| backoff.next_wait());
            let left = until.saturating_duration_since(Instant::now());
            // The last try is at the end of the time, unless the API asks for a longer wait.
            if left.is_zero() || after.is_some_and(|after| after > left) {
                let patience = humantime::format_duration(self.retry_for);
                let why = format!("given up after {patience} (`--retry-for`): {why}");
                return Err((why, unsent(&batch, &open)));
            }
            open.push(batch);
            sleep(wait.min(left)).await;
        }
        Ok(())
    }

    /// Counts what is decided, and gives back what is to be tried again; nothing if it is `late`.
    fn settle(&self, batch: Vec<Sent>, verdicts: Vec<EventVerdict>, late: bool) -> Vec<Sent> {
        let mut again = Vec::new();
        for (sent, verdict) in batch.into_iter().zip(verdicts) {
            match verdict {
                EventVerdict::Accepted => self.account.lock().published += 1,
                EventVerdict::Unconfirmed => self.account.lock().unconfirmed += 1,
                EventVerdict::Hopeless { why } => self.fail(sent.origin, why),
                EventVerdict::Retry { why } | EventVerdict::Throttled { why } if late => {
                    self.fail(sent.origin, why);
                }
                EventVerdict::Retry { .. } | EventVerdict::Throttled { .. } => again.push(sent),
            }
        }
        again
    }

    fn fail(&self, origin: String, why: String) {
        self.bar.suspend(|| complain(&format_args!("{origin}: {why}")));
        let mut account = self.account.lock();
        account.failed += 1;
        if account.failures.len() < LISTED {
            account.failures.push((origin, why));
        }
    }

    /// A line that is redrawn on a terminal, one now and then elsewhere; never ends.
    async fn show_progress(self: Arc<Self>) {
        let terminal = !self.bar.is_hidden();
        let mut clock = tokio::time::interval(if terminal { DRAW_EVERY } else { LINE_EVERY });
        clock.tick().await;
        let (began, mut before) = (Instant::now(), 0);
        loop {
            clock.tick().await;
            let (account, now) = (self.account.lock().clone(), Instant::now());
            let all = account.published + account.unconfirmed;
            #[allow(clippy::cast_precision_loss)] // for people
            let rate = all as f64 / (now - began).as_secs_f64();
            let mut text =
                format!("{all} published, {} failed, {rate:.0} a second", account.failed);
            if self.shutdown.is_draining() {
                text.push_str(", stopping (a second signal stops at once)");
            }
            if terminal {
                self.bar.set_message(text);
                self.bar.tick();
            } else if all > before {
                say(&text);
            }
            before = all;
        }
    }
}
