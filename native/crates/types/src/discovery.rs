//! The seam between the discovery client (crate xds) and what it fills (crate state): neither
//! knows the other.

use std::time::Duration;

use bytes::Bytes;

/// The resource types that the data plane speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResourceType {
    /// `istio.workload.Address`: workloads and services.
    Address,
    /// `istio.security.Authorization`.
    Authorization,
    /// `meltemi.v1.Waypoint`: the waypoint that asks.
    Waypoint,
    /// `meltemi.v1.Served`: what it takes connections for.
    Served,
    /// `meltemi.v1.HttpRoute`.
    HttpRoute,
    /// `meltemi.v1.TrafficPolicy`.
    TrafficPolicy,
    /// `meltemi.v1.HttpAuthorization`.
    HttpAuthorization,
    /// `meltemi.v1.RequestAuthentication`: which tokens are believed.
    RequestAuthentication,
    /// `meltemi.v1.KeySet`: keys of token issuers.
    KeySet,
}

impl ResourceType {
    /// What a node's data plane is told.
    pub const ALL: [Self; 2] = [Self::Authorization, Self::Address];
    /// What a waypoint is told: policies before routes, and both before what makes them reachable.
    pub const WAYPOINT: [Self; 9] = [
        Self::Authorization,
        Self::KeySet,
        Self::RequestAuthentication,
        Self::HttpAuthorization,
        Self::Address,
        Self::TrafficPolicy,
        Self::HttpRoute,
        Self::Waypoint,
        Self::Served,
    ];

    pub fn type_url(self) -> &'static str {
        match self {
            Self::Address => "type.googleapis.com/istio.workload.Address",
            Self::Authorization => "type.googleapis.com/istio.security.Authorization",
            Self::Waypoint => "type.googleapis.com/meltemi.v1.Waypoint",
            Self::Served => "type.googleapis.com/meltemi.v1.Served",
            Self::HttpRoute => "type.googleapis.com/meltemi.v1.HttpRoute",
            Self::TrafficPolicy => "type.googleapis.com/meltemi.v1.TrafficPolicy",
            Self::HttpAuthorization => "type.googleapis.com/meltemi.v1.HttpAuthorization",
            Self::RequestAuthentication => "type.googleapis.com/meltemi.v1.RequestAuthentication",
            Self::KeySet => "type.googleapis.com/meltemi.v1.KeySet",
        }
    }

    pub fn from_type_url(url: &str) -> Option<Self> {
        Self::WAYPOINT.into_iter().find(|kind| kind.type_url() == url)
    }

    /// A short name for metrics and logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Authorization => "authorization",
            Self::Waypoint => "waypoint",
            Self::Served => "served",
            Self::HttpRoute => "http_route",
            Self::TrafficPolicy => "traffic_policy",
            Self::HttpAuthorization => "http_authorization",
            Self::RequestAuthentication => "request_authentication",
            Self::KeySet => "key_set",
        }
    }
}

/// A resource as it came: still encoded, so that a bad one harms no other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceUpdate {
    /// The resource's own name.
    pub name: String,
    /// Other names under which it was asked for, for instance `/10.0.0.5`.
    pub aliases: Vec<String>,
    /// The protobuf message that the type url names.
    pub body: Bytes,
}

/// One response's content. Removals hold names that ceased and names that were asked for and do
/// not exist. Where a name is both updated and removed, the update holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    pub resource_type: ResourceType,
    pub updates: Vec<ResourceUpdate>,
    pub removed: Vec<String>,
}

/// A resource that was refused; its last good version stays in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    pub name: String,
    /// Names the field and what is wrong with it.
    pub problem: String,
}

/// Names that nothing has used for a while, and what the sink dropped because of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Released {
    /// Demanded names, to be unsubscribed.
    pub unsubscribe: Vec<String>,
    /// Names of resources that are no longer held.
    pub dropped: Vec<String>,
}

/// Takes what discovery brings.
pub trait ResourceSink: Send + Sync {
    /// Applies the good resources of a response, keeps the last good of the bad ones, and returns
    /// the latter. Called in the order of the stream.
    fn apply(&self, batch: Batch) -> Vec<Rejection>;

    /// The server has answered once for this type: what is absent under a wildcard does not exist.
    fn synced(&self, resource_type: ResourceType);

    /// Drops demanded names unused for `limit` (and, where more than allowed are held, the least
    /// recently used). Called now and then in on-demand mode.
    fn release_idle(&self, limit: Duration) -> Released;
}

/// Asks for a resource by name: `NETWORK/IP`, a workload's uid, or `NAMESPACE/HOSTNAME`. Returns at
/// once; the answer arrives at the [`ResourceSink`]. Asking for a name again is harmless.
pub trait Demander: Send + Sync {
    fn demand(&self, name: &str);
}
