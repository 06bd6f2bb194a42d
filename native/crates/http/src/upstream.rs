//! Connections to endpoints, kept for reuse: one request at a time by HTTP/1.1, many by HTTP/2.

use crate::body::RequestBody;
use crate::reply::Cause;
use crate::world::{Picked, UpstreamError, World};
use hashbrown::HashMap;
use http::{Method, Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

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

type H1 = http1::SendRequest<RequestBody>;
type H2 = http2::SendRequest<RequestBody>;

/// An HTTP/2 connection and the requests under way on it.
#[derive(Debug, Clone)]
struct Multiplexed {
    sender: H2,
    active: Arc<AtomicUsize>,
    used: Arc<Mutex<Instant>>,
}

#[derive(Debug, Default)]
struct Endpoint {
    unused: Vec<(H1, Instant)>,
    multiplexed: Vec<Multiplexed>,
    /// Held by who makes an HTTP/2 connection: others wait for it.
    connecting: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug)]
struct Inner<K> {
    endpoints: Mutex<HashMap<K, Endpoint>>,
    limits: PoolLimits,
}

/// The right to a connection while its response is under way.
#[derive(Debug)]
pub(crate) struct Lease<K: Hash + Eq> {
    held: Held<K>,
}

#[derive(Debug)]
enum Held<K: Hash + Eq> {
    Single { inner: Arc<Inner<K>>, key: K, sender: H1 },
    Shared { _active: Active },
}

#[derive(Debug)]
struct Active(Multiplexed);

impl Active {
    fn of(connection: Multiplexed) -> Self {
        connection.active.fetch_add(1, Relaxed);
        Self(connection)
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Relaxed);
        *self.0.used.lock() = Instant::now();
    }
}

impl<K: Hash + Eq> Lease<K> {
    /// The response has come in full: the connection may be used again. A lease that is dropped instead ends
    /// an HTTP/1.1 connection.
    pub(crate) fn give_back(self) {
        if let Held::Single { inner, key, sender } = self.held
            && !sender.is_closed()
        {
            let mut endpoints = inner.endpoints.lock();
            let endpoint = endpoints.entry(key).or_default();
            if endpoint.unused.len() < inner.limits.idle_connections {
                endpoint.unused.push((sender, Instant::now()));
            }
        }
    }
}

/// A request that got no answer.
#[derive(Debug)]
pub(crate) struct SendError {
    pub(crate) error: UpstreamError,
    /// Nothing of it has left: it may go elsewhere.
    pub(crate) unsent: Option<Box<Request<RequestBody>>>,
}

/// All connections of one waypoint. Drivers run among `tasks` until `closed`.
#[derive(Debug)]
pub(crate) struct Pool<K: Hash + Eq> {
    inner: Arc<Inner<K>>,
    tasks: TaskTracker,
    closed: CancellationToken,
}

impl<K: Hash + Eq + Clone + Send + Sync + 'static> Pool<K> {
    pub(crate) fn new(limits: PoolLimits, tasks: TaskTracker, closed: CancellationToken) -> Self {
        Self { inner: Arc::new(Inner { endpoints: Mutex::default(), limits }), tasks, closed }
    }

    /// Sends a request on a connection to the picked endpoint, making one where none is free.
    pub(crate) async fn send<W: World<Key = K>>(
        &self,
        world: &W,
        picked: &Picked<W>,
        request: Request<RequestBody>,
    ) -> Result<(Response<Incoming>, Lease<K>), SendError> {
        match picked.http2 {
            true => self.send_h2(world, picked, request).await,
            false => self.send_h1(world, picked, request).await,
        }
    }

    async fn send_h1<W: World<Key = K>>(
        &self,
        world: &W,
        picked: &Picked<W>,
        mut request: Request<RequestBody>,
    ) -> Result<(Response<Incoming>, Lease<K>), SendError> {
        while let Some(mut sender) = self.unused(&picked.key) {
            let again = replay(&request);
            match sender.try_send_request(request).await {
                Ok(response) => return Ok((response, self.lease(picked, sender))),
                Err(error) => match (unsent(error), again) {
                    (Ok(back), _) => request = back,
                    // The endpoint closed an idle connection while the request was on its way: what changes
                    // nothing may be asked again (RFC 9110, 9.2.2).
                    (Err(error), Some(again)) if error.is_incomplete_message() => request = again,
                    (Err(error), _) => return Err(reset(&error)),
                },
            }
        }
        let io = match world.connect(&picked.endpoint).await {
            Ok(io) => TokioIo::new(io),
            Err(error) => return Err(SendError { error, unsent: Some(Box::new(request)) }),
        };
        let limits = &self.inner.limits;
        let begun = http1::Builder::new()
            .max_buf_size(limits.header_bytes.max(8_192))
            .max_headers(limits.header_count)
            .handshake::<_, RequestBody>(io)
            .await;
        let (mut sender, driver) = match begun {
            Ok(begun) => begun,
            Err(error) => return Err(SendError { unsent: Some(Box::new(request)), ..reset(&error) }),
        };
        let closed = self.closed.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                ended = driver.with_upgrades() => if let Err(error) = ended {
                    tracing::debug!(%error, "endpoint's connection ended");
                },
                () = closed.cancelled() => {}
            }
        });
        match sender.try_send_request(request).await {
            Ok(response) => Ok((response, self.lease(picked, sender))),
            Err(error) => Err(match unsent(error) {
                Ok(back) => SendError {
                    error: failed("the connection ended at once", true),
                    unsent: Some(Box::new(back)),
                },
                Err(error) => reset(&error),
            }),
        }
    }

    fn lease<W: World<Key = K>>(&self, picked: &Picked<W>, sender: H1) -> Lease<K> {
        Lease { held: Held::Single { inner: self.inner.clone(), key: picked.key.clone(), sender } }
    }

    /// The connection that was used last, of those that can take a request at once.
    fn unused(&self, key: &K) -> Option<H1> {
        let mut endpoints = self.inner.endpoints.lock();
        let endpoint = endpoints.get_mut(key)?;
        endpoint.unused.retain(|(sender, _)| !sender.is_closed());
        let at = endpoint.unused.iter().rposition(|(sender, _)| sender.is_ready())?;
        Some(endpoint.unused.remove(at).0)
    }

    async fn send_h2<W: World<Key = K>>(
        &self,
        world: &W,
        picked: &Picked<W>,
        mut request: Request<RequestBody>,
    ) -> Result<(Response<Incoming>, Lease<K>), SendError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let active = match self.multiplexed(world, picked).await {
                Ok(active) => active,
                Err(error) => return Err(SendError { error, unsent: Some(Box::new(request)) }),
            };
            let mut sender = active.0.sender.clone();
            if sender.ready().await.is_err() && attempt < 3 {
                continue;
            }
            match sender.try_send_request(request).await {
                Ok(response) => return Ok((response, Lease { held: Held::Shared { _active: active } })),
                Err(error) => match unsent(error) {
                    Ok(back) if attempt < 3 => request = back,
                    Ok(back) => {
                        let error = failed("the endpoint's HTTP/2 connections end at once", true);
                        return Err(SendError { error, unsent: Some(Box::new(back)) });
                    }
                    Err(error) => return Err(reset(&error)),
                },
            }
        }
    }

    /// A connection with room. One is made at a time for each endpoint.
    async fn multiplexed<W: World<Key = K>>(
        &self,
        world: &W,
        picked: &Picked<W>,
    ) -> Result<Active, UpstreamError> {
        let connecting = match self.with_room(&picked.key) {
            Ok(active) => return Ok(active),
            Err(connecting) => connecting,
        };
        let _turn = connecting.lock().await;
        if let Ok(active) = self.with_room(&picked.key) {
            return Ok(active);
        }
        let io = TokioIo::new(world.connect(&picked.endpoint).await?);
        let (sender, driver) = http2::Builder::new(Tasks(self.tasks.clone()))
            .timer(TokioTimer::new())
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(8 << 20)
            .max_header_list_size(self.inner.limits.header_bytes as u32)
            .keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(20))
            .handshake::<_, RequestBody>(io)
            .await
            .map_err(|error| reset(&error).error)?;
        let closed = self.closed.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                ended = driver => if let Err(error) = ended {
                    tracing::debug!(%error, "endpoint's connection ended");
                },
                () = closed.cancelled() => {}
            }
        });
        let connection =
            Multiplexed { sender, active: Arc::default(), used: Arc::new(Mutex::new(Instant::now())) };
        let active = Active::of(connection.clone());
        let mut endpoints = self.inner.endpoints.lock();
        endpoints.entry(picked.key.clone()).or_default().multiplexed.push(connection);
        Ok(active)
    }

    fn with_room(&self, key: &K) -> Result<Active, Arc<tokio::sync::Mutex<()>>> {
        let mut endpoints = self.inner.endpoints.lock();
        let endpoint = endpoints.entry(key.clone()).or_default();
        endpoint.multiplexed.retain(|connection| !connection.sender.is_closed());
        let streams = self.inner.limits.streams;
        let free = endpoint.multiplexed.iter().find(|c| c.active.load(Relaxed) < streams);
        free.map(|connection| Active::of(connection.clone())).ok_or_else(|| endpoint.connecting.clone())
    }

    /// Closes what was not used for long.
    pub(crate) fn sweep(&self) {
        let idle = self.inner.limits.idle;
        let mut ended = Vec::new();
        self.inner.endpoints.lock().retain(|_, endpoint| {
            let old = |since: &Instant| since.elapsed() >= idle;
            ended.extend(endpoint.unused.extract_if(.., |(sender, since)| sender.is_closed() || old(since)));
            endpoint.multiplexed.retain(|connection| {
                let unused = connection.active.load(Relaxed) == 0 && old(&connection.used.lock());
                !connection.sender.is_closed() && !unused
            });
            let waited_for = Arc::strong_count(&endpoint.connecting) > 1;
            waited_for || !endpoint.unused.is_empty() || !endpoint.multiplexed.is_empty()
        });
        drop(ended);
    }

    pub(crate) fn idle(&self) -> Duration {
        self.inner.limits.idle
    }
}

/// The same request, where it has no body and asking twice does no harm.
fn replay(request: &Request<RequestBody>) -> Option<Request<RequestBody>> {
    let safe = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE);
    if !safe || !request.body().is_empty() {
        return None;
    }
    let mut again = Request::new(RequestBody::empty());
    *again.method_mut() = request.method().clone();
    *again.uri_mut() = request.uri().clone();
    *again.version_mut() = request.version();
    *again.headers_mut() = request.headers().clone();
    Some(again)
}

fn unsent(mut error: TrySendError<Request<RequestBody>>) -> Result<Request<RequestBody>, hyper::Error> {
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
        if let Some(body) = inner.downcast_ref::<crate::body::BodyError>() {
            kind = match body {
                crate::body::BodyError::TooLarge(_) => Cause::BodyTooLarge,
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
