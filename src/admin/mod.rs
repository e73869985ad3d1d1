//! The admin port: a status page, `/status`, `/metrics`, `/livez`, `/readyz`. Read-only but for `/reload`, on loopback
//! unless told otherwise, with TLS and a token if that is configured, and without any secret, even one in a reason or
//! a name.

mod access;
mod facts;
mod page;
mod reload;
mod status;
mod tls;

use std::borrow::Cow;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::config::AdminConfig;
use crate::files::descriptors;
use crate::health::Health;
use crate::listener::Listener;
use crate::metrics::{CONTENT_TYPE, Metrics};
use crate::redact;
use crate::shutdown::Shutdown;
use access::Access;
pub use facts::{ApiFacts, DeadLetterFacts, Facts, RouteFacts, SourceFacts};
pub use reload::{Answer, Asked, Reloader, reloader};
use status::Status;
use tls::Tls;

/// Connections: a scraper and a prober need one each; the rest is for people, and for strangers.
const MOST_CONNECTIONS: usize = 256;

/// This port may use one part in so many of the file descriptors.
const SHARE: u64 = 4;

/// The bound port, with nothing to show yet.
#[derive(Debug)]
pub struct Port {
    listener: Listener,
    security: Security,
}

/// Who may see what the port shows, and how it comes to them.
#[derive(Debug)]
pub struct Security {
    access: Arc<Access>,
    tls: Option<Arc<Tls>>,
}

/// The admin port of a bridge.
#[derive(Debug)]
pub struct Admin {
    port: Port,
    view: View,
    reloader: Reloader,
}

/// What the admin port shows.
#[derive(Clone, Debug)]
pub struct Board(Arc<Status>);

#[derive(Clone, Debug)]
struct View {
    metrics: Metrics,
    health: Health,
    shutdown: Shutdown,
    status: Arc<Status>,
}

impl Security {
    /// As configured. The error names a file of `tls` that can't be used.
    pub fn read(config: &AdminConfig) -> Result<Self, String> {
        let tls = config.tls.as_ref().map(|(chain, key)| Tls::read(chain, key)).transpose()?;
        let access = Access::new(config.listen, config.token.clone());
        Ok(Self { access: Arc::new(access), tls: tls.map(Arc::new) })
    }
}

impl Port {
    /// Binds the port.
    pub fn bind(listen: SocketAddr, security: Security) -> io::Result<Self> {
        let most = descriptors::share(SHARE, MOST_CONNECTIONS);
        Ok(Self { listener: Listener::bind(listen, "the admin port", most)?, security })
    }
}

impl Admin {
    /// Shows no parts before its [`board`](Self::board) is told of them.
    pub fn new(
        port: Port,
        metrics: Metrics,
        health: Health,
        shutdown: Shutdown,
        reloader: Reloader,
    ) -> Self {
        let status =
            Arc::new(Status::new(Facts::default(), &metrics, health.clone(), shutdown.clone()));
        Self { port, view: View { metrics, health, shutdown, status }, reloader }
    }

    /// What it shows, to be changed while it runs.
    pub fn board(&self) -> Board {
        Board(Arc::clone(&self.view.status))
    }

    /// The bound address.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.port.listener.local_addr()
    }

    /// Answers for ever; the caller drops it at the end of the bridge.
    pub async fn run(self) -> Infallible {
        let Port { listener, security: Security { access, tls } } = self.port;
        let (status, mut router) = (Arc::clone(&self.view.status), Router::new());
        for (path, file) in page::FILES {
            router = router.route(path, file.route());
        }
        let router = router
            .route("/status", get(self::status))
            .route("/metrics", get(metrics))
            .route("/livez", get(livez))
            .route("/readyz", get(readyz))
            .route("/reload", reload::route(self.reloader, access.asks_for_token()))
            .with_state(self.view);
        // The last layer, so that it is before everything, also what is not there.
        let router = router.layer(from_fn_with_state(access, access::guard));
        let serve = async {
            match tls {
                Some(tls) => {
                    let open = move |stream| Arc::clone(&tls).accept(stream);
                    listener.serve_through(open, router).await
                }
                None => listener.serve(router).await,
            }
        };
        tokio::select! {
            never = serve => never,
            never = status.sample() => never,
        }
    }
}

impl Board {
    /// Shows these parts from now on, which are built by now.
    pub fn show(&self, facts: Facts) {
        self.0.show(facts);
    }
}

async fn metrics(State(view): State<View>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], without_secrets(view.metrics.encode()))
}

async fn status(State(view): State<View>) -> Response {
    match view.status.document() {
        Ok(text) => {
            let headers =
                [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
            (headers, text).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn livez(State(view): State<View>) -> Response {
    let stuck = view.health.stuck();
    if stuck.is_empty() {
        return "alive\n".into_response();
    }
    unavailable(&format!("no progress: {}\n", stuck.join(", ")))
}

async fn readyz(State(view): State<View>) -> Response {
    let mut reasons: Vec<String> =
        view.health.not_ready().into_iter().map(|(part, why)| format!("{part}: {why}\n")).collect();
    if view.shutdown.is_draining() {
        reasons.push("draining\n".to_owned());
    }
    if reasons.is_empty() {
        return "ready\n".into_response();
    }
    unavailable(&reasons.concat())
}

fn unavailable(reasons: &str) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, redact::clean(reasons).into_owned()).into_response()
}

/// Masks only values of labels: a scraper needs the rest unchanged.
fn without_secrets(text: String) -> String {
    if let Cow::Borrowed(_) = redact::clean(&text) {
        return text;
    }
    let line = |line: &str| match line.split_once('{') {
        Some((name, rest)) if !line.starts_with('#') => match rest.rsplit_once('}') {
            Some((labels, value)) => format!("{name}{{{}}}{value}", redact::clean(labels)),
            None => line.to_owned(),
        },
        _ => line.to_owned(),
    };
    text.split_inclusive('\n').map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_labels_of_metrics_are_covered() {
        redact::learn("source_received");
        let text = "# TYPE source_received counter\nsource_received_total{source=\"source_received}\"} 7\n# EOF\n";
        let shown = without_secrets(text.to_owned());
        assert_eq!(shown, text.replace("\"source_received}", "\"…}"));
    }
}
