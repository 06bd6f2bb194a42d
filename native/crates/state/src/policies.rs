//! The policies by key and by what they apply to.

use std::sync::Arc;

use hashbrown::HashMap;
use meltemi_policy::{Policy, PolicySet, Scope};
use meltemi_types::{PolicyKey, security};
use prost::Message;

use crate::Text;
use crate::decode::ResourceError;
use crate::workload::Workload;

/// A policy as it came: good, or refused with what can still be told of where it would apply.
#[derive(Debug)]
pub(crate) enum DecodedPolicy {
    Good(Arc<Policy>),
    Refused { error: ResourceError, would_decide_in: Option<Scope> },
}

/// Decodes an authorization and checks that it is what its resource name says.
pub(crate) fn decode(name: &str, body: &[u8]) -> DecodedPolicy {
    let wire = match security::Authorization::decode(body) {
        Ok(wire) => wire,
        // Nothing can be read of it but the namespace in its name.
        Err(error) => {
            return DecodedPolicy::Refused { error: error.into(), would_decide_in: Some(Scope::Namespace) };
        }
    };
    let would_decide_in = match security::Scope::try_from(wire.scope) {
        _ if wire.dry_run => None,
        Ok(security::Scope::Namespace) => Some(Scope::Namespace),
        Ok(security::Scope::WorkloadSelector) => Some(Scope::Selector),
        Ok(security::Scope::Global) | Err(_) => Some(Scope::Global),
    };
    let error = match Policy::try_from(wire) {
        Ok(policy) if policy.key.as_str() == name => return DecodedPolicy::Good(Arc::new(policy)),
        Ok(policy) => {
            ResourceError::NameMismatch { resource: name.into(), content: policy.key.as_str().into() }
        }
        Err(error) => error.into(),
    };
    DecodedPolicy::Refused { error, would_decide_in }
}

#[derive(Debug, Default)]
pub(crate) struct PolicyStore {
    by_key: HashMap<PolicyKey, Arc<Policy>>,
    global: Vec<Arc<Policy>>,
    by_namespace: HashMap<Text, Vec<Arc<Policy>>>,
    /// Refused, with no last good: what they cover cannot be judged until they are corrected or
    /// removed.
    refused: HashMap<PolicyKey, Scope>,
    /// Grows with every change.
    pub(crate) generation: u64,
}

impl PolicyStore {
    /// Whether anything changed.
    pub(crate) fn put(&mut self, policy: Arc<Policy>) -> bool {
        let was_refused = self.refused.remove(&policy.key).is_some();
        if !was_refused && self.by_key.get(&policy.key).is_some_and(|held| *held == policy) {
            return false;
        }
        self.unindex(&policy.key);
        match policy.scope {
            Scope::Global => self.global.push(policy.clone()),
            Scope::Namespace => {
                self.by_namespace.entry(policy.key.namespace().into()).or_default().push(policy.clone());
            }
            Scope::Selector => {}
        }
        self.by_key.insert(policy.key.clone(), policy);
        self.generation += 1;
        true
    }

    /// Notes a refused policy. Where a good version is held, that one stays and nothing changes.
    pub(crate) fn refuse(&mut self, key: PolicyKey, scope: Scope) -> bool {
        if self.by_key.contains_key(&key) || self.refused.insert(key, scope) == Some(scope) {
            return false;
        }
        self.generation += 1;
        true
    }

    pub(crate) fn remove(&mut self, key: &str) -> bool {
        let refused = self.refused.remove(key).is_some();
        let held = match self.by_key.get(key).map(|policy| policy.key.clone()) {
            Some(key) => {
                self.unindex(&key);
                self.by_key.remove(&key).is_some()
            }
            None => false,
        };
        self.generation += u64::from(refused || held);
        refused || held
    }

    fn unindex(&mut self, key: &PolicyKey) {
        let Some(previous) = self.by_key.get(key) else { return };
        match previous.scope {
            Scope::Global => self.global.retain(|policy| policy.key != *key),
            Scope::Namespace => {
                if let Some(list) = self.by_namespace.get_mut(key.namespace()) {
                    list.retain(|policy| policy.key != *key);
                    if list.is_empty() {
                        self.by_namespace.remove(key.namespace());
                    }
                }
            }
            Scope::Selector => {}
        }
    }

    /// Mesh-wide policies, those of the namespace, and those that the workload names. A policy that
    /// it names and that is not held is missing.
    pub(crate) fn set_for(&self, workload: &Workload) -> PolicySet {
        let namespace = self.by_namespace.get(&*workload.namespace).map_or(&[][..], Vec::as_slice);
        let mut policies: Vec<_> = self.global.iter().chain(namespace).cloned().collect();
        let mut missing: Vec<_> = self
            .refused
            .iter()
            .filter(|(key, scope)| match scope {
                Scope::Global => true,
                Scope::Namespace => key.namespace() == &*workload.namespace,
                Scope::Selector => false,
            })
            .map(|(key, _)| key.clone())
            .collect();
        for key in workload.policies.iter() {
            match self.by_key.get(key) {
                Some(policy) => policies.push(policy.clone()),
                None => missing.push(key.clone()),
            }
        }
        PolicySet::new(policies, missing)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.by_key.values()
    }

    pub(crate) fn refused(&self) -> impl Iterator<Item = &PolicyKey> {
        self.refused.keys()
    }
}
