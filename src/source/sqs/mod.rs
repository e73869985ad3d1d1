//! SQS.

pub mod unwrap;
