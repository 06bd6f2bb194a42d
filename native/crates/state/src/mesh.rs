//! The shared object: look-ups, and waiting for what is not known yet.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hashbrown::HashMap;
use meltemi_policy::PolicySet;
use meltemi_types::discovery::{Demander, ResourceType};
use meltemi_types::{NetworkAddress, PolicyKey, ServiceKey, WorkloadUid};
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::Text;
use crate::affinity::Affinities;
use crate::ejection::Ejections;
use crate::intern::Pools;
use crate::service::Service;
use crate::store::Store;
use crate::workload::Workload;

/// What a mesh is made for.
#[derive(Debug, Clone)]
pub struct MeshOptions {
    /// The node whose pods are local, as workloads name it.
    pub node: String,
    /// Resources are asked for by name. Otherwise everything is sent, and what is absent once the
    /// server has answered does not exist.
    pub on_demand: bool,
    /// How many asked names are held; beyond it the least recently used go, beyond twice of it
    /// new ones are refused.
    pub max_demands: usize,
}

impl Default for MeshOptions {
    fn default() -> Self {
        Self { node: String::new(), on_demand: true, max_demands: 65_536 }
    }
}

/// What is behind an address, as far as it is known now.
#[derive(Debug, Clone)]
pub enum Lookup {
    Service(Arc<Service>),
    Workload(Arc<Workload>),
    /// Explicitly nothing: outside the mesh.
    Negative,
    /// A service that the client's namespace may not use.
    Hidden,
    /// Not known yet. Never the same as [`Lookup::Negative`].
    Unknown,
}

/// What is behind an address, for certain.
#[derive(Debug, Clone)]
pub enum Resolved {
    Service(Arc<Service>),
    Workload(Arc<Workload>),
    /// Explicitly nothing: outside the mesh. The only answer that permits plaintext passthrough.
    Negative,
}

/// Counts changes by what they concern; a greater number than before means "look again".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Version {
    /// Policies came, changed or went.
    pub policies: u64,
    /// Workloads came, changed or went (also: which policies select them).
    pub workloads: u64,
    /// Services came, changed or went.
    pub services: u64,
}

/// A pod of this node, as the node agent names it.
#[derive(Debug, Clone, Copy)]
pub struct LocalPod<'a> {
    pub namespace: &'a str,
    pub name: &'a str,
    pub service_account: &'a str,
}

type SetKey = (Text, Arc<[PolicyKey]>);

/// Sets of policies by namespace and selecting policies, of one generation.
#[derive(Debug, Default)]
struct PolicySets {
    generation: u64,
    sets: HashMap<SetKey, Arc<PolicySet>>,
}

/// What the data plane knows of the mesh. Shared by reference counting; every method takes `&self`.
pub struct Mesh {
    pub(crate) options: MeshOptions,
    pub(crate) store: RwLock<Store>,
    pub(crate) pools: Mutex<Pools>,
    pub(crate) demander: OnceLock<Arc<dyn Demander>>,
    pub(crate) version: watch::Sender<Version>,
    /// Grows with every response, also one that changes nothing but answers a question.
    pub(crate) answers: watch::Sender<u64>,
    sets: RwLock<PolicySets>,
    pub(crate) affinities: Affinities,
    pub(crate) ejections: Ejections,
    made: Instant,
}

impl std::fmt::Debug for Mesh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mesh").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Mesh {
    pub fn new(options: MeshOptions) -> Self {
        Self {
            options,
            store: RwLock::default(),
            pools: Mutex::default(),
            demander: OnceLock::new(),
            version: watch::Sender::default(),
            answers: watch::Sender::default(),
            sets: RwLock::default(),
            affinities: Affinities::default(),
            ejections: Ejections::default(),
            made: Instant::now(),
        }
    }

    /// Says whom to ask for names that are not known. The first call counts.
    pub fn connect(&self, demander: Arc<dyn Demander>) {
        let _ = self.demander.set(demander);
    }

    /// What is behind an address now, without asking. Services that have it go before the workload that has
    /// it, and that before services that have a range around it; of several services, one of the client's
    /// namespace, then the canonical one, then the first by name.
    pub fn lookup(&self, address: &NetworkAddress, client_namespace: &str) -> Lookup {
        let store = self.store.read();
        let mut services = store.services_at(address);
        if let Some(service) = self.first_visible(&services, client_namespace) {
            return Lookup::Service(service);
        }
        if let Some(workload) = store.workload_at(address) {
            self.touch(&workload.last_used);
            return Lookup::Workload(workload.clone());
        }
        if services.is_empty() {
            services = store.services_around(address);
            if !services.is_empty() && !self.only_ranges_hold(&store, address) {
                return Lookup::Unknown;
            }
            if let Some(service) = self.first_visible(&services, client_namespace) {
                return Lookup::Service(service);
            }
        }
        if !services.is_empty() {
            return Lookup::Hidden;
        }
        match self.absent(&store, || address.to_string()) {
            true => Lookup::Negative,
            false => Lookup::Unknown,
        }
    }

    fn first_visible(&self, services: &[&Arc<Service>], client_namespace: &str) -> Option<Arc<Service>> {
        let visible = services.iter().filter(|service| service.is_visible_to(client_namespace));
        let first = visible.min_by_key(|service| {
            (*service.namespace != *client_namespace, !service.canonical, &service.key)
        })?;
        self.touch(&first.last_used);
        Some((*first).clone())
    }

    /// The workload that has an address, whatever services claim it.
    pub fn workload_at(&self, address: &NetworkAddress) -> Option<Arc<Workload>> {
        let workload = self.store.read().workload_at(address).cloned()?;
        self.touch(&workload.last_used);
        Some(workload)
    }

    pub fn workload(&self, uid: &WorkloadUid) -> Option<Arc<Workload>> {
        let workload = self.store.read().workloads.get(uid).cloned()?;
        self.touch(&workload.last_used);
        Some(workload)
    }

    pub fn service(&self, key: &ServiceKey) -> Option<Arc<Service>> {
        let service = self.store.read().services.get(key)?.service.clone()?;
        self.touch(&service.last_used);
        Some(service)
    }

    /// A pod of this node. `None` also where its service account is another than asked for: whoever
    /// asks would take it for something it is not.
    pub fn local_workload(&self, pod: LocalPod<'_>) -> Option<Arc<Workload>> {
        let workload = self.store.read().local_workload(pod.namespace, pod.name).cloned()?;
        (workload.service_account() == pod.service_account).then_some(workload)
    }

    /// The same, waiting until discovery has told of it.
    pub async fn await_local_workload(&self, pod: LocalPod<'_>, deadline: Instant) -> Option<Arc<Workload>> {
        let mut version = self.changes();
        loop {
            if let Some(workload) = self.local_workload(pod) {
                return Some(workload);
            }
            tokio::time::timeout_at(deadline, version.changed()).await.ok()?.ok()?;
        }
    }

    /// Everything that applies to a workload: mesh-wide, of its namespace, and what it names. Shared
    /// between workloads to which the same applies. A set that is not complete refuses all that no
    /// DENY decides.
    pub fn policies_for(&self, workload: &Workload) -> Arc<PolicySet> {
        let key: SetKey = (workload.namespace.clone(), workload.policies.clone());
        let store = self.store.read();
        if !store.synced.contains(&ResourceType::Authorization) {
            return Arc::new(PolicySet::not_received());
        }
        let generation = store.policies.generation;
        {
            let cache = self.sets.read();
            if cache.generation == generation
                && let Some(set) = cache.sets.get(&key)
            {
                return set.clone();
            }
        }
        let set = Arc::new(store.policies.set_for(workload));
        let mut cache = self.sets.write();
        if cache.generation != generation {
            cache.sets.clear();
            cache.generation = generation;
        }
        cache.sets.insert(key, set.clone());
        set
    }

    /// The same, waiting until the set is complete; at the deadline, as it is then. The workload is looked up
    /// anew each time: of a policy that is removed the workload may be told last, and would name it till then.
    pub async fn await_policies_for(&self, workload: &Workload, deadline: Instant) -> Arc<PolicySet> {
        let mut answers = self.answers.subscribe();
        loop {
            let current = self.store.read().workloads.get(&workload.uid).cloned();
            let set = self.policies_for(current.as_deref().unwrap_or(workload));
            if set.is_complete() {
                return set;
            }
            match tokio::time::timeout_at(deadline, answers.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return set,
            }
        }
    }

    /// Wakes on every change of what is known, for the live re-check of connections.
    pub fn changes(&self) -> watch::Receiver<Version> {
        self.version.subscribe()
    }

    /// How often what is known has changed.
    pub fn version(&self) -> Version {
        *self.version.borrow()
    }

    /// Says that a service is in use, for whoever keeps what it was told of it.
    pub fn used(&self, service: &Service) {
        self.touch(&service.last_used);
    }

    /// Whether the server has answered once for the type.
    pub fn is_synced(&self, resource_type: ResourceType) -> bool {
        self.store.read().synced.contains(&resource_type)
    }

    /// Waits until the server has answered once for the type.
    pub async fn await_synced(&self, resource_type: ResourceType) {
        let mut answers = self.answers.subscribe();
        while !self.is_synced(resource_type) {
            if answers.changed().await.is_err() {
                return;
            }
        }
    }

    pub(crate) fn now_s(&self) -> u32 {
        u32::try_from(self.made.elapsed().as_secs()).unwrap_or(u32::MAX)
    }

    pub(crate) fn touch(&self, last_used: &AtomicU32) {
        let now = self.now_s();
        // Written only when it changes, so that readers on several cores do not contend.
        if last_used.load(Ordering::Relaxed) != now {
            last_used.store(now, Ordering::Relaxed);
        }
    }

    pub(crate) fn idle_s(&self, last_used: &AtomicU32) -> Duration {
        Duration::from_secs(self.now_s().saturating_sub(last_used.load(Ordering::Relaxed)).into())
    }
}
