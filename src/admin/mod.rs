//! The admin port: `/metrics`, `/livez`, `/readyz`. Read-only, on loopback unless told otherwise, and
//! without any secret, even one in a reason or a name.

use std::borrow::Cow;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::files::descriptors;
use crate::health::Health;
use crate::listener::Listener;
use crate::metrics::{CONTENT_TYPE, Metrics};
use crate::redact;
use crate::shutdown::Shutdown;

/// Connections: a scraper and a prober need one each; the rest is for people, and for strangers.
const MOST_CONNECTIONS: usize = 256;

/// This port may use one part in so many of the file descriptors.
const SHARE: u64 = 4;

/// A bound admin port.
#[derive(Debug)]
pub struct Admin {
    listener: Listener,
    view: View,
}

#[derive(Clone, Debug)]
struct View {
    metrics: Metrics,
    health: Health,
    shutdown: Shutdown,
}

impl Admin {
    /// Binds the port.
    pub fn bind(
        listen: SocketAddr,
        metrics: Metrics,
        health: Health,
        shutdown: Shutdown,
    ) -> io::Result<Self> {
        let most = descriptors::share(SHARE, MOST_CONNECTIONS);
        let listener = Listener::bind(listen, "the admin port", most)?;
        Ok(Self { listener, view: View { metrics, health, shutdown } })
    }

    /// The bound address.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers for ever; the caller drops it at the end of the bridge.
    pub async fn run(self) -> Infallible {
        let router = Router::new()
            .route("/metrics", get(metrics))
            .route("/livez", get(livez))
            .route("/readyz", get(readyz))
            .with_state(self.view);
        self.listener.serve(router).await
    }
}

async fn metrics(State(view): State<View>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], without_secrets(view.metrics.encode()))
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
