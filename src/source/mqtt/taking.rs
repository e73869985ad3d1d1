//! The taking half of the source: what a broker sends becomes a delivery, or is skipped for a reason that is
//! counted, or ends the connection because it can't be right.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tracing::info;

use super::MqttSource;
use super::client::{Ack, Extras, Incoming};
use super::diagnosis::Trouble;
use super::generation::Generation;
use crate::config::mqtt::{MqttConfig, MqttVersion, Retained};
use crate::delivery::{Delivery, Done, Intake, Outcome, Settlement};
use crate::message::{Coordinates, Message, SourceName, Topic};
use crate::metrics::MqttMetrics;
use crate::repeats::Repeats;

/// The same is not said again sooner.
const SAY_EVERY: Duration = Duration::from_mins(5);

/// The typical size of a message is that of so many of the last.
const TYPICAL_OF: usize = 64;

/// Why a message is not handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Skip {
    /// The broker had retained it, and the operator wants none of those.
    Retained,
    /// It says that nothing is retained for its topic any more.
    Clearing,
}

/// What was said of messages that were skipped.
#[derive(Debug, Default)]
pub(super) struct Skipped {
    retained: Repeats,
    clearings: Repeats,
}

impl MqttSource {
    /// Takes a message, or leaves it to the broker. An error is of a broker that can't be understood.
    pub(super) fn take(
        &self,
        generation: &Generation,
        intake: &Intake,
        incoming: Incoming,
    ) -> Result<(), Trouble> {
        if incoming.topic.is_empty() {
            return Err(Trouble::other("the broker sent a message without a topic"));
        }
        // What is left to the broker is answered by nobody, so its packet id may be one that is in flight: a
        // broker that sends all it has goes through the ids until it meets them again.
        let in_use = |ack: &Ack| !generation.has_shed() && generation.is_unacknowledged(*ack);
        if let Some(ack) = incoming.ack().filter(in_use) {
            if !incoming.duplicate {
                return Err(Trouble::other(format!(
                    "the broker gave packet id {} to two messages at once",
                    ack.packet_id()
                )));
            }
            // Some brokers of 3.1.1 repeat what is not acknowledged over the same connection. It is on its way.
            self.metrics.copies_skipped.inc();
            return Ok(());
        }
        let (counts, foreign) = self.judge(&incoming);
        if !counts {
            // One that is left to the broker comes again, and is counted then.
            if incoming.ack().is_none_or(|ack| generation.pass(ack)) {
                self.metrics.copies_skipped.inc();
            }
            return Ok(());
        }
        let size = incoming.size();
        self.learn(size);
        let Some(settlement) = generation.take(incoming.ack(), size) else {
            // QoS 1 and 2 stay with the broker; QoS 0 is gone.
            if incoming.qos == 0 {
                self.metrics.dropped.inc();
            }
            return Ok(());
        };
        if foreign {
            self.foreign.lock().came(&String::from_utf8_lossy(&incoming.topic));
        }
        match skip(&incoming, &self.config) {
            Some(why) => self.skip(why, settlement),
            None => intake.submit(Delivery::new(message(&self.name, incoming), settlement)),
        }
        Ok(())
    }

    /// Whether a message counts, or another copy in place of it: then all there is to do is to acknowledge it, in its turn.
    /// And whether it comes by a subscription of another configuration.
    fn judge(&self, incoming: &Incoming) -> (bool, bool) {
        let topic = String::from_utf8_lossy(&incoming.topic);
        let mut subscriptions = self.subscriptions.lock();
        let counts = subscriptions.counts(&topic, &incoming.identifiers);
        (counts, counts && subscriptions.is_foreign(&topic, &incoming.identifiers))
    }

    fn skip(&self, why: Skip, settlement: Settlement) {
        match why {
            Skip::Retained => self.mqtt.retained_skipped.inc(),
            Skip::Clearing => self.mqtt.tombstones.inc(),
        };
        settlement.settle(Outcome::Accepted(Done::Filtered));
    }

    /// Remembers how large messages are, for the window of the next connection.
    fn learn(&self, size: usize) {
        // Only the poller of the one connection writes it.
        let typical = self.typical.load(Ordering::Relaxed);
        let next =
            if typical == 0 { size } else { typical - typical / TYPICAL_OF + size / TYPICAL_OF };
        self.typical.store(next, Ordering::Relaxed);
    }
}

impl Skipped {
    /// Says what is new, and what is to be done about it.
    pub(super) fn tell(&mut self, source: &SourceName, config: &MqttConfig, metrics: &MqttMetrics) {
        let now = Instant::now();
        if let Some(messages) =
            self.retained.reached(metrics.retained_skipped.get(), SAY_EVERY, now)
        {
            info!(%source, messages, "skipped what the broker had retained, as `retained` says");
        }
        if let Some(messages) = self.clearings.reached(metrics.tombstones.get(), SAY_EVERY, now) {
            let hint = match config.version {
                MqttVersion::V5 => "they end a retained message, and hold nothing",
                MqttVersion::V3 => {
                    "they end a retained message; `version = 5` tells them from other messages without a \
                     payload"
                }
            };
            info!(%source, messages, hint, "skipped messages without a payload");
        }
    }
}

/// Why a message is skipped, if it is.
///
/// With version 5 the broker is asked to leave out what it has retained (`Stored::Never`), so what bears the
/// flag is live, and the flag is its publisher's. In 3.1.1 only what was retained bears it. So an empty message
/// is a clearing in version 5 if it bears the flag; in 3.1.1 one can't tell, and no route can make an event
/// of any.
fn skip(incoming: &Incoming, config: &MqttConfig) -> Option<Skip> {
    let empty = incoming.payload.is_empty();
    match config.version {
        MqttVersion::V5 => (empty && incoming.retain).then_some(Skip::Clearing),
        MqttVersion::V3 if incoming.retain && config.retained == Retained::Skip => {
            Some(Skip::Retained)
        }
        MqttVersion::V3 => empty.then_some(Skip::Clearing),
    }
}

/// The message; copies what is kept out of the read buffer.
fn message(source: &SourceName, incoming: Incoming) -> Message {
    let topic = Topic::new(String::from_utf8_lossy(&incoming.topic), '/');
    let extras = incoming.extras.map_or_else(Extras::default, |extras| *extras);
    let lifetime = extras.expires_in.map(|seconds| Duration::from_secs(seconds.into()));
    Message {
        source: source.clone(),
        order: Some(topic.order_key()),
        topic,
        key: None,
        headers: headers(incoming.retain, extras),
        payload: Bytes::copy_from_slice(&incoming.payload),
        published: None,
        expires: lifetime.and_then(|lifetime| Instant::now().checked_add(lifetime)),
        coordinates: Coordinates::Publish {
            qos: incoming.qos,
            retain: incoming.retain,
            duplicate: incoming.duplicate,
        },
    }
}

/// What a route can see. A publisher may not say what is ours to say: its user properties of those names are
/// left out.
fn headers(retained: bool, extras: Extras) -> Vec<(String, Bytes)> {
    let Extras { user_properties, content_type, response_topic, correlation_data, .. } = extras;
    let retained = if retained { "true" } else { "false" };
    let own = [
        (RETAINED, Some(Bytes::from_static(retained.as_bytes()))),
        (CONTENT_TYPE, content_type.map(Bytes::from)),
        (RESPONSE_TOPIC, response_topic.map(Bytes::from)),
        // It shares the read buffer.
        (CORRELATION_DATA, correlation_data.map(|data| Bytes::copy_from_slice(&data))),
    ];
    let is_own = |name: &str| own.iter().any(|(known, _)| *known == name);
    let said = user_properties.into_iter().filter(|(name, _)| !is_own(name));
    let said: Vec<_> = said.map(|(name, value)| (name, Bytes::from(value))).collect();
    let own = own.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    own.chain(said).collect()
}

const RETAINED: &str = "mqtt-retained";
const CONTENT_TYPE: &str = "mqtt-content-type";
const RESPONSE_TOPIC: &str = "mqtt-response-topic";
const CORRELATION_DATA: &str = "mqtt-correlation-data";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::mqtt::probe::tests::config;

    fn incoming(retain: bool, payload: &'static str) -> Incoming {
        Incoming {
            topic: Bytes::from_static(b"t"),
            payload: Bytes::from_static(payload.as_bytes()),
            qos: 1,
            retain,
            duplicate: false,
            packet_id: 1,
            identifiers: Vec::new(),
            extras: None,
        }
    }

    #[test]
    fn a_live_message_is_never_skipped_for_its_flag() {
        for retained in [Retained::Take, Retained::Skip] {
            let mut config = config(MqttVersion::V5, "test");
            config.retained = retained;
            let of = |retain, payload| skip(&incoming(retain, payload), &config);
            assert_eq!([of(true, "1"), of(false, "1"), of(false, "")], [None; 3]);
            assert_eq!(of(true, ""), Some(Skip::Clearing));
        }
    }

    #[test]
    fn in_3_1_1_the_flag_tells_what_was_retained() {
        let mut config = config(MqttVersion::V3, "test");
        let of = |config: &MqttConfig, retain, payload| skip(&incoming(retain, payload), config);
        assert_eq!([of(&config, true, "1"), of(&config, false, "1")], [None; 2]);
        assert_eq!(of(&config, false, ""), Some(Skip::Clearing));
        config.retained = Retained::Skip;
        assert_eq!([of(&config, true, "1"), of(&config, false, "1")], [Some(Skip::Retained), None]);
    }

    #[test]
    fn what_is_ours_to_say_no_publisher_says() {
        let property = |name: &str| (name.to_owned(), "forged".to_owned());
        let extras = Extras {
            user_properties: ["tenant", RETAINED, CONTENT_TYPE].map(property).to_vec(),
            correlation_data: Some(Bytes::from_static(b"\xff")),
            ..Extras::default()
        };
        let headers = headers(true, extras);
        let names: Vec<_> =
            headers.iter().map(|(name, value)| (name.as_str(), &value[..])).collect();
        assert_eq!(
            names,
            [(RETAINED, &b"true"[..]), (CORRELATION_DATA, b"\xff"), ("tenant", b"forged")]
        );
    }
}
