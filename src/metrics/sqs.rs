//! Numbers that only SQS sources have.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;

use super::{Metrics, label};

/// Numbers of one SQS source.
#[derive(Clone, Debug)]
pub struct SqsMetrics {
    /// Receives that were answered: what SQS bills.
    pub receives: Counter,
    /// Those that brought nothing.
    pub empty_receives: Counter,
    /// How often each message had been received by then, this time included.
    pub receive_count: Histogram,
    /// Messages whose lease was extended, each time.
    pub leases_extended: Counter,
    /// Leases that ended before the message was deleted.
    pub leases_lost: Counter,
    /// Messages that were given back, to be received again at once.
    pub given_back: Counter,
    /// Messages whose deletion failed and was tried again, each time.
    pub delete_retries: Counter,
}

impl Metrics {
    /// The numbers of an SQS source, from zero.
    pub fn sqs(&self, source: &str) -> SqsMetrics {
        let labels = label("source", source);
        let counter = |name, help| -> Counter { self.one(name, help, &labels) };
        SqsMetrics {
            receives: counter("source_receives", "Receives that were answered"),
            empty_receives: counter("source_empty_receives", "Receives that brought nothing"),
            receive_count: self.series(
                "source_receive_count",
                "How often a message had been received by then",
                &labels,
                || Histogram::new([1.0, 2.0, 3.0, 5.0, 10.0, 100.0]),
            ),
            leases_extended: counter("source_leases_extended", "Extensions of leases"),
            leases_lost: counter(
                "source_leases_lost",
                "Leases that ended before the message was deleted",
            ),
            given_back: counter("source_given_back", "Messages given back to be received again"),
            delete_retries: counter("source_delete_retries", "Deletions tried again"),
        }
    }
}
