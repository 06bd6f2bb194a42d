//! Which endpoint an attempt goes to, and whether it may be made at all: subsets, load balancing, ejection of
//! endpoints that fail, bounds on what is under way. By each service's `meltemi.v1.TrafficPolicy`; without one,
//! the less busy of two drawn at random.
//!
//! The caller's candidates are looked at in full once, when they or the policy change ([`view::View`]); an attempt
//! then costs two look-ups and a few atomic reads.

mod bounds;
mod hash;
mod member;
mod policy;
mod ring;
mod view;

#[cfg(test)]
mod tests;

pub(crate) use bounds::{Bounds, Place};
pub(crate) use hash::HashInput;
pub(crate) use member::Usage;
pub use policy::TrafficPolicy;

use crate::reply::Cause;
use crate::world::{Candidates, UpstreamError, World};
use bounds::Kind;
use hashbrown::HashMap;
use meltemi_types::ServiceKey;
use meltemi_types::meltemi as wire;
use member::Member;
use parking_lot::{Mutex, RwLock};
use prost::Message;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;
use tokio::time::Instant;
use view::View;

/// Rounds of the sweep without a request, after which a service's counts are forgotten.
const FORGOTTEN_AFTER: u32 = 120;

/// What is known of the endpoints of one service.
#[derive(Debug)]
struct Service<W: World> {
    bounds: Arc<Bounds>,
    members: Mutex<HashMap<W::Key, Arc<Member>>>,
    views: RwLock<Vec<Arc<View<W>>>>,
    /// Sweeps since the last request.
    unused: AtomicU32,
}

impl<W: World> Default for Service<W> {
    fn default() -> Self {
        Self {
            bounds: Arc::default(),
            members: Mutex::default(),
            views: RwLock::default(),
            unused: AtomicU32::new(0),
        }
    }
}

/// Policies and services.
#[derive(Debug)]
pub struct Balance<W: World> {
    policies: RwLock<HashMap<ServiceKey, Arc<TrafficPolicy>>>,
    services: RwLock<HashMap<ServiceKey, Arc<Service<W>>>>,
    /// Times are counted from here, in milliseconds.
    begun: Instant,
}

/// What a choice depends on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Choice<'a, W: World> {
    pub(crate) subset: Option<&'a str>,
    pub(crate) input: HashInput<'a>,
    /// Endpoints that this request was not answered by before: chosen only where there is nothing else.
    pub(crate) tried: &'a [W::Key],
}

/// Where an attempt goes.
#[derive(Debug)]
pub(crate) struct Picked<W: World> {
    pub(crate) endpoint: Arc<W::Endpoint>,
    pub(crate) key: W::Key,
    pub(crate) http2: bool,
    pub(crate) policy: Option<Arc<TrafficPolicy>>,
    pub(crate) bounds: Option<Arc<Bounds>>,
    /// Taken along by the connection that carries the attempt.
    pub(crate) usage: Option<Usage>,
}

/// The last: a cookie that the client is to be sent.
pub(crate) type Chosen<W> = (Picked<W>, Watch<W>, Option<http::HeaderValue>);

/// What is told how an attempt went.
#[derive(Debug)]
pub(crate) struct Watch<W: World> {
    pub(crate) endpoint: Arc<W::Endpoint>,
    pub(crate) key: W::Key,
    view: Option<(Arc<View<W>>, usize)>,
}

/// How an attempt went, as far as it says something of the endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Health {
    /// An answer that is no server's error.
    Good,
    /// Answered with 5xx.
    Error,
    /// 502, 503 or 504, or no answer.
    GatewayError,
    /// No connection.
    Unreached,
}

impl<W: World> Default for Balance<W> {
    fn default() -> Self {
        Self { policies: RwLock::default(), services: RwLock::default(), begun: Instant::now() }
    }
}

impl<W: World> Balance<W> {
    /// As [`crate::table::RouteTable::apply`], of policies by the names of their services.
    pub fn apply<'a>(
        &self,
        updates: impl IntoIterator<Item = (&'a str, &'a [u8])>,
        removed: &[String],
    ) -> Vec<(String, String)> {
        let mut refused = Vec::new();
        let mut touched = Vec::new();
        for name in removed {
            if let Ok(service) = ServiceKey::new(name.as_str()) {
                self.policies.write().remove(&service);
                touched.push(service);
            }
        }
        for (name, body) in updates {
            match decode(name, body) {
                Ok((service, policy)) => {
                    self.policies.write().insert(service.clone(), Arc::new(policy));
                    touched.push(service);
                }
                Err(problem) => refused.push((name.to_owned(), problem)),
            }
        }
        for service in touched {
            if let Some(service) = self.services.read().get(&service) {
                // Made anew, with the policy as it is then.
                service.views.write().clear();
            }
        }
        refused
    }

    /// Names of the services that have a policy.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.policies.read().keys().map(|key| key.as_str().to_owned()).collect();
        names.sort();
        names
    }

    /// Chooses an endpoint, and counts the attempt.
    pub(crate) fn choose(
        &self,
        candidates: &Arc<Candidates<W>>,
        choice: Choice<'_, W>,
    ) -> Result<Chosen<W>, UpstreamError> {
        let Some(key) = &candidates.service else {
            let only = candidates.list.first().ok_or_else(|| none("there is no endpoint".to_owned()))?;
            let (endpoint, key) = (only.endpoint.clone(), only.key.clone());
            let watch = Watch { endpoint: endpoint.clone(), key: key.clone(), view: None };
            let http2 = candidates.http2;
            return Ok((
                Picked { endpoint, key, http2, policy: None, bounds: None, usage: None },
                watch,
                None,
            ));
        };
        let service = self.service(key);
        let view = self.view(key, &service, candidates, choice.subset)?;
        let (at, cookie) = view.choose(self.now_ms(), choice);
        let chosen = &candidates.list[view.members[at].at];
        let request = match &view.policy {
            Some(policy) if policy.max_requests > 0 => {
                let place = service.bounds.take(Kind::Request, policy.max_requests);
                Some(place.ok_or_else(|| overloaded("as many requests as the service's policy allows"))?)
            }
            _ => None,
        };
        let picked = Picked {
            endpoint: chosen.endpoint.clone(),
            key: chosen.key.clone(),
            http2: candidates.http2,
            policy: view.policy.clone(),
            bounds: view.policy.is_some().then(|| service.bounds.clone()),
            usage: Some(Usage::new(view.members[at].state.clone(), request)),
        };
        let watch =
            Watch { endpoint: chosen.endpoint.clone(), key: chosen.key.clone(), view: Some((view, at)) };
        Ok((picked, watch, cookie))
    }

    /// A retry's place among those that the service's policy allows at a time.
    pub(crate) fn retry(&self, watch: Option<&Watch<W>>) -> Result<Option<Place>, ()> {
        let Some((view, _)) = watch.and_then(|watch| watch.view.as_ref()) else { return Ok(None) };
        match &view.policy {
            Some(policy) if policy.max_retries > 0 => {
                view.bounds.take(Kind::Retry, policy.max_retries).map(Some).ok_or(())
            }
            _ => Ok(None),
        }
    }

    /// Learns from how an attempt went.
    pub(crate) fn learn(&self, watch: &Watch<W>, health: Health) {
        if let Some((view, at)) = &watch.view {
            view.learn(*at, health, self.now_ms());
        }
    }

    /// Forgets services that were not asked for, for long. Called every few seconds.
    pub(crate) fn sweep(&self) {
        self.services.write().retain(|_, service| {
            let rounds = service.unused.fetch_add(1, Relaxed);
            rounds < FORGOTTEN_AFTER || service.bounds.is_used()
        });
    }

    fn now_ms(&self) -> u64 {
        self.begun.elapsed().as_millis() as u64
    }

    fn service(&self, key: &ServiceKey) -> Arc<Service<W>> {
        let known = self.services.read().get(key).cloned();
        let service = known.unwrap_or_else(|| self.services.write().entry(key.clone()).or_default().clone());
        if service.unused.load(Relaxed) != 0 {
            service.unused.store(0, Relaxed);
        }
        service
    }

    fn view(
        &self,
        key: &ServiceKey,
        service: &Service<W>,
        candidates: &Arc<Candidates<W>>,
        subset: Option<&str>,
    ) -> Result<Arc<View<W>>, UpstreamError> {
        let known = service.views.read().iter().find(|view| view.is_of(candidates, subset)).cloned();
        if let Some(view) = known {
            return Ok(view);
        }
        let mut views = service.views.write();
        // Read while no view can be cleared away: the policy is not older than the next clearing.
        let policy = self.policies.read().get(key).cloned();
        let mut members = service.members.lock();
        let view = View::new(candidates, subset, policy, service.bounds.clone(), |key| {
            members.entry(key.clone()).or_default().clone()
        });
        let view = Arc::new(view.map_err(|problem| none(format!("{key}: {problem}")))?);
        views.retain(|old| !old.is_before(&view));
        views.push(view.clone());
        // Members of no view are gone, unless something is under way to them.
        members.retain(|_, member| Arc::strong_count(member) > 1 || member.is_ejected(self.now_ms()));
        Ok(view)
    }
}

fn decode(name: &str, body: &[u8]) -> Result<(ServiceKey, TrafficPolicy), String> {
    let service = ServiceKey::new(name).map_err(|error| error.to_string())?;
    let message =
        wire::TrafficPolicy::decode(body).map_err(|error| format!("it is no TrafficPolicy: {error}"))?;
    Ok((service, policy::policy(&message).map_err(|error| error.to_string())?))
}

fn none(message: String) -> UpstreamError {
    UpstreamError { cause: Cause::NoEndpoint, message, policy: None, another: false }
}

/// Refused for now, with what is exhausted.
pub(crate) fn overloaded(what: &str) -> UpstreamError {
    let message = format!("{what} are under way already");
    UpstreamError { cause: Cause::Overloaded, message, policy: None, another: false }
}

/// A time of the contract; `None` where it is not given.
fn millis(ms: u32) -> Option<Duration> {
    (ms > 0).then(|| Duration::from_millis(ms.into()))
}
