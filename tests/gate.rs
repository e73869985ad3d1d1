//! The intake gate: a source that can leave its messages with the broker takes them while the API works, whatever becomes of
//! single ones, and leaves them there in an outage. In process, with a scripted endpoint and a clock that is turned.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use appsync_bridge::delivery::{Delivery, Done, Intake, Outcome};
use appsync_bridge::metrics::Metrics;
use appsync_bridge::publish::Refused;
use appsync_bridge::publish::post::Fault;
use appsync_bridge::shutdown::Shutdown;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::support::script::{Ends, Play, Posted, Script, delivery, entry_of};

/// The event that the API does not take.
const BAD: u64 = 0;

/// A publisher, and a source before its gate whose broker has an event each `apart`, from 0 on.
struct Fed {
    began: Instant,
    post: Script,
    ends: Arc<Ends>,
    taken: Arc<AtomicU64>,
    refused: mpsc::UnboundedReceiver<Refused>,
    _tasks: JoinSet<()>,
}

impl Fed {
    fn start(
        apart: Duration,
        of: impl Fn(u64) -> (&'static str, String) + Send + Sync + 'static,
        judge: impl FnMut(&Posted) -> Play + Send + 'static,
    ) -> Self {
        let (post, ends) = (Script::new(judge), Arc::new(Ends::default()));
        let (give_back, refused) = mpsc::unbounded_channel();
        let publisher = post.publisher(&Metrics::new(), give_back);
        let (entries, queue) = mpsc::unbounded_channel();
        let take = move |delivery: Delivery| {
            let id = String::from_utf8_lossy(&delivery.message().payload).parse().unwrap();
            let (channel, key) = of(id);
            drop(entries.send(entry_of(delivery, channel, &key)));
        };
        let intake = Intake::new(take).behind(vec![publisher.gate()]);
        let mut tasks = JoinSet::new();
        tasks.spawn(publisher.run(queue, Shutdown::new()));
        let (began, taken) = (Instant::now(), Arc::<AtomicU64>::default());
        let (counted, tracked) = (Arc::clone(&taken), Arc::clone(&ends));
        tasks.spawn(async move {
            for id in 0.. {
                sleep_until(began + apart * u32::try_from(id).unwrap()).await;
                intake.until_open().await;
                counted.fetch_add(1, Ordering::Relaxed);
                intake.submit(delivery(None, id, &tracked));
                tokio::task::yield_now().await;
            }
        });
        Self { began, post, ends, taken, refused, _tasks: tasks }
    }

    async fn at(&self, second: u64) {
        sleep_until(self.began + Duration::from_secs(second)).await;
    }

    fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    fn published(&self) -> Vec<u64> {
        let published = |(id, outcome): (u64, Outcome)| {
            (outcome == Outcome::Accepted(Done::Published)).then_some(id)
        };
        self.ends.all().into_iter().filter_map(published).collect()
    }
}

/// Quiet traffic, one event after the other: the one that fails is all there is to ask with.
async fn one_holds_up_nobody_else(play: fn() -> Play) {
    let bad_until = Duration::from_mins(5);
    let judge = move |posted: &Posted| {
        let bad = posted.ids.contains(&BAD) && posted.at < bad_until;
        if bad { play() } else { Play::Accept }
    };
    // Each third one waits for it, since they have one key.
    let of = |id: u64| ("/a/x", if id % 3 == BAD { "bad".to_owned() } else { id.to_string() });
    let apart = Duration::from_secs(8);
    let mut fed = Fed::start(apart, of, judge);
    fed.at(280).await;
    let published = fed.published();
    let others = |id: &u64| id % 3 != BAD;
    let count = published.iter().filter(|id| others(id)).count();
    let given_back = fed.refused.try_recv().is_ok();
    // Of 35 that have come; the first of them wait until it is known that the API takes others.
    assert!(count >= 21, "{count} of 24: {published:?}, asked {:?}", fed.post.posts().len());
    assert!(given_back != published.iter().all(others), "behind one given back the key goes on");
    // No backoff is longer than half a minute.
    fed.at(335).await;
    let published = fed.published();
    assert_eq!(published.contains(&BAD), !given_back, "it is kept and taken at last");
    assert!(fed.taken() >= 40, "{}", fed.taken());
}

#[tokio::test(start_paused = true)]
async fn one_event_that_is_never_answered_well_holds_up_nobody_else() {
    for play in [
        || Play::Answer(500, String::new()),
        || Play::Answer(504, "<html>".to_owned()),
        || Play::Answer(202, String::new()),
        || Play::Fail(Fault::Ambiguous),
    ] {
        one_holds_up_nobody_else(play).await;
    }
}

#[tokio::test(start_paused = true)]
async fn one_event_for_which_the_api_is_refused_holds_up_nobody_else() {
    let quoted = || {
        let words = "not an event: 'the offer has expired'";
        let errors = json!([{ "errorType": "BadRequestException", "message": words }]);
        Play::Answer(400, json!({ "errors": errors }).to_string())
    };
    for play in [
        || Play::Answer(404, "<html>".to_owned()),
        || Play::Answer(307, String::new()),
        || Play::Answer(407, String::new()),
        quoted,
    ] {
        one_holds_up_nobody_else(play).await;
    }
}

#[tokio::test(start_paused = true)]
async fn in_an_outage_messages_stay_with_the_broker() {
    for play in [
        || Play::Fail(Fault::Connect),
        || Play::Answer(503, String::new()),
        || Play::Answer(404, String::new()),
        || Play::Fail(Fault::Refused),
    ] {
        for keys in [1, 50] {
            let gone = |at: Duration| (2..122).contains(&at.as_secs());
            let judge = move |posted: &Posted| if gone(posted.at) { play() } else { Play::Accept };
            let of = move |id: u64| ("/a/x", (id % keys).to_string());
            let fed = Fed::start(Duration::from_millis(50), of, judge);
            fed.at(4).await;
            let (before, asked) = (fed.taken(), fed.post.posts().len() as u64);
            fed.at(121).await;
            let probes = fed.post.posts().len() as u64 - asked;
            assert!((100..=118).contains(&probes), "{probes} probes in 117 s");
            let let_in = fed.taken() - before;
            assert!((1..=probes).contains(&let_in), "{let_in} were let in by {probes} probes");
            fed.at(140).await;
            let (published, taken) = (fed.published().len() as u64, fed.taken());
            assert!(taken >= 2_790 && published + 50 > taken, "{published} of {taken}");
        }
    }
}
