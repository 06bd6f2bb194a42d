//! What is asked for, what is held, and the requests that follow from both. Pure.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use meltemi_types::ads::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node};
use meltemi_types::discovery::{Rejection, Released, ResourceType};
use tokio::time::Instant;

/// A question that a stream left unanswered for so long may be put again.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(5);
const WILDCARD: &str = "*";

#[derive(Debug)]
pub(crate) struct Subscriptions {
    on_demand: bool,
    /// Names asked for, of addresses, in on-demand mode.
    names: HashSet<Box<str>>,
    /// Those of them without an answer on this stream, and when they were put.
    unanswered: HashMap<Box<str>, Instant>,
    /// Resource names with their versions, as the server gave them.
    held: HashMap<ResourceType, HashMap<Box<str>, Box<str>>>,
}

impl Subscriptions {
    pub(crate) fn new(on_demand: bool) -> Self {
        Self { on_demand, names: HashSet::new(), unanswered: HashMap::new(), held: HashMap::new() }
    }

    /// The first request of a type on a stream: what is wanted, and with which versions it is held.
    pub(crate) fn initial(&mut self, resource_type: ResourceType, node: Node) -> DeltaDiscoveryRequest {
        let by_name = self.on_demand && resource_type == ResourceType::Address;
        let mut request = DeltaDiscoveryRequest {
            node: Some(node),
            type_url: resource_type.type_url().into(),
            initial_resource_versions: self
                .held
                .get(&resource_type)
                .into_iter()
                .flatten()
                .map(|(name, version)| (name.to_string(), version.to_string()))
                .collect(),
            ..DeltaDiscoveryRequest::default()
        };
        if by_name {
            let now = Instant::now();
            self.unanswered = self.names.iter().map(|name| (name.clone(), now)).collect();
            request.resource_names_subscribe = self.names.iter().map(ToString::to_string).collect();
            request.resource_names_unsubscribe = vec![WILDCARD.into()];
        }
        // A server of ambient takes a request that subscribes to nothing for the wildcard, whatever
        // it unsubscribes; both at once is "nothing".
        if request.resource_names_subscribe.is_empty() {
            request.resource_names_subscribe = vec![WILDCARD.into()];
        }
        request
    }

    /// The request for newly wanted names; `None` where all have been asked for just now.
    pub(crate) fn ask(&mut self, wanted: Vec<String>) -> Option<DeltaDiscoveryRequest> {
        if !self.on_demand {
            return None;
        }
        let now = Instant::now();
        let mut subscribe = Vec::new();
        for name in wanted {
            let asked = self.unanswered.get(name.as_str());
            if asked.is_some_and(|at| now.duration_since(*at) < ASK_AGAIN_AFTER) {
                continue;
            }
            self.names.insert(name.as_str().into());
            self.unanswered.insert(name.as_str().into(), now);
            subscribe.push(name);
        }
        (!subscribe.is_empty()).then(|| DeltaDiscoveryRequest {
            type_url: ResourceType::Address.type_url().into(),
            resource_names_subscribe: subscribe,
            ..DeltaDiscoveryRequest::default()
        })
    }

    /// Keeps names wanted while there was no stream, for the next one's first request.
    pub(crate) fn note(&mut self, wanted: Vec<String>) {
        if self.on_demand {
            self.names.extend(wanted.into_iter().map(String::into_boxed_str));
        }
    }

    /// The request that gives up idle names.
    pub(crate) fn release(&mut self, released: &Released) -> Option<DeltaDiscoveryRequest> {
        for name in &released.unsubscribe {
            self.names.remove(name.as_str());
            self.unanswered.remove(name.as_str());
        }
        if let Some(held) = self.held.get_mut(&ResourceType::Address) {
            for name in &released.dropped {
                held.remove(name.as_str());
            }
        }
        (!released.unsubscribe.is_empty()).then(|| DeltaDiscoveryRequest {
            type_url: ResourceType::Address.type_url().into(),
            resource_names_unsubscribe: released.unsubscribe.clone(),
            ..DeltaDiscoveryRequest::default()
        })
    }

    /// Notes what a response brought. A refused resource keeps the version that is still in force,
    /// so that the server sends the newer one again after a reconnect.
    pub(crate) fn received(
        &mut self,
        resource_type: ResourceType,
        response: &DeltaDiscoveryResponse,
        rejections: &[Rejection],
    ) {
        let held = self.held.entry(resource_type).or_default();
        for name in &response.removed_resources {
            held.remove(name.as_str());
            self.unanswered.remove(name.as_str());
        }
        let refused: HashSet<&str> = rejections.iter().map(|rejection| rejection.name.as_str()).collect();
        for resource in &response.resources {
            for name in std::iter::once(&resource.name).chain(&resource.aliases) {
                self.unanswered.remove(name.as_str());
            }
            if !refused.contains(resource.name.as_str()) {
                held.insert(resource.name.as_str().into(), resource.version.as_str().into());
            }
        }
    }
}
