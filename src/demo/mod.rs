//! Everything in one process, with nothing to install: an MQTT broker, a fleet that publishes to it,
//! the emulator, the bridge with an ordinary configuration, and a page where the events arrive.
//!
//! Loopback only, free ports only. The bridge is the same that `run` runs: it reads a configuration
//! text, which a user can copy, and knows nothing of being in a demo.

mod fleet;
mod page;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use mqtt5::broker::config::{BrokerConfig, StorageBackend, StorageConfig};
use mqtt5::broker::{BrokerShutdownHandle, MqttBroker};
use serde_json::json;

use crate::bridge::{Bridge, RunError};
use crate::config::{self, Environment};
use crate::emulator::{Emulator, Namespace, Settings};
use crate::files::descriptors;
use crate::listener::Listener;
use crate::shutdown::Shutdown;
use fleet::Fleet;

/// Only this process accepts it, and only on loopback.
const API_KEY: &str = "da2-demo-local-only";

/// The limit of the page, and of the broker.
const MAX_CONNECTIONS: usize = 256;

/// Each of the two may take one part in this many of the file descriptors.
const DESCRIPTOR_SHARE: u64 = 8;

/// The subscription of the page, and of the example for a client.
const CHANNEL: &str = "/demo/*";

/// A demo that has its ports and is not running yet.
pub struct Demo {
    broker: MqttBroker,
    stop_broker: BrokerShutdownHandle,
    emulator: Emulator,
    bridge: Bridge,
    fleet: Fleet,
    page: Listener,
    directory: Directory,
    /// The bridge's own, as it drains first.
    bridge_shutdown: Shutdown,
    /// Its addresses and files.
    pub facts: Facts,
}

/// The addresses and files of a demo, for people and for the page.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The address of the page.
    pub page: String,
    /// The endpoint of the emulator.
    pub endpoint: String,
    /// Its WebSocket endpoint.
    pub realtime: String,
    /// The MQTT broker, a `host:port`.
    pub broker: SocketAddr,
    /// The bridge's admin port.
    pub admin: SocketAddr,
    /// The bridge's configuration.
    pub config: String,
    /// The file of dead letters; removed when the demo ends.
    pub rejects: PathBuf,
}

impl Demo {
    /// Takes the ports and builds every part. `page_port` 0 takes a free one.
    pub async fn build(page_port: u16) -> anyhow::Result<Self> {
        let directory = Directory::make()?;
        let broker = broker().await?;
        let broker_addr =
            broker.local_addr().ok_or_else(|| anyhow!("the MQTT broker has no port"))?;
        let mut settings = Settings::new(loopback(0));
        settings.namespaces = vec![Namespace::open("demo")];
        settings.api_keys = vec![API_KEY.to_owned()];
        let emulator = Emulator::bind(settings).context("the emulator can't start")?;
        let (endpoint, realtime) = (emulator.endpoint(), emulator.realtime());
        let rejects = directory.0.join("rejects.jsonl");
        let config = configuration(&endpoint, broker_addr, &rejects);
        let loaded = config::parse(&config, Path::new("demo.toml"), &Environment::of_process())
            .map_err(|problems| anyhow!("the demo's own configuration is wrong:\n{problems}"))?;
        let bridge_shutdown = Shutdown::new();
        let bridge = Bridge::build(&loaded.config, bridge_shutdown.clone()).await?;
        let most = descriptors::share(DESCRIPTOR_SHARE, MAX_CONNECTIONS);
        let page =
            Listener::bind(loopback(page_port), "the page's port", most).with_context(|| {
                format!("port {page_port} can't be taken for the page; try another `--port`")
            })?;
        let facts = Facts {
            page: format!("http://{}/", page.local_addr()?),
            endpoint,
            realtime,
            broker: broker_addr,
            admin: bridge.admin_addr()?,
            config,
            rejects,
        };
        let stop_broker = broker.shutdown_handle();
        let fleet = Fleet::new(broker_addr.port());
        Ok(Self {
            broker,
            stop_broker,
            emulator,
            bridge,
            fleet,
            page,
            directory,
            bridge_shutdown,
            facts,
        })
    }

    /// Runs until the drain: first the fleet stops, then the bridge drains, then the rest stops.
    pub async fn run(self, shutdown: Shutdown) -> anyhow::Result<()> {
        let Self {
            mut broker,
            stop_broker,
            emulator,
            bridge,
            fleet,
            page,
            directory,
            bridge_shutdown,
            facts,
        } = self;
        let router = page::router(facts.document(), fleet.published());
        let background = Shutdown::new();
        let page = tokio::spawn(page.serve(router));
        let broker = tokio::spawn(async move { broker.run().await });
        let emulator = tokio::spawn(emulator.run(background.clone()));
        let health = bridge.health();
        let mut bridge = tokio::spawn(bridge.run());
        // The bridge subscribes before it is ready; earlier messages would be lost.
        let fleet = tokio::spawn(async move {
            health.all_ready().await;
            fleet.run().await;
        });
        let ended: Result<Result<(), RunError>, _> = tokio::select! {
            ended = &mut bridge => ended,
            () = shutdown.drain() => {
                fleet.abort();
                bridge_shutdown.start_drain();
                tokio::select! {
                    ended = &mut bridge => ended,
                    () = shutdown.abort() => {
                        bridge_shutdown.start_abort();
                        bridge.await
                    }
                }
            }
        };
        background.start_abort();
        stop_broker.shutdown();
        page.abort();
        emulator.await??;
        broker.abort();
        drop(directory);
        Ok(ended??)
    }
}

impl Facts {
    /// A command that makes an event appear.
    pub fn publish_hint(&self) -> String {
        let (ip, port) = (self.broker.ip(), self.broker.port());
        format!("mosquitto_pub -h {ip} -p {port} -t demo/hello -m '{{\"text\":\"hello\"}}'")
    }

    /// The code that subscribes with the Amplify client, which uses TLS unless the scheme is in upper
    /// case.
    pub fn subscribe_hint(&self) -> String {
        let endpoint = self.endpoint.replacen("http://", "HTTP://", 1);
        format!(
            "import {{ Amplify }} from 'aws-amplify';
import {{ events }} from 'aws-amplify/data';

Amplify.configure({{ API: {{ Events: {{
  endpoint: '{endpoint}',
  region: 'us-east-1',
  defaultAuthMode: 'apiKey',
  apiKey: '{API_KEY}',
}} }} }});
const channel = await events.connect('{CHANNEL}');
channel.subscribe({{
  next: (data) => console.log(data.event),
  error: console.error,
}});"
        )
    }

    /// The document for the page's script.
    fn document(&self) -> serde_json::Value {
        json!({
            "endpoint": self.endpoint,
            "realtime": self.realtime,
            "api_key": API_KEY,
            "channel": CHANNEL,
            "broker": self.broker.to_string(),
            "status": format!("http://{}/", self.admin),
            "publish_hint": self.publish_hint(),
            "subscribe_hint": self.subscribe_hint(),
            "config": self.config,
        })
    }
}

/// The broker, with its state in memory, bound and not yet running.
async fn broker() -> anyhow::Result<MqttBroker> {
    let config = BrokerConfig::new()
        .with_bind_address(loopback(0))
        .with_max_clients(descriptors::share(DESCRIPTOR_SHARE, MAX_CONNECTIONS))
        .with_storage(StorageConfig::new().with_backend(StorageBackend::Memory))
        .with_auth(mqtt5::broker::config::AuthConfig::new().with_allow_anonymous(true))
        .with_sys_topics_enabled(false);
    MqttBroker::with_config(config).await.context("the MQTT broker can't start")
}

fn configuration(endpoint: &str, broker: SocketAddr, rejects: &Path) -> String {
    format!(
        r#"[api.main]
endpoint = "{endpoint}"
auth     = {{ type = "api-key", key = "{API_KEY}" }}

[source.city]
type          = "mqtt"
url           = "mqtt://{broker}"
client_id     = "appsync-bridge-demo"
subscriptions = ["fleet/+/position", "demo/#"]

[route.fleet]                        # fleet/van-07/position -> /demo/fleet/van-07
from    = "city"
topic   = "fleet/{{van}}/position"
channel = "/demo/fleet/{{van}}"

[route.messages]                     # demo/hello -> /demo/hello
from    = "city"
topic   = "demo/{{path..}}"
channel = "/demo/{{path..}}"

[dead_letter.rejects]                # what can't be published
type = "file"
path = "{}"

[admin]                              # status page, /metrics, /readyz; port 0 takes a free one
listen = "127.0.0.1:0"
"#,
        rejects.display()
    )
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// A temporary directory, removed with its content.
struct Directory(PathBuf);

impl Directory {
    fn make() -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!(
            "appsync-bridge-demo-{}-{:08x}",
            std::process::id(),
            rand::random::<u32>()
        ));
        let made = fs::DirBuilder::new().mode(0o700).create(&path);
        made.with_context(|| format!("`{}` can't be made", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // On failure it stays in the system's temporary directory.
        let _ = fs::remove_dir_all(&self.0);
    }
}
