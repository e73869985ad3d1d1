//! Assembly and lifetime: builds every part from a configuration, runs them, and stops them in order.
//!
//! Stopping is closing the first queue. Only the sources see the drain: they take no more messages, wait for
//! those in flight, acknowledge and disconnect. The pipeline ends with the last of them; the publishers, the
//! rejects and the dead letters end each because its queue closed. When the grace is over the abort ends
//! every part that is left, and unsettled messages stay with the brokers.

mod certificates;
mod dead_letters;
mod examine;
mod export;
mod facts;
mod waiting;

use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{error, info};

use crate::admin::{Admin, Port};
use crate::config::source::{SourceConfig, Unrouted};
use crate::config::{ApiConfig, Config};
use crate::dead_letter;
use crate::delivery::Intake;
use crate::health::{Health, Part};
use crate::metrics::Metrics;
use crate::pipeline::{Pipeline, Rejects, SourcePolicy};
use crate::publish::{self, Client, Publisher, Refused};
use crate::route::{RejectTo, RouteTable};
use crate::shutdown::Shutdown;
use crate::source::{self, Source, Unclean};
use certificates::Certificates;
pub use dead_letters::probe_dead_letter;
pub use examine::examine;
use export::Export;
pub use export::probe_collector;
use waiting::Waiting;

/// After the abort every part has this long to end.
const ABORT_TIMEOUT: Duration = Duration::from_millis(500);

/// The last metrics and spans have this long to be exported.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// A bridge that is built and not yet running.
pub struct Bridge {
    parts: Parts,
    grace: Duration,
    shutdown: Shutdown,
    health: Health,
    waiting: Waiting,
    admin: Admin,
    certificates: Certificates,
    export: Export,
}

/// Parts that are built and not yet running.
type Parts = Vec<BoxFuture<'static, Ended>>;

/// A part that has ended.
#[derive(Debug)]
struct Ended {
    part: &'static str,
    unclean: Option<String>,
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
        let (metrics, health) = (Metrics::new(), Health::default());
        let listen = config.admin.listen;
        let port = Port::bind(listen)
            .map_err(|why| BuildError::Admin { listen: listen.to_string(), why })?;
        let table = Arc::new(RouteTable::new(config.routes.iter().cloned()));
        let mut parts = Parts::new();

        let letters = dead_letters::open(config, &metrics, &health, &shutdown, &mut parts).await?;
        let rejects = Rejects::new(letters);
        let (refused, refused_entries) = mpsc::unbounded_channel();
        let (mut publishers, mut gates) = (HashMap::new(), HashMap::new());
        for (name, api) in &config.apis {
            let publisher = publisher(name, api, &metrics, &health, &refused).await?;
            let (entries, queue) = mpsc::unbounded_channel();
            publishers.insert(Arc::clone(name), entries);
            gates.insert(Arc::clone(name), publisher.gate());
            let run = publisher.run(queue, shutdown.clone());
            parts.push(named("a publisher", run));
        }
        // Each sender left behind here would keep a later queue open for ever.
        drop(refused);
        parts.push(named("the reject step", rejects.clone().run(refused_entries)));

        let policies =
            config.sources.iter().map(|s| (s.name.clone(), policy(s, &metrics))).collect();
        let export = Export::build(config, &metrics)?;
        let pipeline = Pipeline::new(table, policies, &publishers, rejects, &metrics);
        let pipeline = pipeline.traced(export.tracer());
        drop(publishers);
        let intake = Intake::new(move |delivery| pipeline.route(delivery));
        for source in &config.sources {
            let routes = config.routes.iter().filter(|route| route.from.contains(&source.name));
            let feeds: HashSet<_> = routes.map(|route| &route.api).collect();
            let gates = feeds.into_iter().filter_map(|api| gates.get(api).cloned()).collect();
            let part = health.register(format!("source {}", source.name), "not connected yet");
            let made = self::source(source, &metrics, part).await?;
            let run = made.run(intake.behind(gates), shutdown.clone());
            let ended = |left: Result<(), Unclean>| Ended {
                part: "a source",
                unclean: left.err().map(|why| why.to_string()),
            };
            parts.push(Box::pin(run.map(ended)));
        }
        let facts = facts::of(config);
        let admin = Admin::new(port, facts, metrics.clone(), health.clone(), shutdown.clone());
        let in_flight = config.sources.iter().map(|s| (s.name.clone(), metrics.source(&s.name)));
        let in_flight = in_flight.map(|(name, metrics)| (name, metrics.in_flight)).collect();
        let waiting = Waiting { in_flight, health: health.clone() };
        let certificates = Certificates::of(config, &metrics, SystemTime::now());
        let grace = config.grace;
        Ok(Self { parts, grace, shutdown, health, waiting, admin, certificates, export })
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
        let admin = tokio::spawn(self.admin.run());
        let certificates = tokio::spawn(self.certificates.run());
        let export = self.export.start();
        let health = self.health.clone();
        let ready = tokio::spawn(async move {
            health.all_ready().await;
            info!("ready");
        });
        let mut tasks: JoinSet<Ended> = self.parts.into_iter().collect();
        let stopped = tokio::select! {
            ended = tasks.join_next() => Some(describe(ended)),
            () = self.shutdown.drain() => None,
        };
        ready.abort();
        let stopping = Instant::now();
        let result = match stopped {
            Some(part) if !self.shutdown.is_draining() => {
                let part = because(&mut tasks).await.unwrap_or(part);
                error!(part, "stopped unexpectedly");
                Err(RunError::Stopped(part))
            }
            _ => drain(&mut tasks, &self.shutdown, self.grace, &self.waiting).await,
        };
        if result.is_err() {
            self.shutdown.start_abort();
            let ended = async { while tasks.join_next().await.is_some() {} };
            let _ = tokio::time::timeout(ABORT_TIMEOUT, ended).await;
        }
        // What the last messages left, within the same grace.
        let left = self.grace.saturating_sub(stopping.elapsed()).min(EXPORT_TIMEOUT);
        export.finish(if result.is_ok() { left } else { ABORT_TIMEOUT }).await;
        certificates.abort();
        admin.abort();
        result
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
) -> Result<Source, BuildError> {
    source::build(config, metrics, health).await.map_err(|why| match why {
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

fn named(
    part: &'static str,
    run: impl Future<Output = ()> + Send + 'static,
) -> BoxFuture<'static, Ended> {
    Box::pin(run.map(move |()| Ended { part, unclean: None }))
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

fn describe(ended: Option<Result<Ended, tokio::task::JoinError>>) -> String {
    match ended {
        Some(Ok(Ended { part, unclean: Some(why) })) => format!("{part} ({why})"),
        Some(Ok(ended)) => ended.part.to_owned(),
        Some(Err(error)) => error.to_string(),
        None => "every part".to_owned(),
    }
}
