//! Messages that come by subscriptions which another configuration has left in the session. Pure.

use std::time::{Duration, Instant};

use crate::repeats::Repeats;

/// The same is not said again sooner.
const SAY_EVERY: Duration = Duration::from_mins(5);

/// What came so, and what was said of it.
#[derive(Debug, Default)]
pub(in super::super) struct Foreign {
    messages: u64,
    /// Of the last one.
    topic: String,
    said: Repeats,
}

impl Foreign {
    /// One came.
    pub(in super::super) fn came(&mut self, topic: &str) {
        self.messages += 1;
        topic.clone_into(&mut self.topic);
    }

    /// What is to be said, if it is time: how many came since the last time, and the topic of one.
    pub(in super::super) fn news(&mut self, now: Instant) -> Option<(u64, &str)> {
        let messages = self.said.reached(self.messages, SAY_EVERY, now)?;
        Some((messages, &self.topic))
    }
}
