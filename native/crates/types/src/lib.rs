//! The wire contract in Rust: generated messages, and newtypes for what must not be confused.

pub mod address;
pub mod discovery;
pub mod identity;
pub mod names;
pub mod proto;

pub use address::{AddressError, Cidr, ClientAddress, NetworkAddress, OriginalDestination};
pub use identity::{Identity, IdentityError};
pub use names::{NameError, NamespacedHostname, PolicyKey, ServiceKey, WorkloadUid};

/// `envoy.service.discovery.v3`: the delta ADS messages and service.
pub use proto::envoy::service::discovery::v3 as ads;
/// `istio.security`: authorizations as they travel.
pub use proto::istio::security;
/// `istio.v1.auth`: the certificate service.
pub use proto::istio::v1::auth as ca;
/// `istio.workload`: workloads and services as they travel.
pub use proto::istio::workload;
/// `istio.workload.zds`: agent and data plane.
pub use proto::istio::workload::zds;
/// `meltemi.v1`: what goes beyond ambient.
pub use proto::meltemi::v1 as meltemi;
