//! The way out, the same for all that speak HTTP: which proxy leads to a host, and which addresses
//! nothing is sent to, though a name leads there.

mod no_proxy;
mod proxy;
mod resolver;

pub use proxy::{Proxies, Proxy, ProxyError};
pub use resolver::Resolver;
