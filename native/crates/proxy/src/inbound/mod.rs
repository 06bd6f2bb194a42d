//! Connections to a pod: through tunnels, and in plaintext where policy lets it.
mod hbone;
mod judge;
mod plaintext;
mod stream;
mod waypoint;

pub(crate) use hbone::serve as serve_hbone;
pub(crate) use plaintext::serve as serve_plaintext;

use crate::connections::{Closed, Judged, Tracked};
use crate::failure::Failure;
use crate::labels;
use crate::pod::Pod;
use meltemi_capture::{PORT_HBONE, PORT_INBOUND_PLAINTEXT, PORT_OUTBOUND, Upstream, UpstreamKind};
use meltemi_identity::Standing;
use meltemi_policy::ConnectionFacts;
use meltemi_state::{Lookup, Workload};
use meltemi_telemetry::{
    ConnectionInfo, ConnectionRecord, Protocol, Reporter, SecurityPolicy, TrafficLabels, WorkloadLabels,
};
use meltemi_tunnel::Baggage;
use meltemi_types::{ClientAddress, Identity, NetworkAddress};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;
use tokio::net::TcpStream;

/// What a connection to a pod arrives with.
struct Arrival {
    accepted: Instant,
    client: SocketAddr,
    /// The pod's own address and port.
    destination: SocketAddr,
    identity: Option<Identity>,
    /// How the client proved its identity.
    standing: Option<Arc<Standing>>,
    /// The service that the client's node says it addressed.
    service: Option<String>,
    /// What the client's node says of its pod. Only its identity is proven: this labels, and decides nothing.
    claimed: Option<Baggage>,
    /// `:authority` of the CONNECT.
    authority: Option<Arc<str>>,
    /// The pod's waypoint made it for several callers, and judges each of their requests.
    shared: bool,
}

impl Arrival {
    fn facts(&self) -> ConnectionFacts {
        ConnectionFacts::new(ClientAddress::new(self.client), self.identity.clone(), self.destination)
    }

    /// What the client's node says of its pod, as far as it does not contradict the proven identity.
    fn claim(&self) -> Option<Arc<WorkloadLabels>> {
        let claimed = self.claimed.as_ref().filter(|claimed| !claimed.workload.is_empty())?;
        let identity = self.identity.as_ref()?;
        (claimed.namespace == identity.namespace()).then(|| labels::of_baggage(claimed))
    }

    /// Opens its record and enters it among the open connections.
    fn open(&self, pod: &Pod, workload: Option<&Arc<Workload>>) -> (ConnectionRecord, Tracked) {
        let mesh = &pod.node.mesh;
        let source = NetworkAddress::new(pod.node.settings.network.clone(), self.client.ip());
        // Only for the record: nobody is asked; what is not known here is as the client's node says.
        let (source_name, source) = match mesh.lookup(&source, &pod.info.namespace) {
            Lookup::Workload(workload) => (Some(workload.name.clone()), Some(labels::of_workload(&workload))),
            _ => match self.claim() {
                Some(claim) => (Some(claim.workload.clone()), Some(claim)),
                None => (None, None),
            },
        };
        let service = workload.and_then(|workload| {
            let host = self.service.as_deref();
            let key = workload.services.iter().map(|entry| &entry.service);
            let key = match host {
                Some(host) => key.clone().find(|key| key.hostname() == host),
                None => key.clone().next().filter(|_| workload.services.len() == 1),
            };
            mesh.service(key?)
        });
        let tunnel = self.authority.is_some();
        let record = pod.node.telemetry.open(ConnectionInfo {
            protocol: if tunnel { Protocol::Hbone } else { Protocol::Tcp },
            accepted: self.accepted,
            src_addr: self.client,
            dst_addr: self.destination,
            dst_hbone_addr: self.authority.clone(),
            src_workload: source_name,
            dst_workload: Some(pod.info.name.as_str().into()),
            labels: TrafficLabels {
                reporter: Reporter::Destination,
                source,
                source_principal: self.identity.as_ref().map(|identity| identity.uri().into()),
                destination: workload.map(|workload| labels::of_workload(workload)),
                destination_principal: tunnel.then(|| pod.identity.uri().into()),
                destination_service: service.as_deref().map(labels::of_service),
                security_policy: if tunnel { SecurityPolicy::MutualTls } else { SecurityPolicy::Unknown },
            },
        });
        let judged = workload.filter(|_| !self.shared).map(|workload| Judged {
            workload: workload.clone(),
            facts: self.facts(),
            policies: None,
        });
        let tracked = pod.node.connections.track(record.id(), &pod.info.uid, judged, self.standing.clone());
        (record, tracked)
    }
}

/// True for ports that are the data plane's own.
fn is_proxy_port(port: u16) -> bool {
    matches!(port, PORT_OUTBOUND | PORT_INBOUND_PLAINTEXT | PORT_HBONE)
}

/// Connects to the application as the client: it sees the client's own address.
async fn connect_application(
    pod: &Pod,
    client: IpAddr,
    destination: SocketAddr,
) -> Result<TcpStream, Failure> {
    let settings = &pod.node.settings;
    let same_family = client.is_ipv4() == destination.is_ipv4();
    let upstream = Upstream {
        destination,
        apart: true,
        source: (same_family && !client.is_loopback()).then_some(client),
        kind: UpstreamKind::Own,
        timeout: settings.connect_timeout,
        keepalive: settings.keepalive,
    };
    Ok(upstream.connect(&pod.netns).await?)
}

/// Tells the record why a connection was ended from outside.
fn closed(record: &mut ConnectionRecord, closed: Closed) {
    if let Some(policy) = closed.policy {
        record.set_policy(policy, meltemi_telemetry::PolicyAction::Deny);
    }
    record.fail(closed.reason, closed.error);
}
