//! The acknowledging half of the source: what is settled is acknowledged until the connection ends, and how it ends.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tracing::info;

use super::diagnosis::Trouble;
use super::generation::Generation;
use super::overflow::Overflow;
use super::poller::Poller;
use super::{ALIVE_EVERY, MqttSource};
use crate::config::mqtt::MqttVersion;
use crate::shutdown::Shutdown;
use crate::source::Unclean;

/// What does not fit is told this long after it began, so that it has a count.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// How a connection ended.
pub(super) enum End {
    /// The drain is over.
    Drained(Result<(), Unclean>),
    /// Messages were left to the broker for want of room or for a wider window, and all others are acknowledged.
    Full,
    /// To be made again.
    Lost(Trouble),
}

impl MqttSource {
    /// Acknowledges what is settled until the connection is lost, full or drained.
    pub(super) async fn settle(
        &self,
        generation: &Generation,
        poller: &mut Poller,
        overflow: &mut Overflow,
        shutdown: &Shutdown,
    ) -> End {
        let mut alive = tokio::time::interval(ALIVE_EVERY);
        let mut tell = tokio::time::interval(TELL_EVERY);
        let mut draining = false;
        loop {
            tokio::select! {
                _ = alive.tick() => self.health.alive(),
                _ = tell.tick() => {
                    self.tell(overflow);
                    generation.confirm();
                    if !draining {
                        self.widen(generation);
                    }
                }
                why = &mut *poller => {
                    return if draining {
                        End::Drained(Err(Unclean("the broker was lost while draining")))
                    } else {
                        End::Lost(why)
                    };
                }
                () = generation.changed.notified() => generation.acknowledge(),
                () = shutdown.drain(), if !draining => {
                    draining = true;
                    self.tell(overflow);
                    overflow.stopping();
                    generation.close();
                    self.health.not_ready("draining");
                }
                () = shutdown.abort() => return End::Drained(Err(Unclean("aborted"))),
            }
            let record = &generation.in_flight;
            if record.has_released() && draining {
                return End::Drained(Err(Unclean("a message was given back while draining")));
            }
            if record.has_released() {
                let what = "a message was given back; the broker sends it again";
                return End::Lost(Trouble::other(what));
            }
            // What has nothing to be acknowledged may go on for ever: it waits for none.
            let over = if draining {
                record.is_empty()
            } else {
                generation.has_shed() && record.owes_nothing()
            };
            if over {
                if !draining && generation.is_full() {
                    overflow.shed();
                }
                self.tell(overflow);
                let farewell = generation.farewell(poller);
                let said = self.unless(shutdown.abort(), farewell).await.unwrap_or(false);
                return match (draining, said) {
                    (false, said) => {
                        if said {
                            self.subscriptions.lock().left(Instant::now());
                        }
                        End::Full
                    }
                    (true, true) => End::Drained(Ok(())),
                    (true, false) => End::Drained(Err(Unclean(
                        "the broker has not read the last acknowledgements",
                    ))),
                };
            }
        }
    }

    /// Leaves the rest to the broker if a new connection could announce a far wider window.
    fn widen(&self, generation: &Generation) {
        let told = self.config.version == MqttVersion::V5;
        // Without a session nothing waits for the next connection.
        if !told
            || self.kept_for.lock().is_zero()
            || generation.has_shed()
            || generation.subscribed_for().is_none()
        {
            return;
        }
        let left = self.room.left_for(self.typical.load(Ordering::Relaxed));
        let (flow, half_free) = (generation.flow(), self.room.free_share() >= 0.5);
        if self.widening.lock().is_due(flow, left, half_free, Instant::now()) {
            let announced = flow.window;
            info!(source = %self.name, announced, left, "there is room for more than the broker was told; connecting again");
            generation.widen();
        }
    }
}
