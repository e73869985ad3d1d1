//! Spans, as OTLP has them.

use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link, SpanKind};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{
    ResourceSpans, ScopeSpans, Span as Exported, SpanFlags, Status,
};
use prost::Message as _;

use super::attributes::{number, scope, text};
use crate::redact;
use crate::trace::{Attribute, Kind, Place, Span, Value};

/// Of the trace: it is recorded.
const SAMPLED: u32 = 1;

/// The body of a request with these spans.
pub(super) fn request(resource: &Resource, spans: &[Span]) -> Vec<u8> {
    let spans = spans.iter().map(exported).collect();
    let scope_spans = vec![ScopeSpans { scope: Some(scope()), spans, ..ScopeSpans::default() }];
    let resource = Some(resource.clone());
    let resource_spans = vec![ResourceSpans { resource, scope_spans, ..ResourceSpans::default() }];
    ExportTraceServiceRequest { resource_spans }.encode_to_vec()
}

/// How many spans a good answer says were not taken, and why.
pub(super) fn left_out(answer: &[u8]) -> Option<(u64, String)> {
    let partial = ExportTraceServiceResponse::decode(answer).ok()?.partial_success?;
    let count = u64::try_from(partial.rejected_spans).ok().filter(|count| *count > 0)?;
    Some((count, partial.error_message))
}

fn exported(span: &Span) -> Exported {
    let kind = match span.kind {
        Kind::Consumer => SpanKind::Consumer,
        Kind::Producer => SpanKind::Producer,
        Kind::Client => SpanKind::Client,
    };
    let status = span.error.as_deref().map(|why| Status {
        message: redact::clean(why).into_owned(),
        code: StatusCode::Error.into(),
    });
    let event = |note: &crate::trace::Note| Event {
        time_unix_nano: nanoseconds(note.at),
        name: note.name.to_owned(),
        attributes: note.attributes.iter().map(pair).collect(),
        ..Event::default()
    };
    let link = |place: &Place| Link {
        trace_id: place.trace.to_vec(),
        span_id: place.span.to_vec(),
        flags: SAMPLED | SpanFlags::ContextHasIsRemoteMask as u32,
        ..Link::default()
    };
    // Only a message's parent is in another process.
    let remote = if span.kind == Kind::Consumer && span.parent.is_some() {
        SpanFlags::ContextIsRemoteMask as u32
    } else {
        0
    };
    Exported {
        trace_id: span.at.trace.to_vec(),
        span_id: span.at.span.to_vec(),
        trace_state: span.state.to_string(),
        parent_span_id: span.parent.map(Vec::from).unwrap_or_default(),
        flags: SAMPLED | SpanFlags::ContextHasIsRemoteMask as u32 | remote,
        name: span.name.clone(),
        kind: kind.into(),
        start_time_unix_nano: nanoseconds(span.began),
        end_time_unix_nano: nanoseconds(span.ended.max(span.began)),
        attributes: span.attributes.iter().map(pair).collect(),
        events: span.notes.iter().map(event).collect(),
        dropped_events_count: span.notes_left_out,
        links: span.links.iter().map(link).collect(),
        status,
        ..Exported::default()
    }
}

fn pair((name, value): &Attribute) -> KeyValue {
    match value {
        Value::Text(value) => text(name, value),
        Value::Word(value) => text(name, value),
        Value::Number(value) => number(name, *value),
    }
}

/// Since 1970, as far as 64 bits reach.
pub(super) fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
