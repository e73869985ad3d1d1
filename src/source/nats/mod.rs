//! The source of core NATS: subjects with wildcards, alone or in a queue group, at most once.
//!
//! A server of core NATS keeps nothing: what is published while there is no connection, and what was taken when the
//! process ends, is lost. There is no acknowledgement either, so nothing slows a publisher. The in-flight limit bounds
//! what is held, and holds the connection no more than a closed intake gate does: what has no room is dropped and
//! counted, each message of it, for which each source has a connection of its own ([`losses`]). What the *server*
//! drops, because a client is too slow for its `max_pending` or `write_deadline`, it does by cutting the connection,
//! and nobody can count it.
//!
//! A server sends a message once for each subscription of a connection that takes it. Of subjects that overlap, the
//! first brings the message and the others' copies are skipped. Those of a queue group do not overlap: each message
//! would come by any one of them, and no order between them is known.
//!
//! A subscription that the server refuses, at first or when its permissions change, is asked for again, ever more rarely:
//! a reload of the server may allow it, and tells nobody. The source is not ready until every one is granted; what the
//! others bring is taken meanwhile, that of subjects that overlap with the refused one too. Until a grant is confirmed,
//! which takes a moment, two of those may both bring a message.
//!
//! Stopping, the subscriptions are ended, what was received by then is taken, and everything in flight finished; one
//! that takes its place after a reload need not wait for that. What
//! is on its way in that moment is lost, and counted: async-nats ends a subscription before the server has confirmed it.

mod held;
mod losses;
mod probe;
mod standing;
mod taker;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use async_nats::connection::State;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::recent_topics::RecentTopics;
use super::{Room, Unclean};
use crate::config::nats::{NatsConfig, overlaps};
use crate::config::source::Limits;
use crate::delivery::Intake;
use crate::health::Part;
use crate::message::SourceName;
use crate::metrics::SourceMetrics;
use crate::nats::{BuildError, Change, Dialer, confirmed};
use crate::shutdown::Shutdown;
use held::Held;
pub use probe::probe;
use standing::Standing;
use taker::{Account, FAREWELL, Subscription, Taker};

/// The source gives a sign of life this often.
const ALIVE_EVERY: Duration = Duration::from_secs(10);

/// Messages in the client's queue of a subscription. It is emptied after each turn of the client's reading, which is
/// some megabytes at most.
const QUEUED: usize = 65_536;

/// A source over one connection.
#[derive(Debug)]
pub struct NatsSource {
    name: SourceName,
    config: NatsConfig,
    dialer: Dialer,
    room: Arc<Room>,
    metrics: SourceMetrics,
    standing: Arc<Standing>,
    /// Cancelled when it takes nothing more: another may take its place while it waits for what it has in flight.
    pub(super) left: CancellationToken,
}

impl NatsSource {
    /// A source for `config`; reads its certificates, connects to nothing.
    pub fn build(
        name: SourceName,
        config: NatsConfig,
        limits: Limits,
        metrics: SourceMetrics,
        health: Part,
    ) -> Result<Self, BuildError> {
        let dialer = Dialer::new(&config.connection, &name)?;
        let room = Room::new(limits, metrics.clone());
        let connection = config.connection.clone();
        let standing = Standing::new(name.clone(), connection, metrics.clone(), health);
        let (standing, left) = (Arc::new(standing), CancellationToken::new());
        Ok(Self { name, config, dialer, room, metrics, standing, left })
    }

    /// Takes messages until the drain, and finishes what is in flight; on the abort it leaves at once, and what was
    /// not finished is lost.
    pub async fn run(self, intake: Intake, shutdown: Shutdown) -> Result<(), Unclean> {
        let source = &self.name;
        info!(%source, "core NATS is at most once: what comes while the bridge is away or has no room is lost");
        let connected = Arc::new(Notify::new());
        let client = self.open(&connected).await?;
        let (held, account) =
            (Held::new(Arc::clone(&self.room)), Arc::new(Account::new(client.statistics())));
        let mut confirming = JoinSet::new();
        let standing = Arc::clone(&self.standing);
        confirming.spawn(confirm(client.clone(), Arc::clone(&connected), standing));
        let mut alive = interval(ALIVE_EVERY);
        let mut takers = JoinSet::new();
        let (mut renew, mut again) = (None, None);
        let mut unsaid = false;
        loop {
            if takers.is_empty() {
                if shutdown.is_draining() {
                    // Nobody takes, so nobody tells that it has ended.
                    break;
                }
                let subscriptions = self.subscribe(&client, |_| true).await?;
                let (renewed, renewals) = mpsc::unbounded_channel();
                renew = Some(renewed);
                let taker = Taker {
                    name: self.name.clone(),
                    subscriptions,
                    held: Arc::clone(&held),
                    metrics: self.metrics.clone(),
                    intake: intake.clone(),
                    account: Arc::clone(&account),
                    topics: RecentTopics::new('.'),
                    standing: Arc::clone(&self.standing),
                    waiting: VecDeque::new(),
                };
                takers.spawn(taker.run(renewals, shutdown.clone()));
            }
            tokio::select! {
                _ = alive.tick() => {
                    self.standing.health().alive();
                    unsaid = self.overlooked(&client, unsaid, &connected);
                }
                wait = self.standing.refusal(), if again.is_none() => {
                    again = Some(Instant::now() + wait);
                }
                () = sleep_until(again.unwrap_or_else(Instant::now)), if again.is_some() => {
                    again = None;
                    self.ask_again(&client, renew.as_ref(), &connected).await?;
                }
                Some(ended) = takers.join_next() => match ended {
                    _ if shutdown.is_draining() => break,
                    Ok(()) => return Err(Unclean("the client is gone")),
                    Err(why) => error!(%source, %why, "taking messages failed; subscribing again"),
                },
                () = shutdown.abort() => return Err(Unclean("aborted")),
            }
        }
        confirming.shutdown().await;
        if self.standing.is_connected() {
            // What came behind the end of the subscriptions is lost, and known when the server has confirmed that.
            let _ = timeout(FAREWELL, confirmed(&client)).await;
        }
        account.close(&self.name, &self.metrics);
        self.standing.leave();
        drop(client);
        self.left.cancel();
        let finished = held.empty();
        tokio::pin!(finished);
        loop {
            tokio::select! {
                () = &mut finished => return Ok(()),
                _ = alive.tick() => self.standing.health().alive(),
                () = shutdown.abort() => return Err(Unclean("aborted")),
            }
        }
    }

    /// In a flood of what it has to tell the client may leave out that it is connected: whether it seems so, which is
    /// certain the second time.
    fn overlooked(&self, client: &Client, seemed: bool, connected: &Notify) -> bool {
        let seems = client.connection_state() == State::Connected && !self.standing.is_connected();
        if seems && seemed {
            self.standing.changed(&Change::Connected);
            connected.notify_one();
        }
        seems
    }

    async fn open(&self, connected: &Arc<Notify>) -> Result<Client, Unclean> {
        let (standing, connected) = (Arc::clone(&self.standing), Arc::clone(connected));
        // Each subscription is asked for at once, be there a connection or not.
        let asked = self.config.subjects.len() + 64;
        let with = |options: async_nats::ConnectOptions| {
            options.subscription_capacity(QUEUED).client_capacity(asked)
        };
        let told = move |change: Change| {
            standing.changed(&change);
            if matches!(change, Change::Connected) {
                connected.notify_one();
            }
        };
        self.dialer.open(with, told).await.map_err(|_| Unclean("the client could not be made"))
    }

    /// Asks for what was refused once more, on the same connection.
    async fn ask_again(
        &self,
        client: &Client,
        renew: Option<&mpsc::UnboundedSender<Subscription>>,
        connected: &Notify,
    ) -> Result<(), Unclean> {
        let refused = self.standing.asking_again();
        if let Some(renew) = renew {
            let subscriptions = self.subscribe(client, |subject| refused.contains(subject)).await?;
            for subscription in subscriptions {
                let _ = renew.send(subscription);
            }
        }
        self.standing.asked_again();
        // A connection that came meanwhile has asked for them by itself; this confirms that, too.
        connected.notify_one();
        Ok(())
    }

    /// Asks for those of the subjects that are `wanted`.
    async fn subscribe(
        &self,
        client: &Client,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Vec<Subscription>, Unclean> {
        let NatsConfig { subjects, queue, .. } = &self.config;
        let mut subscriptions = Vec::new();
        let all = subjects.iter().zip(overlaps(subjects));
        for (subject, others) in all.filter(|(subject, _)| wanted(subject)) {
            let subscriber = match queue {
                None => client.subscribe(subject.clone()).await,
                Some(queue) => client.queue_subscribe(subject.clone(), queue.clone()).await,
            };
            let subscriber = subscriber.map_err(|_| Unclean("the client is gone"))?;
            let others = others.into_iter().map(|other| subjects[other].clone()).collect();
            subscriptions.push(Subscription { subject: subject.clone(), subscriber, others });
        }
        Ok(subscriptions)
    }
}

/// Says that the source works, each time that the server has taken its subscriptions.
async fn confirm(client: Client, connected: Arc<Notify>, standing: Arc<Standing>) {
    loop {
        connected.notified().await;
        let round = standing.round();
        // A complaint that came before the first answer is told by another task, which has its turn before the second:
        // else a source would be ready for a moment that was refused what it asked for.
        confirmed(&client).await;
        confirmed(&client).await;
        standing.works(round);
    }
}
