//! HTTP/1.1: a connection carries one request at a time.

use super::{Lease, Pool, SendError, Terms, failed, reset, take_back};
use crate::balance::{Picked, Place, overloaded};
use crate::body::RequestBody;
use crate::world::{UpstreamError, World};
use http::{Method, Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::hash::Hash;
use std::time::Instant;

pub(super) type H1 = http1::SendRequest<RequestBody>;

/// A connection that waits for its next request.
#[derive(Debug)]
pub(super) struct Unused {
    pub(super) sender: H1,
    pub(super) since: Instant,
    pub(super) served: u32,
    pub(super) terms: Terms,
}

impl Unused {
    pub(super) fn is_good(&self, now: Instant) -> bool {
        !self.sender.is_closed() && now.duration_since(self.since) < self.terms.idle
    }
}

impl<K: Hash + Eq + Clone + Send + Sync + 'static> Pool<K> {
    pub(super) async fn send_single<W: World<Key = K>>(
        &self,
        world: &W,
        picked: &Picked<W>,
        mut request: Request<RequestBody>,
    ) -> Result<(Response<Incoming>, Lease<K>), SendError> {
        let mut unused = self.unused(&picked.key);
        let mut pending = None;
        let place = loop {
            while let Some(Unused { mut sender, served, terms, .. }) = unused.take() {
                pending = None;
                let again = replay(&request);
                match sender.try_send_request(request).await {
                    Ok(response) => {
                        let lease =
                            Lease::single(self.inner.clone(), picked.key.clone(), sender, terms, served + 1);
                        return Ok((response, lease));
                    }
                    Err(error) => match (take_back(error), again) {
                        (Ok(back), _) => request = back,
                        // The endpoint closed an idle connection while the request was on its way: what
                        // changes nothing may be asked again (RFC 9110, 9.2.2).
                        (Err(error), Some(again)) if error.is_incomplete_message() => request = again,
                        (Err(error), _) => return Err(reset(&error)),
                    },
                }
                unused = self.unused(&picked.key);
            }
            if pending.is_none() {
                pending = match self.pending(picked) {
                    Ok(pending) => pending,
                    Err(error) => return Err(SendError::unsent(error, request)),
                };
            }
            let terms = Terms::new(&self.inner.limits, picked);
            let free = || {
                unused = self.unused(&picked.key);
                unused.is_some()
            };
            match self.room(picked, &terms, free).await {
                Ok(place) if unused.is_none() => break place,
                Ok(_) => {}
                Err(error) => return Err(SendError::unsent(error, request)),
            }
        };
        let terms = Terms::new(&self.inner.limits, picked);
        let io = match self.connect(world, picked).await {
            Ok(io) => TokioIo::new(io),
            Err(error) => return Err(SendError::unsent(error, request)),
        };
        drop(pending);
        let limits = &self.inner.limits;
        let begun = http1::Builder::new()
            .max_buf_size(limits.header_bytes.max(8_192))
            .max_headers(limits.header_count)
            .handshake::<_, RequestBody>(io)
            .await;
        let (mut sender, driver) = match begun {
            Ok(begun) => begun,
            Err(error) => return Err(SendError::unsent(reset(&error).error, request)),
        };
        self.drive(driver.with_upgrades(), place);
        match sender.try_send_request(request).await {
            Ok(response) => {
                let lease = Lease::single(self.inner.clone(), picked.key.clone(), sender, terms, 1);
                Ok((response, lease))
            }
            Err(error) => Err(match take_back(error) {
                Ok(back) => SendError::unsent(failed("the connection ended at once", true), back),
                Err(error) => reset(&error),
            }),
        }
    }

    /// A place among those that wait for a connection, where these are bounded.
    pub(super) fn pending<W: World<Key = K>>(
        &self,
        picked: &Picked<W>,
    ) -> Result<Option<Place>, UpstreamError> {
        match (&picked.bounds, &picked.policy) {
            (Some(bounds), Some(policy)) if policy.max_pending > 0 => {
                match bounds.pending(policy.max_pending) {
                    Some(place) => Ok(Some(place)),
                    None => {
                        Err(overloaded("as many requests as the service's policy lets wait for a connection"))
                    }
                }
            }
            _ => Ok(None),
        }
    }

    /// The connection that was used last, of those that can take a request at once.
    fn unused(&self, key: &K) -> Option<Unused> {
        let mut endpoints = self.inner.endpoints.lock();
        let endpoint = endpoints.get_mut(key)?;
        let now = Instant::now();
        endpoint.unused.retain(|unused| unused.is_good(now));
        let at = endpoint.unused.iter().rposition(|unused| unused.sender.is_ready())?;
        Some(endpoint.unused.remove(at))
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
