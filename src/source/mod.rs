//! Sources: connectors that take messages from a broker and acknowledge them when their duty ended.
//!
//! A source submits deliveries to its [`Intake`](crate::delivery::Intake) and never waits for what
//! becomes of them there. Its [`InFlight`] record is its only throttle.

mod in_flight;
#[cfg(feature = "kafka")]
pub mod kafka;
#[cfg(feature = "mqtt")]
pub mod mqtt;

pub use in_flight::{InFlight, Room};
