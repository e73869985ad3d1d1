//! A backlog on MQTT: what waited at mosquitto while the bridge was away, or the API behind it.
//!
//! mosquitto 2.0 lets more out than its window then, and with our own `bridge-safe.conf` it saves everything
//! at each change, so that it reads PUBACKs slowly. How slowly grows with what waits: 12,000 take minutes,
//! by the square, so the ordinary run has fewer there; `tests/run --long` has more of all, and
//! `MQTT_BACKLOG=60000` says how many.

use std::collections::BTreeMap;
use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::process::Command;

use crate::support::bridge::{Bridge, Setup};
use crate::support::emulator::Emulator;
use crate::support::ledger::{Accepted, Ledger, Tail, assert_order};
use crate::support::mosquitto::{Mosquitto, SAVES_AT_ONCE};
use crate::support::producer::{produce, publish_retained};
use crate::support::until;

/// All of this takes as long as a busy machine and a slow broker take.
const PATIENCE: Duration = Duration::from_hours(1);

const VERSIONS: [&str; 2] = ["version = 5", "version = 3"];

const KEYS: u64 = 40;

/// Settings of mosquitto.
#[derive(Clone, Copy, Debug)]
enum Settings {
    /// The defaults, but that nothing is dropped.
    Defaults,
    /// Ours, that save at each change.
    BridgeSafe,
}

impl Settings {
    fn lines(self) -> String {
        match self {
            Self::Defaults => "persistence true\nmax_queued_messages 0\n".to_owned(),
            Self::BridgeSafe => fs::read_to_string("deploy/mosquitto/bridge-safe.conf").unwrap(),
        }
    }

    /// How many may wait, for a test of some seconds.
    fn waiting(self) -> u64 {
        if let Ok(count) = std::env::var("MQTT_BACKLOG") {
            return count.parse().expect("`MQTT_BACKLOG` is a number of messages");
        }
        let (ordinary, long) = match self {
            Self::Defaults => (12_000, 60_000),
            Self::BridgeSafe => (1_500, 12_000),
        };
        if std::env::var_os("LONG_TESTS").is_some() { long } else { ordinary }
    }
}

/// A mosquitto where messages wait for the client `bridge`, and a bridge to take them.
struct Backlog {
    setup: Setup,
    mosquitto: Mosquitto,
    _emulator: Emulator,
    ledger: Ledger,
    count: u64,
    /// The title of the figures.
    what: String,
    /// How long `mosquitto_sub` took for the same.
    plain: Duration,
    _directory: tempfile::TempDir,
}

impl Backlog {
    /// `count` messages wait, after the bridge has subscribed once and was stopped. Filled without a save
    /// at each change, which would take as long as the rest.
    async fn new(settings: Settings, count: u64, source: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (emulator, ledger) = Emulator::with_ledger(&directory, &[]);
        let mut mosquitto = Mosquitto::start("").await;
        // A goodbye takes as long as the broker.
        let rest = "[shutdown]\ngrace = \"1h\"\n";
        let setup = Setup::new(&emulator.endpoint, mosquitto.port, "", source, rest);
        let mut bridge = setup.start_ready().await;
        stop(&mut bridge).await;
        produce(mosquitto.port, count, 1_000_000, KEYS).await;
        mosquitto.stop();
        mosquitto.configure(&settings.lines());
        let plain = taken_by_mosquitto_sub(&mut mosquitto, source, count).await;
        mosquitto.restart().await;
        let what = format!("{settings:?}, {}", source.replace('\n', ", "));
        Self {
            setup,
            mosquitto,
            _emulator: emulator,
            ledger,
            count,
            what,
            plain,
            _directory: directory,
        }
    }

    async fn is_relayed(&self) {
        let mut tail = Tail::of(&self.ledger);
        until("all events", PATIENCE, async || {
            tail.read_on();
            (tail.ids.len() as u64 >= self.count).then_some(())
        })
        .await;
    }

    /// Prints what became of it; gives what was accepted.
    fn figures(&self, began: Instant, reconnects: f64) -> Vec<Accepted> {
        let seconds = began.elapsed().as_secs_f64();
        let accepted = self.ledger.read();
        let mut highest = BTreeMap::new();
        let number = |a: &Accepted, name: &str| a.event[name].as_u64().unwrap();
        let back = accepted.iter().filter(|a| {
            let highest = highest.entry(number(a, "key")).or_insert(0);
            let seq = number(a, "seq");
            let back = seq < *highest;
            *highest = seq.max(*highest);
            back
        });
        println!(
            "{}: {} waited, {} events, {} repeats, {} older after newer, {reconnects} reconnects, \
             {seconds:.2} s, {:.1} times mosquitto_sub's {:.2} s",
            self.what,
            self.count,
            accepted.len(),
            accepted.len() as u64 - self.count,
            back.count(),
            seconds / self.plain.as_secs_f64(),
            self.plain.as_secs_f64(),
        );
        accepted
    }

    /// One more message is the next that comes: the broker has nothing left of what it had.
    async fn nothing_comes_again(&self, bridge: &Bridge) {
        nothing_in_flight(bridge).await;
        let (before, event) = (self.ledger.len(), format!("{{\"id\":{}}}", self.count));
        let last = ("plant/last/data".to_owned(), event.into_bytes());
        crate::support::producer::publish(self.mosquitto.port, 1_000, [last]).await;
        self.ledger.reaches(before + 1, PATIENCE).await;
        let accepted = self.ledger.read();
        assert_eq!(accepted.len(), before + 1);
        assert_eq!(accepted[before].channel, "/plant/last");
    }
}

/// How long `mosquitto_sub` takes for a fill, which is as before then.
async fn taken_by_mosquitto_sub(mosquitto: &mut Mosquitto, source: &str, count: u64) -> Duration {
    let (database, kept) = (mosquitto.file("mosquitto.db"), mosquitto.file("kept.db"));
    fs::copy(&database, &kept).unwrap();
    mosquitto.restart().await;
    let version = if source.contains("version = 3") { "mqttv311" } else { "mqttv5" };
    let (port, count) = (mosquitto.port.to_string(), count.to_string());
    let began = Instant::now();
    let mut subscriber = Command::new("mosquitto_sub")
        .args(["-p", &port, "-i", "bridge", "-c", "-q", "1", "-t", "plant/#", "-V", version])
        .args(["-C", &count])
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("`mosquitto_sub` cannot be run: `tests/run` installs it");
    let ended = until("mosquitto_sub", PATIENCE, async || subscriber.try_wait().unwrap()).await;
    assert!(ended.success());
    let took = began.elapsed();
    mosquitto.kill();
    fs::copy(kept, database).unwrap();
    took
}

async fn stop(bridge: &mut Bridge) {
    bridge.signal("TERM");
    assert_eq!(bridge.ended(PATIENCE).await.code(), Some(0), "{}", bridge.log());
}

async fn nothing_in_flight(bridge: &Bridge) {
    until("every PUBACK is sent", PATIENCE, async || {
        (bridge.metric("source_in_flight{source=\"plant\"}").await == 0.0).then_some(())
    })
    .await;
}

async fn reconnects(bridge: &Bridge) -> f64 {
    bridge.metric("source_reconnects_total{source=\"plant\"}").await
}

async fn comes_once_and_in_order(settings: Settings) {
    for version in VERSIONS {
        let backlog = Backlog::new(settings, settings.waiting(), version).await;
        let began = Instant::now();
        let mut bridge = backlog.setup.start().await;
        backlog.is_relayed().await;
        let reconnects = reconnects(&bridge).await;
        let accepted = backlog.figures(began, reconnects);
        assert_eq!(accepted.len() as u64, backlog.count, "some came twice");
        assert_order(&accepted, 0);
        assert!(reconnects <= 2.0, "{reconnects} reconnects");
        // What it says is of its own.
        assert_eq!(bridge.lines(&["WARN", "rumqttc"]), Vec::<String>::new());
        // The goodbye waits for a broker that is still reading PUBACKs.
        stop(&mut bridge).await;
        let bridge = backlog.setup.start_ready().await;
        backlog.nothing_comes_again(&bridge).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_comes_once_and_in_order() {
    comes_once_and_in_order(Settings::Defaults).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_of_a_broker_that_saves_at_each_change_comes_once_and_in_order() {
    comes_once_and_in_order(Settings::BridgeSafe).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_survives_five_kills() {
    const KILLS: u64 = 5;
    for (settings, version) in [
        (Settings::Defaults, VERSIONS[0]),
        (Settings::Defaults, VERSIONS[1]),
        (Settings::BridgeSafe, VERSIONS[0]),
        (Settings::BridgeSafe, VERSIONS[1]),
    ] {
        let backlog = Backlog::new(settings, settings.waiting(), version).await;
        let began = Instant::now();
        let mut bridge = backlog.setup.start().await;
        let mut tail = Tail::of(&backlog.ledger);
        for kill in 1..=KILLS {
            // By what is new, so that each kill meets a backlog.
            until("some are new", PATIENCE, async || {
                tail.read_on();
                (tail.ids.len() as u64 >= backlog.count * kill / (KILLS + 2)).then_some(())
            })
            .await;
            bridge.kill();
            bridge = backlog.setup.start().await;
        }
        backlog.is_relayed().await;
        let accepted = backlog.figures(began, reconnects(&bridge).await);
        // A fault repeats what was in flight, and that once.
        let mut times = BTreeMap::<u64, u64>::new();
        for event in &accepted {
            *times.entry(event.event["id"].as_u64().unwrap()).or_default() += 1;
        }
        assert_eq!(times.len() as u64, backlog.count, "some were lost");
        assert!(times.values().all(|times| *times <= KILLS + 1));
        assert_order(&accepted, KILLS as usize);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_the_ceiling_the_rest_is_left_to_the_broker_and_nothing_comes_twice() {
    // 64 times 5 are held, and the rest fetched over further connections.
    for (settings, version) in
        [(Settings::Defaults, VERSIONS[0]), (Settings::BridgeSafe, VERSIONS[1])]
    {
        let source = format!("{version}\nmax_in_flight = 5");
        let backlog = Backlog::new(settings, 1_000, &source).await;
        let began = Instant::now();
        let bridge = backlog.setup.start().await;
        let mut most: f64 = 0.0;
        until("all events", PATIENCE, async || {
            most = most.max(bridge.metric("source_in_flight{source=\"plant\"}").await);
            (backlog.ledger.len() as u64 >= backlog.count).then_some(())
        })
        .await;
        assert!(most <= 320.0, "{most} in flight");
        let accepted = backlog.figures(began, reconnects(&bridge).await);
        assert_order(&accepted, 0);
        assert_eq!(accepted.len() as u64, backlog.count, "some came twice");
        backlog.nothing_comes_again(&bridge).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_above_the_limit_is_held_and_said() {
    // 3.1.1 has no receive maximum, so a broker with a wide window sends all it has.
    let directory = tempfile::tempdir().unwrap();
    let (emulator, ledger) = Emulator::with_ledger(&directory, &[]);
    let address = emulator.host().to_owned();
    drop(emulator);
    let mosquitto = Mosquitto::start("").await;
    let endpoint = format!("http://{address}/event");
    let setup = Setup::new(&endpoint, mosquitto.port, "", "version = 3\nmax_in_flight = 5", "");
    let bridge = setup.start_ready().await;
    produce(mosquitto.port, 200, 10_000, 4).await;
    bridge.metric_is("source_in_flight{source=\"plant\"}", |v| v == 200.0).await;
    assert_eq!(bridge.metric("source_over_limit_total{source=\"plant\"}").await, 195.0);
    let said = ["WARN", "more than the limit in flight", "max_inflight_messages"];
    until("it is said", PATIENCE, async || (!bridge.lines(&said).is_empty()).then_some(())).await;
    assert_eq!(bridge.lines(&said).len(), 1);
    assert_eq!(reconnects(&bridge).await, 0.0);

    // Beyond the ceiling the rest is left there.
    produce(mosquitto.port, 300, 10_000, 4).await;
    bridge.metric_is("source_in_flight{source=\"plant\"}", |v| v == 320.0).await;
    let path = ledger.path.to_str().unwrap();
    let _emulator = Emulator::start_at(&address, &["--ledger", path]);
    ledger.reaches(500, PATIENCE).await;
    bridge.nothing_in_flight().await;
    assert_eq!(ledger.len(), 500, "some came twice");
    assert!(reconnects(&bridge).await >= 1.0);
    assert_eq!(bridge.lines(&["WARN", "left to the broker"]).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_in_flight_takes_a_backlog_all_the_same() {
    for version in VERSIONS {
        let source = format!("{version}\nmax_in_flight = 1");
        let backlog = Backlog::new(Settings::Defaults, 500, &source).await;
        let began = Instant::now();
        let bridge = backlog.setup.start().await;
        backlog.is_relayed().await;
        let accepted = backlog.figures(began, reconnects(&bridge).await);
        assert_eq!(accepted.len() as u64, backlog.count, "some came twice");
        assert_order(&accepted, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retained_messages_come_once() {
    const COUNT: u64 = 3_000;
    for version in VERSIONS {
        let directory = tempfile::tempdir().unwrap();
        let (emulator, ledger) = Emulator::with_ledger(&directory, &[]);
        let mosquitto = Mosquitto::start("").await;
        let retained = |id| (format!("plant/dev-{id}/data"), format!("{{\"id\":{id}}}").into());
        publish_retained(mosquitto.port, (0..COUNT).map(retained)).await;
        let setup = Setup::new(&emulator.endpoint, mosquitto.port, "", version, "");
        let bridge = setup.start().await;
        ledger.has_ids(COUNT as usize, PATIENCE).await;
        bridge.nothing_in_flight().await;
        assert_eq!(ledger.len() as u64, COUNT, "some came twice");
        assert_eq!(reconnects(&bridge).await, 0.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_while_the_api_was_down_comes_once() {
    for ((lines, count), version) in [
        (("", 5_000), VERSIONS[0]),
        (("", 5_000), VERSIONS[1]),
        ((SAVES_AT_ONCE, 1_000), VERSIONS[0]),
        ((SAVES_AT_ONCE, 1_000), VERSIONS[1]),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let (emulator, ledger) = Emulator::with_ledger(&directory, &[]);
        let address = emulator.host().to_owned();
        drop(emulator);
        let mosquitto = Mosquitto::start(lines).await;
        let endpoint = format!("http://{address}/event");
        let setup = Setup::new(&endpoint, mosquitto.port, "", version, "");
        let bridge = setup.start_ready().await;
        produce(mosquitto.port, count, 1_000_000, KEYS).await;
        bridge.metric_is("publish_breaker_open{api=\"main\"}", |v| v == 1.0).await;
        let path = ledger.path.to_str().unwrap();
        let _emulator = Emulator::start_at(&address, &["--ledger", path]);
        let began = Instant::now();
        ledger.has_ids(count as usize, PATIENCE).await;
        println!("{version}: {count} through {:.2} s after the API", began.elapsed().as_secs_f64());
        bridge.nothing_in_flight().await;
        let accepted = ledger.read();
        assert_eq!(accepted.len() as u64, count, "some came twice");
        assert_order(&accepted, 0);
        assert!(reconnects(&bridge).await <= 2.0);
    }
}
