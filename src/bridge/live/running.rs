//! One running part: what ends it, and who waits for that.

use std::path::PathBuf;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::config::{ApiConfig, Client, SourceConfig, is_same_file};
use crate::message::SourceName;
use crate::reload::Part;
use crate::shutdown::Shutdown;

/// A running part, to which `it` leads.
pub(super) struct Running<T> {
    pub(super) it: T,
    /// Its own clocks, under those of the bridge.
    pub(super) stop: Shutdown,
    /// Cancelled when it has ended, and this process writes and acknowledges nothing for it any more. After an abort its
    /// broker may yet take a moment to notice.
    pub(super) ended: CancellationToken,
    /// Cancelled when another may take its place: then, or before that, when it only waits for what it has in flight.
    pub(super) left: CancellationToken,
}

/// A part that was told to end.
pub(super) struct Leaving {
    pub(super) part: Part,
    pub(super) holds: Vec<Hold>,
    pub(super) left: CancellationToken,
    pub(super) ended: CancellationToken,
}

/// What only one part can have at a time.
#[derive(Debug)]
pub(super) enum Hold {
    /// The numbers of a source.
    Source(SourceName),
    /// A name at a broker.
    Client(Client),
    /// Where an API posts to.
    Endpoint(String),
    /// A file.
    File(PathBuf),
}

impl Hold {
    /// The endpoint of an API.
    pub(super) fn of_api(api: &ApiConfig) -> Self {
        Self::Endpoint(api.endpoint.uri.to_string())
    }

    /// Whether both are one.
    pub(super) fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Source(own), Self::Source(other)) => own == other,
            (Self::Client(own), Self::Client(other)) => own.is(other),
            (Self::Endpoint(own), Self::Endpoint(other)) => own == other,
            (Self::File(own), Self::File(other)) => is_same_file(own, other),
            _ => false,
        }
    }
}

/// A part that has ended.
#[derive(Debug)]
pub(in crate::bridge) struct Ended {
    /// For people.
    pub(in crate::bridge) part: &'static str,
    /// Why that was not clean, if so.
    pub(in crate::bridge) unclean: Option<String>,
    /// Which one, if it was told to end while the bridge goes on.
    pub(in crate::bridge) leaving: Option<Part>,
}

impl Ended {
    /// A part that has ended for no other reason than that its queue was closed.
    pub(super) fn of(part: &'static str) -> Self {
        Self { part, unclean: None, leaving: None }
    }
}

impl Leaving {
    /// The file that it writes to, and when it does no more.
    pub(super) fn file(&self) -> Option<(PathBuf, CancellationToken)> {
        self.holds.iter().find_map(|hold| match hold {
            Hold::File(path) => Some((path.clone(), self.ended.clone())),
            _ => None,
        })
    }
}

/// What no other source may have while this one runs.
pub(super) fn holds_of(source: &SourceConfig) -> Vec<Hold> {
    let client = source.kind.settings().client().map(Hold::Client);
    client.into_iter().chain([Hold::Source(source.name.clone())]).collect()
}

/// Waits for all of these.
pub(super) async fn after(others: Vec<CancellationToken>) {
    for other in others {
        other.cancelled().await;
    }
}

/// Runs a part to its end. Stopped while the bridge goes on, it has for that what `grace` is by then, and is aborted
/// when that is over.
pub(super) async fn guarded(
    part: Part,
    (bridge, stop, grace): (Shutdown, Shutdown, watch::Receiver<Duration>),
    ended: CancellationToken,
    run: BoxFuture<'static, Option<String>>,
) -> Ended {
    // Dropped last: by then the part is gone with all it held.
    let _ended = ended.drop_guard();
    let late = async {
        stop.drain().await;
        if !bridge.is_draining() {
            let grace = *grace.borrow();
            tokio::time::sleep(grace).await;
            if bridge.is_draining() {
                // It has the time that this has.
                return std::future::pending().await;
            }
            warn!(%part, ?grace, "a part of an earlier configuration did not end in time; what it holds is given back, and may come again");
            stop.start_abort();
        }
        std::future::pending::<()>().await;
    };
    let unclean = tokio::select! {
        biased;
        unclean = run => unclean,
        () = late => None,
    };
    let leaving = (stop.is_draining() && !bridge.is_draining()).then(|| part.clone());
    let word = match part {
        Part::Source(_) => "a source",
        Part::Api(_) => "a publisher",
        _ => "a dead letter",
    };
    Ended { part: word, unclean, leaving }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part() -> Part {
        Part::Api("main".into())
    }

    /// A grace of so many seconds, which nobody changes.
    fn seconds(seconds: u64) -> watch::Receiver<Duration> {
        watch::channel(Duration::from_secs(seconds)).1
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_that_goes_has_the_grace_and_is_aborted_then() {
        let (bridge, token) = (Shutdown::new(), CancellationToken::new());
        // It changes before the part goes, and again when it is too late.
        let (stop, graces) = (bridge.child(), watch::channel(Duration::from_mins(1)).0);
        let (clock, grace) = (stop.clone(), Duration::from_secs(25));
        let run = Box::pin(async move {
            clock.abort().await;
            Some("aborted".to_owned())
        });
        let began = tokio::time::Instant::now();
        let clocks = (bridge.clone(), stop.clone(), graces.subscribe());
        let changes = async {
            graces.send_replace(grace);
            stop.start_drain();
            tokio::time::sleep(Duration::from_secs(1)).await;
            graces.send_replace(Duration::from_secs(99));
        };
        let (ended, ()) = tokio::join!(guarded(part(), clocks, token.clone(), run), changes);
        assert_eq!((began.elapsed(), ended.unclean.as_deref()), (grace, Some("aborted")));
        assert!(ended.leaving == Some(part()) && token.is_cancelled() && !bridge.is_draining());
    }

    #[tokio::test(start_paused = true)]
    async fn in_a_drain_of_the_bridge_the_clock_is_its_own() {
        let (bridge, token) = (Shutdown::new(), CancellationToken::new());
        let (stop, grace) = (bridge.child(), seconds(1));
        let run = Box::pin(async {
            tokio::time::sleep(Duration::from_secs(100)).await;
            None
        });
        bridge.start_drain();
        let clocks = (bridge.clone(), stop.clone(), grace);
        let ended = guarded(part(), clocks, token, run).await;
        assert!(ended.leaving.is_none() && ended.unclean.is_none() && !stop.is_aborting());
    }

    #[tokio::test(start_paused = true)]
    async fn in_a_drain_of_the_bridge_that_comes_later_it_has_the_time_of_that() {
        let (bridge, token) = (Shutdown::new(), CancellationToken::new());
        let (stop, grace) = (bridge.child(), seconds(25));
        let run = Box::pin(async {
            tokio::time::sleep(Duration::from_secs(40)).await;
            None
        });
        stop.start_drain();
        let clocks = (bridge.clone(), stop.clone(), grace);
        let drain = async {
            tokio::time::sleep(Duration::from_secs(20)).await;
            bridge.start_drain();
        };
        let (ended, ()) = tokio::join!(guarded(part(), clocks, token, run), drain);
        assert!(ended.leaving.is_none() && ended.unclean.is_none() && !stop.is_aborting());
    }

    #[tokio::test]
    async fn an_end_that_nobody_asked_for_is_told_from_others() {
        let bridge = Shutdown::new();
        let clocks = (bridge.clone(), bridge.child(), seconds(1));
        let run = Box::pin(async { None });
        let ended = guarded(part(), clocks, CancellationToken::new(), run).await;
        assert!(ended.leaving.is_none());
    }
}
