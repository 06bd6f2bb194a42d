//! From the wire to workloads and services: everything is understood, or the resource is refused.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use meltemi_policy::PolicyError;
use meltemi_types::meltemi::{ServiceExtension, service_extension};
use meltemi_types::workload::{self as wire, gateway_address, load_balancing};
use meltemi_types::{
    AddressError, Cidr, IdentityError, NameError, NamespacedHostname, NetworkAddress, PolicyKey, ServiceKey,
    WorkloadUid,
};
use prost::Message;

use crate::intern::Pools;
use crate::service::{
    Affinity, BalanceMode, BalanceScope, IpFamilies, LoadBalancing, Service, WeightedWaypoint,
};
use crate::workload::{
    AppProtocol, ApplicationTunnel, GatewayAddress, GatewayDestination, Locality, PortMapping, ServicePorts,
    Tunnel, Workload, WorkloadKind,
};

const DEFAULT_TRUST_DOMAIN: &str = "cluster.local";
const DEFAULT_SERVICE_ACCOUNT: &str = "default";
const SERVICE_EXTENSION: &str = "meltemi.v1.ServiceExtension";
/// Kubernetes' default of sessionAffinityConfig.clientIP.timeoutSeconds.
const DEFAULT_AFFINITY_TIMEOUT_S: u32 = 10_800;

/// Why a resource is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResourceError {
    #[error("the message is cut off or is of another type: {0}")]
    Encoding(#[from] prost::DecodeError),
    #[error("the address is neither a workload nor a service")]
    Empty,
    #[error("the resource is named `{resource}` and describes `{content}`")]
    NameMismatch { resource: String, content: String },
    #[error("{field}: {problem}")]
    Field { field: &'static str, problem: String },
    #[error("identity: {0}")]
    Identity(#[from] IdentityError),
    #[error("{0}")]
    Name(#[from] NameError),
    #[error("{0}")]
    Policy(#[from] PolicyError),
}

fn bad(field: &'static str, problem: impl ToString) -> ResourceError {
    ResourceError::Field { field, problem: problem.to_string() }
}

fn unknown(field: &'static str, value: i32) -> ResourceError {
    bad(field, format!("unknown value {value}; this proxy may be older than its control plane"))
}

#[derive(Debug)]
pub(crate) enum Decoded {
    Workload(Arc<Workload>),
    Service(Arc<Service>),
}

/// Decodes an `istio.workload.Address` and checks that it is what its resource name says.
pub(crate) fn address(name: &str, body: &[u8], pools: &mut Pools) -> Result<Decoded, ResourceError> {
    let decoded = match wire::Address::decode(body)?.r#type.ok_or(ResourceError::Empty)? {
        wire::address::Type::Workload(workload) => {
            Decoded::Workload(Arc::new(decode_workload(workload, pools)?))
        }
        wire::address::Type::Service(service) => Decoded::Service(Arc::new(decode_service(service, pools)?)),
    };
    let content = match &decoded {
        Decoded::Workload(workload) => workload.uid.as_str(),
        Decoded::Service(service) => service.key.as_str(),
    };
    if content != name {
        return Err(ResourceError::NameMismatch { resource: name.into(), content: content.into() });
    }
    Ok(decoded)
}

fn decode_workload(wire: wire::Workload, pools: &mut Pools) -> Result<Workload, ResourceError> {
    let or = |text: &str, default: &str| if text.is_empty() { default.to_owned() } else { text.to_owned() };
    let identity = pools.identity(format!(
        "spiffe://{}/ns/{}/sa/{}",
        or(&wire.trust_domain, DEFAULT_TRUST_DOMAIN),
        wire.namespace,
        or(&wire.service_account, DEFAULT_SERVICE_ACCOUNT),
    ))?;
    let ips: Box<[IpAddr]> =
        wire.addresses.iter().map(|bytes| ip("addresses", bytes)).collect::<Result<_, _>>()?;
    let mut services = wire
        .services
        .iter()
        .map(|(key, list)| {
            Ok(ServicePorts {
                service: service_key(key, pools)?,
                ports: ports("services", &list.ports, pools)?,
            })
        })
        .collect::<Result<Vec<_>, ResourceError>>()?;
    services.sort_by(|a, b| a.service.cmp(&b.service));
    let mut policies = wire
        .authorization_policies
        .iter()
        .map(|key| Ok(PolicyKey::new(pools.text(key))?))
        .collect::<Result<Vec<_>, ResourceError>>()?;
    policies.sort();
    policies.dedup();
    let locality = wire.locality.unwrap_or_default();
    let locality = Locality {
        region: pools.text(&locality.region),
        zone: pools.text(&locality.zone),
        subzone: pools.text(&locality.subzone),
    };
    Ok(Workload {
        uid: WorkloadUid::new(wire.uid)?,
        name: wire.name.into(),
        namespace: pools.text(&wire.namespace),
        ips,
        hostname: pools.text(&wire.hostname),
        network: pools.text(&wire.network),
        tunnel: match wire::TunnelProtocol::try_from(wire.tunnel_protocol) {
            Ok(wire::TunnelProtocol::None) => Tunnel::None,
            Ok(wire::TunnelProtocol::Hbone) => Tunnel::Hbone,
            // A sidecar's listener: its plain port takes what its own policy permits.
            Ok(wire::TunnelProtocol::LegacyIstioMtls) => Tunnel::None,
            Err(_) => return Err(unknown("tunnel_protocol", wire.tunnel_protocol)),
        },
        identity,
        waypoint: gateway("waypoint", wire.waypoint, pools)?,
        network_gateway: gateway("network_gateway", wire.network_gateway, pools)?,
        node: pools.text(&wire.node),
        canonical_name: pools.text(&wire.canonical_name),
        canonical_revision: pools.text(&wire.canonical_revision),
        kind: match wire::WorkloadType::try_from(wire.workload_type) {
            Ok(wire::WorkloadType::Deployment) => WorkloadKind::Deployment,
            Ok(wire::WorkloadType::Cronjob) => WorkloadKind::Cronjob,
            Ok(wire::WorkloadType::Pod) => WorkloadKind::Pod,
            Ok(wire::WorkloadType::Job) => WorkloadKind::Job,
            Err(_) => return Err(unknown("workload_type", wire.workload_type)),
        },
        workload_name: pools.text(&wire.workload_name),
        native_tunnel: wire.native_tunnel,
        application_tunnel: wire.application_tunnel.map(application_tunnel).transpose()?,
        services: pools.services(services),
        policies: pools.policies(policies),
        healthy: match wire::WorkloadStatus::try_from(wire.status) {
            Ok(wire::WorkloadStatus::Healthy) => true,
            Ok(wire::WorkloadStatus::Unhealthy) => false,
            Err(_) => return Err(unknown("status", wire.status)),
        },
        cluster_id: pools.text(&wire.cluster_id),
        locality: pools.locality(locality),
        host_network: match wire::NetworkMode::try_from(wire.network_mode) {
            Ok(wire::NetworkMode::Standard) => false,
            Ok(wire::NetworkMode::HostNetwork) => true,
            Err(_) => return Err(unknown("network_mode", wire.network_mode)),
        },
        capacity: wire.capacity.unwrap_or(1),
        last_used: AtomicU32::new(0),
    })
}

fn decode_service(wire: wire::Service, pools: &mut Pools) -> Result<Service, ResourceError> {
    let extension = service_extension(&wire.extensions)?;
    let mut addresses = Vec::new();
    let mut ranges = Vec::new();
    for address in &wire.addresses {
        let network = pools.text(&address.network);
        let ip = ip("addresses", &address.address)?;
        // The length is of the notation sent, which an IPv4-mapped address shortens.
        let full = address.address.len() as u32 * 8;
        match address.length {
            Some(length) if length != full => ranges.push((
                network,
                Cidr::from_bytes(&address.address, length).map_err(|e| bad("addresses", e))?,
            )),
            _ => addresses.push(NetworkAddress::new(network, ip)),
        }
    }
    let affinity = match service_extension::Affinity::try_from(extension.session_affinity) {
        Ok(service_extension::Affinity::None) => None,
        Ok(service_extension::Affinity::ClientIp) => {
            let seconds = match extension.affinity_timeout_seconds {
                0 => DEFAULT_AFFINITY_TIMEOUT_S,
                seconds => seconds,
            };
            Some(Affinity { timeout: Duration::from_secs(seconds.into()) })
        }
        Err(_) => return Err(unknown("session_affinity", extension.session_affinity)),
    };
    Ok(Service {
        key: ServiceKey::new(pools.text(&format!("{}/{}", wire.namespace, wire.hostname)))?,
        name: pools.text(&wire.name),
        namespace: pools.text(&wire.namespace),
        hostname: pools.text(&wire.hostname),
        addresses: addresses.into(),
        ranges: ranges.into(),
        ports: ports("ports", &wire.ports, pools)?,
        subject_alt_names: wire.subject_alt_names.iter().map(|name| pools.text(name)).collect(),
        waypoint: gateway("waypoint", wire.waypoint, pools)?,
        weighted_waypoints: wire
            .weighted_waypoints
            .into_iter()
            .map(|entry| match gateway("weighted_waypoints", entry.destination, pools)? {
                Some(destination) => Ok(WeightedWaypoint { destination, weight: entry.weight }),
                None => Err(bad("weighted_waypoints", "an entry has no destination")),
            })
            .collect::<Result<_, _>>()?,
        load_balancing: load_balancing(wire.load_balancing)?,
        ip_families: match wire::IpFamilies::try_from(wire.ip_families) {
            Ok(wire::IpFamilies::Automatic) => IpFamilies::Automatic,
            Ok(wire::IpFamilies::Ipv4Only) => IpFamilies::Ipv4,
            Ok(wire::IpFamilies::Ipv6Only) => IpFamilies::Ipv6,
            Ok(wire::IpFamilies::Dual) => IpFamilies::Dual,
            Err(_) => return Err(unknown("ip_families", wire.ip_families)),
        },
        affinity,
        headless: extension.headless,
        canonical: wire.canonical,
        ingress_use_waypoint: wire.ingress_use_waypoint,
        namespace_only: match wire::service::Visibility::try_from(wire.visibility) {
            Ok(wire::service::Visibility::Public) => false,
            Ok(wire::service::Visibility::Namespace) => true,
            Err(_) => return Err(unknown("visibility", wire.visibility)),
        },
        last_used: AtomicU32::new(0),
    })
}

/// Extensions of others are theirs: nothing in ours depends on them.
fn service_extension(extensions: &[wire::Extension]) -> Result<ServiceExtension, ResourceError> {
    match extensions.iter().find(|extension| extension.name == SERVICE_EXTENSION) {
        None => Ok(ServiceExtension::default()),
        Some(extension) => match &extension.config {
            Some(config) => Ok(ServiceExtension::decode(&config.value[..])?),
            None => Err(bad("extensions", format!("{SERVICE_EXTENSION} has no config"))),
        },
    }
}

fn load_balancing(wire: Option<wire::LoadBalancing>) -> Result<LoadBalancing, ResourceError> {
    let wire = wire.unwrap_or_default();
    let scopes = wire
        .routing_preference
        .iter()
        .map(|scope| match load_balancing::Scope::try_from(*scope) {
            Ok(load_balancing::Scope::Region) => Ok(BalanceScope::Region),
            Ok(load_balancing::Scope::Zone) => Ok(BalanceScope::Zone),
            Ok(load_balancing::Scope::Subzone) => Ok(BalanceScope::Subzone),
            Ok(load_balancing::Scope::Node) => Ok(BalanceScope::Node),
            Ok(load_balancing::Scope::Cluster) => Ok(BalanceScope::Cluster),
            Ok(load_balancing::Scope::Network) => Ok(BalanceScope::Network),
            Ok(load_balancing::Scope::UnspecifiedScope) | Err(_) => {
                Err(unknown("load_balancing.routing_preference", *scope))
            }
        })
        .collect::<Result<_, _>>()?;
    let mode = match load_balancing::Mode::try_from(wire.mode) {
        Ok(load_balancing::Mode::UnspecifiedMode) => BalanceMode::Standard,
        Ok(load_balancing::Mode::Strict) => BalanceMode::Strict,
        Ok(load_balancing::Mode::Failover) => BalanceMode::Failover,
        Ok(load_balancing::Mode::Passthrough) => BalanceMode::Passthrough,
        Err(_) => return Err(unknown("load_balancing.mode", wire.mode)),
    };
    let allow_unhealthy = match load_balancing::HealthPolicy::try_from(wire.health_policy) {
        Ok(load_balancing::HealthPolicy::OnlyHealthy) => false,
        Ok(load_balancing::HealthPolicy::AllowAll) => true,
        Err(_) => return Err(unknown("load_balancing.health_policy", wire.health_policy)),
    };
    Ok(LoadBalancing { scopes, mode, allow_unhealthy })
}

fn ip(field: &'static str, bytes: &[u8]) -> Result<IpAddr, ResourceError> {
    meltemi_types::address::ip_from_bytes(bytes).map_err(|error: AddressError| bad(field, error))
}

fn port(field: &'static str, number: u32) -> Result<Option<u16>, ResourceError> {
    match u16::try_from(number) {
        Ok(0) => Ok(None),
        Ok(port) => Ok(Some(port)),
        Err(_) => Err(bad(field, format!("{number} is no TCP port: want at most 65535"))),
    }
}

/// Target port 0 means that the other side of the pair, service or workload, tells.
fn ports(
    field: &'static str,
    list: &[wire::Port],
    pools: &mut Pools,
) -> Result<Arc<[PortMapping]>, ResourceError> {
    let mut result = Vec::with_capacity(list.len());
    for entry in list {
        let Some(service_port) = port(field, entry.service_port)? else {
            return Err(bad(field, "a service port is 0"));
        };
        let target_port = port(field, entry.target_port)?;
        let app_protocol = match wire::AppProtocol::try_from(entry.app_protocol) {
            Ok(wire::AppProtocol::Http11) => AppProtocol::Http11,
            Ok(wire::AppProtocol::Http2) => AppProtocol::Http2,
            Ok(wire::AppProtocol::Grpc) => AppProtocol::Grpc,
            Ok(wire::AppProtocol::Tcp) => AppProtocol::Tcp,
            Ok(wire::AppProtocol::Tls) => AppProtocol::Tls,
            // A hint only: one that is not known is as good as none.
            Ok(wire::AppProtocol::Unknown) | Err(_) => AppProtocol::Unknown,
        };
        result.push(PortMapping { service_port, target_port, app_protocol });
    }
    result.sort_by_key(|entry| entry.service_port);
    Ok(pools.ports(result))
}

fn service_key(text: &str, pools: &mut Pools) -> Result<ServiceKey, ResourceError> {
    Ok(ServiceKey::new(pools.text(text))?)
}

fn gateway(
    field: &'static str,
    wire: Option<wire::GatewayAddress>,
    pools: &mut Pools,
) -> Result<Option<Arc<GatewayAddress>>, ResourceError> {
    let Some(wire) = wire else { return Ok(None) };
    let destination = match wire.destination {
        Some(gateway_address::Destination::Hostname(name)) => {
            GatewayDestination::Hostname(NamespacedHostname::from_parts(&name.namespace, &name.hostname)?)
        }
        Some(gateway_address::Destination::Address(address)) => GatewayDestination::Address(
            NetworkAddress::new(pools.text(&address.network), ip(field, &address.address)?),
        ),
        None => return Err(bad(field, "it has no destination")),
    };
    let Some(hbone_port) = port(field, wire.hbone_mtls_port)? else {
        return Err(bad(field, "its hbone_mtls_port is 0"));
    };
    Ok(Some(pools.gateway(GatewayAddress { destination, hbone_port })))
}

fn application_tunnel(wire: wire::ApplicationTunnel) -> Result<ApplicationTunnel, ResourceError> {
    let proxy_protocol = match wire::application_tunnel::Protocol::try_from(wire.protocol) {
        Ok(wire::application_tunnel::Protocol::None) => false,
        Ok(wire::application_tunnel::Protocol::Proxy) => true,
        Err(_) => return Err(unknown("application_tunnel.protocol", wire.protocol)),
    };
    Ok(ApplicationTunnel { proxy_protocol, port: port("application_tunnel.port", wire.port)? })
}
