//! T14: what brokers say when they are not well, from librdkafka's own mock of a cluster: it says what it is
//! told to, where a real one would have to be caught at it.

#![allow(clippy::cast_sign_loss)] // offsets of a test

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rdkafka::config::{FromClientConfigAndContext as _, RDKafkaLogLevel};
use rdkafka::message::DeliveryResult;
use rdkafka::mocking::{MockCluster, MockCoordinator};
use rdkafka::producer::{Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::types::{RDKafkaApiKey as Api, RDKafkaRespErr as Code};
use rdkafka::{ClientConfig, ClientContext};

use crate::support::PATIENCE;
use crate::support::bridge::Setup;
use crate::support::emulator::Emulator;
use crate::support::kafka::groups::Group;
use crate::support::kafka::records::Producer;
use crate::support::ledger::{assert_first_in_order, ids};
use crate::support::shop::{IN_FLIGHT, record, stop};
use crate::support::until;

type Mock<'a> = MockCluster<'a, Answers>;

/// How often the mock answered, by the kind of request. Every answer takes one of the errors that it was
/// told to give, as long as there are any.
#[derive(Clone, Debug, Default)]
struct Answers(Arc<Mutex<HashMap<String, usize>>>);

impl Answers {
    fn of(&self, api: Api) -> usize {
        let name = match api {
            Api::OffsetCommit => "OffsetCommit",
            Api::Fetch => "Fetch",
            Api::Heartbeat => "Heartbeat",
            Api::JoinGroup => "JoinGroup",
            Api::SyncGroup => "SyncGroup",
            Api::FindCoordinator => "FindCoordinator",
            Api::OffsetFetch => "OffsetFetch",
            Api::ListOffsets => "ListOffsets",
            other => panic!("{other:?}"),
        };
        self.0.lock().unwrap().get(name).copied().unwrap_or(0)
    }
}

impl ClientContext for Answers {
    /// `Broker 1: Sending HeartbeatResponseV3 to 127.0.0.1:40000`
    fn log(&self, _: RDKafkaLogLevel, _: &str, text: &str) {
        let kind = text.split_once(": Sending ").and_then(|(_, kind)| kind.split_once("ResponseV"));
        if let Some((kind, _)) = kind {
            *self.0.lock().unwrap().entry(kind.to_owned()).or_default() += 1;
        }
    }
}

impl ProducerContext for Answers {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}

const TOPIC: &str = "orders";
const GROUP: &str = "bridge";
const PARTITIONS: i32 = 4;
const BROKERS: i32 = 3;
const KEYS: u64 = 8;
const MESSAGES: u64 = 200;
const REBALANCES: &str = "source_rebalances_total{source=\"shop\"}";

/// Something that goes wrong while messages flow, and how it is over.
struct Trouble {
    what: &'static str,
    answers: &'static [(Api, &'static [Code])],
    happen: fn(&Mock<'_>),
    end: fn(&Mock<'_>),
}

impl Trouble {
    /// Changes of the assignment that follow at least: a member that is told to join again gets all of it
    /// anew, and before that loses it if it was out of the group.
    fn rebalances(&self) -> f64 {
        let told = |code: Code| {
            self.answers.iter().any(|(api, codes)| *api == Api::Heartbeat && codes.contains(&code))
        };
        if told(UNKNOWN_MEMBER) || told(OLD_GENERATION) {
            2.0
        } else if told(REBALANCING) {
            1.0
        } else {
            0.0
        }
    }
}

const fn answers(what: &'static str, answers: &'static [(Api, &'static [Code])]) -> Trouble {
    Trouble { what, answers, happen: |_| {}, end: |_| {} }
}

use Code::{
    RD_KAFKA_RESP_ERR__TRANSPORT as CUT, RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS as LOADING,
    RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE as NO_COORDINATOR,
    RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION as OLD_GENERATION,
    RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR as STORAGE,
    RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE as NO_LEADER,
    RD_KAFKA_RESP_ERR_NOT_COORDINATOR as NOT_COORDINATOR,
    RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION as NOT_LEADER,
    RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS as REBALANCING,
    RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT as TIMED_OUT,
    RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID as UNKNOWN_MEMBER,
    RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART as UNKNOWN_TOPIC,
};

/// What a member can go on with.
const OF_THE_WIRE: &[Trouble] = &[
    answers("commits are refused", &[(Api::OffsetCommit, &[REBALANCING, LOADING, TIMED_OUT])]),
    answers("commits go to another", &[(Api::OffsetCommit, &[NOT_COORDINATOR, NO_COORDINATOR])]),
    answers("commits of an old member", &[(Api::OffsetCommit, &[OLD_GENERATION, UNKNOWN_MEMBER])]),
    answers("commits are cut", &[(Api::OffsetCommit, &[CUT, CUT])]),
    answers(
        "fetches are refused",
        &[(Api::Fetch, &[NOT_LEADER, NO_LEADER, UNKNOWN_TOPIC, STORAGE, TIMED_OUT])],
    ),
    answers("fetches are cut", &[(Api::Fetch, &[CUT, CUT, CUT])]),
    Trouble {
        what: "answers take 2 s",
        answers: &[],
        happen: |mock| slow(mock, Duration::from_secs(2)),
        end: |mock| slow(mock, Duration::ZERO),
    },
    Trouble {
        what: "leaders change",
        answers: &[],
        happen: |mock| {
            for partition in 0..PARTITIONS {
                mock.partition_leader(TOPIC, partition, Some(1 + (partition + 1) % BROKERS))
                    .unwrap();
            }
        },
        end: |_| {},
    },
    Trouble {
        what: "the coordinator moves",
        answers: &[],
        happen: |mock| mock.coordinator(MockCoordinator::Group(GROUP.into()), 2).unwrap(),
        end: |_| {},
    },
    Trouble {
        what: "the coordinator is down",
        answers: &[],
        happen: |mock| mock.broker_down(2).unwrap(),
        end: |mock| mock.broker_up(2).unwrap(),
    },
    Trouble {
        what: "all are down",
        answers: &[],
        happen: |mock| (1..=BROKERS).for_each(|broker| mock.broker_down(broker).unwrap()),
        end: |mock| (1..=BROKERS).for_each(|broker| mock.broker_up(broker).unwrap()),
    },
];

/// What makes a member join again, which takes a session of the mock.
const OF_THE_GROUP: &[Trouble] = &[
    answers(
        "the group rebalances",
        &[
            (Api::Heartbeat, &[REBALANCING]),
            (Api::JoinGroup, &[NO_COORDINATOR, NOT_COORDINATOR]),
            (Api::SyncGroup, &[REBALANCING]),
        ],
    ),
    answers(
        "the member is forgotten",
        &[(Api::Heartbeat, &[UNKNOWN_MEMBER]), (Api::JoinGroup, &[UNKNOWN_MEMBER])],
    ),
    answers(
        "the generation is over",
        &[(Api::Heartbeat, &[OLD_GENERATION]), (Api::SyncGroup, &[OLD_GENERATION])],
    ),
    answers(
        "the coordinator is lost",
        &[
            (Api::Heartbeat, &[NOT_COORDINATOR]),
            (Api::FindCoordinator, &[NO_COORDINATOR, LOADING, CUT]),
        ],
    ),
    answers(
        "positions are not known",
        &[(Api::Heartbeat, &[UNKNOWN_MEMBER]), (Api::OffsetFetch, &[LOADING, CUT])],
    ),
];

/// Of what is asked all the time, some answers may be on their way into the count while errors are told.
fn spare(api: Api) -> usize {
    if matches!(api, Api::OffsetCommit | Api::Fetch | Api::Heartbeat) { 2 } else { 0 }
}

/// librdkafka asks no second time for a position when this was the answer, and takes nothing from the
/// partition until it is assigned anew.
const OF_THE_POSITION: Trouble = answers(
    "positions are asked of another",
    &[(Api::Heartbeat, &[UNKNOWN_MEMBER]), (Api::OffsetFetch, &[NOT_COORDINATOR])],
);

/// What the broker says first of where a log begins.
const OF_THE_ENDS: &[Code] = &[NO_LEADER, NOT_LEADER];

fn slow(mock: &Mock<'_>, delay: Duration) {
    for broker in 1..=BROKERS {
        mock.broker_round_trip_time(broker, delay).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_brokers_answer_nothing_is_lost() {
    let rounds = if std::env::var_os("LONG_TESTS").is_some() { 10 } else { 1 };
    survive((0..rounds).flat_map(|_| OF_THE_WIRE)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_becomes_of_the_group_nothing_is_lost() {
    // Each for itself: while a member joins, it hears of nothing else.
    let all = OF_THE_GROUP.iter().map(|trouble| survive([trouble]));
    futures_util::future::join_all(all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_that_another_coordinator_has_is_asked_for_again() {
    survive([&OF_THE_POSITION]).await;
}

/// Relays messages through these troubles, one after another. Every error is met before it goes on.
async fn survive(troubles: impl IntoIterator<Item = &'static Trouble>) {
    let answers = Answers::default();
    let mut host = ClientConfig::new();
    host.set("test.mock.num.brokers", BROKERS.to_string()).set("debug", "mock");
    host.set_log_level(RDKafkaLogLevel::Debug);
    let host: ThreadedProducer<Answers> =
        ThreadedProducer::from_config_and_context(&host, answers.clone()).unwrap();
    let mock = host.client().mock_cluster().unwrap();
    mock.create_topic(TOPIC, PARTITIONS, 3).unwrap();
    mock.coordinator(MockCoordinator::Group(GROUP.into()), 1).unwrap();
    let brokers = mock.bootstrap_servers();
    let directory = tempfile::tempdir().unwrap();
    let (emulator, ledger) = Emulator::with_ledger(&directory, &["--latency", "20ms"]);
    let list = brokers.split(',').map(|broker| format!("\"{broker}\"")).collect::<Vec<_>>();
    let tables = format!(
        "[source.shop]\ntype = \"kafka\"\nbrokers = [{}]\ngroup = \"{GROUP}\"\ntopics = \"{TOPIC}\"\n\
         session_timeout = \"6s\"\ndrain_timeout = \"5s\"\n\
         options = {{ \"heartbeat.interval.ms\" = 300, \"reconnect.backoff.max.ms\" = 500 }}\n\
         [route.data]\nfrom = \"shop\"\nchannel = \"/shop/dev-{{json.key}}\"\n",
        list.join(", ")
    );
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", &brokers).set("reconnect.backoff.max.ms", "500");
    let producer = Producer::new(client.clone());
    let setup = Setup::of(&emulator.endpoint, "", &tables, "");
    // They are asked for where nothing is committed, and that is now.
    mock.request_errors(Api::ListOffsets, OF_THE_ENDS);
    let bridge = setup.start_ready().await;

    let send = |ids: std::ops::Range<u64>| {
        let put = |id: u64| {
            let partition = i32::try_from(id % KEYS).unwrap() % PARTITIONS;
            producer.put(TOPIC, &record(id, KEYS).partition(partition))
        };
        ids.map(put).collect::<Vec<_>>()
    };
    until("the ends of the log are known at last", PATIENCE, async || {
        (answers.of(Api::ListOffsets) > OF_THE_ENDS.len()).then_some(())
    })
    .await;
    // What else belongs to the first assignment is no answer to any trouble.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut sent = 0;
    for trouble in troubles {
        let rebalances = bridge.metric(REBALANCES).await;
        let expect =
            |(api, codes): &(Api, &[Code])| (*api, answers.of(*api) + codes.len() + spare(*api));
        let expected: Vec<_> = trouble.answers.iter().map(expect).collect();
        for (api, codes) in trouble.answers {
            mock.request_errors(*api, codes);
        }
        (trouble.happen)(&mock);
        let mut under_way = send(sent..sent + MESSAGES);
        sent += MESSAGES;
        // Of what the mock does by itself nobody has to be told.
        if trouble.answers.is_empty() {
            tokio::time::sleep(Duration::from_millis(2_500)).await;
        }
        let met = Instant::now() + PATIENCE;
        while let Some((api, _)) = expected.iter().find(|(api, count)| answers.of(*api) < *count) {
            assert!(
                Instant::now() < met,
                "{}: {api:?} was not answered with all; {} of {sent} there; answers: {answers:?}",
                trouble.what,
                ids(&ledger.read()).len()
            );
            // There is always something to commit.
            under_way.extend(send(sent..sent + KEYS));
            sent += KEYS;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        (trouble.end)(&mock);
        let over = Instant::now();
        under_way.extend(send(sent..sent + MESSAGES));
        sent += MESSAGES;
        for confirmed in under_way {
            confirmed.await.unwrap().unwrap();
        }
        ledger.has_ids(sent as usize, PATIENCE).await;
        bridge.metric_is(IN_FLIGHT, |v| v == 0.0).await;
        bridge.metric_is(REBALANCES, |v| v >= rebalances + trouble.rebalances()).await;
        println!(
            "{}: all of {sent} there {:?} later, {} rebalances more",
            trouble.what,
            over.elapsed(),
            bridge.metric(REBALANCES).await - rebalances
        );
    }
    let accepted = ledger.read();
    assert_eq!(ids(&accepted).len() as u64, sent);
    assert_first_in_order(&accepted);
    let group = Group::of(client, GROUP);
    until("all is committed", PATIENCE, async || {
        let committed = group.committed(TOPIC).await;
        (committed.values().sum::<i64>() as u64 == sent).then_some(())
    })
    .await;
    bridge.ready().await;
    println!("{sent} messages, {} repeats", accepted.len() as u64 - sent);
    stop(bridge).await;
}

/// Messages flow meanwhile, so nothing else would show it.
#[tokio::test(flavor = "multi_thread")]
async fn commits_that_are_refused_for_a_minute_are_no_secret() {
    const REFUSED: Code = Code::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED;
    let mock = MockCluster::new(1).unwrap();
    mock.create_topic(TOPIC, 1, 1).unwrap();
    let brokers = mock.bootstrap_servers();
    let emulator = Emulator::start(&[]);
    let tables = format!(
        "[source.shop]\ntype = \"kafka\"\nbrokers = \"{brokers}\"\ngroup = \"{GROUP}\"\ntopics = \"{TOPIC}\"\n\
         [route.data]\nfrom = \"shop\"\nchannel = \"/shop/dev-{{json.key}}\"\n"
    );
    let bridge = Setup::of(&emulator.endpoint, "", &tables, "").start_ready().await;
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", &brokers);
    let producer = Producer::new(client);
    let sending = async {
        for id in 0.. {
            producer.put(TOPIC, &record(id, KEYS).partition(0)).await.unwrap().unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let watching = async {
        mock.request_errors(Api::OffsetCommit, &[REFUSED; 70]);
        let began = Instant::now();
        let refused = until("it says so", PATIENCE, async || {
            let (status, text) = bridge.get("/readyz").await;
            (status == 503).then_some(text)
        })
        .await;
        assert!(refused.contains("can't be committed"), "{refused}");
        assert!(began.elapsed() > Duration::from_secs(50), "a rebalance takes a moment too");
        assert_eq!(bridge.lines(&["positions can't be committed", "times"]).len(), 1);
        bridge.ready().await;
    };
    tokio::select! {
        () = sending => {}
        () = watching => {}
    }
    stop(bridge).await;
}
