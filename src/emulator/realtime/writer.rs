//! The writing half of a WebSocket: the queued frames of a connection, then the close.

use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, close_code};
use futures_util::SinkExt as _;
use futures_util::stream::SplitSink;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::emulator::memory::{Frame, Holding, Side};

/// How long a client may take to answer a close.
pub(crate) const CLOSE_GRACE: Duration = Duration::from_secs(1);

/// Copies of a frame in memory while it is written: its text, and the one in the write buffer.
const COPIES: usize = 2;

/// Writes the queued frames; when `close` is cancelled, writes a close and waits for its answer.
pub(crate) async fn write(
    mut sink: SplitSink<WebSocket, Message>,
    holding: &Holding,
    close: &CancellationToken,
) {
    loop {
        let frame = tokio::select! {
            biased;
            frame = holding.next() => frame,
            () = close.cancelled() => break,
        };
        if feed(&mut sink, holding, frame).await.is_err() {
            return;
        }
    }
    // The service closes with 1000 even after failures.
    let normal = CloseFrame { code: close_code::NORMAL, reason: Utf8Bytes::default() };
    if sink.send(Message::Close(Some(normal))).await.is_ok() {
        sleep(CLOSE_GRACE).await;
    }
}

/// Writes `frame` and all queued frames after it, with one flush.
async fn feed(
    sink: &mut SplitSink<WebSocket, Message>,
    holding: &Holding,
    frame: Frame,
) -> Result<(), axum::Error> {
    let mut next = Some(frame);
    while let Some(frame) = next {
        let text = frame.into_text();
        holding.clear(Side::Written);
        holding.add(Side::Written, text.len() * COPIES);
        sink.feed(Message::Text(text.into())).await?;
        next = holding.try_next();
    }
    sink.flush().await?;
    holding.clear(Side::Written);
    Ok(())
}
