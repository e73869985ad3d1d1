//! The page of the demo, and the two documents its script reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::IntoResponse;
use axum::routing::get;
use serde_json::{Value, json};

use super::fleet::{EVENTS_A_SECOND, VANS};

const HTML: &str = include_str!("page/index.html");
const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");

#[derive(Clone)]
struct Facts {
    demo: Arc<Value>,
    published: Arc<AtomicU64>,
}

/// The routes of the page. `demo` tells the script how to connect; `published` is the number of events
/// that the fleet has published.
pub(super) fn router(demo: Value, published: Arc<AtomicU64>) -> Router {
    let file = |kind: &'static str, text: &'static str| {
        get(move || async move { ([(CONTENT_TYPE, kind)], text) })
    };
    Router::new()
        .route("/", file("text/html; charset=utf-8", HTML))
        .route("/page.css", file("text/css; charset=utf-8", STYLE))
        .route("/page.js", file("text/javascript; charset=utf-8", SCRIPT))
        .route("/demo.json", get(demo_json))
        .route("/fleet.json", get(fleet_json))
        .with_state(Facts { demo: Arc::new(demo), published })
}

async fn demo_json(State(facts): State<Facts>) -> impl IntoResponse {
    document(&facts.demo)
}

async fn fleet_json(State(facts): State<Facts>) -> impl IntoResponse {
    let published = facts.published.load(Ordering::Relaxed);
    let rate = EVENTS_A_SECOND * VANS;
    document(&json!({ "published": published, "vehicles": VANS, "rate": rate }))
}

fn document(value: &Value) -> impl IntoResponse + use<> {
    ([(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")], value.to_string())
}
