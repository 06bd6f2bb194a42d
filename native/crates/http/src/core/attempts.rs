//! From a request to a response's headers: endpoints, times and attempts.

use super::Core;
use super::budget::Counted;
use super::outgoing::{Message, unwritten, with, written};
use super::respond::Sent;
use super::routing::Destination;
use crate::balance::{Choice, HashInput, Health, Place, Watch};
use crate::body::{Kept, RequestBody, grpc_status};
use crate::exchange::Exchange;
use crate::reply::{Cause, Reply};
use crate::route::{Retry, Timeouts};
use crate::upstream::{Lease, SendError};
use crate::world::{Downstream, UpstreamError, World};
use http::Response;
use http::header::{HeaderMap, HeaderValue};
use hyper::body::Incoming;
use rand::Rng;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Endpoints that are tried for a request of which nothing has left.
const ENDPOINTS: u32 = 3;

/// A request that is ready to be sent, and how.
pub(super) struct Prepared<'a> {
    pub(super) message: Message,
    pub(super) destination: Destination<'a>,
    /// As the client sent it.
    pub(super) query: Option<&'a str>,
    pub(super) retry: Option<&'a Retry>,
    pub(super) timeouts: Timeouts,
}

/// What all attempts at a request have in common.
struct Common<'a> {
    method: http::Method,
    outgoing: crate::filters::Outgoing,
    upgrade: Option<HeaderValue>,
    destination: Destination<'a>,
    query: Option<&'a str>,
}

/// Where an attempt went, also where it was given up half-way.
struct Went<W: World> {
    watch: Watch<W>,
    cookie: Option<HeaderValue>,
}

/// What an attempt came to.
enum Outcome<K: std::hash::Hash + Eq> {
    Answered(Response<Incoming>, Lease<K>),
    Failed(SendError),
}

/// The right to one more attempt, until it is dropped.
struct Slot<'a> {
    _budget: Counted<'a>,
    _place: Option<Place>,
}

impl<W: World> Core<W> {
    /// The response's headers, and until when its body may take.
    pub(super) async fn send(
        &self,
        downstream: &Arc<W::Downstream>,
        prepared: Prepared<'_>,
        exchange: &mut Exchange<W>,
    ) -> Result<Sent<W::Key>, Reply> {
        let Prepared { message, destination, query, retry, timeouts } = prepared;
        let Message { method, headers, outgoing, mut body, upgrade } = message;
        let _request = Counted::new(&self.budget.requests);
        let deadline = timeouts.request.map(|time| Instant::now() + time);
        let retry = retry.filter(|retry| retry.attempts > 0 && upgrade.is_none());
        let kept_body = retry.and_then(|_| body.keep(&self.keeper));
        let kept = retry.map(|_| headers.clone());
        let whole = || kept_body.as_ref().is_none_or(|kept| kept.is_whole());
        let common = Common { method, outgoing, upgrade, destination, query };
        let mut next = Some((headers, body));
        let mut tried = Vec::new();
        let (mut retried, mut elsewhere) = (0, 1);
        let mut _slot = None;
        loop {
            exchange.attempts += 1;
            let begun = Instant::now();
            let attempt_time = [timeouts.backend, retry.and_then(|retry| retry.per_try)];
            let attempt_end = attempt_time.into_iter().flatten().min().map(|time| begun + time);
            let end = [deadline, attempt_end].into_iter().flatten().min();
            let (headers, body) = match (next.take(), &kept) {
                (Some(given), _) => given,
                (None, Some(headers)) => {
                    let body = kept_body.as_ref().map_or_else(RequestBody::empty, |kept| kept.whole_again());
                    (headers.clone(), body)
                }
                (None, None) => return Err(Reply::new(Cause::UpstreamReset, "nothing is left to send")),
            };
            let mut went = None;
            let attempt = self.attempt(&common, downstream, headers, body, &tried, &mut went);
            let outcome = match end {
                Some(end) => tokio::time::timeout_at(end, attempt).await.ok(),
                None => Some(attempt.await),
            };
            if let Some(Went { watch, .. }) = &went {
                exchange.endpoint = Some(watch.endpoint.clone());
                let health = match &outcome {
                    Some(Outcome::Answered(response, _)) => Some(of_answer(response)),
                    Some(Outcome::Failed(failed)) => of_failure(failed),
                    None => Some(Health::GatewayError),
                };
                self.learn(watch, health);
            }
            _slot = None;
            let watch = went.as_ref().map(|went| &went.watch);
            let outcome = match outcome {
                Some(outcome) => outcome,
                None => {
                    let request_over = deadline.is_some_and(|deadline| Instant::now() >= deadline);
                    let again = |retry: &&Retry| {
                        !request_over && (retry.reset || retry.statuses.contains(&504)) && whole()
                    };
                    let slot = self
                        .once_more(retry.filter(again), watch, &mut retried, deadline, kept_body.as_ref())
                        .await;
                    if let Some(slot) = slot {
                        _slot = Some(slot);
                        tried.extend(went.map(|went| went.watch.key));
                        continue;
                    }
                    let cause = if request_over { Cause::RequestTimeout } else { Cause::UpstreamTimeout };
                    let message = format!("no answer after {} ms", begun.elapsed().as_millis());
                    return Err(Reply::new(cause, message));
                }
            };
            match outcome {
                Outcome::Answered(response, lease) => {
                    let again = |retry: &&Retry| wants_again(retry, &response) && whole();
                    match self
                        .once_more(retry.filter(again), watch, &mut retried, deadline, kept_body.as_ref())
                        .await
                    {
                        Some(slot) => _slot = Some(slot),
                        None => {
                            let backend_end = timeouts.backend.map(|time| begun + time);
                            let deadline = [deadline, backend_end].into_iter().flatten().min();
                            let cookie = went.and_then(|went| went.cookie);
                            return Ok(Sent { response, lease, deadline, cookie });
                        }
                    }
                }
                Outcome::Failed(SendError { error, unsent: Some(request) })
                    if error.another && elsewhere < ENDPOINTS =>
                {
                    elsewhere += 1;
                    next = Some(unwritten(*request));
                }
                Outcome::Failed(SendError { error, unsent }) => {
                    let again = |retry: &&Retry| match unsent {
                        Some(_) => retry.connect_failure && is_endpoints(&error),
                        None => retry.reset && error.cause == Cause::UpstreamReset,
                    };
                    let again = retry.filter(again).filter(|_| whole());
                    match self.once_more(again, watch, &mut retried, deadline, kept_body.as_ref()).await {
                        Some(slot) => _slot = Some(slot),
                        None => return Err(error.into()),
                    }
                }
            }
            tried.extend(went.map(|went| went.watch.key));
        }
    }

    /// One attempt; `went` is set as soon as it is known where.
    async fn attempt(
        &self,
        common: &Common<'_>,
        downstream: &Arc<W::Downstream>,
        headers: HeaderMap,
        body: RequestBody,
        tried: &[W::Key],
        went: &mut Option<Went<W>>,
    ) -> Outcome<W::Key> {
        let unsent = |error: UpstreamError, headers, body| {
            let unsent = Some(Box::new(with(headers, body)));
            Outcome::Failed(SendError { error, unsent })
        };
        let candidates = match self.world.candidates(downstream, common.destination.wanted).await {
            Ok(candidates) => candidates,
            Err(error) => return unsent(error, headers, body),
        };
        let source_ip = downstream.caller().source_ip;
        let input = HashInput { headers: &headers, query: common.query, source_ip };
        let choice = Choice { subset: common.destination.subset, input, tried };
        let (picked, watch, cookie) = match self.traffic.choose(&candidates, choice) {
            Ok(chosen) => chosen,
            Err(error) => return unsent(error, headers, body),
        };
        if let Err(error) = self.world.permit(downstream, &picked.endpoint).await {
            return unsent(error, headers, body);
        }
        *went = Some(Went { watch, cookie });
        let Common { method, outgoing, upgrade, .. } = common;
        let request = written(method, headers, body, outgoing, picked.http2, upgrade.as_ref());
        match self.pool.send(&*self.world, picked, request).await {
            Ok((response, lease)) => Outcome::Answered(response, lease),
            Err(failed) => Outcome::Failed(failed),
        }
    }

    /// Tells whoever balances how an attempt went, where that says something of the endpoint.
    pub(super) fn learn(&self, watch: &Watch<W>, health: Option<Health>) {
        let Some(health) = health else { return };
        self.traffic.learn(watch, health);
        match health {
            Health::Good | Health::Error => self.world.reached(&watch.endpoint, true),
            Health::Unreached => self.world.reached(&watch.endpoint, false),
            Health::GatewayError => {}
        }
    }

    /// Waits before a retry that is allowed; `None` where none is, where it would begin too late, or where the
    /// attempt before has meanwhile sent more of the body than is kept.
    async fn once_more(
        &self,
        retry: Option<&Retry>,
        watch: Option<&Watch<W>>,
        retried: &mut u32,
        deadline: Option<Instant>,
        body: Option<&Kept>,
    ) -> Option<Slot<'_>> {
        let retry = retry.filter(|retry| *retried < retry.attempts)?;
        let budget = self.budget.retry(retry.budget_per_million)?;
        let place = self.traffic.retry(watch).ok()?;
        let longest = retry.backoff.saturating_mul(1 << (*retried).min(16)).min(retry.backoff_max);
        let wait = longest.mul_f64(rand::rng().random_range(0.5..=1.0));
        if deadline.is_some_and(|deadline| Instant::now() + wait >= deadline) {
            return None;
        }
        *retried += 1;
        if wait > Duration::ZERO {
            tokio::time::sleep(wait).await;
        }
        if body.is_some_and(|body| !body.take_over()) {
            return None;
        }
        Some(Slot { _budget: budget, _place: place })
    }
}

/// Whether an answer is one that is asked for again.
fn wants_again(retry: &Retry, response: &Response<Incoming>) -> bool {
    let grpc = || grpc_status(response.headers()).is_some_and(|code| retry.grpc_statuses.contains(&code));
    retry.statuses.contains(&response.status().as_u16()) || (!retry.grpc_statuses.is_empty() && grpc())
}

/// gRPC says in a 200 what others say in a 5xx.
pub(super) fn of_answer(response: &Response<Incoming>) -> Health {
    match (response.status().as_u16(), grpc_status(response.headers())) {
        (502..=504, _) | (200, Some(14)) => Health::GatewayError,
        (500.., _) | (200, Some(2 | 13 | 15)) => Health::Error,
        _ => Health::Good,
    }
}

/// `None`: it is not the endpoint's fault.
pub(super) fn of_failure(failed: &SendError) -> Option<Health> {
    is_endpoints(&failed.error).then_some(match failed.unsent {
        Some(_) => Health::Unreached,
        None => Health::GatewayError,
    })
}

fn is_endpoints(error: &UpstreamError) -> bool {
    use Cause::{PeerRefused, UpstreamConnectFailed, UpstreamReset, UpstreamTimeout};
    matches!(error.cause, UpstreamConnectFailed | PeerRefused | UpstreamReset | UpstreamTimeout)
}
