//! Connections to an endpoint: how they are made, and when they are replaced.
//!
//! Names are resolved only when a connection is made, so connections that are always busy would keep an
//! address for ever. Therefore all connections are replaced after a while, and after several errors in a row:
//! requests in flight finish, and later ones use new connections.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use http::Uri;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::BuildError;
use super::shared::Shared;
use super::transport::{BoxError, Connector, Stream, transport};
use crate::config::api::ApiConfig;
use crate::outbound::{Proxies, tls};

/// Errors in a row after which connections are replaced.
const ERRORS: u32 = 3;

/// Random spread of the configured age, so that connections and replicas don't renew at the same time.
const JITTER: f64 = 0.2;

/// Makes connections, and decides which are still used.
pub(super) struct Connections {
    connector: Connector,
    max_age: Duration,
    current: Mutex<Current>,
    /// Errors in a row. Changed under the lock; read without it, because there are nearly always none.
    errors: AtomicU32,
}

struct Current {
    /// Where HTTP/2 is wanted.
    shared: Option<Arc<Shared>>,
    number: u64,
    until: Instant,
}

/// A generation of connections: those of an earlier one are not used any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Number(u64);

impl Connections {
    /// Connections for `api`, through the proxy of the environment, if any. None is made yet.
    pub(super) fn build(api: &ApiConfig) -> Result<Self, BuildError> {
        let uri = &api.endpoint.uri;
        let secure = uri.scheme_str() == Some("https");
        let tls = if secure {
            tls::client_config(api.ca_file.as_deref(), None)?
        } else {
            tls::trusting_nobody()?
        };
        let way = transport(api.timeout, Proxies::of_process()?.toward(uri), &tls);
        let shared = (api.http2 && secure).then(|| {
            let offering = Connector::new(way.clone(), tls.clone(), true);
            Shared::new(offering, uri.clone(), api.timeout)
        });
        Ok(Self::over(Connector::new(way, tls, false), shared, api.connection_max_age))
    }

    fn over(connector: Connector, shared: Option<Shared>, max_age: Duration) -> Self {
        let current = Mutex::new(Current::new(0, shared, max_age));
        let errors = AtomicU32::new(0);
        Self { connector, max_age, current, errors }
    }

    /// The generation to use at `now`, and its connection if HTTP/2 is wanted.
    pub(super) fn at(&self, now: Instant) -> (Number, Option<Arc<Shared>>) {
        let mut current = self.current.lock();
        if now >= current.until {
            let next = current.shared.as_ref().map(|shared| shared.renewed());
            self.renew(&mut current, next, "their age");
        }
        (Number(current.number), current.shared.clone())
    }

    /// A new connection to `to`, for HTTP/1.1.
    pub(super) async fn connect(&self, to: &Uri) -> Result<Stream, BoxError> {
        self.connector.connect(to).await
    }

    /// There was an answer over a connection of that generation.
    pub(super) fn answered(&self, number: Number) {
        if self.errors.load(Relaxed) > 0 {
            let current = self.current.lock();
            if Number(current.number) == number {
                self.errors.store(0, Relaxed);
            }
        }
    }

    /// There was no connection, or no answer over it. Errors of earlier generations don't count.
    pub(super) fn failed(&self, number: Number) {
        let mut current = self.current.lock();
        if Number(current.number) != number {
            return;
        }
        if self.errors.fetch_add(1, Relaxed) + 1 >= ERRORS {
            let next = current.shared.as_ref().map(|shared| shared.anew());
            self.renew(&mut current, next, "errors");
        }
    }

    fn renew(&self, current: &mut Current, shared: Option<Shared>, because: &str) {
        tracing::debug!(because, "connections are renewed");
        *current = Current::new(current.number + 1, shared, self.max_age);
        self.errors.store(0, Relaxed);
    }
}

impl Current {
    fn new(number: u64, shared: Option<Shared>, max_age: Duration) -> Self {
        let until = Instant::now() + jittered(max_age);
        Self { shared: shared.map(Arc::new), number, until }
    }
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections").field("max_age", &self.max_age).finish_non_exhaustive()
    }
}

fn jittered(age: Duration) -> Duration {
    age.mul_f64(rand::random_range(1.0 - JITTER..=1.0 + JITTER))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::outbound::Resolver;
    use crate::publish::http::transport::{Transport, tcp};

    const AGE: Duration = Duration::from_secs(100);

    /// For HTTP/1.1, trusting nobody.
    pub(in crate::publish) fn connector() -> Connector {
        let direct = Transport::Direct(tcp(Resolver::default(), AGE));
        Connector::new(direct, tls::trusting_nobody().unwrap(), false)
    }

    /// With it.
    pub(in crate::publish) fn connections() -> Connections {
        Connections::over(connector(), None, AGE)
    }

    #[tokio::test(start_paused = true)]
    async fn connections_are_renewed_by_age_give_or_take_a_fifth() {
        let connections = connections();
        let (first, _) = connections.at(Instant::now());
        tokio::time::advance(Duration::from_secs(79)).await;
        assert_eq!(connections.at(Instant::now()).0, first);
        tokio::time::advance(Duration::from_secs(42)).await;
        let (second, _) = connections.at(Instant::now());
        assert_ne!(second, first);
        assert_eq!(connections.at(Instant::now()).0, second);
    }

    #[tokio::test(start_paused = true)]
    async fn connections_are_renewed_after_three_errors_in_a_row() {
        let connections = connections();
        let (first, _) = connections.at(Instant::now());
        for _ in 0..10 {
            connections.failed(first);
            connections.failed(first);
            connections.answered(first);
        }
        assert_eq!(connections.at(Instant::now()).0, first);
        for _ in 0..64 {
            connections.failed(first);
        }
        let (second, _) = connections.at(Instant::now());
        assert_eq!(second, Number(1), "the errors of the old ones don't count for the new ones");
    }
}
