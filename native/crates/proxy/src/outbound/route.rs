//! From the address that the application dialled to where its connection goes.
use crate::failure::Failure;
use crate::pod::Pod;
use meltemi_capture::{PORT_HBONE, PORT_INBOUND_PLAINTEXT, PORT_OUTBOUND};
use meltemi_state::{
    EndpointAddress, GatewayAddress, GatewayDestination, Resolved, Selection, SelectionRequest, Service,
    Tunnel, Workload,
};
use meltemi_telemetry::Reason;
use meltemi_types::{NamespacedHostname, NetworkAddress};
use std::net::SocketAddr;
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

/// Decides, waiting for discovery until `deadline`. Plaintext needs an explicit answer: what is not known
/// is refused.
pub(crate) async fn route(
    pod: &Pod,
    source: &Arc<Workload>,
    client: SocketAddr,
    destination: SocketAddr,
    deadline: Instant,
) -> Result<Route, Failure> {
    let mesh = &pod.node.mesh;
    let address = NetworkAddress::new(pod.node.settings.network.clone(), destination.ip());
    match mesh.resolve(&address, &pod.info.namespace, deadline).await? {
        Resolved::Negative => Ok(passthrough(destination, None)),
        Resolved::Workload(workload) => match &workload.waypoint {
            Some(waypoint) if !is_behind(waypoint, source) => {
                to_waypoint(pod, source, waypoint, None, client, destination, deadline).await
            }
            _ => to_workload(pod, workload, None, destination),
        },
        Resolved::Service(service) => {
            if let Some(waypoint) = &service.waypoint
                && !is_behind(waypoint, source)
            {
                return to_waypoint(
                    pod,
                    source,
                    waypoint,
                    Some(service.clone()),
                    client,
                    destination,
                    deadline,
                )
                .await;
            }
            to_endpoint(pod, source, service, client, destination, deadline).await
        }
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

async fn to_endpoint(
    pod: &Pod,
    source: &Arc<Workload>,
    service: Arc<Service>,
    client: SocketAddr,
    destination: SocketAddr,
    deadline: Instant,
) -> Result<Route, Failure> {
    let request = SelectionRequest {
        service: &service.key,
        service_port: destination.port(),
        source,
        client: client.ip(),
    };
    let endpoint = match pod.node.mesh.select_endpoint(request).await? {
        Selection::Passthrough(service) => {
            // What is dialled may be a workload's own address: no service makes its connections plaintext.
            let address = NetworkAddress::new(pod.node.settings.network.clone(), destination.ip());
            let Some(workload) = pod.node.mesh.workload_at(&address) else {
                return Ok(passthrough(destination, Some(service)));
            };
            let route = to_workload(pod, workload, Some(service), destination)?;
            return Ok(Route { alternatives: false, ..route });
        }
        Selection::Endpoint(endpoint) => endpoint,
    };
    let ip = match &endpoint.address {
        EndpointAddress::Ip(ip) => *ip,
        EndpointAddress::Hostname(name) => resolve_name(name, endpoint.port, deadline).await?,
        EndpointAddress::NetworkGateway => {
            return Err(Failure::new(
                Reason::NoEndpoint,
                format!("endpoint {} is reached only through a network gateway", endpoint.workload.uid),
            ));
        }
    };
    let target = SocketAddr::new(ip, endpoint.port);
    if let Some(waypoint) = &endpoint.workload.waypoint
        && !is_behind(waypoint, source)
    {
        let waypoint = waypoint.clone();
        return to_waypoint(pod, source, &waypoint, Some(endpoint.service), client, target, deadline).await;
    }
    to_workload(pod, endpoint.workload, Some(endpoint.service), target)
}

async fn resolve_name(name: &str, port: u16, deadline: Instant) -> Result<std::net::IpAddr, Failure> {
    let resolving = tokio::net::lookup_host((name, port));
    match tokio::time::timeout_at(deadline, resolving).await {
        Ok(Ok(mut addresses)) => addresses
            .next()
            .map(|address| address.ip())
            .ok_or_else(|| Failure::new(Reason::NoEndpoint, format!("{name} has no address"))),
        Ok(Err(error)) => Err(Failure::new(Reason::NoEndpoint, format!("{name}: {error}"))),
        Err(_) => Err(Failure::new(Reason::NoEndpoint, format!("{name}: DNS gave no answer in time"))),
    }
}

/// Through the waypoint that the destination asks for. One that cannot be had refuses the connection:
/// going around it would go around its policies.
async fn to_waypoint(
    pod: &Pod,
    source: &Arc<Workload>,
    waypoint: &GatewayAddress,
    service: Option<Arc<Service>>,
    client: SocketAddr,
    target: SocketAddr,
    deadline: Instant,
) -> Result<Route, Failure> {
    let mesh = &pod.node.mesh;
    let missing = |what: String| Failure::new(Reason::NoEndpoint, format!("waypoint {what} is not known"));
    let found = match &waypoint.destination {
        GatewayDestination::Address(address) => {
            match mesh.resolve(address, &pod.info.namespace, deadline).await? {
                Resolved::Workload(workload) => Err((workload, address.ip())),
                Resolved::Service(service) => Ok(service),
                Resolved::Negative => return Err(missing(address.to_string())),
            }
        }
        GatewayDestination::Hostname(name) => Ok(waypoint_service(pod, name, deadline).await?),
    };
    let (workload, ip) = match found {
        Err(direct) => direct,
        Ok(gateway) => {
            let request = SelectionRequest {
                service: &gateway.key,
                service_port: waypoint.hbone_port,
                source,
                client: client.ip(),
            };
            match mesh.select_endpoint(request).await? {
                Selection::Endpoint(endpoint) => match endpoint.address {
                    EndpointAddress::Ip(ip) => (endpoint.workload, ip),
                    _ => return Err(missing(format!("{} (it has no address)", gateway.key))),
                },
                Selection::Passthrough(_) => return Err(missing(gateway.key.to_string())),
            }
        }
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
