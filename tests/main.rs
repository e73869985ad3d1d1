//! The integration tests, one binary: each file is one subject.
//!
//! What cannot be unwrapped here is a failed test.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr)]
// Numbers of tests are small, whole and known.
#![allow(clippy::float_cmp, clippy::cast_precision_loss, clippy::cast_possible_truncation)]

mod addresses;
mod admin;
mod answers;
mod architecture;
mod bad_network;
mod bombs;
mod channel;
mod cli;
mod cloud;
mod config;
mod connect;
mod connections;
mod contract;
mod credentials;
mod crowd;
mod dead_letter;
mod demo;
mod emulator;
mod fairness;
mod faults;
mod fuzz;
mod gate;
mod jetstream;
mod kafka;
mod lifecycle;
mod limits;
mod log;
mod metrics;
mod mqtt;
mod nats;
#[cfg(feature = "otlp")]
mod otlp;
mod outcomes;
mod output;
mod pauses;
mod permissions;
mod publish;
mod reload;
mod replay;
mod said;
mod secrets;
mod shipped;
mod simulation;
#[cfg(feature = "sqs")]
mod sqs;
mod status;
mod steering;
mod support;
#[cfg(feature = "top")]
mod top;
mod wires;
