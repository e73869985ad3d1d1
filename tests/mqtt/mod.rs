//! MQTT as a source, against a real broker.

mod backlog;
mod check;
mod hivemq;
mod iot_core;
mod retained;
mod rotation;
mod shared;
mod source;
mod subscriptions;
mod trouble;
mod websocket;
mod wire;
