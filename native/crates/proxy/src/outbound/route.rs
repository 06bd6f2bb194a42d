//! From the address that the application dialled to where its connection goes.
use crate::failure::Failure;
use crate::pod::{Pod, PodInfo};
use meltemi_capture::{PORT_HBONE, PORT_INBOUND_PLAINTEXT, PORT_OUTBOUND};
use meltemi_state::{
    EndpointAddress, GatewayAddress, GatewayDestination, IpFamilies, Mesh, ResolveError, Resolved, Selection,
    SelectionRequest, Service, Tunnel, Workload,
};
use meltemi_telemetry::Reason;
use meltemi_types::{NamespacedHostname, NetworkAddress, ServiceKey};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use tokio::time::Instant;

/// How the next hop is spoken to.
#[derive(Debug, Clone)]
pub(crate) enum Hop {
    /// As the application spoke.
    Plain(SocketAddr),
    /// Through a tunnel to `address`, with `authority` in the CONNECT.
    Hbone { address: SocketAddr, authority: SocketAddr },
}

impl Hop {
    /// What is connected to.
    pub(crate) fn address(&self) -> SocketAddr {
        match *self {
            Self::Plain(address) | Self::Hbone { address, .. } => address,
        }
    }
}

/// Where a connection goes.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    pub(crate) hop: Hop,
    /// The workload that is connected to: the destination or its waypoint. `None`: outside the mesh.
    pub(crate) workload: Option<Arc<Workload>>,
    pub(crate) service: Option<Arc<Service>>,
    /// Another endpoint may be chosen if this one cannot be reached.
    pub(crate) alternatives: bool,
    /// The port of the workload, for the record of its health.
    pub(crate) port: u16,
    /// The workload is a waypoint on the way to the service, not one of its endpoints.
    pub(crate) waypoint: bool,
}

fn is_proxy_port(port: u16) -> bool {
    matches!(port, PORT_OUTBOUND | PORT_INBOUND_PLAINTEXT | PORT_HBONE)
}

/// True where a pod dials the data plane itself.
pub(crate) fn is_loop(destination: SocketAddr, client: SocketAddr, own: &Workload) -> bool {
    let ip = destination.ip();
    is_proxy_port(destination.port())
        && (ip.is_loopback() || ip.is_unspecified() || ip == client.ip() || own.ips.contains(&ip))
}

/// A captured connection that looks for its way.
#[derive(Clone, Copy)]
pub(crate) struct Traveller<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) source: &'a Arc<Workload>,
    pub(crate) client: SocketAddr,
    /// As the application dialled.
    pub(crate) destination: SocketAddr,
    pub(crate) deadline: Instant,
    /// Endpoints' addresses that were not reached.
    pub(crate) tried: &'a [IpAddr],
}

impl Traveller<'_> {
    fn mesh(&self) -> &Mesh {
        &self.pod.node.mesh
    }

    fn address(&self) -> NetworkAddress {
        NetworkAddress::new(self.pod.node.settings.network.clone(), self.destination.ip())
    }

    /// Asked on behalf of the pod.
    async fn resolve(&self, address: &NetworkAddress) -> Result<Resolved, ResolveError> {
        let PodInfo { uid, namespace, .. } = &self.pod.info;
        self.mesh().resolve_for(uid, address, namespace, self.deadline).await
    }

    async fn endpoint(&self, service: &ServiceKey, service_port: u16) -> Result<Selection, Failure> {
        let request = SelectionRequest {
            service,
            service_port,
            source: self.source,
            client: self.client.ip(),
            tried: self.tried,
        };
        Ok(self.mesh().select_endpoint(request).await?)
    }

    /// A workload's waypoint that the connection has yet to pass.
    fn waypoint<'w>(&self, waypoint: &'w Option<Arc<GatewayAddress>>) -> Option<&'w Arc<GatewayAddress>> {
        waypoint.as_ref().filter(|waypoint| !is_behind(waypoint, self.source))
    }
}

/// Decides, waiting for discovery until the deadline. Plaintext needs an explicit answer: what is not known
/// is refused.
pub(crate) async fn route(traveller: Traveller<'_>) -> Result<Route, Failure> {
    let Traveller { pod, destination, .. } = traveller;
    match traveller.resolve(&traveller.address()).await? {
        Resolved::Negative => Ok(passthrough(destination, None)),
        Resolved::Workload(workload) => match traveller.waypoint(&workload.waypoint) {
            Some(waypoint) => to_waypoint(traveller, waypoint, None, destination).await,
            None => to_workload(pod, workload, None, destination),
        },
        Resolved::Service(service) => match traveller.waypoint(&service.waypoint) {
            Some(waypoint) => to_waypoint(traveller, waypoint, Some(service.clone()), destination).await,
            None => to_endpoint(traveller, service).await,
        },
    }
}

fn passthrough(destination: SocketAddr, service: Option<Arc<Service>>) -> Route {
    Route {
        hop: Hop::Plain(destination),
        workload: None,
        service,
        alternatives: false,
        port: destination.port(),
        waypoint: false,
    }
}

/// A waypoint's own connections do not pass itself again.
fn is_behind(waypoint: &GatewayAddress, source: &Workload) -> bool {
    match &waypoint.destination {
        GatewayDestination::Address(address) => source.ips.contains(&address.ip()),
        GatewayDestination::Hostname(name) => {
            source.services.iter().any(|entry| entry.service.as_str() == name.as_str())
        }
    }
}

fn to_workload(
    pod: &Pod,
    workload: Arc<Workload>,
    service: Option<Arc<Service>>,
    target: SocketAddr,
) -> Result<Route, Failure> {
    if *workload.network != *pod.node.settings.network {
        return Err(Failure::new(
            Reason::NoEndpoint,
            format!(
                "workload {} is on network {:?}, reached only through a gateway",
                workload.uid, workload.network
            ),
        ));
    }
    let hop = match workload.tunnel {
        Tunnel::Hbone => Hop::Hbone { address: SocketAddr::new(target.ip(), PORT_HBONE), authority: target },
        Tunnel::None => Hop::Plain(target),
    };
    let alternatives = service.is_some();
    Ok(Route { hop, workload: Some(workload), service, alternatives, port: target.port(), waypoint: false })
}

async fn to_endpoint(traveller: Traveller<'_>, service: Arc<Service>) -> Result<Route, Failure> {
    let Traveller { pod, destination, .. } = traveller;
    let endpoint = match traveller.endpoint(&service.key, destination.port()).await? {
        Selection::Passthrough(service) => {
            // What is dialled may be a workload's own address: no service makes its connections plaintext.
            let Some(workload) = traveller.mesh().workload_at(&traveller.address()) else {
                return Ok(passthrough(destination, Some(service)));
            };
            let route = to_workload(pod, workload, Some(service), destination)?;
            return Ok(Route { alternatives: false, ..route });
        }
        Selection::Endpoint(endpoint) => endpoint,
    };
    let ip = match &endpoint.address {
        EndpointAddress::Ip(ip) => *ip,
        EndpointAddress::Hostname(name) => {
            resolve_name(traveller, name, endpoint.port, service.ip_families).await?
        }
        EndpointAddress::NetworkGateway => {
            return Err(Failure::new(
                Reason::NoEndpoint,
                format!("endpoint {} is reached only through a network gateway", endpoint.workload.uid),
            ));
        }
    };
    let target = SocketAddr::new(ip, endpoint.port);
    match traveller.waypoint(&endpoint.workload.waypoint) {
        Some(waypoint) => to_waypoint(traveller, waypoint, Some(endpoint.service), target).await,
        None => to_workload(pod, endpoint.workload, Some(endpoint.service), target),
    }
}

/// The first address in the order in which DNS gave them, of the client's own family if there is one.
async fn resolve_name(
    traveller: Traveller<'_>,
    name: &str,
    port: u16,
    families: IpFamilies,
) -> Result<IpAddr, Failure> {
    let none = |why: String| Failure::new(Reason::NoEndpoint, format!("{name}{why}"));
    let resolving = tokio::net::lookup_host((name, port));
    match tokio::time::timeout_at(traveller.deadline, resolving).await {
        Ok(Ok(addresses)) => addresses
            .map(|address| address.ip().to_canonical())
            .filter(|ip| families.accepts(*ip))
            .min_by_key(|ip| (traveller.tried.contains(ip), ip.is_ipv4() != traveller.client.is_ipv4()))
            .ok_or_else(|| none(" has no address".to_owned())),
        Ok(Err(error)) => Err(none(format!(": {error}"))),
        Err(_) => Err(none(": DNS gave no answer in time".to_owned())),
    }
}

/// Through the waypoint that the destination asks for. One that cannot be had refuses the connection:
/// going around it would go around its policies.
async fn to_waypoint(
    traveller: Traveller<'_>,
    waypoint: &GatewayAddress,
    service: Option<Arc<Service>>,
    target: SocketAddr,
) -> Result<Route, Failure> {
    let Traveller { pod, deadline, .. } = traveller;
    let missing = |what: String| Failure::new(Reason::NoEndpoint, format!("waypoint {what} is not known"));
    let found = match &waypoint.destination {
        GatewayDestination::Address(address) => match traveller.resolve(address).await? {
            Resolved::Workload(workload) => Err((workload, address.ip())),
            Resolved::Service(service) => Ok(service),
            Resolved::Negative => return Err(missing(address.to_string())),
        },
        GatewayDestination::Hostname(name) => Ok(waypoint_service(pod, name, deadline).await?),
    };
    let (workload, ip) = match found {
        Err(direct) => direct,
        Ok(gateway) => match traveller.endpoint(&gateway.key, waypoint.hbone_port).await? {
            Selection::Endpoint(endpoint) => match endpoint.address {
                EndpointAddress::Ip(ip) => (endpoint.workload, ip),
                _ => return Err(missing(format!("{} (it has no address)", gateway.key))),
            },
            Selection::Passthrough(_) => return Err(missing(gateway.key.to_string())),
        },
    };
    Ok(Route {
        hop: Hop::Hbone { address: SocketAddr::new(ip, waypoint.hbone_port), authority: target },
        workload: Some(workload),
        service,
        alternatives: true,
        port: waypoint.hbone_port,
        waypoint: true,
    })
}

async fn waypoint_service(
    pod: &Pod,
    name: &NamespacedHostname,
    deadline: Instant,
) -> Result<Arc<Service>, Failure> {
    let service = pod.node.mesh.resolve_service(name, deadline).await?;
    service.ok_or_else(|| Failure::new(Reason::NoEndpoint, format!("waypoint {name} does not exist")))
}
