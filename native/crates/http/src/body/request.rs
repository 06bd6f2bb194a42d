//! A client's request on its way to a backend.

use super::ahead::Ahead;
use super::kept::{Keeper, Kept, Replay};
use super::tap::{self, Tap, Tapped};
use super::{BodyError, Timers};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// What the client sends, as it comes.
#[derive(Debug)]
pub(super) struct Client {
    /// What was read before it was sent on.
    ahead: Option<Box<Ahead>>,
    incoming: Incoming,
    count: Arc<AtomicU64>,
    limit: u64,
    timers: Timers,
    taps: Vec<Tap>,
}

impl Client {
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = match self.ahead.as_mut().and_then(|ahead| ahead.next()) {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None => Pin::new(&mut self.incoming).poll_frame(cx),
        };
        match polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    let before = self.count.fetch_add(data.len() as u64, Relaxed);
                    if before + data.len() as u64 > self.limit {
                        return Poll::Ready(Some(Err(BodyError::TooLarge(self.limit))));
                    }
                }
                self.timers.moved();
                if !self.taps.is_empty() {
                    self.taps.retain_mut(|tap| tap.pass(&frame));
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(None) => {
                self.taps.drain(..).for_each(Tap::end);
                Poll::Ready(None)
            }
            Poll::Pending => match self.timers.poll(cx) {
                Some(error) => Poll::Ready(Some(Err(error))),
                None => Poll::Pending,
            },
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.ahead.as_ref().is_none_or(|ahead| ahead.is_empty()) && self.incoming.is_end_stream()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        let ahead = self.ahead.as_ref().map_or(0, |ahead| ahead.data().len() as u64);
        let rest = self.incoming.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(ahead + rest.lower());
        // Trailers follow only a body whose length was not told.
        if let Some(upper) =
            rest.upper().filter(|_| !self.ahead.as_ref().is_some_and(|ahead| ahead.has_trailers()))
        {
            hint.set_upper(ahead + upper);
        }
        hint
    }
}

#[derive(Debug)]
enum Source {
    Empty,
    /// The proxy's own.
    Full(Bytes),
    Client(Client),
    /// The client's, as far as it may be needed again.
    Kept(Replay),
    /// A copy of what another request sends.
    Tapped(Tapped),
}

/// A request's body.
#[derive(Debug)]
pub struct RequestBody(Source);

impl RequestBody {
    /// `ahead`: what was read of it already. `limit` in bytes.
    pub(crate) fn new(
        incoming: Incoming,
        ahead: Ahead,
        count: Arc<AtomicU64>,
        limit: u64,
        idle: Option<Duration>,
    ) -> Self {
        if incoming.is_end_stream() && ahead.is_empty() {
            return Self::empty();
        }
        let timers = Timers::new(None, idle);
        let ahead = (!ahead.is_empty()).then(|| Box::new(ahead));
        Self(Source::Client(Client { ahead, incoming, count, limit, timers, taps: Vec::new() }))
    }

    /// Nothing follows the headers: the request can be sent again.
    pub(crate) fn is_empty(&self) -> bool {
        match &self.0 {
            Source::Empty => true,
            Source::Full(bytes) => bytes.is_empty(),
            Source::Client(_) | Source::Kept(_) | Source::Tapped(_) => false,
        }
    }

    pub(crate) fn empty() -> Self {
        Self(Source::Empty)
    }

    pub(crate) fn full(bytes: Bytes) -> Self {
        Self(Source::Full(bytes))
    }

    pub(super) fn replay(replay: Replay) -> Self {
        Self(Source::Kept(replay))
    }

    /// Keeps what is sent from now on, as far as `keeper` has room for it. `None` where there is nothing to keep.
    pub(crate) fn keep(&mut self, keeper: &Keeper) -> Option<Kept> {
        let client = match std::mem::replace(&mut self.0, Source::Empty) {
            Source::Client(client) => client,
            other => {
                self.0 = other;
                return None;
            }
        };
        let kept = Kept::new(client, keeper.clone());
        *self = kept.whole_again();
        Some(kept)
    }

    /// A body that is sent what this one is, while it keeps up; else `given_up` is cancelled. Before anything was
    /// sent.
    pub(crate) fn tap(&mut self, given_up: &CancellationToken) -> Self {
        match &mut self.0 {
            Source::Client(client) => {
                let (tap, tapped) = tap::pair(client.size_hint(), given_up.clone());
                client.taps.push(tap);
                Self(Source::Tapped(tapped))
            }
            Source::Full(bytes) => Self::full(bytes.clone()),
            Source::Empty | Source::Kept(_) | Source::Tapped(_) => Self::empty(),
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = match &mut self.0 {
            Source::Empty => return Poll::Ready(None),
            Source::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            Source::Client(client) => client.poll(cx),
            Source::Kept(replay) => replay.poll(cx),
            Source::Tapped(tapped) => tapped.poll(cx),
        };
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            self.0 = Source::Empty;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Source::Empty => true,
            Source::Full(bytes) => bytes.is_empty(),
            Source::Client(client) => client.is_over(),
            Source::Kept(replay) => replay.is_over(),
            Source::Tapped(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Source::Empty => SizeHint::with_exact(0),
            Source::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Source::Client(client) => client.size_hint(),
            Source::Kept(replay) => replay.size_hint(),
            Source::Tapped(tapped) => tapped.size_hint(),
        }
    }
}
