//! The export of metrics and traces, as far as the configuration wants it and this build has it.

use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::BuildError;
use crate::config::Config;
use crate::metrics::Metrics;
#[cfg(feature = "otlp")]
use crate::otlp;
use crate::probe::Looked;
#[cfg(feature = "otlp")]
use crate::probe::{Complaint, Step};
use crate::trace::Tracer;

/// An export that is built and not yet running; none, if none is wanted.
#[derive(Default)]
pub(super) struct Export {
    tracer: Option<Tracer>,
    run: Option<BoxFuture<'static, ()>>,
    stop: CancellationToken,
}

/// An export that runs.
pub(super) struct Exporting {
    task: Option<JoinHandle<()>>,
    stop: CancellationToken,
}

impl Export {
    /// The export that `config` wants.
    #[cfg(feature = "otlp")]
    pub(super) fn build(config: &Config, metrics: &Metrics) -> Result<Self, BuildError> {
        let Some(config) = &config.otlp else { return Ok(Self::default()) };
        let stop = CancellationToken::new();
        let exporter = otlp::Exporter::build(config, metrics, stop.clone());
        let exporter = exporter.map_err(|why| BuildError::Otlp(Box::new(why)))?;
        Ok(Self { tracer: exporter.tracer(), run: Some(Box::pin(exporter.run())), stop })
    }

    /// None: this build has no export, and does not ignore that one is wanted.
    #[cfg(not(feature = "otlp"))]
    pub(super) fn build(config: &Config, _: &Metrics) -> Result<Self, BuildError> {
        match &config.otlp {
            None => Ok(Self::default()),
            Some(_) => Err(BuildError::LeftOut { part: "`[otlp]`".to_owned(), kind: "otlp" }),
        }
    }

    /// What makes the spans, if they are exported.
    pub(super) fn tracer(&self) -> Option<Tracer> {
        self.tracer.clone()
    }

    /// Starts it.
    pub(super) fn start(self) -> Exporting {
        Exporting { task: self.run.map(tokio::spawn), stop: self.stop }
    }
}

impl Exporting {
    /// Exports what there is, for no longer than `within`, and ends; at once when `abort` is, and then gives `true`.
    pub(super) async fn finish(self, within: Duration, abort: impl Future<Output = ()>) -> bool {
        let Some(mut task) = self.task else { return false };
        self.stop.cancel();
        let aborted = tokio::select! {
            _ = &mut task => return false,
            () = abort => true,
            () = tokio::time::sleep(within) => false,
        };
        task.abort();
        warn!(
            "the last metrics and spans are not exported: the OTLP collector did not take them in time"
        );
        aborted
    }
}

/// Asks the collector whether it takes what is exported, if one is configured.
#[cfg(feature = "otlp")]
pub async fn probe_collector(config: &Config) -> Option<Looked> {
    let ended = otlp::probe(config.otlp.as_ref()?).await;
    Some(Looked::of(
        &[Step::Write],
        ended.map_err(|words| Complaint::of_words(Step::Write, &words)),
    ))
}

/// Nothing is exported by this build.
#[cfg(not(feature = "otlp"))]
#[allow(clippy::unused_async)] // as in a build that has it
pub async fn probe_collector(_: &Config) -> Option<Looked> {
    None
}
