//! From a request to a response's headers: endpoints, times and attempts.

use super::{Core, Prepared};
use crate::body::RequestBody;
use crate::exchange::Exchange;
use crate::filters::Outgoing;
use crate::reply::{Cause, Reply};
use crate::route::Retry;
use crate::upstream::{Lease, SendError};
use crate::world::{Picked, World};
use http::header::{CONNECTION, HOST, HeaderMap, HeaderValue, UPGRADE};
use http::{Method, Request, Response, Uri, Version};
use hyper::body::Incoming;
use rand::Rng;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::time::Instant;

/// Endpoints that are tried for a request of which nothing has left.
const ENDPOINTS: u32 = 3;
/// Retries that are allowed at a time however few requests there are.
const FREE_RETRIES: u64 = 3;

/// Requests and retries under way.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    requests: AtomicU64,
    retries: AtomicU64,
}

/// One more under way, until it is dropped.
struct Counted<'a>(&'a AtomicU64);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicU64) -> Self {
        count.fetch_add(1, Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Budget {
    fn retry(&self, per_million: u32) -> Option<Counted<'_>> {
        let retry = Counted::new(&self.retries);
        let (retries, requests) = (self.retries.load(Relaxed), self.requests.load(Relaxed));
        let allowed = (requests * u64::from(per_million) / 1_000_000).max(FREE_RETRIES);
        (retries <= allowed).then_some(retry)
    }
}

/// What an attempt came to.
enum Outcome<K: std::hash::Hash + Eq> {
    Answered(Response<Incoming>, Lease<K>),
    Failed(SendError),
}

impl<W: World> Core<W> {
    /// The response's headers, and until when its body may take.
    pub(super) async fn send(
        &self,
        downstream: &Arc<W::Downstream>,
        prepared: Prepared<'_>,
        exchange: &mut Exchange<W>,
    ) -> Result<(Response<Incoming>, Lease<W::Key>, Option<Instant>), Reply> {
        let Prepared { method, headers, outgoing, body, wanted, rule, timeouts, upgrade } = prepared;
        let _request = Counted::new(&self.budget.requests);
        let deadline = timeouts.request.map(|time| Instant::now() + time);
        let retry =
            rule.and_then(|rule| rule.retry.as_ref()).filter(|_| body.is_empty() && upgrade.is_none());
        let kept = retry.map(|_| headers.clone());
        let mut next = Some((headers, body));
        let (mut retried, mut elsewhere) = (0, 1);
        let mut _retry = None;
        loop {
            exchange.attempts += 1;
            let begun = Instant::now();
            let attempt_time = [timeouts.backend, retry.and_then(|retry| retry.per_try)];
            let attempt_end = attempt_time.into_iter().flatten().min().map(|time| begun + time);
            let end = [deadline, attempt_end].into_iter().flatten().min();
            let (headers, body) = match (next.take(), &kept) {
                (Some(given), _) => given,
                (None, Some(headers)) => (headers.clone(), RequestBody::empty()),
                (None, None) => return Err(Reply::new(Cause::UpstreamReset, "nothing is left to send")),
            };
            let attempt = async {
                let picked = match self.world.pick(downstream, wanted).await {
                    Ok(picked) => picked,
                    Err(error) => {
                        let unsent = error.another.then(|| Box::new(with(headers, body)));
                        return (None, Outcome::Failed(SendError { error, unsent }));
                    }
                };
                let request = written(&method, headers, body, &outgoing, &picked, upgrade.as_ref());
                let outcome = match self.pool.send(&*self.world, &picked, request).await {
                    Ok((response, lease)) => Outcome::Answered(response, lease),
                    Err(failed) => Outcome::Failed(failed),
                };
                (Some(picked.endpoint), outcome)
            };
            let outcome = match end {
                Some(end) => tokio::time::timeout_at(end, attempt).await.ok(),
                None => Some(attempt.await),
            };
            let Some((endpoint, outcome)) = outcome else {
                let request_over = deadline.is_some_and(|deadline| Instant::now() >= deadline);
                let again =
                    retry.filter(|retry| !request_over && (retry.reset || retry.statuses.contains(&504)));
                if let Some(slot) = self.once_more(again, &mut retried, deadline).await {
                    _retry = Some(slot);
                    continue;
                }
                let cause = if request_over { Cause::RequestTimeout } else { Cause::UpstreamTimeout };
                return Err(Reply::new(cause, format!("no answer after {} ms", begun.elapsed().as_millis())));
            };
            if let Some(endpoint) = &endpoint {
                self.world.reached(endpoint, matches!(outcome, Outcome::Answered(..)));
                exchange.endpoint = Some(endpoint.clone());
            }
            match outcome {
                Outcome::Answered(response, lease) => {
                    let status = response.status().as_u16();
                    let again = retry.filter(|retry| retry.statuses.contains(&status));
                    match self.once_more(again, &mut retried, deadline).await {
                        Some(slot) => _retry = Some(slot),
                        None => {
                            let backend_end = timeouts.backend.map(|time| begun + time);
                            let end = [deadline, backend_end].into_iter().flatten().min();
                            return Ok((response, lease, end));
                        }
                    }
                }
                Outcome::Failed(SendError { error, unsent: Some(request) })
                    if error.another && elsewhere < ENDPOINTS =>
                {
                    elsewhere += 1;
                    let (mut parts, body) = request.into_parts();
                    for own in [HOST, CONNECTION, UPGRADE] {
                        parts.headers.remove(own);
                    }
                    next = Some((parts.headers, body));
                }
                Outcome::Failed(SendError { error, unsent }) => {
                    let again = retry.filter(|retry| match unsent {
                        Some(_) => retry.connect_failure,
                        None => retry.reset && error.cause == Cause::UpstreamReset,
                    });
                    match self.once_more(again, &mut retried, deadline).await {
                        Some(slot) => _retry = Some(slot),
                        None => return Err(error.into()),
                    }
                }
            }
        }
    }

    /// Waits before a retry that is allowed; `None` where none is, or where it would begin too late.
    async fn once_more(
        &self,
        retry: Option<&Retry>,
        retried: &mut u32,
        deadline: Option<Instant>,
    ) -> Option<Counted<'_>> {
        let retry = retry.filter(|retry| *retried < retry.attempts)?;
        let slot = self.budget.retry(retry.budget_per_million)?;
        let longest = retry.backoff.saturating_mul(1 << (*retried).min(16)).min(retry.backoff_max);
        let wait = longest.mul_f64(rand::rng().random_range(0.5..=1.0));
        if deadline.is_some_and(|deadline| Instant::now() + wait >= deadline) {
            return None;
        }
        *retried += 1;
        if wait > Duration::ZERO {
            tokio::time::sleep(wait).await;
        }
        Some(slot)
    }
}

fn with(headers: HeaderMap, body: RequestBody) -> Request<RequestBody> {
    let mut request = Request::new(body);
    *request.headers_mut() = headers;
    request
}

/// The request as the endpoint's protocol has it.
fn written<W: World>(
    method: &Method,
    headers: HeaderMap,
    body: RequestBody,
    outgoing: &Outgoing,
    picked: &Picked<W>,
    upgrade: Option<&HeaderValue>,
) -> Request<RequestBody> {
    let mut request = with(headers, body);
    *request.method_mut() = method.clone();
    let mut uri = http::uri::Parts::default();
    uri.path_and_query = Some(outgoing.target.clone());
    if picked.http2 {
        uri.scheme = Some(http::uri::Scheme::HTTP);
        uri.authority = Some(outgoing.authority.clone());
        *request.version_mut() = Version::HTTP_2;
    } else {
        let headers = request.headers_mut();
        if let Ok(host) = HeaderValue::from_str(outgoing.authority.as_str()) {
            headers.insert(HOST, host);
        }
        if let Some(protocol) = upgrade {
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(UPGRADE, protocol.clone());
        }
    }
    // A target and an authority that were parsed make a URI.
    *request.uri_mut() = Uri::from_parts(uri).unwrap_or_default();
    request
}
