//! Connections to a pod that has a waypoint: who may speak for others, and that nobody comes around it.
use crate::failure::Failure;
use crate::pod::Pod;
use http::{HeaderMap, HeaderName};
use meltemi_state::{GatewayAddress, GatewayDestination, Resolved, Workload};
use meltemi_telemetry::Reason;
use meltemi_types::Identity;
use std::sync::Arc;
use tokio::time::Instant;

/// `waypoint` or `gateway`, where a proxy between says so (ambient's wire contract).
const SOURCE: HeaderName = HeaderName::from_static("x-istio-source");
/// The original caller's SPIFFE id. Means something only from a waypoint of the pod's.
const CALLER: HeaderName = HeaderName::from_static("x-meltemi-caller");

/// What a CONNECT claims of who is behind it. Nothing of it is true before its peer is known to be the
/// pod's own waypoint.
#[derive(Debug)]
pub(super) struct Claim {
    /// Absent where the connection carries requests of several callers, each judged by the waypoint.
    pub(super) caller: Option<Identity>,
}

impl Claim {
    pub(super) fn read(headers: &HeaderMap) -> Option<Self> {
        (headers.get(SOURCE)? == "waypoint").then(|| Self {
            caller: headers.get(CALLER).and_then(|value| value.to_str().ok()).and_then(|id| id.parse().ok()),
        })
    }
}

/// Whether `peer` is a waypoint that connections to the workload pass: its own, or that of one of its services. Services
/// of other namespaces are not asked: anybody's EndpointSlice may list the workload's address.
pub(super) async fn speaks_for(pod: &Pod, workload: &Workload, peer: &Identity, deadline: Instant) -> bool {
    if let Some(own) = &workload.waypoint
        && is_at(pod, own, peer, deadline).await
    {
        return true;
    }
    for entry in &*workload.services {
        if let Ok(Some(service)) = pod.node.mesh.resolve_service(&entry.service, deadline).await
            && service.namespace == workload.namespace
            && let Some(waypoint) = &service.waypoint
            && is_at(pod, waypoint, peer, deadline).await
        {
            return true;
        }
    }
    false
}

/// Refuses who comes around the workload's own waypoint.
///
/// # Errors
/// `waypoint_bypassed`, also where it cannot be told who the waypoint is.
pub(super) fn require(workload: &Workload, through: bool) -> Result<(), Failure> {
    match &workload.waypoint {
        Some(waypoint) if !through => Err(Failure::new(
            Reason::WaypointBypassed,
            format!("connections to {} pass the waypoint at {}", workload.name, name_of(waypoint)),
        )),
        _ => Ok(()),
    }
}

fn name_of(waypoint: &GatewayAddress) -> String {
    match &waypoint.destination {
        GatewayDestination::Address(address) => address.ip().to_string(),
        GatewayDestination::Hostname(name) => name.to_string(),
    }
}

/// Whether the workload at the waypoint's address, or one behind its name, has the identity.
async fn is_at(pod: &Pod, waypoint: &Arc<GatewayAddress>, identity: &Identity, deadline: Instant) -> bool {
    let mesh = &pod.node.mesh;
    let service = match &waypoint.destination {
        GatewayDestination::Address(address) => {
            match mesh.resolve(address, &pod.info.namespace, deadline).await {
                Ok(Resolved::Workload(workload)) => return workload.identity == *identity,
                Ok(Resolved::Service(service)) => service,
                Ok(Resolved::Negative) | Err(_) => return false,
            }
        }
        GatewayDestination::Hostname(name) => match mesh.resolve_service(name, deadline).await {
            Ok(Some(service)) => service,
            Ok(None) | Err(_) => return false,
        },
    };
    mesh.is_endpoint(&service.key, identity)
}
