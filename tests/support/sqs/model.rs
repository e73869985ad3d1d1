//! What a queue of SQS does, without a network: visibility, receive counts, groups, redrive. Limits and errors
//! are those of the API's reference.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

use super::REGION;

/// All queues, by their names.
#[derive(Default)]
pub(crate) struct Queues {
    queues: HashMap<String, Queue>,
    serial: u64,
}

/// A queue and every message that it ever had, at its place in `messages`.
struct Queue {
    attributes: BTreeMap<String, String>,
    fifo: bool,
    visibility: Duration,
    redrive: Option<(String, u32)>,
    /// How many messages may be in flight.
    ceiling: usize,
    messages: Vec<Stored>,
    ready: BTreeSet<usize>,
    hidden: BTreeSet<(Instant, usize)>,
    /// The groups that have a message in flight, and how many.
    held: HashMap<Arc<str>, usize>,
    /// Of a FIFO queue, by the id that tells a second one.
    sent: HashMap<String, (Instant, usize)>,
    /// Receives of a FIFO queue, by the id that tells a repeat.
    attempts: HashMap<String, Attempt>,
}

struct Stored {
    message: Arc<Content>,
    state: State,
    receives: u32,
    /// Of the last receive.
    received: Option<Instant>,
    /// Somebody has changed its visibility since.
    changed: bool,
}

/// A receive that took something.
#[derive(Clone)]
struct Attempt {
    at: Instant,
    /// For so many.
    most: usize,
    /// The places of its messages, and the number of this receive of each.
    taken: Vec<(usize, u32)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Ready,
    Hidden(Instant),
    Deleted,
    /// To the queue for those that were received too often.
    Moved,
}

/// What of a message does not change.
pub(crate) struct Content {
    pub(crate) id: String,
    pub(crate) sequence: Option<String>,
    pub(crate) body: String,
    pub(crate) attributes: BTreeMap<String, Value>,
    pub(crate) group: Option<Arc<str>>,
    pub(crate) deduplication: Option<String>,
    /// Milliseconds of Unix time.
    pub(crate) sent: u128,
}

/// What is sent.
#[derive(Default)]
pub(crate) struct Draft {
    pub(crate) body: String,
    pub(crate) attributes: BTreeMap<String, Value>,
    pub(crate) group: Option<String>,
    pub(crate) deduplication: Option<String>,
}

/// A message as it is handed out.
pub(crate) struct Handed {
    at: usize,
    pub(crate) message: Arc<Content>,
    pub(crate) receipt: String,
    pub(crate) receives: u32,
}

/// What became of a message so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct History {
    pub(crate) body: String,
    pub(crate) receives: u32,
    pub(crate) deleted: bool,
    /// To the queue for those that were received too often.
    pub(crate) moved: bool,
}

/// An error of the API: its type, what the query protocol calls it, and what is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) kind: &'static str,
    pub(crate) query: &'static str,
    pub(crate) text: String,
}

/// A batch, and the bytes of a message or of a batch.
pub(crate) const MOST: usize = 10;
pub(crate) const MOST_BYTES: usize = 1 << 20;

const CEILING: usize = 120_000;
const LONGEST: Duration = Duration::from_hours(12);
const REMEMBERED: Duration = Duration::from_mins(5);
const ACCOUNT: &str = "123456789012";

impl Problem {
    pub(crate) fn new(kind: &'static str, query: &'static str, text: impl Into<String>) -> Self {
        Self { kind, query, text: text.into() }
    }

    fn value(text: impl Into<String>) -> Self {
        Self::new("InvalidParameterValue", "InvalidParameterValue", text)
    }

    fn receipt(text: impl Into<String>) -> Self {
        Self::new("ReceiptHandleIsInvalid", "ReceiptHandleIsInvalid", text)
    }
}

impl Queues {
    /// Makes one; its attributes are as in the API.
    pub(crate) fn create(
        &mut self,
        name: &str,
        mut attributes: BTreeMap<String, String>,
    ) -> Result<(), Problem> {
        let fifo = attributes.get("FifoQueue").is_some_and(|fifo| fifo == "true");
        if fifo != name.strip_suffix(".fifo").is_some() {
            return Err(Problem::value("The name of a FIFO queue can only end with .fifo"));
        }
        let redrive = attributes.get("RedrivePolicy").map(|policy| {
            let policy: Value = serde_json::from_str(policy).unwrap();
            let arn = policy["deadLetterTargetArn"].as_str().unwrap();
            let most = &policy["maxReceiveCount"];
            let most = most.as_str().map_or_else(|| most.to_string(), str::to_owned);
            (arn.rsplit(':').next().unwrap().to_owned(), most.parse().unwrap())
        });
        attributes.entry("VisibilityTimeout".into()).or_insert_with(|| "30".into());
        attributes.entry("ReceiveMessageWaitTimeSeconds".into()).or_insert_with(|| "0".into());
        attributes.entry("MaximumMessageSize".into()).or_insert_with(|| MOST_BYTES.to_string());
        attributes.insert("QueueArn".into(), format!("arn:aws:sqs:{REGION}:{ACCOUNT}:{name}"));
        let seconds = attributes["VisibilityTimeout"].parse().unwrap();
        let queue = Queue {
            fifo,
            visibility: Duration::from_secs(seconds),
            redrive,
            ceiling: CEILING,
            attributes,
            messages: Vec::new(),
            ready: BTreeSet::new(),
            hidden: BTreeSet::new(),
            held: HashMap::new(),
            sent: HashMap::new(),
            attempts: HashMap::new(),
        };
        self.queues.insert(name.to_owned(), queue);
        Ok(())
    }

    pub(crate) fn has(&self, name: &str) -> Result<(), Problem> {
        self.queue(name).map(drop)
    }

    /// So many may be in flight, of a queue that has yet to be asked.
    pub(crate) fn limit_in_flight(&mut self, name: &str, ceiling: usize) {
        self.queue_mut(name).unwrap().ceiling = ceiling;
    }

    /// Messages, and batches of them, may have so many bytes from now on.
    pub(crate) fn limit_size(&mut self, name: &str, bytes: usize) {
        let attributes = &mut self.queue_mut(name).unwrap().attributes;
        attributes.insert("MaximumMessageSize".into(), bytes.to_string());
    }

    /// The most bytes of a batch.
    pub(crate) fn most_bytes(&self, name: &str) -> Result<usize, Problem> {
        Ok(self.queue(name)?.attributes["MaximumMessageSize"].parse().unwrap())
    }

    pub(crate) fn attributes(
        &mut self,
        name: &str,
        now: Instant,
    ) -> Result<BTreeMap<String, String>, Problem> {
        let queue = self.queue_mut(name)?;
        queue.expire(now);
        let mut attributes = queue.attributes.clone();
        let mut count = |key: &str, count: usize| {
            attributes.insert(format!("ApproximateNumberOfMessages{key}"), count.to_string())
        };
        count("", queue.ready.len());
        count("NotVisible", queue.hidden.len());
        count("Delayed", 0);
        Ok(attributes)
    }

    /// Sends one, and returns its id and sequence number: those of the first, if it is a second.
    pub(crate) fn send(
        &mut self,
        name: &str,
        draft: Draft,
        now: Instant,
    ) -> Result<Arc<Content>, Problem> {
        self.serial += 1;
        let serial = self.serial;
        let queue = self.queue_mut(name)?;
        let attributes = draft
            .attributes
            .iter()
            .map(|(name, value)| name.len() + value["StringValue"].as_str().map_or(0, str::len));
        if draft.body.len() + attributes.sum::<usize>() > MOST_BYTES {
            return Err(Problem::value(
                "One or more parameters are invalid. Reason: Message must be shorter than 1048576 bytes.",
            ));
        }
        let mut deduplication = draft.deduplication;
        if queue.fifo {
            if draft.group.is_none() {
                return Err(Problem::new(
                    "MissingParameter",
                    "MissingParameter",
                    "The request must contain the parameter MessageGroupId.",
                ));
            }
            if queue.attributes.get("ContentBasedDeduplication").is_some_and(|on| on == "true") {
                deduplication.get_or_insert_with(|| draft.body.clone());
            }
            let Some(id) = &deduplication else {
                return Err(Problem::value(
                    "The queue should either have ContentBasedDeduplication enabled or MessageDeduplicationId provided explicitly",
                ));
            };
            if let Some((at, first)) = queue.sent.get(id)
                && now.duration_since(*at) < REMEMBERED
            {
                return Ok(Arc::clone(&queue.messages[*first].message));
            }
            queue.sent.insert(id.clone(), (now, queue.messages.len()));
        }
        let message = Arc::new(Content {
            id: format!("{serial:08x}-0000-4000-8000-000000000000"),
            sequence: queue.fifo.then(|| format!("{serial:020}")),
            body: draft.body,
            attributes: draft.attributes,
            group: draft.group.map(Into::into),
            deduplication,
            sent: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis(),
        });
        queue.put(Arc::clone(&message));
        Ok(message)
    }

    /// Hands out up to `most` messages, hidden for so long or for as long as the queue says.
    pub(crate) fn receive(
        &mut self,
        name: &str,
        most: usize,
        visibility: Option<Duration>,
        attempt: Option<&str>,
        now: Instant,
    ) -> Result<Vec<Handed>, Problem> {
        if !(1..=MOST).contains(&most) {
            return Err(Problem::value(format!(
                "Value {most} for parameter MaxNumberOfMessages is invalid. Reason: Must be between 1 and 10, if provided."
            )));
        }
        let queue = self.queue_mut(name)?;
        let attempt = attempt.filter(|_| queue.fifo);
        if let Some(id) = attempt
            && let Some(handed) = queue.repeat(id, most, visibility, now)?
        {
            return Ok(handed);
        }
        let (handed, moved) = queue.receive(most, visibility, now)?;
        if let Some(id) = attempt.filter(|_| !handed.is_empty()) {
            let taken = handed.iter().map(|handed| (handed.at, handed.receives)).collect();
            queue.attempts.insert(id.to_owned(), Attempt { at: now, most, taken });
        }
        if let Some((dead, _)) = queue.redrive.clone() {
            for message in moved {
                self.queue_mut(&dead)?.put(message);
            }
        }
        Ok(handed)
    }

    /// Deletes one. Of a receipt that is not the last one, a standard queue says that it is done. `again`: the queue
    /// forgets that it was told.
    pub(crate) fn delete(
        &mut self,
        name: &str,
        receipt: &str,
        again: bool,
        now: Instant,
    ) -> Result<(), Problem> {
        let queue = self.queue_mut(name)?;
        queue.expire(now);
        let (at, receive) = queue.receipt(receipt)?;
        let stored = &queue.messages[at];
        if matches!(stored.state, State::Deleted | State::Moved) {
            return Ok(());
        }
        if queue.fifo && (stored.receives != receive || stored.state == State::Ready) {
            return Err(Problem::value(format!(
                "Value {receipt} for parameter ReceiptHandle is invalid. Reason: The receipt handle has expired."
            )));
        }
        if stored.receives != receive {
            return Ok(());
        }
        queue.state(at, if again { State::Ready } else { State::Deleted });
        Ok(())
    }

    /// Hides one for so long from now on.
    pub(crate) fn change_visibility(
        &mut self,
        name: &str,
        receipt: &str,
        visibility: Duration,
        now: Instant,
    ) -> Result<(), Problem> {
        let queue = self.queue_mut(name)?;
        queue.expire(now);
        let (at, receive) = queue.receipt(receipt)?;
        let stored = &queue.messages[at];
        if matches!(stored.state, State::Deleted | State::Moved) {
            return Err(Problem::value(format!(
                "Value {receipt} for parameter ReceiptHandle is invalid. Reason: Message does not exist or is not available for visibility timeout change."
            )));
        }
        if stored.receives != receive || stored.state == State::Ready {
            return Err(Problem::new(
                "MessageNotInflight",
                "AWS.SimpleQueueService.MessageNotInflight",
                "The message referred to isn't in flight.",
            ));
        }
        if now + visibility > stored.received.unwrap() + LONGEST {
            return Err(Problem::value(format!(
                "Value {} for parameter VisibilityTimeout is invalid. Reason: Total VisibilityTimeout for the message is beyond the limit [43200 seconds].",
                visibility.as_secs()
            )));
        }
        let state =
            if visibility.is_zero() { State::Ready } else { State::Hidden(now + visibility) };
        queue.state(at, state);
        queue.messages[at].changed = true;
        Ok(())
    }

    /// What is in flight is visible at once, by somebody who knows the receipts.
    pub(crate) fn give_all_back(&mut self, name: &str) {
        let queue = self.queue_mut(name).unwrap();
        for (_, at) in queue.hidden.clone() {
            queue.state(at, State::Ready);
            queue.messages[at].changed = true;
        }
    }

    /// When the next message of a queue is visible again.
    pub(crate) fn next(&self, name: &str) -> Option<Instant> {
        self.queue(name).ok()?.hidden.first().map(|(until, _)| *until)
    }

    /// What became of each message that a queue ever had, in the order they came in.
    pub(crate) fn history(&self, name: &str) -> Vec<History> {
        let messages = self.queue(name).unwrap().messages.iter();
        let history = |stored: &Stored| History {
            body: stored.message.body.clone(),
            receives: stored.receives,
            deleted: stored.state == State::Deleted,
            moved: stored.state == State::Moved,
        };
        messages.map(history).collect()
    }

    fn queue(&self, name: &str) -> Result<&Queue, Problem> {
        self.queues.get(name).ok_or_else(no_queue)
    }

    fn queue_mut(&mut self, name: &str) -> Result<&mut Queue, Problem> {
        self.queues.get_mut(name).ok_or_else(no_queue)
    }
}

impl Queue {
    fn put(&mut self, message: Arc<Content>) {
        self.ready.insert(self.messages.len());
        let (state, receives, received, changed) = (State::Ready, 0, None, false);
        self.messages.push(Stored { message, state, receives, received, changed });
    }

    /// What is due is visible again.
    fn expire(&mut self, now: Instant) {
        while let Some((until, at)) = self.hidden.first().copied()
            && until <= now
        {
            self.state(at, State::Ready);
        }
    }

    #[allow(clippy::type_complexity)]
    fn receive(
        &mut self,
        most: usize,
        visibility: Option<Duration>,
        now: Instant,
    ) -> Result<(Vec<Handed>, Vec<Arc<Content>>), Problem> {
        self.expire(now);
        if self.hidden.len() >= self.ceiling {
            // A FIFO queue says nothing of it.
            return if self.fifo {
                Ok((Vec::new(), Vec::new()))
            } else {
                Err(Problem::new("OverLimit", "OverLimit", "Too many messages in flight."))
            };
        }
        let (mut taken, mut poor) = (Vec::new(), Vec::new());
        for at in &self.ready {
            let stored = &self.messages[*at];
            if let Some(group) = &stored.message.group
                && self.fifo
                && self.held.contains_key(group)
            {
                continue;
            }
            if self.redrive.as_ref().is_some_and(|(_, most)| stored.receives >= *most) {
                poor.push(*at);
                continue;
            }
            taken.push(*at);
            if taken.len() == most {
                break;
            }
        }
        let moved = poor.iter().map(|at| Arc::clone(&self.messages[*at].message)).collect();
        for at in poor {
            self.state(at, State::Moved);
        }
        let until = now + visibility.unwrap_or(self.visibility);
        let handed = taken.into_iter().map(|at| {
            self.state(at, if until > now { State::Hidden(until) } else { State::Ready });
            let stored = &mut self.messages[at];
            stored.receives += 1;
            stored.received = Some(now);
            stored.changed = false;
            self.handed(at)
        });
        Ok((handed.collect(), moved))
    }

    /// What a receive took, once more, as long as nothing has been done to it: it is hidden anew.
    fn repeat(
        &mut self,
        id: &str,
        most: usize,
        visibility: Option<Duration>,
        now: Instant,
    ) -> Result<Option<Vec<Handed>>, Problem> {
        self.expire(now);
        let Some(Attempt { at, most: asked, taken }) = self.attempts.get(id).cloned() else {
            return Ok(None);
        };
        if now.duration_since(at) >= REMEMBERED {
            return Ok(None);
        }
        let is_changed = |(at, receives): &(usize, u32)| {
            let stored = &self.messages[*at];
            stored.receives == *receives && (stored.state == State::Deleted || stored.changed)
        };
        if taken.iter().any(is_changed) {
            return Err(Problem::value(format!(
                "Value {id} for parameter ReceiveRequestAttemptId is invalid. Reason: The receiveRequestAttemptId is not valid anymore since the receive call is not retryable."
            )));
        }
        let is_untouched = |(at, receives): &(usize, u32)| {
            let stored = &self.messages[*at];
            matches!(stored.state, State::Hidden(_)) && stored.receives == *receives
        };
        if !taken.iter().all(is_untouched) {
            return Ok(None);
        }
        assert_eq!(asked, most, "a repeat asks for the same");
        let until = now + visibility.unwrap_or(self.visibility);
        let handed = taken.into_iter().map(|(at, _)| {
            self.state(at, State::Hidden(until));
            self.handed(at)
        });
        Ok(Some(handed.collect()))
    }

    fn handed(&self, at: usize) -> Handed {
        let Stored { message, receives, .. } = &self.messages[at];
        let receipt = format!("{at}-{receives}-{}", *FILLER);
        Handed { at, message: Arc::clone(message), receipt, receives: *receives }
    }

    /// The place of a message and the number of its receive.
    fn receipt(&self, receipt: &str) -> Result<(usize, u32), Problem> {
        let mut parts = receipt.split('-');
        let mut number = || parts.next()?.parse::<usize>().ok();
        match (number(), number()) {
            (Some(at), Some(receive)) if at < self.messages.len() => Ok((at, receive as u32)),
            _ => Err(Problem::receipt(format!(
                "The input receipt handle \"{receipt}\" is not a valid receipt handle."
            ))),
        }
    }

    /// The one place where a message changes its state.
    fn state(&mut self, at: usize, new: State) {
        let stored = &mut self.messages[at];
        let old = std::mem::replace(&mut stored.state, new);
        let group = if self.fifo { stored.message.group.clone() } else { None };
        match old {
            State::Ready => {
                self.ready.remove(&at);
            }
            State::Hidden(until) => {
                self.hidden.remove(&(until, at));
                if let Some(group) = &group
                    && let Some(count) = self.held.get_mut(group)
                {
                    *count -= 1;
                    if *count == 0 {
                        self.held.remove(group);
                    }
                }
            }
            State::Deleted | State::Moved => {}
        }
        match new {
            State::Ready => {
                self.ready.insert(at);
            }
            State::Hidden(until) => {
                self.hidden.insert((until, at));
                if let Some(group) = group {
                    *self.held.entry(group).or_default() += 1;
                }
            }
            State::Deleted | State::Moved => {}
        }
    }
}

fn no_queue() -> Problem {
    Problem::new(
        "QueueDoesNotExist",
        "AWS.SimpleQueueService.NonExistentQueue",
        "The specified queue does not exist.",
    )
}

/// A receipt of SQS is this long.
static FILLER: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| "A".repeat(340));
