//! MQTT as a source, against a real broker.

mod backlog;
mod source;
mod subscriptions;
mod trouble;
