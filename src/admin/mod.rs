//! The admin port: `/metrics`, `/livez`, `/readyz`. Read-only, on loopback unless told otherwise.

use std::io;
use std::net::SocketAddr;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use crate::health::Health;
use crate::metrics::{CONTENT_TYPE, Metrics};
use crate::shutdown::Shutdown;

/// A bound admin port.
#[derive(Debug)]
pub struct Admin {
    listener: TcpListener,
    view: View,
}

#[derive(Clone, Debug)]
struct View {
    metrics: Metrics,
    health: Health,
    shutdown: Shutdown,
}

impl Admin {
    /// Takes the port.
    pub async fn bind(
        listen: SocketAddr,
        metrics: Metrics,
        health: Health,
        shutdown: Shutdown,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        Ok(Self { listener, view: View { metrics, health, shutdown } })
    }

    /// The address that was taken.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers for ever; the caller drops it when nothing is left to tell.
    pub async fn run(self) -> io::Result<()> {
        let router = Router::new()
            .route("/metrics", get(metrics))
            .route("/livez", get(livez))
            .route("/readyz", get(readyz))
            .with_state(self.view);
        axum::serve(self.listener, router).await
    }
}

async fn metrics(State(view): State<View>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], view.metrics.encode())
}

async fn livez(State(view): State<View>) -> Response {
    let stuck = view.health.stuck();
    if stuck.is_empty() {
        return "alive\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("no progress: {}\n", stuck.join(", ")))
        .into_response()
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
    (StatusCode::SERVICE_UNAVAILABLE, reasons.concat()).into_response()
}
