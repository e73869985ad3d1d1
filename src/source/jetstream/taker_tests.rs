//! A taker without a server.

use std::future::poll_fn;
use std::path::Path;
use std::task::Poll;

use tokio::sync::mpsc;

use super::*;
use crate::config::broker::SourceKind;
use crate::config::{self, Environment};
use crate::health::Health;
use crate::metrics::Metrics;

const CONFIG: &str = r#"
[api.main]
endpoint = "http://127.0.0.1:9/event"
auth = { type = "api-key", key = "da2-one" }
[source.s]
type = "jetstream"
servers = ["nats://127.0.0.1:9"]
stream = "S"
durable = "d"
[route.r]
from = "s"
channel = "/x/y"
dead_letter = "discard"
"#;

#[tokio::test(start_paused = true)]
async fn a_source_that_has_never_done_everything_is_alive() {
    let home = tempfile::tempdir().unwrap();
    let environment = Environment::of([("HOME", home.path().to_str().unwrap())]);
    let loaded = config::parse(CONFIG, Path::new("b.toml"), &environment);
    let config = loaded.unwrap_or_else(|why| panic!("{why}")).config.sources.remove(0);
    let SourceKind::JetStream(kind) = config.kind else { panic!("another kind") };
    let (metrics, health) = (Metrics::new(), Health::default());
    let numbers = (metrics.source("s"), metrics.jetstream("s"));
    let part = health.register("s", "not connected yet");
    let made = JetStreamSource::build("s".into(), kind, config.limits, numbers, part).unwrap();
    let client = made.dialer.open(|options| options, |_| ()).await.unwrap();
    let (told, changes) = mpsc::unbounded_channel();
    let taker = Taker::new(made, client, Intake::new(drop), Shutdown::new());
    let mut run = Box::pin(taker.run(changes));
    let mut turn = async || {
        let one = poll_fn(|context| Poll::Ready(run.as_mut().poll(context).is_pending()));
        assert!(one.await, "it has ended");
    };
    turn().await;
    for _ in 0..90 {
        tokio::time::advance(Duration::from_secs(1)).await;
        // More than it does in a turn: whatever it waits for behind this is never its turn.
        for _ in 0..1_000 {
            told.send(Change::LameDuck).unwrap();
        }
        turn().await;
        assert!(!told.is_closed() && health.stuck().is_empty());
    }
    drop(told);
    tokio::time::advance(Duration::from_mins(2)).await;
    assert_eq!(health.stuck(), ["s"], "nobody looked after it");
}
