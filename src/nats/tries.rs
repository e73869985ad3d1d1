//! Which server to try next, and when. Pure.

use std::time::{Duration, Instant};

use async_nats::{Server, ServerAddr};

use crate::backoff::Backoff;

/// The first try after a loss waits up to this long, …
const BASE: Duration = Duration::from_millis(100);

/// … and none waits longer: a server is soon there again, and is asked for little.
const CAP: Duration = Duration::from_secs(10);

/// A connection that held this long was a good one: the next failure is the first again.
const GOOD_AFTER: Duration = Duration::from_mins(1);

/// The tries of one client.
#[derive(Debug)]
pub(super) struct Tries {
    backoff: Backoff,
    /// The server that is being tried or connected to, and since when.
    last: Option<(ServerAddr, Instant)>,
    /// Connections that were made.
    connects: u64,
    /// Tries since the last of them.
    tried: usize,
}

/// The next try.
#[derive(Debug, PartialEq)]
pub(super) struct Next {
    pub(super) server: ServerAddr,
    pub(super) wait: Duration,
    /// The last one failed: at which server, and what the client said; `None` where it said nothing, as when there
    /// is no such host.
    pub(super) failed: Option<(ServerAddr, Option<String>)>,
}

impl Tries {
    /// Nothing was tried yet.
    pub(super) fn new() -> Self {
        Self { backoff: Backoff::new(BASE, CAP), last: None, connects: 0, tried: 0 }
    }

    /// What to do next with the servers of `pool`, in their order, when `connects` connections were made so far. Each
    /// has its turn before there is a wait.
    pub(super) fn next(&mut self, pool: &[Server], connects: u64, now: Instant) -> Option<Next> {
        let connected = connects > self.connects;
        let mut failed = None;
        if let Some((server, since)) = self.last.take() {
            if connected {
                self.tried = 0;
                if now.duration_since(since) >= GOOD_AFTER {
                    self.backoff.reset();
                }
            } else {
                let said = pool.iter().find(|other| other.addr == server);
                let said = said.and_then(|known| known.last_error.clone());
                failed = Some((server.clone(), said));
            }
            self.last = Some((server, since));
        }
        self.connects = connects;
        let known = |(last, _): &(ServerAddr, Instant)| pool.iter().position(|s| s.addr == *last);
        let at = self.last.as_ref().and_then(known).map_or(0, |at| (at + 1) % pool.len().max(1));
        let server = pool.get(at)?.addr.clone();
        let all_failed = self.tried.is_multiple_of(pool.len());
        let wait = match &self.last {
            Some(_) if all_failed => self.backoff.next_wait(),
            _ => Duration::ZERO,
        };
        self.tried += 1;
        self.last = Some((server.clone(), now + wait));
        Some(Next { server, wait, failed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(errors: &[Option<&str>]) -> Vec<Server> {
        let server = |(number, error): (usize, Option<&str>)| Server {
            addr: format!("nats://nats-{number}:4222").parse().unwrap(),
            failed_attempts: usize::from(error.is_some()),
            did_connect: false,
            is_discovered: false,
            last_error: error.map(str::to_owned),
        };
        errors.iter().copied().enumerate().map(server).collect()
    }

    #[test]
    fn each_server_has_its_turn_before_there_is_a_wait() {
        let (mut tries, now) = (Tries::new(), Instant::now());
        let none = pool(&[None, None, None]);
        let first = tries.next(&none, 0, now).unwrap();
        assert_eq!(
            (first.server, first.wait, first.failed),
            (none[0].addr.clone(), Duration::ZERO, None)
        );
        let refused = pool(&[Some("refused"), None, None]);
        let second = tries.next(&refused, 0, now).unwrap();
        assert_eq!((&second.server, second.wait), (&none[1].addr, Duration::ZERO));
        assert_eq!(second.failed, Some((none[0].addr.clone(), Some("refused".to_owned()))));
        // No such host: the client says nothing of the server.
        let third = tries.next(&refused, 0, now).unwrap();
        assert_eq!((&third.server, third.wait), (&none[2].addr, Duration::ZERO));
        assert_eq!(third.failed, Some((none[1].addr.clone(), None)));
        let waits: Vec<_> = (0..300).map(|_| tries.next(&refused, 0, now).unwrap().wait).collect();
        assert!(waits.iter().all(|wait| *wait <= CAP));
        assert!(waits.iter().any(|wait| *wait > CAP / 4), "it does not slow down");
        let at_once = waits.iter().filter(|wait| wait.is_zero()).count();
        assert!((200..=202).contains(&at_once), "two of three in a round: {at_once}");
    }

    #[test]
    fn after_a_good_connection_the_next_failure_is_the_first() {
        let (mut tries, now) = (Tries::new(), Instant::now());
        let servers = pool(&[None]);
        for connects in 0..30 {
            // Each is taken and closed at once.
            let next = tries.next(&servers, connects, now).unwrap();
            assert_eq!(next.failed, None, "it was no failure to connect");
        }
        assert!(tries.backoff.failures() > 20, "it slows down");
        let good = tries.next(&servers, 30, now + GOOD_AFTER + CAP).unwrap();
        assert!(good.wait <= BASE && good.failed.is_none());
    }
}
