//! What only core NATS does, and every way into a server.

mod check;
mod core;
mod reload;
mod security;
mod server;
mod trouble;
