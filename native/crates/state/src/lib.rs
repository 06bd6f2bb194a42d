//! What the data plane knows of the mesh: workloads, services and policies, kept as discovery
//! brings them, read by every connection.
//!
//! [`Mesh`] is the one shared object. It is filled through [`meltemi_types::discovery::ResourceSink`]
//! (by crate xds), asks through [`meltemi_types::discovery::Demander`], and answers the proxy:
//! - who is the pod that I serve: [`Mesh::local_workload`];
//! - what is behind this address: [`Mesh::resolve`], never "nothing" without an explicit answer;
//! - which endpoint of a service: [`Mesh::select_endpoint`];
//! - what applies to a workload: [`Mesh::policies_for`];
//! - what changed since: [`Mesh::changes`].
//!
//! Reads take a read lock for one or two hash look-ups. Updates are decoded before the write lock is
//! taken and wake waiters after it is released.

mod affinity;
mod apply;
mod decode;
mod demand;
mod dump;
mod ejection;
mod families;
mod intern;
mod membership;
mod mesh;
mod policies;
mod resolve;
mod selection;
mod service;
mod store;
mod workload;

pub use decode::ResourceError;
pub use demand::ResolveError;
pub use dump::Dump;
pub use ejection::ConnectOutcome;
pub use mesh::{LocalPod, Lookup, Mesh, MeshOptions, Resolved, Version};
pub use selection::{Endpoint, EndpointAddress, Endpoints, SelectError, Selection, SelectionRequest};
pub use service::{
    Affinity, BalanceMode, BalanceScope, IpFamilies, LoadBalancing, Service, WeightedWaypoint,
};
pub use workload::{
    AppProtocol, ApplicationTunnel, GatewayAddress, GatewayDestination, Locality, PortMapping, ServicePorts,
    Tunnel, Workload, WorkloadKind,
};

#[cfg(test)]
mod tests;

/// A text shared by all who hold the same.
pub type Text = std::sync::Arc<str>;
