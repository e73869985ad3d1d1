//! The way out, the same for all: whom a client trusts over TLS, which proxy leads to a host, and which
//! addresses nothing is sent to, though a name leads there.

mod no_proxy;
mod proxy;
mod resolver;
pub mod tls;

pub use proxy::{Proxies, Proxy, ProxyError};
pub use resolver::Resolver;
