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

/// All reasons why a bridge of `config` could not be built, in the order of building: the exit code is that of the
/// first. Transient ones are left out: a port in use, a file that another process writes to.
pub async fn examine(config: &Config) -> Vec<BuildError> {
    let (metrics, health) = (Metrics::new(), Health::default());
    let mut found = Vec::new();
    found.extend(Security::read(&config.admin).err().map(BuildError::AdminTls));
    let listen = config.admin.listen;
    if let Err(why) = bindable(listen) {
        found.push(BuildError::Admin { listen: listen.to_string(), why });
    }
    found.extend(Export::build(config, &metrics).err());
    found.extend(dead_letters::examine(config).await);
    let (refused, _) = mpsc::unbounded_channel();
    for (name, api) in &config.apis {
        found.extend(publisher(name, api, &metrics, &health, &refused).await.err());
    }
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::bridge::Bridge;
    use crate::config::{Environment, parse};
    use crate::shutdown::Shutdown;

    const FILE: &str = r#"
        [api.main]
        endpoint = "http://127.0.0.1:9/event"
        auth = { type = "api-key", key = { env = "KEY" } }
        [source.plant]
        type = "mqtt"
        url = "mqtt://localhost"
        client_id = "b"
        subscriptions = "plant/#"
        [route.all]
        from = "plant"
        channel = "/plant/all"
        [dead_letter.rejects]
        type = "file"
        path = "/proc/nowhere/rejects.jsonl"
        [admin]
        listen = "127.0.0.1:0"
    "#;

    /// Whatever else is wrong, both end with one exit code.
    #[tokio::test]
    async fn the_first_reason_is_that_of_a_start() {
        let environment = Environment::of([("KEY", "da2-key")]);
        let mut config = parse(FILE, Path::new("t.toml"), &environment).unwrap().config;
        let nowhere = || Path::new("/nowhere/file.pem").to_owned();
        for number in 0..3 {
            match number {
                // Of documentation: no machine has it.
                1 => config.admin.listen = ([192, 0, 2, 1], 9).into(),
                2 => config.admin.tls = Some((nowhere(), nowhere())),
                _ => {}
            }
            let found = examine(&config).await;
            let start = Bridge::build(&config, Shutdown::new()).await.err().unwrap();
            assert_eq!(found[0].to_string(), start.to_string());
            assert_eq!(found.len(), number + 1, "{found:?}");
        }
    }
}
