//! Connections to endpoints, kept for reuse: one request at a time by HTTP/1.1, many by HTTP/2.

mod lease;
mod multiplexed;
mod single;

pub(crate) use lease::Lease;

use crate::balance::{Bounds, Picked, Place, TrafficPolicy, overloaded};
use crate::body::{BodyError, RequestBody};
use crate::reply::Cause;
use crate::world::{UpstreamError, World};
use hashbrown::HashMap;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::rt::Executor;
use multiplexed::Multiplexed;
use parking_lot::Mutex;
use single::Unused;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long a request waits for a connection where as many as allowed are there and no time to connect is set.
const WAIT: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
pub struct PoolLimits {
    /// An unused connection is closed after this.
    pub idle: Duration,
    /// Unused HTTP/1.1 connections kept for one endpoint.
    pub idle_connections: usize,
    /// Requests under way on one HTTP/2 connection before another one is made.
    pub streams: usize,
    pub header_bytes: usize,
    pub header_count: usize,
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self {
            // Servers close idle connections after a minute or more; the younger the surer.
            idle: Duration::from_secs(30),
            idle_connections: 128,
            streams: 100,
            header_bytes: 64 << 10,
            header_count: 128,
        }
    }
}

#[derive(Debug, Default)]
struct Endpoint {
    unused: Vec<Unused>,
    multiplexed: Vec<Multiplexed>,
    /// Held by who makes an HTTP/2 connection: others wait for it.
    connecting: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug)]
struct Inner<K> {
    endpoints: Mutex<HashMap<K, Endpoint>>,
    limits: PoolLimits,
}

/// What the policy of the service says of a connection that was made for it.
#[derive(Debug, Clone)]
struct Terms {
    /// Closed after this where it is not used.
    idle: Duration,
    /// Requests that it may carry; 0: any number.
    requests: u32,
    /// Whose it is, where these are bounded.
    bounds: Option<Arc<Bounds>>,
}

impl Terms {
    fn new<W: World>(limits: &PoolLimits, picked: &Picked<W>) -> Self {
        let policy = picked.policy.as_deref();
        Self {
            idle: policy.and_then(|policy| policy.idle).unwrap_or(limits.idle),
            requests: policy.map_or(0, |policy| policy.max_requests_per_connection),
            bounds: picked
                .bounds
                .clone()
                .filter(|_| policy.is_some_and(|policy: &TrafficPolicy| policy.max_connections > 0)),
        }
    }

    fn is_worn_out(&self, served: u32) -> bool {
        self.requests > 0 && served >= self.requests
    }
}

/// A request that got no answer.
#[derive(Debug)]
pub(crate) struct SendError {
    pub(crate) error: UpstreamError,
    /// Nothing of it has left: it may go elsewhere.
    pub(crate) unsent: Option<Box<Request<RequestBody>>>,
}

impl SendError {
    fn unsent(error: UpstreamError, request: Request<RequestBody>) -> Self {
        Self { error, unsent: Some(Box::new(request)) }
    }
}

/// All connections of one waypoint. Drivers run among `tasks` until `closed`.
#[derive(Debug)]
pub(crate) struct Pool<K: Hash + Eq> {
    inner: Arc<Inner<K>>,
    tasks: TaskTracker,
    pub(crate) closed: CancellationToken,
}

impl<K: Hash + Eq + Clone + Send + Sync + 'static> Pool<K> {
    pub(crate) fn new(limits: PoolLimits, tasks: TaskTracker, closed: CancellationToken) -> Self {
        Self { inner: Arc::new(Inner { endpoints: Mutex::default(), limits }), tasks, closed }
    }

    /// Sends a request on a connection to the picked endpoint, making one where none is free.
    pub(crate) async fn send<W: World<Key = K>>(
        &self,
        world: &W,
        mut picked: Picked<W>,
        request: Request<RequestBody>,
    ) -> Result<(Response<Incoming>, Lease<K>), SendError> {
        let usage = picked.usage.take();
        let (response, mut lease) = match picked.http2 {
            true => self.send_multiplexed(world, &picked, request).await?,
            false => self.send_single(world, &picked, request).await?,
        };
        lease.usage = usage;
        Ok((response, lease))
    }

    /// Connects within the time that the policy gives for it.
    async fn connect<W: World<Key = K>>(
        &self,
        world: &W,
        picked: &Picked<W>,
    ) -> Result<W::Io, UpstreamError> {
        let connecting = world.connect(&picked.endpoint);
        let Some(time) = picked.policy.as_ref().and_then(|policy| policy.connect_timeout) else {
            return connecting.await;
        };
        tokio::time::timeout(time, connecting).await.unwrap_or_else(|_| {
            let message = format!("no connection within {} ms", time.as_millis());
            let cause = Cause::UpstreamConnectFailed;
            Err(UpstreamError { cause, message, policy: None, another: true })
        })
    }

    /// A place for one connection more, where the policy bounds them; waits until there is one. `free`: whether a
    /// connection can be had that is there already; then there is no place.
    async fn room<W: World<Key = K>>(
        &self,
        picked: &Picked<W>,
        terms: &Terms,
        mut free: impl FnMut() -> bool,
    ) -> Result<Option<Place>, UpstreamError> {
        let (Some(bounds), Some(policy)) = (&terms.bounds, &picked.policy) else { return Ok(None) };
        let deadline = tokio::time::Instant::now() + policy.connect_timeout.unwrap_or(WAIT);
        loop {
            // Registered before it is looked: what is freed in between is not missed.
            let mut freed = std::pin::pin!(bounds.freed.notified());
            freed.as_mut().enable();
            if let Some(place) = bounds.connection(policy.max_connections) {
                return Ok(Some(place));
            }
            if free() {
                return Ok(None);
            }
            self.close_unused(bounds);
            if tokio::time::timeout_at(deadline, freed).await.is_err() {
                return Err(overloaded("as many connections as the service's policy allows"));
            }
        }
    }

    /// Closes a connection of the service's that nobody uses at the moment, if there is one.
    fn close_unused(&self, bounds: &Arc<Bounds>) {
        let mut endpoints = self.inner.endpoints.lock();
        let closed = endpoints.values_mut().find_map(|endpoint| {
            let of = |unused: &Unused| unused.terms.bounds.as_ref().is_some_and(|of| Arc::ptr_eq(of, bounds));
            let at = endpoint.unused.iter().position(of);
            at.map(|at| endpoint.unused.remove(at))
        });
        drop(endpoints);
        drop(closed);
    }

    /// Runs a connection's driver; its place is given back when it has ended.
    fn drive<E: std::fmt::Display>(
        &self,
        driver: impl Future<Output = Result<(), E>> + Send + 'static,
        place: Option<Place>,
    ) {
        let closed = self.closed.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                ended = driver => if let Err(error) = ended {
                    tracing::debug!(%error, "endpoint's connection ended");
                },
                () = closed.cancelled() => {}
            }
            drop(place);
        });
    }

    /// Closes what was not used for long.
    pub(crate) fn sweep(&self) {
        let now = Instant::now();
        let mut ended = Vec::new();
        self.inner.endpoints.lock().retain(|_, endpoint| {
            ended.extend(endpoint.unused.extract_if(.., |unused| !unused.is_good(now)));
            endpoint.multiplexed.retain(|connection| {
                let unused = connection.active.load(Relaxed) == 0
                    && now.duration_since(*connection.used.lock()) >= connection.terms.idle;
                !connection.sender.is_closed() && !unused
            });
            let waited_for = Arc::strong_count(&endpoint.connecting) > 1;
            waited_for || !endpoint.unused.is_empty() || !endpoint.multiplexed.is_empty()
        });
        drop(ended);
    }
}

fn take_back(mut error: TrySendError<Request<RequestBody>>) -> Result<Request<RequestBody>, hyper::Error> {
    error.take_message().ok_or_else(|| error.into_error())
}

fn failed(message: impl Into<String>, another: bool) -> UpstreamError {
    UpstreamError { cause: Cause::UpstreamReset, message: message.into(), policy: None, another }
}

fn reset(error: &hyper::Error) -> SendError {
    let mut message = error.to_string();
    let mut cause = std::error::Error::source(error);
    let mut kind = Cause::UpstreamReset;
    while let Some(inner) = cause {
        if let Some(body) = inner.downcast_ref::<BodyError>() {
            kind = match body {
                BodyError::TooLarge(_) => Cause::BodyTooLarge,
                _ => Cause::ClientGone,
            };
        }
        message.push_str(": ");
        message.push_str(&inner.to_string());
        cause = inner.source();
    }
    SendError { error: UpstreamError { cause: kind, ..failed(message, false) }, unsent: None }
}

/// Runs hyper's tasks among ours.
#[derive(Debug, Clone)]
pub(crate) struct Tasks(pub(crate) TaskTracker);

impl<F> Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}
