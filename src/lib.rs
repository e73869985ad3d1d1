//! appsync-bridge

pub mod backoff;
pub mod config;
pub mod delivery;
pub mod event_api;
pub mod health;
pub mod message;
pub mod metrics;
pub mod publish;
pub mod route;
pub mod shutdown;
pub mod source;
