//! T14: what brokers say when they are not well, from librdkafka's own mock of a cluster: it says what it is
//! told to, where a real one would have to be caught at it.

#![allow(clippy::cast_sign_loss)] // offsets of a test

use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::mocking::{MockCluster, MockCoordinator};
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey as Api, RDKafkaRespErr as Code};

use crate::support::bridge::Setup;
use crate::support::emulator::Emulator;
use crate::support::kafka::groups::Group;
use crate::support::kafka::records::Producer;
use crate::support::ledger::{Ledger, assert_first_in_order, ids};
use crate::support::shop::{IN_FLIGHT, record, stop};
use crate::support::until;

type Mock = MockCluster<'static, DefaultProducerContext>;

/// T14 gives it 30 s; a machine that measures something else may stand still meanwhile.
const PATIENCE: Duration = Duration::from_mins(1);

const TOPIC: &str = "orders";
const GROUP: &str = "bridge";
const PARTITIONS: i32 = 4;
const BROKERS: i32 = 3;
const KEYS: u64 = 8;
const MESSAGES: u64 = 200;

/// Something that goes wrong while messages flow, and how it is over.
struct Trouble {
    what: &'static str,
    answers: &'static [(Api, &'static [Code])],
    happen: fn(&Mock),
    end: fn(&Mock),
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
        &[
            (Api::Heartbeat, &[UNKNOWN_MEMBER]),
            (Api::OffsetFetch, &[LOADING, NOT_COORDINATOR, CUT]),
            (Api::ListOffsets, &[NO_LEADER, NOT_LEADER]),
        ],
    ),
];

fn slow(mock: &Mock, delay: Duration) {
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
    let rebalances = futures_util::future::join_all(all).await;
    // Of the first assignment is one; who is out of the group loses all, and gets it again.
    for (trouble, rebalances) in OF_THE_GROUP.iter().zip(rebalances) {
        let least =
            if trouble.answers.iter().any(|a| a.1.contains(&UNKNOWN_MEMBER)) { 3.0 } else { 1.0 };
        assert!(rebalances >= least, "{}: {rebalances} rebalances", trouble.what);
    }
}

/// Relays messages through these troubles, one after another; gives the number of rebalances.
async fn survive(troubles: impl IntoIterator<Item = &'static Trouble>) -> f64 {
    let mock = MockCluster::new(BROKERS).unwrap();
    mock.create_topic(TOPIC, PARTITIONS, 3).unwrap();
    mock.coordinator(MockCoordinator::Group(GROUP.into()), 1).unwrap();
    let brokers = mock.bootstrap_servers();
    let directory = tempfile::tempdir().unwrap();
    let ledger = Ledger { path: directory.path().join("ledger.jsonl") };
    let path = ledger.path.to_str().unwrap();
    let emulator = Emulator::start(&["--latency", "20ms", "--ledger", path]);
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
    let bridge = setup.start_ready().await;

    let send = |ids: std::ops::Range<u64>| {
        let put = |id: u64| {
            let partition = i32::try_from(id % KEYS).unwrap() % PARTITIONS;
            producer.put(TOPIC, &record(id, KEYS).partition(partition))
        };
        ids.map(put).collect::<Vec<_>>()
    };
    let mut sent = 0;
    for trouble in troubles {
        for (api, codes) in trouble.answers {
            mock.request_errors(*api, codes);
        }
        (trouble.happen)(&mock);
        let mut under_way = send(sent..sent + MESSAGES);
        // Commits are made every second, and heartbeats more often: all of them meet it.
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        for (api, _) in trouble.answers {
            mock.clear_request_errors(*api);
        }
        (trouble.end)(&mock);
        let over = Instant::now();
        under_way.extend(send(sent + MESSAGES..sent + 2 * MESSAGES));
        sent += 2 * MESSAGES;
        for confirmed in under_way {
            confirmed.await.unwrap().unwrap();
        }
        ledger.has_ids(sent as usize, PATIENCE).await;
        bridge.metric_is(IN_FLIGHT, |v| v == 0.0).await;
        let rebalances = bridge.metric("source_rebalances_total{source=\"shop\"}").await;
        println!(
            "{}: all of {sent} there {:?} later, {rebalances} rebalances so far",
            trouble.what,
            over.elapsed()
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
    let rebalances = bridge.metric("source_rebalances_total{source=\"shop\"}").await;
    stop(bridge).await;
    rebalances
}
