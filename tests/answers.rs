//! The answer matrix (T30): what each answer of the service does to events, in process, with a
//! scripted endpoint and a clock that is turned.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use appsync_bridge::delivery::{Delivery, Outcome, Settlement, Tracker};
use appsync_bridge::event_api::wire::PublishRequest;
use appsync_bridge::event_api::{Channel, Event};
use appsync_bridge::health::Health;
use appsync_bridge::message::{Coordinates, Message, Topic};
use appsync_bridge::metrics::Metrics;
use appsync_bridge::publish::post::{Failure, Post};
use appsync_bridge::publish::verdict::{Answer, Fault};
use appsync_bridge::publish::{Addressed, Entry, Policy, Publisher, Refused};
use appsync_bridge::shutdown::Shutdown;
use bytes::Bytes;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// What the endpoint does to one request.
enum Play {
    Answer(u16, String),
    RetryAfter(u16, u64),
    Fail(Fault),
    /// There is none, ever.
    Silence,
}

type Posts = Vec<(Duration, Vec<u64>)>;

/// Plays a script, then accepts everything.
#[derive(Clone, Default)]
struct Script {
    plays: Arc<Mutex<VecDeque<Play>>>,
    /// When, and which events.
    posts: Arc<Mutex<Posts>>,
    began: Arc<Mutex<Option<Instant>>>,
}

impl Post for Script {
    type Connection = ();

    async fn post(&self, (): &mut (), body: Bytes) -> Result<Answer, Failure> {
        let request: PublishRequest = serde_json::from_slice(&body).unwrap();
        let ids: Vec<u64> = request.events.iter().map(|e| e.parse().unwrap()).collect();
        let began = *self.began.lock().unwrap().get_or_insert_with(Instant::now);
        self.posts.lock().unwrap().push((began.elapsed(), ids.clone()));
        tokio::time::sleep(Duration::from_millis(1)).await;
        let play = self.plays.lock().unwrap().pop_front();
        let answer = |status, body: &str| Answer {
            status,
            body: Bytes::copy_from_slice(body.as_bytes()),
            ..Answer::default()
        };
        match play {
            None => Ok(answer(200, &accepted(ids.len()))),
            Some(Play::Answer(status, body)) => Ok(answer(status, &body)),
            Some(Play::RetryAfter(status, seconds)) => {
                Ok(Answer { retry_after: Some(Duration::from_secs(seconds)), ..answer(status, "") })
            }
            Some(Play::Silence) => std::future::pending().await,
            Some(Play::Fail(fault)) => Err(Failure { fault, why: "as the script says".to_owned() }),
        }
    }

    fn hint(&self) -> &'static str {
        "look at the script"
    }
}

/// How the duty of each event ended.
#[derive(Default)]
struct Ends(Mutex<Vec<(u64, Outcome)>>);

impl Tracker for Ends {
    fn settled(&self, token: u64, outcome: Outcome) {
        self.0.lock().unwrap().push((token, outcome));
    }
}

/// What came of it.
struct Run {
    /// The ids accepted, in the order of their settling.
    accepted: Vec<u64>,
    /// The ids handed back, with the reason.
    refused: Vec<(u64, String)>,
    posts: Posts,
    metrics: String,
}

impl Run {
    fn events(&self) -> Vec<Vec<u64>> {
        self.posts.iter().map(|(_, ids)| ids.clone()).collect()
    }

    fn metric(&self, series: &str) -> u64 {
        let name = format!("appsync_bridge_{series} ");
        let line = self.metrics.lines().find_map(|l| l.strip_prefix(&name));
        line.unwrap_or_else(|| panic!("no {series}")).parse().unwrap()
    }
}

/// Publishes the events 0 to `count` of one key through `script`, and lets everything come to its end.
fn play(count: u64, script: Vec<Play>) -> Run {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let post = Script { plays: Arc::new(Mutex::new(script.into())), ..Script::default() };
        let (metrics, ends) = (Metrics::new(), Arc::new(Ends::default()));
        let (refused, mut given_back) = mpsc::unbounded_channel();
        let (entries, queue) = mpsc::unbounded_channel();
        let publisher = publisher(&post, &metrics, refused);
        (0..count).for_each(|id| drop(entries.send(entry(id, &ends))));
        drop(entries);
        let run = tokio::spawn(publisher.run(queue, Shutdown::new()));
        let mut refused = Vec::new();
        while let Some(Refused { entry, why, .. }) = given_back.recv().await {
            refused.push((String::from_utf8_lossy(entry.event().text()).parse().unwrap(), why));
            entry.delivery.settle(Outcome::Rejected);
        }
        run.await.unwrap();
        let ends = ends.0.lock().unwrap().clone();
        assert!(ends.iter().all(|(_, o)| *o != Outcome::Released), "something was dropped");
        assert_eq!(ends.len() as u64, count, "each duty ends once");
        let posts = post.posts.lock().unwrap().clone();
        let accepted =
            ends.iter().filter(|(_, o)| *o == Outcome::Accepted).map(|(id, _)| *id).collect();
        Run { accepted, refused, posts, metrics: metrics.encode() }
    })
}

fn publisher(
    post: &Script,
    metrics: &Metrics,
    refused: mpsc::UnboundedSender<Refused>,
) -> Publisher<Script> {
    let health = Health::default();
    Publisher::new(post.clone(), &"main".into(), (8, 10_000.0), metrics, &health, refused)
}

fn entry(id: u64, ends: &Arc<Ends>) -> Addressed {
    let payload = Bytes::from(id.to_string());
    let escaped_len = Event::parse(&payload).unwrap().escaped_len();
    let message = Message {
        source: "s".into(),
        topic: Topic::new("t", '/'),
        key: None,
        headers: Vec::new(),
        payload,
        order: None,
        published: None,
        coordinates: Coordinates::default(),
    };
    let settlement = Settlement::new(Arc::<Ends>::clone(ends), id);
    let delivery = Delivery::new(message, settlement);
    let policy = Policy { route: 0, strict_order: false, give_up_after: 5 };
    let channel = Channel::parse("/a/b").unwrap();
    (channel, Entry::new(delivery, escaped_len, Some(b"k"[..].into()), policy))
}

fn accepted(count: usize) -> String {
    let successful: Vec<_> = (0..count).map(|i| json!({ "index": i, "identifier": "x" })).collect();
    json!({ "failed": [], "successful": successful }).to_string()
}

fn error(status: u16, kind: &str) -> Play {
    let body = json!({ "errors": [{ "errorType": kind, "message": "words" }] });
    Play::Answer(status, body.to_string())
}

#[allow(clippy::needless_pass_by_value)] // reads as the literal it is
fn failed(total: u64, failures: serde_json::Value) -> Play {
    let of: Vec<u64> =
        failures.as_array().unwrap().iter().map(|f| f["index"].as_u64().unwrap()).collect();
    let successful: Vec<_> =
        (0..total).filter(|i| !of.contains(i)).map(|i| json!({ "index": i })).collect();
    Play::Answer(200, json!({ "failed": failures, "successful": successful }).to_string())
}

const RETRIED_WHOLE: &str = "publish_retries_total{api=\"main\",fault=";

#[test]
fn a_success_is_one_request() {
    let run = play(5, vec![]);
    assert_eq!(run.events(), [[0, 1, 2, 3, 4]]);
    assert_eq!(run.accepted, [0, 1, 2, 3, 4]);
    assert_eq!(run.metric("publish_events_total{api=\"main\",outcome=\"accepted\"}"), 5);
}

#[test]
fn answers_that_say_nothing_are_never_a_success() {
    for body in [
        "",
        "{}",
        "<html>",
        "{\"failed\":[]",
        r#"{"failed":[],"successful":[{"index":0},{"index":0}]}"#,
        r#"{"failed":[{"index":0}],"successful":[{"index":0}]}"#,
        r#"{"failed":[],"successful":[{"index":7}]}"#,
    ] {
        let run = play(2, vec![Play::Answer(200, body.to_owned())]);
        assert_eq!(run.events(), [[0, 1], [0, 1]], "{body}");
        assert_eq!(run.accepted, [0, 1]);
        assert_eq!(run.metric(&format!("{RETRIED_WHOLE}\"unknown_answer\"}}")), 2);
    }
}

#[test]
fn a_batch_that_is_never_answered_is_split_after_three_tries() {
    for silence in [|| Play::Fail(Fault::Ambiguous), || Play::Answer(504, String::new())] {
        let run = play(3, (0..3).map(|_| silence()).collect());
        let whole = vec![0, 1, 2];
        assert_eq!(run.events(), [whole.clone(), whole.clone(), whole, vec![0], vec![1], vec![2]]);
        assert_eq!(run.accepted, [0, 1, 2]);
    }
}

#[test]
fn faults_that_pass_are_retried_whole_and_in_order() {
    for (status, word) in [
        (408, "unavailable"),
        (425, "unavailable"),
        (500, "unavailable"),
        (502, "unavailable"),
        (503, "unavailable"),
        (504, "unavailable"),
        (522, "unavailable"),
        (429, "throttled"),
    ] {
        let run = play(
            3,
            vec![Play::Answer(status, "<html>".to_owned()), Play::Answer(status, String::new())],
        );
        assert_eq!(run.events(), [[0, 1, 2], [0, 1, 2], [0, 1, 2]], "{status}");
        assert_eq!(run.accepted, [0, 1, 2]);
        assert_eq!(run.metric(&format!("{RETRIED_WHOLE}\"{word}\"}}")), 6);
        assert!(run.refused.is_empty());
    }
    for fault in [Fault::Connect, Fault::Ambiguous] {
        let run = play(3, vec![Play::Fail(fault), Play::Fail(fault)]);
        assert_eq!(run.accepted, [0, 1, 2]);
        let ambiguous = u64::from(fault == Fault::Ambiguous) * 2;
        assert_eq!(run.metric("ambiguous_total{api=\"main\"}"), ambiguous);
    }
}

#[test]
fn retry_after_is_a_floor_with_an_end() {
    for status in [429, 503] {
        let run = play(1, vec![Play::RetryAfter(status, 7)]);
        assert!(run.posts[1].0 >= Duration::from_secs(7), "{status}: {:?}", run.posts);
        let run = play(1, vec![Play::RetryAfter(status, u64::MAX)]);
        assert!(run.posts[1].0 <= Duration::from_secs(400), "{status}: {:?}", run.posts);
    }
}

#[test]
fn single_events_have_their_own_fate() {
    let run = play(
        5,
        vec![failed(
            5,
            json!([
                { "index": 1, "code": "EventTooLargeException", "message": "Transformed event is larger than 240KB" },
                { "index": 3, "code": 500, "message": "later" },
            ]),
        )],
    );
    assert_eq!(
        run.events(),
        [vec![0, 1, 2, 3, 4], vec![3]],
        "only what failed for a while is sent again"
    );
    assert_eq!(run.accepted, [0, 2, 4, 3]);
    let why = "EventTooLargeException: Transformed event is larger than 240KB".to_owned();
    assert_eq!(run.refused, [(1, why)]);
    assert_eq!(run.metric("publish_events_total{api=\"main\",outcome=\"rejected\"}"), 1);
    assert_eq!(run.metric("reordered_total{api=\"main\"}"), 1, "4 passed 3");
}

#[test]
fn an_event_that_is_named_nowhere_is_unconfirmed_and_not_sent_again() {
    let run =
        play(2, vec![Play::Answer(200, r#"{"failed":[],"successful":[{"index":1}]}"#.to_owned())]);
    assert_eq!(run.events(), [[0, 1]]);
    assert_eq!(run.accepted, [0, 1]);
    assert_eq!(run.metric("publish_events_total{api=\"main\",outcome=\"unconfirmed\"}"), 1);
}

#[test]
fn an_event_that_goes_on_failing_is_given_up_but_not_for_throttling() {
    let own = |_| failed(1, json!([{ "index": 0, "code": "Custom", "message": "no" }]));
    let run = play(1, (0..4).map(own).collect());
    assert_eq!((run.accepted, run.posts.len()), (vec![0], 5));
    let run = play(1, (0..5).map(own).collect());
    assert_eq!((run.refused.len(), run.posts.len()), (1, 5));
    assert!(
        run.refused[0].1.contains("5 tries") && run.refused[0].1.contains("Custom"),
        "{:?}",
        run.refused
    );
    let throttled = |_| failed(1, json!([{ "index": 0, "code": 429, "message": "slow down" }]));
    let run = play(1, (0..12).map(throttled).collect());
    assert_eq!((run.accepted, run.posts.len()), (vec![0], 13));
}

#[test]
fn refusals_of_us_pause_and_discard_nothing() {
    for play_of in [
        || error(401, "UnauthorizedException"),
        || error(403, "UnauthorizedException"),
        || error(403, "AccessDeniedException"),
        || error(403, "ExpiredTokenException"),
        || error(400, "InvalidSignatureException"),
        || Play::Answer(401, String::new()),
        || Play::Answer(403, "<html>".to_owned()),
        || Play::Answer(404, String::new()),
        || Play::Answer(301, String::new()),
        || Play::Answer(307, String::new()),
        || Play::Fail(Fault::Refused),
        || Play::Fail(Fault::Trust),
    ] {
        let run = play(2, vec![play_of(), play_of(), play_of()]);
        assert_eq!(run.accepted, [0, 1]);
        assert!(run.refused.is_empty());
        let at: Vec<u64> = run.posts.iter().map(|(at, _)| at.as_secs()).collect();
        assert_eq!(at, [0, 1, 2, 3], "one probe a second");
        assert_eq!(run.metric("api_paused{api=\"main\"}"), 0);
    }
}

#[test]
fn a_handler_s_refusal_is_the_event_s_own() {
    let run = play(3, vec![error(403, "TenantBlocked")]);
    assert_eq!(run.events(), [vec![0, 1, 2], vec![0], vec![1], vec![2]], "each alone");
    assert_eq!(run.accepted, [0, 1, 2]);
    let run = play(1, (0..5).map(|_| error(403, "TenantBlocked")).collect());
    assert_eq!(run.posts.len(), 5);
    assert!(run.refused[0].1.contains("TenantBlocked: words"), "{:?}", run.refused);
}

#[test]
fn the_guilty_event_of_a_bad_request_is_found() {
    // 0 is bad: the batch, then alone, and alone again after the others were accepted.
    let bad = || error(400, "BadRequestException");
    let ok = || Play::Answer(200, accepted(1));
    let run = play(2, vec![ok(), bad(), ok()]);
    // One key: what is alone goes in order.
    assert_eq!(run.refused, []);
    assert_eq!(run.accepted.len(), 2);
    let run = play(1, (0..3).map(|_| Play::Answer(413, String::new())).collect());
    assert_eq!((run.refused.len(), run.posts.len()), (1, 1), "too large is certain");
    let run = play(2, vec![Play::Answer(413, String::new()), Play::Answer(413, String::new())]);
    assert_eq!(run.events(), [vec![0, 1], vec![0], vec![1]]);
    assert_eq!((run.accepted, run.refused.len()), (vec![1], 1));
}

#[test]
fn an_api_that_calls_everything_bad_discards_nothing() {
    let run = play(5, (0..30).map(|_| error(400, "BadRequestException")).collect());
    assert_eq!(run.accepted, [0, 1, 2, 3, 4]);
    assert!(run.refused.is_empty());
    let last = run.posts.last().unwrap().0;
    assert!(last >= Duration::from_secs(25), "it asked 30 times in {last:?}");
}

#[test]
fn an_api_that_is_gone_is_asked_once_a_second_and_found_at_once() {
    let run = play(5, (0..60).map(|_| Play::Fail(Fault::Connect)).collect());
    assert_eq!(run.accepted, [0, 1, 2, 3, 4]);
    let late: Vec<Duration> = run.posts.iter().map(|(at, _)| *at).skip(10).collect();
    for pair in late.windows(2) {
        let gap = pair[1].abs_diff(pair[0]);
        assert!((990..=1_100).contains(&gap.as_millis()), "{gap:?}");
    }
    assert_eq!(run.metric("publish_breaker_open{api=\"main\"}"), 1, "one answer is not yet enough");
}

#[tokio::test(start_paused = true)]
async fn an_abort_releases_what_is_out_and_what_waits() {
    let post = Script { plays: Arc::new(Mutex::new([Play::Silence].into())), ..Script::default() };
    let (metrics, ends, shutdown) = (Metrics::new(), Arc::new(Ends::default()), Shutdown::new());
    let (refused, _given_back) = mpsc::unbounded_channel();
    let (entries, queue) = mpsc::unbounded_channel();
    let publisher = publisher(&post, &metrics, refused);
    (0..7).for_each(|id| drop(entries.send(entry(id, &ends))));
    let run = tokio::spawn(publisher.run(queue, shutdown.clone()));
    while post.posts.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    shutdown.start_abort();
    run.await.unwrap();
    // Its worker is stopped, which takes a turn of the runtime.
    while ends.0.lock().unwrap().len() < 7 {
        tokio::task::yield_now().await;
    }
    assert!(ends.0.lock().unwrap().iter().all(|(_, o)| *o == Outcome::Released));
}
