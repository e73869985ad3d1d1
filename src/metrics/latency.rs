//! How long messages took, in buckets. One observation a message, on whatever thread settles it: a few atomic
//! additions and no lock. Unlike the library's histogram it can be read, for `/status`.

use std::fmt::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::{MetricType, TypedMetric};

/// The upper ends of the buckets in milliseconds: a healthy bridge is in the first ones, a backlog in the last.
const ENDS_MS: [u64; 18] = [
    2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000, 300_000, 900_000,
    3_600_000, 21_600_000,
];

/// A histogram of durations; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Latency(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// By the bucket, not cumulative; what took longer than every end is in the last.
    buckets: [AtomicU64; ENDS_MS.len() + 1],
    /// A float: the times of a clock that stands at 1970 would soon overflow a whole number.
    seconds: Counter<f64, AtomicU64>,
}

impl Latency {
    /// The number of its buckets, with that of what took longer than every end.
    pub const BUCKETS: usize = ENDS_MS.len() + 1;

    /// Something took so long.
    pub fn observe(&self, took: Duration) {
        let bucket = ENDS_MS.partition_point(|end| Duration::from_millis(*end) < took);
        self.0.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.0.seconds.inc_by(took.as_secs_f64());
    }

    /// The number of observations in each bucket so far, with those beyond the last end at the end.
    pub fn counts(&self) -> [u64; Self::BUCKETS] {
        std::array::from_fn(|at| self.0.buckets[at].load(Ordering::Relaxed))
    }
}

/// The end of the bucket that holds this share, of 0 to 1, of what was observed between two readings of
/// [`counts`](Latency::counts); the last end where it took longer than all, `None` where nothing was observed.
pub fn quantile(share: f64, then: &[u64], now: &[u64]) -> Option<Duration> {
    let new = |(now, then): (&u64, &u64)| now.saturating_sub(*then);
    let new: Vec<_> = now.iter().zip(then).map(new).collect();
    let all: u64 = new.iter().sum();
    #[allow(clippy::cast_precision_loss)] // a share
    let rank = all as f64 * share;
    let mut seen = 0;
    let bucket = new.iter().position(|count| {
        seen += count;
        #[allow(clippy::cast_precision_loss)] // a share
        let enough = *count > 0 && seen as f64 >= rank;
        enough
    })?;
    Some(Duration::from_millis(ENDS_MS[bucket.min(ENDS_MS.len() - 1)]))
}

impl EncodeMetric for Latency {
    #[allow(clippy::cast_precision_loss)] // seconds
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), Error> {
        let counts = self.counts();
        let ends = ENDS_MS.iter().map(|end| *end as f64 / 1e3).chain([f64::INFINITY]);
        let buckets: Vec<_> = ends.zip(counts).collect();
        let sum = self.0.seconds.get();
        encoder.encode_histogram::<NoLabelSet>(sum, counts.iter().sum(), &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

impl TypedMetric for Latency {
    const TYPE: MetricType = MetricType::Histogram;
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn each_is_in_one_bucket_and_the_text_adds_them_up() {
        let (latency, mut registry) = (Latency::default(), Registry::default());
        registry.register("x", "x", latency.clone());
        for milliseconds in [0, 2, 3, 86_400_000] {
            latency.observe(Duration::from_millis(milliseconds));
        }
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            "x_sum 86400.005\n",
            "x_count 4\n",
            "x_bucket{le=\"0.002\"} 2\n",
            "x_bucket{le=\"0.005\"} 3\n",
            "x_bucket{le=\"21600.0\"} 3\n",
            "x_bucket{le=\"+Inf\"} 4\n",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }

    #[test]
    fn a_quantile_is_of_what_came_since() {
        let latency = Latency::default();
        let start = latency.counts();
        assert_eq!(quantile(0.5, &start, &latency.counts()), None);
        (0..98).for_each(|_| latency.observe(Duration::from_millis(4)));
        (0..2).for_each(|_| latency.observe(Duration::from_millis(700)));
        let now = latency.counts();
        let of = |share, then| quantile(share, then, &now).map(|took| took.as_millis());
        assert_eq!(
            (of(0.5, &start), of(0.99, &start), of(0.98, &start)),
            (Some(5), Some(1_000), Some(5))
        );
        assert_eq!(of(0.5, &now), None);
        latency.observe(Duration::MAX);
        assert_eq!(quantile(0.99, &now, &latency.counts()), Some(Duration::from_hours(6)));
        latency.observe(Duration::MAX);
        assert!(latency.0.seconds.get() > Duration::MAX.as_secs_f64() * 1.9, "no overflow");
    }
}
