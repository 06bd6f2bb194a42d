//! A workload: a pod, a machine, or an address outside that the mesh was told of.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use meltemi_types::{Identity, NamespacedHostname, NetworkAddress, PolicyKey, ServiceKey, WorkloadUid};
use serde::Serialize;

use crate::Text;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Tunnel {
    /// Reached in plaintext: outside the mesh.
    None,
    Hbone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkloadKind {
    Deployment,
    Cronjob,
    Pod,
    Job,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Locality {
    pub region: Text,
    pub zone: Text,
    pub subzone: Text,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum GatewayDestination {
    Hostname(NamespacedHostname),
    Address(NetworkAddress),
}

/// A waypoint or a network's gateway, and the port of its HBONE listener.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct GatewayAddress {
    pub destination: GatewayDestination,
    pub hbone_port: u16,
}

/// A proxy inside the workload that takes what was tunnelled to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct ApplicationTunnel {
    /// The PROXY protocol is spoken on `port`; otherwise nothing is.
    pub proxy_protocol: bool,
    pub port: Option<u16>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AppProtocol {
    Unknown,
    Http11,
    Http2,
    Grpc,
    Tcp,
    Tls,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct PortMapping {
    pub service_port: u16,
    /// `None` where the other side tells: a service's endpoints, or a workload's service.
    pub target_port: Option<u16>,
    pub app_protocol: AppProtocol,
}

/// A service that a workload is an endpoint of, and the ports it serves it on.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct ServicePorts {
    pub service: ServiceKey,
    pub ports: Arc<[PortMapping]>,
}

/// Texts, lists and identities are shared between workloads that have the same.
#[derive(Debug, Serialize)]
pub struct Workload {
    pub uid: WorkloadUid,
    pub name: Text,
    pub namespace: Text,
    /// Canonical; empty where the workload is reached by `hostname` or through `network_gateway`.
    pub ips: Box<[IpAddr]>,
    /// A DNS name to be resolved at connection time; empty where there is none.
    pub hostname: Text,
    pub network: Text,
    pub tunnel: Tunnel,
    /// What its certificate must say; its parts are the trust domain, namespace and service account.
    pub identity: Identity,
    pub waypoint: Option<Arc<GatewayAddress>>,
    pub network_gateway: Option<Arc<GatewayAddress>>,
    pub node: Text,
    pub canonical_name: Text,
    pub canonical_revision: Text,
    pub kind: WorkloadKind,
    /// The controller's name: of the Deployment, not of the pod.
    pub workload_name: Text,
    /// Takes HBONE by itself.
    pub native_tunnel: bool,
    pub application_tunnel: Option<ApplicationTunnel>,
    pub services: Arc<[ServicePorts]>,
    /// The policies that select it by label.
    pub policies: Arc<[PolicyKey]>,
    pub healthy: bool,
    pub cluster_id: Text,
    pub locality: Arc<Locality>,
    pub host_network: bool,
    /// The weight in load balancing, 1 where unset. 0 takes no new connections.
    pub capacity: u32,
    /// Seconds since the mesh was made, when something last asked for it.
    #[serde(skip)]
    pub(crate) last_used: AtomicU32,
}

impl Workload {
    pub fn trust_domain(&self) -> &str {
        self.identity.trust_domain()
    }

    pub fn service_account(&self) -> &str {
        self.identity.service_account()
    }

    /// The addresses under which the mesh knows it.
    pub fn addresses(&self) -> impl Iterator<Item = NetworkAddress> {
        self.ips.iter().map(|ip| NetworkAddress::new(self.network.clone(), *ip))
    }
}
