//! appsync-bridge

pub mod admin;
pub mod aws;
pub mod backoff;
pub mod bridge;
pub mod cli;
pub mod config;
pub mod dead_letter;
pub mod delivery;
#[cfg(feature = "demo")]
pub mod demo;
#[cfg(feature = "emulator")]
pub mod emulator;
pub mod event_api;
pub mod health;
pub mod message;
pub mod metrics;
pub mod pipeline;
pub mod publish;
pub mod route;
pub mod shutdown;
pub mod source;
pub mod telemetry;
pub mod tls;
