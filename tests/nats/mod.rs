//! What only NATS does.

mod server;
