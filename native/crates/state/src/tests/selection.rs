use std::collections::BTreeMap;

use meltemi_types::meltemi::{ServiceExtension, service_extension::Affinity};

use super::*;
use crate::{ConnectOutcome, Endpoint, SelectError, Selection, SelectionRequest};

pub(crate) const CLIENT: &str = "10.0.0.100";

/// A mesh with service web, the given endpoints and a client on `node-a` in region r, zone z.
pub(crate) fn mesh(service: wire::Service, endpoints: Vec<wire::Workload>) -> Mesh {
    let client =
        wire::Workload { node: NODE.into(), locality: locality("r", "z", "s"), ..pod("client", CLIENT) };
    let mut resources = vec![update(service), update(client)];
    resources.extend(endpoints.into_iter().map(update));
    wildcard(resources)
}

pub(crate) fn locality(region: &str, zone: &str, subzone: &str) -> Option<wire::Locality> {
    Some(wire::Locality { region: region.into(), zone: zone.into(), subzone: subzone.into() })
}

pub(crate) fn web() -> wire::Service {
    service("web", "10.96.0.1")
}

pub(crate) fn endpoint(name: &str, last: u8) -> wire::Workload {
    serving(pod(name, &format!("10.0.0.{last}")), "web")
}

fn select_for(mesh: &Mesh, client: &str, port: u16) -> Result<Selection, SelectError> {
    let source = mesh.workload(&uid("client")).unwrap();
    mesh.select(SelectionRequest {
        service: &service_key("web"),
        service_port: port,
        source: &source,
        client: client.parse().unwrap(),
        tried: &[],
    })
}

fn select(mesh: &Mesh) -> Endpoint {
    chosen(select_for(mesh, CLIENT, 80))
}

pub(crate) fn chosen(selection: Result<Selection, SelectError>) -> Endpoint {
    match selection {
        Ok(Selection::Endpoint(endpoint)) => endpoint,
        other => panic!("{other:?}"),
    }
}

/// How often each endpoint is chosen.
fn spread(mesh: &Mesh, times: usize) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..times {
        *counts.entry(select(mesh).workload.name.to_string()).or_default() += 1;
    }
    counts
}

fn names(mesh: &Mesh) -> Vec<String> {
    spread(mesh, 32).into_keys().collect()
}

#[test]
fn equal_endpoints_take_turns() {
    let mesh = mesh(web(), vec![endpoint("a", 1), endpoint("b", 2), endpoint("c", 3)]);
    assert_eq!(spread(&mesh, 30), [("a", 10), ("b", 10), ("c", 10)].map(|(n, c)| (n.to_owned(), c)).into());
    assert_eq!(select(&mesh).port, 8080);
}

#[test]
fn capacity_is_a_weight_and_none_takes_none() {
    let weighing = |name, last, capacity| wire::Workload { capacity: Some(capacity), ..endpoint(name, last) };
    let mesh = mesh(web(), vec![weighing("a", 1, 9), weighing("b", 2, 1), weighing("c", 3, 0)]);
    let spread = spread(&mesh, 10_000);
    // Expected 9,000 with a standard deviation of 30.
    assert!((8_700..9_300).contains(&spread["a"]), "{spread:?}");
    assert_eq!(spread["a"] + spread["b"], 10_000);
}

/// One at random of many: the same rules as for few.
#[test]
fn of_many_endpoints_only_fit_ones_are_drawn_and_all_of_them() {
    let many = (1..=100).map(|last| wire::Workload {
        status: i32::from(last % 10 == 0),
        ..endpoint(&format!("e{last}"), last)
    });
    let one = mesh(web(), many.collect());
    one.report(&uid("e1"), 8080, ConnectOutcome::Failed);
    let counts = spread(&one, 20_000);
    // 89 endpoints; expected 225 each, with a standard deviation of 15.
    assert_eq!(counts.len(), 89, "{counts:?}");
    assert!(!counts.contains_key("e10") && !counts.contains_key("e1"));
    assert!(counts.values().all(|count| (125..325).contains(count)), "{counts:?}");
    // Weights are honoured among many, too, and forgotten with their endpoint.
    put(&one, vec![update(wire::Workload { capacity: Some(89), ..endpoint("heavy", 200) })]);
    let heavy = spread(&one, 2_000)["heavy"];
    assert!((850..1_160).contains(&heavy), "{heavy}");
    remove(&one, &[&pod_uid("heavy")]);
    assert_eq!(one.store.read().services[&service_key("web")].weighted, 0);
}

#[test]
fn many_endpoints_without_a_fit_one_are_none() {
    let sick = (1..=100).map(|last| wire::Workload { status: 1, ..endpoint(&format!("e{last}"), last) });
    let error = select_for(&mesh(web(), sick.collect()), CLIENT, 80).unwrap_err();
    assert!(matches!(error, SelectError::NoEndpoint { unhealthy: 100, .. }));
}

#[test]
fn only_healthy_endpoints_unless_the_service_takes_all() {
    let sick = |name, last| wire::Workload { status: 1, ..endpoint(name, last) };
    assert_eq!(names(&mesh(web(), vec![endpoint("a", 1), sick("b", 2)])), ["a"]);
    let error = select_for(&mesh(web(), vec![sick("a", 1), sick("b", 2)]), CLIENT, 80).unwrap_err();
    assert_eq!(
        error.to_string(),
        "service shop/web.shop.svc.cluster.local has no endpoint for port 80: of 2 known, 2 are not ready, \
         0 are out of its traffic distribution's reach, 0 have only addresses of a family (IPv4, IPv6) that the \
         client has not"
    );
    let all = wire::LoadBalancing { health_policy: 1, ..Default::default() };
    let takes_all = wire::Service { load_balancing: Some(all), ..web() };
    assert_eq!(names(&mesh(takes_all, vec![endpoint("a", 1), sick("b", 2)])), ["a", "b"]);
}

#[test]
fn the_port_is_the_endpoints_or_else_the_services() {
    let mut named = endpoint("a", 1);
    named.services.get_mut(service_key("web").as_str()).unwrap().ports[0].target_port = 9090;
    let one = mesh(web(), vec![named]);
    assert_eq!(select(&one).port, 9090);
    let mut silent = endpoint("a", 1);
    silent.services.get_mut(service_key("web").as_str()).unwrap().ports.clear();
    let mut fixed = web();
    fixed.ports[0].target_port = 7070;
    assert_eq!(select(&mesh(fixed, vec![silent.clone()])).port, 7070);
    assert!(matches!(
        select_for(&mesh(web(), vec![silent]), CLIENT, 80),
        Err(SelectError::NoEndpoint { known: 1, .. })
    ));
    assert!(matches!(select_for(&one, CLIENT, 81), Err(SelectError::NoSuchPort { port: 81, .. })));
}

#[test]
fn without_a_service_or_endpoints_there_is_none() {
    let one = mesh(web(), vec![]);
    assert!(matches!(select_for(&one, CLIENT, 80), Err(SelectError::NoEndpoint { known: 0, .. })));
    remove(&one, &[service_key("web").as_str()]);
    assert!(matches!(select_for(&one, CLIENT, 80), Err(SelectError::ServiceGone { .. })));
}

fn balanced(mode: i32, scopes: &[i32]) -> wire::Service {
    let balancing = wire::LoadBalancing { routing_preference: scopes.to_vec(), mode, health_policy: 0 };
    wire::Service { load_balancing: Some(balancing), ..web() }
}

const STRICT: i32 = 1;
const FAILOVER: i32 = 2;

#[test]
fn nearer_endpoints_go_first_in_failover_and_alone_in_strict() {
    let placed = |name, last, node: &str, place| wire::Workload {
        node: node.into(),
        locality: place,
        ..endpoint(name, last)
    };
    let same = || placed("node", 1, NODE, locality("r", "z", "s"));
    let zone = || placed("zone", 2, "n2", locality("r", "z", "t"));
    let region = || placed("region", 3, "n3", locality("r", "y", "s"));
    let far = || placed("far", 4, "n4", locality("q", "z", "s"));
    let scopes = [1, 2, 3, 4];
    for (endpoints, failover, strict) in [
        (vec![far(), region(), zone(), same()], vec!["node"], vec!["node"]),
        (vec![far(), region(), zone()], vec!["zone"], vec![]),
        (vec![far(), region()], vec!["region"], vec![]),
        (vec![far()], vec!["far"], vec![]),
    ] {
        assert_eq!(names(&mesh(balanced(FAILOVER, &scopes), endpoints.clone())), failover);
        let mesh = mesh(balanced(STRICT, &scopes), endpoints.clone());
        match select_for(&mesh, CLIENT, 80) {
            Ok(_) => assert_eq!(names(&mesh), strict),
            Err(error) => {
                assert!(strict.is_empty());
                assert!(
                    matches!(error, SelectError::NoEndpoint { elsewhere, .. } if elsewhere == endpoints.len())
                );
            }
        }
    }
    // internalTrafficPolicy: Local
    let local = mesh(balanced(STRICT, &[4]), vec![same(), zone()]);
    assert_eq!(names(&local), ["node"]);
    // An unhealthy near endpoint does not hold its place.
    let sick = wire::Workload { status: 1, ..same() };
    assert_eq!(names(&mesh(balanced(FAILOVER, &scopes), vec![sick, zone(), far()])), ["zone"]);
}

#[test]
fn a_preferred_network_or_cluster_outweighs_the_rest() {
    let placed = |name, last, network: &str, place| wire::Workload {
        network: network.into(),
        locality: place,
        ..endpoint(name, last)
    };
    let here = || placed("here", 1, "", locality("q", "", ""));
    let there = || placed("there", 2, "net2", locality("r", "z", "s"));
    let farther = || placed("farther", 3, "net2", locality("q", "", ""));
    let network_first = || balanced(FAILOVER, &[6, 1, 2]);
    assert_eq!(names(&mesh(network_first(), vec![here(), there(), farther()])), ["here"]);
    assert_eq!(names(&mesh(network_first(), vec![there(), farther()])), ["there"]);
    let other_cluster = wire::Workload { cluster_id: "c2".into(), ..endpoint("b", 2) };
    assert_eq!(names(&mesh(balanced(STRICT, &[5]), vec![endpoint("a", 1), other_cluster])), ["a"]);
}

#[test]
fn passthrough_chooses_nothing() {
    let one = mesh(balanced(3, &[]), vec![endpoint("a", 1)]);
    assert!(matches!(select_for(&one, CLIENT, 80), Ok(Selection::Passthrough(_))));
}

fn sticky(timeout_s: u32) -> wire::Service {
    let extension = ServiceExtension {
        session_affinity: Affinity::ClientIp.into(),
        affinity_timeout_seconds: timeout_s,
        headless: false,
    };
    let name = "meltemi.v1.ServiceExtension";
    let config = prost_types::Any {
        type_url: format!("type.googleapis.com/{name}"),
        value: extension.encode_to_vec(),
    };
    wire::Service { extensions: vec![wire::Extension { name: name.into(), config: Some(config) }], ..web() }
}

#[tokio::test(start_paused = true)]
async fn a_client_stays_with_its_endpoint_while_it_serves_and_clients_are_spread() {
    let endpoints = || (1..=5).map(|last| endpoint(&format!("e{last}"), last)).collect::<Vec<_>>();
    let one = mesh(sticky(60), endpoints());
    let of = |mesh: &Mesh, client: &str| chosen(select_for(mesh, client, 80)).workload.name.to_string();
    let first = of(&one, CLIENT);
    for _ in 0..50 {
        assert_eq!(of(&one, CLIENT), first);
    }
    let mut clients = BTreeMap::<String, usize>::new();
    for host in 0..=255 {
        *clients.entry(of(&one, &format!("10.5.0.{host}"))).or_default() += 1;
    }
    assert!(clients.len() == 5 && clients.values().all(|count| *count > 20), "{clients:?}");
    // Another process would choose the same.
    assert_eq!(of(&mesh(sticky(60), endpoints()), CLIENT), first);
    // Newcomers take nobody away within the timeout.
    for last in 6..60 {
        put(&one, vec![update(endpoint(&format!("e{last}"), last))]);
        tokio::time::advance(Duration::from_secs(30)).await;
        assert_eq!(of(&one, CLIENT), first);
    }
    // The endpoint goes: another one, and then that one.
    remove(&one, &[&pod_uid(&first)]);
    let second = of(&one, CLIENT);
    assert_ne!(second, first);
    put(&one, vec![update(endpoint(&first, 1))]);
    assert_eq!(of(&one, CLIENT), second);
    // Silence for longer than the timeout: the choice is free again, and falls as at first.
    for last in 6..60 {
        remove(&one, &[&pod_uid(&format!("e{last}"))]);
    }
    tokio::time::advance(Duration::from_secs(61)).await;
    assert_eq!(of(&one, CLIENT), first);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_cannot_be_reached_is_avoided_ever_longer_but_never_all_are() {
    let one = mesh(web(), vec![endpoint("a", 1), endpoint("b", 2)]);
    let fail = |name| one.report(&uid(name), 8080, ConnectOutcome::Failed);
    fail("a");
    assert_eq!(names(&one), ["b"]);
    fail("b");
    assert_eq!(names(&one), ["a", "b"], "all failed: all are tried");
    tokio::time::advance(Duration::from_millis(1_001)).await;
    assert_eq!(names(&one), ["a", "b"]);
    fail("a");
    tokio::time::advance(Duration::from_millis(1_500)).await;
    assert_eq!(names(&one), ["b"], "the second time for two seconds");
    tokio::time::advance(Duration::from_millis(501)).await;
    assert_eq!(names(&one), ["a", "b"]);
    for _ in 0..10 {
        fail("a");
        tokio::time::advance(Duration::from_millis(30_001)).await;
        assert_eq!(names(&one), ["a", "b"], "at most thirty seconds");
    }
    for _ in 0..10 {
        fail("a");
    }
    tokio::time::advance(Duration::from_secs(29)).await;
    assert_eq!(names(&one), ["b"], "long by now, and connections that fail together count once");
    one.report(&uid("a"), 8080, ConnectOutcome::Connected);
    assert_eq!(names(&one), ["a", "b"], "a success clears it");
    fail("a");
    tokio::time::advance(Duration::from_millis(1_001)).await;
    assert_eq!(names(&one), ["a", "b"], "and the next failure counts as the first");
    one.report(&uid("a"), 9999, ConnectOutcome::Failed);
    assert_eq!(names(&one), ["a", "b"], "another port is another endpoint");
}

#[tokio::test]
async fn a_service_just_told_of_waits_for_its_endpoints() {
    let one = Arc::new(mesh(web(), vec![]));
    let waiting = tokio::spawn({
        let mesh = one.clone();
        async move {
            let source = mesh.workload(&uid("client")).unwrap();
            let request = SelectionRequest {
                service: &service_key("web"),
                service_port: 80,
                source: &source,
                client: CLIENT.parse().unwrap(),
                tried: &[],
            };
            chosen(mesh.select_endpoint(request).await).workload.name.to_string()
        }
    });
    tokio::task::yield_now().await;
    put(&one, vec![update(endpoint("a", 1))]);
    assert_eq!(waiting.await.unwrap(), "a");
}

#[tokio::test(start_paused = true)]
async fn a_service_without_endpoints_does_not_keep_its_clients_waiting() {
    let one = mesh(web(), vec![]);
    let source = one.workload(&uid("client")).unwrap();
    let request = SelectionRequest {
        service: &service_key("web"),
        service_port: 80,
        source: &source,
        client: CLIENT.parse().unwrap(),
        tried: &[],
    };
    let began = Instant::now();
    assert!(one.select_endpoint(request).await.is_err());
    assert_eq!(began.elapsed(), Duration::from_millis(500));
    assert!(one.select_endpoint(request).await.is_err());
    assert_eq!(began.elapsed(), Duration::from_millis(500), "only while it is new");
}

#[test]
fn all_endpoints_are_listed_by_how_near_they_are() {
    let near = |name, last, node: &str, region: &str| wire::Workload {
        node: node.into(),
        locality: locality(region, "z", "s"),
        ..endpoint(name, last)
    };
    let service = balanced(FAILOVER, &[1, 4]);
    let endpoints = vec![
        near("far", 1, "node-x", "elsewhere"),
        near("same-region-b", 2, "node-x", "r"),
        near("same-node", 3, NODE, "r"),
        near("same-region-a", 4, "node-y", "r"),
    ];
    let mesh = mesh(service, endpoints);
    let source = mesh.workload(&uid("client")).unwrap();
    let request = SelectionRequest {
        service: &service_key("web"),
        service_port: 80,
        source: &source,
        client: CLIENT.parse().unwrap(),
        tried: &[],
    };
    let listed = mesh.endpoints(request).unwrap().unwrap().list;
    let listed: Vec<_> =
        listed.iter().map(|(steps, endpoint)| (*steps, &*endpoint.workload.name, endpoint.port)).collect();
    let want =
        [(0, "same-node", 8080), (1, "same-region-a", 8080), (1, "same-region-b", 8080), (2, "far", 8080)];
    assert_eq!(listed, want);
    assert_eq!(&*select(&mesh).workload.name, "same-node", "as is chosen for connections");
    let none = SelectionRequest { service_port: 99, ..request };
    assert!(matches!(mesh.endpoints(none), Err(SelectError::NoSuchPort { .. })));
}
