//! Many connections to one port that say nothing, or very slowly.

use std::time::Duration;

use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::{PATIENCE, until};

/// Many connections to one port; gone when dropped.
pub(crate) struct Crowd {
    _connections: JoinSet<()>,
}

impl Crowd {
    /// Half of them say nothing, the others a byte now and then; who is cut off comes again after a
    /// while. Waits until every one has been there.
    pub(crate) async fn gather(address: &str, count: usize, pause: Duration) -> Self {
        let mut limit = getrlimit(Resource::Nofile);
        limit.current = limit.maximum;
        setrlimit(Resource::Nofile, limit).unwrap();
        let mut connections = JoinSet::new();
        let (there, mut came) = tokio::sync::mpsc::channel(count);
        for number in 0..count {
            let (address, there) = (address.to_owned(), there.clone());
            connections.spawn(async move {
                loop {
                    if let Ok(Ok(stream)) = timeout(PATIENCE, TcpStream::connect(&address)).await {
                        let _ = there.try_send(());
                        stay(stream, number % 2 == 0).await;
                    }
                    sleep(pause).await;
                }
            });
        }
        for _ in 0..count {
            timeout(PATIENCE, came.recv()).await.expect("they can't come");
        }
        Self { _connections: connections }
    }
}

async fn stay(stream: TcpStream, silent: bool) {
    let (mut from, mut to) = stream.into_split();
    let speak = async {
        let mut text =
            b"GET /metrics HTTP/1.1\r\nhost: 127.0.0.1\r\nx: ".iter().chain([b'x'].iter().cycle());
        while let Some(byte) = text.next().filter(|_| !silent) {
            if to.write_all(&[*byte]).await.is_err() {
                return;
            }
            sleep(Duration::from_millis(500)).await;
        }
        std::future::pending::<()>().await;
    };
    let mut nothing = [0; 64];
    tokio::select! {
        () = speak => {}
        _ = from.read(&mut nothing) => {}
    }
}

/// The page there, with its head. Who is slower than a crowd that comes again and again asks once more.
pub(crate) async fn page(address: &str, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n");
    until(path, PATIENCE, async || {
        let mut stream = TcpStream::connect(address).await.ok()?;
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.ok()?;
        text.starts_with("HTTP/1.1 200").then_some(text)
    })
    .await
}
