//! A small SQS inside of the test, which speaks the JSON protocol of the real one and does to its clients what
//! no other server does on demand. It is quick: the benchmark runs against it.

use std::collections::{BTreeMap, HashMap};
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};

use super::Server;
use super::model::{Draft, Handed, History, MOST, Problem, Queues};
use crate::support::{PATIENCE, until};

/// A running fake; its connections are cut when it is dropped.
pub(crate) struct Fake {
    server: Server,
    state: Arc<State>,
    task: AbortHandle,
}

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Action {
    CreateQueue,
    GetQueueUrl,
    GetQueueAttributes,
    SendMessage,
    SendMessageBatch,
    ReceiveMessage,
    DeleteMessage,
    DeleteMessageBatch,
    ChangeMessageVisibility,
    ChangeMessageVisibilityBatch,
}

/// In place of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    AccessDenied,
    Throttled,
    OverLimit,
    /// Of a key that the queue is encrypted with.
    KmsAccessDenied,
    /// The status 500.
    Internal,
    /// The status 503, of a proxy.
    Unavailable,
    NoQueue,
    /// It is done, and the connection is cut.
    Lost,
    /// It is not done, and never answered.
    Silent,
}

/// What it does wrong, from now on.
#[derive(Default)]
pub(crate) struct Faults {
    /// Of the entries of a batch, as a proportion.
    pub(crate) entries: HashMap<Action, f64>,
    /// Whole requests, so many times.
    pub(crate) requests: HashMap<Action, (Refusal, u32)>,
    /// Of the messages that are deleted, so many come again.
    pub(crate) again: f64,
    /// Polls are never answered.
    pub(crate) black_hole: bool,
}

#[derive(Default)]
struct State {
    queues: Mutex<Queues>,
    faults: Mutex<Faults>,
    /// A message may have become visible.
    changed: Notify,
    asked: [AtomicU64; 10],
    polls: AtomicU64,
    address: Mutex<String>,
}

/// For as often as it is asked.
pub(crate) const ALWAYS: u32 = u32::MAX;

const ACTIONS: [(&str, Action); 10] = [
    ("CreateQueue", Action::CreateQueue),
    ("GetQueueUrl", Action::GetQueueUrl),
    ("GetQueueAttributes", Action::GetQueueAttributes),
    ("SendMessage", Action::SendMessage),
    ("SendMessageBatch", Action::SendMessageBatch),
    ("ReceiveMessage", Action::ReceiveMessage),
    ("DeleteMessage", Action::DeleteMessage),
    ("DeleteMessageBatch", Action::DeleteMessageBatch),
    ("ChangeMessageVisibility", Action::ChangeMessageVisibility),
    ("ChangeMessageVisibilityBatch", Action::ChangeMessageVisibilityBatch),
];

impl Fake {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(State::default());
        state.address.lock().unwrap().clone_from(&endpoint);
        let task = serve(listener, Arc::clone(&state));
        Self { server: Server::at(endpoint), state, task }
    }

    /// Cuts every connection and takes no more, until it is started again. It keeps what it holds.
    pub(crate) fn stop(&self) {
        self.task.abort();
    }

    /// Listens again, on the same port.
    pub(crate) async fn restart(&mut self) {
        let address = self.endpoint.trim_start_matches("http://").to_owned();
        let listener =
            until("its port is free", PATIENCE, async || TcpListener::bind(&address).await.ok())
                .await;
        self.task = serve(listener, Arc::clone(&self.state));
    }

    /// What it does wrong.
    pub(crate) fn faults(&self) -> MutexGuard<'_, Faults> {
        self.state.faults.lock().unwrap()
    }

    /// Requests of this kind so far.
    pub(crate) fn asked(&self, action: Action) -> u64 {
        self.state.asked[action as usize].load(Ordering::SeqCst)
    }

    /// Polls that wait for their answers.
    pub(crate) fn open_polls(&self) -> u64 {
        self.state.polls.load(Ordering::SeqCst)
    }

    /// What became of each message that a queue ever had, in the order they came in.
    pub(crate) fn history(&self, queue: &str) -> Vec<History> {
        self.state.queues.lock().unwrap().history(queue)
    }

    /// So many messages of a queue may be in flight, in place of 120,000.
    pub(crate) fn limit_in_flight(&self, queue: &str, most: usize) {
        self.state.queues.lock().unwrap().limit_in_flight(queue, most);
    }

    /// Messages of a queue, and batches of them, may have so many bytes from now on.
    pub(crate) fn limit_size(&self, queue: &str, bytes: usize) {
        self.state.queues.lock().unwrap().limit_size(queue, bytes);
    }

    /// What is in flight is visible at once.
    pub(crate) fn give_all_back(&self, queue: &str) {
        self.state.queues.lock().unwrap().give_all_back(queue);
        self.state.changed.notify_waiters();
    }

    /// Puts messages into a queue without the network.
    pub(crate) fn fill(&self, queue: &str, bodies: impl IntoIterator<Item = String>) {
        let mut queues = self.state.queues.lock().unwrap();
        for body in bodies {
            let draft = Draft { body, ..Draft::default() };
            queues.send(queue, draft, Instant::now()).unwrap();
        }
        self.state.changed.notify_waiters();
    }
}

/// Answers until it is aborted, and its connections with it.
fn serve(listener: TcpListener, state: Arc<State>) -> AbortHandle {
    let task = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let state = Arc::clone(&state);
            let service = service_fn(move |request| {
                let state = Arc::clone(&state);
                async move { state.answer(request).await }
            });
            let server = hyper::server::conn::http1::Builder::new();
            connections.spawn(async move {
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    task.abort_handle()
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Deref for Fake {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

/// A request. Members of other actions are absent.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[derive(Default)]
struct Asked {
    queue_name: String,
    queue_url: String,
    attributes: BTreeMap<String, String>,
    attribute_names: Vec<String>,
    message_attribute_names: Vec<String>,
    message_system_attribute_names: Vec<String>,
    max_number_of_messages: Option<usize>,
    visibility_timeout: Option<u64>,
    wait_time_seconds: Option<u64>,
    receive_request_attempt_id: Option<String>,
    entries: Vec<Entry>,
    #[serde(flatten)]
    entry: Entry,
}

/// An entry of a batch, or what a request without one says.
#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Entry {
    id: String,
    message_body: String,
    message_attributes: BTreeMap<String, Value>,
    message_group_id: Option<String>,
    message_deduplication_id: Option<String>,
    receipt_handle: String,
    #[serde(rename = "VisibilityTimeout")]
    visibility: Option<u64>,
}

/// What ends a connection.
type Cut = std::io::Error;

impl State {
    async fn answer(&self, request: http::Request<Incoming>) -> Result<Response<Full<Bytes>>, Cut> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map_err(Cut::other)?.to_bytes();
        let action = action_of(&head.headers);
        self.asked[action as usize].fetch_add(1, Ordering::SeqCst);
        let refusal = self.refusal(action);
        match refusal {
            None | Some(Refusal::Lost) => {}
            Some(Refusal::Silent) => std::future::pending().await,
            Some(refusal) => return Ok(refused(refusal, action)),
        }
        let asked: Asked = serde_json::from_slice(&body).unwrap();
        let answer = if action == Action::ReceiveMessage {
            self.polls.fetch_add(1, Ordering::SeqCst);
            let _open = Open(&self.polls);
            self.receive(&asked).await
        } else {
            self.act(action, asked)
        };
        if refusal == Some(Refusal::Lost) {
            return Err(Cut::other("lost"));
        }
        Ok(match answer {
            Ok(body) => ok(&body),
            Err(problem) => problem_of(StatusCode::BAD_REQUEST, &problem),
        })
    }

    fn refusal(&self, action: Action) -> Option<Refusal> {
        let mut faults = self.faults.lock().unwrap();
        let (refusal, times) = faults.requests.get_mut(&action)?;
        if *times == 0 {
            return None;
        }
        if *times != ALWAYS {
            *times -= 1;
        }
        Some(*refusal)
    }

    fn act(&self, action: Action, asked: Asked) -> Result<Value, Problem> {
        let now = Instant::now();
        let name = name_of(&asked.queue_url);
        let mut queues = self.queues.lock().unwrap();
        match action {
            Action::CreateQueue => {
                queues.create(&asked.queue_name, asked.attributes)?;
                Ok(json!({ "QueueUrl": self.url(&asked.queue_name) }))
            }
            Action::GetQueueUrl => {
                queues.has(&asked.queue_name)?;
                Ok(json!({ "QueueUrl": self.url(&asked.queue_name) }))
            }
            Action::GetQueueAttributes => {
                let mut attributes = queues.attributes(name, now)?;
                let names = &asked.attribute_names;
                attributes.retain(|name, _| names.iter().any(|n| n == "All" || n == name));
                Ok(json!({ "Attributes": attributes }))
            }
            Action::SendMessage => {
                let sent = queues.send(name, asked.entry.draft(), now)?;
                self.changed.notify_waiters();
                Ok(json!({ "MessageId": sent.id, "SequenceNumber": sent.sequence }))
            }
            Action::DeleteMessage => {
                queues.delete(name, &asked.entry.receipt_handle, self.again(), now)?;
                self.changed.notify_waiters();
                Ok(json!({}))
            }
            Action::ChangeMessageVisibility => {
                let for_ = Duration::from_secs(asked.visibility_timeout.unwrap_or_default());
                queues.change_visibility(name, &asked.entry.receipt_handle, for_, now)?;
                self.changed.notify_waiters();
                Ok(json!({}))
            }
            Action::SendMessageBatch
            | Action::DeleteMessageBatch
            | Action::ChangeMessageVisibilityBatch => {
                check_batch(&asked.entries, queues.most_bytes(name)?)?;
                let answer = self.batch(action, &mut queues, name, asked.entries, now);
                self.changed.notify_waiters();
                Ok(answer)
            }
            Action::ReceiveMessage => unreachable!("it waits"),
        }
    }

    fn batch(
        &self,
        action: Action,
        queues: &mut Queues,
        name: &str,
        entries: Vec<Entry>,
        now: Instant,
    ) -> Value {
        let fails = self.faults.lock().unwrap().entries.get(&action).copied().unwrap_or_default();
        let (mut successful, mut failed) = (Vec::new(), Vec::new());
        for mut entry in entries {
            let id = std::mem::take(&mut entry.id);
            if rand::random_bool(fails) {
                failed.push(json!({
                    "Id": id, "SenderFault": false, "Code": "InternalError",
                    "Message": "We encountered an internal error. Please try again.",
                }));
                continue;
            }
            let done = match action {
                Action::SendMessageBatch => queues.send(name, entry.draft(), now).map(|sent| {
                    json!({
                        "Id": id, "MessageId": sent.id, "SequenceNumber": sent.sequence,
                        "MD5OfMessageBody": "",
                    })
                }),
                Action::DeleteMessageBatch => queues
                    .delete(name, &entry.receipt_handle, self.again(), now)
                    .map(|()| json!({ "Id": id })),
                _ => {
                    let for_ = Duration::from_secs(entry.visibility.unwrap_or_default());
                    queues
                        .change_visibility(name, &entry.receipt_handle, for_, now)
                        .map(|()| json!({ "Id": id }))
                }
            };
            match done {
                Ok(done) => successful.push(done),
                Err(problem) => failed.push(json!({
                    "Id": id, "SenderFault": true, "Code": problem.query, "Message": problem.text,
                })),
            }
        }
        json!({ "Successful": successful, "Failed": failed })
    }

    /// Waits for messages, as a long poll does.
    async fn receive(&self, asked: &Asked) -> Result<Value, Problem> {
        let name = name_of(&asked.queue_url);
        let wait = if let Some(wait) = asked.wait_time_seconds {
            wait
        } else {
            let mut queues = self.queues.lock().unwrap();
            let attributes = queues.attributes(name, Instant::now())?;
            attributes["ReceiveMessageWaitTimeSeconds"].parse().unwrap()
        };
        if wait > 20 {
            return Err(Problem::new(
                "InvalidParameterValue",
                "InvalidParameterValue",
                "Value for parameter WaitTimeSeconds is invalid. Reason: Must be >= 0 and <= 20.",
            ));
        }
        let deadline = Instant::now() + Duration::from_secs(wait);
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.faults.lock().unwrap().black_hole {
                std::future::pending::<()>().await;
            }
            let now = Instant::now();
            let next = {
                let mut queues = self.queues.lock().unwrap();
                let most = asked.max_number_of_messages.unwrap_or(1);
                let visibility = asked.visibility_timeout.map(Duration::from_secs);
                let attempt = asked.receive_request_attempt_id.as_deref();
                let handed = queues.receive(name, most, visibility, attempt, now)?;
                if !handed.is_empty() || now >= deadline {
                    return Ok(messages(&handed, asked));
                }
                queues.next(name)
            };
            let until = next.map_or(deadline, |next| next.min(deadline));
            let _ = tokio::time::timeout_at(until.into(), changed).await;
        }
    }

    /// Whether the queue forgets what it deletes now.
    fn again(&self) -> bool {
        rand::random_bool(self.faults.lock().unwrap().again)
    }

    fn url(&self, name: &str) -> String {
        format!("{}/123456789012/{name}", self.address.lock().unwrap())
    }
}

/// A poll that waits.
struct Open<'a>(&'a AtomicU64);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Entry {
    fn draft(self) -> Draft {
        Draft {
            body: self.message_body,
            attributes: self.message_attributes,
            group: self.message_group_id,
            deduplication: self.message_deduplication_id,
        }
    }
}

fn action_of(headers: &HeaderMap) -> Action {
    let target = headers["x-amz-target"].to_str().unwrap();
    let name = target.strip_prefix("AmazonSQS.").unwrap();
    ACTIONS.iter().find(|(of, _)| *of == name).unwrap_or_else(|| panic!("{name}")).1
}

fn name_of(url: &str) -> &str {
    url.rsplit('/').next().unwrap()
}

fn check_batch(entries: &[Entry], most_bytes: usize) -> Result<(), Problem> {
    let problem = |kind, query, text: &str| Err(Problem::new(kind, query, text));
    if entries.is_empty() {
        return problem(
            "EmptyBatchRequest",
            "AWS.SimpleQueueService.EmptyBatchRequest",
            "There should be at least one entry in the request.",
        );
    }
    if entries.len() > MOST {
        return problem(
            "TooManyEntriesInBatchRequest",
            "AWS.SimpleQueueService.TooManyEntriesInBatchRequest",
            "Maximum number of entries per request are 10.",
        );
    }
    let distinct: std::collections::HashSet<_> = entries.iter().map(|entry| &entry.id).collect();
    if distinct.len() < entries.len() {
        return problem(
            "BatchEntryIdsNotDistinct",
            "AWS.SimpleQueueService.BatchEntryIdsNotDistinct",
            "Two or more batch entries in the request have the same Id.",
        );
    }
    if entries.iter().map(|entry| entry.message_body.len()).sum::<usize>() > most_bytes {
        return problem(
            "BatchRequestTooLong",
            "AWS.SimpleQueueService.BatchRequestTooLong",
            &format!("Batch requests cannot be longer than {most_bytes} bytes."),
        );
    }
    Ok(())
}

/// The messages with what was asked for of each.
fn messages(handed: &[Handed], asked: &Asked) -> Value {
    if handed.is_empty() {
        return json!({});
    }
    let wants = |names: &[String], name: &str| {
        names.iter().any(|n| {
            n == "All" || n == name || n.strip_suffix(".*").is_some_and(|n| name.starts_with(n))
        })
    };
    let one = |Handed { message, receipt, receives, .. }: &Handed| {
        let mut one = json!({
            "MessageId": message.id, "ReceiptHandle": receipt, "Body": message.body, "MD5OfBody": "",
        });
        let system = [
            ("SenderId", Some("AIDATEST".to_owned())),
            ("SentTimestamp", Some(message.sent.to_string())),
            ("ApproximateReceiveCount", Some(receives.to_string())),
            ("ApproximateFirstReceiveTimestamp", Some(message.sent.to_string())),
            ("MessageGroupId", message.group.as_deref().map(str::to_owned)),
            ("MessageDeduplicationId", message.deduplication.clone()),
            ("SequenceNumber", message.sequence.clone()),
        ];
        let system: serde_json::Map<_, _> = system
            .into_iter()
            .filter(|(name, _)| {
                wants(&asked.message_system_attribute_names, name)
                    || wants(&asked.attribute_names, name)
            })
            .filter_map(|(name, value)| Some((name.to_owned(), Value::String(value?))))
            .collect();
        if !system.is_empty() {
            one["Attributes"] = Value::Object(system);
        }
        let attributes: serde_json::Map<_, _> = message
            .attributes
            .iter()
            .filter(|(name, _)| wants(&asked.message_attribute_names, name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        if !attributes.is_empty() {
            one["MessageAttributes"] = Value::Object(attributes);
        }
        one
    };
    json!({ "Messages": handed.iter().map(one).collect::<Vec<_>>() })
}

fn ok(body: &Value) -> Response<Full<Bytes>> {
    let body = serde_json::to_vec(body).unwrap();
    let answer = Response::builder().header("content-type", "application/x-amz-json-1.0");
    answer.body(Full::new(body.into())).unwrap()
}

fn refused(refusal: Refusal, action: Action) -> Response<Full<Bytes>> {
    let bad = StatusCode::BAD_REQUEST;
    let (status, problem) = match refusal {
        Refusal::AccessDenied => {
            let name = ACTIONS[action as usize].0.to_ascii_lowercase();
            let text = format!(
                "User: arn:aws:sts::123456789012:assumed-role/bridge/i-0 is not authorized to perform: sqs:{name} \
                 on resource: arn:aws:sqs:eu-west-1:123456789012:queue because no identity-based policy allows \
                 the sqs:{name} action"
            );
            let kind = "AccessDeniedException";
            (StatusCode::FORBIDDEN, Problem::new(kind, "AccessDenied", text))
        }
        Refusal::Throttled => {
            let text = "Request is throttled.";
            (bad, Problem::new("RequestThrottled", "RequestThrottled", text))
        }
        Refusal::OverLimit => {
            let text = "Too many messages in flight.";
            (StatusCode::FORBIDDEN, Problem::new("OverLimit", "OverLimit", text))
        }
        Refusal::KmsAccessDenied => {
            let text = "The ciphertext refers to a key that does not exist, or you do not have access to it.";
            (bad, Problem::new("KmsAccessDenied", "KMS.AccessDeniedException", text))
        }
        Refusal::NoQueue => {
            let kind = "QueueDoesNotExist";
            let query = "AWS.SimpleQueueService.NonExistentQueue";
            (bad, Problem::new(kind, query, "The specified queue does not exist."))
        }
        Refusal::Internal | Refusal::Lost | Refusal::Silent => {
            let text = "We encountered an internal error. Please try again.";
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            (status, Problem::new("InternalFailure", "InternalFailure", text))
        }
        Refusal::Unavailable => {
            let page = Full::new(Bytes::from_static(b"<html>503 Service Unavailable</html>"));
            let answer = Response::builder().status(StatusCode::SERVICE_UNAVAILABLE);
            return answer.body(page).unwrap();
        }
    };
    problem_of(status, &problem)
}

fn problem_of(status: StatusCode, problem: &Problem) -> Response<Full<Bytes>> {
    let body = json!({
        "__type": format!("com.amazonaws.sqs#{}", problem.kind), "message": problem.text,
    });
    let mut answer = ok(&body);
    *answer.status_mut() = status;
    let query = format!("{};Sender", problem.query);
    answer.headers_mut().insert("x-amzn-query-error", query.parse().unwrap());
    answer
}
