//! The indexes. Only [`crate::mesh::Mesh`] holds one, behind a lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use hashbrown::{HashMap, HashSet};
use meltemi_types::{Cidr, NetworkAddress, ServiceKey, WorkloadUid};
use tokio::time::Instant;

use crate::Text;
use crate::demand::Demands;
use crate::policies::PolicyStore;
use crate::service::Service;
use crate::workload::{PortMapping, Workload};

/// One workload's part in a service.
#[derive(Debug, Clone)]
pub(crate) struct EndpointEntry {
    pub(crate) workload: Arc<Workload>,
    pub(crate) ports: Arc<[PortMapping]>,
}

/// A service and its endpoints; either may come first.
#[derive(Debug, Default)]
pub(crate) struct ServiceEntry {
    pub(crate) service: Option<Arc<Service>>,
    pub(crate) endpoints: Vec<EndpointEntry>,
    /// How many of them have another weight than 1.
    pub(crate) weighted: usize,
    /// When the service was first told of; its endpoints may follow.
    pub(crate) known_since: Option<Instant>,
    /// Where the next turn of round robin stands.
    pub(crate) turn: AtomicU32,
}

/// Which kinds of things a mutation touched.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Touched {
    pub(crate) policies: bool,
    pub(crate) workloads: bool,
    pub(crate) services: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Store {
    pub(crate) workloads: HashMap<WorkloadUid, Arc<Workload>>,
    /// Several only for pods on the host's network.
    by_ip: HashMap<NetworkAddress, OneOrMore>,
    pub(crate) services: HashMap<ServiceKey, ServiceEntry>,
    by_vip: HashMap<NetworkAddress, Vec<ServiceKey>>,
    ranges: Vec<(Text, Cidr, ServiceKey)>,
    /// The pods of this node, by namespace and name.
    local: HashMap<(Text, Text), Arc<Workload>>,
    pub(crate) policies: PolicyStore,
    pub(crate) demands: Demands,
    pub(crate) synced: HashSet<meltemi_types::discovery::ResourceType>,
}

#[derive(Debug)]
enum OneOrMore {
    One(Arc<Workload>),
    More(Vec<Arc<Workload>>),
}

impl OneOrMore {
    /// A pod of its own network goes before those that share their host's.
    fn best(&self) -> Option<&Arc<Workload>> {
        match self {
            Self::One(workload) => Some(workload),
            Self::More(all) => all.iter().min_by_key(|workload| (workload.host_network, &workload.uid)),
        }
    }

    fn add(&mut self, workload: Arc<Workload>) {
        match self {
            Self::One(first) => *self = Self::More(vec![first.clone(), workload]),
            Self::More(all) => all.push(workload),
        }
    }

    /// Whether nothing is left.
    fn remove(&mut self, uid: &WorkloadUid) -> bool {
        match self {
            Self::One(workload) => workload.uid == *uid,
            Self::More(all) => {
                all.retain(|workload| workload.uid != *uid);
                if let [last] = all.as_slice() {
                    *self = Self::One(last.clone());
                    return false;
                }
                all.is_empty()
            }
        }
    }
}

impl Store {
    pub(crate) fn put_workload(&mut self, workload: Arc<Workload>, own_node: &str) {
        if let Some(previous) = self.remove_workload(&workload.uid.clone()) {
            workload.last_used.store(previous.last_used.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        for address in workload.addresses() {
            match self.by_ip.get_mut(&address) {
                Some(slot) => slot.add(workload.clone()),
                None => {
                    self.by_ip.insert(address, OneOrMore::One(workload.clone()));
                }
            }
        }
        for entry in workload.services.iter() {
            let endpoint = EndpointEntry { workload: workload.clone(), ports: entry.ports.clone() };
            let service = self.services.entry_ref(&entry.service).or_default();
            service.endpoints.push(endpoint);
            service.weighted += usize::from(workload.capacity != 1);
        }
        if *workload.node == *own_node && !own_node.is_empty() {
            self.local.insert((workload.namespace.clone(), workload.name.clone()), workload.clone());
        }
        self.workloads.insert(workload.uid.clone(), workload);
    }

    pub(crate) fn remove_workload(&mut self, uid: &WorkloadUid) -> Option<Arc<Workload>> {
        let workload = self.workloads.remove(uid)?;
        for address in workload.addresses() {
            if self.by_ip.get_mut(&address).is_some_and(|slot| slot.remove(uid)) {
                self.by_ip.remove(&address);
            }
        }
        for entry in workload.services.iter() {
            let Some(service) = self.services.get_mut(&entry.service) else { continue };
            service.endpoints.retain(|endpoint| endpoint.workload.uid != *uid);
            service.weighted -= usize::from(workload.capacity != 1);
            if service.service.is_none() && service.endpoints.is_empty() {
                self.services.remove(&entry.service);
            }
        }
        let key = (workload.namespace.clone(), workload.name.clone());
        if self.local.get(&key).is_some_and(|held| held.uid == *uid) {
            self.local.remove(&key);
        }
        Some(workload)
    }

    pub(crate) fn put_service(&mut self, service: Arc<Service>) {
        if let Some(previous) = self.unindex_service(&service.key) {
            service.last_used.store(previous.last_used.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        for address in service.addresses.iter() {
            self.by_vip.entry(address.clone()).or_default().push(service.key.clone());
        }
        for (network, range) in service.ranges.iter() {
            self.ranges.push((network.clone(), *range, service.key.clone()));
        }
        let entry = self.services.entry(service.key.clone()).or_default();
        entry.known_since.get_or_insert_with(Instant::now);
        entry.service = Some(service);
    }

    pub(crate) fn remove_service(&mut self, key: &ServiceKey) -> Option<Arc<Service>> {
        let service = self.unindex_service(key)?;
        if let Some(entry) = self.services.get_mut(key) {
            entry.service = None;
            entry.known_since = None;
            if entry.endpoints.is_empty() {
                self.services.remove(key);
            }
        }
        Some(service)
    }

    fn unindex_service(&mut self, key: &ServiceKey) -> Option<Arc<Service>> {
        let service = self.services.get(key)?.service.clone()?;
        for address in service.addresses.iter() {
            if let Some(keys) = self.by_vip.get_mut(address) {
                keys.retain(|held| held != key);
                if keys.is_empty() {
                    self.by_vip.remove(address);
                }
            }
        }
        self.ranges.retain(|(_, _, held)| held != key);
        Some(service)
    }

    pub(crate) fn workload_at(&self, address: &NetworkAddress) -> Option<&Arc<Workload>> {
        self.by_ip.get(address)?.best()
    }

    pub(crate) fn local_workload(&self, namespace: &str, name: &str) -> Option<&Arc<Workload>> {
        self.local.get(&LocalKey(namespace, name))
    }

    /// The services that have an address.
    pub(crate) fn services_at(&self, address: &NetworkAddress) -> Vec<&Arc<Service>> {
        let service = |key: &ServiceKey| self.services.get(key)?.service.as_ref();
        self.by_vip.get(address).into_iter().flatten().filter_map(service).collect()
    }

    /// The services that have the longest range around an address.
    pub(crate) fn services_around(&self, address: &NetworkAddress) -> Vec<&Arc<Service>> {
        let service = |key: &ServiceKey| self.services.get(key)?.service.as_ref();
        let within = |(network, range, _): &&(Text, Cidr, ServiceKey)| {
            **network == *address.network() && range.contains(address.ip())
        };
        let longest = self.ranges.iter().filter(within).map(|(_, range, _)| range.prefix_length()).max();
        self.ranges
            .iter()
            .filter(within)
            .filter(|(_, range, _)| Some(range.prefix_length()) == longest)
            .filter_map(|(_, _, key)| service(key))
            .collect()
    }
}

/// Looks up `(Text, Text)` by borrowed parts.
#[derive(Hash)]
struct LocalKey<'a>(&'a str, &'a str);

impl hashbrown::Equivalent<(Text, Text)> for LocalKey<'_> {
    fn equivalent(&self, key: &(Text, Text)) -> bool {
        *self.0 == *key.0 && *self.1 == *key.1
    }
}
