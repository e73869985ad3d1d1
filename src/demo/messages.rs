//! What people published to the broker by hand, and what became of each: where it arrived, or why it was rejected.
//!
//! Nothing here is computed from the routes. What was sent is what the broker was given, where it arrived is the
//! channel that the Event API accepted it on, and the reason is that of the bridge's dead letter.

use std::collections::VecDeque;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use serde::Serialize;
use serde_json::Value;

/// So many are kept.
const KEPT: usize = 40;

/// Bytes of a payload that are shown.
const SHOWN_BYTES: usize = 4_000;

/// The messages, oldest first.
#[derive(Default)]
pub(super) struct Messages(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    number: u64,
    list: VecDeque<Message>,
}

/// A message.
#[derive(Clone, Debug, Serialize)]
struct Message {
    number: u64,
    /// When the broker was given it, in milliseconds since 1970.
    at: u64,
    topic: String,
    payload: String,
    #[serde(flatten)]
    fate: Fate,
    #[serde(skip)]
    bytes: Vec<u8>,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "fate", rename_all = "snake_case")]
enum Fate {
    Waiting,
    Arrived { channel: String },
    Rejected { reason: String },
}

impl Messages {
    /// The broker was given it.
    pub(super) fn sent(&self, topic: &str, payload: &[u8]) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let kept = &mut *self.0.lock();
        kept.number += 1;
        if kept.list.len() == KEPT {
            kept.list.pop_front();
        }
        let shown = &payload[..payload.len().min(SHOWN_BYTES)];
        kept.list.push_back(Message {
            number: kept.number,
            at: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
            topic: topic.to_owned(),
            payload: String::from_utf8_lossy(shown).into_owned(),
            fate: Fate::Waiting,
            bytes: payload.to_vec(),
        });
    }

    /// The Event API has accepted these.
    pub(super) fn arrived(&self, channel: &str, events: &[&str]) {
        let mut kept = self.0.lock();
        // The fleet's events come a hundred a second: nothing is done for them.
        if !kept.list.iter().any(|message| message.fate == Fate::Waiting) {
            return;
        }
        for event in events {
            kept.settle(
                |message| is_same(&message.bytes, event),
                Fate::Arrived { channel: channel.to_owned() },
            );
        }
    }

    /// The bridge has written a dead letter of it.
    pub(super) fn rejected(&self, topic: &str, payload: &[u8], reason: &str) {
        let is_it = |message: &Message| message.topic == topic && message.bytes == payload;
        self.0.lock().settle(is_it, Fate::Rejected { reason: reason.to_owned() });
    }

    /// All of them, newest first.
    pub(super) fn show(&self) -> Value {
        let kept = self.0.lock();
        kept.list.iter().rev().filter_map(|message| serde_json::to_value(message).ok()).collect()
    }
}

impl Kept {
    /// Gives this fate to the oldest that waits for one and is meant.
    fn settle(&mut self, is_meant: impl Fn(&Message) -> bool, fate: Fate) {
        let mut waiting = self.list.iter_mut().filter(|message| message.fate == Fate::Waiting);
        if let Some(message) = waiting.find(|message| is_meant(message)) {
            message.fate = fate;
        }
    }
}

/// Whether an event is this payload: its bytes, or the same JSON written otherwise.
fn is_same(payload: &[u8], event: &str) -> bool {
    if payload == event.as_bytes() {
        return true;
    }
    let read = |text: &[u8]| serde_json::from_slice::<Value>(text).ok();
    read(payload).is_some_and(|payload| Some(payload) == read(event.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_gets_its_own_fate() {
        let messages = Messages::default();
        messages.sent("demo/a", br#"{"n": 1}"#);
        messages.sent("demo/b", b"no json");
        messages.sent("demo/a", br#"{"n": 1}"#);
        messages.arrived("/demo/other", &["{\"n\":2}"]);
        messages.arrived("/demo/a", &["{\"n\":2}", "{\"n\":1}"]);
        messages.rejected("demo/b", b"another", "not this");
        messages.rejected("demo/b", b"no json", "not JSON");
        let shown = messages.show();
        let fates: Vec<_> = shown.as_array().unwrap().iter().map(|m| &m["fate"]).collect();
        assert_eq!(fates, ["waiting", "rejected", "arrived"]);
        assert_eq!(shown[1]["reason"], "not JSON");
        assert_eq!(shown[2]["channel"], "/demo/a");
        for _ in 0..KEPT {
            messages.sent("demo/c", &[0xff; 2 * SHOWN_BYTES]);
        }
        let shown = messages.show();
        assert_eq!(shown.as_array().unwrap().len(), KEPT);
        assert_eq!(shown[0]["number"], 3 + KEPT as u64);
    }
}
