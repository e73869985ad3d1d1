//! What comes beyond the limits in flight: how much of it is held, and what is logged of it.

use std::time::{Duration, Instant};

use tracing::warn;

use crate::config::mqtt::{MqttConfig, MqttVersion};
use crate::config::source::Limits;
use crate::message::SourceName;
use crate::metrics::SourceMetrics;
use crate::repeats::Repeats;

/// So many times `max_in_flight` are held at most. mosquitto 2.0 sends a backlog as a whole: this is one
/// of 64,000 messages with the default.
const CEILING_MESSAGES: usize = 64;

/// So many times `max_in_flight_bytes` are held at most: the memory is that of the operator.
const CEILING_BYTES: usize = 2;

/// The same is not said again sooner.
const SAY_EVERY: Duration = Duration::from_mins(5);

/// A connection has 65,535 packet ids. One is left, for the message that does not fit any more: behind it a
/// broker that sends all it has begins again with those in flight.
const PACKET_IDS: usize = 65_534;

/// What a source holds at most, of `limits`.
pub(super) fn ceiling(limits: Limits) -> Limits {
    Limits {
        messages: limits.messages.saturating_mul(CEILING_MESSAGES).min(PACKET_IDS),
        bytes: limits.bytes.saturating_mul(CEILING_BYTES),
    }
}

/// What was said of messages beyond the limits.
#[derive(Debug, Default)]
pub(super) struct Overflow {
    held: Repeats,
    dropped: Repeats,
    shed: Repeats,
    sheds: u64,
    stopping: bool,
}

impl Overflow {
    /// A connection ends because messages were left to the broker.
    pub(super) fn shed(&mut self) {
        self.sheds += 1;
    }

    /// From now on nothing is taken.
    pub(super) fn stopping(&mut self) {
        self.stopping = true;
    }

    /// Says what is new, and what is to be done about it.
    pub(super) fn tell(
        &mut self,
        source: &SourceName,
        config: &MqttConfig,
        metrics: &SourceMetrics,
    ) {
        const MORE: &str = "raise `max_in_flight` or `max_in_flight_bytes`";
        let now = Instant::now();
        if let Some(messages) = self.held.reached(metrics.over_limit.get(), SAY_EVERY, now) {
            let other = match config.version {
                MqttVersion::V5 => "or update the broker: mosquitto before 2.0.13 does so",
                MqttVersion::V3 => {
                    "or limit what the broker sends (mosquitto: `max_inflight_messages`), \
                     which version 3 can't"
                }
            };
            let in_flight = metrics.in_flight.get();
            warn!(
                %source, messages, in_flight, hint = format!("{MORE}, {other}"),
                "the broker sent more than the limit in flight; it is held all the same"
            );
        }
        if let Some(messages) = self.dropped.reached(metrics.dropped.get(), SAY_EVERY, now) {
            let hint = "subscribe with `qos = 1`";
            if self.stopping {
                let what = "messages of QoS 0 came without room, or after the stop began; they were dropped";
                warn!(%source, messages, hint, "{what}");
            } else {
                let hint = format!("{MORE}, or {hint}");
                warn!(%source, messages, hint, "no room for messages of QoS 0; they were dropped");
            }
        }
        if let Some(times) = self.shed.reached(self.sheds, SAY_EVERY, now) {
            warn!(
                %source, times, hint = format!("{MORE}, or have the broker send less at once"),
                "no room for more; the rest was left to the broker, and comes over a new connection"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ceiling_is_a_multiple_that_packet_ids_can_tell_apart() {
        let of = |messages| ceiling(Limits { messages, bytes: 100 });
        assert_eq!(of(1), Limits { messages: 64, bytes: 200 });
        assert_eq!(of(1_000).messages, 64_000);
        assert_eq!(of(65_535).messages, 65_534);
    }
}
