//! Kafka, as a source and as a dead letter, against a real broker.

mod broker;
mod dead_letter;
mod errors;
mod groups;
mod log;
mod moves;
mod security;
mod source;
mod start;
mod trouble;
