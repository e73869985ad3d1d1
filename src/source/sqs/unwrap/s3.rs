//! A notification of S3, with a record for each change, and the one that it sends to try the queue:
//! <https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html>,
//! <https://docs.aws.amazon.com/AmazonS3/latest/userguide/how-to-enable-disable-notification-intro.html>.
//!
//! The key of an object is URL-encoded in a record, with `+` for a space; in the header `s3.key` it is as the
//! bucket has it.

use bytes::Bytes;
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Content, Event, Headers, NoEnvelope, add, no, read};
use crate::message::bytes_of_headers;

const NAME: &str = "S3 notification";

/// What the headers around a notification may take, one copy a record, in bytes.
const MOST_COPIES: usize = 4 << 20;

/// In the place of records.
const TEST: &str = "s3:TestEvent";

#[derive(Deserialize)]
struct Notification<'a> {
    #[serde(rename = "Event")]
    event: Option<String>,
    #[serde(rename = "Records", borrow)]
    records: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    event_source: String,
    event_name: String,
    event_time: Option<String>,
    s3: Change,
}

#[derive(Deserialize)]
struct Change {
    bucket: Bucket,
    object: Object,
}

#[derive(Deserialize)]
struct Bucket {
    name: String,
}

#[derive(Deserialize)]
struct Object {
    key: String,
}

/// Its records; what each says becomes headers behind these.
pub(super) fn open(body: &Bytes, headers: &Headers) -> Result<Content, NoEnvelope> {
    let read: Notification<'_> = read(NAME, body)?;
    let records = match (read.records, read.event.as_deref()) {
        (None, Some(TEST)) => return Ok(Content::Test),
        (Some(records), None) if !records.is_empty() => records,
        _ => return Err(no(NAME, "it has no `Records`")),
    };
    // Every record has a copy of them.
    if records.len() * bytes_of_headers(headers) > MOST_COPIES {
        let hint = "S3 itself puts one record into a notification";
        return Err(no(
            NAME,
            format!("its headers, for each of its records, take too much; {hint}"),
        ));
    }
    let events = records.into_iter().map(|record| event(body, record, headers));
    Ok(Content::Events(events.collect::<Result<_, _>>()?))
}

fn event(body: &Bytes, record: &RawValue, headers: &Headers) -> Result<Event, NoEnvelope> {
    let text = record.get().as_bytes();
    let record: Record = read(NAME, text)?;
    if record.event_source != "aws:s3" {
        return Err(no(NAME, "a record's `eventSource` is not `aws:s3`"));
    }
    let mut headers = headers.clone();
    add(&mut headers, "s3.eventName", Some(record.event_name));
    add(&mut headers, "s3.eventTime", record.event_time);
    add(&mut headers, "s3.bucket", Some(record.s3.bucket.name));
    add(&mut headers, "s3.key", Some(decoded(&record.s3.object.key)));
    Ok(Event { payload: body.slice_ref(text), headers })
}

/// The key as the bucket has it. What is not encoded stays as it is.
fn decoded(key: &str) -> Vec<u8> {
    percent_decode_str(&key.replace('+', " ")).collect()
}
