//! SQS.

mod servers;
