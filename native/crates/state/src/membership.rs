//! Who is behind a service.
use crate::Mesh;
use meltemi_types::{Identity, ServiceKey};

impl Mesh {
    /// Whether a workload with this identity is an endpoint of the service, as far as is known.
    pub fn is_endpoint(&self, service: &ServiceKey, identity: &Identity) -> bool {
        let store = self.store.read();
        let entry = store.services.get(service);
        entry.is_some_and(|entry| entry.endpoints.iter().any(|one| one.workload.identity == *identity))
    }
}
