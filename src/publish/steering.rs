//! New settings for a publisher that runs: what it holds, and what it has learned of the API, stays.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::http::{BuildError, Client};
use super::post::Post;
use super::{Entry, Publisher, clock};
use crate::config::ApiConfig;
use crate::delivery::Outcome;

/// New settings of an API.
#[derive(Debug)]
pub struct Change<P> {
    /// Who posts from now on; `None`: as before.
    post: Option<P>,
    max_concurrency: usize,
    max_rate: f64,
}

/// Steers one publisher.
#[derive(Clone, Debug)]
pub struct Helm<P>(mpsc::UnboundedSender<Order<P>>);

/// What a publisher is told.
#[derive(Debug)]
pub(super) enum Order<P> {
    Change(Change<P>),
    GiveUp,
}

impl Change<Client> {
    /// What `api` says. Its client is made anew only if `client` is set: that opens new connections.
    pub async fn build(api: &ApiConfig, client: bool) -> Result<Self, BuildError> {
        let post = if client { Some(Client::build(api).await?) } else { None };
        let (max_concurrency, max_rate) = (api.max_concurrency, f64::from(api.max_rate));
        Ok(Self { post, max_concurrency, max_rate })
    }
}

impl<P> Helm<P> {
    /// Has the publisher take the change, unless it has ended.
    pub fn steer(&self, change: Change<P>) {
        drop(self.0.send(Order::Change(change)));
    }

    /// Sources have ended without what they had in flight: has the publisher publish none of that any more.
    pub fn give_up(&self) {
        drop(self.0.send(Order::GiveUp));
    }
}

impl<P: Post> Publisher<P> {
    /// What steers it.
    pub fn helm(&mut self) -> Helm<P> {
        let (sender, orders) = mpsc::unbounded_channel();
        self.orders = Some(orders);
        Helm(sender)
    }

    /// Does as it is told.
    pub(super) fn steered(&mut self, order: Order<P>) {
        match order {
            Order::Change(change) => self.change(change),
            Order::GiveUp => self.gives_up = true,
        }
    }

    /// Releases what its source has ended without, until nothing is left that may be of that time.
    pub(super) fn drop_given_up(&mut self, items: &mut Vec<Entry>) {
        for entry in items.extract_if(.., |entry| entry.delivery.is_given_up()) {
            entry.settle(Outcome::Released);
        }
        self.gives_up = self.lanes.queued() > 0 || self.workers.requests() > 0;
    }

    fn change(&mut self, change: Change<P>) {
        let Change { post, max_concurrency, max_rate } = change;
        self.limits.concurrency.set_ceiling(max_concurrency);
        self.limits.rate.set_ceiling(max_rate, clock());
        let Some(post) = post else { return };
        self.post = Arc::new(post);
        self.watch_credentials();
        self.workers.renew(Arc::clone(&self.post));
        // Another one may have asked for that. Refusals and silence are probed once a second in any case.
        self.limits.rate.release();
        self.retry_after = None;
        self.report();
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use bytes::Bytes;
    use parking_lot::Mutex;
    use tokio::time::sleep;

    use super::super::post::{Answer, Failure};
    use super::*;
    use crate::delivery::tests::{Log, delivery};
    use crate::event_api::{Channel, Event};
    use crate::health::Health;
    use crate::metrics::Metrics;
    use crate::route::{OrderBy, RejectTo, Spec};
    use crate::shutdown::Shutdown;

    /// Accepts one event a request, after a second, and notes who was asked.
    #[derive(Clone)]
    struct Slow(&'static str, Arc<Mutex<Vec<&'static str>>>);

    impl Post for Slow {
        type Connection = ();

        async fn post(&self, (): &mut (), _: Bytes) -> Result<Answer, Failure> {
            self.1.lock().push(self.0);
            sleep(Duration::from_secs(1)).await;
            let body = r#"{"failed":[],"successful":[{"identifier":"a","index":0}]}"#;
            Ok(Answer { status: 200, body: body.into(), ..Answer::default() })
        }

        fn hint(&self, _: bool) -> &'static str {
            ""
        }

        fn tell_end(&self, told: impl Fn(Option<SystemTime>) + Send + Sync + 'static) {
            told(Some(UNIX_EPOCH + Duration::from_secs(1_000)));
        }
    }

    /// A publisher over `post`, and its numbers.
    fn publisher<P: Post>(post: P) -> (Publisher<P>, Metrics) {
        let (metrics, health) = (Metrics::new(), Health::default());
        let (refused, _refused) = mpsc::unbounded_channel();
        let limits = (2, 1_000.0);
        (Publisher::new(post, &"main".into(), limits, &metrics, &health, refused), metrics)
    }

    /// An entry, of the same key as every other: each waits for the one before it.
    fn addressed(log: &Arc<Log>, token: u64) -> (Channel, Entry) {
        let route = Arc::new(Spec {
            name: "r".into(),
            from: vec!["s".into()],
            topic: None,
            channels: Vec::new(),
            api: "main".into(),
            order: OrderBy::Source,
            strict_order: true,
            give_up_after: 5,
            dead_letter: RejectTo::Discard,
        });
        let len = Event::parse(b"{}").unwrap().escaped_len();
        let order = Some(b"key"[..].into());
        (Channel::parse("/a/b").unwrap(), Entry::new(delivery(log, token), len, order, route))
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_out_ends_as_it_began_and_what_waits_goes_the_new_way() {
        let (asked, log) = (Arc::<Mutex<Vec<_>>>::default(), Arc::<Log>::default());
        let (mut publisher, metrics) = publisher(Slow("old", Arc::clone(&asked)));
        let helm = publisher.helm();
        let (entries, queue) = mpsc::unbounded_channel();
        let running = tokio::spawn(publisher.run(queue, Shutdown::new()));
        for token in 0..3 {
            entries.send(addressed(&log, token)).unwrap();
        }
        sleep(Duration::from_millis(500)).await;
        assert_eq!(*asked.lock(), ["old"]);
        let post = Some(Slow("new", Arc::clone(&asked)));
        helm.steer(Change { post, max_concurrency: 1, max_rate: 50.0 });
        drop(helm);
        sleep(Duration::from_millis(10)).await;
        let text = metrics.encode();
        assert!(text.contains("publish_rate_limit{api=\"main\"} 50.0"), "{text}");
        assert!(text.contains("publish_concurrency_limit{api=\"main\"} 1\n"), "{text}");
        let end = "credentials_expiry_timestamp_seconds{api=\"main\"} 1000\n";
        assert!(text.contains(end), "the end of the new ones: {text}");
        drop(entries);
        running.await.unwrap();
        assert_eq!(*asked.lock(), ["old", "new", "new"]);
        let published = |(_, outcome)| outcome == Outcome::ALL[0];
        assert!(log.seen().len() == 3 && log.seen().into_iter().all(published));
    }

    #[tokio::test(start_paused = true)]
    async fn what_its_source_has_ended_without_is_not_published() {
        let (asked, [old, new]) =
            (Arc::<Mutex<Vec<_>>>::default(), [(); 2].map(|()| Arc::<Log>::default()));
        let (mut publisher, _) = publisher(Slow("it", Arc::clone(&asked)));
        let helm = publisher.helm();
        let (entries, queue) = mpsc::unbounded_channel();
        let running = tokio::spawn(publisher.run(queue, Shutdown::new()));
        for token in 0..4 {
            entries.send(addressed(&old, token)).unwrap();
        }
        sleep(Duration::from_millis(500)).await;
        old.give_up();
        helm.give_up();
        for token in 0..2 {
            entries.send(addressed(&new, token)).unwrap();
        }
        drop(entries);
        running.await.unwrap();
        assert_eq!(asked.lock().len(), 3, "one was out, and two came anew");
        let (published, released) = (Outcome::ALL[0], Outcome::Released);
        assert_eq!(old.seen(), [(0, published), (1, released), (2, released), (3, released)]);
        assert_eq!(new.seen(), [(0, published), (1, published)]);
    }
}
