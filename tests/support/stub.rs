//! HTTP servers inside of the test: one that a test answers for, and an Event API made of it that
//! decides by the headers, where the emulator can't yet.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::response::Response;
use http::HeaderMap;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A request.
pub(crate) struct Asked {
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

/// Answers requests until it is dropped, each after a while.
pub(crate) struct Stub {
    pub(crate) address: String,
    /// Requests that were answered.
    pub(crate) answered: Arc<AtomicUsize>,
    /// The most that were waiting at the same time.
    pub(crate) at_once: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

/// What the stub of an Event API accepted.
#[derive(Default)]
pub(crate) struct Accepted {
    ids: Mutex<Vec<u64>>,
    pub(crate) refused: AtomicUsize,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

impl Stub {
    pub(crate) async fn start(
        latency: Duration,
        answer: impl Fn(&Asked) -> Response + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (answered, at_once) = <(Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
        let (counter, most, now) =
            (Arc::clone(&answered), Arc::clone(&at_once), AtomicUsize::new(0));
        let shared = Arc::new((answer, now));
        let router = axum::Router::new().fallback(move |request: http::Request<Body>| {
            let (shared, counter, most) =
                (Arc::clone(&shared), Arc::clone(&counter), Arc::clone(&most));
            async move {
                let (head, body) = request.into_parts();
                let body = to_bytes(body, 1 << 20).await.unwrap();
                let asked = Asked {
                    headers: head.headers,
                    body: String::from_utf8(body.to_vec()).unwrap(),
                };
                most.fetch_max(shared.1.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::time::sleep(latency).await;
                shared.1.fetch_sub(1, Ordering::SeqCst);
                counter.fetch_add(1, Ordering::SeqCst);
                (shared.0)(&asked)
            }
        });
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, answered, at_once, task }
    }

    pub(crate) fn count(&self) -> usize {
        self.answered.load(Ordering::SeqCst)
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Accepted {
    /// Answers a publish as the Event API does; `refusal` is the `errorType` for who is refused.
    pub(crate) fn answer(&self, asked: &Asked, refusal: Option<&str>) -> Response {
        if let Some(kind) = refusal {
            self.refused.fetch_add(1, Ordering::SeqCst);
            return reply(403, &json!({ "errors": [{ "errorType": kind, "message": "no" }] }));
        }
        let body: Value = serde_json::from_str(&asked.body).unwrap();
        let events = body["events"].as_array().unwrap();
        let id = |event: &Value| {
            let event: Value = serde_json::from_str(event.as_str().unwrap()).unwrap();
            event["id"].as_u64().unwrap()
        };
        self.ids.lock().unwrap().extend(events.iter().map(id));
        let successful: Vec<Value> = (0..events.len())
            .map(|index| json!({ "identifier": format!("e-{index}"), "index": index }))
            .collect();
        reply(200, &json!({ "failed": [], "successful": successful }))
    }

    pub(crate) fn len(&self) -> usize {
        self.ids.lock().unwrap().len()
    }

    /// The ids that came.
    pub(crate) fn distinct(&self) -> BTreeSet<u64> {
        self.ids.lock().unwrap().iter().copied().collect()
    }

    pub(crate) fn refused(&self) -> usize {
        self.refused.load(Ordering::SeqCst)
    }

    /// Every id from 0 to `count`, and none twice.
    pub(crate) fn assert_each_once(&self, count: u64) {
        assert_eq!(self.distinct(), (0..count).collect());
        assert_eq!(self.len() as u64, count, "some came twice");
    }
}

/// A JSON answer.
pub(crate) fn reply(status: u16, body: &Value) -> Response {
    let response = Response::builder().status(status).header("content-type", "application/json");
    response.body(Body::from(body.to_string())).unwrap()
}
