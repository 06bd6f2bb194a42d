//! One copy of what many resources have in common.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

use meltemi_types::{Identity, IdentityError, PolicyKey};

use crate::Text;
use crate::workload::{GatewayAddress, Locality, PortMapping, ServicePorts};

/// Values that were handed out. A value that nobody else holds is forgotten by [`Pools::trim`].
#[derive(Debug, Default)]
pub(crate) struct Pools {
    texts: Pool<str>,
    localities: Pool<Locality>,
    gateways: Pool<GatewayAddress>,
    ports: Pool<[PortMapping]>,
    services: Pool<[ServicePorts]>,
    policies: Pool<[PolicyKey]>,
    identities: std::collections::HashMap<Box<str>, Identity>,
    /// Texts that were left after the last trimming.
    kept: usize,
}

/// Trimmed when the texts have doubled and grown by this, so that the cost is spread.
const TRIM_AFTER: usize = 4096;

impl Pools {
    pub(crate) fn text(&mut self, text: &str) -> Text {
        self.texts.get(text)
    }

    pub(crate) fn locality(&mut self, value: Locality) -> Arc<Locality> {
        self.localities.get(value)
    }

    pub(crate) fn gateway(&mut self, value: GatewayAddress) -> Arc<GatewayAddress> {
        self.gateways.get(value)
    }

    pub(crate) fn ports(&mut self, value: Vec<PortMapping>) -> Arc<[PortMapping]> {
        self.ports.get(value)
    }

    pub(crate) fn services(&mut self, value: Vec<ServicePorts>) -> Arc<[ServicePorts]> {
        self.services.get(value)
    }

    pub(crate) fn policies(&mut self, value: Vec<PolicyKey>) -> Arc<[PolicyKey]> {
        self.policies.get(value)
    }

    pub(crate) fn identity(&mut self, uri: String) -> Result<Identity, IdentityError> {
        if let Some(known) = self.identities.get(uri.as_str()) {
            return Ok(known.clone());
        }
        let identity: Identity = uri.parse()?;
        self.identities.insert(uri.into(), identity.clone());
        Ok(identity)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.texts.0.len()
    }

    /// Forgets what nobody holds, now and then.
    pub(crate) fn trim(&mut self) {
        if self.texts.0.len() + self.identities.len() < 2 * self.kept + TRIM_AFTER {
            return;
        }
        self.services.trim();
        self.policies.trim();
        self.ports.trim();
        self.gateways.trim();
        self.localities.trim();
        self.texts.trim();
        // Identities do not tell who holds them; those in use are merely no longer shared with new ones.
        self.identities.clear();
        self.kept = self.texts.0.len();
    }
}

#[derive(Debug)]
struct Pool<T: ?Sized>(HashSet<Arc<T>>);

impl<T: ?Sized> Default for Pool<T> {
    fn default() -> Self {
        Self(HashSet::new())
    }
}

impl<T: ?Sized + Hash + Eq> Pool<T> {
    fn get<V: Borrow<T> + Into<Arc<T>>>(&mut self, value: V) -> Arc<T> {
        if let Some(known) = self.0.get(value.borrow()) {
            return known.clone();
        }
        let shared: Arc<T> = value.into();
        self.0.insert(shared.clone());
        shared
    }

    fn trim(&mut self) {
        self.0.retain(|value| Arc::strong_count(value) > 1);
        self.0.shrink_to_fit();
    }
}
