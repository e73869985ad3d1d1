//! Numbers that every source has.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

use super::{Labels, Lag, Latency, Metrics, label, with};

/// The outcomes of a message, the best first: by the rank of `delivery::Outcome`.
pub const OUTCOMES: [&str; 10] = [
    "published",
    "unrouted",
    "filtered",
    "superseded",
    "unconfirmed",
    "expired",
    "discarded",
    "dead_lettered",
    "left_to_broker",
    "released",
];

/// Numbers of one source.
#[derive(Clone, Debug)]
pub struct SourceMetrics {
    /// Messages taken.
    pub received: Counter,
    /// Messages that are no longer in flight, by the worst end of their events, as [`OUTCOMES`] stand.
    pub settled: [Counter; OUTCOMES.len()],
    /// Messages between the oldest not yet acknowledged and the newest taken.
    pub in_flight: Gauge,
    /// Bytes of payload and rendered events held for them.
    pub in_flight_bytes: Gauge,
    /// Messages in flight at most.
    pub in_flight_limit: Gauge,
    /// Bytes in flight at most.
    pub in_flight_bytes_limit: Gauge,
    /// 1 while connected.
    pub connected: Gauge,
    /// Connections after the first.
    pub reconnects: Counter,
    /// Connections that found the broker had forgotten the session.
    pub session_lost: Counter,
    /// Messages taken beyond the limits in flight, since the broker sent them.
    pub over_limit: Counter,
    /// Copies of messages that overlapping subscriptions brought and that were not taken.
    pub copies_skipped: Counter,
    /// Messages that could not be held and that nobody will send again.
    pub dropped: Counter,
    /// Messages that no route takes.
    pub unrouted: Counter,
    /// From the time of a message that was published, as its broker tells it, else of its arrival, to the
    /// acceptance of its last event.
    pub delivery: Latency,
    /// When the credentials or the token in use end, in seconds since 1970; 0 where that is not known.
    pub credentials_expiry: Gauge,
}

impl Metrics {
    /// The numbers of a source, from zero.
    pub fn source(&self, name: &str) -> SourceMetrics {
        let labels = &label("source", name);
        let settled = |outcome| {
            let help =
                "Messages no longer in flight, by what became of them: the worst of their events";
            self.one("source_settled", help, &with(labels, "outcome", outcome))
        };
        let counter = |name, help| -> Counter { self.one(name, help, labels) };
        let gauge = |name, help| -> Gauge { self.one(name, help, labels) };
        SourceMetrics {
            received: counter("source_received", "Messages taken from the broker"),
            settled: OUTCOMES.map(settled),
            in_flight: gauge("source_in_flight", "Messages taken and not yet acknowledged"),
            in_flight_bytes: gauge("source_in_flight_bytes", "Bytes held for messages in flight"),
            in_flight_limit: gauge("source_in_flight_limit", "Messages that may be in flight"),
            in_flight_bytes_limit: gauge(
                "source_in_flight_bytes_limit",
                "Bytes that may be held for messages in flight",
            ),
            connected: gauge("source_connected", "1 while connected to the broker"),
            reconnects: counter("source_reconnects", "Connections after the first"),
            session_lost: counter(
                "source_session_lost",
                "Connections that found the session forgotten",
            ),
            over_limit: counter("source_over_limit", "Messages beyond the limits"),
            copies_skipped: counter("source_copies_skipped", "Copies not taken"),
            dropped: counter("source_dropped", "Messages that could not be held and are lost"),
            unrouted: counter("unrouted", "Messages that no route takes"),
            delivery: self.one(
                "delivery_seconds",
                "From a message's time at the broker, where that tells none from its arrival, to the acceptance of its last event",
                labels,
            ),
            credentials_expiry: self.credentials_expiry("source", name),
        }
    }

    /// Messages that a source has not taken or acknowledged yet, of all it takes from; `None` where the broker does
    /// not tell, or has not told yet.
    pub fn lag(&self, source: &str) -> Option<i64> {
        self.made.lock().lags.get(source)?.sum()
    }

    /// The gauges that make up the lag of a source.
    pub(super) fn lag_of(&self, source: &str) -> Lag {
        self.made.lock().lags.entry(source.to_owned()).or_default().clone()
    }

    /// The counter of messages without a payload that a source skips.
    pub(super) fn tombstones(&self, labels: &Labels) -> Counter {
        self.one("source_tombstones", "Messages without a payload that were skipped", labels)
    }
}

impl SourceMetrics {
    /// These limits in flight are in force.
    pub fn show_limits(&self, messages: usize, bytes: usize) {
        let signed = |limit| i64::try_from(limit).unwrap_or(i64::MAX);
        self.in_flight_limit.set(signed(messages));
        self.in_flight_bytes_limit.set(signed(bytes));
    }
}
