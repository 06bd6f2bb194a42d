//! From an answer to what the client is sent.

use super::Core;
use crate::body::{ResponseBody, grpc_status};
use crate::exchange::Exchange;
use crate::filters::{self, Filter};
use crate::hygiene;
use crate::reply::REFUSED;
use crate::route::Timeouts;
use crate::upstream::Lease;
use crate::world::World;
use bytes::Bytes;
use http::header::{HeaderMap, HeaderValue, SET_COOKIE};
use http::{Response, Version};
use hyper::body::Incoming;
use std::hash::Hash;
use std::time::Duration;
use tokio::time::Instant;

/// An endpoint's answer, its headers only.
#[derive(Debug)]
pub(super) struct Sent<K: Hash + Eq> {
    pub(super) response: Response<Incoming>,
    pub(super) lease: Lease<K>,
    /// Until when its body may take.
    pub(super) deadline: Option<Instant>,
    /// The client is to keep this, so that it comes to the same endpoint.
    pub(super) cookie: Option<HeaderValue>,
}

/// What a request is answered with.
#[allow(clippy::large_enum_variant, reason = "the large one is the usual one, and would cost an allocation")]
pub(super) enum Answer<K: Hash + Eq> {
    Own(Response<Bytes>),
    Upstream { sent: Sent<K>, timeouts: Timeouts },
}

impl<K: Hash + Eq> Answer<K> {
    pub(super) fn headers_mut(&mut self) -> &mut HeaderMap {
        match self {
            Self::Own(response) => response.headers_mut(),
            Self::Upstream { sent, .. } => sent.response.headers_mut(),
        }
    }
}

impl<W: World> Core<W> {
    /// The response, whose body tells of the exchange when it is over.
    pub(super) fn respond(
        &self,
        answer: Answer<W::Key>,
        upgraded: hyper::upgrade::OnUpgrade,
        body_idle: Duration,
        mut exchange: Box<Exchange<W>>,
    ) -> Response<ResponseBody<W>> {
        match answer {
            Answer::Own(response) => {
                let (parts, bytes) = response.into_parts();
                exchange.status = parts.status.as_u16();
                exchange.grpc_status = exchange.grpc_status.or(grpc_status(&parts.headers));
                Response::from_parts(parts, ResponseBody::full(bytes, exchange))
            }
            Answer::Upstream { sent: Sent { mut response, lease, deadline, .. }, timeouts } => {
                exchange.status = response.status().as_u16();
                exchange.grpc_status = grpc_status(response.headers());
                if response.status() == http::StatusCode::SWITCHING_PROTOCOLS {
                    let upstream = hyper::upgrade::on(&mut response);
                    let (parts, _) = response.into_parts();
                    self.tasks.spawn(switched(upgraded, upstream, lease));
                    return Response::from_parts(parts, ResponseBody::full(Bytes::new(), exchange));
                }
                let idle = timeouts.idle.unwrap_or(body_idle);
                response.map(|body| ResponseBody::incoming(body, exchange, lease, deadline, Some(idle)))
            }
        }
    }
}

/// Takes from a response what concerns the endpoint's connection, or is this proxy's alone to say.
pub(super) fn clean(response: &mut Response<Incoming>, upgrade: Option<&HeaderValue>) {
    let switched = response.status() == http::StatusCode::SWITCHING_PROTOCOLS && upgrade.is_some();
    let protocol = response.headers().get(http::header::UPGRADE).cloned();
    hygiene::remove_connections_own(response.headers_mut());
    // Only this proxy explains its own refusals.
    response.headers_mut().remove(REFUSED);
    if let (true, Some(protocol)) = (switched, protocol) {
        let headers = response.headers_mut();
        headers.insert(http::header::UPGRADE, protocol);
        headers.insert(http::header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
    *response.version_mut() = Version::HTTP_11;
    response.extensions_mut().remove::<hyper::ext::ReasonPhrase>();
}

/// What the backend's filters and the rule's change, in this order.
pub(super) fn change<K: Hash + Eq>(sent: &mut Sent<K>, of_backend: &[Filter], of_rule: &[Filter]) {
    let headers = sent.response.headers_mut();
    filters::on_response(of_backend, headers);
    filters::on_response(of_rule, headers);
    if let Some(cookie) = sent.cookie.take() {
        headers.append(SET_COOKIE, cookie);
    }
}

/// After 101: bytes, until both sides have ended. The connection is not used for requests again.
async fn switched<K: Hash + Eq>(
    downstream: hyper::upgrade::OnUpgrade,
    upstream: hyper::upgrade::OnUpgrade,
    lease: Lease<K>,
) {
    if let (Ok(downstream), Ok(upstream)) = tokio::join!(downstream, upstream) {
        let mut downstream = hyper_util::rt::TokioIo::new(downstream);
        let mut upstream = hyper_util::rt::TokioIo::new(upstream);
        let relayed = tokio::io::copy_bidirectional(&mut downstream, &mut upstream).await;
        if let Err(error) = relayed {
            tracing::debug!(%error, "upgraded connection broke off");
        }
    }
    drop(lease);
}
