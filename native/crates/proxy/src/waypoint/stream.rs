//! Connections inside a tunnel: what is asked for, and how its bytes are read.
use super::hbone::Peer;
use super::served::{Reading, Served};
use super::world::Client;
use super::{Waypoint, records, tcp};
use crate::failure::Failure;
use http::{Method, StatusCode};
use meltemi_capture::canonical;
use meltemi_http::Core;
use meltemi_http::authorization::{Caller, Scope};
use meltemi_http::route::Parent;
use meltemi_state::{AppProtocol, Resolved, Service, Workload};
use meltemi_telemetry::Reason;
use meltemi_tunnel::{Incoming, Refusal, TunnelIo, parse_forwarded_client};
use meltemi_types::{NetworkAddress, ServiceKey};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::time::Instant;

/// How long callers may be ahead of what discovery tells of a service or workload: that it is, that it is served.
const SETTLING: Duration = Duration::from_secs(1);
/// Ids of HTTP connections, apart from those of records.
const HTTP_IDS: u64 = 1 << 63;

/// A CONNECT that is not carried.
struct Refused {
    status: StatusCode,
    failure: Failure,
}

fn bad(reason: Reason, error: impl ToString) -> Refused {
    Refused { status: StatusCode::BAD_REQUEST, failure: Failure::new(reason, error) }
}

fn away(reason: Reason, error: impl ToString) -> Refused {
    Refused { status: StatusCode::SERVICE_UNAVAILABLE, failure: Failure::new(reason, error) }
}

/// Answers, and explains to peers of ours.
pub(super) fn refuse(incoming: Incoming, status: StatusCode, reason: Reason, policy: Option<&str>) {
    let refusal = Refusal { reason: reason.to_string(), policy: policy.map(str::to_owned) };
    incoming.refuse(status, Some(&refusal));
}

/// Serves one connection inside a tunnel until it ends.
pub(super) async fn serve(
    waypoint: Arc<Waypoint>,
    core: Arc<Core<Waypoint>>,
    peer: Arc<Peer>,
    mut incoming: Incoming,
) {
    let Ok(_place) = waypoint.streams.clone().try_acquire_owned() else {
        waypoint.telemetry.metrics().connection_shed("pod_full");
        return refuse(incoming, StatusCode::SERVICE_UNAVAILABLE, Reason::UpstreamConnectFailed, None);
    };
    let request = Asked {
        method: incoming.parts.method.clone(),
        authority: incoming.parts.uri.authority().map_or_else(String::new, ToString::to_string),
        headers: std::mem::take(&mut incoming.parts.headers),
    };
    let asked = tokio::select! {
        asked = Box::pin(asked(&waypoint, &peer, request)) => asked,
        () = incoming.abandoned() => return,
        () = waypoint.kill.cancelled() => Err(away(Reason::Draining, "the waypoint ends")),
    };
    let (client, reading) = match asked {
        Ok(asked) => asked,
        Err(refused) => {
            tracing::debug!(
                peer = %peer.identity,
                reason = refused.failure.reason.as_str(),
                error = refused.failure.error,
                "connection refused"
            );
            return refuse(incoming, refused.status, refused.failure.reason, None);
        }
    };
    let standing = peer.standing.clone();
    match reading {
        Reading::Tcp => tcp::serve(&waypoint, &core, client, standing, incoming).await,
        Reading::Http { http2_only, .. } => {
            if standing.check(waypoint.certificates.trust()).is_err() {
                return refuse(incoming, StatusCode::UNAUTHORIZED, Reason::TrustChanged, None);
            }
            let id = HTTP_IDS | waypoint.next_http.fetch_add(1, Relaxed);
            let mut tracked = waypoint.connections.track(id, &waypoint.name, None, Some(standing));
            let Ok(stream) = incoming.accept() else { return };
            let io = TunnelIo::from(stream);
            let client = Arc::new(client);
            tokio::select! {
                served = Box::pin(meltemi_http::serve(&core, io, client, http2_only, &waypoint.drain)) => {
                    if let Err(error) = served {
                        tracing::debug!(error, peer = %peer.identity, "http connection ended");
                    }
                }
                closed = tracked.closed() => {
                    tracing::debug!(error = closed.error, peer = %peer.identity, "http connection closed");
                }
                () = waypoint.kill.cancelled() => {}
            }
        }
    }
}

/// A CONNECT's request, without what answers it.
struct Asked {
    method: Method,
    authority: String,
    headers: http::HeaderMap,
}

/// Whom a connection comes from and what it is for.
async fn asked(waypoint: &Waypoint, peer: &Peer, request: Asked) -> Result<(Client, Reading), Refused> {
    let Asked { method, authority, headers } = request;
    if method != Method::CONNECT {
        return Err(bad(Reason::PeerBadRequest, format!("{method} instead of CONNECT")));
    }
    let deadline = Instant::now() + waypoint.settings.connect_timeout;
    let own = waypoint.own_workload(peer.local.ip(), deadline).await.ok_or_else(|| {
        away(Reason::UnknownDestination, "discovery has not told of this waypoint itself yet")
    })?;
    let (what, asked_ip, port) = destination(waypoint, peer, &authority, deadline).await?;
    let settled = deadline.min(Instant::now() + SETTLING);
    let name = what.name();
    let served = waypoint.served.wait_for(name, settled).await;
    let served = served
        .ok_or_else(|| bad(Reason::UnknownDestination, format!("{name} is not served by this waypoint")))?;
    let reading = what.reading(&served, port)?;
    let (service, workload) = match what {
        What::Service(service) => (Some(service), None),
        What::Workload(workload) => (None, Some(workload)),
    };
    let (parent, scope) = match (&service, &workload) {
        (Some(service), _) => (Parent::Service(service.key.clone()), Scope::Service(service.key.clone())),
        (None, workload) => {
            let uid = workload.as_ref().map(|workload| workload.uid.text().clone()).unwrap_or_default();
            (Parent::Workload(uid.clone()), Scope::Workload(uid))
        }
    };
    let told = parse_forwarded_client(&headers).map(canonical);
    // Only the port is taken over, and only beside the address that the tunnel proves.
    let address = told.filter(|told| told.ip() == peer.address.ip()).unwrap_or(peer.address);
    let source = NetworkAddress::new(waypoint.settings.network.clone(), address.ip());
    let source = waypoint.mesh.workload_at(&source).filter(|workload| workload.identity == peer.identity);
    let client = Client {
        address,
        identity: peer.identity.clone(),
        caller: Caller {
            identity: Some(peer.identity.clone()),
            source_ip: address.ip(),
            remote_ip: address.ip(),
        },
        baggage: headers.get("baggage").cloned(),
        source_labels: records::source(source.as_deref(), &headers, &peer.identity),
        source,
        authority: authority.into(),
        asked_ip,
        port,
        service,
        workload,
        parent,
        scopes: [Scope::Waypoint, scope].into(),
        itself: std::sync::OnceLock::new(),
        http2_backend: matches!(reading, Reading::Http { http2_backend: true, .. }),
        own,
    };
    Ok((client, reading))
}

enum What {
    Service(Arc<Service>),
    Workload(Arc<Workload>),
}

impl What {
    fn name(&self) -> &str {
        match self {
            Self::Service(service) => service.key.as_str(),
            Self::Workload(workload) => workload.uid.as_str(),
        }
    }

    /// As told for the port; else as the object's own ports say.
    fn reading(&self, served: &Served, port: u16) -> Result<Reading, Refused> {
        if let Some(reading) = served.reading(port) {
            return Ok(reading);
        }
        let protocol = match self {
            Self::Service(service) => {
                service.port(port).map(|mapping| mapping.app_protocol).ok_or_else(|| {
                    bad(Reason::UnknownDestination, format!("service {} has no port {port}", service.key))
                })?
            }
            Self::Workload(workload) => {
                let mut ports = workload.services.iter().flat_map(|entry| entry.ports.iter());
                let mapping = ports.find(|mapping| mapping.target_port == Some(port));
                mapping.map_or(AppProtocol::Unknown, |mapping| mapping.app_protocol)
            }
        };
        Ok(match protocol {
            AppProtocol::Http11 => Reading::Http { http2_only: false, http2_backend: false },
            AppProtocol::Http2 | AppProtocol::Grpc => Reading::Http { http2_only: true, http2_backend: true },
            AppProtocol::Tcp | AppProtocol::Tls | AppProtocol::Unknown => Reading::Tcp,
        })
    }
}

/// `ip:port` of a service or workload, or `host:port` of a service that is served here.
async fn destination(
    waypoint: &Waypoint,
    peer: &Peer,
    authority: &str,
    deadline: Instant,
) -> Result<(What, IpAddr, u16), Refused> {
    let mesh = &waypoint.mesh;
    let unknown = |error: &dyn std::fmt::Display| away(Reason::UnknownDestination, error.to_string());
    if let Ok(address) = authority.parse::<SocketAddr>().map(canonical) {
        if address.ip() == peer.local.ip() {
            return Err(bad(Reason::Loop, format!("{address} is the waypoint itself")));
        }
        let at = NetworkAddress::new(waypoint.settings.network.clone(), address.ip());
        let settled = deadline.min(Instant::now() + SETTLING);
        let mut changes = mesh.changes();
        let what = loop {
            match mesh.resolve(&at, peer.identity.namespace(), deadline).await {
                Ok(Resolved::Service(service)) => break What::Service(service),
                Ok(Resolved::Workload(workload)) => break What::Workload(workload),
                Ok(Resolved::Negative) => {
                    if !matches!(tokio::time::timeout_at(settled, changes.changed()).await, Ok(Ok(()))) {
                        let error = format!("{address} is nothing that this waypoint knows of");
                        return Err(bad(Reason::UnknownDestination, error));
                    }
                }
                Err(error) => return Err(unknown(&error)),
            }
        };
        return Ok((what, address.ip(), address.port()));
    }
    let malformed = || bad(Reason::PeerBadRequest, format!("{authority:?} is neither ip:port nor host:port"));
    let (host, port) = authority.rsplit_once(':').ok_or_else(malformed)?;
    let port = port.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(malformed)?;
    let not_served =
        || bad(Reason::UnknownDestination, format!("{host:?} is no service that this waypoint serves"));
    let key = waypoint.served.service_named(&host.to_ascii_lowercase()).ok_or_else(not_served)?;
    let key = ServiceKey::new(key).map_err(|error| unknown(&error))?;
    let service = mesh.resolve_service(&key, deadline).await.map_err(|error| unknown(&error))?;
    let service = service.ok_or_else(not_served)?;
    let ip = service.addresses.first().map_or(peer.local.ip(), NetworkAddress::ip);
    Ok((What::Service(service), ip, port))
}
