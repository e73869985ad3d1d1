//! The integration tests, one binary: each file is one subject.
//!
//! What cannot be unwrapped here is a failed test.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod config;
mod emulator;
mod lifecycle;
mod mqtt;
mod publish;
mod support;
