//! Bodies on their way: counted, limited in size and time, never gathered.

use crate::exchange::Exchange;
use crate::reply::Cause;
use crate::upstream::Lease;
use crate::world::World;
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// Why a body ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("the body is larger than {0} bytes")]
    TooLarge(u64),
    #[error("the exchange took too long")]
    Deadline,
    #[error("no byte came for {} ms", .0.as_millis())]
    Idle(Duration),
    #[error(transparent)]
    Http(#[from] hyper::Error),
}

/// A deadline, and a time that each byte sets back. A timer is made only when a body has to be waited for.
#[derive(Debug, Default)]
struct Timers {
    deadline: Option<Instant>,
    idle: Option<Duration>,
    timer: Option<Pin<Box<Sleep>>>,
    /// The timer is for the deadline, not for what is idle.
    last: bool,
}

impl Timers {
    fn new(deadline: Option<Instant>, idle: Option<Duration>) -> Self {
        Self { deadline, idle: idle.filter(|idle| !idle.is_zero()), timer: None, last: false }
    }

    /// Of a body that has nothing to give at present.
    fn poll(&mut self, cx: &mut Context<'_>) -> Option<BodyError> {
        if self.timer.is_none() {
            let idle = self.idle.map(|idle| Instant::now() + idle);
            self.last = match (self.deadline, idle) {
                (Some(deadline), Some(idle)) => deadline <= idle,
                (deadline, _) => deadline.is_some(),
            };
            let at = if self.last { self.deadline } else { idle };
            self.timer = at.map(|at| Box::pin(tokio::time::sleep_until(at)));
        }
        self.timer.as_mut()?.as_mut().poll(cx).is_ready().then(|| match self.idle {
            Some(idle) if !self.last => BodyError::Idle(idle),
            _ => BodyError::Deadline,
        })
    }

    fn moved(&mut self) {
        self.timer = None;
    }
}

/// A client's request on its way to a backend.
#[derive(Debug)]
pub struct RequestBody {
    incoming: Option<Incoming>,
    count: Arc<AtomicU64>,
    limit: u64,
    timers: Timers,
}

impl RequestBody {
    /// `limit` in bytes.
    pub(crate) fn new(incoming: Incoming, count: Arc<AtomicU64>, limit: u64, idle: Option<Duration>) -> Self {
        let incoming = (!incoming.is_end_stream()).then_some(incoming);
        let timers = Timers::new(None, idle);
        Self { incoming, count, limit, timers }
    }

    /// Nothing follows the headers: the request can be sent again.
    pub(crate) fn is_empty(&self) -> bool {
        self.incoming.is_none()
    }

    pub(crate) fn empty() -> Self {
        Self { incoming: None, count: Arc::default(), limit: 0, timers: Timers::default() }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let Some(incoming) = &mut this.incoming else { return Poll::Ready(None) };
        match Pin::new(incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    let before = this.count.fetch_add(data.len() as u64, Relaxed);
                    if before + data.len() as u64 > this.limit {
                        this.incoming = None;
                        return Poll::Ready(Some(Err(BodyError::TooLarge(this.limit))));
                    }
                }
                this.timers.moved();
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(None) => {
                this.incoming = None;
                Poll::Ready(None)
            }
            Poll::Pending => match this.timers.poll(cx) {
                Some(error) => Poll::Ready(Some(Err(error))),
                None => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

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

/// The status of a gRPC response, from its trailers or its only headers.
pub(crate) fn grpc_status(headers: &HeaderMap) -> Option<u16> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
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
