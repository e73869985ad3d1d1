//! What the MQTT source says when a broker won't have it, and how soon it asks again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rumqttc_v5::{AsyncClient, MqttOptions};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::support::PATIENCE;
use crate::support::bridge::{Bridge, Setup};
use crate::support::certificates::certificates;
use crate::support::emulator::Emulator;
use crate::support::mosquitto::Mosquitto;
use crate::support::scripted::{Heard, Play, Scripted, connack, publish, suback};
use crate::support::{free_port, until};

/// Nothing is published here.
pub(super) const NO_API: &str = "http://127.0.0.1:9/event";

/// The hint of a line that says why there is no connection; the line and `/readyz` both tell when the
/// next one is tried.
pub(super) async fn hint(bridge: &Bridge, words: &[&str]) -> String {
    let words = [&["not connected; trying again"], words].concat();
    let line =
        until(&format!("a line with {words:?}"), PATIENCE, async || bridge.lines(&words).pop())
            .await;
    let line: Value = serde_json::from_str(&line).unwrap();
    assert!(line["next_try"].as_str().unwrap().starts_with("in "), "{line}");
    // One answer has it all: while a try is made the page says something else.
    until("the page says so", PATIENCE, async || {
        let (_, page) = bridge.get("/readyz").await;
        let whole =
            page.contains("next try in ") && words[1..].iter().all(|word| page.contains(word));
        whole.then_some(())
    })
    .await;
    line["hint"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_says_what_to_check() {
    // Version, level and code, and the word of the hint.
    let cases = [
        ("version = 5", 5, 0x86, "`username`"),
        ("version = 5", 5, 0x87, "`password`"),
        ("version = 5", 5, 0x85, "`client_id`"),
        ("version = 5", 5, 0x84, "`version = 3`"),
        // A broker of 3.1.1, which answers in its own way.
        ("version = 5", 5, 1, "`version = 3`"),
        ("version = 3", 4, 4, "`username`"),
        ("version = 3", 4, 5, "`password`"),
        ("version = 3", 4, 2, "`client_id`"),
        ("version = 3", 4, 1, "`version = 5`"),
    ];
    for (version, level, code, word) in cases {
        let broker = Scripted::start(move |_| Play::Say(connack(level, code, &[]))).await;
        let setup = Setup::new(NO_API, broker.port, "", version, "");
        let bridge = setup.start().await;
        hint(&bridge, &[word]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_without_tls_is_told_from_one_with_it() {
    let directory = tempfile::tempdir().unwrap();
    certificates(directory.path());
    let path = directory.path().display();
    let tls_port = free_port();
    let lines = format!(
        "listener {tls_port} 127.0.0.1\ncafile {path}/ca.pem\ncertfile {path}/server.pem\n\
         keyfile {path}/server.key\nrequire_certificate true\n"
    );
    let mosquitto = Mosquitto::start(&lines).await;
    // What answers is not MQTT.
    let web = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let web_port = web.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = web.accept().await {
            // What is not read would reset the connection.
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    // An alert of TLS, as most servers answer what is no ClientHello.
    let alert = Scripted::start(|_| Play::Say(vec![0x15, 3, 1, 0, 2, 2, 70])).await;
    for version in ["version = 5", "version = 3"] {
        let ca = format!("tls = {{ ca_file = \"{path}/ca.pem\" }}");
        let cases = [
            (format!("url = \"mqtt://localhost:{tls_port}\""), "`mqtts://`"),
            (format!("url = \"mqtt://localhost:{web_port}\""), "is this a port for MQTT"),
            (format!("url = \"mqtt://localhost:{}\"", alert.port), "`mqtts://`"),
            (format!("url = \"mqtts://localhost:{}\"", mosquitto.port), "`mqtt://`"),
            (format!("url = \"mqtts://localhost:{web_port}\""), "`mqtt://`"),
            (format!("url = \"mqtts://localhost:{tls_port}\""), "`tls = { ca_file"),
            (format!("url = \"mqtts://localhost:{tls_port}\"\n{ca}"), "`tls = { cert_file"),
            (format!("url = \"mqtt://localhost:{}\"", free_port()), "does the broker run"),
            ("url = \"mqtt://nowhere.invalid\"".to_owned(), "check the host"),
        ];
        for (lines, word) in cases {
            let setup = Setup::new(NO_API, 0, "", &format!("{version}\n{lines}"), "");
            let bridge = setup.start().await;
            hint(&bridge, &[word]).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_closed_soon_name_their_likely_cause() {
    for (version, level) in [("version = 5", 5), ("version = 3", 4)] {
        // Before the subscriptions are granted: an access list may be the cause as well.
        let broker = Scripted::start(move |heard| match heard {
            Heard::Connect { .. } => Play::Say(connack(level, 0, &[])),
            _ => Play::Close,
        })
        .await;
        let setup = Setup::new(NO_API, broker.port, "", version, "");
        let bridge = setup.start().await;
        let said = hint(&bridge, &["another client may use the same `client_id`"]).await;
        assert!(said.contains("`subscriptions`"), "{said}");
    }
}

/// MQTT 5 knows a password without a user's name.
#[tokio::test(flavor = "multi_thread")]
async fn a_password_alone_is_sent() {
    let (heard, mut all) = tokio::sync::mpsc::unbounded_channel();
    let broker = Scripted::start(move |said| {
        if let Heard::Connect { level: 5, user, password, .. } = said {
            let _ = heard.send((*user, *password));
        }
        Play::Close
    })
    .await;
    let source = "password = \"pässword\"";
    let _bridge = Setup::new(NO_API, broker.port, "", source, "").start().await;
    assert_eq!(all.recv().await, Some((false, true)));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_client_of_the_same_name_is_named() {
    for version in ["version = 5", "version = 3"] {
        let mosquitto = Mosquitto::start("").await;
        let setup = Setup::new(NO_API, mosquitto.port, "", version, "");
        let bridge = setup.start_ready().await;
        // It connects again at once, whenever the bridge has taken over.
        let (stop, port) = (Arc::new(AtomicBool::new(false)), mosquitto.port);
        let stopped = Arc::clone(&stop);
        let rival = tokio::spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                let options = MqttOptions::new("bridge", ("127.0.0.1", port));
                let (_client, mut events) = AsyncClient::builder(options).capacity(1).build();
                while !stopped.load(Ordering::Relaxed) {
                    let event = tokio::time::timeout(Duration::from_millis(200), events.poll());
                    if matches!(event.await, Ok(Err(_))) {
                        break;
                    }
                }
            }
        });
        let began = Instant::now();
        let said = hint(&bridge, &["the same `client_id`"]).await;
        assert!(said.contains("another client"), "{said}");
        // T20: each take-over waits longer than the one before.
        let taken = bridge.metric("source_reconnects_total{source=\"plant\"}").await;
        assert!(taken <= 6.0, "{taken} take-overs in {:?}", began.elapsed());
        stop.store(true, Ordering::Relaxed);
        rival.await.unwrap();
        until("the bridge is ready again", PATIENCE, async || {
            (bridge.get("/readyz").await.0 == 200).then_some(())
        })
        .await;
    }
}

/// Takes us, and grants all with QoS 1.
pub(super) fn welcome(heard: &Heard) -> Play {
    Play::Say(match heard {
        Heard::Connect { level, .. } => connack(*level, 0, &[]),
        Heard::Subscribe { packet_id, filters, .. } => {
            suback(5, *packet_id, &vec![1; filters.len()])
        }
        _ => Vec::new(),
    })
}

/// A broker that sends `bytes` behind what it grants.
async fn sends(bytes: Vec<u8>) -> Scripted {
    Scripted::start(move |heard| match (heard, welcome(heard)) {
        (Heard::Subscribe { .. }, Play::Say(granted)) => {
            Play::Say([granted, bytes.clone()].concat())
        }
        (_, play) => play,
    })
    .await
}

pub(super) fn connects(broker: &Scripted) -> usize {
    broker.heard().iter().filter(|heard| matches!(heard, Heard::Connect { .. })).count()
}

/// A broker that sends all it has, whatever the window, meets the packet ids in flight again. What is left to it is
/// answered by nobody, so that is no fault.
#[tokio::test(flavor = "multi_thread")]
async fn packet_ids_that_come_round_behind_the_ceiling_are_no_fault() {
    let event = |packet_id| publish("plant/a/data", "{\"id\":1}", packet_id, &[]);
    // 64 are held, one is left, the next has an id in flight; the last shows that all were read.
    let mut all: Vec<u8> = (1..=65).chain([1]).flat_map(|id| event(Some(id))).collect();
    all.extend(event(None));
    let broker = sends(all).await;
    let bridge = Setup::new(NO_API, broker.port, "", "max_in_flight = 1", "").start().await;
    bridge.metric_is("source_dropped_total{source=\"plant\"}", |v| v == 1.0).await;
    assert_eq!(bridge.metric("source_in_flight{source=\"plant\"}").await, 64.0);
    assert_eq!(connects(&broker), 1);
    assert_eq!(bridge.lines(&["two messages at once"]), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_makes_no_sense_is_named_and_not_asked_at_full_speed() {
    let twice = [publish("a", "1", Some(7), &[]), publish("b", "2", Some(7), &[])].concat();
    let zero = publish("a", "1", Some(0), &[]);
    let nameless = publish("", "1", Some(7), &[]);
    let unasked_pubrel = vec![0x62, 2, 0, 9];
    let mut qos_3 = publish("a", "1", Some(7), &[]);
    qos_3[0] |= 0x06;
    let cases = [
        ("packet id 7 to two messages", twice, true),
        ("acket", zero, true),
        ("without a topic", nameless, true),
        ("malformed", qos_3, true),
        ("", vec![0xff; 64], true),
        // Of a message that is done by now: answered, as the protocol has it.
        ("", unasked_pubrel, false),
    ];
    for (words, bytes, ends) in cases {
        let broker = sends(bytes).await;
        let setup = Setup::new(NO_API, broker.port, "", "", "");
        let bridge = setup.start().await;
        if !ends {
            bridge.ready().await;
            until("it is answered", PATIENCE, async || {
                broker.heard().contains(&Heard::PubComp(9)).then_some(())
            })
            .await;
            assert_eq!(connects(&broker), 1);
            continue;
        }
        until("a few tries", PATIENCE, async || (connects(&broker) >= 3).then_some(())).await;
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(3) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        // 100 ms at most, then twice as long each.
        let tries = connects(&broker);
        assert!(tries <= 30, "{tries} tries");
        let lines = bridge.lines(&["WARN", "not connected; trying again"]);
        assert!(!lines.is_empty() && lines.len() <= 4, "{lines:?}");
        assert!(lines[0].contains(words), "{words}: {}", lines[0]);
        println!("{words:?}: {tries} tries, {} lines: {}", lines.len(), lines[0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_says_nothing_is_given_up_and_named() {
    // From the start, then after the subscriptions.
    let mute = Scripted::start(|_| Play::Say(Vec::new())).await;
    let setup = Setup::new(NO_API, mute.port, "", "keep_alive = \"1s\"", "");
    let bridge = setup.start().await;
    hint(&bridge, &["check host and port"]).await;
    assert!(connects(&mute) <= 3);

    let broker = Scripted::start(welcome).await;
    let setup = Setup::new(NO_API, broker.port, "", "keep_alive = \"1s\"", "");
    let bridge = setup.start_ready().await;
    broker.fall_silent();
    until("it is noticed", PATIENCE, async || {
        bridge.lines(&["WARN", "not connected; trying again"]).pop()
    })
    .await;
    bridge.metric_is("source_connected{source=\"plant\"}", |v| v == 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_repeated_over_the_same_connection_is_answered_once() {
    let directory = tempfile::tempdir().unwrap();
    let (emulator, ledger) = Emulator::with_ledger(&directory, &[]);
    let slow = serde_json::json!([{ "fault": { "slow": { "delay": "1s" } } }]);
    emulator.set_faults(slow).await;
    let broker = Scripted::start(welcome).await;
    let setup = Setup::new(&emulator.endpoint, broker.port, "", "", "");
    let bridge = setup.start_ready().await;
    let first = publish("plant/a/data", "{\"id\":1}", Some(7), &[]);
    let mut again = first.clone();
    again[0] |= 8;
    broker.say([first, again.clone(), again].concat());
    broker.say(publish("plant/a/data", "{\"id\":2}", Some(8), &[]));
    ledger.has_ids(2, PATIENCE).await;
    let acknowledged = async || {
        let heard = broker.heard();
        let of = |heard: &Heard| match heard {
            Heard::PubAck(id) => Some(*id),
            _ => None,
        };
        let all: Vec<_> = heard.iter().filter_map(of).collect();
        (all.len() >= 2).then_some(all)
    };
    assert_eq!(until("both are acknowledged", PATIENCE, acknowledged).await, [7, 8]);
    bridge.nothing_in_flight().await;
    assert_eq!(ledger.len(), 2, "it was published again");
    assert_eq!(bridge.metric("source_copies_skipped_total{source=\"plant\"}").await, 2.0);
    assert_eq!(connects(&broker), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_a_broker_abbreviates_is_spelled_out() {
    let directory = tempfile::tempdir().unwrap();
    let (emulator, ledger) = Emulator::with_ledger(&directory, &[]);
    let broker = Scripted::start(welcome).await;
    let setup = Setup::new(&emulator.endpoint, broker.port, "", "", "");
    let bridge = setup.start_ready().await;
    // The first is the topic and its alias, 1; the second the alias alone.
    for (id, topic) in [(1, "plant/a/data"), (2, "")] {
        let payload = format!("{{\"id\":{id}}}");
        let length = [0, topic.len() as u8];
        let alias = [3, 0x23, 0, 1];
        let body = [&length[..], topic.as_bytes(), &[0, id], &alias, payload.as_bytes()].concat();
        broker.say([&[0x32, body.len() as u8][..], &body].concat());
    }
    ledger.has_ids(2, PATIENCE).await;
    bridge.nothing_in_flight().await;
    assert!(ledger.read().iter().all(|accepted| accepted.channel == "/plant/a"));
    assert_eq!(connects(&broker), 1);
}

/// Longer than the client library would wait by itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_takes_its_time_to_take_us_is_waited_for() {
    for (version, level) in [("version = 5", 5), ("version = 3", 4)] {
        let broker = Scripted::start(move |heard| match heard {
            Heard::Subscribe { packet_id, filters, .. } => {
                Play::Say(suback(level, *packet_id, &vec![1; filters.len()]))
            }
            // The test answers CONNECT.
            _ => Play::Say(Vec::new()),
        })
        .await;
        let bridge = Setup::new(NO_API, broker.port, "", version, "").start().await;
        until("CONNECT", PATIENCE, async || (connects(&broker) == 1).then_some(())).await;
        tokio::time::sleep(Duration::from_secs(6)).await;
        broker.say(connack(level, 0, &[]));
        bridge.ready().await;
        assert_eq!(connects(&broker), 1);
    }
}

/// MQTT 5 lets a broker name a keep-alive of its own: one that is longer than ours, or none at all.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_wants_no_pings_is_found_silent_all_the_same() {
    for theirs in [0_u16, 600] {
        let wanted = [&[0x13][..], &theirs.to_be_bytes()].concat();
        let broker = Scripted::start(move |heard| match heard {
            Heard::Connect { .. } => Play::Say(connack(5, 0, &wanted)),
            heard => welcome(heard),
        })
        .await;
        let setup = Setup::new(NO_API, broker.port, "", "keep_alive = \"1s\"", "");
        let bridge = setup.start_ready().await;
        until("signs of life", PATIENCE, async || (broker.asked() >= 3).then_some(())).await;
        assert_eq!(connects(&broker), 1, "it answers");
        broker.fall_silent();
        bridge.metric_is("source_connected{source=\"plant\"}", |v| v == 0.0).await;
        assert!(!bridge.lines(&["not connected; trying again"]).is_empty());
    }
}
