//! The wait between two connections: for room, and without losing the session meanwhile.

use std::time::Duration;

use tokio::time::timeout;
use tracing::warn;

use super::MqttSource;
use super::client::Event;

/// A session is visited so many times in the time that the broker keeps it without a client.
const VISITS: u32 = 3;

impl MqttSource {
    /// Waits until half of the room is free, and there is room for a message of `left` bytes that was left to the
    /// broker: a connection for less would end as soon as it is made. While no API takes anything that may be for
    /// hours, so the session is visited, and where the broker forgot it the wait is over: somebody has to subscribe.
    pub(super) async fn wait_for_room(&self, left: usize) {
        loop {
            let free = self.room.half_free(left);
            let visit_after = self.config.session_expiry / VISITS;
            if visit_after.is_zero() {
                return free.await;
            }
            if timeout(visit_after, free).await.is_ok() || !self.visit().await {
                return;
            }
        }
    }

    /// Connects and leaves again, which starts the time anew for which the broker keeps the session. Nothing is
    /// acknowledged, so what it sends meanwhile comes again. False when it has forgotten us; a visit that failed is
    /// made again in its time.
    async fn visit(&self) -> bool {
        self.look_at_credentials().await;
        if self.transport.prepare().await.is_err() {
            return true;
        }
        let generation = self.open();
        let Some((mut connection, mut closed)) = generation.connection() else { return true };
        let mut held = true;
        let visit = async {
            loop {
                match connection.next().await {
                    Ok(Event::Connected { session_present, .. }) => {
                        held = session_present;
                        if generation.client.disconnect().is_err() {
                            return Ok(());
                        }
                    }
                    // Nobody sends that again.
                    Ok(Event::Publish(incoming)) if incoming.qos == 0 => {
                        self.metrics.dropped.inc();
                    }
                    Ok(Event::Disconnected) => return Ok(()),
                    Ok(Event::Ended(trouble)) | Err(trouble) => return Err(trouble),
                    Ok(_) => {}
                }
            }
        };
        let patience: Duration = self.config.keep_alive;
        match timeout(patience, visit).await {
            Ok(Ok(())) => {}
            failed => {
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
        held
    }
}
