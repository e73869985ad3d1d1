//! An event of `EventBridge`, whose target has no input of its own:
//! <https://docs.aws.amazon.com/eventbridge/latest/ref/overiew-event-structure.html>.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Event, Headers, NoEnvelope, add, no, read};

const NAME: &str = "EventBridge event";

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Notification<'a> {
    id: String,
    detail_type: String,
    source: String,
    account: Option<String>,
    time: Option<String>,
    region: Option<String>,
    #[serde(borrow)]
    detail: &'a RawValue,
}

/// Its detail; what it says beside becomes headers.
pub(super) fn open(body: &Bytes, mut headers: Headers) -> Result<Event, NoEnvelope> {
    let read: Notification<'_> = read(NAME, body).map_err(|error| {
        let hint = "where the rule's target has an input path or transformer, leave `eventbridge` out of `unwrap`";
        no(NAME, format!("{}; {hint}", error.why))
    })?;
    let detail = body.slice_ref(read.detail.get().as_bytes());
    add(&mut headers, "eventbridge.source", Some(read.source));
    add(&mut headers, "eventbridge.detail-type", Some(read.detail_type));
    add(&mut headers, "eventbridge.id", Some(read.id));
    add(&mut headers, "eventbridge.time", read.time);
    add(&mut headers, "eventbridge.region", read.region);
    add(&mut headers, "eventbridge.account", read.account);
    Ok(Event { payload: detail, headers })
}
