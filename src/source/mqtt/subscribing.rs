//! The subscribing half of the source: it asks, hears the answers, and says what changed.

use std::future::pending;
use std::time::Instant;

use tokio::time::sleep_until;
use tracing::{info, warn};

use super::MqttSource;
use super::client::{Connection, Event, Stored, Welcome};
use super::diagnosis::{Kind, Stage, Trouble};
use super::generation::Generation;
use super::subscriptions::{Answer, Change};
use crate::config::mqtt::{MqttVersion, Retained};

impl MqttSource {
    /// The next event of a connection; what becomes due meanwhile is asked.
    pub(super) async fn next(
        &self,
        connection: &mut Connection,
        generation: &Generation,
    ) -> Result<Event, Trouble> {
        let next = connection.next();
        tokio::pin!(next);
        loop {
            // Until the broker takes us these are times of the connection before.
            let asks =
                generation.is_connected().then(|| self.subscriptions.lock().next_at()).flatten();
            let at = [asks, generation.look_at()].into_iter().flatten().min();
            let due = async {
                match at {
                    Some(at) => sleep_until(at.into()).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                event = &mut next => return event,
                () = due => {
                    self.ask(generation)?;
                    generation.look()?;
                }
            }
        }
    }

    /// The broker took us: asks for everything, whether it kept the session or not, since an earlier SUBSCRIBE may have
    /// been lost. But not for what a full connection was granted just now, where that would bring again what is retained:
    /// with more of that than there is room for, each connection would be as full. Gives how far the connection is now.
    pub(super) fn subscribe(
        &self,
        generation: &Generation,
        welcome: &Welcome,
    ) -> Result<Stage, Trouble> {
        let retained_again = self.config.version == MqttVersion::V3 && welcome.session_present;
        if retained_again && self.subscriptions.lock().resume(Instant::now()) {
            return self.stand(generation);
        }
        if !generation.is_closed() {
            self.health.not_ready("waiting for the broker to confirm the subscriptions");
        }
        let change = self.subscriptions.lock().connected(welcome.identifiers);
        self.say(change);
        self.ask(generation)?;
        Ok(Stage::Subscribing)
    }

    /// A SUBSCRIBE was written.
    pub(super) fn asked(&self, packet_id: u16) {
        self.subscriptions.lock().written(packet_id);
    }

    /// A SUBACK came: how far the connection is now.
    pub(super) fn answered(
        &self,
        generation: &Generation,
        packet_id: u16,
        answers: Vec<Answer>,
    ) -> Result<Stage, Trouble> {
        let changes = self.subscriptions.lock().answered(packet_id, answers, Instant::now());
        self.say(changes);
        self.stand(generation)
    }

    /// Says how it stands with the subscriptions, and does what is due.
    fn stand(&self, generation: &Generation) -> Result<Stage, Trouble> {
        let (all_granted, all_answered, refused) = {
            let subscriptions = self.subscriptions.lock();
            let refused = subscriptions.refused();
            (subscriptions.all_granted(), subscriptions.all_answered(), refused)
        };
        if generation.is_closed() {
            // It is draining, and says so.
        } else if all_granted {
            self.health.ready();
        } else if !refused.is_empty() {
            let refused = refused.join(", ");
            self.health.not_ready(format!(
                "the broker refuses the subscription {refused}; let this client subscribe there (the broker's ACL); it is asked again every now and then"
            ));
        }
        self.ask(generation)?;
        if !all_answered {
            return Ok(Stage::Subscribing);
        }
        generation.subscribed();
        Ok(Stage::Subscribed)
    }

    /// The broker said goodbye.
    pub(super) fn dismissed(&self, trouble: &Trouble) {
        if trouble.kind == Kind::NoIdentifiers {
            let change = self.subscriptions.lock().no_identifiers();
            self.say(change);
        }
    }

    fn ask(&self, generation: &Generation) -> Result<(), Trouble> {
        let now = Instant::now();
        let mut subscriptions = self.subscriptions.lock();
        if subscriptions.is_overdue(now) {
            return Err(Trouble::other("the broker did not confirm the subscriptions"));
        }
        let stored = match self.config.retained {
            Retained::Take => Stored::WhenNew,
            Retained::Skip => Stored::Never,
        };
        for ask in subscriptions.due(now) {
            if generation.client.subscribe(&ask, stored).is_err() {
                return Err(Trouble::other("the client is gone"));
            }
        }
        Ok(())
    }

    fn say(&self, changes: impl IntoIterator<Item = Change>) {
        let source = &self.name;
        let mut refused = Vec::new();
        for change in changes {
            match change {
                Change::Refused(filter, why) => refused.push(format!("`{filter}` ({why})")),
                Change::Granted(filter) => {
                    info!(%source, filter, "the broker grants the subscription that it refused");
                }
                Change::AtMostOnce(filter) => {
                    warn!(%source, filter, "the broker grants QoS 0 only: at most once");
                }
                Change::NoIdentifiers => warn!(
                    %source,
                    hint = "keep the filters of `subscriptions` apart",
                    "filters overlap, and the broker has no subscription identifiers: \
                     a message that several of them take may be published several times"
                ),
            }
        }
        if !refused.is_empty() {
            warn!(
                %source,
                refused = refused.join(", "),
                hint = "check the broker's access list",
                "the broker refuses a subscription; it is asked again until it is granted"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;
    use crate::config::source::Limits;
    use crate::health::Health;
    use crate::metrics::Metrics;
    use crate::source::mqtt::probe::tests::config;

    #[tokio::test]
    async fn an_answer_that_never_came_leaves_the_next_connection_its_time() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut config = config(MqttVersion::V5, "test");
        config.host = "127.0.0.1".to_owned();
        config.port = listener.local_addr().unwrap().port();
        let (limits, metrics) = (Limits { messages: 9, bytes: 1_000 }, Metrics::new());
        let numbers = (metrics.source("s"), metrics.mqtt("s"));
        let part = Health::default().register("s", "starting");
        let source = MqttSource::build("s".into(), config, limits, numbers, part).await.unwrap();
        // On a connection that is gone, and longer ago than an answer may take.
        let asked = Instant::now().checked_sub(Duration::from_mins(1)).unwrap();
        source.subscriptions.lock().due(asked);
        let generation = source.open();
        let (mut connection, _closed) = generation.connection().unwrap();
        let next = timeout(Duration::from_millis(200), source.next(&mut connection, &generation));
        assert!(next.await.is_err(), "it ends before the broker takes it");
        assert!(timeout(Duration::from_secs(5), listener.accept()).await.is_ok());
    }
}
