//! Whose turn it is on one client connection: the gate's, from a whole request
//! to the last byte of its answer, or the client's. Told by whoever answers,
//! read by [`super::HeadGuard`], which can see neither end of an answer itself.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use http_body::{Body, Frame, SizeHint};

/// Whether the gate has a request to answer.
#[derive(Debug, Default)]
pub struct Turn(AtomicBool);

/// The gate's turn; dropping it makes it the client's.
#[must_use = "the turn is over as soon as it is dropped"]
pub struct Answering(Arc<Turn>);

impl Turn {
    /// There is a request to answer.
    pub fn begin(self: &Arc<Self>) -> Answering {
        self.0.store(true, Ordering::Release);
        Answering(Arc::clone(self))
    }

    /// Whether the gate has yet to answer, or to hand over all of an answer.
    pub(super) fn is_the_gates(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.0.store(false, Ordering::Release);
    }
}

/// The body of an answer, with which the gate's turn ends.
pub struct Answer<B> {
    body: B,
    _turn: Answering,
}

impl<B> Answer<B> {
    /// `body`, whose end is the end of the turn.
    pub fn new(body: B, turn: Answering) -> Answer<B> {
        Answer { body, _turn: turn }
    }
}

impl<B: Body + Unpin> Body for Answer<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
