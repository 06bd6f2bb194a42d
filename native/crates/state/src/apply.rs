//! Discovery's side of the mesh: responses in, idle names out.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hashbrown::HashSet;
use meltemi_types::discovery::{Batch, Rejection, Released, ResourceSink, ResourceType, ResourceUpdate};
use meltemi_types::{NetworkAddress, PolicyKey, ServiceKey, WorkloadUid};

use crate::decode::{self, Decoded};
use crate::mesh::Mesh;
use crate::policies::{self, DecodedPolicy};
use crate::service::Service;
use crate::store::{Store, Touched};
use crate::workload::Workload;

impl ResourceSink for Mesh {
    fn apply(&self, batch: Batch) -> Vec<Rejection> {
        let (rejections, touched) = match batch.resource_type {
            ResourceType::Address => self.apply_addresses(&batch.updates, &batch.removed),
            ResourceType::Authorization => self.apply_authorizations(&batch.updates, &batch.removed),
            // A waypoint's own: kept elsewhere, and never asked for by a node.
            ResourceType::Waypoint
            | ResourceType::Served
            | ResourceType::TrafficPolicy
            | ResourceType::HttpRoute
            | ResourceType::RequestAuthentication
            | ResourceType::KeySet
            | ResourceType::HttpAuthorization => {
                let refused = batch.updates.iter().map(|update| rejection(update, "it is for waypoints"));
                (refused.collect(), Touched::default())
            }
        };
        self.pools.lock().trim();
        self.announce(touched);
        rejections
    }

    fn synced(&self, resource_type: ResourceType) {
        if self.store.write().synced.insert(resource_type) {
            let policies = resource_type == ResourceType::Authorization;
            self.announce(Touched { policies, ..Touched::default() });
        }
    }

    fn release_idle(&self, limit: Duration) -> Released {
        let released = self.release(limit);
        if !released.dropped.is_empty() {
            self.announce(Touched { workloads: true, services: true, policies: false });
        }
        released
    }
}

impl Mesh {
    fn announce(&self, touched: Touched) {
        if touched != Touched::default() {
            self.version.send_modify(|version| {
                version.policies += u64::from(touched.policies);
                version.workloads += u64::from(touched.workloads);
                version.services += u64::from(touched.services);
            });
        }
        self.answers.send_modify(|answers| *answers += 1);
    }

    fn apply_addresses(&self, updates: &[ResourceUpdate], removed: &[String]) -> (Vec<Rejection>, Touched) {
        let mut rejections = Vec::new();
        let mut decoded = Vec::with_capacity(updates.len());
        {
            let mut pools = self.pools.lock();
            for update in updates {
                match decode::address(&update.name, &update.body, &mut pools) {
                    Ok(good) => decoded.push((update, good)),
                    Err(error) => rejections.push(rejection(update, error)),
                }
            }
        }
        let mut touched = Touched::default();
        let updated: HashSet<&str> = updates.iter().map(|update| update.name.as_str()).collect();
        let gone: HashSet<&str> =
            removed.iter().map(String::as_str).filter(|name| !updated.contains(name)).collect();
        let mut store = self.store.write();
        for name in &gone {
            touched.workloads |=
                WorkloadUid::new(*name).is_ok_and(|uid| store.remove_workload(&uid).is_some());
            touched.services |= ServiceKey::new(*name).is_ok_and(|key| store.remove_service(&key).is_some());
        }
        store.demands.removed(&gone);
        for (update, good) in decoded {
            match good {
                Decoded::Workload(workload) => {
                    store.put_workload(workload, &self.options.node);
                    touched.workloads = true;
                }
                Decoded::Service(service) => {
                    store.put_service(service);
                    touched.services = true;
                }
            }
            let asked =
                std::iter::once(update.name.as_str()).chain(update.aliases.iter().map(String::as_str));
            store.demands.found(&update.name, asked);
        }
        (rejections, touched)
    }

    fn apply_authorizations(
        &self,
        updates: &[ResourceUpdate],
        removed: &[String],
    ) -> (Vec<Rejection>, Touched) {
        let decoded: Vec<_> =
            updates.iter().map(|update| (update, policies::decode(&update.name, &update.body))).collect();
        let mut rejections = Vec::new();
        let mut changed = false;
        let mut store = self.store.write();
        for name in removed {
            if !updates.iter().any(|update| update.name == *name) {
                changed |= store.policies.remove(name);
            }
        }
        for (update, policy) in decoded {
            match policy {
                DecodedPolicy::Good(policy) => changed |= store.policies.put(policy),
                DecodedPolicy::Refused { error, would_decide_in } => {
                    if let (Some(scope), Ok(key)) = (would_decide_in, PolicyKey::new(update.name.as_str())) {
                        changed |= store.policies.refuse(key, scope);
                    }
                    rejections.push(rejection(update, error));
                }
            }
        }
        (rejections, Touched { policies: changed, ..Touched::default() })
    }

    /// Forgets idle demands, and what only they had brought.
    fn release(&self, limit: Duration) -> Released {
        let mut store = self.store.write();
        let mut idle: Vec<(Duration, String)> = store
            .demands
            .iter()
            .map(|(name, demand)| {
                let own = self.idle_s(&demand.last_used);
                let used = last_used_of(&store, name).map_or(own, |at| self.idle_s_since(at).min(own));
                (used, name.to_owned())
            })
            .collect();
        idle.sort_by(|a, b| b.cmp(a));
        let excess = match idle.len() > self.options.max_demands {
            // Some room, so that not every further name costs a sweep.
            true => idle.len() - self.options.max_demands / 8 * 7,
            false => 0,
        };
        let unsubscribe: Vec<String> = idle
            .into_iter()
            .enumerate()
            .take_while(|(index, (used, _))| *index < excess || *used >= limit)
            .map(|(_, (_, name))| name)
            .collect();
        if unsubscribe.is_empty() {
            return Released::default();
        }
        for name in &unsubscribe {
            store.demands.forget(name);
        }
        let dropped = drop_uncovered(&mut store, &unsubscribe, &self.options.node);
        Released { unsubscribe, dropped }
    }

    fn idle_s_since(&self, at_s: u32) -> Duration {
        Duration::from_secs(self.now_s().saturating_sub(at_s).into())
    }
}

fn rejection(update: &ResourceUpdate, error: impl std::fmt::Display) -> Rejection {
    Rejection { name: update.name.clone(), problem: error.to_string() }
}

enum Target {
    Workload(Arc<Workload>),
    Services(Vec<Arc<Service>>),
}

/// What an asked name stands for now.
fn target(store: &Store, name: &str) -> Option<Target> {
    if let Some(workload) = store.workloads.get(name) {
        return Some(Target::Workload(workload.clone()));
    }
    if let Ok(address) = name.parse::<NetworkAddress>() {
        let services = store.services_at(&address);
        if !services.is_empty() {
            return Some(Target::Services(services.into_iter().cloned().collect()));
        }
        if let Some(workload) = store.workload_at(&address) {
            return Some(Target::Workload(workload.clone()));
        }
        let around = store.services_around(&address);
        return (!around.is_empty()).then(|| Target::Services(around.into_iter().cloned().collect()));
    }
    let service = store.services.get(name)?.service.clone()?;
    Some(Target::Services(vec![service]))
}

fn last_used_of(store: &Store, name: &str) -> Option<u32> {
    match target(store, name)? {
        Target::Workload(workload) => Some(workload.last_used.load(Ordering::Relaxed)),
        Target::Services(services) => {
            services.iter().map(|service| service.last_used.load(Ordering::Relaxed)).max()
        }
    }
}

/// Drops those of the released names that are a resource's own name and that nothing else covers: no
/// other demand, no service that one asks for, and not being local. The server forgets these without
/// a word. What had only come along, or was asked for by its address, it takes back by itself; until
/// then it counts on this side to have it, so that it must not be dropped here.
fn drop_uncovered(store: &mut Store, released: &[String], own_node: &str) -> Vec<String> {
    let mut kept: HashSet<String> = HashSet::new();
    for (name, _) in store.demands.iter() {
        match target(store, name) {
            Some(Target::Workload(workload)) => {
                kept.insert(workload.uid.to_string());
            }
            Some(Target::Services(services)) => {
                kept.extend(services.iter().map(|service| service.key.to_string()));
            }
            None => {}
        }
    }
    let covered = |workload: &Workload| {
        (!own_node.is_empty() && *workload.node == *own_node)
            || workload.services.iter().any(|entry| kept.contains(entry.service.as_str()))
    };
    let mut dropped = Vec::new();
    for name in released.iter().filter(|name| !kept.contains(*name)) {
        let removed = match store.workloads.get(name.as_str()).cloned() {
            Some(workload) => !covered(&workload) && store.remove_workload(&workload.uid).is_some(),
            None => ServiceKey::new(name.as_str()).is_ok_and(|key| store.remove_service(&key).is_some()),
        };
        if removed {
            dropped.push(name.clone());
        }
    }
    dropped
}
