//! A hot key, or a lane of large events, does not starve the others (T73, T76).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::support::bridge::Setup;
use crate::support::emulator::Emulator;
use crate::support::ledger::Ledger;
use crate::support::mosquitto::Mosquitto;
use crate::support::producer::publish_made;

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64() * 1_000.0
}

/// Publishes `cold` small messages at 200 a second on ten topics, beside what `beside` publishes, and
/// gives the milliseconds from their sending to their acceptance, in order of size.
async fn cold_latencies(beside: Option<(u64, usize)>) -> Vec<f64> {
    const COLD: u64 = 800;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ledger.jsonl");
    let emulator = Emulator::start(&["--latency", "5ms", "--ledger", path.to_str().unwrap()]);
    let ledger = Ledger { path: path.clone() };
    let mosquitto = Mosquitto::start("").await;
    let setup = Setup::new(&emulator.endpoint, mosquitto.port, "", "", "");
    let _bridge = setup.start_ready().await;
    let port = mosquitto.port;
    let cold = publish_made(port, 200, COLD, |n| {
        let event = json!({ "id": n, "cold": true, "sent": now() });
        (format!("plant/cold-{}/data", n % 10), event.to_string().into_bytes())
    });
    let hot = async {
        if let Some((rate, size)) = beside {
            let filler = "x".repeat(size);
            publish_made(port, rate, rate * 4, move |n| {
                let event = json!({ "id": 1_000_000 + n, "filler": filler });
                ("plant/hot/data".to_owned(), event.to_string().into_bytes())
            })
            .await;
        }
    };
    tokio::join!(cold, hot);
    let all = COLD + beside.map_or(0, |(rate, _)| rate * 4);
    ledger.has_ids(usize::try_from(all).unwrap(), Duration::from_mins(1)).await;
    let text = std::fs::read_to_string(path).unwrap();
    let lines = text.lines().map(|l| serde_json::from_str::<Value>(l).unwrap());
    let mut latencies: Vec<f64> = lines
        .filter_map(|line| {
            let event: Value = serde_json::from_str(line["event"].as_str()?).ok()?;
            event["cold"].as_bool()?;
            Some(line["at"].as_f64()? - event["sent"].as_f64()?)
        })
        .collect();
    assert_eq!(latencies.len() as u64, COLD);
    latencies.sort_by(f64::total_cmp);
    latencies
}

fn p99(sorted: &[f64]) -> f64 {
    sorted[sorted.len() * 99 / 100]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hot_key_leaves_the_others_their_pace() {
    let alone = p99(&Box::pin(cold_latencies(None)).await);
    let beside = p99(&Box::pin(cold_latencies(Some((500, 10)))).await);
    println!("p99 of the cold: {alone:.1} ms alone, {beside:.1} ms beside 500/s of one key");
    // Two cores are shared with the broker, the endpoint and the producers: a floor under the measure.
    assert!(
        beside <= 2.0 * alone.max(50.0),
        "{alone:.1} ms alone, {beside:.1} ms beside a hot key"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn large_events_do_not_block_the_others_for_a_second() {
    let beside = Box::pin(cold_latencies(Some((20, 239_000)))).await;
    let worst = beside[beside.len() - 1];
    println!("beside 20/s of 240 KB: p99 {:.1} ms, worst {worst:.1} ms", p99(&beside));
    assert!(worst < 1_000.0, "{worst:.1} ms");
}
