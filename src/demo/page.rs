//! The page of the demo: its files, the document of what is measured now, and its buttons.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderName, StatusCode};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use parking_lot::Mutex;
use rumqttc_v5::{AsyncClient, PublishOptions};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::sleep;

use super::access::{self, Access};
use super::broker::Traffic;
use super::fleet::{Fleet, VANS};
use super::process;
use super::rejects::Rejects;
use super::settings::SPOKEN;
use super::trouble::{Kind, Troubles};
use crate::emulator::{Emulator, Handle};

const FILES: [(&str, &str, &str); 5] = [
    ("/", "text/html; charset=utf-8", include_str!("page/index.html")),
    ("/page.css", "text/css; charset=utf-8", include_str!("page/page.css")),
    ("/panels.css", "text/css; charset=utf-8", include_str!("page/panels.css")),
    ("/page.js", "text/javascript; charset=utf-8", include_str!("page/page.js")),
    ("/trouble.js", "text/javascript; charset=utf-8", include_str!("page/trouble.js")),
];

/// Only what is served here, and the Event API's WebSocket; in nobody's frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self' ws:; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The longest topic and the largest payload that can be sent from the page.
const MAX_TOPIC: usize = 200;
const MAX_PAYLOAD: usize = 16 * 1024;

/// New dead letters are looked for this often.
const LOOK_EVERY: Duration = Duration::from_millis(150);

/// A page that has asked within this time is open.
const OPEN: Duration = Duration::from_secs(2);

/// All that the page shows.
pub(super) struct Scene {
    document: Value,
    access: Arc<Access>,
    published: Arc<AtomicU64>,
    client: AsyncClient,
    traffic: Arc<Traffic>,
    troubles: Troubles,
    emulator: Handle,
    bridge: process::Watch,
    asked: Mutex<Option<Instant>>,
    ending: AtomicBool,
    /// That it is ending was shown to a page.
    told: Notify,
}

impl Scene {
    /// A scene of all these parts; `document` tells the page's script how to connect.
    pub(super) fn new(
        document: Value,
        access: Arc<Access>,
        fleet: &Fleet,
        traffic: Arc<Traffic>,
        troubles: Troubles,
        emulator: &Emulator,
        bridge: process::Watch,
    ) -> Self {
        Self {
            document,
            access,
            published: fleet.published(),
            client: fleet.client(),
            traffic,
            troubles,
            emulator: emulator.handle(),
            bridge,
            asked: Mutex::default(),
            ending: AtomicBool::new(false),
            told: Notify::new(),
        }
    }

    /// Follows what happens, for ever.
    pub(super) async fn look(&self, rejects: &mut Rejects) -> Infallible {
        let reading = async {
            loop {
                for reject in rejects.fresh() {
                    self.traffic.messages.rejected(&reject.topic, &reject.payload, &reject.reason);
                }
                sleep(LOOK_EVERY).await;
            }
        };
        tokio::join!(self.troubles.watch(), reading).1
    }

    /// The demo is ending: whatever is broken is mended, so that what waits can leave.
    pub(super) fn end(&self) {
        self.troubles.mend();
        self.ending.store(true, Ordering::SeqCst);
    }

    /// Waits until an open page was told so, if there is one.
    pub(super) async fn told(&self) {
        let open = self.asked.lock().is_some_and(|asked| asked.elapsed() < OPEN);
        if open {
            self.told.notified().await;
        }
    }

    /// What is measured now.
    fn live(&self) -> Value {
        *self.asked.lock() = Some(Instant::now());
        let ending = self.ending.load(Ordering::SeqCst);
        if ending {
            self.told.notify_one();
        }
        let broker = self.traffic.counts();
        let counts = self.emulator.counts();
        json!({
            "ending": ending,
            "fleet": {
                "published": self.published.load(Ordering::Relaxed),
                "vehicles": VANS,
            },
            "broker": {
                "received": broker.received,
                "acknowledged": broker.acknowledged,
                "waiting": broker.waiting(),
                "connected": broker.connected,
            },
            "bridge": self.bridge_now(),
            "api": {
                "requests": counts.publishes,
                "events": counts.events,
                "units_in": counts.units_in,
                "deliveries": counts.deliveries,
                "units_out": counts.units_out,
                "sockets": self.emulator.sockets(),
            },
            "trouble": self.troubles.show(),
            "messages": self.traffic.messages.show(),
        })
    }

    /// The bridge, by its process and its own word.
    fn bridge_now(&self) -> Value {
        let seen = self.bridge.seen();
        let answer = seen.answer();
        let why = answer.and_then(|status| status["not_ready"].as_array());
        let why = why.into_iter().flatten().filter_map(|part| part["why"].as_str());
        json!({
            "pid": seen.pid,
            "starts": seen.starts,
            "ready": seen.is_ready(),
            "why": why.collect::<Vec<_>>(),
            "in_flight": answer.map(|status| &status["sources"][0]["in_flight"]),
            "restart_ms": u64::try_from(process::RESTART_AFTER.as_millis()).unwrap_or_default(),
        })
    }
}

/// The routes of the page.
pub(super) fn router(scene: Arc<Scene>) -> Router {
    let mut router = Router::new();
    for (path, kind, text) in FILES {
        router = router.route(path, get(move || async move { (headers(kind), text) }));
    }
    let access = Arc::clone(&scene.access);
    router
        .route("/demo.json", get(async |State(scene): State<Arc<Scene>>| document(&scene.document)))
        .route("/live.json", get(async |State(scene): State<Arc<Scene>>| document(&scene.live())))
        .route("/break", post(break_it))
        .route("/send", post(send))
        .with_state(scene)
        .layer(from_fn_with_state(access, access::guard))
}

#[derive(Deserialize)]
struct Break {
    what: String,
}

async fn break_it(State(scene): State<Arc<Scene>>, body: Bytes) -> Response {
    let asked = serde_json::from_slice::<Break>(&body);
    let Some(kind) = asked.ok().and_then(|asked| Kind::named(&asked.what)) else {
        return refused(StatusCode::BAD_REQUEST, "nothing of that name can be broken");
    };
    if scene.ending.load(Ordering::SeqCst) {
        return refused(StatusCode::CONFLICT, "the demo is ending");
    }
    if !scene.troubles.begin(kind) {
        let words = "one thing at a time: what was broken before has not come through yet";
        return refused(StatusCode::CONFLICT, words);
    }
    document(&scene.live()).into_response()
}

#[derive(Deserialize)]
struct Send {
    topic: String,
    payload: String,
}

async fn send(State(scene): State<Arc<Scene>>, body: Bytes) -> Response {
    let Ok(Send { topic, payload }) = serde_json::from_slice(&body) else {
        return refused(StatusCode::BAD_REQUEST, "a message has a `topic` and a `payload`");
    };
    if !topic.starts_with(SPOKEN) {
        return refused(StatusCode::BAD_REQUEST, "a topic begins with `demo/` here");
    }
    if topic.len() > MAX_TOPIC || topic.contains(['+', '#', '\0']) {
        return refused(StatusCode::BAD_REQUEST, "MQTT has no such topic to publish to");
    }
    if payload.len() > MAX_PAYLOAD {
        return refused(StatusCode::BAD_REQUEST, "16 kB are the most that the page sends");
    }
    match scene.client.publish(topic, payload, PublishOptions::at_least_once()).await {
        Ok(()) => document(&json!({})).into_response(),
        Err(why) => refused(StatusCode::SERVICE_UNAVAILABLE, &format!("it can't be sent: {why}")),
    }
}

fn refused(status: StatusCode, why: &str) -> Response {
    (status, document(&json!({ "why": why }))).into_response()
}

fn headers(kind: &'static str) -> [(HeaderName, &'static str); 5] {
    [
        (CONTENT_TYPE, kind),
        (CACHE_CONTROL, "no-cache"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
    ]
}

fn document(value: &Value) -> impl IntoResponse + use<> {
    ([(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")], value.to_string())
}
