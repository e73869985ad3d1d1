//! Everything with one command and nothing to install: an MQTT broker, a fleet that publishes to it, the emulator, the
//! bridge with an ordinary configuration, and a page where the events arrive and on which all of it can be broken.
//!
//! Free ports only, and loopback only unless another address is asked for. The bridge is a process of its own, so
//! that it can be killed; it is the same that `run` is, reads a file that a user can copy, and knows nothing of being
//! in a demo.

mod access;
mod broker;
mod fleet;
mod line;
mod messages;
mod page;
mod process;
mod rejects;
mod settings;
mod trouble;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use mqtt5::broker::BrokerShutdownHandle;
use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use uuid::Uuid;

use crate::emulator::{Emulator, Mode, Namespace, Settings};
use crate::files::descriptors;
use crate::listener::Listener;
use crate::shutdown::Shutdown;
use access::Access;
use broker::Traffic;
use fleet::Fleet;
use line::Line;
use page::Scene;
use process::Process;
use rejects::Rejects;
use settings::Shown;
use trouble::Troubles;

/// Only this process accepts it, and only on loopback: elsewhere each start has a key of its own, which only looks.
const API_KEY: &str = "da2-demo-local-only";

/// The limit of the page, and of the broker.
const MAX_CONNECTIONS: usize = 256;

/// Each of the two may take one part in this many of the file descriptors.
const DESCRIPTOR_SHARE: u64 = 8;

/// The subscription of the page, and of the example for a client.
const CHANNEL: &str = "/demo/*";

/// An open page is waited for so long, to show that the demo is over.
const LAST_LOOK: Duration = Duration::from_secs(1);

/// A demo whose bridge is ready, and whose fleet does not drive yet.
pub struct Demo {
    fleet: Fleet,
    page: Listener,
    scene: Arc<Scene>,
    directory: Directory,
    stop_broker: BrokerShutdownHandle,
    broker: JoinHandle<()>,
    line: JoinHandle<()>,
    emulator: JoinHandle<std::io::Result<()>>,
    bridge: JoinHandle<anyhow::Result<std::process::ExitStatus>>,
    /// The bridge's own, as it drains first.
    bridge_shutdown: Shutdown,
    background: Shutdown,
    /// Its addresses and files.
    pub facts: Facts,
}

/// The addresses and files of a demo, for people and for the page.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The address of the page; off loopback with the token of its buttons.
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
    api_key: String,
}

impl Demo {
    /// Takes the ports, starts every part, and waits for the bridge to be ready. The page listens on `listen`, and
    /// the emulator on another port of the same address; port 0 takes a free one. `ledger` is the emulator's.
    pub async fn start(listen: SocketAddr, ledger: Option<PathBuf>) -> anyhow::Result<Self> {
        let directory = Directory::make()?;
        let most = descriptors::share(DESCRIPTOR_SHARE, MAX_CONNECTIONS);
        let page = Listener::bind(listen, "the page's port", most).with_context(|| {
            format!("`{listen}` can't be taken for the page; try another `--port` or `--listen`")
        })?;
        let traffic = Arc::new(Traffic::default());
        let mut broker = broker::bind(loopback(), most, Arc::clone(&traffic)).await?;
        let broker_addr =
            broker.local_addr().ok_or_else(|| anyhow!("the MQTT broker has no port"))?;
        let line = Line::bind(loopback(), broker_addr).await?;
        let own = listen.ip().is_loopback();
        let api_key = if own { API_KEY.to_owned() } else { format!("da2-{}", secret()) };
        let shown = if own { Shown::Key(api_key.clone()) } else { Shown::Token(secret()) };
        let emulator = emulator(listen.ip(), &api_key, &shown, ledger, Arc::clone(&traffic))?;
        let rejects = directory.0.join("rejects.jsonl");
        let admin = free_port()?;
        let endpoint = emulator.endpoint();
        let config = settings::text(&endpoint, &shown, line.local_addr()?, &rejects, admin);
        let access = Arc::new(Access::new(listen));
        let facts = Facts {
            page: page_url(page.local_addr()?, access.token()),
            endpoint,
            realtime: emulator.realtime(),
            broker: broker_addr,
            admin,
            config,
            rejects: rejects.clone(),
            api_key,
        };
        let process = Process::new(directory.keep("demo.toml", &facts.config)?, admin);
        let watch = process.watch();
        let troubles =
            Troubles::new(emulator.handle(), watch.clone(), line.cutter(), Arc::clone(&traffic));
        let fleet = Fleet::new(broker_addr.port());
        let scene = Arc::new(Scene::new(
            facts.document(&shown),
            access,
            &fleet,
            traffic,
            troubles,
            &emulator,
            watch.clone(),
        ));

        let (background, bridge_shutdown) = (Shutdown::new(), Shutdown::new());
        let stop_broker = broker.shutdown_handle();
        let mut demo = Self {
            fleet,
            page,
            scene,
            directory,
            stop_broker,
            broker: tokio::spawn(async move { drop(broker.run().await) }),
            line: tokio::spawn(async move {
                line.run().await;
            }),
            emulator: tokio::spawn(emulator.run(background.clone())),
            bridge: tokio::spawn(process.run(bridge_shutdown.clone())),
            bridge_shutdown,
            background,
            facts,
        };
        // It subscribes before it is ready; what was published earlier would be lost.
        let ready = tokio::select! {
            ready = watch.ready() => ready,
            ended = &mut demo.bridge => ended?.and_then(|how| bail!("the bridge's process has ended ({how})")),
        };
        if let Err(why) = ready {
            demo.stop();
            return Err(why);
        }
        Ok(demo)
    }

    /// Runs until the drain: first the fleet stops, then the bridge drains, then the rest stops.
    pub async fn run(mut self, shutdown: Shutdown) -> anyhow::Result<()> {
        let page = tokio::spawn(self.page.serve(page::router(Arc::clone(&self.scene))));
        let fleet = tokio::spawn(self.fleet.run());
        let scene = Arc::clone(&self.scene);
        let mut rejects = Rejects::new(self.facts.rejects.clone());
        let looking = tokio::spawn(async move { scene.look(&mut rejects).await });
        let ended = tokio::select! {
            ended = &mut self.bridge => ended?,
            () = shutdown.drain() => {
                fleet.abort();
                self.scene.end();
                self.bridge_shutdown.start_drain();
                let told = timeout(LAST_LOOK, self.scene.told());
                let drained = async { tokio::join!(told, &mut self.bridge).1 };
                tokio::pin!(drained);
                tokio::select! {
                    ended = &mut drained => ended?,
                    () = shutdown.abort() => {
                        self.bridge_shutdown.start_abort();
                        drained.await?
                    }
                }
            }
        };
        fleet.abort();
        looking.abort();
        self.background.start_abort();
        self.stop_broker.shutdown();
        page.abort();
        self.line.abort();
        self.emulator.await??;
        self.broker.abort();
        drop(self.directory);
        let status = ended?;
        if status.success() || shutdown.is_aborting() {
            return Ok(());
        }
        bail!("the bridge's process did not drain cleanly ({status})")
    }

    /// Stops everything at once.
    fn stop(&mut self) {
        self.bridge.abort();
        self.background.start_abort();
        self.stop_broker.shutdown();
        self.line.abort();
        self.broker.abort();
        self.emulator.abort();
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
        let api_key = &self.api_key;
        format!(
            "import {{ Amplify }} from 'aws-amplify';
import {{ events }} from 'aws-amplify/data';

Amplify.configure({{ API: {{ Events: {{
  endpoint: '{endpoint}',
  region: 'us-east-1',
  defaultAuthMode: 'apiKey',
  apiKey: '{api_key}',
}} }} }});
const channel = await events.connect('{CHANNEL}');
channel.subscribe({{
  next: (data) => console.log(data.event),
  error: console.error,
}});"
        )
    }

    /// The document for the page's script.
    fn document(&self, shown: &Shown) -> serde_json::Value {
        json!({
            "endpoint": self.endpoint,
            "realtime": self.realtime,
            "api_key": self.api_key,
            "channel": CHANNEL,
            // Whether the buttons need the token of the address.
            "locked": self.page.contains('#'),
            "broker": self.broker.to_string(),
            "status": format!("http://{}/", self.admin),
            "publish_hint": self.publish_hint(),
            "subscribe_hint": self.subscribe_hint(),
            "config": shown.hidden_in(&self.config),
        })
    }
}

/// The Event API, which tells what people said that it has arrived.
fn emulator(
    ip: IpAddr,
    api_key: &str,
    shown: &Shown,
    ledger: Option<PathBuf>,
    traffic: Arc<Traffic>,
) -> anyhow::Result<Emulator> {
    let mut settings = Settings::new(SocketAddr::new(ip, 0));
    let namespace = match shown {
        Shown::Key(_) => Namespace::open("demo"),
        Shown::Token(token) => {
            settings.tokens = vec![token.clone()];
            Namespace::of("demo", &[Mode::Token], &[Mode::ApiKey])
        }
    };
    settings.namespaces = vec![namespace];
    settings.api_keys = vec![api_key.to_owned()];
    settings.ledger = ledger;
    settings.watch = Some(Box::new(move |published| {
        traffic.messages.arrived(published.channel, published.events);
    }));
    Emulator::bind(settings).context("the emulator can't start")
}

/// The address to open: of the network, if the page listens on all of this machine's.
fn page_url(listen: SocketAddr, token: Option<&str>) -> String {
    let ip = if listen.ip().is_unspecified() { network_ip(listen.ip()) } else { listen.ip() };
    let address = SocketAddr::new(ip, listen.port());
    match token {
        Some(token) => format!("http://{address}/#token={token}"),
        None => format!("http://{address}/"),
    }
}

/// The address by which this machine would reach others, and they reach it. Nothing is sent: a UDP socket that is
/// connected knows its own end.
fn network_ip(unspecified: IpAddr) -> IpAddr {
    let far = if unspecified.is_ipv4() { "192.0.2.1:9" } else { "[2001:db8::1]:9" };
    let socket = UdpSocket::bind(SocketAddr::new(unspecified, 0));
    let own = socket.and_then(|socket| {
        socket.connect(far)?;
        socket.local_addr()
    });
    own.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |own| own.ip())
}

/// A port that is free now; the bridge's process takes it again each time that it starts.
fn free_port() -> anyhow::Result<SocketAddr> {
    let listener = std::net::TcpListener::bind(loopback()).context("no port is free")?;
    Ok(listener.local_addr()?)
}

/// What nobody guesses.
fn secret() -> String {
    Uuid::new_v4().simple().to_string()
}

/// A free port on loopback.
fn loopback() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
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

    fn keep(&self, name: &str, text: &str) -> anyhow::Result<PathBuf> {
        let path = Path::new(&self.0).join(name);
        fs::write(&path, text).with_context(|| format!("`{}` can't be written", path.display()))?;
        Ok(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // On failure it stays in the system's temporary directory.
        let _ = fs::remove_dir_all(&self.0);
    }
}
