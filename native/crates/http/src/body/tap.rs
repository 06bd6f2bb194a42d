//! Copies of a request's body for its mirrors. The original never waits for them: a mirror that falls behind is
//! given up.

use super::BodyError;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_util::sync::CancellationToken;

/// Bytes that a mirror may be behind.
const BEHIND_BYTES: usize = 256 << 10;

/// Pieces without content take room, too.
pub(super) fn cost(data: &Bytes) -> usize {
    data.len() + 64
}

#[derive(Debug)]
enum Piece {
    Frame(Frame<Bytes>),
    End,
}

/// The original's end. The channel is bounded by the bytes in it.
#[derive(Debug)]
pub(super) struct Tap {
    pieces: UnboundedSender<Piece>,
    behind: Arc<AtomicUsize>,
    given_up: CancellationToken,
}

impl Tap {
    /// False: the mirror gets no more.
    pub(super) fn pass(&mut self, frame: &Frame<Bytes>) -> bool {
        let copy = match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) => {
                let behind = self.behind.fetch_add(cost(data), Relaxed) + cost(data);
                if behind > BEHIND_BYTES {
                    // A mirror that is stuck does not look at its body: it has to be told.
                    self.given_up.cancel();
                    return false;
                }
                Frame::data(data.clone())
            }
            (None, Some(trailers)) => Frame::trailers(trailers.clone()),
            (None, None) => return true,
        };
        self.pieces.send(Piece::Frame(copy)).is_ok()
    }

    pub(super) fn end(self) {
        let _ = self.pieces.send(Piece::End);
    }
}

/// The mirror's end.
#[derive(Debug)]
pub(crate) struct Tapped {
    pieces: UnboundedReceiver<Piece>,
    behind: Arc<AtomicUsize>,
    hint: SizeHint,
}

/// `hint`: of the original. `given_up`: cancelled when the mirror falls behind.
pub(super) fn pair(hint: SizeHint, given_up: CancellationToken) -> (Tap, Tapped) {
    let (sender, pieces) = unbounded_channel();
    let behind = Arc::<AtomicUsize>::default();
    (Tap { pieces: sender, behind: behind.clone(), given_up }, Tapped { pieces, behind, hint })
}

impl Tapped {
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match std::task::ready!(self.pieces.poll_recv(cx)) {
            Some(Piece::Frame(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.behind.fetch_sub(cost(data), Relaxed);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Piece::End) => Poll::Ready(None),
            // It fell behind, or the original broke off.
            None => Poll::Ready(Some(Err(BodyError::Mirror))),
        }
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.hint
    }
}
