//! What a drain waits for, as log lines: it may take as long as the grace, and the operator should not have
//! to guess.

use std::convert::Infallible;
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use tokio::time::{Instant, interval_at};
use tracing::warn;

use crate::health::Health;
use crate::message::SourceName;

/// Time before a drain first logs what it waits for.
const SAY_AFTER: Duration = Duration::from_secs(1);

/// Interval of further lines.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// What a drain may wait for.
pub(super) struct Waiting {
    /// Messages in flight, of each source.
    pub(super) in_flight: Vec<(SourceName, Gauge)>,
    /// The parts' reasons for a delay.
    pub(super) health: Health,
}

impl Waiting {
    /// Logs what a drain of at most `grace` waits for, at intervals.
    pub(super) async fn say(&self, grace: Duration) -> Infallible {
        let mut clock = interval_at(Instant::now() + SAY_AFTER, SAY_EVERY);
        loop {
            clock.tick().await;
            let (in_flight, why) = (self.messages(), self.why());
            warn!(
                in_flight,
                why,
                ?grace,
                "the drain waits for what is in flight; a second SIGTERM or SIGINT stops at once, and what is not settled stays with the brokers"
            );
        }
    }

    fn messages(&self) -> String {
        let some = self.in_flight.iter().map(|(name, gauge)| (name, gauge.get()));
        let some =
            some.filter(|(_, count)| *count > 0).map(|(name, count)| format!("{name}: {count}"));
        some.collect::<Vec<_>>().join(", ")
    }

    fn why(&self) -> Option<String> {
        // `draining` alone explains nothing.
        let parts = self.health.not_ready().into_iter().filter(|(_, why)| why != "draining");
        let whys: Vec<_> = parts.map(|(part, why)| format!("{part}: {why}")).collect();
        (!whys.is_empty()).then(|| whys.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_flight_is_counted_and_explained() {
        let (health, [one, two]) = (Health::default(), [Gauge::default(), Gauge::default()]);
        let in_flight = vec![("plant".into(), one), ("shop".into(), two.clone())];
        let waiting = Waiting { in_flight, health: health.clone() };
        let source = health.register("source shop", "draining");
        assert_eq!((waiting.messages(), waiting.why()), (String::new(), None));
        two.set(3);
        source.not_ready("the broker is away");
        let _api = health.register("api main", "refuses us");
        assert_eq!(waiting.messages(), "shop: 3");
        let why = "api main: refuses us; source shop: the broker is away";
        assert_eq!(waiting.why().as_deref(), Some(why));
    }
}
