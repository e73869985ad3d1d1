//! The export of metrics and traces to a collector of OpenTelemetry: OTLP over HTTP, with the client of HTTP and the
//! TLS that everything here uses.
//!
//! Nothing that a message passes waits for it. Metrics are what `/metrics` says, read from there at intervals; spans
//! come by a queue that has an end, and what has no room there is counted and said. While the collector is gone the
//! batch at hand is tried again and again; of metrics only the next numbers matter. At the stop both are exported
//! once more.

mod attributes;
mod collector;
mod exposition;
mod numbers;
mod spans;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use opentelemetry_proto::tonic::resource::v1::Resource;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval_at, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::backoff::Backoff;
use crate::config::OtlpConfig;
use crate::metrics::{Metrics, OtlpMetrics};
use crate::outbound::ClientError;
use crate::repeats::Repeats;
use crate::trace::{Span, Tracer};
use collector::{Collector, Refusal, Signal};

/// Spans that may wait: a few megabytes.
const QUEUE: usize = 8_192;

/// Spans a request.
const BATCH: usize = 512;

/// How long the first span of a batch waits for others.
const GATHER: Duration = Duration::from_secs(1);

/// Longest backoff of the first retry, and of any.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// How often dropped spans are logged.
const LOG_EVERY: Duration = Duration::from_mins(1);

/// An export that is built and not yet running.
#[derive(Debug)]
pub struct Exporter {
    shared: Arc<Shared>,
    tracer: Option<Tracer>,
    spans: Option<mpsc::Receiver<Span>>,
    metrics: Option<(Metrics, Duration)>,
}

#[derive(Debug)]
struct Shared {
    collector: Collector,
    resource: Resource,
    counts: OtlpMetrics,
    stop: CancellationToken,
}

impl Exporter {
    /// An export of `metrics`, and of the spans of its [`tracer`](Self::tracer), as far as `config` wants them, until
    /// `stop`. Nothing is connected before it [runs](Self::run).
    pub fn build(
        config: &OtlpConfig,
        metrics: &Metrics,
        stop: CancellationToken,
    ) -> Result<Self, ClientError> {
        let counts = metrics.otlp();
        let dropped = counts.dropped.clone();
        let collector = Collector::new(config)?;
        let resource = attributes::resource(&config.resource);
        let (tracer, spans) = config
            .traces
            .then(|| {
                let (queue, spans) = mpsc::channel(QUEUE);
                (Tracer::new(config.sample, queue, dropped), spans)
            })
            .unzip();
        let metrics = config.metrics.then(|| (metrics.clone(), config.interval));
        let shared = Arc::new(Shared { collector, resource, counts, stop });
        Ok(Self { shared, tracer, spans, metrics })
    }

    /// What makes the spans, if they are exported.
    pub fn tracer(&self) -> Option<Tracer> {
        self.tracer.clone()
    }

    /// Exports until the stop, and what there is by then.
    pub async fn run(self) {
        let Self { shared, spans, metrics, .. } = self;
        let spans = async {
            if let Some(spans) = spans {
                shared.export_spans(spans).await;
            }
        };
        let metrics = async {
            if let Some((metrics, every)) = metrics {
                shared.export_metrics(&metrics, every).await;
            }
        };
        tokio::join!(spans, metrics);
    }
}

/// Whether the collector of `config` takes what is exported: sends it numbers of nothing. In words.
pub async fn probe(config: &OtlpConfig) -> Result<String, String> {
    let collector = Collector::new(config).map_err(|why| why.to_string())?;
    let body = numbers::nothing(&attributes::resource(&config.resource));
    let signal = if config.metrics { Signal::Metrics } else { Signal::Traces };
    match collector.post(signal, body).await {
        Ok(_) => Ok(format!("{} takes {}", collector.endpoint(), signal.word())),
        Err(Refusal { why, hint, .. }) => Err(format!("{}: {why}; {hint}", collector.endpoint())),
    }
}

impl Shared {
    async fn export_spans(&self, mut spans: mpsc::Receiver<Span>) {
        let mut log = Repeats::default();
        let mut batch = Vec::with_capacity(BATCH);
        while self.gather(&mut spans, &mut batch).await {
            self.send_spans(&batch, &mut log).await;
            batch.clear();
        }
        self.tell_dropped(&mut log, Duration::ZERO);
    }

    /// Fills `batch` with what comes within a while. `false`: nothing is left, and nothing more comes.
    async fn gather(&self, spans: &mut mpsc::Receiver<Span>, batch: &mut Vec<Span>) -> bool {
        tokio::select! {
            biased;
            // What was handed over by now is still given out.
            () = self.stop.cancelled() => spans.close(),
            count = spans.recv_many(batch, BATCH) => return count > 0 && {
                let until = tokio::time::Instant::now() + GATHER;
                while batch.len() < BATCH {
                    let more = spans.recv_many(batch, BATCH - batch.len());
                    tokio::select! {
                        biased;
                        () = self.stop.cancelled() => break,
                        more = timeout_at(until, more) => if !matches!(more, Ok(1..)) { break },
                    }
                }
                true
            },
        }
        spans.recv_many(batch, BATCH).await > 0
    }

    /// Sends a batch until it is taken or will never be, or the bridge stops.
    async fn send_spans(&self, batch: &[Span], log: &mut Repeats) {
        let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
        loop {
            self.tell_dropped(log, LOG_EVERY);
            let last = self.stop.is_cancelled();
            let body = spans::request(&self.resource, batch);
            let result = self.collector.post(Signal::Traces, body).await;
            self.counts.traces(result.is_ok());
            let refusal = match result {
                Ok(answer) => match spans::left_out(&answer) {
                    None => return self.collector.report(Signal::Traces, None, Instant::now()),
                    Some((count, words)) => {
                        self.counts.dropped.inc_by(count);
                        let refusal = collector::partly(count, &words);
                        return self.collector.report(
                            Signal::Traces,
                            Some(&refusal),
                            Instant::now(),
                        );
                    }
                },
                Err(refusal) => refusal,
            };
            self.collector.report(Signal::Traces, Some(&refusal), Instant::now());
            let Some(wait) = refusal.again.filter(|_| !last) else {
                self.counts.dropped.inc_by(batch.len() as u64);
                return;
            };
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = sleep(wait.max(backoff.next_wait())) => {}
            }
        }
    }

    async fn export_metrics(&self, metrics: &Metrics, every: Duration) {
        let began = SystemTime::now();
        let mut ticks = interval_at(tokio::time::Instant::now() + every, every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = false;
        while !last {
            last = tokio::select! {
                () = self.stop.cancelled() => true,
                _ = ticks.tick() => false,
            };
            let (metrics, resource) = (metrics.clone(), self.resource.clone());
            // With thousands of routes it takes a while.
            let made = tokio::task::spawn_blocking(move || {
                numbers::requests(&resource, &metrics.encode(), began)
            });
            for body in made.await.unwrap_or_default() {
                if !self.send_metrics(body).await {
                    break;
                }
            }
        }
    }

    /// Sends some numbers; whether the collector is there for others: it may refuse these alone. The next ones say all that
    /// these say.
    async fn send_metrics(&self, body: Vec<u8>) -> bool {
        let result = self.collector.post(Signal::Metrics, body).await;
        self.counts.metrics(result.is_ok());
        let result = result.and_then(|answer| match numbers::left_out(&answer) {
            None => Ok(()),
            Some((count, words)) => Err(collector::partly(count, &words)),
        });
        self.collector.report(Signal::Metrics, result.as_ref().err(), Instant::now());
        result.err().is_none_or(|refusal| refusal.again.is_none())
    }

    /// Says how many spans are lost, if some are and the last line on it is so old.
    fn tell_dropped(&self, log: &mut Repeats, every: Duration) {
        let dropped = self.counts.dropped.get();
        let Some(count) = log.reached(dropped, every, Instant::now()) else { return };
        let hint = "the collector takes them slower than they come, or not at all; trace fewer: a lower `sample` in `[otlp]`, or where the messages are published";
        warn!(count, hint, "dropped spans that had no room or were not taken");
    }
}
