//! One connection: the upgrade, the greeting, the subscriptions, and what comes after that.

use std::ops::ControlFlow;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::{SinkExt as _, StreamExt as _};
use http::{HeaderMap, HeaderName, Request, Uri, header};
use serde_json::{Map, Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::{Pattern, Told};
use crate::error_chain::{in_one_line, printable};
use crate::event_api::received::ReceivedFrame;
use crate::event_api::wire::ErrorItem;
use crate::event_api::{HEADER_SUBPROTOCOL_PREFIX, SUBPROTOCOL};
use crate::publish::post::{Failure, Fault};
use crate::publish::{AuthError, Client, Raw};
use crate::redact;

/// For the answer to each thing that is said; Amplify waits as long.
const PATIENCE: Duration = Duration::from_secs(15);

/// For the goodbye.
const FAREWELL: Duration = Duration::from_secs(1);

/// Largest frame: an event of 240 KB, escaped.
const MAX_FRAME_BYTES: usize = 2 << 20;

/// Characters of a message of the service that are passed on.
const MOST_WORDS: usize = 300;

/// Sent with a signature, as the service's documentation has it; they are not signed.
const OF_SIGNATURE: [(&str, &str); 2] =
    [("accept", "application/json, text/javascript"), ("content-encoding", "amz-1.0")];

/// How a conversation ended.
pub(super) enum End {
    /// The caller wants no more.
    BrokenOff,
    /// The API refuses what was shown, of this generation: the connection, or a channel.
    Refused { pattern: Option<Pattern>, why: String, generation: u64 },
    /// The connection did not come about, or ended.
    Failed(Failure),
}

/// One connection, from its beginning.
pub(super) struct Conversation<'a> {
    client: &'a Client,
    patterns: &'a [Pattern],
    /// Without a frame for this long it is dead.
    silence: Duration,
    generation: u64,
}

type Socket = WebSocketStream<Raw>;

impl<'a> Conversation<'a> {
    pub(super) fn new(client: &'a Client, patterns: &'a [Pattern]) -> Self {
        Self { client, patterns, silence: PATIENCE, generation: 0 }
    }

    /// Converses until the end.
    pub(super) async fn run(
        &mut self,
        url: &Uri,
        told: &mut impl FnMut(Told<'_>) -> ControlFlow<()>,
    ) -> End {
        let mut socket = match self.open(url).await {
            Ok(socket) => socket,
            Err(end) => return end,
        };
        let Err(end) = self.converse(&mut socket, told).await;
        let _ = timeout(FAREWELL, socket.close(None)).await;
        end
    }

    async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        socket: &mut WebSocketStream<S>,
        told: &mut impl FnMut(Told<'_>) -> ControlFlow<()>,
    ) -> Result<std::convert::Infallible, End> {
        say(socket, &json!({ "type": "connection_init" })).await?;
        // An answer has to come in time, whatever else comes meanwhile.
        let by = Instant::now() + PATIENCE;
        loop {
            let heard = timeout_at(by, self.hear(socket)).await;
            match heard.map_err(|_| failed("the API does not greet us".to_owned()))?? {
                ReceivedFrame::ConnectionAck { timeout_ms } => {
                    self.silence = Duration::from_millis(timeout_ms.into());
                    break;
                }
                ReceivedFrame::ConnectionError(errors) => return Err(self.refused(None, &errors)),
                ReceivedFrame::Trouble(errors) => return Err(failed(words(&errors))),
                _ => {}
            }
        }
        for (id, pattern) in self.patterns.iter().enumerate() {
            let channel = pattern.to_string();
            let payload = json!({ "channel": channel }).to_string();
            let authorization = self.authorization(payload.as_bytes()).await?;
            let frame = json!({
                "type": "subscribe", "id": id.to_string(), "channel": channel, "authorization": authorization,
            });
            say(socket, &frame).await?;
        }
        let (mut waiting, by) = (self.patterns.len(), Instant::now() + PATIENCE);
        loop {
            let heard = if waiting > 0 {
                let heard = timeout_at(by, self.hear(socket)).await;
                heard.map_err(|_| failed("the API does not answer a subscription".to_owned()))?
            } else {
                self.hear(socket).await
            };
            match heard? {
                ReceivedFrame::SubscribeSuccess(_) => {
                    waiting = waiting.saturating_sub(1);
                    if waiting == 0 && told(Told::Live { after: None }).is_break() {
                        return Err(End::BrokenOff);
                    }
                }
                ReceivedFrame::SubscribeError(id, errors) => {
                    return Err(self.refused(self.pattern(&id).cloned(), &errors));
                }
                ReceivedFrame::Data(id, events) => {
                    let Some(channel) = self.pattern(&id) else { continue };
                    for event in &events {
                        if told(Told::Event { channel, event }).is_break() {
                            return Err(End::BrokenOff);
                        }
                    }
                }
                ReceivedFrame::Trouble(errors)
                    if told(Told::Trouble(words(&errors))).is_break() =>
                {
                    return Err(End::BrokenOff);
                }
                _ => {}
            }
        }
    }

    fn pattern(&self, id: &str) -> Option<&'a Pattern> {
        self.patterns.get(id.parse::<usize>().ok()?)
    }

    fn refused(&self, pattern: Option<Pattern>, errors: &[ErrorItem]) -> End {
        let why = words(errors);
        let about_us = errors.iter().any(|error| {
            let kind = error.error_type.as_deref().unwrap_or_default();
            let kinds = ["Unauthorized", "AccessDenied", "Forbidden", "BadRequest", "InvalidInput"];
            kinds.iter().any(|known| kind.starts_with(known))
                || matches!(error.error_code, Some(400 | 401 | 403))
        });
        if about_us || pattern.is_some() {
            return End::Refused { pattern, why, generation: self.generation };
        }
        failed(why)
    }

    /// The upgrade. What authorizes it travels among the subprotocols, as from a browser.
    async fn open(&mut self, url: &Uri) -> Result<Socket, End> {
        let authorization = self.authorization(b"{}").await?;
        let authorization = URL_SAFE_NO_PAD.encode(Value::Object(authorization).to_string());
        let protocols = format!("{SUBPROTOCOL}, {HEADER_SUBPROTOCOL_PREFIX}{authorization}");
        let (raw, _) = self.client.connect(url).await.map_err(End::Failed)?;
        let host = url.authority().map_or("", |authority| authority.as_str());
        let target = url.path_and_query().map_or("/", |path| path.as_str());
        let request = Request::get(format!("ws://{host}{target}"))
            .header(header::HOST, host)
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_VERSION, "13")
            .header(header::SEC_WEBSOCKET_KEY, generate_key())
            .header(header::SEC_WEBSOCKET_PROTOCOL, protocols)
            .body(())
            .map_err(|error| failed(error.to_string()))?;
        let limits = WebSocketConfig::default()
            .max_message_size(Some(MAX_FRAME_BYTES))
            .max_frame_size(Some(MAX_FRAME_BYTES));
        let sent = SystemTime::now();
        let opened = timeout(PATIENCE, client_async_with_config(request, raw, Some(limits))).await;
        let silent = || failed("the API does not answer the upgrade to a WebSocket".to_owned());
        match opened.map_err(|_| silent())? {
            Ok((socket, answer)) => {
                self.client.learn_time(answer.headers(), sent);
                Ok(socket)
            }
            Err(tungstenite::Error::Http(answer)) => {
                self.client.learn_time(answer.headers(), sent);
                let status = answer.status().as_u16();
                let body = answer.body().as_deref().unwrap_or_default();
                let said = printable(&redact::clean(&String::from_utf8_lossy(body)), MOST_WORDS);
                let why = format!("the upgrade to a WebSocket is answered with {status} {said}");
                let why = why.trim_end().to_owned();
                if matches!(status, 401 | 403) {
                    let generation = self.generation;
                    return Err(End::Refused { pattern: None, why, generation });
                }
                Err(failed(why))
            }
            Err(error) => Err(failed(in_one_line(&error))),
        }
    }

    /// The auth object of `payload`.
    async fn authorization(&mut self, payload: &[u8]) -> Result<Map<String, Value>, End> {
        let made = self.client.authorize(payload).await;
        let (headers, generation) = made.map_err(|error: AuthError| End::Refused {
            pattern: None,
            why: error.to_string(),
            generation: self.generation,
        })?;
        self.generation = generation;
        Ok(object(&headers, self.client.host()))
    }

    /// The next frame that means something: nothing else is a sign of life.
    async fn hear<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        socket: &mut WebSocketStream<S>,
    ) -> Result<ReceivedFrame, End> {
        let by = Instant::now() + self.silence;
        loop {
            let message = timeout_at(by, socket.next()).await.map_err(|_| {
                failed(format!("nothing came for {:?}, not even a keep-alive", self.silence))
            })?;
            match message {
                Some(Ok(Message::Text(text))) => {
                    if let Some(frame) = ReceivedFrame::parse(&text) {
                        return Ok(frame);
                    }
                }
                Some(Ok(Message::Close(_))) | None => {
                    return Err(failed("the API closed the connection".to_owned()));
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(failed(in_one_line(&error))),
            }
        }
    }
}

async fn say<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut WebSocketStream<S>,
    frame: &Value,
) -> Result<(), End> {
    let sent = timeout(PATIENCE, socket.send(Message::text(frame.to_string()))).await;
    let sent = sent.map_err(|_| failed("the API does not read what it is sent".to_owned()))?;
    sent.map_err(|error| failed(in_one_line(&error)))
}

fn failed(why: String) -> End {
    End::Failed(Failure { fault: Fault::Connect, why })
}

/// The headers of a publish with the same payload, as an object. The host is that of the HTTP endpoint, whichever the
/// WebSocket's is.
fn object(headers: &HeaderMap, host: &str) -> Map<String, Value> {
    let mut object = Map::new();
    object.insert("host".to_owned(), host.into());
    let signed = headers.contains_key("x-amz-date");
    if signed {
        object.extend(OF_SIGNATURE.map(|(name, value)| (name.to_owned(), value.into())));
    }
    for (name, value) in headers {
        // Keys and tokens go alone.
        if !signed && *name == header::CONTENT_TYPE {
            continue;
        }
        if let Ok(value) = value.to_str() {
            object.insert(spelled(name), value.into());
        }
    }
    object
}

/// As the service's documentation spells it.
fn spelled(name: &HeaderName) -> String {
    match name.as_str() {
        "authorization" => "Authorization".to_owned(),
        "x-amz-security-token" => "X-Amz-Security-Token".to_owned(),
        other => other.to_owned(),
    }
}

/// What the service says of an error.
fn words(errors: &[ErrorItem]) -> String {
    let one = |error: &ErrorItem| match (&error.error_type, &error.message) {
        (Some(kind), Some(message)) => format!("{kind}: {message}"),
        (Some(one), None) | (None, Some(one)) => one.to_string(),
        (None, None) => "an error without words".to_owned(),
    };
    let all = errors.iter().map(one).collect::<Vec<_>>().join(", ");
    let all = if all.is_empty() { "an error without words".to_owned() } else { all };
    printable(&redact::clean(&all), MOST_WORDS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::api::{Auth, Endpoint};
    use crate::config::{ApiConfig, Secret};
    use tokio_tungstenite::tungstenite::protocol::Role;

    /// What is said of a server that first says `first`, and then `then` every second; how long that takes.
    async fn ended(first: &[&'static str], then: fn() -> Message) -> (String, u64) {
        let endpoint = Endpoint::of("http://127.0.0.1:1/event", false).unwrap();
        let auth = Auth::ApiKey { key: Secret::new("da2-one") };
        let client = Client::build(&ApiConfig::new("a", endpoint, auth)).await.unwrap();
        let patterns = [Pattern::parse("/demo/a").unwrap()];
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let mut server = WebSocketStream::from_raw_socket(theirs, Role::Server, None).await;
        let mut socket = WebSocketStream::from_raw_socket(ours, Role::Client, None).await;
        let first: Vec<_> = first.iter().map(|text| Message::text(*text)).collect();
        let talking = async {
            for message in first {
                server.send(message).await.unwrap();
            }
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                server.send(then()).await.unwrap();
            }
        };
        let mut conversation = Conversation::new(&client, &patterns);
        let (begun, mut told) = (Instant::now(), |_: Told<'_>| ControlFlow::Continue(()));
        let end = tokio::select! {
            Err(end) = conversation.converse(&mut socket, &mut told) => end,
            () = talking => unreachable!(),
        };
        let End::Failed(Failure { why, .. }) = end else { panic!("it is refused, or over") };
        (why, begun.elapsed().as_secs())
    }

    /// The clock is the test's: what is waited for passes at once.
    #[tokio::test(start_paused = true)]
    async fn a_server_that_trickles_is_found_dead() {
        let ack = r#"{"type":"connection_ack","connectionTimeoutMs":60000}"#;
        let keep_alive = || Message::text(r#"{"type":"ka"}"#);
        let (why, seconds) = ended(&[], keep_alive).await;
        assert_eq!((why.as_str(), seconds), ("the API does not greet us", 15));
        let (why, seconds) = ended(&[ack], keep_alive).await;
        assert_eq!((why.as_str(), seconds), ("the API does not answer a subscription", 15));
        let live = [ack, r#"{"type":"subscribe_success","id":"0"}"#];
        for noise in [|| Message::Ping(Vec::new().into()), || Message::text("no frame")] {
            let (why, seconds) = ended(&live, noise).await;
            assert!(why.contains("nothing came for 60s"), "{why}");
            assert_eq!(seconds, 60);
        }
    }

    #[test]
    fn an_auth_object_holds_what_the_mode_needs_and_no_more() {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, "application/json".parse().unwrap());
        headers.insert("x-api-key", "da2-one".parse().unwrap());
        let shown = Value::Object(object(&headers, "h:1"));
        assert_eq!(shown, json!({ "host": "h:1", "x-api-key": "da2-one" }));
        headers.remove("x-api-key");
        headers.insert("authorization", "AWS4-HMAC-SHA256 Credential=a".parse().unwrap());
        headers.insert("x-amz-date", "20261130T000000Z".parse().unwrap());
        let object = object(&headers, "h");
        let names: Vec<_> = object.keys().map(String::as_str).collect();
        let expected =
            ["host", "accept", "content-encoding", "content-type", "Authorization", "x-amz-date"];
        assert_eq!(names, expected);
    }

    #[test]
    fn an_error_is_said_in_the_words_of_the_service() {
        let item = |kind: Option<&'static str>, message: Option<&'static str>| ErrorItem {
            error_type: kind.map(Into::into),
            error_code: None,
            message: message.map(Into::into),
        };
        let both = [item(Some("A"), Some("b")), item(Some("C"), None), item(None, None)];
        assert_eq!(words(&both), "A: b, C, an error without words");
        assert_eq!(words(&[]), "an error without words");
    }
}
