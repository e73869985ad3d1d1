//! The publisher alone: an in-memory source, a route, the pipeline and the publisher, in a process of its own.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use appsync_bridge::config::{self, Environment};
use appsync_bridge::delivery::{Delivery, Intake};
use appsync_bridge::health::Health;
use appsync_bridge::message::{Coordinates, Message, SourceName, Topic};
use appsync_bridge::metrics::Metrics;
use appsync_bridge::pipeline::{Pipeline, Rejects, SourcePolicy};
use appsync_bridge::publish::Publisher;
use appsync_bridge::route::RouteTable;
use appsync_bridge::shutdown::Shutdown;
use appsync_bridge::source::{InFlight, Room};
use bytes::Bytes;
use tokio::sync::{Notify, mpsc};

use super::event;
use super::process::cpu;
use super::sink::this_program;

/// How long each round is measured.
pub const SPAN: Duration = Duration::from_secs(2);

/// How long the publisher runs before.
pub const WARM_UP: Duration = Duration::from_secs(1);

/// What signs with `iam`: the token is as long as those of roles are.
pub fn credentials() -> [(&'static str, String); 3] {
    [
        ("AWS_ACCESS_KEY_ID", "AKIDBENCH".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "secret".to_owned()),
        ("AWS_SESSION_TOKEN", "t".repeat(680)),
    ]
}

/// Events/s, requests/s and µs CPU an event of one round in a child: `endpoint`, `auth`, the file of a CA or
/// nothing, channels and messages in flight.
pub fn publish(load: [&str; 5]) -> [f64; 3] {
    let output = this_program().arg("load").args(load).envs(credentials()).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let numbers: Vec<f64> = said.split_whitespace().map(|n| n.parse().unwrap()).collect();
    let said = || panic!("{said}{}", String::from_utf8_lossy(&output.stderr));
    numbers.try_into().unwrap_or_else(|_| said())
}

/// The child: publishes as fast as it goes; prints events/s, requests/s and µs CPU an event.
pub async fn load(words: &[&str]) {
    let [endpoint, auth, ca, channels, in_flight] = words else { panic!("{words:?}") };
    let (channels, in_flight): (u64, usize) =
        (channels.parse().unwrap(), in_flight.parse().unwrap());
    let auth = match *auth {
        "iam" => "{ type = \"iam\", aws = { region = \"eu-west-1\" } }",
        _ => "{ type = \"api-key\", key = \"k\" }",
    };
    let ca = if ca.is_empty() { String::new() } else { format!("ca_file = \"{ca}\"\n") };
    let text = format!(
        "[api.main]\nendpoint = \"{endpoint}\"\nauth = {auth}\nmax_rate = 1000000\n{ca}\
         [source.memory]\ntype = \"mqtt\"\nurl = \"mqtt://localhost\"\nclient_id = \"bench\"\nsubscriptions = [\"#\"]\n\
         [route.all]\nfrom = \"memory\"\ntopic = \"bench/{{n}}\"\nchannel = \"/bench/{{n}}\"\ndead_letter = \"discard\"\n"
    );
    let environment = Environment::of([("HOME", "/tmp")]);
    let loaded = config::parse(&text, Path::new("bench.toml"), &environment);
    let config = loaded.unwrap_or_else(|problems| panic!("{problems}")).config;
    let (metrics, health, shutdown) = (Metrics::new(), Health::default(), Shutdown::new());
    let table = Arc::new(RouteTable::new(config.routes.iter().cloned()));
    let rejects = Rejects::new(HashMap::new());
    let (refused, _refused) = mpsc::unbounded_channel();
    let (entries, queue) = mpsc::unbounded_channel();
    let api = &config.apis["main"];
    let publisher = Publisher::build(api, &metrics, &health, refused).await.unwrap();
    let source = metrics.source("memory");
    let policy =
        SourcePolicy { max_payload: 300_000, unrouted: None, system: "s", metrics: source.clone() };
    let policies = HashMap::from([("memory".into(), policy)]);
    let publishers = HashMap::from([("main".into(), entries)]);
    let pipeline = Pipeline::new(table, policies, &publishers, rejects, &metrics);
    tokio::spawn(publisher.run(queue, shutdown));
    let changed = Arc::new(Notify::new());
    let limits = config::source::Limits { messages: in_flight, bytes: 64 << 20 };
    let record: Arc<InFlight<()>> = InFlight::new(Room::new(limits, source), Arc::clone(&changed));
    let intake = Intake::new(move |delivery| pipeline.route(delivery));
    let topics: Vec<Topic> = (0..channels).map(|n| Topic::new(format!("bench/{n}"), '/')).collect();
    let payloads: Vec<Bytes> = (0..1_000).map(|id| event(id).into()).collect();
    let name = SourceName::new("memory");
    tokio::spawn(async move {
        for id in 0_u64.. {
            let settlement = record.take(Some(()), 256).expect("there is room");
            let pick = |len: usize| usize::try_from(id).unwrap() % len;
            let message = Message {
                source: name.clone(),
                topic: topics[pick(topics.len())].clone(),
                key: None,
                headers: Vec::new(),
                payload: payloads[pick(payloads.len())].clone(),
                order: Some((id % 5_000).to_le_bytes()[..].into()),
                published: None,
                expires: None,
                coordinates: Coordinates::default(),
            };
            intake.submit(Delivery::new(message, settlement));
            while record.is_full() {
                record.acknowledgeable();
                if record.is_full() {
                    changed.notified().await;
                }
            }
        }
    });
    tokio::time::sleep(WARM_UP).await;
    let (before, began) = (seen(&metrics), Instant::now());
    tokio::time::sleep(SPAN).await;
    let (after, span) = (seen(&metrics), began.elapsed().as_secs_f64());
    let events = after.0 - before.0;
    println!(
        "{} {} {}",
        events / span,
        (after.1 - before.1) / span,
        (after.2 - before.2) * 1e6 / events
    );
    // What is in flight is of no interest any more.
    std::process::exit(0);
}

/// Events accepted, requests answered, and seconds of CPU of this process, so far.
fn seen(metrics: &Metrics) -> (f64, f64, f64) {
    let text = metrics.encode();
    let of = |series: &str| -> f64 {
        let line =
            text.lines().find(|l| l.starts_with(&format!("appsync_bridge_{series} "))).unwrap();
        line.rsplit_once(' ').unwrap().1.parse().unwrap()
    };
    (
        of("publish_events_total{api=\"main\",outcome=\"accepted\"}"),
        of("publish_requests_total{api=\"main\",result=\"ok\"}"),
        cpu(std::process::id()),
    )
}
