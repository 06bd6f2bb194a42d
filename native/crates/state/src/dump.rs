//! Everything that is known, for the admin page.

use std::sync::Arc;

use meltemi_policy::Policy;
use meltemi_types::PolicyKey;
use serde::Serialize;

use crate::mesh::{Mesh, Version};
use crate::service::Service;
use crate::workload::Workload;

/// A snapshot, each list in the order of its keys.
#[derive(Debug, Serialize)]
pub struct Dump {
    pub version: Version,
    pub workloads: Vec<Arc<Workload>>,
    pub services: Vec<Arc<Service>>,
    pub policies: Vec<Arc<Policy>>,
    /// Policies that were refused and have no last good version: what they cover is refused.
    pub refused_policies: Vec<PolicyKey>,
    /// Asked names that explicitly do not exist, for instance `/10.0.0.5`.
    pub negative: Vec<String>,
}

impl Mesh {
    pub fn dump(&self) -> Dump {
        let version = *self.version.borrow();
        let store = self.store.read();
        let mut dump = Dump {
            version,
            workloads: store.workloads.values().cloned().collect(),
            services: store.services.values().filter_map(|entry| entry.service.clone()).collect(),
            policies: store.policies.iter().cloned().collect(),
            refused_policies: store.policies.refused().cloned().collect(),
            negative: store.demands.negative().map(str::to_owned).collect(),
        };
        drop(store);
        dump.workloads.sort_by(|a, b| a.uid.cmp(&b.uid));
        dump.services.sort_by(|a, b| a.key.cmp(&b.key));
        dump.policies.sort_by(|a, b| a.key.cmp(&b.key));
        dump.refused_policies.sort();
        dump.negative.sort();
        dump
    }
}
