//! Dead letters as messages of a JetStream subject, confirmed by the acknowledgement of the stream that takes it before
//! their messages are acknowledged.
//!
//! A record has the headers and the payload of its message, byte for byte, and behind its headers those of
//! [`headers`](super::headers) with the reason. A header that NATS could not carry, or that its server would take for an
//! order (`Nats-Rollup` empties a stream), is there in base64, and so is the key of a Kafka record.
//!
//! `Nats-Msg-Id` is made of the record itself, so that what is written a second time, since its confirmation was lost, is
//! known to the stream within its duplicate window and not stored again.
//!
//! A record that is too large for the server is never cut: it is retried until the server's `max_payload` is raised, and
//! no later reject is settled meanwhile.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use async_nats::header::{HeaderName, NATS_MESSAGE_ID};
use async_nats::jetstream::context::{Context, PublishErrorKind};
use async_nats::jetstream::stream::RetentionPolicy;
use async_nats::{Client, HeaderMap, HeaderValue};
use aws_lc_rs::digest::{self, SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;

use super::headers::{PREFIX, goes_in_circles, headers};
use super::{Record, Target, WriteError};
use crate::config::StreamTaker;
use crate::config::nats::Connection;
use crate::message::{Coordinates, SourceName};
use crate::nats::{BuildError, Change, Dialer};
use crate::probe::{Complaint, Step};

/// A confirmation that has not come by then is taken for lost, and the record written anew.
const GIVE_UP: Duration = Duration::from_secs(10);

/// Of a subject that the server has no stream for, and what to do.
const NO_STREAM: &str = "no stream takes it";
const CREATE_ONE: &str = "create one with this subject";

/// Characters of a record's identity.
const ID: usize = 32;

/// A subject at the server of a source.
pub struct JetStreamTarget {
    connection: Connection,
    dialer: Dialer,
    subject: String,
    /// Sources that may be reading the subject themselves.
    readers: Vec<SourceName>,
    /// Sources whose rejects are written here, with the stream of which each takes everything.
    whole: Vec<StreamTaker>,
    /// The subject is in none of these, as far as could be asked.
    is_apart: bool,
    trouble: Arc<Mutex<Option<Complaint>>>,
    /// The server lets no answer come over this connection.
    inbox_refused: Arc<AtomicBool>,
    client: Option<Client>,
}

impl JetStreamTarget {
    /// A target at the server of a source; reads certificates, connects to nothing. The rejects of `readers` must not
    /// come from the subject itself, nor may a stream have it that is taken `whole` by a source whose rejects go here.
    pub fn build(
        connection: Connection,
        subject: String,
        readers: Vec<SourceName>,
        whole: Vec<StreamTaker>,
    ) -> Result<Self, BuildError> {
        let dialer = Dialer::new(&connection, "dead letters")?;
        let (is_apart, trouble) = (whole.is_empty(), Arc::default());
        let (inbox_refused, client) = (Arc::default(), None);
        Ok(Self {
            connection,
            dialer,
            subject,
            readers,
            whole,
            is_apart,
            trouble,
            inbox_refused,
            client,
        })
    }

    /// The stream that takes the subject; the error is the reason why it could not be written.
    pub async fn look(&mut self) -> Result<String, Complaint> {
        let context = self.context().await?;
        let found = context.stream_by_subject(self.subject.clone()).await;
        let stream = found.map_err(|error| {
            use async_nats::jetstream::context::GetStreamByNameErrorKind as Kind;
            match error.kind() {
                Kind::NotFound => self.complaint(NO_STREAM, CREATE_ONE),
                _ => self.complaint(&error.to_string(), ""),
            }
        })?;
        self.circle(&context, &stream).await.map_or(Ok(stream), Err)
    }

    /// Of a stream that has the subject: what becomes of rejects that the source is given which takes it whole. It would
    /// reject them for ever; or take them for what no route takes, so that they are gone if the stream keeps nothing that
    /// was acknowledged.
    async fn circle(&self, context: &Context, stream: &str) -> Option<Complaint> {
        let mut takers = self.whole.iter().filter(|taker| taker.stream == stream);
        let taker = takers.clone().find(|taker| taker.takes_rejects).or_else(|| takers.next())?;
        let why = if taker.takes_rejects {
            ""
        } else {
            let found = context.get_stream(stream).await;
            match found.map(|stream| stream.cached_info().config.retention) {
                Ok(RetentionPolicy::Limits) => return None,
                Ok(_) => ", and keeps nothing that was acknowledged",
                Err(_) => ", and whether it keeps what was acknowledged can't be asked",
            }
        };
        let source = &taker.source;
        let what =
            format!("`{source}` takes the whole stream `{stream}`, which has this subject{why}");
        let remedy = format!(
            "name one of another stream, or say in `subjects` what `{source}` takes, and edit its consumer's filter"
        );
        Some(Complaint::new(Step::Exists, what, remedy).about(&self.unwritten()))
    }

    async fn context(&mut self) -> Result<Context, Complaint> {
        let client = if let Some(client) = self.client.take() {
            client
        } else {
            let (trouble, connection) = (Arc::clone(&self.trouble), self.connection.clone());
            let inbox_refused = Arc::clone(&self.inbox_refused);
            let told = move |change| match change {
                Change::Connected => {
                    *trouble.lock() = None;
                    inbox_refused.store(false, Ordering::Relaxed);
                }
                Change::Failed { trouble: why, .. } | Change::Complaint(why) => {
                    inbox_refused.fetch_or(why.refuses_inbox(), Ordering::Relaxed);
                    *trouble.lock() = Some(why.complaint(&connection));
                }
                _ => {}
            };
            let opened = self.dialer.open(|options| options, told).await;
            opened.map_err(|trouble| trouble.complaint(&self.connection))?
        };
        if self.inbox_refused.swap(false, Ordering::Relaxed) {
            // Over another connection the client asks for answers again: they may be allowed by now.
            let _ = client.force_reconnect().await;
        }
        self.client = Some(client.clone());
        let mut context = async_nats::jetstream::new(client);
        context.set_timeout(GIVE_UP);
        Ok(context)
    }

    /// Writes all; the error has how many of the first are confirmed.
    async fn deliver(&mut self, records: &[Record]) -> Result<(), (usize, String)> {
        let context = self.context().await.map_err(|why| (0, why.to_string()))?;
        if !self.is_apart {
            // Who may not ask for the stream writes all the same: what circulates is known by its headers in the end.
            if let Ok(stream) = context.stream_by_subject(self.subject.clone()).await
                && let Some(circle) = self.circle(&context, &stream).await
            {
                return Err((0, circle.to_string()));
            }
            self.is_apart = true;
        }
        let mut under_way = Vec::with_capacity(records.len());
        let mut failed = None;
        for (at, record) in records.iter().enumerate() {
            if goes_in_circles(&record.message, &self.subject, &self.readers) {
                let source = &record.message.source;
                failed = Some((
                    at,
                    format!(
                        "`{source}` reads its own dead letters, which go to the subject `{}`, on `{}`: take that out of its \
                         `subjects`",
                        self.subject,
                        record.message.topic.as_str()
                    ),
                ));
                break;
            }
            let payload = record.message.payload.clone();
            match context
                .publish_with_headers(self.subject.clone(), of_record(record), payload)
                .await
            {
                Ok(confirmed) => under_way.push(confirmed),
                Err(error) => {
                    failed = Some((at, self.refusal(error.kind(), &error.to_string())));
                    break;
                }
            }
        }
        for (at, confirmed) in under_way.into_iter().enumerate() {
            if let Err(error) = confirmed.await {
                return Err((at, self.refusal(error.kind(), &error.to_string())));
            }
        }
        failed.map_or(Ok(()), Err)
    }

    fn refusal(&self, kind: PublishErrorKind, text: &str) -> String {
        let complaint = match kind {
            PublishErrorKind::StreamNotFound => self.complaint(NO_STREAM, CREATE_ONE),
            PublishErrorKind::MaxPayloadExceeded => self.complaint(
                &format!("a reject with its headers is too large for the server ({text})"),
                "raise its `max_payload`",
            ),
            PublishErrorKind::TimedOut => self.complaint("there is no answer", ""),
            _ => self.complaint(text, ""),
        };
        complaint.to_string()
    }

    /// Why the subject can't be written; what the connection complains of tells more than a timeout.
    fn complaint(&self, what: &str, remedy: &str) -> Complaint {
        let heard = self.trouble.lock().clone();
        // A look asks for the stream.
        let complaint = heard.unwrap_or_else(|| Complaint::new(Step::Exists, what, remedy));
        complaint.about(&self.unwritten())
    }

    fn unwritten(&self) -> String {
        format!("the subject `{}` can't be written", self.subject)
    }
}

impl Target for JetStreamTarget {
    fn place(&self) -> String {
        format!("subject {}", self.subject)
    }

    async fn open(&mut self) -> Result<(), WriteError> {
        self.look().await.map(|_| ()).map_err(WriteError::from)
    }

    async fn write(&mut self, records: &[Record]) -> Result<(), WriteError> {
        self.deliver(records).await.map_err(|(kept, why)| WriteError { kept, why })
    }
}

impl std::fmt::Debug for JetStreamTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "JetStreamTarget({})", self.subject)
    }
}

/// The headers of the message, in their order, and behind them ours.
fn of_record(record: &Record) -> HeaderMap {
    let mut all = HeaderMap::new();
    for (name, value) in &record.message.headers {
        let order = name.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("nats-"));
        let text = std::str::from_utf8(value).ok();
        let text = text.and_then(|text| text.parse::<HeaderValue>().ok());
        match (name.parse::<HeaderName>(), text) {
            (Ok(name), Some(text)) if !order => all.append(name, text),
            _ => {
                append(&mut all, "header_base64", &format!("{}:{}", encoded(name), encoded(value)));
            }
        }
    }
    if let Some(key) = &record.message.key {
        append(&mut all, "key_base64", &encoded(key));
    }
    for (name, value) in headers(record) {
        append(&mut all, name.trim_start_matches(PREFIX), &value);
    }
    all.insert(NATS_MESSAGE_ID, id(record).as_str());
    all
}

/// Adds one of ours; a line break in it becomes a blank.
fn append(all: &mut HeaderMap, name: &str, value: &str) {
    let line = value.replace(['\r', '\n'], " ");
    if let (Ok(name), Ok(value)) =
        (format!("{PREFIX}{name}").parse::<HeaderName>(), line.parse::<HeaderValue>())
    {
        all.append(name, value);
    }
}

fn encoded(bytes: impl AsRef<[u8]>) -> String {
    STANDARD.encode(bytes)
}

/// What a record is known by: the same whenever it is written, and the same after a restart if its broker says where the
/// message stands.
fn id(record: &Record) -> String {
    let message = &record.message;
    let mut hash = digest::Context::new(&SHA256);
    let mut add = |part: &[u8]| {
        hash.update(&part.len().to_be_bytes());
        hash.update(part);
    };
    for (_, value) in headers(record).iter().filter(|(name, _)| *name != format!("{PREFIX}at")) {
        add(value.as_bytes());
    }
    add(&message.payload);
    add(message.key.as_deref().unwrap_or_default());
    if !matches!(message.coordinates, Coordinates::Log { .. } | Coordinates::Stored { .. }) {
        let at = record.at.duration_since(UNIX_EPOCH).unwrap_or_default();
        add(&at.as_nanos().to_be_bytes());
    }
    let mut text = String::with_capacity(ID);
    for byte in &hash.finish().as_ref()[..ID / 2] {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    use bytes::Bytes;

    use crate::dead_letter::tests::record;
    use crate::message::Message;
    use crate::message::tests::message;

    fn with(headers: &[(&str, &[u8])]) -> Record {
        let header =
            |(name, value): &(&str, &[u8])| ((*name).to_owned(), Bytes::copy_from_slice(value));
        record(Message { headers: headers.iter().map(header).collect(), ..message("x") })
    }

    #[test]
    fn headers_are_carried_unless_they_are_orders_or_no_text() {
        let record = with(&[
            ("tenant", b"acme"),
            ("tenant", b"other"),
            ("Nats-Rollup", b"all"),
            ("nats-msg-id", b"1"),
            ("bytes", b"\xff"),
            ("lines", b"a\r\nNats-Rollup: all"),
            ("a name", b"1"),
        ]);
        let headers = of_record(&Record { detail: "two\r\nlines".into(), ..record });
        let values = |name: &str| -> Vec<String> {
            headers.get_all(name).map(|value| value.as_str().to_owned()).collect()
        };
        assert_eq!(values("tenant"), ["acme", "other"]);
        assert_eq!(values("appsync-bridge.header_base64").len(), 5);
        assert!(values("Nats-Rollup").is_empty() && values("lines").is_empty());
        assert_eq!(
            values("appsync-bridge.header_base64")[0],
            format!("{}:{}", encoded("Nats-Rollup"), encoded("all"))
        );
        assert_eq!(values("appsync-bridge.detail"), ["two  lines"]);
        assert_eq!(values("appsync-bridge.reason"), ["refused"]);
        assert_eq!(values("Nats-Msg-Id").len(), 1);
    }

    #[test]
    fn a_record_has_one_id_and_no_other_has_it() {
        let stored = |sequence| {
            let coordinates = Coordinates::Stored { stream: "S".into(), sequence };
            record(Message { coordinates, ..message("x") })
        };
        let later = |record: Record| Record { at: record.at + Duration::from_nanos(1), ..record };
        assert_eq!(id(&stored(1)), id(&later(stored(1))), "it came again after a restart");
        assert_ne!(id(&stored(1)), id(&stored(2)));
        assert_ne!(id(&stored(1)), id(&Record { channel: Some("/a".into()), ..stored(1) }));
        // Nothing else tells two equal messages of MQTT apart.
        let mqtt = || record(message("x"));
        assert_eq!(id(&mqtt()), id(&mqtt()));
        assert_ne!(id(&mqtt()), id(&later(mqtt())));
        assert_ne!(id(&mqtt()), id(&record(message("y"))));
    }
}
