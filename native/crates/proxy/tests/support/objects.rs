//! Discovery's objects, as short as tests want them.
use super::control::Object;
use meltemi_types::discovery::ResourceType;
use meltemi_types::security::{Action, Authorization, Clause, Match, Rule, Scope, StringMatch, string_match};
use meltemi_types::workload::{self, Address, NetworkAddress, Port, PortList, Service, Workload, address};
use prost::Message;
use std::net::Ipv4Addr;

#[derive(Debug, Clone)]
pub struct PodSpec {
    pub name: &'static str,
    pub ip: Ipv4Addr,
    pub account: &'static str,
    pub node: &'static str,
    /// In the mesh.
    pub hbone: bool,
    pub services: Vec<(&'static str, u16, u16)>,
    pub policies: Vec<&'static str>,
}

impl PodSpec {
    pub fn uid(&self) -> String {
        format!("Kubernetes//Pod/default/{}", self.name)
    }

    pub fn object(&self) -> Object {
        let services = self.services.iter().map(|(host, port, target)| {
            let port = Port { service_port: (*port).into(), target_port: (*target).into(), app_protocol: 0 };
            (format!("default/{host}"), PortList { ports: vec![port] })
        });
        let message = Workload {
            uid: self.uid(),
            name: self.name.into(),
            namespace: "default".into(),
            addresses: vec![self.ip.octets().to_vec().into()],
            tunnel_protocol: if self.hbone {
                workload::TunnelProtocol::Hbone
            } else {
                workload::TunnelProtocol::None
            }
            .into(),
            trust_domain: "cluster.local".into(),
            service_account: self.account.into(),
            node: self.node.into(),
            canonical_name: self.name.into(),
            canonical_revision: "v1".into(),
            workload_name: self.name.into(),
            services: services.collect(),
            authorization_policies: self.policies.iter().map(|p| format!("default/{p}")).collect(),
            cluster_id: "Kubernetes".into(),
            ..Workload::default()
        };
        Object {
            kind: ResourceType::Address,
            name: self.uid(),
            aliases: vec![format!("/{}", self.ip)],
            body: Address { r#type: Some(address::Type::Workload(message)) }.encode_to_vec(),
            node: Some(self.node.into()),
            endpoint_of: self.services.iter().map(|(host, ..)| format!("default/{host}")).collect(),
        }
    }
}

pub fn service(host: &str, vip: Ipv4Addr, port: u16, target: u16) -> Object {
    let message = Service {
        name: host.split('.').next().unwrap().into(),
        namespace: "default".into(),
        hostname: host.into(),
        addresses: vec![NetworkAddress {
            network: String::new(),
            address: vip.octets().to_vec().into(),
            length: None,
        }],
        ports: vec![Port { service_port: port.into(), target_port: target.into(), app_protocol: 0 }],
        ..Service::default()
    };
    Object {
        kind: ResourceType::Address,
        name: format!("default/{host}"),
        aliases: vec![format!("/{vip}")],
        body: Address { r#type: Some(address::Type::Service(message)) }.encode_to_vec(),
        node: None,
        endpoint_of: Vec::new(),
    }
}

/// A service that claims an address and leaves its connections where they were dialled.
pub fn passthrough_service(host: &str, address: Ipv4Addr, port: u16) -> Object {
    let mut object = service(host, address, port, port);
    let mut message = Address::decode(object.body.as_slice()).unwrap();
    let Some(address::Type::Service(service)) = &mut message.r#type else { panic!("no service") };
    let mode = workload::load_balancing::Mode::Passthrough.into();
    service.load_balancing = Some(workload::LoadBalancing { mode, ..Default::default() });
    object.body = message.encode_to_vec();
    object
}

fn policy(name: &str, action: Action, matched: Match) -> Object {
    let message = Authorization {
        name: name.into(),
        namespace: "default".into(),
        scope: Scope::WorkloadSelector.into(),
        action: action.into(),
        rules: vec![Rule { clauses: vec![Clause { matches: vec![matched] }] }],
        ..Authorization::default()
    };
    Object {
        kind: ResourceType::Authorization,
        name: format!("default/{name}"),
        aliases: Vec::new(),
        body: message.encode_to_vec(),
        node: None,
        endpoint_of: Vec::new(),
    }
}

fn exact(text: String) -> StringMatch {
    StringMatch { match_type: Some(string_match::MatchType::Exact(text)) }
}

fn principal(account: &str) -> String {
    format!("cluster.local/ns/default/sa/{account}")
}

pub fn deny_account(name: &str, account: &str) -> Object {
    policy(name, Action::Deny, Match { principals: vec![exact(principal(account))], ..Match::default() })
}

pub fn allow_account(name: &str, account: &str) -> Object {
    policy(name, Action::Allow, Match { principals: vec![exact(principal(account))], ..Match::default() })
}

/// STRICT as the control plane compiles it: no connection without an identity.
pub fn strict() -> Object {
    let anyone = StringMatch { match_type: Some(string_match::MatchType::Presence(())) };
    let matched = Match { not_principals: vec![anyone], ..Match::default() };
    policy("istio_converted_static_strict", Action::Deny, matched)
}

fn change(mut object: Object, how: impl FnOnce(&mut address::Type)) -> Object {
    let mut message = Address::decode(object.body.as_slice()).unwrap();
    how(message.r#type.as_mut().unwrap());
    object.body = message.encode_to_vec();
    object
}

/// A workload or service that is reached through a waypoint.
pub fn behind(object: Object, destination: workload::gateway_address::Destination) -> Object {
    let waypoint = workload::GatewayAddress { destination: Some(destination), hbone_mtls_port: 15008 };
    change(object, |what| match what {
        address::Type::Workload(workload) => workload.waypoint = Some(waypoint),
        address::Type::Service(service) => service.waypoint = Some(waypoint),
    })
}

/// A service that somebody made in another namespace than `default`.
pub fn in_namespace(namespace: &str, object: Object) -> Object {
    let mut object = change(object, |what| match what {
        address::Type::Workload(_) => panic!("a service"),
        address::Type::Service(service) => service.namespace = namespace.into(),
    });
    object.name = format!("{namespace}/{}", object.name.split_once('/').unwrap().1);
    object
}

/// A workload that a further service has as its endpoint; `service` is NAMESPACE/HOSTNAME.
pub fn listed_by(service: &str, port: u16, target: u16, object: Object) -> Object {
    let port = Port { service_port: port.into(), target_port: target.into(), app_protocol: 0 };
    let mut object = change(object, |what| match what {
        address::Type::Workload(workload) => {
            workload.services.insert(service.into(), PortList { ports: vec![port] });
        }
        address::Type::Service(_) => panic!("a workload"),
    });
    object.endpoint_of.push(service.into());
    object
}

/// A policy that is only tried.
pub fn dry_run(mut object: Object) -> Object {
    let message = Authorization::decode(object.body.as_slice()).unwrap();
    object.body = Authorization { dry_run: true, ..message }.encode_to_vec();
    object
}
