//! The publisher alone, in process: entries go in, a scripted endpoint answers, on a clock that is turned.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use appsync_bridge::delivery::{Delivery, Done, Outcome, Settlement, Tracker};
use appsync_bridge::event_api::sent::PublishRequest;
use appsync_bridge::event_api::{Channel, Event};
use appsync_bridge::health::Health;
use appsync_bridge::message::{Coordinates, Message, Topic};
use appsync_bridge::metrics::Metrics;
use appsync_bridge::publish::post::{Answer, Failure, Fault, Post};
use appsync_bridge::publish::{Addressed, Entry, Publisher, Refused};
use appsync_bridge::route::{OrderBy, RejectTo, Spec};
use appsync_bridge::shutdown::Shutdown;
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

/// On the clock that is turned. A publisher that takes longer has come to a halt.
const PATIENCE: Duration = Duration::from_hours(2);

/// What the endpoint does to one request.
pub(crate) enum Play {
    Accept,
    Answer(u16, String),
    RetryAfter(u16, u64),
    /// So many milliseconds later, a status.
    After(u64, u16),
    Fail(Fault),
    /// There is no answer, ever.
    Silence,
}

/// A request that came, and when.
#[derive(Clone, Debug)]
pub(crate) struct Posted {
    pub(crate) at: Duration,
    pub(crate) channel: String,
    pub(crate) ids: Vec<u64>,
}

type Judge = Box<dyn FnMut(&Posted) -> Play + Send>;

/// An endpoint that answers each request as it is told to.
#[derive(Clone)]
pub(crate) struct Script {
    judge: Arc<Mutex<Judge>>,
    posts: Arc<Mutex<Vec<Posted>>>,
    began: Instant,
}

impl Script {
    pub(crate) fn new(judge: impl FnMut(&Posted) -> Play + Send + 'static) -> Self {
        let judge: Judge = Box::new(judge);
        Self { judge: Arc::new(Mutex::new(judge)), posts: Arc::default(), began: Instant::now() }
    }

    /// What came so far.
    pub(crate) fn posts(&self) -> Vec<Posted> {
        self.posts.lock().unwrap().clone()
    }

    /// A publisher for it, of eight requests at a time.
    pub(crate) fn publisher(
        &self,
        metrics: &Metrics,
        refused: mpsc::UnboundedSender<Refused>,
    ) -> Publisher<Self> {
        self.publisher_seen(metrics, &Health::default(), refused)
    }

    /// The same, which tells how it is.
    pub(crate) fn publisher_seen(
        &self,
        metrics: &Metrics,
        health: &Health,
        refused: mpsc::UnboundedSender<Refused>,
    ) -> Publisher<Self> {
        Publisher::new(self.clone(), &"main".into(), (8, 10_000.0), metrics, health, refused)
    }
}

impl Post for Script {
    type Connection = ();

    async fn post(&self, (): &mut (), body: Bytes) -> Result<Answer, Failure> {
        let request = PublishRequest::parse(&body).unwrap();
        let ids: Vec<u64> = request.events.iter().map(|e| e.parse().unwrap()).collect();
        let channel = request.channel.clone();
        let posted = Posted { at: self.began.elapsed(), channel, ids };
        self.posts.lock().unwrap().push(posted.clone());
        sleep(Duration::from_millis(1)).await;
        let answer = |status, body: &str| Answer {
            status,
            body: Bytes::copy_from_slice(body.as_bytes()),
            ..Answer::default()
        };
        let play = (self.judge.lock().unwrap())(&posted);
        match play {
            Play::Accept => Ok(answer(200, &accepted(posted.ids.len()))),
            Play::Answer(status, body) => Ok(answer(status, &body)),
            Play::RetryAfter(status, seconds) => {
                Ok(Answer { retry_after: Some(Duration::from_secs(seconds)), ..answer(status, "") })
            }
            Play::After(wait, status) => {
                sleep(Duration::from_millis(wait)).await;
                let body = if status == 200 { accepted(posted.ids.len()) } else { String::new() };
                Ok(answer(status, &body))
            }
            Play::Silence => std::future::pending().await,
            Play::Fail(fault) => Err(Failure { fault, why: "as the script says".to_owned() }),
        }
    }

    fn hint(&self, _elsewhere: bool) -> &'static str {
        "look at the script"
    }
}

/// How the duty of each event ended.
#[derive(Default)]
pub(crate) struct Ends(Mutex<Vec<(u64, Outcome)>>);

impl Ends {
    pub(crate) fn all(&self) -> Vec<(u64, Outcome)> {
        self.0.lock().unwrap().clone()
    }
}

impl Tracker for Ends {
    fn settled(&self, token: u64, outcome: Outcome) {
        self.0.lock().unwrap().push((token, outcome));
    }

    fn charge(&self, _: u64, _: usize) {}
}

/// What came of it.
pub(crate) struct Run {
    /// The ids accepted, in the order of their settling.
    pub(crate) accepted: Vec<u64>,
    /// The ids handed back, with the reason.
    pub(crate) refused: Vec<(u64, String)>,
    pub(crate) posts: Vec<Posted>,
    metrics: String,
}

impl Run {
    pub(crate) fn events(&self) -> Vec<Vec<u64>> {
        self.posts.iter().map(|posted| posted.ids.clone()).collect()
    }

    pub(crate) fn metric(&self, series: &str) -> u64 {
        let name = format!("appsync_bridge_{series} ");
        let line = self.metrics.lines().find_map(|l| l.strip_prefix(&name));
        line.unwrap_or_else(|| panic!("no {series}")).parse().unwrap()
    }
}

/// Publishes the events 0 to `count` of one key through a script, after which everything is accepted, and
/// lets everything come to its end.
pub(crate) fn play(count: u64, script: Vec<Play>) -> Run {
    let mut script = VecDeque::from(script);
    let events = (0..count).map(|id| (Duration::ZERO, "/a/b", "k", id));
    play_by(events.collect(), move |_| script.pop_front().unwrap_or(Play::Accept))
}

/// Publishes events, each so long after the one before it, to this channel, with this key (an empty one
/// is none), and lets everything come to its end.
pub(crate) fn play_by(
    events: Vec<(Duration, &str, impl AsRef<str>, u64)>,
    judge: impl FnMut(&Posted) -> Play + Send + 'static,
) -> Run {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let post = Script::new(judge);
        let (metrics, ends) = (Metrics::new(), Arc::new(Ends::default()));
        let (refused, mut given_back) = mpsc::unbounded_channel();
        let (entries, queue) = mpsc::unbounded_channel();
        let run = tokio::spawn(post.publisher(&metrics, refused).run(queue, Shutdown::new()));
        let count = events.len();
        let feed = async {
            for (after, channel, key, id) in events {
                if !after.is_zero() {
                    sleep(after).await;
                }
                drop(entries.send(entry(channel, key.as_ref(), id, &ends)));
            }
            drop(entries);
        };
        let mut refused = Vec::new();
        let give_back = async {
            while let Some(Refused { entry, why, .. }) = given_back.recv().await {
                refused.push((String::from_utf8_lossy(entry.event().text()).parse().unwrap(), why));
                entry.delivery.settle(Outcome::Rejected);
            }
        };
        let all = async { tokio::join!(feed, give_back) };
        let done = timeout(PATIENCE, all).await;
        let posts = post.posts();
        assert!(done.is_ok(), "it came to a halt: {:?}", posts.iter().rev().take(10));
        run.await.unwrap();
        let ends = ends.all();
        assert!(ends.iter().all(|(_, o)| *o != Outcome::Released), "something was dropped");
        assert_eq!(ends.len(), count, "each duty ends once");
        let is_taken = |o: Outcome| o <= Outcome::Accepted(Done::Unconfirmed);
        let accepted = ends.iter().filter(|(_, o)| is_taken(*o)).map(|(id, _)| *id).collect();
        let run = Run { accepted, refused, posts, metrics: metrics.encode() };
        assert_eq!(run.metric("api_paused{api=\"main\"}"), 0, "nothing is left to end the pause");
        run
    })
}

pub(crate) fn entry(channel: &str, key: &str, id: u64, ends: &Arc<Ends>) -> Addressed {
    entry_until(None, channel, key, id, ends)
}

/// One of no use after `expires`.
pub(crate) fn entry_until(
    expires: Option<Instant>,
    channel: &str,
    key: &str,
    id: u64,
    ends: &Arc<Ends>,
) -> Addressed {
    entry_of(delivery(expires, id, ends), channel, key)
}

/// The delivery of an event.
pub(crate) fn delivery(expires: Option<Instant>, id: u64, ends: &Arc<Ends>) -> Delivery {
    let payload = Bytes::from(id.to_string());
    let message = Message {
        source: "s".into(),
        topic: Topic::new("t", '/'),
        key: None,
        headers: Vec::new(),
        payload,
        order: None,
        published: None,
        expires: expires.map(Instant::into_std),
        coordinates: Coordinates::default(),
    };
    let settlement = Settlement::new(Arc::<Ends>::clone(ends), id);
    Delivery::new(message, settlement)
}

/// The entry of a delivery.
pub(crate) fn entry_of(delivery: Delivery, channel: &str, key: &str) -> Addressed {
    let escaped_len = Event::parse(&delivery.message().payload).unwrap().escaped_len();
    let channel = Channel::parse(channel).unwrap();
    let order = (!key.is_empty()).then(|| key.as_bytes().into());
    (channel, Entry::new(delivery, escaped_len, order, Arc::new(route())))
}

fn route() -> Spec {
    Spec {
        name: "r".into(),
        from: vec!["s".into()],
        topic: None,
        channels: Vec::new(),
        api: "main".into(),
        order: OrderBy::Source,
        strict_order: false,
        give_up_after: 5,
        dead_letter: RejectTo::Discard,
    }
}

/// The body of an answer that accepts so many events.
pub(crate) fn accepted(count: usize) -> String {
    let successful: Vec<_> = (0..count).map(|i| json!({ "index": i, "identifier": "x" })).collect();
    json!({ "failed": [], "successful": successful }).to_string()
}

/// An answer that refuses a request whole.
pub(crate) fn error(status: u16, kind: &str) -> Play {
    let body = json!({ "errors": [{ "errorType": kind, "message": "words" }] });
    Play::Answer(status, body.to_string())
}

/// An answer that fails some of `total` events.
#[allow(clippy::needless_pass_by_value)] // reads as the literal it is
pub(crate) fn failed(total: u64, failures: Value) -> Play {
    let of: Vec<u64> =
        failures.as_array().unwrap().iter().map(|f| f["index"].as_u64().unwrap()).collect();
    let successful: Vec<_> =
        (0..total).filter(|i| !of.contains(i)).map(|i| json!({ "index": i })).collect();
    Play::Answer(200, json!({ "failed": failures, "successful": successful }).to_string())
}
