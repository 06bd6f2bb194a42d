//! The endpoints that requests may go to, as the HTTP core is given them: made once, and again when what is known
//! of the mesh has changed. Which of them are near is as it is for nodes (traffic distribution, locality).
use super::Waypoint;
use super::endpoint::{Endpoint, Unreached};
use super::served::Reading;
use super::world::{Client, HttpEndpoint};
use hashbrown::{Equivalent, HashMap};
use meltemi_http::{Candidate, Candidates, Cause, Wanted};
use meltemi_state::{AppProtocol, EndpointAddress, Endpoints, SelectError, SelectionRequest, Service};
use meltemi_telemetry::Reason;
use meltemi_types::ServiceKey;
use parking_lot::RwLock;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::time::Instant;

/// What a set of candidates is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Slot<K> {
    service: K,
    port: u16,
    /// The client's family, which is preferred.
    ipv4: bool,
    /// As the client's connection is read; `None` for a backend, which is spoken to as its own port says.
    http2: Option<bool>,
}

impl Equivalent<Slot<ServiceKey>> for Slot<&ServiceKey> {
    fn equivalent(&self, held: &Slot<ServiceKey>) -> bool {
        let Slot { service, port, ipv4, http2 } = held;
        (self.service, self.port, self.ipv4, self.http2) == (service, *port, *ipv4, *http2)
    }
}

/// Counts of changes: of workloads, of services, of what is served.
type Version = (u64, u64, u64);

#[derive(Debug)]
struct Held {
    version: Version,
    service: Arc<Service>,
    candidates: Arc<Candidates<Waypoint>>,
}

#[derive(Debug, Default)]
pub(super) struct CandidateTable {
    held: RwLock<HashMap<Slot<ServiceKey>, Held>>,
}

impl Waypoint {
    /// Where a client's request may go.
    pub(super) async fn candidates_for(
        &self,
        client: &Client,
        wanted: Wanted<'_>,
    ) -> Result<Arc<Candidates<Self>>, Unreached> {
        let ipv4 = client.caller_ip().is_ipv4();
        let slot = match (wanted, &client.service) {
            (Wanted::Service { service, port }, _) => Slot { service, port, ipv4, http2: None },
            (Wanted::Parent, Some(service)) => {
                Slot { service: &service.key, port: client.port, ipv4, http2: Some(client.http2_backend) }
            }
            (Wanted::Parent, None) => return itself(client),
        };
        let version = self.version();
        if let Some(held) = self.candidates.held.read().get(&slot).filter(|held| held.version == version) {
            self.mesh.used(&held.service);
            return Ok(held.candidates.clone());
        }
        self.look_up(client, slot, version).await
    }

    fn version(&self) -> Version {
        let mesh = self.mesh.version();
        (mesh.workloads, mesh.services, self.served.version())
    }

    async fn look_up(
        &self,
        client: &Client,
        slot: Slot<&ServiceKey>,
        version: Version,
    ) -> Result<Arc<Candidates<Self>>, Unreached> {
        let deadline = Instant::now() + self.settings.connect_timeout;
        let key = slot.service;
        if self.mesh.resolve_service(key, deadline).await?.is_none() {
            return Err(none(format!("service {key} does not exist")));
        }
        let request = SelectionRequest {
            service: key,
            service_port: slot.port,
            source: &client.own,
            client: client.caller_ip(),
            tried: &[],
        };
        let endpoints = match self.mesh.endpoints(request) {
            // The first endpoint of a service that was only just told of may be on its way.
            Err(SelectError::NoEndpoint { known: 0, .. }) => {
                self.mesh.select_endpoint(request).await.map_err(|error| none(error.to_string()))?;
                self.mesh.endpoints(request)
            }
            other => other,
        };
        let endpoints = endpoints.map_err(|error| none(error.to_string()))?.ok_or_else(|| {
            none(format!("{key} leaves the choice to its callers, and a waypoint has none"))
        })?;
        let http2 = slot.http2.unwrap_or_else(|| self.speaks_http2(&endpoints.service, slot.port));
        let slot = Slot { service: key.clone(), port: slot.port, ipv4: slot.ipv4, http2: slot.http2 };
        let mut hasher = DefaultHasher::new();
        slot.hash(&mut hasher);
        let service = endpoints.service.clone();
        let candidates = Arc::new(Candidates {
            service: Some(key.clone()),
            slot: hasher.finish(),
            sticky: service.affinity.is_some(),
            list: self.list(client, endpoints, http2)?,
            http2,
        });
        let mut held = self.candidates.held.write();
        // What was made of an older mesh is made anew when it is asked for, or nobody asks any more.
        held.retain(|_, held| held.version == version);
        held.insert(slot, Held { version, service, candidates: candidates.clone() });
        Ok(candidates)
    }

    fn list(
        &self,
        client: &Client,
        endpoints: Endpoints,
        http2: bool,
    ) -> Result<Box<[Candidate<Self>]>, Unreached> {
        let key = endpoints.service.key.clone();
        let list: Box<[_]> = endpoints
            .list
            .into_iter()
            .filter_map(|(steps, chosen)| {
                let EndpointAddress::Ip(ip) = chosen.address else { return None };
                if *chosen.workload.network != *self.settings.network {
                    return None;
                }
                let address = SocketAddr::new(ip, chosen.port);
                let uid = chosen.workload.uid.text().clone();
                let weight = chosen.workload.capacity;
                let endpoint = Endpoint {
                    workload: chosen.workload,
                    service: Some(chosen.service),
                    address,
                    alternatives: true,
                };
                let endpoint = Arc::new(HttpEndpoint { endpoint, own: client.own.clone() });
                Some(Candidate { endpoint, key: (uid.clone(), address, http2), uid, weight, steps })
            })
            .collect();
        match list.is_empty() {
            true => Err(none(format!("no endpoint of {key} has an address of its own on this network"))),
            false => Ok(list),
        }
    }

    /// Of a backend: as it is served here, else as its own port says.
    fn speaks_http2(&self, service: &Service, port: u16) -> bool {
        let served = self.served.get(service.key.as_str()).and_then(|served| served.reading(port));
        if let Some(Reading::Http { http2_backend, .. }) = served {
            return http2_backend;
        }
        let mapping = service.port(port);
        mapping.is_some_and(|port| matches!(port.app_protocol, AppProtocol::Http2 | AppProtocol::Grpc))
    }
}

/// A workload that was asked for by its own address.
fn itself(client: &Client) -> Result<Arc<Candidates<Waypoint>>, Unreached> {
    let workload = client.workload.as_ref().ok_or_else(|| none("nothing was asked for".to_owned()))?;
    let made = || {
        let address = SocketAddr::new(client.asked_ip, client.port);
        let endpoint = Endpoint { workload: workload.clone(), service: None, address, alternatives: false };
        let uid = workload.uid.text().clone();
        let candidate = Candidate {
            endpoint: Arc::new(HttpEndpoint { endpoint, own: client.own.clone() }),
            key: (uid.clone(), address, client.http2_backend),
            uid,
            weight: 1,
            steps: 0,
        };
        Arc::new(Candidates {
            service: None,
            slot: 0,
            list: [candidate].into(),
            http2: client.http2_backend,
            sticky: false,
        })
    };
    Ok(client.itself.get_or_init(made).clone())
}

fn none(error: String) -> Unreached {
    Unreached::new(Cause::NoEndpoint, Reason::NoEndpoint, error)
}
