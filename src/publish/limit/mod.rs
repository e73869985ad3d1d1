//! How much may be asked of an API at once, and how fast. Pure: policies that are told what happened.
//!
//! Four questions, four policies. [`Concurrency`]: how many requests may be out. [`RateGate`]: how many
//! events a second the API lets in, found out from its 429s. [`Breaker`]: whether the API is there at
//! all. [`Pauses`]: which of its namespaces refuse us, if not all of it.

mod breaker;
mod concurrency;
mod pauses;
mod rate;

pub use breaker::Breaker;
pub use concurrency::Concurrency;
pub use pauses::{Pauses, Scope};
pub use rate::RateGate;
