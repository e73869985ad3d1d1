//! New settings for a publisher that runs: what it holds, and what it has learned of the API, stays.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::http::{BuildError, Client};
use super::post::Post;
use super::{Publisher, clock};
use crate::config::ApiConfig;

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
pub struct Helm<P>(mpsc::UnboundedSender<Change<P>>);

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
        drop(self.0.send(change));
    }
}

impl<P: Post> Publisher<P> {
    /// What steers it.
    pub fn helm(&mut self) -> Helm<P> {
        let (sender, changes) = mpsc::unbounded_channel();
        self.changes = Some(changes);
        Helm(sender)
    }

    /// Takes a change.
    pub(super) fn steered(&mut self, change: Change<P>) {
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
    use crate::delivery::Outcome;
    use crate::delivery::tests::{Log, delivery};
    use crate::event_api::{Channel, Event};
    use crate::health::Health;
    use crate::metrics::Metrics;
    use crate::publish::Entry;
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

    #[tokio::test(start_paused = true)]
    async fn what_is_out_ends_as_it_began_and_what_waits_goes_the_new_way() {
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
        let (asked, log) = (Arc::<Mutex<Vec<_>>>::default(), Arc::<Log>::default());
        let (metrics, health) = (Metrics::new(), Health::default());
        let (refused, _refused) = mpsc::unbounded_channel();
        let old = Slow("old", Arc::clone(&asked));
        let mut publisher =
            Publisher::new(old, &"main".into(), (2, 1_000.0), &metrics, &health, refused);
        let helm = publisher.helm();
        let (entries, queue) = mpsc::unbounded_channel();
        let running = tokio::spawn(publisher.run(queue, Shutdown::new()));
        // Each waits for the one before it: they have one key.
        for token in 0..3 {
            let len = Event::parse(b"{}").unwrap().escaped_len();
            let order = Some(b"key"[..].into());
            let entry = Entry::new(delivery(&log, token), len, order, Arc::clone(&route));
            entries.send((Channel::parse("/a/b").unwrap(), entry)).unwrap();
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
        sleep(Duration::from_secs(1)).await;
        assert_eq!(log.seen().len(), 1, "its source is told in the turn of the answer");
        drop(entries);
        running.await.unwrap();
        assert_eq!(*asked.lock(), ["old", "new", "new"]);
        let published = |(_, outcome)| outcome == Outcome::ALL[0];
        assert!(log.seen().len() == 3 && log.seen().into_iter().all(published));
    }
}
