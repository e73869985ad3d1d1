//! MQTT as a source, against a real broker.

mod backlog;
mod check;
mod source;
mod subscriptions;
mod trouble;
mod websocket;
