//! The dead letters of a configuration: built, and probed.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::BuildError;
#[cfg(not(feature = "nats"))]
use crate::config::broker::JETSTREAM;
#[cfg(not(feature = "kafka"))]
use crate::config::broker::KAFKA;
#[cfg(not(feature = "sqs"))]
use crate::config::broker::SQS;
#[cfg(feature = "kafka")]
use crate::config::kafka::{KafkaConfig, KafkaRejects};
#[cfg(feature = "nats")]
use crate::config::nats::SubjectRejects;
use crate::config::{Config, DeadLetterConfig};
use crate::dead_letter::FileTarget;
#[cfg(feature = "nats")]
use crate::dead_letter::JetStreamTarget;
#[cfg(feature = "kafka")]
use crate::dead_letter::KafkaTarget;
#[cfg(feature = "sqs")]
use crate::dead_letter::SqsTarget;
use crate::dead_letter::{Letter, OpenError, write_letters};
use crate::health::{Health, Part};
#[cfg(feature = "kafka")]
use crate::message::SourceName;
use crate::metrics::Metrics;
use crate::probe::{Complaint, Found, Looked, Step};
use crate::route::Reason;
use crate::shutdown::Shutdown;

/// Wait before a file that could not be opened is tried again.
const OPEN_AGAIN: Duration = Duration::from_secs(1);

/// A dead letter that is built and not yet running.
pub(super) struct Opened {
    pub(super) letters: mpsc::UnboundedSender<Letter>,
    pub(super) run: BoxFuture<'static, ()>,
}

/// Builds a dead letter of `config`, as a part that `stop` stops. A file that others still write to is opened when all
/// of `busy` have ended.
pub(super) async fn open(
    config: &Config,
    name: &Arc<str>,
    health: &Health,
    metrics: &Metrics,
    (stop, busy): (&Shutdown, Vec<CancellationToken>),
) -> Result<Opened, BuildError> {
    let (letters, queue) = mpsc::unbounded_channel();
    let part = health.register(format!("dead_letter {name}"), "starting");
    let removed = metrics.dead_letter_files_removed();
    let metrics = metrics.dead_letter(name, Reason::ALL.map(Reason::word));
    let stop = stop.clone();
    let run: BoxFuture<'static, ()> = match &config.dead_letters[name] {
        DeadLetterConfig::File { path, rotation } => {
            let unusable = |why| BuildError::DeadLetter { name: name.to_string(), why };
            if busy.is_empty() {
                let target = FileTarget::open(path, *rotation, removed).map_err(unusable)?;
                Box::pin(write_letters(target, queue, metrics, part, stop))
            } else {
                FileTarget::look(path, *rotation).map_err(unusable)?;
                let (path, rotation) = (path.clone(), *rotation);
                let file = path.display();
                part.not_ready(format!(
                    "waits until another dead letter has ended its writing to `{file}`"
                ));
                Box::pin(async move {
                    let open = || FileTarget::open(&path, rotation, removed.clone());
                    let Some(target) = opened_after(busy, open, &part, &stop).await else { return };
                    write_letters(target, queue, metrics, part, stop).await;
                })
            }
        }
        #[cfg(feature = "kafka")]
        DeadLetterConfig::Kafka(KafkaRejects { source, topic }) => {
            let target = kafka_target(config, source, topic).await.map_err(|why| {
                BuildError::DeadLetterTopic { name: name.to_string(), why: why.into() }
            })?;
            Box::pin(write_letters(target, queue, metrics, part, stop))
        }
        #[cfg(feature = "nats")]
        DeadLetterConfig::JetStream(rejects) => {
            let target = jetstream_target(config, name, rejects)
                .map_err(|why| BuildError::DeadLetterTopic { name: name.to_string(), why })?;
            Box::pin(write_letters(target, queue, metrics, part, stop))
        }
        #[cfg(not(feature = "nats"))]
        DeadLetterConfig::JetStream(_) => {
            let part = format!("dead_letter `{name}`");
            return Err(BuildError::LeftOut { part, kind: JETSTREAM.feature });
        }
        #[cfg(not(feature = "kafka"))]
        DeadLetterConfig::Kafka(_) => {
            let part = format!("dead_letter `{name}`");
            return Err(BuildError::LeftOut { part, kind: KAFKA.feature });
        }
        #[cfg(feature = "sqs")]
        DeadLetterConfig::Sqs(rejects) => {
            let target = SqsTarget::build(rejects.clone()).await.map_err(|why| {
                BuildError::DeadLetterTopic { name: name.to_string(), why: why.into() }
            })?;
            Box::pin(write_letters(target, queue, metrics, part, stop))
        }
        #[cfg(not(feature = "sqs"))]
        DeadLetterConfig::Sqs(_) => {
            let part = format!("dead_letter `{name}`");
            return Err(BuildError::LeftOut { part, kind: SQS.feature });
        }
    };
    Ok(Opened { letters, run })
}

/// Opens a file when nobody else writes to it any more: it was found usable before, so a failure is held to pass.
/// `None` on the abort.
async fn opened_after(
    busy: Vec<CancellationToken>,
    open: impl Fn() -> Result<FileTarget, OpenError>,
    part: &Part,
    stop: &Shutdown,
) -> Option<FileTarget> {
    let opened = async {
        for other in busy {
            other.cancelled().await;
        }
        loop {
            match open() {
                Ok(target) => return target,
                Err(why) => {
                    warn!(%why, "a dead letter can't be opened; retrying");
                    part.not_ready(why.to_string());
                    tokio::time::sleep(OPEN_AGAIN).await;
                }
            }
        }
    };
    tokio::select! {
        target = opened => Some(target),
        () = stop.abort() => None,
    }
}

/// Every dead letter that could not be opened, without opening any.
pub(super) async fn examine(config: &Config) -> Vec<BuildError> {
    let mut found = Vec::new();
    for (name, dead_letter) in &config.dead_letters {
        match dead_letter {
            DeadLetterConfig::File { path, rotation } => {
                let examined = FileTarget::look(path, *rotation);
                let unusable = |why| BuildError::DeadLetter { name: name.to_string(), why };
                found.extend(examined.map_err(unusable).err());
            }
            #[cfg(feature = "kafka")]
            DeadLetterConfig::Kafka(KafkaRejects { source, .. }) => {
                let examined = match cluster(config, source) {
                    Ok(home) => KafkaTarget::examine(home).await,
                    Err(why) => Err(why),
                };
                let unusable = |why: crate::kafka::BuildError| BuildError::DeadLetterTopic {
                    name: name.to_string(),
                    why: why.into(),
                };
                found.extend(examined.map_err(unusable).err());
            }
            #[cfg(feature = "nats")]
            DeadLetterConfig::JetStream(rejects) => {
                let examined = jetstream_target(config, name, rejects);
                let unusable = |why| BuildError::DeadLetterTopic { name: name.to_string(), why };
                found.extend(examined.map_err(unusable).err());
            }
            #[cfg(not(feature = "nats"))]
            DeadLetterConfig::JetStream(_) => {
                let part = format!("dead_letter `{name}`");
                found.push(BuildError::LeftOut { part, kind: JETSTREAM.feature });
            }
            #[cfg(not(feature = "kafka"))]
            DeadLetterConfig::Kafka(_) => {
                let part = format!("dead_letter `{name}`");
                found.push(BuildError::LeftOut { part, kind: KAFKA.feature });
            }
            #[cfg(feature = "sqs")]
            DeadLetterConfig::Sqs(rejects) => {
                let name = name.to_string();
                let examined = SqsTarget::examine(rejects).await;
                let unusable = |why| BuildError::DeadLetterTopic { name, why: Box::new(why) };
                found.extend(examined.map_err(unusable).err());
            }
            #[cfg(not(feature = "sqs"))]
            DeadLetterConfig::Sqs(_) => {
                let part = format!("dead_letter `{name}`");
                found.push(BuildError::LeftOut { part, kind: SQS.feature });
            }
        }
    }
    found
}

/// The topic of a dead letter on the cluster of `source`, which is one of the configuration's.
#[cfg(feature = "kafka")]
async fn kafka_target(
    config: &Config,
    source: &str,
    topic: &str,
) -> Result<KafkaTarget, crate::kafka::BuildError> {
    let home = cluster(config, source)?;
    let readers = clusters(config).filter(|(_, kafka)| kafka.may_meet(home));
    let readers = readers.map(|(name, _)| name.clone()).collect();
    KafkaTarget::build(home.clone(), topic.to_owned(), readers).await
}

/// The subject of the dead letter `name` at the server of a source, which is one of the configuration's.
#[cfg(feature = "nats")]
fn jetstream_target(
    config: &Config,
    name: &str,
    SubjectRejects { source, subject }: &SubjectRejects,
) -> Result<JetStreamTarget, Box<dyn std::error::Error + Send + Sync>> {
    let all = || config.sources.iter().filter_map(|s| Some((&s.name, s.kind.nats()?.0)));
    let home = all().find(|(name, _)| *name == source).map(|(_, connection)| connection);
    let home = home.ok_or_else(|| format!("there is no source `{source}`"))?;
    let readers = all().filter(|(_, connection)| connection.may_meet(home));
    let readers = readers.map(|(name, _)| name.clone()).collect();
    let whole = config.takers_of_streams(name).into_iter();
    let whole = whole.map(|(source, stream)| (source.clone(), stream.to_owned())).collect();
    Ok(JetStreamTarget::build(home.clone(), subject.clone(), readers, whole)?)
}

#[cfg(feature = "kafka")]
fn cluster<'a>(
    config: &'a Config,
    source: &str,
) -> Result<&'a KafkaConfig, crate::kafka::BuildError> {
    let unknown = || crate::kafka::BuildError::Settings(format!("there is no source `{source}`"));
    Ok(clusters(config).find(|(name, _)| *name == source).ok_or_else(unknown)?.1)
}

#[cfg(feature = "kafka")]
fn clusters(config: &Config) -> impl Iterator<Item = (&SourceName, &KafkaConfig)> {
    config.sources.iter().filter_map(|source| Some((&source.name, source.kind.kafka()?)))
}

/// What would write.
const UNTRIED: &str =
    "it is there; whether it may be written was not tried, as that would leave a record";

/// Tries whether a dead letter can be written, and says what is there or why not; `None` where this build has no
/// client for it. Nothing is written.
pub async fn probe_dead_letter(config: &Config, name: &str) -> Option<Looked> {
    let dead_letter = config.dead_letters.get(name)?;
    let ended = try_target(config, name, dead_letter).await?;
    // A file and a queue tell whether they can be written; a topic and a subject only when they are.
    let tells = matches!(dead_letter, DeadLetterConfig::File { .. } | DeadLetterConfig::Sqs { .. });
    let steps: &[Step] = if tells { &[Step::Write] } else { &[Step::Exists, Step::Write] };
    let untried = (!tells).then_some((Step::Write, UNTRIED));
    Some(Looked::of(steps, ended.map(|what| Found { untried, ..Found::from(what) })))
}

async fn try_target(
    config: &Config,
    name: &str,
    dead_letter: &DeadLetterConfig,
) -> Option<Result<String, Complaint>> {
    match dead_letter {
        DeadLetterConfig::File { path, rotation } => {
            let found = format!("the file `{}`", path.display());
            let complaint = |why: OpenError| Complaint::of_words(Step::Write, &why.to_string());
            Some(FileTarget::look(path, *rotation).map(|()| found).map_err(complaint))
        }
        #[cfg(feature = "kafka")]
        DeadLetterConfig::Kafka(KafkaRejects { source, topic }) => {
            let target = kafka_target(config, source, topic).await;
            let mut target = match target {
                Ok(target) => target,
                Err(why) => return Some(Err(Complaint::of_words(Step::Reach, &why.to_string()))),
            };
            let found = target.look().await;
            let s = |count| if count == 1 { "" } else { "s" };
            Some(
                found
                    .map(|count| format!("the topic `{topic}` with {count} partition{}", s(count))),
            )
        }
        #[cfg(feature = "nats")]
        DeadLetterConfig::JetStream(rejects) => {
            let mut target = match jetstream_target(config, name, rejects) {
                Ok(target) => target,
                Err(why) => return Some(Err(Complaint::of_words(Step::Reach, &why.to_string()))),
            };
            let found = target.look().await;
            let subject = &rejects.subject;
            Some(found.map(|stream| format!("the subject `{subject}` of the stream `{stream}`")))
        }
        #[cfg(feature = "sqs")]
        DeadLetterConfig::Sqs(rejects) => Some(match SqsTarget::build(rejects.clone()).await {
            Ok(mut target) => target.look().await,
            Err(why) => Err(Complaint::of_words(Step::Login, &why.to_string())),
        }),
        #[cfg(not(all(feature = "kafka", feature = "nats", feature = "sqs")))]
        _ => {
            let _ = (config, name);
            None
        }
    }
}
