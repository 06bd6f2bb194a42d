//! Asking for what is not known, and waiting for the answer.

use std::sync::Arc;

use meltemi_types::discovery::ResourceType;
use meltemi_types::{NetworkAddress, ServiceKey, WorkloadUid};
use tokio::time::Instant;

use crate::Text;
use crate::demand::{Answer, ResolveError};
use crate::mesh::{Lookup, Mesh, Resolved};
use crate::service::Service;
use crate::store::Store;
use crate::workload::Workload;

impl Mesh {
    /// Whether a name that no index has was explicitly answered with nothing.
    pub(crate) fn absent(&self, store: &Store, name: impl FnOnce() -> String) -> bool {
        if !self.options.on_demand {
            return store.synced.contains(&ResourceType::Address);
        }
        let Some(demand) = store.demands.get(&name()) else { return false };
        self.touch(&demand.last_used);
        demand.answer == Answer::Negative
    }

    /// Whether it is known that nothing but a range holds an address.
    pub(crate) fn only_ranges_hold(&self, store: &Store, address: &NetworkAddress) -> bool {
        if !self.options.on_demand {
            return true;
        }
        // What has the very address is told of only where somebody asks for it.
        store.demands.get(&address.to_string()).is_some_and(|demand| demand.answer != Answer::Pending)
    }

    /// What is behind an address for a client of a namespace; asks and waits where it is not known.
    /// After the deadline the answer is an error, never [`Resolved::Negative`].
    pub async fn resolve(
        &self,
        address: &NetworkAddress,
        client_namespace: &str,
        deadline: Instant,
    ) -> Result<Resolved, ResolveError> {
        self.resolve_for(&Text::from(""), address, client_namespace, deadline).await
    }

    /// The same, on behalf of `asker`: how much one asks for is held against it alone.
    pub async fn resolve_for(
        &self,
        asker: &Text,
        address: &NetworkAddress,
        client_namespace: &str,
        deadline: Instant,
    ) -> Result<Resolved, ResolveError> {
        let name = || address.to_string();
        self.wait(asker, name, deadline, || match self.lookup(address, client_namespace) {
            Lookup::Service(service) => Some(Ok(Resolved::Service(service))),
            Lookup::Workload(workload) => Some(Ok(Resolved::Workload(workload))),
            Lookup::Negative => Some(Ok(Resolved::Negative)),
            Lookup::Hidden => Some(Err(ResolveError::Hidden { name: address.to_string() })),
            Lookup::Unknown => None,
        })
        .await
    }

    /// A service by name; `None` where it explicitly does not exist.
    pub async fn resolve_service(
        &self,
        key: &ServiceKey,
        deadline: Instant,
    ) -> Result<Option<Arc<Service>>, ResolveError> {
        let name = || key.to_string();
        self.wait(&Text::from(""), name, deadline, || {
            let store = self.store.read();
            match store.services.get(key).and_then(|entry| entry.service.as_ref()) {
                Some(service) => {
                    self.touch(&service.last_used);
                    Some(Ok(Some(service.clone())))
                }
                None => self.absent(&store, name).then_some(Ok(None)),
            }
        })
        .await
    }

    /// A workload by uid; `None` where it explicitly does not exist.
    pub async fn resolve_workload(
        &self,
        uid: &WorkloadUid,
        deadline: Instant,
    ) -> Result<Option<Arc<Workload>>, ResolveError> {
        let name = || uid.to_string();
        self.wait(&Text::from(""), name, deadline, || match self.workload(uid) {
            Some(workload) => Some(Ok(Some(workload))),
            None => self.absent(&self.store.read(), name).then_some(Ok(None)),
        })
        .await
    }

    /// Asks for `name` once `known` has nothing, and looks again after every answer.
    async fn wait<T>(
        &self,
        asker: &Text,
        name: impl Fn() -> String,
        deadline: Instant,
        known: impl Fn() -> Option<Result<T, ResolveError>>,
    ) -> Result<T, ResolveError> {
        if let Some(result) = known() {
            return result;
        }
        let started = Instant::now();
        // Subscribed before the question is asked, so that no answer is missed.
        let mut answers = self.answers.subscribe();
        let name = name();
        self.demand(&name, asker)?;
        loop {
            if let Some(result) = known() {
                return result;
            }
            match tokio::time::timeout_at(deadline, answers.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => {
                    return Err(ResolveError::NoAnswer { name, waited: started.elapsed() });
                }
            }
        }
    }

    fn demand(&self, name: &str, asker: &Text) -> Result<(), ResolveError> {
        if !self.options.on_demand {
            return Ok(());
        }
        {
            let mut store = self.store.write();
            let limit = self.options.max_demands.saturating_mul(2);
            if store.demands.get(name).is_none() && !store.demands.has_room(asker, limit) {
                return Err(ResolveError::TooMany { name: name.into(), limit });
            }
            store.demands.ask(name, asker, self.now_s());
        }
        if let Some(demander) = self.demander.get() {
            demander.demand(name);
        }
        Ok(())
    }
}
