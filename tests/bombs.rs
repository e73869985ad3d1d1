//! T84: payloads, lines and answers made to exhaust who reads them. Each is refused soon, and nothing grows with it. Nothing
//! is ever inflated here, so that a compressed bomb is a payload like another.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use appsync_bridge::event_api::MAX_EVENT_BYTES;
use appsync_bridge::route::Document;
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use serde_json::{Value, json};

use crate::support::PATIENCE;
use crate::support::bridge::{Bridge, Setup};
use crate::support::emulator::bridge;
use crate::support::mosquitto::Mosquitto;
use crate::support::producer::{produce, publish};
use crate::support::stub::{Accepted, Stub, reply};
use crate::support::until;

const MIB: u64 = 1 << 20;

/// What a bomb may add to the memory of who is given it.
const MORE_MIB: u64 = 8;

/// How long one may take.
const SOON: Duration = Duration::from_millis(100);

/// An array in an array, so many times.
fn deep(levels: usize) -> Vec<u8> {
    ["[".repeat(levels), "]".repeat(levels)].concat().into_bytes()
}

/// An object of so many keys, with those of a route in it.
fn keys(count: usize) -> Vec<u8> {
    let many: Vec<_> = (0..count).map(|number| format!("\"k{number}\":0,")).collect();
    format!("{{{}\"to\":\"a\"}}", many.concat()).into_bytes()
}

/// So many zeros, compressed as often as said.
fn gzip(bytes: u64, times: usize) -> Vec<u8> {
    let again = " | gzip -9".repeat(times);
    let script = format!("head -c {bytes} /dev/zero{again}");
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    assert!(output.status.success() && output.stdout.starts_with(&[0x1f, 0x8b]), "no gzip");
    output.stdout
}

/// Payloads that come through the door, and the reason for which each is rejected; none is published.
fn payloads() -> Vec<(&'static str, Vec<u8>, Option<&'static str>)> {
    let most = MAX_EVENT_BYTES;
    vec![
        ("deep arrays", deep(most / 2 - 1), Some("too_deep")),
        ("deep objects", b"{\"to\":".repeat(most / 6), Some("invalid_json")),
        ("a deep field", [&b"{\"to\":"[..], &deep(100), b"}"].concat(), Some("too_deep")),
        ("many keys", keys(20_000), None),
        (
            "one key, often",
            [b"{".to_vec(), b"\"to\":\"a\",".repeat(20_000), b"\"x\":0}".to_vec()].concat(),
            Some("duplicate_key"),
        ),
        (
            "a long name",
            format!("{{\"to\":\"{}\"}}", "a".repeat(most - 20)).into_bytes(),
            Some("bad_channel_segment"),
        ),
        ("a long text", vec![b'"'; 290_000], Some("too_large")),
        ("gzip, 1000:1", gzip(100 * MIB, 1), Some("invalid_utf8")),
        ("gzip in gzip", gzip(1_000 * MIB, 2), Some("invalid_utf8")),
        // The window of 2 GiB that its header asks for.
        (
            "zstd",
            [&[0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8][..], &[0; 64]].concat(),
            Some("invalid_utf8"),
        ),
    ]
}

/// What the fastest of some takes of the processor: other tests take their share of the time.
fn fastest(mut it: impl FnMut()) -> Duration {
    let taken = || {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
    };
    let timed = |_| {
        let began = taken();
        it();
        taken().saturating_sub(began)
    };
    (0..5).map(timed).min().unwrap()
}

/// Those, and what is as large as a message of SQS: of all the sources' defaults the largest.
#[test]
fn a_bomb_is_read_or_refused_within_a_tenth_of_a_second() {
    let path = ["to".to_owned()];
    let large = [("1 MiB of levels", deep(1 << 19)), ("1 MiB of keys", keys(95_000))];
    // As many times as large: without optimisation it takes more than a tenth of a second.
    let large = large.map(|(name, bomb)| (name, bomb, 4 * SOON));
    let all = payloads().into_iter().map(|(name, bomb, _)| (name, bomb, SOON));
    for (name, bomb, soon) in all.chain(large) {
        let bomb = Bytes::from(bomb);
        let took = fastest(|| {
            let _ = Document::parse(&bomb).map(|document| document.field(&path).is_ok());
        });
        println!("{name}: {} bytes in {took:?}", bomb.len());
        assert!(took < soon, "{name}: {took:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn payloads_that_are_bombs_are_rejected_and_take_no_memory() {
    let stub = Stub::start(Duration::ZERO, |asked| {
        let body: Value = serde_json::from_str(&asked.body).unwrap();
        let count = body["events"].as_array().unwrap().len();
        let ids = (0..count).map(|index| json!({ "identifier": "e", "index": index }));
        reply(200, &json!({ "failed": [], "successful": ids.collect::<Vec<_>>() }))
    })
    .await;
    let mosquitto = Mosquitto::start("").await;
    let route = "[route.data]\nfrom = \"plant\"\nchannel = \"/plant/{json.to}\"\n";
    let setup = Setup::new(&stub.url("/event"), mosquitto.port, "", "", route);
    let bridge = setup.start_ready().await;
    let send = async |name: &str, payload: Vec<u8>| {
        let before = settled(&bridge).await;
        publish(mosquitto.port, 1_000, [(format!("plant/{}", name.len()), payload)]).await;
        until(name, PATIENCE, async || (settled(&bridge).await > before).then_some(())).await;
    };
    // What ordinary messages of that size take, one that is published and one that is rejected.
    for _ in 0..5 {
        let text = format!("{{\"to\":\"a\",\"x\":\"{}\"}}", "x".repeat(MAX_EVENT_BYTES - 100));
        send("an ordinary one", text.into_bytes()).await;
        send("no JSON", vec![b'x'; MAX_EVENT_BYTES]).await;
    }
    let ordinary = bridge.peak_mib();
    for (name, bomb, reason) in payloads() {
        let seen = setup.rejects().len();
        for _ in 0..3 {
            send(name, bomb.clone()).await;
        }
        let rejects = setup.rejects().split_off(seen);
        let found: Vec<_> =
            rejects.iter().map(|reject| reject["reason"].as_str().unwrap()).collect();
        assert_eq!(found, reason.map_or(vec![], |reason| vec![reason; 3]), "{name}");
    }
    let most = bridge.peak_mib();
    println!("{ordinary} MiB with ordinary messages, {most} MiB at most with bombs");
    assert!(most <= ordinary + MORE_MIB, "{ordinary} MiB became {most} MiB");
    assert_eq!(bridge.get("/livez").await.0, 200);
}

async fn settled(bridge: &Bridge) -> f64 {
    bridge.settled("plant").await.values().sum()
}

/// An API that sends what is no answer: without end, deep, and compressed.
#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_bombs_are_cut_off_and_the_event_arrives_later() {
    let accepted = Arc::<Accepted>::default();
    let shared = Arc::clone(&accepted);
    let gzipped = gzip(100 * MIB, 1);
    let bombs: [(Option<&str>, Bytes, usize); 4] = [
        (None, Bytes::from(vec![b' '; 1 << 20]), 100),
        (None, Bytes::from(deep(500_000)), 1),
        (None, Bytes::from(keys(100_000)), 1),
        (Some("gzip"), Bytes::from(gzipped), 1),
    ];
    let (armed, rounds) = (Arc::<AtomicBool>::default(), AtomicUsize::new(0));
    let lit = Arc::clone(&armed);
    let total = bombs.len() * 2;
    let stub = Stub::start(Duration::ZERO, move |asked| {
        if !lit.load(Ordering::SeqCst) {
            return shared.answer(asked, None);
        }
        let round = rounds.fetch_add(1, Ordering::SeqCst);
        if round >= total {
            return shared.answer(asked, None);
        }
        let (encoding, piece, times) = bombs[round % bombs.len()].clone();
        let pieces = (0..times).map(move |_| Ok::<_, std::io::Error>(piece.clone()));
        let mut response =
            Response::builder().status(200).header("content-type", "application/json");
        if let Some(encoding) = encoding {
            response = response.header("content-encoding", encoding);
        }
        response.body(Body::from_stream(futures_util::stream::iter(pieces))).unwrap()
    })
    .await;
    let mosquitto = Mosquitto::start("").await;
    let setup = Setup::new(&stub.url("/event"), mosquitto.port, "", "", "");
    let bridge = setup.start_ready().await;
    // What one takes that is accepted at once.
    produce(mosquitto.port, 1, 10, 1).await;
    until("the first is accepted", PATIENCE, async || (accepted.len() > 0).then_some(())).await;
    let before = bridge.peak_mib();
    armed.store(true, Ordering::SeqCst);
    publish(mosquitto.port, 10, [("plant/dev-0/data".to_owned(), b"{\"id\":1}".to_vec())]).await;
    until("the event is accepted", PATIENCE * 2, async || (accepted.len() > 1).then_some(())).await;
    accepted.assert_each_once(2);
    let most = bridge.peak_mib();
    println!("{before} MiB before, {most} MiB at most with {total} bombs for answers");
    // As much of an answer as is read, 1 MiB, becomes some more as JSON.
    assert!(most <= before + 2 * MORE_MIB, "{before} MiB became {most} MiB");
    assert_eq!(setup.rejects(), Vec::<Value>::new());
}

/// Exit code, words and the most memory of a command that reads this file as its standard input.
fn measured(arguments: &[&str], input: &Path) -> (String, u64) {
    let script = "import resource, subprocess, sys\n\
                  done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)\n\
                  print(done.stdout.decode(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, sep='')";
    let program = bridge();
    let output = Command::new("python3")
        .args(["-c", script, program.get_args().last().unwrap().to_str().unwrap()])
        .args(arguments)
        .stdin(Stdio::from(std::fs::File::open(input).unwrap()))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (said, peak) = text.trim_end().rsplit_once('\n').unwrap_or(("", text.trim_end()));
    (said.to_owned(), peak.parse::<u64>().unwrap() >> 10)
}

/// A line of 100 MB, to each command that reads lines or a file.
#[test]
fn a_line_of_100_megabytes_is_refused_and_not_kept() {
    let directory = tempfile::tempdir().unwrap();
    let (small, large) = (directory.path().join("small"), directory.path().join("large"));
    std::fs::write(&small, "[\n").unwrap();
    let mut file = std::fs::File::create(&large).unwrap();
    for _ in 0..100 {
        file.write_all(&vec![b'['; 1_000_000]).unwrap();
    }
    file.write_all(b"\n").unwrap();
    drop(file);
    let config = directory.path().join("bridge.toml");
    let rejects = directory.path().join("rejects.jsonl");
    let text = format!(
        "[api.main]\nendpoint = \"http://127.0.0.1:9/event\"\nauth = {{ type = \"api-key\", key = {{ env = \"PATH\" }} }}\n\
         [source.plant]\ntype = \"mqtt\"\nurl = \"mqtt://127.0.0.1:9\"\nclient_id = \"c\"\nsubscriptions = [\"plant/#\"]\n\
         [route.data]\nfrom = \"plant\"\nchannel = \"/plant/a\"\n\
         [dead_letter.rejects]\ntype = \"file\"\npath = \"{}\"\n",
        rejects.display()
    );
    std::fs::write(&config, text).unwrap();
    let config = config.to_str().unwrap();
    for (arguments, more, words) in [
        // As much as a file may have is read, twice that while the buffer grows.
        (&["check", "-c", "-"][..], 4 + MORE_MIB, "4 MiB"),
        (&["publish", "-c", config, "/plant/a", "-"], MORE_MIB, "longer than 240000 bytes"),
        // A record is read whole, up to what the largest message of SQS becomes, twice that while the buffer grows.
        (&["replay", "--dry-run", "-c", config, "-"], 3 * MORE_MIB, "at most 8388608 are read"),
    ] {
        let (_, ordinary) = measured(arguments, &small);
        let (said, most) = measured(arguments, &large);
        println!("{}: {ordinary} MiB, with a long line {most} MiB: {said}", arguments[0]);
        assert!(said.contains(words), "{arguments:?}: {said}");
        assert!(most <= ordinary + more, "{arguments:?}: {ordinary} MiB became {most} MiB");
    }
}
