//! Over what MQTT goes to the broker: TCP or TLS, and on either a WebSocket.
//!
//! The client library makes the layers; below them all there is a socket of [ours](Lingering). A WebSocket names the
//! subprotocol `mqtt`, which the broker has to name in its answer. A frame
//! of more than 16 MiB ends its connection: the client library takes no larger one.

mod answer;
mod lingering;

use std::sync::Arc;

use rustls::ClientConfig;

use crate::config::Tls;
use crate::config::mqtt::MqttConfig;
use crate::outbound::tls::{self, TlsError};
pub(super) use answer::{About, read};
pub(super) use lingering::Lingering;

/// How all connections of a source are made.
#[derive(Debug)]
pub(super) struct Transport {
    /// What they are encrypted with, if they are.
    pub(super) tls: Option<Arc<ClientConfig>>,
    /// Of the WebSocket, if there is one, as its client wants it: `ws` with TLS, too.
    pub(super) url: Option<String>,
}

impl Transport {
    /// The transport for `config`; reads its certificates, and connects to nothing.
    pub(super) fn build(config: &MqttConfig) -> Result<Self, TlsError> {
        let tls = secured(config)?.map(Arc::new);
        let url = config.websocket.as_ref().map(|path| url(config, path));
        Ok(Self { tls, url })
    }
}

fn secured(config: &MqttConfig) -> Result<Option<ClientConfig>, TlsError> {
    let Some(Tls { ca_file, identity }) = &config.tls else { return Ok(None) };
    let identity = identity.as_ref().map(|(c, k)| (c.as_path(), k.as_path()));
    tls::client_config(ca_file.as_deref(), identity).map(Some)
}

/// Its host becomes the header `host`, which has no port that goes without saying.
fn url(config: &MqttConfig, path: &str) -> String {
    let host = &config.host;
    let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    let unsaid = if config.tls.is_some() { 443 } else { 80 };
    if config.port == unsaid {
        format!("ws://{host}{path}")
    } else {
        format!("ws://{host}:{}{path}", config.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::mqtt::MqttVersion;
    use crate::source::mqtt::probe::tests::config;

    #[test]
    fn a_port_that_goes_without_saying_is_not_said() {
        let url_of = |host: &str, port, tls: bool| {
            let mut config = config(MqttVersion::V5, "test");
            (config.host, config.port) = (host.to_owned(), port);
            config.tls = tls.then(Tls::default);
            url(&config, "/mqtt?a=1")
        };
        assert_eq!(url_of("b", 80, false), "ws://b/mqtt?a=1");
        assert_eq!(url_of("b", 443, true), "ws://b/mqtt?a=1");
        assert_eq!(url_of("b", 443, false), "ws://b:443/mqtt?a=1");
        assert_eq!(url_of("::1", 8084, true), "ws://[::1]:8084/mqtt?a=1");
    }
}
