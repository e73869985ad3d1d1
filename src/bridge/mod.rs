//! Assembly and lifetime: builds every part from a configuration, runs them, and stops them in order.
//!
//! Stopping is closing the first queue. Only the sources see the drain: they take no more messages, wait for
//! those in flight, acknowledge and disconnect. The pipeline ends with the last of them; the publishers, the
//! rejects and the dead letters end each because its queue closed. When the grace is over the abort ends
//! every part that is left, and unsettled messages stay with the brokers.
//!
//! While it runs, the parts can be led to another configuration: [`live`].

mod certificates;
mod dead_letters;
mod examine;
mod export;
mod facts;
mod live;
mod reloads;
mod waiting;

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinHandle, JoinSet};
use tracing::{error, info};

use crate::admin::{Admin, Board, Port, Reloader, Security, reloader};
use crate::config::source::{SourceConfig, Unrouted};
use crate::config::{ApiConfig, Config, CostConfig};
use crate::dead_letter;
use crate::health::{Health, Part};
use crate::metrics::{Metrics, Tariff};
use crate::pipeline::SourcePolicy;
use crate::publish::{self, Client, Publisher, Refused};
use crate::reload::Difference;
use crate::route::RejectTo;
use crate::shutdown::Shutdown;
use crate::source::{self, Begin, Source};
use certificates::Certificates;
pub use dead_letters::probe_dead_letter;
pub use examine::examine;
use export::Export;
pub use export::probe_collector;
use live::{Ended, Live, Staged};
pub use reloads::Operator;
use reloads::Reloads;
use waiting::Waiting;

/// After the abort every part has this long to end.
const ABORT_TIMEOUT: Duration = Duration::from_millis(500);

/// Interval of looks for what nobody tells the end of.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The last metrics and spans have this long to be exported.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// A bridge that is built and not yet running.
pub struct Bridge {
    live: Live,
    first: Staged,
    reloads: Reloads,
    reloader: Reloader,
    shutdown: Shutdown,
    health: Health,
    admin: Admin,
    shown: Shown,
    export: Export,
}

/// What people are shown of the configuration in force.
struct Shown {
    board: Board,
    metrics: Metrics,
    certificates: Option<JoinHandle<()>>,
}

/// Why a bridge can't be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// An API.
    #[error("api `{name}`: {why}")]
    Api {
        /// Its name.
        name: String,
        /// What is wrong.
        #[source]
        why: publish::BuildError,
    },
    /// A source.
    #[error("source `{name}`: {why}")]
    Source {
        /// Its name.
        name: String,
        /// What is wrong.
        #[source]
        why: Box<dyn Error + Send + Sync>,
    },
    /// A source or a dead letter whose client was left out of this build.
    #[error("{part}: this build has no `{kind}`; build it with `--features {kind}`")]
    LeftOut {
        /// What needs it, with its name.
        part: String,
        /// Its type, and the feature that brings it.
        kind: &'static str,
    },
    /// A dead letter.
    #[error("dead_letter `{name}`: the `path` of `[dead_letter.{name}]` can't be used: {why}")]
    DeadLetter {
        /// Its name.
        name: String,
        /// What is wrong.
        #[source]
        why: dead_letter::OpenError,
    },
    /// A dead letter that is a topic or a queue.
    #[error("dead_letter `{name}`: {why}")]
    DeadLetterTopic {
        /// Its name.
        name: String,
        /// What is wrong.
        #[source]
        why: Box<dyn Error + Send + Sync>,
    },
    /// The client of the collector.
    #[error("otlp: {0}")]
    Otlp(#[source] Box<dyn Error + Send + Sync>),
    /// The admin port.
    #[error("admin: `{listen}` can't be taken: {why}; set another `listen` in `[admin]`")]
    Admin {
        /// As configured.
        listen: String,
        /// What is wrong.
        #[source]
        why: io::Error,
    },
    /// The certificate or the key of the admin port.
    #[error("admin: `tls`: {0}")]
    AdminTls(String),
}

/// Why a run did not end as it should.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A part ended that should not have.
    #[error("{0} stopped unexpectedly; everything unsettled stays with the brokers")]
    Stopped(String),
    /// A source's drain was not clean.
    #[error("the drain was not clean: {0}; nothing is lost, but some may come again")]
    Unclean(String),
    /// The grace was over.
    #[error("the drain was not done within {0:?}; everything unsettled stays with the brokers")]
    Grace(Duration),
    /// A second signal aborted the drain.
    #[error("aborted; everything unsettled stays with the brokers")]
    Aborted,
}

impl Bridge {
    /// Builds every part of `config`. Files are opened and the admin port is taken; no broker is
    /// connected before [`run`](Self::run).
    pub async fn build(config: &Config, shutdown: Shutdown) -> Result<Self, BuildError> {
        let (metrics, health) = (Metrics::with_tariff(tariff(&config.cost)), Health::default());
        let listen = config.admin.listen;
        let security = Security::read(&config.admin).map_err(BuildError::AdminTls)?;
        let port = Port::bind(listen, security)
            .map_err(|why| BuildError::Admin { listen: listen.to_string(), why })?;
        let nothing = Arc::new(config.clone());
        let export = Export::build(config, &metrics)?;
        let (tracer, clocks) = (export.tracer(), shutdown.clone());
        let mut live = Live::new(metrics.clone(), health.clone(), clocks, tracer, nothing);
        let first = Box::pin(live.stage(config.clone(), Difference::of_start(config))).await;
        let first = first.map_err(|mut errors| errors.swap_remove(0))?;
        first.count();
        let (reloader, asked) = reloader();
        let admin =
            Admin::new(port, metrics.clone(), health.clone(), shutdown.clone(), reloader.clone());
        let reloads = Reloads::new(asked, &metrics, config);
        let shown = Shown { board: admin.board(), metrics, certificates: None };
        Ok(Self { live, first, reloads, reloader, shutdown, health, admin, shown, export })
    }

    /// Lets it read its configuration again while it runs.
    pub fn reload_by(&mut self, operator: impl Operator) {
        self.reloads.set_operator(operator);
    }

    /// Asks for reloads.
    pub fn reloader(&self) -> Reloader {
        self.reloader.clone()
    }

    /// The address of the admin port.
    pub fn admin_addr(&self) -> io::Result<std::net::SocketAddr> {
        self.admin.local_addr()
    }

    /// The state of its parts.
    pub fn health(&self) -> Health {
        self.health.clone()
    }

    /// Runs until the drain is done. An error means that it was not clean; nothing is lost by that.
    pub async fn run(self) -> Result<(), RunError> {
        let Self {
            mut live, first, mut reloads, shutdown, health, admin, mut shown, export, ..
        } = self;
        live.apply(first);
        shown.start(live.config()).await;
        let admin = tokio::spawn(admin.run());
        let export = export.start();
        let of_ready = health.clone();
        let ready = tokio::spawn(async move {
            of_ready.all_ready().await;
            info!("ready");
        });
        let stopped = loop {
            tokio::select! {
                // The drain first: a part may end at once, and how it did counts there.
                biased;
                () = shutdown.drain() => break None,
                ended = live.ended() => if let Some(ended) = live.unless_expected(ended) {
                    break Some(describe(Some(ended)));
                },
                done = reloads.next() => if reloads.go_on(done, &mut live) {
                    shown.change(live.config());
                },
                () = tokio::time::sleep(LOOK_EVERY), if live.waits() => live.tidy(),
            }
        };
        ready.abort();
        // Who still waits for a reload hears that there is none.
        drop(reloads);
        let (grace, in_flight) = (live.config().grace, live.in_flight());
        let waiting = Waiting { in_flight, health };
        let mut tasks = live.into_tasks();
        let stopping = Instant::now();
        let result = match stopped {
            Some(part) if !shutdown.is_draining() => {
                let part = because(&mut tasks).await.unwrap_or(part);
                error!(part, "stopped unexpectedly");
                Err(RunError::Stopped(part))
            }
            _ => drain(&mut tasks, &shutdown, grace, &waiting).await,
        };
        if result.is_err() {
            shutdown.start_abort();
            let ended = async { while tasks.join_next().await.is_some() {} };
            let _ = tokio::time::timeout(ABORT_TIMEOUT, ended).await;
        }
        // What the last messages left, within the same grace.
        let left = grace.saturating_sub(stopping.elapsed()).min(EXPORT_TIMEOUT);
        let drained = result.is_ok();
        let abort = async {
            if drained {
                shutdown.abort().await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        let aborted = export.finish(if drained { left } else { ABORT_TIMEOUT }, abort).await;
        admin.abort();
        if aborted { Err(RunError::Aborted) } else { result }
    }
}

impl Shown {
    /// All of this configuration is shown from the first look at it.
    async fn start(&mut self, config: &Arc<Config>) {
        self.board.show(facts::of(config));
        let certificates = Certificates::read(Arc::clone(config)).await;
        certificates.show(&self.metrics);
        self.certificates = Some(tokio::spawn(certificates.run(self.metrics.clone())));
    }

    /// This configuration is in force, and its parts are there. Files are read beside it.
    fn change(&mut self, config: &Arc<Config>) {
        self.board.show(facts::of(config));
        let (before, config) = (self.certificates.take(), Arc::clone(config));
        before.iter().for_each(JoinHandle::abort);
        let metrics = self.metrics.clone();
        self.certificates = Some(tokio::spawn(async move {
            if let Some(before) = before {
                // It shows nothing any more when it has ended.
                let _ = before.await;
            }
            let certificates = Certificates::read(config).await;
            certificates.show(&metrics);
            certificates.run(metrics).await;
        }));
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.certificates.iter().for_each(JoinHandle::abort);
    }
}

async fn drain(
    tasks: &mut JoinSet<Ended>,
    shutdown: &Shutdown,
    grace: Duration,
    waiting: &Waiting,
) -> Result<(), RunError> {
    info!("draining");
    let all = async {
        let mut result = Ok(());
        while let Some(ended) = tasks.join_next().await {
            match ended {
                Ok(Ended { unclean: None, .. }) => {}
                Ok(Ended { unclean: Some(why), .. }) => result = Err(RunError::Unclean(why)),
                Err(error) => result = Err(RunError::Stopped(error.to_string())),
            }
        }
        result
    };
    tokio::select! {
        biased;
        () = shutdown.abort() => Err(RunError::Aborted),
        result = all => result,
        () = tokio::time::sleep(grace) => Err(RunError::Grace(grace)),
        never = waiting.say(grace) => match never {},
    }
}

/// What publishing costs, for the metrics.
fn tariff(cost: &CostConfig) -> Tariff {
    let CostConfig { per_million, ref currency, unit } = *cost;
    Tariff { per_million, currency: currency.clone(), unit }
}

/// Makes the publisher of an API.
async fn publisher(
    name: &str,
    api: &ApiConfig,
    metrics: &Metrics,
    health: &Health,
    refused: &mpsc::UnboundedSender<Refused>,
) -> Result<Publisher<Client>, BuildError> {
    let built = Publisher::build(api, metrics, health, refused.clone()).await;
    built.map_err(|why| BuildError::Api { name: name.to_owned(), why })
}

/// Makes a source.
async fn source(
    config: &SourceConfig,
    metrics: &Metrics,
    health: Part,
    begin: Begin,
) -> Result<Source, BuildError> {
    source::build(config, metrics, health, begin).await.map_err(|why| match why {
        source::BuildError::Unusable(why) => {
            BuildError::Source { name: config.name.to_string(), why }
        }
        source::BuildError::LeftOut(kind) => {
            BuildError::LeftOut { part: format!("source `{}`", config.name), kind }
        }
    })
}

/// What the pipeline must know of a source.
fn policy(source: &SourceConfig, metrics: &Metrics) -> SourcePolicy {
    let unrouted = match &source.unrouted {
        Unrouted::Ignore => None,
        Unrouted::DeadLetter(name) => Some(RejectTo::DeadLetter(Arc::clone(name))),
    };
    let max_payload = source.kind.settings().max_payload();
    let (system, metrics) = (source.kind.broker().system, metrics.source(&source.name));
    SourcePolicy { max_payload, unrouted, system, metrics }
}

/// The part that tells why it ended, of those that end soon: others may have ended before it is known, because of
/// it.
async fn because(tasks: &mut JoinSet<Ended>) -> Option<String> {
    let told = async {
        while let Some(ended) = tasks.join_next().await {
            if matches!(ended, Ok(Ended { unclean: Some(_), .. })) {
                return Some(describe(Some(ended)));
            }
        }
        None
    };
    tokio::time::timeout(ABORT_TIMEOUT, told).await.ok().flatten()
}

fn describe(ended: Option<Result<Ended, JoinError>>) -> String {
    match ended {
        Some(Ok(Ended { part, unclean: Some(why), .. })) => format!("{part} ({why})"),
        Some(Ok(ended)) => ended.part.to_owned(),
        Some(Err(error)) => error.to_string(),
        None => "every part".to_owned(),
    }
}
