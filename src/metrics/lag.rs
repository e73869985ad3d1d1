//! The lag of one source, over all that it takes from.

use std::sync::Arc;

use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;

/// The gauges that make it up; cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Lag(Arc<Mutex<Vec<Gauge>>>);

impl Lag {
    /// Counts `gauge` in.
    pub(super) fn add(&self, gauge: &Gauge) {
        let mut gauges = self.0.lock();
        // Of a source that is made again it is the same.
        if !gauges.iter().any(|other| std::ptr::eq(other.inner(), gauge.inner())) {
            gauges.push(gauge.clone());
        }
    }

    /// Counts `gauge` in no more.
    pub(super) fn remove(&self, gauge: &Gauge) {
        self.0.lock().retain(|other| !std::ptr::eq(other.inner(), gauge.inner()));
    }

    /// All of them together; `None` without any.
    pub(super) fn sum(&self) -> Option<i64> {
        let gauges = self.0.lock();
        (!gauges.is_empty()).then(|| gauges.iter().map(Gauge::get).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_sum_of_what_is_counted_in() {
        let (lag, [one, two]) = (Lag::default(), [Gauge::default(), Gauge::default()]);
        assert_eq!(lag.sum(), None);
        lag.add(&one);
        lag.add(&two);
        lag.add(&two);
        one.set(3);
        two.set(4);
        assert_eq!(lag.sum(), Some(7));
        lag.remove(&one);
        assert_eq!(lag.sum(), Some(4));
        lag.remove(&two);
        assert_eq!(lag.sum(), None);
    }
}
