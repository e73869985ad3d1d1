//! The body of a request, of which is known whether anybody has asked for it: as long as nobody has, the server
//! can't have processed the request.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::SeqCst};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};

/// The body, and how far it came.
pub(super) struct Watched {
    body: Full<Bytes>,
    stage: Arc<Stage>,
}

/// Waiting, then begun or given up, whichever comes first.
#[derive(Default)]
pub(super) struct Stage(AtomicU8);

const WAITING: u8 = 0;
const BEGUN: u8 = 1;
const GIVEN_UP: u8 = 2;

/// A body is asked for whose request was given up before.
#[derive(Debug, thiserror::Error)]
#[error("the request was given up before it was sent")]
pub(super) struct GivenUp;

impl Watched {
    pub(super) fn new(body: Full<Bytes>, stage: Arc<Stage>) -> Self {
        Self { body, stage }
    }
}

impl Stage {
    fn begin(&self) -> bool {
        let before = self.0.compare_exchange(WAITING, BEGUN, SeqCst, SeqCst);
        matches!(before, Ok(_) | Err(BEGUN))
    }

    fn has_begun(&self) -> bool {
        self.0.load(SeqCst) == BEGUN
    }

    /// Whether nothing was sent; then nothing will be.
    pub(super) fn give_up(&self) -> bool {
        self.0.compare_exchange(WAITING, GIVEN_UP, SeqCst, SeqCst).is_ok()
    }
}

impl Body for Watched {
    type Data = Bytes;
    type Error = GivenUp;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, GivenUp>>> {
        if !self.stage.begin() {
            return Poll::Ready(Some(Err(GivenUp)));
        }
        Pin::new(&mut self.body).poll_frame(context).map_err(|never| match never {})
    }

    /// Not before it was asked for: a request without a body would go out as it is.
    fn is_end_stream(&self) -> bool {
        self.stage.has_begun() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;

    #[tokio::test]
    async fn a_body_is_begun_or_given_up_but_not_both() {
        for text in ["x", ""] {
            let watched = |stage: &Arc<Stage>| Watched::new(text.into(), Arc::clone(stage));
            let stage = Arc::<Stage>::default();
            assert!(!watched(&stage).is_end_stream());
            assert_eq!(watched(&stage).collect().await.unwrap().to_bytes(), text);
            assert!(!stage.give_up());
            let stage = Arc::<Stage>::default();
            assert!(stage.give_up());
            assert!(watched(&stage).collect().await.is_err());
        }
    }
}
