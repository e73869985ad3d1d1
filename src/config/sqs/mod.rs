//! The keys of a source with `type = "sqs"`.

mod queue;
mod rejects;
mod unwrap;

use std::time::Duration;

use serde_json::json;

use super::api::{Aws, auth};
use super::common::{Client, Common, MAX_PAYLOAD, Own, Settings, Tls, TlsChoice};
use super::reader::{
    Field, Kind, Located, Problem, Reported, Setting, Table, Words, contrast, impossible,
    show_duration,
};
pub use queue::Queue;
use queue::{FORM, endpoint};
pub use rejects::SqsRejects;
pub(super) use rejects::read_rejects;
pub use unwrap::Envelope;

/// `type = "sqs"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqsConfig {
    /// What to take from.
    pub queue: Queue,
    /// Where credentials and region come from; the region of the queue's URL is in it.
    pub aws: Aws,
    /// Where requests go.
    pub endpoint: String,
    /// How to secure the connection; `None`: plain text.
    pub tls: Option<Tls>,
    /// How long a receive waits for a message; whole seconds, 20 at most.
    pub wait_time: Duration,
    /// How long a message is ours before it has to be extended; whole seconds. `None`: the queue says.
    pub visibility_timeout: Option<Duration>,
    /// So many receives at a time.
    pub receivers: u32,
    /// What is around a message, outermost first.
    pub unwrap: Vec<Envelope>,
    /// A route leaves its rejects to the queue's redrive policy.
    pub needs_redrive: bool,
}

impl Settings for SqsConfig {
    fn max_payload(&self) -> usize {
        MAX_PAYLOAD
    }

    fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    fn asked(&self) -> Vec<&str> {
        vec![&self.queue.name]
    }

    fn leave_rejects(&mut self) {
        self.needs_redrive = true;
    }

    fn has_keys(&self) -> bool {
        // The message group.
        self.queue.is_fifo()
    }

    fn client(&self) -> Option<Client> {
        // Replicas share a queue; nobody has a name at it.
        None
    }

    fn kept_by(&self) -> Option<String> {
        Some(format!("the queue `{}`", self.queue.url))
    }
}

const WAIT_TIME: Duration = Duration::from_secs(20);
/// Of a message (`WaitTimeSeconds`, `VisibilityTimeout`).
const LONGEST_WAIT: u64 = 20;
const VISIBILITY: (u64, u64) = (2, 12 * 3600);
const RECEIVERS: u32 = 2;
const MOST_RECEIVERS: u32 = 64;

/// What other products call its keys.
pub(super) const WORDS: Words = &[&[
    ("queue", "queueurl url queuename name arn queuearn topic topics"),
    ("aws", "region profile awsregion awsprofile rolearn role externalid credentials auth"),
    ("endpoint", "endpointurl host address customendpoint"),
    ("wait_time", "waittimeseconds waitseconds pollsecs longpolling longpoll polltimeout"),
    (
        "visibility_timeout",
        "visibilitytimeoutseconds visibilitytimeoutsecs visibility messagetimeout lease ackwait",
    ),
    ("receivers", "pollers consumers workers concurrency clientconcurrency"),
    ("unwrap", "rawmessagedelivery envelope sns decode format"),
    ("max_in_flight", "maxoutstandingmessages maxoutstanding maxmessages prefetch"),
]];

/// Reads what only SQS sources have.
pub(super) fn read(
    table: &mut Table<'_>,
    common: &Common,
    grace: Option<&Setting<Duration>>,
) -> Option<Own<SqsConfig>> {
    let ledger = table.ledger;
    let plaintext = common.plaintext.as_ref().is_none_or(|setting| setting.value);
    let endpoint = table.filled("endpoint").then(|text| endpoint(ledger, &text, plaintext));
    // Where requests go elsewhere, the queue's URL is a name.
    let is_name = !matches!(endpoint, Field::Absent(_));
    let queue = table.filled("queue").then(|text| Queue::read(ledger, &text, plaintext || is_name));
    let queue = table.require("queue", queue, format!("its URL, like {FORM}"));
    let aws = aws(table, queue.as_ref());
    let wait = seconds(table, "wait_time", 0, LONGEST_WAIT).or(WAIT_TIME);
    let (least, most) = VISIBILITY;
    let visibility = seconds(table, "visibility_timeout", least, most).optional();
    let receivers = table.integer("receivers", 1..=MOST_RECEIVERS).or(RECEIVERS);
    let unwrap = unwrap::unwrap(table).or_word(Vec::new(), json!("none"));
    if let (Some(wait), Some(grace)) = (&wait, grace)
        && wait.value >= grace.value
    {
        let message = contrast([("wait_time", wait), ("shutdown.grace", grace)], show_duration);
        let problem = impossible(message, wait, grace, "the drain ends after this");
        ledger.report(problem.help(
            "`wait_time` < `shutdown.grace`: a receive that is open when the drain begins is awaited, \
             so that what it brings can be given back",
        ));
    }
    let endpoint = endpoint.optional().ok()?.map(|endpoint| endpoint.value);
    let endpoint = endpoint.or(queue.as_ref().map(|queue| queue.value.origin.clone()));
    let tls = tls(table, endpoint.as_deref(), &common.tls);
    let Located { value: queue, span } = queue?;
    Some(Own {
        client: None,
        asked: vec![span],
        config: SqsConfig {
            aws: aws?,
            endpoint: endpoint?,
            tls: tls.ok()?,
            wait_time: wait?.value,
            visibility_timeout: visibility.ok()?.map(|visibility| visibility.value),
            receivers: receivers?.value,
            unwrap: unwrap?.value,
            needs_redrive: false,
            queue,
        },
    })
}

/// Reads `aws`, with the region of the queue's URL where none is named.
fn aws(table: &mut Table<'_>, queue: Option<&Located<Queue>>) -> Option<Aws> {
    let told = queue.and_then(|queue| {
        Some(auth::Told {
            by: "queue",
            region: queue.value.region.as_ref()?,
            span: queue.span.clone(),
        })
    });
    let span = table.span.clone();
    let aws = table.table("aws", "aws").then(|table| auth::aws(table.value, told.as_ref()));
    let (mut aws, place) = match aws.optional().ok()? {
        Some(aws) => (aws.value, aws.span),
        None => (Aws::default(), queue.map_or(span, |queue| queue.span.clone())),
    };
    if queue.is_some() && told.is_none() {
        auth::needs_region(table.ledger, &aws, "queue", place);
    }
    aws.region = aws.region.or(told.map(|told| told.region.to_owned()));
    Some(aws)
}

fn tls(
    table: &Table<'_>,
    endpoint: Option<&str>,
    choice: &Field<TlsChoice>,
) -> Result<Option<Tls>, Reported> {
    let ledger = table.ledger;
    let secure = endpoint.is_none_or(|endpoint| endpoint.starts_with("https"));
    let (choice, span) = match choice {
        Field::Bad => return Err(Reported),
        Field::Absent(_) => return Ok(secure.then(Tls::default)),
        Field::Good(Located { value, span }) => (value, span),
    };
    let refuse = |message: &str, hint: &str| {
        let problem = Problem::new(Kind::Impossible, Some(span.clone()), message);
        ledger.report(problem.help(hint));
        Err(Reported)
    };
    match (choice, secure) {
        (TlsChoice::On(tls), _) if tls.identity.is_some() => refuse(
            "SQS knows no client by a certificate",
            "say who the bridge is with `aws`; `ca_file` alone is taken",
        ),
        (TlsChoice::On(tls), true) => Ok(Some(tls.clone())),
        (TlsChoice::Off, false) => Ok(None),
        (TlsChoice::On(_), false) => refuse(
            "`tls` is on, but requests go to `http://`",
            "write `https://` in `queue`, or in `endpoint`: the URL says it",
        ),
        (TlsChoice::Off, true) => refuse(
            "`tls` is false, but requests go to `https://`",
            "leave `tls` away: the URL says it",
        ),
    }
}

/// A duration of whole seconds, from `least` to `most`.
fn seconds(table: &mut Table<'_>, key: &'static str, least: u64, most: u64) -> Field<Duration> {
    let ledger = table.ledger;
    table.duration(key).then(|duration| {
        let whole = duration.value.subsec_nanos() == 0;
        if whole && (least..=most).contains(&duration.value.as_secs()) {
            return Some(duration.value);
        }
        let message = if whole {
            format!("`{key}` is beyond what SQS takes")
        } else {
            format!("`{key}` has parts of a second, which SQS can't say")
        };
        let range = [least, most].map(|seconds| show_duration(Duration::from_secs(seconds)));
        let hint = format!("it is `\"{}\"` to `\"{}\"`", range[0], range[1]);
        ledger.refuse(Problem::new(Kind::BadValue, Some(duration.span), message).help(hint))
    })
}
