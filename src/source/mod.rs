//! Sources: connectors that take messages from a broker and acknowledge them when their duty ended.
//!
//! A source submits deliveries to its [`Intake`](crate::delivery::Intake) and never waits for what
//! becomes of them there. Its [`Room`] is its only throttle, filled by a record of what it has taken:
//! [`InFlight`] where the broker's acknowledgements have an order, [`Leases`] where they have none.

mod in_flight;
#[cfg(feature = "kafka")]
pub mod kafka;
mod leases;
#[cfg(feature = "mqtt")]
pub mod mqtt;
mod reconnect;
mod room;

pub use in_flight::InFlight;
pub use leases::{Lease, Leases};
pub use room::{Reservation, Room};
