//! A response on its way to the client.

use super::{BodyError, Timers, grpc_status};
use crate::exchange::Exchange;
use crate::reply::Cause;
use crate::upstream::Lease;
use crate::world::World;
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;

#[derive(Debug)]
enum Source {
    /// The proxy's own.
    Full(Option<Bytes>),
    Incoming(Incoming),
}

/// A response on its way to the client; its end is the exchange's.
#[derive(Debug)]
pub struct ResponseBody<W: World> {
    source: Source,
    exchange: Box<Exchange<W>>,
    /// The connection that it comes by, given back at its end.
    lease: Option<Lease<W::Key>>,
    timers: Timers,
}

/// Nothing in it is pinned in place.
impl<W: World> Unpin for ResponseBody<W> {}

impl<W: World> ResponseBody<W> {
    pub(crate) fn full(bytes: Bytes, exchange: Box<Exchange<W>>) -> Self {
        let source = Source::Full((!bytes.is_empty()).then_some(bytes));
        Self { source, exchange, lease: None, timers: Timers::default() }
    }

    pub(crate) fn incoming(
        incoming: Incoming,
        exchange: Box<Exchange<W>>,
        lease: Lease<W::Key>,
        deadline: Option<Instant>,
        idle: Option<Duration>,
    ) -> Self {
        let timers = Timers::new(deadline, idle);
        let mut body = Self { source: Source::Incoming(incoming), exchange, lease: Some(lease), timers };
        if body.is_end_stream() {
            body.give_back();
        }
        body
    }

    fn give_back(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
    }

    fn broken(&mut self, error: &BodyError) {
        let cause = match error {
            BodyError::Deadline => Cause::RequestTimeout,
            _ => Cause::ResponseBroken,
        };
        self.exchange.fail(cause, error.to_string());
        self.lease = None;
    }

    fn trailers(&mut self, trailers: &HeaderMap) {
        self.exchange.grpc_status = grpc_status(trailers).or(self.exchange.grpc_status);
    }
}

impl<W: World> Body for ResponseBody<W> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let incoming = match &mut this.source {
            Source::Full(bytes) => {
                return Poll::Ready(bytes.take().map(|bytes| {
                    this.exchange.response_bytes += bytes.len() as u64;
                    Ok(Frame::data(bytes))
                }));
            }
            Source::Incoming(incoming) => incoming,
        };
        match Pin::new(&mut *incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let ended = incoming.is_end_stream();
                if let Some(data) = frame.data_ref() {
                    this.exchange.response_bytes += data.len() as u64;
                }
                if let Some(trailers) = frame.trailers_ref() {
                    this.trailers(trailers);
                }
                this.timers.moved();
                if ended {
                    this.give_back();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                let error = error.into();
                this.broken(&error);
                Poll::Ready(Some(Err(error)))
            }
            Poll::Ready(None) => {
                this.give_back();
                Poll::Ready(None)
            }
            Poll::Pending => match this.timers.poll(cx) {
                Some(error) => {
                    this.broken(&error);
                    Poll::Ready(Some(Err(error)))
                }
                None => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Full(bytes) => bytes.is_none(),
            Source::Incoming(incoming) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Source::Incoming(incoming) => incoming.size_hint(),
        }
    }
}

impl<W: World> Drop for ResponseBody<W> {
    fn drop(&mut self) {
        if self.lease.is_none() {
            return;
        }
        if self.is_end_stream() {
            self.give_back();
        } else {
            self.exchange.fail(Cause::ClientGone, "the client did not take the response to its end");
        }
    }
}
