//! A mesh filled as discovery fills it, and what can be built for it.

mod apply;
mod families;
mod fuzz;
mod lookup;
mod policies;
mod release;
mod selection;

use std::sync::Arc;
use std::time::Duration;

use meltemi_types::discovery::{Batch, Demander, Rejection, ResourceSink, ResourceType, ResourceUpdate};
use meltemi_types::workload::{
    self as wire, Address, NetworkAddress, Port, PortList, Service, TunnelProtocol, Workload, address,
};
use meltemi_types::{ServiceKey, WorkloadUid};
use parking_lot::Mutex;
use prost::Message;
use tokio::time::Instant;

use crate::{Mesh, MeshOptions};

pub(crate) const NODE: &str = "node-a";

/// A demander that remembers what it was asked.
#[derive(Debug, Default)]
pub(crate) struct Asked(pub(crate) Mutex<Vec<String>>);

impl Demander for Asked {
    fn demand(&self, name: &str) {
        self.0.lock().push(name.into());
    }
}

pub(crate) fn on_demand() -> (Mesh, Arc<Asked>) {
    let mesh = Mesh::new(MeshOptions { node: NODE.into(), ..MeshOptions::default() });
    let asked = Arc::new(Asked::default());
    mesh.connect(asked.clone());
    (mesh, asked)
}

/// A mesh that is sent everything, with these resources, synced.
pub(crate) fn wildcard(resources: Vec<ResourceUpdate>) -> Mesh {
    let mesh = Mesh::new(MeshOptions { node: NODE.into(), on_demand: false, ..MeshOptions::default() });
    assert_eq!(put(&mesh, resources), vec![]);
    mesh.synced(ResourceType::Address);
    mesh.synced(ResourceType::Authorization);
    mesh
}

pub(crate) fn put(mesh: &Mesh, updates: Vec<ResourceUpdate>) -> Vec<Rejection> {
    apply(mesh, ResourceType::Address, updates, &[])
}

pub(crate) fn remove(mesh: &Mesh, names: &[&str]) {
    assert_eq!(apply(mesh, ResourceType::Address, vec![], names), vec![]);
}

pub(crate) fn apply(
    mesh: &Mesh,
    resource_type: ResourceType,
    updates: Vec<ResourceUpdate>,
    removed: &[&str],
) -> Vec<Rejection> {
    let removed = removed.iter().map(ToString::to_string).collect();
    mesh.apply(Batch { resource_type, updates, removed })
}

pub(crate) fn pod_uid(name: &str) -> String {
    format!("Kubernetes//Pod/shop/{name}")
}

pub(crate) fn uid(name: &str) -> WorkloadUid {
    WorkloadUid::new(pod_uid(name)).unwrap()
}

/// A healthy pod of the mesh in namespace shop, on another node.
pub(crate) fn pod(name: &str, ip: &str) -> Workload {
    Workload {
        uid: pod_uid(name),
        name: name.into(),
        namespace: "shop".into(),
        addresses: if ip.is_empty() { vec![] } else { vec![bytes(ip)] },
        tunnel_protocol: TunnelProtocol::Hbone.into(),
        service_account: "web".into(),
        node: "node-b".into(),
        cluster_id: "Kubernetes".into(),
        ..Workload::default()
    }
}

/// With this pod as an endpoint, on target port 8080 for service port 80.
pub(crate) fn serving(mut pod: Workload, service: &str) -> Workload {
    let ports = vec![Port { service_port: 80, target_port: 8080, app_protocol: 0 }];
    pod.services.insert(service_key(service).to_string(), PortList { ports });
    pod
}

pub(crate) fn service_key(name: &str) -> ServiceKey {
    ServiceKey::from_parts("shop", &format!("{name}.shop.svc.cluster.local")).unwrap()
}

pub(crate) fn service(name: &str, vip: &str) -> Service {
    Service {
        name: name.into(),
        namespace: "shop".into(),
        hostname: service_key(name).hostname().into(),
        addresses: if vip.is_empty() { vec![] } else { vec![network_address(vip)] },
        ports: vec![Port { service_port: 80, target_port: 0, app_protocol: 0 }],
        ..Service::default()
    }
}

pub(crate) fn network_address(ip: &str) -> NetworkAddress {
    NetworkAddress { network: String::new(), address: bytes(ip), length: None }
}

pub(crate) fn bytes<B: From<Vec<u8>>>(ip: &str) -> B {
    match ip.parse().unwrap() {
        std::net::IpAddr::V4(v4) => v4.octets().to_vec().into(),
        std::net::IpAddr::V6(v6) => v6.octets().to_vec().into(),
    }
}

pub(crate) fn update(content: impl Into<Content>) -> ResourceUpdate {
    let (name, kind) = match content.into() {
        Content::Workload(workload) => (workload.uid.clone(), address::Type::Workload(*workload)),
        Content::Service(service) => {
            (format!("{}/{}", service.namespace, service.hostname), address::Type::Service(*service))
        }
    };
    let body = Address { r#type: Some(kind) }.encode_to_vec().into();
    ResourceUpdate { name, aliases: vec![], body }
}

pub(crate) fn aliased(mut update: ResourceUpdate, alias: &str) -> ResourceUpdate {
    update.aliases.push(alias.into());
    update
}

pub(crate) enum Content {
    Workload(Box<Workload>),
    Service(Box<Service>),
}

impl From<Workload> for Content {
    fn from(workload: Workload) -> Self {
        Self::Workload(Box::new(workload))
    }
}

impl From<Service> for Content {
    fn from(service: Service) -> Self {
        Self::Service(Box::new(service))
    }
}

pub(crate) fn at(text: &str) -> meltemi_types::NetworkAddress {
    text.parse().unwrap()
}

pub(crate) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

/// What an address stands for, in a word.
pub(crate) fn told(lookup: &crate::Lookup) -> String {
    match lookup {
        crate::Lookup::Service(service) => service.key.to_string(),
        crate::Lookup::Workload(workload) => workload.name.to_string(),
        crate::Lookup::Negative => "negative".into(),
        crate::Lookup::Hidden => "hidden".into(),
        crate::Lookup::Unknown => "unknown".into(),
    }
}

pub(crate) use wire::service::Visibility;
