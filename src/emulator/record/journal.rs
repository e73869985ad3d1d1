//! The last events that were accepted and the channels that they went to, for people who look; and what all of them
//! would be metered as.

use std::collections::{HashMap, VecDeque};
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::event_api::Channel;

/// Events that are kept.
const KEPT: usize = 60;

/// Bytes of an event that are kept.
const KEPT_BYTES: usize = 2_000;

/// Channels that are kept: those published to last.
const CHANNELS: usize = 200;

/// AWS meters an event in units of this many bytes.
const UNIT_BYTES: usize = 5_000;

/// Accepted events, as whoever watches is told of them.
#[derive(Clone, Copy, Debug)]
pub struct Published<'a> {
    /// With its leading slash.
    pub channel: &'a str,
    /// Their texts, in their order.
    pub events: &'a [&'a str],
}

/// What was accepted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Publishes with at least one accepted event.
    pub publishes: u64,
    /// Accepted events.
    pub events: u64,
    /// The units that they are metered as, each of 5 kB.
    pub units_in: u64,
    /// Events that were sent to a subscription: each as often as there were subscriptions.
    pub deliveries: u64,
    /// The units that those are metered as.
    pub units_out: u64,
}

/// What was accepted of late.
#[derive(Default)]
pub(crate) struct Journal(Mutex<State>);

#[derive(Default)]
struct State {
    counts: Counts,
    last: VecDeque<Line>,
    channels: HashMap<Box<str>, Seen>,
}

struct Line {
    number: u64,
    at: u64,
    transport: &'static str,
    channel: Box<str>,
    event: Box<str>,
    receivers: usize,
}

#[derive(Default)]
struct Seen {
    events: u64,
    at: u64,
}

impl Journal {
    /// Notes what was accepted, one event at least, and sent to so many subscriptions.
    pub(crate) fn note(
        &self,
        transport: &'static str,
        channel: &Channel,
        events: &[&str],
        receivers: usize,
    ) {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let at = u64::try_from(at.as_millis()).unwrap_or(u64::MAX);
        let units: usize = events.iter().map(|event| event.len().div_ceil(UNIT_BYTES).max(1)).sum();
        let state = &mut *self.0.lock();
        state.counts.publishes += 1;
        state.counts.units_in += units as u64;
        state.counts.units_out += (units * receivers) as u64;
        state.counts.deliveries += (events.len() * receivers) as u64;
        for event in events {
            state.counts.events += 1;
            if state.last.len() == KEPT {
                state.last.pop_front();
            }
            state.last.push_back(Line {
                number: state.counts.events,
                at,
                transport,
                channel: channel.as_str().into(),
                event: clipped(event).into(),
                receivers,
            });
        }
        let seen = state.seen(channel.as_str());
        seen.events += events.len() as u64;
        seen.at = at;
    }

    /// The counts so far.
    pub(crate) fn counts(&self) -> Counts {
        self.0.lock().counts
    }

    /// The last events, newest first, and the channels, by their names.
    pub(crate) fn show(&self) -> (Value, Vec<(String, Value)>) {
        let state = self.0.lock();
        let lines = state.last.iter().rev().map(|line| {
            json!({
                "number": line.number,
                "at": line.at,
                "transport": line.transport,
                "channel": line.channel,
                "event": line.event,
                "receivers": line.receivers,
            })
        });
        let seen = |seen: &Seen| json!({ "events": seen.events, "at": seen.at });
        let channels = state.channels.iter().map(|(name, it)| (name.to_string(), seen(it)));
        (lines.collect(), channels.collect())
    }
}

impl State {
    /// The channel's entry, in place of the one that was published to the longest ago if there are too many.
    fn seen(&mut self, channel: &str) -> &mut Seen {
        if !self.channels.contains_key(channel) && self.channels.len() >= CHANNELS {
            let oldest = self.channels.iter().min_by_key(|(_, seen)| seen.at);
            if let Some(name) = oldest.map(|(name, _)| name.clone()) {
                self.channels.remove(&name);
            }
        }
        self.channels.entry(channel.into()).or_default()
    }
}

fn clipped(event: &str) -> &str {
    let mut end = event.len().min(KEPT_BYTES);
    while !event.is_char_boundary(end) {
        end -= 1;
    }
    &event[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel(text: &str) -> Channel {
        Channel::parse(text).unwrap()
    }

    #[test]
    fn it_counts_all_and_keeps_the_last() {
        let journal = Journal::default();
        let large = format!("\"{}\"", "ü".repeat(4_000));
        for _ in 0..KEPT {
            journal.note("http", &channel("demo/a"), &["1", &large], 3);
        }
        let counts = journal.counts();
        let n = KEPT as u64;
        assert_eq!((counts.publishes, counts.events, counts.deliveries), (n, 2 * n, 6 * n));
        assert_eq!((counts.units_in, counts.units_out), (3 * n, 9 * n));
        let (last, channels) = journal.show();
        let last = last.as_array().unwrap();
        assert_eq!((last.len(), &last[0]["number"]), (KEPT, &json!(2 * n)));
        assert!(last[0]["event"].as_str().unwrap().len() <= KEPT_BYTES);
        assert_eq!(channels[0].0, "/demo/a");
        assert_eq!(channels[0].1["events"], 2 * n);
    }

    #[test]
    fn channels_are_bounded_and_the_newest_stays() {
        let journal = Journal::default();
        for n in 0..CHANNELS + 50 {
            journal.note("ws", &channel(&format!("demo/c{n}")), &["1"], 0);
        }
        let (_, channels) = journal.show();
        assert_eq!(channels.len(), CHANNELS);
        let newest = format!("/demo/c{}", CHANNELS + 49);
        assert!(channels.iter().any(|(name, _)| *name == newest));
    }
}
