//! Outbound connections, the same for all clients: trusted CAs, proxies, and addresses that nothing is sent
//! to.

mod client;
mod no_proxy;
mod proxy;
mod resolver;
pub mod tls;

pub use client::{ClientError, client};
pub use proxy::{Proxies, Proxy, ProxyError};
pub use resolver::Resolver;
