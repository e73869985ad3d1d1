//! The session that the broker keeps for us: whether it is there, for how long it is kept, and what keeps it while a
//! connection has to wait for room.

use std::mem;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::timeout;
use tracing::{info, warn};

use super::MqttSource;
use super::client::{CONNECT_TIMEOUT, Event, Welcome};

/// A session is visited so many times in the time that the broker keeps it without a client.
const VISITS: u32 = 3;

/// A visit that failed is made again after so long, at the latest.
const AGAIN: Duration = Duration::from_secs(10);

/// A visit may take so long, or the keep-alive if that is longer: what a broker has to take us, and some time to go.
const PATIENCE: Duration = CONNECT_TIMEOUT.saturating_add(Duration::from_secs(5));

/// What a visit has found.
enum Found {
    /// The session, which the broker keeps from now on.
    Kept,
    /// None.
    Forgotten,
    /// Nobody knows.
    Unknown,
}

impl MqttSource {
    /// The broker took us.
    pub(super) fn connected(&self, welcome: &Welcome) {
        let session_present = welcome.session_present;
        self.metrics.connected.set(1);
        self.session_is_kept_for(welcome.kept_for);
        let again = self.known.swap(true, Ordering::AcqRel);
        if again {
            self.metrics.reconnects.inc();
        }
        if again && !session_present && !self.config.session_expiry.is_zero() {
            self.session_lost();
        } else {
            info!(source = %self.name, session_present, "connected");
        }
    }

    /// Remembers how long the broker keeps the session without a client, and says if that is less than was asked for.
    fn session_is_kept_for(&self, granted: Option<Duration>) {
        let asked = self.config.session_expiry;
        let kept_for = granted.map_or(asked, |granted| granted.min(asked));
        let before = mem::replace(&mut *self.kept_for.lock(), kept_for);
        if kept_for < asked && kept_for != before {
            let hint =
                "an outage of the bridge that is longer loses what came; raise the broker's limit";
            warn!(source = %self.name, ?asked, ?kept_for, hint, "the broker keeps the session for less than `session_expiry`");
        }
    }

    fn session_lost(&self) {
        self.metrics.session_lost.inc();
        self.owed.store(0, Ordering::Release);
        self.subscriptions.lock().forgotten();
        warn!(source = %self.name, "the broker has forgotten the session: what it held for us is lost");
    }

    /// Waits until half of the room is free, and there is room for a message of `left` bytes that was left to the
    /// broker: a connection for less would end as soon as it is made. While no API takes anything that may be for
    /// hours, so the session is visited, and where the broker forgot it the wait is over: somebody has to subscribe.
    pub(super) async fn wait_for_room(&self, left: usize) {
        let free = self.room.half_free(left);
        tokio::pin!(free);
        if free.as_mut().now_or_never().is_some() {
            return;
        }
        self.health.not_ready(
            "waiting for room: half of the limit in flight has to be free for the next connection",
        );
        let mut found = Found::Kept;
        loop {
            let third = *self.kept_for.lock() / VISITS;
            if third.is_zero() {
                return free.await;
            }
            let pause = if matches!(found, Found::Unknown) { third.min(AGAIN) } else { third };
            if timeout(pause, &mut free).await.is_ok() {
                return;
            }
            // To its end, though room may be there by then: two connections would be one too many for the broker.
            found = self.visit().await;
            if matches!(found, Found::Forgotten) {
                return;
            }
        }
    }

    /// Connects and leaves again, which starts the time anew for which the broker keeps the session. Nothing is
    /// acknowledged, so what it sends meanwhile comes again.
    async fn visit(&self) -> Found {
        self.look_at_credentials().await;
        if self.transport.prepare().await.is_err() {
            return Found::Unknown;
        }
        let generation = self.open();
        let Some((mut connection, mut closed)) = generation.connection() else {
            return Found::Unknown;
        };
        let mut found = Found::Unknown;
        let visit = async {
            loop {
                match connection.next().await {
                    Ok(Event::Connected(welcome)) => {
                        self.session_is_kept_for(welcome.kept_for);
                        // By now it has a new one, and the next connection finds that.
                        if welcome.session_present {
                            found = Found::Kept;
                        } else {
                            found = Found::Forgotten;
                            self.session_lost();
                        }
                        if generation.client.disconnect().is_err() {
                            return Ok(());
                        }
                    }
                    // Nobody sends that again.
                    Ok(Event::Publish(incoming)) if incoming.qos == 0 => {
                        self.metrics.dropped.inc();
                    }
                    Ok(Event::Disconnected) => return Ok(()),
                    Err(trouble) => return Err(trouble),
                    Ok(_) => {}
                }
            }
        };
        let patience = PATIENCE.max(self.config.keep_alive);
        match timeout(patience, visit).await {
            Ok(Ok(())) => {}
            failed => {
                // As any connection that fails: it may have been away.
                self.subscriptions.lock().forgotten();
                let why = match failed {
                    Ok(Err(trouble)) => trouble.what,
                    _ => format!("no answer within {patience:?}"),
                };
                let hint = "a longer `session_expiry` outlives a longer outage";
                warn!(source = %self.name, why, hint, "the session could not be visited while there is no room");
            }
        }
        drop(connection);
        let _ = timeout(patience, closed.recv()).await;
        found
    }
}
