//! What the waypoint is told: one service with a port for each way to speak to endpoints, routes, a policy.
use super::pod;
use super::support::control::Object;
use super::support::objects::{PodSpec, service};
use meltemi_types::discovery::ResourceType;
use meltemi_types::meltemi as wire;
use meltemi_types::workload::{Address, Port, address};
use prost::Message;
use std::net::Ipv4Addr;

pub(crate) const WAYPOINT: Ipv4Addr = Ipv4Addr::new(127, 0, 1, 1);
pub(crate) const VIP: Ipv4Addr = Ipv4Addr::new(127, 0, 9, 9);
const HOST: &str = "web.default.svc.cluster.local";
const KEY: &str = "default/web.default.svc.cluster.local";
/// Of the service; the endpoint has the same.
const PORTS: [u16; 2] = [80, 81];

#[derive(Debug, Clone, Copy)]
pub(crate) struct Routes {
    pub(crate) rules: usize,
    pub(crate) policy: bool,
}

fn resource(kind: ResourceType, name: &str, message: &impl Message) -> Object {
    let body = message.encode_to_vec();
    Object { kind, name: name.into(), aliases: vec![], body, node: None, endpoint_of: vec![] }
}

impl Routes {
    pub(crate) fn objects(&self, version: &str) -> Vec<Object> {
        let endpoint = PodSpec {
            services: PORTS.iter().map(|port| (HOST, *port, *port)).collect(),
            ..pod("web", Ipv4Addr::new(127, 0, 2, 1))
        };
        let mut objects = vec![
            pod("wp", WAYPOINT).object(),
            with_ports(service(HOST, VIP, 80, 80)),
            with_ports(endpoint.object()),
            self.route(version),
            served(),
        ];
        if self.policy {
            objects.push(policy());
        }
        objects
    }

    /// Rule I takes what is below `/rI`, and says so.
    pub(crate) fn route(&self, version: &str) -> Object {
        let rules = (0..self.rules).map(|rule| wire::HttpRule {
            matches: vec![wire::HttpMatch {
                path: Some(wire::PathMatch {
                    kind: Some(wire::path_match::Kind::Segments(format!("/r{rule}"))),
                    ..Default::default()
                }),
                ..Default::default()
            }],
            filters: vec![wire::HttpFilter {
                kind: Some(wire::http_filter::Kind::ResponseHeaders(wire::HeaderChange {
                    set: vec![wire::HeaderValue { name: "x-version".into(), value: version.into() }],
                    ..Default::default()
                })),
            }],
            to_parent: true,
            ..Default::default()
        });
        let message = wire::HttpRoute {
            namespace: "default".into(),
            name: "bench".into(),
            source_object: "HTTPRoute/default/bench".into(),
            parents: vec![wire::RouteParent {
                target: Some(wire::route_parent::Target::Service(KEY.into())),
                port: 0,
            }],
            rules: rules.collect(),
            ..Default::default()
        };
        resource(ResourceType::HttpRoute, "HTTPRoute/default/bench", &message)
    }
}

fn served() -> Object {
    use wire::served_port::Protocol;
    let ports = PORTS.iter().map(|port| wire::ServedPort {
        port: (*port).into(),
        protocol: Protocol::Http.into(),
        http2_backend: *port == 81,
    });
    resource(ResourceType::Served, KEY, &wire::Served { ports: ports.collect(), ..Default::default() })
}

/// As Envoy's RBAC filter in bench/l7/envoy.ts: who, how and where.
fn policy() -> Object {
    let message = wire::HttpAuthorization {
        namespace: "default".into(),
        name: "bench".into(),
        action: wire::http_authorization::Action::Allow.into(),
        targets: vec![wire::PolicyTarget { kind: Some(wire::policy_target::Kind::Service(KEY.into())) }],
        rules: vec![wire::HttpAuthorizationRule {
            sources: vec![wire::SourceMatch {
                principals: vec!["cluster.local/ns/default/sa/caller".into()],
                ..Default::default()
            }],
            operations: vec![wire::OperationMatch {
                methods: vec!["GET".into(), "POST".into()],
                paths: vec!["/r*".into()],
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    };
    resource(ResourceType::HttpAuthorization, "default/bench", &message)
}

/// Both ports, in a service or in a workload's part of it.
fn with_ports(mut object: Object) -> Object {
    let mut message = Address::decode(object.body.as_slice()).unwrap();
    let ports: Vec<Port> = PORTS
        .iter()
        .map(|port| Port { service_port: (*port).into(), target_port: (*port).into(), app_protocol: 0 })
        .collect();
    match message.r#type.as_mut().unwrap() {
        address::Type::Service(service) => service.ports = ports,
        address::Type::Workload(workload) => {
            for list in workload.services.values_mut() {
                list.ports.clone_from(&ports);
            }
        }
    }
    object.body = message.encode_to_vec();
    object
}
