//! Counts of the publish requests over HTTP.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

/// Publish requests over HTTP since the start.
#[derive(Default)]
pub(crate) struct Stats {
    connections: AtomicU64,
    requests: AtomicU64,
    accepted_requests: AtomicU64,
    accepted_events: AtomicU64,
}

impl Stats {
    /// Counts a request to publish; `first` of its connection or not.
    pub(crate) fn request(&self, first: bool) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.connections.fetch_add(u64::from(first), Ordering::Relaxed);
    }

    /// Counts a request with this many accepted events.
    pub(crate) fn accepted(&self, events: usize) {
        self.accepted_requests.fetch_add(1, Ordering::Relaxed);
        self.accepted_events.fetch_add(events as u64, Ordering::Relaxed);
    }

    pub(crate) fn show(&self, cuts: u64) -> Value {
        let number = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        json!({
            "cut_connections": cuts,
            "connections": number(&self.connections),
            "requests": number(&self.requests),
            "accepted_requests": number(&self.accepted_requests),
            "accepted_events": number(&self.accepted_events),
        })
    }
}
