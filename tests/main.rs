//! The integration tests, one binary: each file is one subject.
//!
//! What cannot be unwrapped here is a failed test.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr)]
// Numbers of tests are small, whole and known.
#![allow(clippy::float_cmp, clippy::cast_precision_loss, clippy::cast_possible_truncation)]

mod answers;
mod architecture;
mod cli;
mod config;
mod connections;
mod contract;
mod credentials;
mod crowd;
mod dead_letter;
mod demo;
mod emulator;
mod fairness;
mod faults;
mod kafka;
mod kafka_broker;
mod kafka_dead_letter;
mod kafka_errors;
mod kafka_groups;
mod kafka_log;
mod kafka_moves;
mod kafka_security;
mod kafka_start;
mod kafka_trouble;
mod lifecycle;
mod log;
mod mqtt;
mod mqtt_backlog;
mod mqtt_subscriptions;
mod mqtt_trouble;
mod outcomes;
mod pauses;
mod proxy;
mod publish;
mod replay;
mod said;
mod secrets;
mod simulation;
mod steering;
mod support;
mod wires;
