//! Whether a bridge could be built: the steps of [`Bridge::build`](super::Bridge::build) without their
//! effects. No file or directory is created or opened for writing, no port is taken, no broker connected.

use std::io;
use std::net::SocketAddr;

use tokio::net::TcpSocket;
use tokio::sync::mpsc;

use super::export::Export;
use super::{BuildError, dead_letters, publisher};
use crate::admin::Security;
use crate::config::Config;
use crate::health::Health;
use crate::metrics::Metrics;
use crate::source::Begin;

/// All reasons why a bridge of `config` could not be built, in the order of building. Transient ones are left
/// out: a port in use, a file that another process writes to.
pub async fn examine(config: &Config) -> Vec<BuildError> {
    let (metrics, health) = (Metrics::new(), Health::default());
    let mut found = Vec::new();
    let listen = config.admin.listen;
    if let Err(why) = bindable(listen) {
        found.push(BuildError::Admin { listen: listen.to_string(), why });
    }
    found.extend(Security::read(&config.admin).err().map(BuildError::AdminTls));
    found.extend(dead_letters::examine(config).await);
    let (refused, _) = mpsc::unbounded_channel();
    for (name, api) in &config.apis {
        found.extend(publisher(name, api, &metrics, &health, &refused).await.err());
    }
    found.extend(Export::build(config, &metrics).err());
    for source in &config.sources {
        let part = health.register(format!("source {}", source.name), "not run");
        // Made, and dropped before it runs.
        found.extend(super::source(source, &metrics, part, Begin::Start).await.err());
    }
    found
}

/// Binds without listening, so that a process that listens there, or is about to, is not disturbed.
fn bindable(listen: SocketAddr) -> io::Result<()> {
    let socket = if listen.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    match socket.bind(listen) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(()),
        bound => bound,
    }
}
