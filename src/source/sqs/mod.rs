//! The SQS source: long polling, leases that are extended while a message is ours, and a deletion only after it was
//! settled.
//!
//! `receivers` ask for messages; each reserves room before it asks, and asks nothing while no API takes anything,
//! since every receive is counted against `maxReceiveCount`. A message is ours for the visibility timeout,
//! which is the queue's unless it is set, and is extended at half of it, from the moment of receipt. One task, the
//! [keeper](keeper), tells SQS what became of the messages; what it owes is in [`debts`]. A message that
//! comes again while it is held here is known by its new receipt from then on.
//!
//! Of a FIFO queue the message group is what orders. SQS keeps a group from everybody while one of its messages
//! is in flight, so what was received of it is in order; when one of them goes back, those behind it do, too. When a
//! lease is lost, the messages behind are let go with it: they come again in their order, and are known.
//!
//! A rejected message whose route says `dead_letter = "source"` is neither deleted nor extended: the queue's redrive
//! policy takes it, and without one the source refuses to run, or waits for one if it began by a reload. After 11 of the
//! 12 hours that SQS allows a message is let go, whatever it waits for, and is known when it comes again.
//!
//! # Hazards, and what answers them
//!
//! | hazard | answer |
//! | --- | --- |
//! | a batch is answered with 200 and failures in it | each entry is matched by its id and retried by itself |
//! | a long poll without an end: AWS's library has no timeout of its own | each attempt ends 10 s after its wait |
//! | the library tries three times and gives up | it tries once; the waits are ours |
//! | an outage burns the receive counts of good messages | no receive while the gate is closed; what is held is extended |
//! | a policy that allows receives and no deletions | receives pause, and say which action is denied |
//! | a receive that is open when the drain begins | it is awaited, and what it brings goes back |

mod abort;
mod attempt;
mod debt;
mod debts;
mod extension;
mod keeper;
mod link;
mod probe;
mod queue;
mod receipt;
mod received;
mod receiver;
mod unwrap;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tracing::{error, warn};

use super::{Lease, Leases, Room, Unclean};
use crate::aws::AwsError;
use crate::aws::sqs::{Call, Kind, Trouble};
use crate::config::source::Limits;
use crate::config::sqs::{Envelope, SqsConfig};
use crate::delivery::Intake;
use crate::health::Part;
use crate::message::{SourceName, Topic};
use crate::metrics::{SourceMetrics, SqsMetrics, ends_at};
use crate::shutdown::Shutdown;
use debts::Debts;
use keeper::Keeper;
use link::Link;
pub use probe::probe;
use queue::{Attributes, Queue};
use receipt::{Cuts, Receipt};
pub(super) use unwrap::messages;

/// A shorter one can't be extended in time.
const SHORTEST_VISIBILITY: Duration = Duration::from_secs(2);

/// A reload waits so long for what the queue says of itself.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);

/// A queue that lacks what only a person can give it is looked at so often.
const LOOK_AGAIN: Duration = Duration::from_secs(15);

/// What the error says, and `check` too.
const NO_REDRIVE: &str = "a route leaves its rejects to the queue (`dead_letter = \"source\"`), and the queue has no \
                          redrive policy: they would be received for ever; give it one \
                          (`RedrivePolicy`), or name a `[dead_letter.NAME]`";

/// A source over one queue.
#[derive(Debug)]
pub struct SqsSource {
    name: SourceName,
    config: SqsConfig,
    queue: Queue,
    limits: Limits,
    metrics: SourceMetrics,
    numbers: SqsMetrics,
    link: Arc<Link>,
    /// The bridge runs already, and does not end for it.
    by_reload: bool,
}

/// What receivers and keeper share.
struct Shared {
    name: SourceName,
    topic: Topic,
    queue: Queue,
    wait: Duration,
    /// What is around each message.
    envelopes: Vec<Envelope>,
    visibility: Duration,
    room: Arc<Room>,
    leases: Arc<Leases<Receipt>>,
    debts: Mutex<Debts>,
    /// Something was settled, or is owed.
    changed: Arc<Notify>,
    received: AtomicU64,
    numbers: SqsMetrics,
    link: Arc<Link>,
}

impl SqsSource {
    /// A source for `config`; opens the credential chain, asks the queue nothing.
    pub async fn build(
        name: SourceName,
        config: SqsConfig,
        limits: Limits,
        (metrics, numbers): (SourceMetrics, SqsMetrics),
        health: Part,
    ) -> Result<Self, AwsError> {
        let queue = Queue::open(&config).await?;
        queue.tell_end(ends_at(&metrics.credentials_expiry));
        let link = Link::new(queue.clone(), name.to_string(), metrics.clone(), health);
        Ok(Self { name, config, queue, limits, metrics, numbers, link, by_reload: false })
    }

    /// It begins while the bridge runs. The error says what the queue clearly lacks; one that does not answer soon is
    /// looked at when it does, and until it has what it needs the source is not ready.
    pub async fn begin_by_reload(&mut self) -> Result<(), &'static str> {
        self.by_reload = true;
        if !self.config.needs_redrive {
            return Ok(());
        }
        match timeout(ASK_TIMEOUT, self.queue.attributes()).await {
            Ok(Ok(attributes)) if self.lacks_redrive(&attributes) => Err(NO_REDRIVE),
            _ => Ok(()),
        }
    }

    /// Takes messages until the drain, deletes what was settled and gives the rest back; on the abort it gives
    /// back what it can in a moment.
    pub async fn run(self, intake: Intake, shutdown: Shutdown) -> Result<(), Unclean> {
        let attributes = loop {
            let Some(attributes) = self.survey(&shutdown).await else { return Ok(()) };
            if !self.lacks_redrive(&attributes) {
                break attributes;
            }
            error!(source = %self.name, "{NO_REDRIVE}");
            if !self.by_reload {
                return Err(Unclean("its queue has no redrive policy, and a route needs one"));
            }
            self.link.lacks(NO_REDRIVE);
            tokio::select! {
                () = shutdown.drain() => return Ok(()),
                () = sleep(LOOK_AGAIN) => {}
            }
        };
        self.link.worked(Call::Attributes);
        let visibility = self.config.visibility_timeout.unwrap_or(attributes.visibility);
        if visibility < SHORTEST_VISIBILITY {
            let hint = "set `visibility_timeout`, or a longer one on the queue";
            warn!(source = %self.name, ?visibility, hint, "the queue's visibility timeout is too short to be extended; 2s are asked for");
        }
        let shared = Arc::new(self.shared(visibility.max(SHORTEST_VISIBILITY)));
        let receivers = self.config.receivers;
        Keeper::new(shared, intake, receivers).run(&shutdown).await
    }

    fn lacks_redrive(&self, attributes: &Attributes) -> bool {
        self.config.needs_redrive && attributes.max_receive_count.is_none()
    }

    /// The queue's attributes, when it has told them; `None`: the drain came before. Without the permission they are
    /// guessed where nothing depends on them.
    async fn survey(&self, shutdown: &Shutdown) -> Option<Attributes> {
        loop {
            let asked = tokio::select! {
                () = shutdown.drain() => return None,
                asked = self.queue.attributes() => asked,
            };
            let trouble = match asked {
                Ok(attributes) => return Some(attributes),
                Err(trouble) => trouble,
            };
            if trouble.kind == Kind::Denied
                && !self.config.needs_redrive
                && let Some(visibility) = self.config.visibility_timeout
            {
                return Some(Attributes { visibility, max_receive_count: None });
            }
            let wait = self.link.failed(Call::Attributes, &trouble).await;
            self.link.alive();
            tokio::select! {
                () = shutdown.drain() => return None,
                () = sleep(wait) => {}
            }
        }
    }

    fn shared(&self, visibility: Duration) -> Shared {
        let room = Room::new(self.limits, self.metrics.clone());
        let changed = Arc::<Notify>::default();
        Shared {
            name: self.name.clone(),
            topic: Topic::new(self.config.queue.name.as_str(), '/'),
            queue: self.queue.clone(),
            wait: self.config.wait_time,
            envelopes: self.config.unwrap.clone(),
            visibility,
            leases: Leases::new(Arc::clone(&room), Arc::clone(&changed)),
            room,
            debts: Mutex::default(),
            changed,
            received: AtomicU64::new(0),
            numbers: self.numbers.clone(),
            link: Arc::clone(&self.link),
        }
    }
}

impl Shared {
    fn is_fifo(&self) -> bool {
        self.queue.address().is_fifo()
    }

    fn next_order(&self) -> u64 {
        self.received.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether a message is known here, which is known by `receipt` from now on.
    fn received_again(&self, receipt: &Receipt, since: Instant, due: Instant) -> bool {
        let mut order = None;
        let is = |held: &Receipt| held.id == receipt.id;
        let now_known = |held: &mut Receipt| {
            held.handle.clone_from(&receipt.handle);
            order = Some(held.order);
        };
        if self.leases.received_again(is, now_known, since, due) {
            if let Some(order) = order {
                self.debts.lock().forget_return(order);
            }
        } else {
            order = self.debts.lock().received_again(receipt, since, due);
            // It can be deleted now.
            self.changed.notify_one();
        }
        order.is_some_and(|order| {
            self.came_after(receipt, order);
            true
        })
    }

    /// What was lost before this message in its group, and did not come before it, is gone.
    fn came_after(&self, receipt: &Receipt, order: u64) {
        if let Some(group) = &receipt.group {
            self.debts.lock().came_after(group, order);
        }
    }

    /// These go back, each after a pause, with those behind it in its group; after its time anybody can receive it.
    fn give_back(&self, receipts: Vec<(Duration, Receipt, Instant)>) {
        let now = now();
        self.withdraw_behind(&receipts.iter().map(|(_, receipt, _)| receipt).collect(), now);
        self.numbers.given_back.inc_by(receipts.len() as u64);
        let mut debts = self.debts.lock();
        for (pause, receipt, due) in receipts {
            debts.give_back(receipt, due, now + pause);
        }
        drop(debts);
        self.changed.notify_one();
    }

    /// These are anybody's at once, with those behind them in their groups; they are known when they come again.
    fn let_go(&self, leases: Vec<Lease<Receipt>>, now: Instant) {
        self.numbers.given_back.inc_by(leases.len() as u64);
        self.let_go_behind(&leases.iter().map(|lease| &lease.handle).collect(), now);
        let mut debts = self.debts.lock();
        for lease in leases {
            debts.give_back(lease.handle, lease.due, now);
        }
    }

    /// What is behind these in their groups is let go. SQS hands out nothing of a group while one of it is in flight, and
    /// so these would not come again.
    fn let_go_behind(&self, cuts: &Cuts, now: Instant) {
        if cuts.is_empty() {
            return;
        }
        let behind = self.leases.lose(|lease| cuts.are_before(&lease.handle), now);
        let mut debts = self.debts.lock();
        let owed = debts.let_go_behind(cuts, now);
        self.numbers.given_back.inc_by((behind.len() + owed) as u64);
        for lease in behind {
            debts.give_back(lease.handle, lease.due, now);
        }
    }

    /// Notes whether a call was answered; if it was not, gives how long to wait before it is made again, and why.
    async fn heard<T>(&self, call: Call, said: Result<T, Trouble>) -> Result<T, (Duration, Kind)> {
        match said {
            Ok(said) => {
                self.link.worked(call);
                Ok(said)
            }
            Err(trouble) => Err((self.link.failed(call, &trouble).await, trouble.kind)),
        }
    }

    /// What is behind these in their groups goes back with them, and is done again.
    fn withdraw_behind(&self, cuts: &Cuts, now: Instant) {
        if cuts.is_empty() {
            return;
        }
        let behind = self.leases.take_back(|lease| cuts.are_before(&lease.handle));
        self.numbers.given_back.inc_by(behind.len() as u64);
        let mut debts = self.debts.lock();
        debts.withdraw_behind(cuts, now);
        for lease in behind {
            debts.give_back(lease.handle, lease.due, now);
        }
    }
}

/// By the clock of the runtime.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
