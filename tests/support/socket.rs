//! A bare WebSocket client that speaks frames of the Event API.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::emulator::{Emulator, KEY};

use crate::support::PATIENCE;

/// One connection.
pub(crate) struct Socket(WebSocketStream<MaybeTlsStream<TcpStream>>);

/// The auth object of an API key.
pub(crate) fn key_object(key: &str) -> Value {
    json!({ "host": "localhost", "x-api-key": key })
}

/// An auth object as a subprotocol.
pub(crate) fn subprotocol(object: &Value) -> String {
    format!("header-{}", URL_SAFE_NO_PAD.encode(object.to_string()))
}

impl Socket {
    /// Upgrades with these headers.
    pub(crate) async fn upgrade(
        url: &str,
        headers: &[(&str, &str)],
    ) -> Result<Self, tungstenite::Error> {
        let mut request = url.into_client_request().unwrap();
        for (name, value) in headers {
            let name: http::HeaderName = name.parse().unwrap();
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        let (stream, response) = connect_async(request).await?;
        assert_eq!(
            response.headers().get("sec-websocket-protocol").unwrap(),
            "aws-appsync-event-ws"
        );
        assert!(response.headers().contains_key("x-amzn-requestid"));
        Ok(Self(stream))
    }

    /// Upgrades with an auth object among the subprotocols; says nothing yet.
    pub(crate) async fn open(emulator: &Emulator, object: &Value) -> Self {
        let protocols = format!("aws-appsync-event-ws, {}", subprotocol(object));
        let headers = [("sec-websocket-protocol", protocols.as_str())];
        Self::upgrade(&emulator.realtime, &headers).await.unwrap()
    }

    /// A connection of the right key, acknowledged, its first `ka` heard.
    pub(crate) async fn connect(emulator: &Emulator) -> Self {
        let mut socket = Self::open(emulator, &key_object(KEY)).await;
        socket.init().await;
        socket
    }

    /// Says `connection_init` and hears the two frames that follow.
    pub(crate) async fn init(&mut self) {
        self.say(&json!({ "type": "connection_init" })).await;
        let ack = json!({ "type": "connection_ack", "connectionTimeoutMs": 300_000 });
        assert_eq!(self.hear().await, ack);
        assert_eq!(self.hear().await, json!({ "type": "ka" }));
    }

    pub(crate) async fn say(&mut self, frame: &Value) {
        self.say_text(&frame.to_string()).await;
    }

    pub(crate) async fn say_text(&mut self, text: &str) {
        self.0.send(Message::text(text)).await.unwrap();
    }

    pub(crate) async fn send(&mut self, message: Message) {
        self.0.send(message).await.unwrap();
    }

    /// Sends a text that goes on and never ends.
    pub(crate) async fn begin(&mut self, text: &[u8]) {
        let frame = Frame::message(text.to_vec(), OpCode::Data(Data::Text), false);
        // One that is cut meanwhile can't be written to.
        let _ = self.0.send(Message::Frame(frame)).await;
    }

    /// The next message; `None` at the end of the stream.
    pub(crate) async fn message(&mut self) -> Option<Result<Message, tungstenite::Error>> {
        tokio::time::timeout(PATIENCE, self.0.next()).await.expect("nothing came in 20 s")
    }

    /// The next frame.
    pub(crate) async fn hear(&mut self) -> Value {
        let message = self.message().await.expect("the connection ended").unwrap();
        let Message::Text(text) = message else { panic!("{message:?} is no frame") };
        serde_json::from_str(&text).unwrap()
    }

    /// Subscribes with the right key and hears the answer.
    pub(crate) async fn subscribe(&mut self, id: &str, channel: &str) -> Value {
        self.subscribe_as(id, channel, &key_object(KEY)).await
    }

    pub(crate) async fn subscribe_as(&mut self, id: &str, channel: &str, object: &Value) -> Value {
        let (kind, authorization) = ("subscribe", object);
        self.say(&json!({
            "type": kind, "id": id, "channel": channel, "authorization": authorization,
        }))
        .await;
        self.hear().await
    }

    /// Publishes with the right key and hears the answer.
    pub(crate) async fn publish(&mut self, id: &str, channel: &str, events: &[&str]) -> Value {
        self.say(&publish_frame(id, channel, events)).await;
        self.hear().await
    }
}

/// A publish with the right key.
pub(crate) fn publish_frame(id: &str, channel: &str, events: &[&str]) -> Value {
    json!({
        "type": "publish", "id": id, "channel": channel, "events": events,
        "authorization": key_object(KEY),
    })
}
