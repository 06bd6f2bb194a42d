//! Copies of requests, sent elsewhere too: whatever becomes of them, the original never waits.

use super::Core;
use super::attempts::{of_answer, of_failure};
use super::outgoing::{Message, written};
use super::routing::{Destination, destination};
use crate::balance::{Choice, HashInput};
use crate::body::RequestBody;
use crate::filters::{Outgoing, befalls};
use crate::reply::Cause;
use crate::route::{Backend, Mirror, Target};
use crate::upstream::Lease;
use crate::world::{Downstream, Mirrored, UpstreamError, World};
use http::uri::Authority;
use http::{HeaderMap, Method, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Copies under way at a time.
const UNDER_WAY: usize = 1024;
/// A copy may take so long.
const TIME: Duration = Duration::from_secs(15);

/// Copies under way.
#[derive(Debug, Clone, Default)]
pub(super) struct Mirrors(Arc<AtomicUsize>);

/// One of them, until it is dropped.
struct UnderWay(Arc<AtomicUsize>);

impl Mirrors {
    fn begin(&self) -> Option<UnderWay> {
        let room = |count: usize| (count < UNDER_WAY).then(|| count + 1);
        self.0.fetch_update(Relaxed, Relaxed, room).ok()?;
        Some(UnderWay(self.0.clone()))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// A request without connection to the one it is a copy of.
struct Copy {
    method: Method,
    headers: HeaderMap,
    outgoing: Outgoing,
    body: RequestBody,
    target: Target,
}

impl<W: World> Core<W> {
    /// Sends a copy of the request, if chance has it.
    pub(super) fn mirror(
        self: &Arc<Self>,
        mirror: &Mirror,
        message: &mut Message,
        downstream: &Arc<W::Downstream>,
    ) {
        // An upgraded connection is nobody else's.
        if message.upgrade.is_some() || !befalls(mirror.per_million, &mut rand::rng()) {
            return;
        }
        let Some(under_way) = self.mirrors.begin() else { return self.world.mirrored(Mirrored::Dropped) };
        let given_up = CancellationToken::new();
        let copy = Copy {
            method: message.method.clone(),
            headers: message.headers.clone(),
            outgoing: Outgoing {
                target: message.outgoing.target.clone(),
                authority: shadow(&message.outgoing.authority),
            },
            body: message.body.tap(&given_up),
            target: mirror.backend.target.clone(),
        };
        let (core, downstream) = (self.clone(), downstream.clone());
        self.tasks.spawn(async move {
            let outcome = tokio::select! {
                outcome = tokio::time::timeout(TIME, core.send_copy(copy, &downstream)) => {
                    outcome.unwrap_or(Mirrored::Failed)
                }
                () = given_up.cancelled() => Mirrored::Dropped,
                () = core.pool.closed.cancelled() => return,
            };
            core.world.mirrored(outcome);
            drop(under_way);
        });
    }

    async fn send_copy(&self, copy: Copy, downstream: &Arc<W::Downstream>) -> Mirrored {
        let Copy { method, headers, outgoing, body, target } = copy;
        let backend = Backend { target, filters: Box::default(), mirrors: Box::default() };
        let Ok(destination) = destination(Some(&backend)) else { return Mirrored::Failed };
        if self.authorize_onward(downstream, destination.wanted, &method, &headers, &outgoing).is_err() {
            return Mirrored::Failed;
        }
        let called = self.call(downstream, destination, &method, headers, body, &outgoing).await;
        let (response, lease) = match called {
            Ok(answered) => answered,
            Err(error) if error.cause == Cause::ClientGone => return Mirrored::Dropped,
            Err(_) => return Mirrored::Failed,
        };
        // Read to its end, so that the connection can be used again.
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            if frame.is_err() {
                return Mirrored::Answered;
            }
        }
        lease.give_back();
        Mirrored::Answered
    }

    /// One request of the proxy's own, one attempt.
    pub(super) async fn call(
        &self,
        downstream: &Arc<W::Downstream>,
        destination: Destination<'_>,
        method: &Method,
        headers: HeaderMap,
        body: RequestBody,
        outgoing: &Outgoing,
    ) -> Result<(Response<Incoming>, Lease<W::Key>), UpstreamError> {
        let candidates = self.world.candidates(downstream, destination.wanted).await?;
        let input = HashInput {
            headers: &headers,
            query: outgoing.target.query(),
            source_ip: downstream.caller().source_ip,
        };
        let choice = Choice { subset: destination.subset, input, tried: &[] };
        let (picked, watch, _) = self.traffic.choose(&candidates, choice)?;
        self.world.permit(downstream, &watch.endpoint).await?;
        let request = written(method, headers, body, outgoing, picked.http2, None);
        let sent = self.pool.send(&*self.world, picked, request).await;
        self.learn(
            &watch,
            match &sent {
                Ok((response, _)) => Some(of_answer(response)),
                Err(failed) => of_failure(failed),
            },
        );
        sent.map_err(|failed| failed.error)
    }
}

/// As Istio names the copy's authority.
fn shadow(authority: &Authority) -> Authority {
    // An address with something behind it would be none.
    if authority.host().starts_with('[') {
        return authority.clone();
    }
    let port = authority.port().map(|port| format!(":{port}")).unwrap_or_default();
    let text = format!("{}-shadow{port}", authority.host());
    text.parse().unwrap_or_else(|_| authority.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_an_authority_of_its_own() {
        for (authority, want) in
            [("a.example", "a.example-shadow"), ("a:81", "a-shadow:81"), ("[::1]:80", "[::1]:80")]
        {
            assert_eq!(shadow(&authority.parse().unwrap()), want);
        }
    }

    #[test]
    fn copies_under_way_are_bounded() {
        let mirrors = Mirrors::default();
        let mut held: Vec<_> = std::iter::from_fn(|| mirrors.begin()).collect();
        assert_eq!(held.len(), UNDER_WAY);
        held.pop();
        assert!(mirrors.begin().is_some());
    }
}
