//! Which endpoint of a service a connection goes to.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use meltemi_types::{ServiceKey, WorkloadUid};
use rand::Rng;
use tokio::time::{Duration, Instant};

use crate::Text;
use crate::ejection::ConnectOutcome;
use crate::families::{Fit, Reach, Unaddressed, address_for};
use crate::mesh::Mesh;
use crate::service::{BalanceMode, BalanceScope, LoadBalancing, Service};
use crate::store::{EndpointEntry, ServiceEntry};
use crate::workload::Workload;

/// How long after a service the first of its endpoints may come.
const SETTLING: Duration = Duration::from_millis(500);

/// A connection that needs an endpoint.
#[derive(Debug, Clone, Copy)]
pub struct SelectionRequest<'a> {
    pub service: &'a ServiceKey,
    pub service_port: u16,
    /// The workload that connects; its place decides what is near.
    pub source: &'a Workload,
    /// For client-IP affinity, and whose address family is preferred.
    pub client: IpAddr,
    /// Addresses that were tried for this connection and not reached: they are chosen only where there is
    /// nothing else.
    pub tried: &'a [IpAddr],
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndpointAddress {
    Ip(IpAddr),
    /// To be resolved by DNS at connection time.
    Hostname(Text),
    /// Only through `workload.network_gateway`.
    NetworkGateway,
}

/// Where a connection goes.
#[derive(Debug, Clone)]
pub struct Endpoint {
    pub service: Arc<Service>,
    pub workload: Arc<Workload>,
    pub address: EndpointAddress,
    /// The port of the workload.
    pub port: u16,
}

#[derive(Debug, Clone)]
pub enum Selection {
    Endpoint(Endpoint),
    /// The service asks that the connection go where it was dialled.
    Passthrough(Arc<Service>),
}

/// Why there is no endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    #[error("service {service} is no longer known")]
    ServiceGone { service: ServiceKey },
    #[error("service {service} has no port {port}")]
    NoSuchPort { service: ServiceKey, port: u16 },
    #[error(
        "service {service} has no endpoint for port {port}: of {known} known, {unhealthy} are not ready, \
         {elsewhere} are out of its traffic distribution's reach, {other_family} have only addresses of a \
         family (IPv4, IPv6) that the client has not"
    )]
    NoEndpoint {
        service: ServiceKey,
        port: u16,
        known: usize,
        unhealthy: usize,
        elsewhere: usize,
        other_family: usize,
    },
}

/// Up to so many endpoints are looked at one by one for every connection, and take turns.
const FEW: usize = 16;

/// All endpoints of a service that a connection may go to, for whoever makes a choice of its own.
#[derive(Debug, Clone)]
pub struct Endpoints {
    pub service: Arc<Service>,
    /// The nearest first, with how many steps they are from these: 0 for those that [`Mesh::select`] chooses
    /// among. Otherwise by workload.
    pub list: Vec<(u32, Endpoint)>,
}

#[derive(Clone, Copy)]
struct Candidate<'a> {
    entry: &'a EndpointEntry,
    port: u16,
    reach: Reach<'a>,
    fit: Fit,
    rank: usize,
}

impl Candidate<'_> {
    /// A greater one goes before a smaller one.
    fn order(&self) -> (Fit, usize) {
        (self.fit, self.rank)
    }
}

/// Why an endpoint is no candidate.
enum Unfit {
    /// It does not serve the port, or has no address.
    Unsuited,
    OtherFamily,
    Unhealthy,
    Elsewhere,
}

impl Mesh {
    /// Chooses among the endpoints that serve the port, are healthy (or the service takes all), and
    /// are within reach; of these among those with an address of the client's family, if there are any;
    /// of these among the nearest; of these avoiding those that recently failed to connect, unless all
    /// did. One that a client's affinity names goes first.
    pub fn select(&self, request: SelectionRequest<'_>) -> Result<Selection, SelectError> {
        let store = self.store.read();
        let gone = || SelectError::ServiceGone { service: request.service.clone() };
        let entry = store.services.get(request.service).ok_or_else(gone)?;
        let service = entry.service.as_ref().ok_or_else(gone)?;
        self.touch(&service.last_used);
        if service.load_balancing.mode == BalanceMode::Passthrough {
            return Ok(Selection::Passthrough(service.clone()));
        }
        let port = service.port(request.service_port).ok_or_else(|| SelectError::NoSuchPort {
            service: request.service.clone(),
            port: request.service_port,
        })?;
        let chosen = match self.at_random(entry, service, port.target_port, &request) {
            Some(candidate) => candidate,
            None => {
                let candidates = candidates(entry, service, port.target_port, &request)?;
                self.choose(entry, service, &candidates, request.client)
            }
        };
        Ok(Selection::Endpoint(Endpoint {
            service: service.clone(),
            workload: chosen.entry.workload.clone(),
            address: chosen.reach.into(),
            port: chosen.port,
        }))
    }

    /// What [`Mesh::select`] would choose among, and what there is where that fails. `None`: the service leaves
    /// the choice to its callers.
    pub fn endpoints(&self, request: SelectionRequest<'_>) -> Result<Option<Endpoints>, SelectError> {
        let store = self.store.read();
        let gone = || SelectError::ServiceGone { service: request.service.clone() };
        let entry = store.services.get(request.service).ok_or_else(gone)?;
        let service = entry.service.as_ref().ok_or_else(gone)?;
        self.touch(&service.last_used);
        if service.load_balancing.mode == BalanceMode::Passthrough {
            return Ok(None);
        }
        let port = service.port(request.service_port).ok_or_else(|| SelectError::NoSuchPort {
            service: request.service.clone(),
            port: request.service_port,
        })?;
        let mut found = all_that_fit(entry, service, port.target_port, &request)?;
        found.sort_by(|a, b| {
            let uid = |candidate: &Candidate<'_>| candidate.entry.workload.uid.text().clone();
            b.order().cmp(&a.order()).then_with(|| uid(a).cmp(&uid(b)))
        });
        let mut steps = 0;
        let mut before = found.first().map(Candidate::order);
        let list = found.iter().map(|candidate| {
            steps += u32::from(before != Some(candidate.order()));
            before = Some(candidate.order());
            let endpoint = Endpoint {
                service: service.clone(),
                workload: candidate.entry.workload.clone(),
                address: candidate.reach.into(),
                port: candidate.port,
            };
            (steps, endpoint)
        });
        Ok(Some(Endpoints { service: service.clone(), list: list.collect() }))
    }

    /// As [`Mesh::select`], for a service whose endpoints may still be on their way because it was
    /// only just told of: waits for the first of them, at most half a second.
    pub async fn select_endpoint(&self, request: SelectionRequest<'_>) -> Result<Selection, SelectError> {
        let mut answers = self.answers.subscribe();
        loop {
            let error = match self.select(request) {
                Err(error @ SelectError::NoEndpoint { known: 0, .. }) => error,
                result => return result,
            };
            let Some(settled) = self.settled_at(request.service) else { return Err(error) };
            match tokio::time::timeout_at(settled, answers.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Err(error),
            }
        }
    }

    /// Tells how an attempt to reach an endpoint ended, so that the next connections avoid it.
    pub fn report(&self, endpoint: &WorkloadUid, port: u16, outcome: ConnectOutcome) {
        self.ejections.report(endpoint, port, outcome);
    }

    fn settled_at(&self, service: &ServiceKey) -> Option<Instant> {
        Some(self.store.read().services.get(service)?.known_since? + SETTLING)
    }

    /// Of many endpoints that are all alike to the service, one at random that is fit, without looking
    /// at all of them.
    fn at_random<'a>(
        &self,
        entry: &'a ServiceEntry,
        service: &Service,
        service_target: Option<u16>,
        request: &SelectionRequest<'_>,
    ) -> Option<Candidate<'a>> {
        let alike = service.load_balancing.mode == BalanceMode::Standard
            && service.affinity.is_none()
            && entry.weighted == 0;
        if !alike || entry.endpoints.len() <= FEW {
            return None;
        }
        (0..4).find_map(|_| {
            let endpoint = &entry.endpoints[rand::rng().random_range(0..entry.endpoints.len())];
            let candidate = examine(endpoint, service, service_target, request).ok()?;
            (candidate.fit == Fit::SameFamily && !self.is_ejected(&candidate)).then_some(candidate)
        })
    }

    fn choose<'a>(
        &self,
        entry: &ServiceEntry,
        service: &Service,
        candidates: &[Candidate<'a>],
        client: IpAddr,
    ) -> Candidate<'a> {
        let usable: Vec<Candidate<'a>> =
            candidates.iter().filter(|candidate| !self.is_ejected(candidate)).copied().collect();
        let usable = if usable.is_empty() { candidates } else { &usable };
        let Some(affinity) = service.affinity else { return balance(entry, usable) };
        let remembered = self.affinities.get(&service.key, client);
        let chosen = usable
            .iter()
            .find(|candidate| remembered.as_ref() == Some(&candidate.entry.workload.uid))
            .copied()
            .unwrap_or_else(|| rendezvous(usable, client));
        self.affinities.remember(&service.key, client, &chosen.entry.workload.uid, affinity.timeout);
        chosen
    }

    fn is_ejected(&self, candidate: &Candidate<'_>) -> bool {
        self.ejections.is_ejected(&candidate.entry.workload.uid, candidate.port)
    }
}

/// Endpoints that are no candidates, by why.
#[derive(Default)]
struct Left {
    unhealthy: usize,
    elsewhere: usize,
    other_family: usize,
}

/// The nearest of the endpoints that are fit; never empty.
fn candidates<'a>(
    entry: &'a ServiceEntry,
    service: &Service,
    service_target: Option<u16>,
    request: &SelectionRequest<'_>,
) -> Result<Vec<Candidate<'a>>, SelectError> {
    let mut found = all_that_fit(entry, service, service_target, request)?;
    let best = found.iter().map(Candidate::order).max();
    found.retain(|candidate| Some(candidate.order()) == best);
    Ok(found)
}

/// The endpoints that are fit, near and far; never empty.
fn all_that_fit<'a>(
    entry: &'a ServiceEntry,
    service: &Service,
    service_target: Option<u16>,
    request: &SelectionRequest<'_>,
) -> Result<Vec<Candidate<'a>>, SelectError> {
    let mut left = Left::default();
    let mut found: Vec<Candidate<'a>> = Vec::with_capacity(entry.endpoints.len());
    for endpoint in &entry.endpoints {
        match examine(endpoint, service, service_target, request) {
            Ok(candidate) => found.push(candidate),
            Err(Unfit::Unsuited) => {}
            Err(Unfit::OtherFamily) => left.other_family += 1,
            Err(Unfit::Unhealthy) => left.unhealthy += 1,
            Err(Unfit::Elsewhere) => left.elsewhere += 1,
        }
    }
    if found.is_empty() {
        return Err(SelectError::NoEndpoint {
            service: service.key.clone(),
            port: request.service_port,
            known: entry.endpoints.len(),
            unhealthy: left.unhealthy,
            elsewhere: left.elsewhere,
            other_family: left.other_family,
        });
    }
    Ok(found)
}

fn examine<'a>(
    endpoint: &'a EndpointEntry,
    service: &Service,
    service_target: Option<u16>,
    request: &SelectionRequest<'_>,
) -> Result<Candidate<'a>, Unfit> {
    let workload = &*endpoint.workload;
    let port = target_port(endpoint, request.service_port, service_target).ok_or(Unfit::Unsuited)?;
    let (fit, reach) = address_for(workload, service.ip_families, request).map_err(|none| match none {
        Unaddressed::NoAddress => Unfit::Unsuited,
        Unaddressed::OtherFamily => Unfit::OtherFamily,
    })?;
    if (!workload.healthy && !service.load_balancing.allow_unhealthy) || workload.capacity == 0 {
        return Err(Unfit::Unhealthy);
    }
    let rank = rank(&service.load_balancing, request.source, workload).ok_or(Unfit::Elsewhere)?;
    Ok(Candidate { entry: endpoint, port, reach, fit, rank })
}

/// The endpoint's own mapping goes before the service's.
fn target_port(endpoint: &EndpointEntry, service_port: u16, service_target: Option<u16>) -> Option<u16> {
    let own = endpoint.ports.iter().find(|mapping| mapping.service_port == service_port);
    own.and_then(|mapping| mapping.target_port).or(service_target)
}

/// How near the workload is: how many scopes match, counted from the first until one does not.
/// `None`: out of reach. A preferred network outweighs all that follows it, and does not keep the
/// endpoints of other networks from being ranked among themselves.
fn rank(balancing: &LoadBalancing, source: &Workload, workload: &Workload) -> Option<usize> {
    if balancing.mode == BalanceMode::Standard {
        return Some(0);
    }
    let matches = |scope: &&BalanceScope| match scope {
        BalanceScope::Region => source.locality.region == workload.locality.region,
        BalanceScope::Zone => source.locality.zone == workload.locality.zone,
        BalanceScope::Subzone => source.locality.subzone == workload.locality.subzone,
        BalanceScope::Node => source.node == workload.node,
        BalanceScope::Cluster => source.cluster_id == workload.cluster_id,
        BalanceScope::Network => source.network == workload.network,
    };
    let scopes = &balancing.scopes;
    let matched = scopes.iter().take_while(matches).count();
    if balancing.mode == BalanceMode::Strict && matched != scopes.len() {
        return None;
    }
    match scopes.first() {
        Some(BalanceScope::Network) if matched > 0 => Some(matched + scopes.len()),
        Some(BalanceScope::Network) => Some(scopes.iter().skip(1).take_while(matches).count()),
        _ => Some(matched),
    }
}

/// Equal weights take turns, or are drawn where they are many; different ones are drawn in proportion.
fn balance<'a>(entry: &ServiceEntry, usable: &[Candidate<'a>]) -> Candidate<'a> {
    let weight = |candidate: &Candidate<'_>| u64::from(candidate.entry.workload.capacity);
    let first = weight(&usable[0]);
    if usable.iter().all(|candidate| weight(candidate) == first) {
        let turn = match entry.endpoints.len() {
            0..=FEW => entry.turn.fetch_add(1, Ordering::Relaxed) as usize,
            _ => rand::rng().random_range(0..usable.len()),
        };
        return usable[turn % usable.len()];
    }
    let total: u64 = usable.iter().map(weight).sum();
    let mut drawn = rand::rng().random_range(0..total);
    for candidate in usable {
        match drawn.checked_sub(weight(candidate)) {
            Some(rest) => drawn = rest,
            None => return *candidate,
        }
    }
    usable[0]
}

/// The same client gets the same endpoint of the same set, also after a restart, and another one
/// only if its own goes.
fn rendezvous<'a>(usable: &[Candidate<'a>], client: IpAddr) -> Candidate<'a> {
    let hasher = BuildHasherDefault::<DefaultHasher>::default();
    usable
        .iter()
        .max_by_key(|candidate| hasher.hash_one((client, candidate.entry.workload.uid.as_str())))
        .copied()
        .unwrap_or(usable[0])
}
