//! Dead letters through their routes again: the records of files, in their order and at least once,
//! through the same routes and publishers that the bridge runs, with an account of every one.
//!
//! No broker is needed. The files are never changed; records that are rejected again are written to a file
//! beside, on disk before they are counted. Nothing is printed here.

mod account;
mod input;
mod lines;
mod plan;
mod preview;

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tokio::task::JoinSet;

pub use account::{Account, Place, Unread};
pub use input::{Options, rejects_beside};
pub use preview::{Preview, dry_run};

use crate::config::Config;
use crate::dead_letter::record::Kept;
use crate::dead_letter::{FileTarget, First, Letter, OpenError, Record, write_letters};
use crate::delivery::{Delivery, Done, Outcome};
use crate::health::Health;
use crate::metrics::Metrics;
use crate::pipeline::entries;
use crate::publish::{self, Addressed, Publisher, Refused};
use crate::route::{Decision, Reason, Rejection, RouteName};
use crate::shutdown::Shutdown;
use account::Tally;
use input::{Input, Read, has_stdin, rejects_of};
use plan::{Routes, Undecided};

/// After the abort every part has this long to end.
const ABORT_TIMEOUT: Duration = Duration::from_millis(500);

/// Why nothing was replayed.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A file.
    #[error("`{path}` can't be read: {why}")]
    File {
        /// As given.
        path: String,
        /// What is wrong.
        why: io::Error,
    },
    /// A file is given twice.
    #[error("`{0}` is named twice")]
    Twice(String),
    /// What comes by standard input has no place beside it.
    #[error(
        "what is rejected again can't go beside standard input; name a file for it with `--rejects`"
    )]
    NoRejects,
    /// Records would be written to a file they come from.
    #[error(
        "`{0}` would be read and written: what is rejected again goes there; replay it by itself, or name another file with `--rejects`"
    )]
    Both(String),
    /// The file for records that are rejected again.
    #[error(transparent)]
    Rejects(#[from] OpenError),
    /// No such route.
    #[error("there is no route `{name}`; there is {known}")]
    Route {
        /// As given.
        name: String,
        /// Those there are.
        known: String,
    },
    /// An API.
    #[error("api `{name}`: {why}")]
    Api {
        /// Its name.
        name: String,
        /// What is wrong.
        #[source]
        why: publish::BuildError,
    },
}

/// A replay that is built and not yet running.
pub struct Replay {
    input: Input,
    parts: JoinSet<()>,
    feed: Feed,
    progress: Progress,
    grace: Duration,
    shutdown: Shutdown,
}

/// Where records go.
struct Feed {
    publishers: HashMap<Arc<str>, mpsc::UnboundedSender<Addressed>>,
    rejects: Rejects,
}

/// The writer of records that are rejected again.
#[derive(Clone)]
struct Rejects {
    /// One a file.
    letters: Vec<mpsc::UnboundedSender<Letter>>,
    /// Knows the file of each record.
    tally: Arc<Tally>,
}

/// A view of a replay's progress; cheap to clone.
#[derive(Clone)]
pub struct Progress {
    /// Of all files; `None` with standard input.
    pub total_bytes: Option<u64>,
    bytes: Arc<AtomicU64>,
    tally: Arc<Tally>,
    health: Health,
}

impl Replay {
    /// Opens the files and builds the publishers; nothing is sent before [`run`](Self::run).
    pub async fn build(
        config: &Config,
        options: &Options,
        shutdown: Shutdown,
    ) -> Result<Self, BuildError> {
        if options.rejects.is_none() && has_stdin(options) {
            return Err(BuildError::NoRejects);
        }
        let input = Input::open(config, options)?;
        let (metrics, health) = (Metrics::new(), Health::default());
        let mut parts = JoinSet::new();

        let mut letters = Vec::new();
        for path in rejects_of(options) {
            let (sender, queue) = mpsc::unbounded_channel();
            let part = health.register(format!("rejects {}", path.display()), "starting");
            let target = FileTarget::when_needed(path)?;
            let metrics = metrics.dead_letter("rejects", Reason::ALL.map(Reason::word));
            parts.spawn(write_letters(target, queue, metrics, part, shutdown.clone()));
            letters.push(sender);
        }
        if let [only] = letters.as_slice() {
            letters = vec![only.clone(); options.files.len()];
        }
        let tally = Arc::<Tally>::default();
        let rejects = Rejects { letters, tally: Arc::clone(&tally) };

        let (refused, refused_entries) = mpsc::unbounded_channel();
        let wanted: HashSet<_> = input.wanted(config).map(|route| &route.api).collect();
        let mut publishers = HashMap::new();
        for (name, api) in config.apis.iter().filter(|(name, _)| wanted.contains(name)) {
            let publisher = Publisher::build(api, &metrics, &health, refused.clone())
                .await
                .map_err(|why| BuildError::Api { name: name.to_string(), why })?;
            let (entries, queue) = mpsc::unbounded_channel();
            publishers.insert(Arc::clone(name), entries);
            parts.spawn(publisher.run(queue, shutdown.clone()));
        }
        drop(refused);
        parts.spawn(rejects.clone().run(refused_entries));

        let feed = Feed { publishers, rejects };
        let total_bytes = input.lengths.iter().copied().sum();
        let progress = Progress { total_bytes, bytes: Arc::default(), tally, health };
        Ok(Self { input, parts, feed, progress, grace: config.grace, shutdown })
    }

    /// Its progress.
    pub fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// Runs to the end of the files, or to the drain: then it finishes what is in flight within the
    /// grace, and leaves the rest.
    pub async fn run(mut self) -> Account {
        let read = self.feed.run(&mut self.input, &self.progress, &self.shutdown).await;
        // With its senders the publishers end, then the reject step, then the files.
        drop(self.feed);
        let drain = async {
            self.shutdown.drain().await;
            tokio::select! {
                () = tokio::time::sleep(self.grace) => {}
                () = self.shutdown.abort() => {}
            }
        };
        let ended = async { while self.parts.join_next().await.is_some() {} };
        let mut aborted = false;
        tokio::select! {
            biased;
            // First: the parts end by an abort too.
            () = drain => {
                aborted = self.shutdown.is_aborting();
                self.shutdown.start_abort();
                let ended = async { while self.parts.join_next().await.is_some() {} };
                let _ = tokio::time::timeout(ABORT_TIMEOUT, ended).await;
                self.parts.shutdown().await;
            }
            () = ended => {}
        }
        let (mut account, _) = self.progress.tally.now();
        account.unread = self.input.unread(&read);
        account.unsettled.sort_unstable();
        account.aborted = aborted;
        account
    }
}

impl Progress {
    /// Bytes read, the account so far, and how many records are in flight.
    pub fn now(&self) -> (u64, Account, usize) {
        let (account, in_flight) = self.tally.now();
        (self.bytes.load(Ordering::Relaxed), account, in_flight)
    }

    /// What it waits for, if anything.
    pub fn held_up(&self) -> Option<String> {
        let (part, why) = self.health.not_ready().into_iter().next()?;
        Some(format!("{part}: {why}"))
    }
}

impl Feed {
    /// Hands records over until the files end or the drain starts; gives how far it came.
    async fn run(&self, input: &mut Input, progress: &Progress, shutdown: &Shutdown) -> Vec<Read> {
        let tally = &progress.tally;
        let mut read = input.start();
        while let Some(line) = input.next(shutdown).await {
            let bytes = line.kept.as_ref().map_or(0, |kept| kept.message.payload.len());
            tokio::select! {
                biased;
                () = shutdown.drain() => break,
                () = tally.room(bytes) => {}
            }
            // A stopped publisher releases all that it gets.
            if self.publishers.values().any(mpsc::UnboundedSender::is_closed) {
                break;
            }
            read[line.place.file].take(&line);
            progress.bytes.fetch_add(line.bytes, Ordering::Relaxed);
            match line.kept {
                Err(why) => tally.count(|account| account.unreadable(line.place, why)),
                Ok(kept) => {
                    tally.count(|account| account.read += 1);
                    if input.wants(&kept) {
                        self.hand_over(line.place, kept, &input.routes, tally);
                    } else {
                        tally.count(|account| account.skipped += 1);
                    }
                }
            }
        }
        read
    }

    fn hand_over(&self, place: Place, kept: Kept, routes: &Routes, tally: &Arc<Tally>) {
        let bytes = kept.message.payload.len();
        let first = kept.first.clone().unwrap_or_else(|| First {
            reason: kept.reason.clone(),
            detail: kept.detail.clone(),
            at: kept.at,
        });
        let messages = match routes.messages(&kept) {
            Ok(messages) => messages,
            Err(Undecided { reason, detail, .. }) => {
                let delivery = Delivery::new(kept.message, tally.take(place, bytes, None, first));
                return self.rejects.write(delivery, kept.route, kept.channel, (reason, detail));
            }
        };
        let plans: Vec<_> = messages.iter().map(|message| routes.plan(message, &kept)).collect();
        let unknown_route =
            plans.iter().find_map(|plan| plan.as_ref().err()?.unknown_route.clone());
        let settlement = tally.take(place, bytes, unknown_route, first);
        if messages.is_empty() {
            return settlement.settle(Outcome::Accepted(Done::Published));
        }
        let duties = settlement.share(messages.len());
        for ((message, plan), duty) in messages.into_iter().zip(plans).zip(duties) {
            self.publish(Delivery::new(message, duty), plan, &kept);
        }
    }

    fn publish(&self, delivery: Delivery, plan: Result<Vec<Decision<'_>>, Undecided>, kept: &Kept) {
        let decisions = match plan {
            Ok(decisions) => decisions,
            Err(Undecided { reason, detail, .. }) => {
                let (route, channel) = (kept.route.clone(), kept.channel.clone());
                return self.rejects.write(delivery, route, channel, (reason, detail));
            }
        };
        for Decision { route, outcome, .. } in decisions {
            // The API of every route has a publisher; a part that is dropped is unsettled.
            let Some(publisher) = self.publishers.get(&route.api) else {
                drop(delivery.split());
                continue;
            };
            match outcome {
                Ok(rendered) => {
                    entries(&delivery, rendered, route).for_each(|e| drop(publisher.send(e)));
                }
                Err(Rejection { reason, detail }) => {
                    let (route, why) = (Some(Arc::clone(&route.name)), (reason.word(), detail));
                    self.rejects.write(delivery.split(), route, None, why);
                }
            }
        }
        delivery.settle(Outcome::Accepted(Done::Published));
    }
}

impl Rejects {
    /// Takes events that the publishers hand back, until those have ended.
    async fn run(self, mut refused: mpsc::UnboundedReceiver<Refused>) {
        while let Some(Refused { entry, channel, why }) = refused.recv().await {
            let route = Some(Arc::clone(&entry.route().name));
            let why = (Reason::Refused.word(), why);
            self.write(entry.delivery, route, Some(channel.to_string()), why);
        }
    }

    fn write(
        &self,
        delivery: Delivery,
        route: Option<RouteName>,
        channel: Option<String>,
        (reason, detail): (&'static str, String),
    ) {
        // A record that can't be written to its file is dropped, which leaves it unsettled.
        let Some((place, first)) = self.tally.origin(delivery.token()) else { return };
        let Some(letters) = self.letters.get(place.file) else { return };
        let (message, at) = (Arc::new(delivery.message().clone()), SystemTime::now());
        let first = Some(first);
        let record = Record { message, route, channel, reason, detail, at, first };
        drop(letters.send(Letter::new(record, delivery)));
    }
}
