//! Listeners that want to know who is there.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rdkafka::ClientConfig;

use super::Kafka;
use crate::support::ports;
use crate::support::server::Authority;
use crate::support::tokens::{AUDIENCE, ISSUER, Issuer};

/// Whom the listeners with passwords know, by PLAIN and by SCRAM.
pub(crate) const USER: &str = "bridge";
pub(crate) const PASSWORD: &str = "let \"me\" in";

/// How clients come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listener {
    /// TLS; nothing is asked of the client.
    Tls,
    /// TLS; the client needs a certificate.
    Mutual,
    /// PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512 over TLS.
    Password,
    /// The same without TLS.
    PasswordInClear,
    /// OAUTHBEARER over TLS, with tokens of [`Security::issuer`]; who shows no other before his is over is
    /// cut off.
    Token,
}

/// What the listeners trust, and what clients need.
pub(crate) struct Security {
    ports: [u16; 5],
    pub(crate) issuer: Arc<Issuer>,
    /// Of the listeners, and of the clients' certificates.
    pub(crate) ca: PathBuf,
    /// Of a client.
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

const NAMES: [(Listener, &str, &str); 5] = [
    (Listener::Tls, "TLS", "SSL"),
    (Listener::Mutual, "MUTUAL", "SSL"),
    (Listener::Password, "PASSWORD", "SASL_SSL"),
    (Listener::PasswordInClear, "CLEAR", "SASL_PLAINTEXT"),
    (Listener::Token, "TOKEN", "SASL_SSL"),
];

impl Security {
    /// Makes keys and certificates in a broker's directory.
    pub(super) fn new(directory: &Path) -> Self {
        let write = |name: &str, text: &str| {
            let path = directory.join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let authority = Authority::new();
        let (certificate, key) = authority.issue(&["localhost", "127.0.0.1"]);
        write("server.pem", &format!("{key}{certificate}"));
        let (certificate, key) = authority.issue(&[USER]);
        let issuer = Issuer::new();
        write("keys.json", &issuer.keys().to_string());
        Self {
            ports: ports(),
            issuer: Arc::new(issuer),
            ca: write("ca.pem", &authority.pem),
            certificate: write("client.pem", &certificate),
            key: write("client.key", &key),
        }
    }

    /// For `listeners`.
    pub(super) fn addresses(&self) -> String {
        let address = |(&port, (_, name, _))| format!(",{name}://127.0.0.1:{port}");
        self.ports.iter().zip(NAMES).map(address).collect()
    }

    /// For `listener.security.protocol.map`.
    pub(super) fn protocols() -> String {
        NAMES.map(|(_, name, protocol)| format!(",{name}:{protocol}")).concat()
    }

    /// Lines of `server.properties`.
    pub(super) fn properties(directory: &Path) -> String {
        let path = directory.display();
        let modules = "org.apache.kafka.common.security";
        let quoted = PASSWORD.replace('"', "\\\\\"");
        let passwords = |name| {
            format!(
                "listener.name.{name}.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512\n\
                 listener.name.{name}.plain.sasl.jaas.config=\
                 {modules}.plain.PlainLoginModule required user_{USER}=\"{quoted}\";\n\
                 listener.name.{name}.scram-sha-256.sasl.jaas.config=\
                 {modules}.scram.ScramLoginModule required;\n\
                 listener.name.{name}.scram-sha-512.sasl.jaas.config=\
                 {modules}.scram.ScramLoginModule required;\n"
            )
        };
        format!(
            "ssl.keystore.type=PEM\nssl.keystore.location={path}/server.pem\n\
             ssl.truststore.type=PEM\nssl.truststore.location={path}/ca.pem\n\
             listener.name.mutual.ssl.client.auth=required\n\
             {}{}\
             listener.name.token.sasl.enabled.mechanisms=OAUTHBEARER\n\
             listener.name.token.oauthbearer.sasl.jaas.config=\
             {modules}.oauthbearer.OAuthBearerLoginModule required;\n\
             listener.name.token.oauthbearer.sasl.server.callback.handler.class=\
             {modules}.oauthbearer.OAuthBearerValidatorCallbackHandler\n\
             listener.name.token.oauthbearer.connections.max.reauth.ms=3600000\n\
             listener.name.token.sasl.oauthbearer.jwks.endpoint.url=file://{path}/keys.json\n\
             listener.name.token.sasl.oauthbearer.expected.audience={AUDIENCE}\n\
             listener.name.token.sasl.oauthbearer.expected.issuer={ISSUER}\n",
            passwords("password"),
            passwords("clear"),
        )
    }

    /// The users that `StorageTool` writes into the data.
    pub(super) fn users() -> [String; 4] {
        let user = |mechanism| format!("{mechanism}=[name={USER},password={PASSWORD}]");
        let flag = || "--add-scram".to_owned();
        [flag(), user("SCRAM-SHA-256"), flag(), user("SCRAM-SHA-512")]
    }
}

impl Kafka {
    /// What a client of the listeners needs.
    pub(crate) fn security(&self) -> &Security {
        self.security.as_ref().expect("a broker of `Kafka::secured` or `Kafka::shared`")
    }

    /// For `bootstrap.servers`.
    pub(crate) fn address_of(&self, listener: Listener) -> String {
        let index = NAMES.iter().position(|(known, _, _)| *known == listener).unwrap();
        format!("127.0.0.1:{}", self.security().ports[index])
    }

    /// A client of a listener, with all it needs but a mechanism and its words: those are for the test.
    pub(crate) fn client_of(&self, listener: Listener) -> ClientConfig {
        let security = self.security();
        let (_, _, protocol) = NAMES.into_iter().find(|(known, _, _)| *known == listener).unwrap();
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.address_of(listener));
        config.set("security.protocol", protocol);
        if protocol.ends_with("SSL") {
            config.set("ssl.ca.location", security.ca.to_str().unwrap());
        }
        if listener == Listener::Mutual {
            config.set("ssl.certificate.location", security.certificate.to_str().unwrap());
            config.set("ssl.key.location", security.key.to_str().unwrap());
        }
        config
    }
}
