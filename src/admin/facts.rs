//! What the configuration says of the parts, as far as people are shown it: names and places, no secret.

use serde::Serialize;

/// The parts of a bridge. Each list is in the order in which it is shown.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// `[source.NAME]`.
    pub sources: Vec<SourceFacts>,
    /// `[route.NAME]`.
    pub routes: Vec<RouteFacts>,
    /// `[api.NAME]`.
    pub apis: Vec<ApiFacts>,
    /// `[dead_letter.NAME]`.
    pub dead_letters: Vec<DeadLetterFacts>,
}

/// Of a source.
#[derive(Clone, Debug, Serialize)]
pub struct SourceFacts {
    /// Its name.
    pub name: String,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// What the broker is asked for: topics, filters, a queue.
    pub takes: Vec<String>,
    /// Messages in flight at most.
    pub max_in_flight: usize,
    /// Bytes in flight at most.
    pub max_in_flight_bytes: usize,
}

/// Of a route.
#[derive(Clone, Debug, Serialize)]
pub struct RouteFacts {
    /// Its name.
    pub name: String,
    /// The sources it takes from.
    pub from: Vec<String>,
    /// The pattern of the topics it takes; `None`: all.
    pub topic: Option<String>,
    /// The templates of its channels.
    pub channels: Vec<String>,
    /// The API they are of.
    pub api: String,
    /// The dead letter of what can't be published, or the word that stands in its place.
    pub dead_letter: String,
}

/// Of an API.
#[derive(Clone, Debug, Serialize)]
pub struct ApiFacts {
    /// Its name.
    pub name: String,
    /// Of its endpoint, with the port where that is written.
    pub host: String,
    /// Requests in flight at most.
    pub max_concurrency: usize,
    /// Events a second at most.
    pub max_rate: u32,
}

/// Of a dead letter.
#[derive(Clone, Debug, Serialize)]
pub struct DeadLetterFacts {
    /// Its name.
    pub name: String,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The path, the topic, the subject or the queue.
    pub place: String,
}
