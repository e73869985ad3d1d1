//! What no client of MQTT may take, though it is a message like others to the broker, and to its publisher.

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio_tungstenite::accept_hdr_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};

use super::trouble::{NO_API, hint, welcome};
use crate::support::bridge::Setup;
use crate::support::scripted::{Heard, Play, Scripted, connack, suback};

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_breaks_a_rule_of_mqtt_is_said_to_be_one() {
    // Behind the topic stand the packet id, the properties of MQTT 5, and the payload.
    let cases = [
        ("version = 5", 5, vec![0, 1, 0xff, 0, 7, 0, b'1']),
        ("version = 5", 5, vec![0, 1, 0, 0, 7, 0, b'1']),
        ("version = 5", 5, vec![0, 1, b'a', 0, 7, 7, 0x26, 0, 1, 0xff, 0, 1, b'v', b'1']),
        ("version = 5", 5, vec![0, 1, b'a', 0, 7, 4, 0x03, 0, 1, 0, b'1']),
        ("version = 3", 4, vec![0, 1, 0xff, 0, 7, b'1']),
        ("version = 3", 4, vec![0, 1, 0, 0, 7, b'1']),
    ];
    for (version, level, body) in cases {
        let message = [&[0x32, body.len() as u8][..], &body].concat();
        let broker = Scripted::start(move |heard| match heard {
            Heard::Subscribe { packet_id, .. } => {
                Play::Say([suback(level, *packet_id, &[1]), message.clone()].concat())
            }
            heard => welcome(heard),
        })
        .await;
        let bridge = Setup::new(NO_API, broker.port, "", version, "").start().await;
        let said = hint(&bridge, &["a publisher's topic or properties"]).await;
        assert!(said.contains("`mqtt.strict_mode = true`"), "{body:?}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_no_websocket_carries_is_said_to_be_one() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            #[allow(clippy::result_large_err)] // as the library has it
            let mqtt = |_: &Request, mut answer: Response| -> Result<Response, ErrorResponse> {
                let protocol = "mqtt".parse().unwrap();
                answer.headers_mut().insert("sec-websocket-protocol", protocol);
                Ok(answer)
            };
            let Ok(mut socket) = accept_hdr_async(stream, mqtt).await else { continue };
            let said = |packet: Vec<u8>| Message::binary(packet);
            let _connect = socket.next().await;
            let _ = socket.send(said(connack(5, 0, &[]))).await;
            let Some(Ok(Message::Binary(subscribe))) = socket.next().await else { continue };
            let packet_id = u16::from_be_bytes([subscribe[2], subscribe[3]]);
            let _ = socket.send(said(suback(5, packet_id, &[1]))).await;
            // The head of a frame of 17 MiB.
            let head = [&[0x82, 127][..], &(17_u64 << 20).to_be_bytes()].concat();
            let _ = socket.get_mut().write_all(&head).await;
            while let Some(Ok(_)) = socket.next().await {}
        }
    });
    let url = format!("url = \"ws://127.0.0.1:{port}/mqtt\"");
    let bridge = Setup::new(NO_API, 0, "", &url, "").start().await;
    let said = hint(&bridge, &["a message above 16 MiB"]).await;
    assert!(said.contains("`mqtts://`"), "{said}");
}
