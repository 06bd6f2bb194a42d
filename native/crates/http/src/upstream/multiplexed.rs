//! HTTP/2: a connection carries many requests.

use super::{Lease, Pool, SendError, Tasks, Terms, failed, reset, take_back};
use crate::balance::Picked;
use crate::body::RequestBody;
use crate::world::{UpstreamError, World};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

type H2 = http2::SendRequest<RequestBody>;

/// An HTTP/2 connection and the requests under way on it.
#[derive(Debug, Clone)]
pub(super) struct Multiplexed {
    pub(super) sender: H2,
    pub(super) active: Arc<AtomicUsize>,
    /// All requests so far.
    served: Arc<AtomicU32>,
    pub(super) used: Arc<Mutex<Instant>>,
    pub(super) terms: Terms,
}

/// A request under way, until it is dropped.
#[derive(Debug)]
pub(super) struct Active(Multiplexed);

impl Active {
    fn of(connection: &Multiplexed) -> Self {
        connection.active.fetch_add(1, Relaxed);
        connection.served.fetch_add(1, Relaxed);
        Self(connection.clone())
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Relaxed);
        *self.0.used.lock() = Instant::now();
    }
}

impl<K: Hash + Eq + Clone + Send + Sync + 'static> Pool<K> {
    pub(super) async fn send_multiplexed<W: World<Key = K>>(
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
                Err(error) => return Err(SendError::unsent(error, request)),
            };
            let mut sender = active.0.sender.clone();
            if sender.ready().await.is_err() && attempt < 3 {
                continue;
            }
            match sender.try_send_request(request).await {
                Ok(response) => return Ok((response, Lease::shared(active))),
                Err(error) => match take_back(error) {
                    Ok(back) if attempt < 3 => request = back,
                    Ok(back) => {
                        let error = failed("the endpoint's HTTP/2 connections end at once", true);
                        return Err(SendError::unsent(error, back));
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
        let streams = self.inner.limits.streams;
        let connecting = match self.with_room(&picked.key, streams) {
            Ok(active) => return Ok(active),
            Err(connecting) => connecting,
        };
        let _pending = self.pending(picked)?;
        let _turn = connecting.lock().await;
        if let Ok(active) = self.with_room(&picked.key, streams) {
            return Ok(active);
        }
        let terms = Terms::new(&self.inner.limits, picked);
        // Where no other connection may be made, one that is busy will do.
        let mut shared = None;
        let free = || {
            shared = self.with_room(&picked.key, usize::MAX).ok();
            shared.is_some()
        };
        let place = self.room(picked, &terms, free).await?;
        if let Some(active) = shared {
            return Ok(active);
        }
        let io = TokioIo::new(self.connect(world, picked).await?);
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
        self.drive(driver, place);
        let used = Arc::new(Mutex::new(Instant::now()));
        let connection = Multiplexed { sender, active: Arc::default(), served: Arc::default(), used, terms };
        let active = Active::of(&connection);
        let mut endpoints = self.inner.endpoints.lock();
        endpoints.entry(picked.key.clone()).or_default().multiplexed.push(connection);
        Ok(active)
    }

    fn with_room(&self, key: &K, streams: usize) -> Result<Active, Arc<tokio::sync::Mutex<()>>> {
        let mut endpoints = self.inner.endpoints.lock();
        let endpoint = endpoints.entry(key.clone()).or_default();
        // One that has carried as many as it may ends with the last of them.
        endpoint.multiplexed.retain(|connection| {
            !connection.sender.is_closed() && !connection.terms.is_worn_out(connection.served.load(Relaxed))
        });
        let free = endpoint.multiplexed.iter().find(|c| c.active.load(Relaxed) < streams);
        free.map(Active::of).ok_or_else(|| endpoint.connecting.clone())
    }
}
