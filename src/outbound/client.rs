//! A client of HTTP for what is asked seldom: tokens, a collector. (The publisher has its own.)

use std::path::Path;
use std::time::Duration;

use http::Uri;
use reqwest::{Client, redirect};

use super::proxy::{Proxies, ProxyError};
use super::resolver::Resolver;
use super::tls::{self, TlsError};

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A proxy.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// HTTP.
    #[error("a client of HTTP can't be made: {0}")]
    Http(#[from] reqwest::Error),
}

/// A client for the host of `to` alone. Honours `HTTPS_PROXY` and `NO_PROXY`; follows no redirect, since the secret it
/// carries is for that host; a request ends after `timeout`.
pub fn client(to: &Uri, ca_file: Option<&Path>, timeout: Duration) -> Result<Client, ClientError> {
    let plain = to.scheme_str() == Some("http");
    let tls = if plain { tls::trusting_nobody()? } else { tls::client_config(ca_file, None)? };
    let client = Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(redirect::Policy::none())
        .user_agent(concat!("appsync-bridge/", env!("CARGO_PKG_VERSION")))
        .timeout(timeout)
        .no_proxy();
    // One or the other: a proxy looks up the host's name itself.
    let client = match Proxies::of_process()?.toward(to) {
        Some(proxy) => client.proxy(reqwest::Proxy::all(proxy.url())?),
        None => client.dns_resolver(Resolver::default()),
    };
    Ok(client.build()?)
}
