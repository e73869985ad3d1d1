//! appsync-bridge

pub mod backoff;
pub mod delivery;
pub mod event_api;
pub mod health;
pub mod message;
pub mod shutdown;
