//! A service: a name, addresses, and how its endpoints are chosen.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use meltemi_types::{Cidr, NetworkAddress, ServiceKey};
use serde::Serialize;

use crate::Text;
use crate::workload::{GatewayAddress, PortMapping};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BalanceScope {
    Region,
    Zone,
    Subzone,
    Node,
    Cluster,
    Network,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BalanceMode {
    /// Any endpoint.
    Standard,
    /// Only endpoints that match every scope.
    Strict,
    /// Endpoints that match the most scopes, counted from the first on.
    Failover,
    /// No choice is made: the connection goes where it was dialled.
    Passthrough,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LoadBalancing {
    pub scopes: Box<[BalanceScope]>,
    pub mode: BalanceMode,
    pub allow_unhealthy: bool,
}

/// Connections of one client address go to one endpoint while it serves, until `timeout` passes
/// without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Affinity {
    pub timeout: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum IpFamilies {
    Automatic,
    Ipv4,
    Ipv6,
    Dual,
}

impl IpFamilies {
    pub fn accepts(self, ip: IpAddr) -> bool {
        match self {
            Self::Automatic | Self::Dual => true,
            Self::Ipv4 => ip.is_ipv4(),
            Self::Ipv6 => ip.is_ipv6(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WeightedWaypoint {
    pub destination: Arc<GatewayAddress>,
    pub weight: u32,
}

#[derive(Debug, Serialize)]
pub struct Service {
    pub key: ServiceKey,
    pub name: Text,
    pub namespace: Text,
    pub hostname: Text,
    pub addresses: Box<[NetworkAddress]>,
    /// Ranges of addresses, each of a network.
    pub ranges: Box<[(Text, Cidr)]>,
    pub ports: Arc<[PortMapping]>,
    /// URIs that its endpoints may present besides their own identity.
    pub subject_alt_names: Box<[Text]>,
    pub waypoint: Option<Arc<GatewayAddress>>,
    pub weighted_waypoints: Box<[WeightedWaypoint]>,
    pub load_balancing: LoadBalancing,
    pub ip_families: IpFamilies,
    pub affinity: Option<Affinity>,
    pub headless: bool,
    /// Where several services of one hostname exist, this one is meant.
    pub canonical: bool,
    pub ingress_use_waypoint: bool,
    /// Resolvable only by clients of its own namespace.
    pub namespace_only: bool,
    #[serde(skip)]
    pub(crate) last_used: AtomicU32,
}

impl Service {
    pub fn port(&self, service_port: u16) -> Option<&PortMapping> {
        self.ports.iter().find(|port| port.service_port == service_port)
    }

    pub fn is_visible_to(&self, client_namespace: &str) -> bool {
        !self.namespace_only || *self.namespace == *client_namespace
    }
}
