//! Takes messages out of the envelopes that other services of AWS put around them.
//!
//! What is inside becomes the payload, byte for byte as far as the envelope has it as JSON; what the envelope
//! says beside becomes headers behind those of the message, named for the service: `sns.TopicArn`,
//! `eventbridge.detail-type`, `s3.key`. The attributes of an SNS message keep their names, as those of a
//! message that was sent to the queue do. With the raw message delivery of SNS there is no envelope: the
//! attributes are those of the SQS message then.
//!
//! An envelope is read strictly, so that no two readers disagree about it: what is none, or says a thing twice,
//! is no guess but a reject. Pure.

mod eventbridge;
mod s3;
mod sns;

use std::mem;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::error::Category;

use crate::config::sqs::Envelope;
use crate::delivery::{Delivery, Done, Outcome, Settlement};
use crate::message::{Message, bytes_of_headers};

/// Names and values, in order.
type Headers = Vec<(String, Bytes)>;

/// What was in an envelope.
#[derive(Debug, PartialEq, Eq)]
enum Content {
    /// An event each, at least one.
    Events(Vec<Event>),
    /// S3 tries whether it may write to the queue.
    Test,
}

/// A payload, and the headers that its envelope adds.
#[derive(Debug, PartialEq, Eq)]
struct Event {
    payload: Bytes,
    headers: Headers,
}

/// Why a body is not in the envelope that the source expects: a clause, and a hint. It has nothing of the body.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("no {name}: {why}")]
struct NoEnvelope {
    name: &'static str,
    why: String,
}

/// The deliveries of what is in a message: one an event, and all of them end its duty. None where there is
/// nothing to publish: its duty is done then. One that is not in these envelopes is
/// [unreadable](Delivery::unreadable), and as it came.
pub(super) fn deliveries(
    envelopes: &[Envelope],
    message: Message,
    settlement: Settlement,
) -> Vec<Delivery> {
    if envelopes.is_empty() {
        return vec![Delivery::new(message, settlement)];
    }
    match messages(envelopes, &message) {
        Ok(inside) if inside.is_empty() => {
            settlement.settle(Outcome::Accepted(Done::Filtered));
            Vec::new()
        }
        Ok(inside) => {
            let all: usize = inside.iter().map(memory).sum();
            settlement.charge(all.saturating_sub(memory(&message)));
            let duties = settlement.share(inside.len());
            inside.into_iter().zip(duties).map(|(one, duty)| Delivery::new(one, duty)).collect()
        }
        Err(why) => vec![Delivery::unreadable(message, settlement, why)],
    }
}

/// What is in a message: a message an event, none where there is nothing to publish. An error is why it is not in
/// these envelopes.
pub(in crate::source) fn messages(
    envelopes: &[Envelope],
    message: &Message,
) -> Result<Vec<Message>, String> {
    let mut outer = message.clone();
    let (payload, headers) = (mem::take(&mut outer.payload), mem::take(&mut outer.headers));
    match unwrap(envelopes, Event { payload, headers }).map_err(|why| why.to_string())? {
        Content::Events(events) => {
            Ok(events.into_iter().map(|event| within(&outer, event)).collect())
        }
        Content::Test => Ok(Vec::new()),
    }
}

/// The message that an event is: where it came from is where its envelope came from.
fn within(outer: &Message, event: Event) -> Message {
    let Event { payload, headers } = event;
    Message { headers, payload, ..outer.clone() }
}

/// What a message holds, in bytes; a payload counts in each that has a part of it.
fn memory(message: &Message) -> usize {
    size_of::<Message>() + message.payload.len() + bytes_of_headers(&message.headers)
}

/// Opens the envelopes, outermost first. Those of its headers that the message came with are the first ones.
fn unwrap(envelopes: &[Envelope], mut event: Event) -> Result<Content, NoEnvelope> {
    for envelope in envelopes {
        let Event { payload, headers } = event;
        event = match envelope {
            Envelope::Sns => sns::open(&payload, headers)?,
            Envelope::EventBridge => eventbridge::open(&payload, headers)?,
            // Nothing is inside of it.
            Envelope::S3 => return s3::open(&payload, &headers),
        };
    }
    Ok(Content::Events(vec![event]))
}

/// Reads an envelope as JSON. Members that `T` has not are ignored, and one that stands twice is refused.
fn read<'a, T: Deserialize<'a>>(name: &'static str, body: &'a [u8]) -> Result<T, NoEnvelope> {
    serde_json::from_slice(body).map_err(|error| {
        // Its words may show a value, which may be anything.
        let why = match error.classify() {
            Category::Data => words(&error),
            _ => "it is no JSON".to_owned(),
        };
        no(name, format!("{why} (line {}, column {})", error.line(), error.column()))
    })
}

/// What is missing or doubled, which is a name of ours; else nothing of the body.
fn words(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let ours = ["missing field ", "duplicate field "].iter().any(|begin| text.starts_with(begin));
    let text = text.rsplit_once(" at line ").map_or(&*text, |(text, _)| text);
    if ours { text.to_owned() } else { "a member is of another type".to_owned() }
}

fn no(name: &'static str, why: impl Into<String>) -> NoEnvelope {
    NoEnvelope { name, why: why.into() }
}

/// Adds a header if there is a value.
fn add(headers: &mut Headers, name: &str, value: Option<impl Into<Bytes>>) {
    if let Some(value) = value {
        headers.push((name.to_owned(), value.into()));
    }
}

#[cfg(test)]
mod tests;
