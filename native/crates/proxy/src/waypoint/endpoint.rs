//! Which endpoint a request or connection goes to, whether the caller may, and the way there.
use super::Waypoint;
use super::world::Client;
use crate::failure::Failure;
use crate::labels;
use http::{HeaderMap, HeaderName, HeaderValue};
use meltemi_capture::PORT_HBONE;
use meltemi_http::{Cause, UpstreamError};
use meltemi_policy::{ConnectionFacts, Decision, Effect};
use meltemi_state::{EndpointAddress, ResolveError, Selection, SelectionRequest, Service, Tunnel, Workload};
use meltemi_telemetry::Reason;
use meltemi_tunnel::{OpenRequest, PoolKey, TraceParent, TunnelIo, forwarded};
use meltemi_types::{ClientAddress, ServiceKey};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Says at the endpoint that a waypoint is before it (ambient's wire contract).
const SOURCE: HeaderName = HeaderName::from_static("x-istio-source");
/// The original caller's SPIFFE id, for nodes that know the waypoint to be the endpoint's.
const CALLER: HeaderName = HeaderName::from_static("x-meltemi-caller");

/// A workload and its port, or what a service that makes no choice was dialled at.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) workload: Arc<Workload>,
    pub(crate) service: Option<Arc<Service>>,
    /// Of the workload itself.
    pub(crate) address: SocketAddr,
    /// Another one may be tried instead.
    pub(crate) alternatives: bool,
}

/// Why an endpoint cannot be had: for a request's answer, and for a connection's record.
#[derive(Debug)]
pub(crate) struct Unreached {
    pub(crate) cause: Cause,
    pub(crate) failure: Failure,
    pub(crate) policy: Option<Arc<str>>,
    pub(crate) another: bool,
}

impl Unreached {
    pub(super) fn new(cause: Cause, reason: Reason, error: impl ToString) -> Self {
        Self { cause, failure: Failure::new(reason, error), policy: None, another: false }
    }
}

impl From<Unreached> for UpstreamError {
    fn from(unreached: Unreached) -> Self {
        let policy = unreached.policy.or(unreached.failure.peer_policy);
        Self { cause: unreached.cause, message: unreached.failure.error, policy, another: unreached.another }
    }
}

impl From<ResolveError> for Unreached {
    fn from(error: ResolveError) -> Self {
        Self::new(Cause::NoEndpoint, Reason::UnknownDestination, error)
    }
}

impl Waypoint {
    /// Chooses an endpoint for a connection and judges the caller by its L4 policies.
    /// `tried`: addresses that were not reached before.
    pub(crate) async fn endpoint(&self, client: &Client, tried: &[IpAddr]) -> Result<Endpoint, Unreached> {
        let deadline = Instant::now() + self.settings.connect_timeout;
        let endpoint = match (&client.service, &client.workload) {
            (Some(service), _) => self.select(client, &service.key, client.port, tried).await?,
            (None, Some(workload)) => Endpoint {
                workload: workload.clone(),
                service: None,
                address: SocketAddr::new(client.asked_ip, client.port),
                alternatives: false,
            },
            (None, None) => {
                return Err(Unreached::new(Cause::NoEndpoint, Reason::NoEndpoint, "nothing was asked for"));
            }
        };
        self.judge(client, &endpoint, deadline).await?;
        Ok(endpoint)
    }

    async fn select(
        &self,
        client: &Client,
        service: &ServiceKey,
        port: u16,
        tried: &[IpAddr],
    ) -> Result<Endpoint, Unreached> {
        let none = |error: String| Unreached::new(Cause::NoEndpoint, Reason::NoEndpoint, error);
        let request = SelectionRequest {
            service,
            service_port: port,
            source: &client.own,
            client: client.caller_ip(),
            tried,
        };
        let selected = self.mesh.select_endpoint(request).await.map_err(|error| none(error.to_string()))?;
        let Selection::Endpoint(chosen) = selected else {
            return Err(none(format!("{service} leaves the choice to its callers, and a waypoint has none")));
        };
        let EndpointAddress::Ip(ip) = chosen.address else {
            return Err(none(format!("endpoint {} has no address of its own", chosen.workload.uid)));
        };
        if *chosen.workload.network != *self.settings.network {
            return Err(none(format!("endpoint {} is on another network", chosen.workload.uid)));
        }
        Ok(Endpoint {
            workload: chosen.workload,
            service: Some(chosen.service),
            address: SocketAddr::new(ip, chosen.port),
            alternatives: true,
        })
    }

    /// L4 policies keep their meaning behind a waypoint: they judge the caller, not the waypoint.
    pub(super) async fn judge(
        &self,
        client: &Client,
        endpoint: &Endpoint,
        deadline: Instant,
    ) -> Result<(), Unreached> {
        let facts = client.facts(endpoint.address);
        let mut policies = self.mesh.policies_for(&endpoint.workload);
        if !policies.is_complete() {
            policies = self.mesh.await_policies_for(&endpoint.workload, deadline).await;
        }
        let verdict = policies.evaluate(&facts);
        let metrics = self.telemetry.metrics();
        for reported in &verdict.reported {
            let action = if reported.effect == Effect::Audit { "audit" } else { "dry-run" };
            metrics.policy_match(reported.policy.key.text(), action);
        }
        match &verdict.decision {
            Decision::Allow { policy } => {
                if let Some(policy) = policy {
                    metrics.policy_match(policy.key.text(), "allow");
                }
                Ok(())
            }
            Decision::Deny(reason) => {
                if let Some(key) = verdict.policy() {
                    metrics.policy_match(key.text(), "deny");
                }
                let refused = Unreached::new(Cause::PolicyDenied, Reason::PolicyDenied, reason);
                Err(Unreached { policy: verdict.explanation(), ..refused })
            }
        }
    }

    /// Connects: through a tunnel where the endpoint is in the mesh. `on_behalf_of`: the caller of a connection
    /// that is this caller's alone.
    pub(crate) async fn reach(
        &self,
        endpoint: &Endpoint,
        own: &Workload,
        on_behalf_of: Option<&Client>,
    ) -> Result<Io, Unreached> {
        let Endpoint { workload, service, address, alternatives } = endpoint;
        let unreached = |failure: Failure| {
            let another = *alternatives && failure.is_endpoints();
            let cause = match failure.reason {
                Reason::PeerRefused | Reason::PeerBadRequest => Cause::PeerRefused,
                Reason::UpstreamTimeout => Cause::UpstreamTimeout,
                _ => Cause::UpstreamConnectFailed,
            };
            Unreached { cause, failure, policy: None, another }
        };
        if workload.tunnel == Tunnel::None {
            let tcp = super::dial::connect(&self.settings, *address).await;
            return match tcp {
                Ok(tcp) => Ok(Io::Plain(tcp)),
                Err(error) => Err(unreached(meltemi_tunnel::OpenError::from(error).into())),
            };
        }
        let names = service.iter().flat_map(|service| service.subject_alt_names.iter().cloned());
        let own_ip = own.ips.iter().copied().find(|ip| ip.is_ipv4() == address.is_ipv4());
        let key = PoolKey {
            source: self.identity.uri().into(),
            source_ip: own_ip.unwrap_or(address.ip()),
            destinations: std::iter::once(Arc::from(workload.identity.uri())).chain(names).collect(),
            address: SocketAddr::new(address.ip(), PORT_HBONE),
            workload: workload.uid.text().clone(),
        };
        let host = service.as_ref().map(|service| &*service.hostname);
        let request = OpenRequest {
            authority: address.to_string(),
            baggage: match on_behalf_of {
                Some(client) => client.baggage.clone(),
                None => labels::baggage(own),
            },
            forwarded: on_behalf_of.and_then(|client| forwarded(client.address, host)),
            trace: TraceParent::new(),
        };
        let mut further = HeaderMap::new();
        further.insert(SOURCE, HeaderValue::from_static("waypoint"));
        let caller = on_behalf_of.and_then(|client| HeaderValue::from_str(client.identity.uri()).ok());
        if let Some(caller) = caller {
            further.insert(CALLER, caller);
        }
        let trust = self.certificates.trust();
        let opened = self.pool.open_with(&key, &request, &further).await;
        let (stream, peer) = opened.map_err(|error| unreached(error.into()))?;
        if peer.check(trust).is_ok() {
            return Ok(Io::Tunnel(stream.into()));
        }
        // The peer may have a new certificate by now.
        drop(stream);
        self.pool.retire();
        let opened = self.pool.open_with(&key, &request, &further).await;
        let (stream, peer) = opened.map_err(|error| unreached(error.into()))?;
        peer.check(trust).map_err(|error| unreached(Failure::new(Reason::TlsFailed, error)))?;
        Ok(Io::Tunnel(stream.into()))
    }
}

impl Client {
    /// What L4 policies of an endpoint look at.
    pub(crate) fn facts(&self, destination: SocketAddr) -> ConnectionFacts {
        ConnectionFacts::new(ClientAddress::new(self.address), Some(self.identity.clone()), destination)
    }
}

/// The way to an endpoint.
#[derive(Debug)]
pub(crate) enum Io {
    Tunnel(TunnelIo),
    Plain(TcpStream),
}

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tunnel(io) => Pin::new(io).poll_read(cx, buffer),
            Self::Plain(io) => Pin::new(io).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tunnel(io) => Pin::new(io).poll_write(cx, bytes),
            Self::Plain(io) => Pin::new(io).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tunnel(io) => Pin::new(io).poll_flush(cx),
            Self::Plain(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tunnel(io) => Pin::new(io).poll_shutdown(cx),
            Self::Plain(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}
