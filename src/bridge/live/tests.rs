// The kinds of source they change between.
#![cfg(all(feature = "mqtt", feature = "nats"))]

use std::fs;
use std::path::Path;

use super::*;
use crate::config::{self, Environment};
use crate::delivery::tests::{Log, delivery};
use crate::delivery::{Done, Outcome};

/// One source, whose messages the one route rejects.
const BASE: &str = r#"
[api.main]
endpoint = "http://127.0.0.1:9/event"
auth = { type = "api-key", key = "da2-one" }
timeout = "1s"
[source.s]
type = "mqtt"
url = "mqtt://127.0.0.1:9"
client_id = "s"
subscriptions = ["t"]
[route.r]
from = "s"
channel = "/x/{json.no}"
"#;

/// A second one.
const MQTT: &str =
    "type = \"mqtt\"\nurl = \"mqtt://127.0.0.1:9\"\nclient_id = \"b\"\nsubscriptions = [\"b\"]\n";
const JETSTREAM: &str =
    "type = \"jetstream\"\nservers = [\"nats://127.0.0.1:9\"]\nstream = \"S\"\ndurable = \"d\"\n";

fn with_second(kind: &str) -> String {
    format!(
        "{}[source.b]\n{kind}[route.b]\nfrom = \"b\"\nchannel = \"/b/all\"\ndead_letter = \"discard\"\n",
        discarding()
    )
}

fn discarding() -> String {
    format!("{BASE}dead_letter = \"discard\"\n")
}

/// The rejects go to the first of these, each a name and its file.
fn with_dead_letters(all: &[(&str, &Path)]) -> String {
    let table = |(name, path): &(&str, &Path)| {
        format!("[dead_letter.{name}]\ntype = \"file\"\npath = \"{}\"\n", path.display())
    };
    let tables: String = all.iter().map(table).collect();
    format!("{BASE}dead_letter = \"{}\"\n{tables}", all[0].0)
}

thread_local! {
    /// Of the test of this thread: the dead letter that none has to name is there.
    static HOME: tempfile::TempDir = tempfile::tempdir().unwrap();
}

fn parsed(text: &str) -> Config {
    let home = HOME.with(|home| home.path().display().to_string());
    let environment = Environment::of([("HOME", home.as_str())]);
    let loaded = config::parse(text, Path::new("b.toml"), &environment);
    loaded.unwrap_or_else(|problems| panic!("{problems}")).config
}

async fn started(text: &str) -> Live {
    let config = parsed(text);
    let (metrics, health) = (Metrics::new(), Health::default());
    let mut live = Live::new(metrics, health, Shutdown::new(), None, Arc::new(config.clone()));
    let first = Box::pin(live.stage(config.clone(), Difference::of_start(&config))).await;
    live.apply(first.unwrap_or_else(|errors| panic!("{errors:?}")));
    live
}

async fn staged(live: &mut Live, text: &str) -> Result<Staged, Errors> {
    let new = parsed(text);
    let difference = Difference::between(live.config(), &new, &BTreeSet::new());
    Box::pin(live.stage(new, difference)).await
}

async fn change(live: &mut Live, text: &str) {
    let staged = staged(live, text).await.unwrap_or_else(|errors| panic!("{errors:?}"));
    live.apply(staged);
}

/// Waits for the end of a part that was told to.
async fn one_ends(live: &mut Live) {
    let ended = tokio::time::timeout(Duration::from_secs(20), live.ended()).await.unwrap();
    assert!(live.unless_expected(ended).is_none());
}

async fn until(what: &str, mut is: impl FnMut() -> bool) {
    for _ in 0..1_000 {
        if is() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not within 10 s: {what}");
}

fn has(live: &Live, text: &str) -> bool {
    live.ground.metrics.encode().contains(text)
}

#[tokio::test]
async fn a_dead_letter_by_another_name_takes_the_file_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("rejects");
    let named = |name| with_dead_letters(&[(name, &*file)]);
    let mut live = started(&named("a")).await;
    // As an event in flight has it.
    let old = live.way();
    let log = Arc::new(Log::default());
    for (at, name) in ["b", "c"].into_iter().enumerate() {
        change(&mut live, &named(name)).await;
        let why = live
            .ground
            .health
            .standings()
            .remove(&format!("dead_letter {name}"))
            .unwrap()
            .not_ready;
        assert!(why.unwrap().contains("waits until another dead letter"));
        one_ends(&mut live).await;
        old.submit(delivery(&log, at as u64));
        until("the old event is a dead letter", || log.seen().len() == at + 1).await;
        assert!(live.waits(), "it is still needed");
    }
    let written = Outcome::Accepted(Done::DeadLettered);
    assert_eq!(log.seen(), [(0, written), (1, written)]);
    assert_eq!(fs::read_to_string(&file).unwrap().lines().count(), 2);
    drop(old);
    until("the old names are gone", || {
        live.tidy();
        !live.waits()
    })
    .await;
    // Nothing holds the queue of one that goes now.
    change(&mut live, &discarding()).await;
    one_ends(&mut live).await;
}

#[tokio::test]
async fn one_that_was_taken_away_before_gives_its_file_up_too() {
    let directory = tempfile::tempdir().unwrap();
    let [file, other] = ["rejects", "others"].map(|name| directory.path().join(name));
    let mut live = started(&with_dead_letters(&[("a", &file)])).await;
    let old = live.way();
    change(&mut live, &with_dead_letters(&[("z", &other)])).await;
    change(&mut live, &with_dead_letters(&[("b", &file), ("z", &other)])).await;
    one_ends(&mut live).await;
    let log = Arc::new(Log::default());
    old.submit(delivery(&log, 1));
    until("the old event is a dead letter", || !log.seen().is_empty()).await;
    assert_eq!(fs::read_to_string(&file).unwrap().lines().count(), 1);
}

#[tokio::test]
async fn a_refusal_forgets_no_dead_letter_that_is_still_written_to() {
    let directory = tempfile::tempdir().unwrap();
    let [file, other] = ["rejects", "others"].map(|name| directory.path().join(name));
    let mut live = started(&with_dead_letters(&[("a", &file)])).await;
    let old = live.way();
    change(&mut live, &with_dead_letters(&[("z", &other)])).await;
    let unusable = with_dead_letters(&[("z", &other), ("a", &file.join("x"))]);
    assert!(staged(&mut live, &unusable).await.is_err());
    live.unstage();
    let series = "dead_letter_failing{dead_letter=\"a\"}";
    assert!(has(&live, series) && live.ground.metrics.made_dead_letter("a").is_some());
    drop(old);
    until("nobody needs it", || {
        live.tidy();
        !live.waits()
    })
    .await;
    one_ends(&mut live).await;
    assert!(!has(&live, series));
}

#[tokio::test]
async fn a_part_that_comes_again_while_the_old_one_ends_has_its_numbers() {
    let (with, without) = (with_second(MQTT), discarding());
    let mut live = started(&with).await;
    let series = "source_received_total{source=\"b\"}";
    change(&mut live, &without).await;
    let again = staged(&mut live, &with).await.unwrap_or_else(|errors| panic!("{errors:?}"));
    one_ends(&mut live).await;
    assert!(has(&live, series));
    live.apply(again);
    assert!(has(&live, series));

    change(&mut live, &without).await;
    let refused = staged(&mut live, &with).await;
    one_ends(&mut live).await;
    assert!(has(&live, series));
    drop(refused);
    live.unstage();
    assert!(!has(&live, series));
}

#[tokio::test]
async fn a_source_of_another_kind_has_the_numbers_of_that_kind_alone() {
    let mut live = started(&with_second(MQTT)).await;
    let kinds = |live: &Live| {
        ["source_retained_skipped_total", "source_ack_pending", "source_received_total"]
            .map(|name| has(live, &format!("{name}{{source=\"b\"}}")))
    };
    drop(staged(&mut live, &with_second(JETSTREAM)).await);
    live.unstage();
    assert_eq!(kinds(&live), [true, false, true], "refused");
    change(&mut live, &with_second(JETSTREAM)).await;
    one_ends(&mut live).await;
    assert_eq!(kinds(&live), [false, true, true]);
    assert_eq!(live.ground.metrics.lag("b"), Some(0));
    change(&mut live, &with_second(MQTT)).await;
    one_ends(&mut live).await;
    assert_eq!((kinds(&live), live.ground.metrics.lag("b")), ([true, false, true], None));
}

#[tokio::test]
async fn the_grace_of_a_part_is_that_of_the_newest_configuration() {
    let mut live = started(&discarding()).await;
    let grace = live.grace.subscribe();
    change(&mut live, &format!("{}[shutdown]\ngrace = \"7s\"\n", discarding())).await;
    assert_eq!(*grace.borrow(), Duration::from_secs(7));
}
