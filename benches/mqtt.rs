//! What the MQTT source costs with its whole duty (taking, tracking, settling, acknowledging), from PUBLISH to PUBACK,
//! beside a bare loop over the same client that takes a message and acknowledges it, and beside `mosquitto_sub`, in
//! turn. See `benches/README.md`; `cargo bench --bench mqtt` prints the table. `ROUNDS=3` makes that many rounds,
//! `COUNT=100000` sends that many messages. Needs what `tests/run` installs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr)]
#![allow(missing_docs, unreachable_pub, clippy::cast_precision_loss)]
#![allow(dead_code, unused_imports)] // the other benchmarks use more of their support

#[path = "support/process.rs"]
mod process;

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use appsync_bridge::config::{self, Environment};
use appsync_bridge::delivery::{Delivery, Done, Intake, Outcome};
use appsync_bridge::health::Health;
use appsync_bridge::metrics::Metrics;
use appsync_bridge::shutdown::Shutdown;
use appsync_bridge::source;
use mimalloc::MiMalloc;
use process::{Running, cpu};
use rumqttc_v5::{
    AckMode, AsyncClient, BrokerSessionResumePolicy, Event, ManualAck, MqttOptions, Outgoing,
    Packet, PubAck,
};
use tokio::net::TcpStream;

/// That of the program.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

const PORT: u16 = 14_883;
const PAYLOAD: usize = 256;
/// How many may be in flight, of every kind of subscriber.
const WINDOW: u16 = 1_000;

fn main() {
    let rounds = std::env::var("ROUNDS").map_or(3, |n| n.parse().unwrap());
    let count = std::env::var("COUNT").map_or(60_000, |n| n.parse().unwrap());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let directory = tempfile::tempdir().unwrap();
        let _broker = start(directory.path()).await;
        println!("{count} messages of {PAYLOAD} bytes that wait in a session, MQTT 5");
        println!(
            "| QoS | bare loop, messages/s | µs CPU | source, messages/s | µs CPU | `mosquitto_sub`, messages/s \
             | CPU of the loop's | rate of the loop's | rate of `mosquitto_sub`'s |"
        );
        println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- |");
        for _ in 0..rounds {
            for qos in [0, 1] {
                let bare = bare(qos, count).await;
                let ours = ours(qos, count).await;
                let theirs = mosquitto_sub(qos, count).await;
                println!(
                    "| {qos} | {:.0} | {:.2} | {:.0} | {:.2} | {theirs:.0} | {:.2} | {:.2} | {:.2} |",
                    bare.rate,
                    bare.cost,
                    ours.rate,
                    ours.cost,
                    ours.cost / bare.cost,
                    ours.rate / bare.rate,
                    ours.rate / theirs
                );
            }
        }
    });
}

struct Figures {
    /// Messages a second.
    rate: f64,
    /// µs CPU of this process a message.
    cost: f64,
}

/// A broker whose windows are wide: what a queue without room drops would never come.
async fn start(directory: &Path) -> Running {
    let text = format!(
        "listener {PORT} 127.0.0.1\nallow_anonymous true\npersistence false\nmax_queued_messages 0\n\
         max_queued_bytes 0\nqueue_qos0_messages true\nmax_inflight_messages {WINDOW}\nset_tcp_nodelay true\nlog_dest none\n"
    );
    let file = directory.join("mosquitto.conf");
    std::fs::write(&file, text).unwrap();
    let child = Command::new("mosquitto")
        .arg("-c")
        .arg(file)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("`mosquitto` cannot be run: `tests/run` installs it");
    while TcpStream::connect(("127.0.0.1", PORT)).await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Running(child)
}

/// `mosquitto_pub` 2.0.11 leaves early, and without a word, when it is given hundreds of thousands of lines.
const AT_ONCE: u64 = 20_000;

/// `count` messages wait for the client `name`, so that no publisher has a part in what is measured. Those of
/// QoS 0 are sent with QoS 1 and wait because the broker is told to keep them.
fn fill(name: &str, qos: u8, count: u64) {
    let subscribed = Command::new("mosquitto_sub")
        .args(["-p", &PORT.to_string(), "-V", "mqttv5", "-i", name, "-c", "-x", "3600", "-E"])
        .args(["-q", &qos.to_string(), "-t", &format!("{name}/#")])
        .status()
        .expect("`mosquitto_sub` cannot be run: `tests/run` installs it");
    assert!(subscribed.success());
    let line = "x".repeat(PAYLOAD);
    let mut left = count;
    while left > 0 {
        let part = left.min(AT_ONCE);
        let script =
            format!("yes {line} | head -n {part} | mosquitto_pub -p {PORT} -q 1 -l -t {name}/data");
        assert!(Command::new("sh").arg("-c").arg(script).status().unwrap().success());
        left -= part;
    }
}

fn fresh() -> String {
    format!("load-{:08x}", rand::random::<u32>())
}

/// A subscriber that does no more than it must.
async fn bare(qos: u8, count: u64) -> Figures {
    let name = fresh();
    fill(&name, qos, count);
    let mut options = MqttOptions::new(name, ("127.0.0.1", PORT));
    options
        .set_clean_start(false)
        .set_broker_session_resume_policy(BrokerSessionResumePolicy::AllowBrokerOnly)
        .set_ack_mode(AckMode::Manual)
        .set_receive_maximum(Some(WINDOW))
        .set_read_batch_size(128)
        .set_unlimited_incoming_packet_size();
    let (client, mut events) = AsyncClient::builder(options).unbounded().build();
    let clock = Clock::start();
    let mut taken = 0;
    while taken < count {
        if let Event::Incoming(Packet::Publish(publish)) = events.poll().await.unwrap() {
            taken += 1;
            if qos > 0 {
                let ack = ManualAck::PubAck(PubAck::new(publish.pkid, None));
                client.try_manual_ack(ack).unwrap();
            }
        }
    }
    // The last acknowledgements are written with the next read.
    client.try_disconnect().unwrap();
    while !matches!(events.poll().await, Ok(Event::Outgoing(Outgoing::Disconnect)) | Err(_)) {}
    clock.figures(count)
}

/// The same of the source; what stands for the pipeline and the publisher settles at once.
async fn ours(qos: u8, count: u64) -> Figures {
    let name = fresh();
    fill(&name, qos, count);
    let text = format!(
        "[api.main]\nendpoint = \"http://127.0.0.1:1/event\"\nauth = {{ type = \"api-key\", key = \"k\" }}\n\
         [source.it]\ntype = \"mqtt\"\nurl = \"mqtt://127.0.0.1:{PORT}\"\nclient_id = \"{name}\"\n\
         subscriptions = \"{name}/#\"\nqos = {qos}\nmax_in_flight = {WINDOW}\n\
         [route.it]\nfrom = \"it\"\nchannel = \"/it/x\"\n"
    );
    let loaded = config::parse(&text, Path::new("bench.toml"), &Environment::of_process());
    let config = loaded.unwrap().config.sources.remove(0);
    let (metrics, shutdown, health) = (Metrics::new(), Shutdown::new(), Health::default());
    let part = health.register("source it", "starting");
    let made = source::build(&config, &metrics, part, source::Begin::Start).await.unwrap();
    let taken = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&taken);
    let intake = Intake::new(move |delivery: Delivery| {
        counter.fetch_add(1, Ordering::Relaxed);
        delivery.settle(Outcome::Accepted(Done::Published));
    });
    let clock = Clock::start();
    let run = tokio::spawn(made.run(intake, shutdown.clone()));
    let acknowledged = metrics.source("it").settled[0].clone();
    while acknowledged.get() < count {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let figures = clock.figures(count);
    shutdown.start_drain();
    run.await.unwrap().unwrap();
    assert_eq!(taken.load(Ordering::Relaxed), count, "some came twice");
    figures
}

/// Messages a second of `mosquitto_sub`.
async fn mosquitto_sub(qos: u8, count: u64) -> f64 {
    let name = fresh();
    fill(&name, qos, count);
    let clock = Clock::start();
    let mut child = Command::new("mosquitto_sub")
        .args(["-p", &PORT.to_string(), "-V", "mqttv5", "-i", &name, "-c", "-x", "3600"])
        .args(["-q", &qos.to_string(), "-t", &format!("{name}/#"), "-C", &count.to_string()])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let ended = tokio::task::spawn_blocking(move || child.wait()).await.unwrap().unwrap();
    assert!(ended.success());
    clock.figures(count).rate
}

struct Clock {
    began: Instant,
    cpu: f64,
}

impl Clock {
    fn start() -> Self {
        Self { began: Instant::now(), cpu: cpu(std::process::id()) }
    }

    fn figures(&self, count: u64) -> Figures {
        let seconds = self.began.elapsed().as_secs_f64();
        let cpu = cpu(std::process::id()) - self.cpu;
        Figures { rate: count as f64 / seconds, cost: cpu * 1e6 / count as f64 }
    }
}
