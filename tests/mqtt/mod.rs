//! MQTT as a source, against a real broker.

mod backlog;
mod check;
mod retained;
mod shared;
mod source;
mod subscriptions;
mod trouble;
mod wire;
