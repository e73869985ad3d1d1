//! Over what MQTT goes to the broker: TCP or TLS, and on either a WebSocket.
//!
//! The client library makes the layers; below them all there is a socket of [ours](Lingering). A WebSocket names the
//! subprotocol `mqtt`, which the broker has to name in its answer; that of AWS IoT Core is [signed](signature). A frame
//! of more than 16 MiB ends its connection: the client library takes no larger one.

mod answer;
mod coalescing;
mod lingering;
mod signature;

use std::sync::Arc;

use rustls::ClientConfig;

use crate::aws::AwsError;
use crate::config::Tls;
use crate::config::mqtt::MqttConfig;
use crate::metrics::{SourceMetrics, ends_at};
use crate::outbound::tls::{self, TlsError};
pub(super) use answer::{About, read};
pub(super) use lingering::Lingering;
pub(super) use signature::Signer;

/// How all connections of a source are made.
#[derive(Debug)]
pub(super) struct Transport {
    /// What they are encrypted with, if they are.
    pub(super) tls: Option<Arc<ClientConfig>>,
    /// Of the WebSocket, if there is one, as its client wants it: `ws` with TLS, too.
    pub(super) url: Option<String>,
    /// Who signs the handshake of the WebSocket.
    pub(super) signer: Option<Arc<Signer>>,
}

/// Why there is no transport.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// A certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// AWS credentials, or their region.
    #[error(transparent)]
    Aws(#[from] AwsError),
}

impl Transport {
    /// The transport for `config`; reads its certificates, and connects to no broker.
    pub(super) async fn build(config: &MqttConfig) -> Result<Self, TransportError> {
        let tls = secured(config)?.map(Arc::new);
        let url = config.websocket.as_ref().map(|path| url(config, path));
        let signer = match &config.aws {
            Some(aws) => Some(Arc::new(Signer::open(aws).await?)),
            None => None,
        };
        Ok(Self { tls, url, signer })
    }

    /// Has the end of the credentials in use told to `metrics`.
    pub(super) fn tell_end(&self, metrics: &SourceMetrics) {
        if let Some(signer) = &self.signer {
            signer.tell_end(ends_at(&metrics.credentials_expiry));
        }
    }

    /// Gets what the next connection is to prove itself by.
    pub(super) async fn prepare(&self) -> Result<(), AwsError> {
        match &self.signer {
            Some(signer) => signer.prepare().await,
            None => Ok(()),
        }
    }

    /// What the last connection was to prove itself by was refused.
    pub(super) async fn refused(&self) {
        if let Some(signer) = &self.signer {
            signer.refused().await;
        }
    }
}

fn secured(config: &MqttConfig) -> Result<Option<ClientConfig>, TlsError> {
    let Some(Tls { ca_file, identity }) = &config.tls else { return Ok(None) };
    let identity = identity.as_ref().map(|(c, k)| (c.as_path(), k.as_path()));
    let mut made = tls::client_config(ca_file.as_deref(), identity)?;
    made.alpn_protocols.extend(config.alpn.map(|protocol| protocol.as_bytes().to_vec()));
    Ok(Some(made))
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

    #[tokio::test]
    async fn alpn_says_what_the_configuration_asks_for_and_else_nothing() {
        let mut config = config(MqttVersion::V5, "test");
        config.tls = Some(Tls::default());
        for (alpn, expected) in
            [(None, vec![]), (Some("x-amzn-mqtt-ca"), vec![b"x-amzn-mqtt-ca".to_vec()])]
        {
            config.alpn = alpn;
            let tls = Transport::build(&config).await.unwrap().tls.unwrap();
            assert_eq!(tls.alpn_protocols, expected);
        }
    }

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
