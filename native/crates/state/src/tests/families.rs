use std::collections::BTreeSet;
use std::net::IpAddr;

use super::selection::{chosen, endpoint, locality, mesh, web};
use super::*;
use crate::{EndpointAddress, Mesh, SelectError, Selection, SelectionRequest};

const V4: &str = "10.0.0.100";
const V6: &str = "fd00::100";

fn ip(text: &str) -> EndpointAddress {
    EndpointAddress::Ip(text.parse().unwrap())
}

/// The mesh with a client of these addresses.
fn with_client(service: wire::Service, client: &[&str], endpoints: Vec<wire::Workload>) -> Mesh {
    let one = mesh(service, endpoints);
    let place = wire::Workload { node: NODE.into(), locality: locality("r", "z", "s"), ..pod("client", "") };
    put(
        &one,
        vec![update(wire::Workload { addresses: client.iter().map(|ip| bytes(ip)).collect(), ..place })],
    );
    one
}

fn select(mesh: &Mesh, client: &str, tried: &[&str]) -> Result<Selection, SelectError> {
    let source = mesh.workload(&uid("client")).unwrap();
    let tried: Vec<IpAddr> = tried.iter().map(|ip| ip.parse().unwrap()).collect();
    mesh.select(SelectionRequest {
        service: &service_key("web"),
        service_port: 80,
        source: &source,
        client: client.parse().unwrap(),
        tried: &tried,
    })
}

/// Everything that is chosen over some turns.
fn all(mesh: &Mesh, client: &str, tried: &[&str]) -> BTreeSet<String> {
    let text = |address| match address {
        EndpointAddress::Ip(ip) => ip.to_string(),
        other => format!("{other:?}"),
    };
    (0..16).map(|_| text(chosen(select(mesh, client, tried)).address)).collect()
}

fn set(texts: &[&str]) -> BTreeSet<String> {
    texts.iter().map(ToString::to_string).collect()
}

fn dual(name: &str, last: u8) -> wire::Workload {
    let mut workload = endpoint(name, last);
    workload.addresses.push(bytes(&format!("fd00::{last}")));
    workload
}

fn v6_only(name: &str, last: u8) -> wire::Workload {
    wire::Workload { addresses: vec![bytes(&format!("fd00::{last}"))], ..endpoint(name, last) }
}

#[test]
fn addresses_follow_the_clients_family_and_the_services() {
    let families = |ip_families, client| {
        let service = wire::Service { ip_families, ..web() };
        chosen(select(&with_client(service, &[V4, V6], vec![dual("a", 1)]), client, &[])).address
    };
    assert_eq!(families(0, V4), ip("10.0.0.1"));
    assert_eq!(families(0, V6), ip("fd00::1"));
    assert_eq!(families(3, V6), ip("fd00::1"));
    assert_eq!(families(2, V4), ip("fd00::1"));
    assert_eq!(families(1, V6), ip("10.0.0.1"));
}

#[test]
fn endpoints_of_the_clients_family_go_before_others() {
    let endpoints = vec![endpoint("a", 1), dual("b", 2), v6_only("c", 3)];
    let one = with_client(web(), &[V4, V6], endpoints);
    assert_eq!(all(&one, V4, &[]), set(&["10.0.0.1", "10.0.0.2"]));
    assert_eq!(all(&one, V6, &[]), set(&["fd00::2", "fd00::3"]));
}

#[test]
fn the_clients_family_goes_before_what_is_near() {
    let near = |workload| wire::Workload { locality: locality("r", "z", "s"), ..workload };
    let balancing = wire::LoadBalancing { mode: 2, routing_preference: vec![1, 2], ..Default::default() };
    let service = wire::Service { load_balancing: Some(balancing), ..web() };
    let one = with_client(service, &[V4, V6], vec![near(endpoint("a", 1)), near(dual("b", 2)), dual("c", 3)]);
    assert_eq!(all(&one, V4, &[]), set(&["10.0.0.1", "10.0.0.2"]), "the nearest");
    assert_eq!(all(&one, V6, &[]), set(&["fd00::2"]), "the nearest of its family");
    let far = with_client(web(), &[V4, V6], vec![near(endpoint("a", 1)), dual("c", 3)]);
    assert_eq!(all(&far, V6, &[]), set(&["fd00::3"]));
}

#[test]
fn another_family_is_used_where_the_client_has_it() {
    let one = with_client(web(), &[V4, V6], vec![endpoint("a", 1)]);
    assert_eq!(chosen(select(&one, V6, &[])).address, ip("10.0.0.1"));
    let alone = with_client(web(), &[V6], vec![endpoint("a", 1)]);
    let error = select(&alone, V6, &[]).unwrap_err();
    assert!(matches!(error, SelectError::NoEndpoint { known: 1, other_family: 1, .. }), "{error:?}");
    assert!(error.to_string().contains("1 have only addresses of a family"), "{error}");
}

#[test]
fn what_was_tried_comes_last() {
    let one = with_client(web(), &[V4, V6], vec![dual("a", 1), dual("b", 2)]);
    assert_eq!(all(&one, V6, &["fd00::1"]), set(&["fd00::2"]));
    assert_eq!(all(&one, V6, &["fd00::1", "fd00::2"]), set(&["10.0.0.1", "10.0.0.2"]));
    assert_eq!(all(&one, V6, &["fd00::1", "fd00::2", "10.0.0.2"]), set(&["10.0.0.1"]));
    let every = ["fd00::1", "fd00::2", "10.0.0.1", "10.0.0.2"];
    assert!(select(&one, V6, &every).is_ok(), "there is nothing else");
    let single = with_client(web(), &[V4], vec![endpoint("a", 1)]);
    assert_eq!(chosen(select(&single, V4, &["10.0.0.1"])).address, ip("10.0.0.1"));
}

/// Many alike endpoints are drawn from at random: by the same rules.
#[test]
fn of_many_endpoints_those_of_the_clients_family_are_drawn() {
    let many = (1..=60).map(|last| match last {
        1..=57 => endpoint(&format!("e{last}"), last),
        _ => dual(&format!("e{last}"), last),
    });
    let one = with_client(web(), &[V4, V6], many.collect());
    let drawn: BTreeSet<_> = (0..20).flat_map(|_| all(&one, V6, &[])).collect();
    assert_eq!(drawn, set(&["fd00::58", "fd00::59", "fd00::60"]));
}

#[test]
fn names_and_workloads_without_an_address() {
    let named = wire::Workload { addresses: vec![], hostname: "db.example".into(), ..endpoint("a", 1) };
    let one = with_client(web(), &[V4], vec![named]);
    assert_eq!(chosen(select(&one, V4, &[])).address, EndpointAddress::Hostname("db.example".into()));
    let unreachable = wire::Workload { addresses: vec![], ..endpoint("a", 1) };
    let error = select(&with_client(web(), &[V4], vec![unreachable]), V4, &[]).unwrap_err();
    assert!(matches!(error, SelectError::NoEndpoint { known: 1, other_family: 0, .. }), "{error:?}");
}
