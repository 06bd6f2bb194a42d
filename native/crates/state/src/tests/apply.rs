use meltemi_types::discovery::ResourceUpdate;

use super::*;

#[test]
fn a_bad_resource_is_refused_by_name_the_good_ones_hold_and_the_last_good_stays() {
    let mesh = wildcard(vec![update(pod("web-1", "10.0.0.1"))]);
    let mut broken = pod("web-1", "10.0.0.9");
    broken.addresses[0] = vec![1, 2, 3].into();
    let rejections = put(&mesh, vec![update(broken), update(pod("web-2", "10.0.0.2"))]);
    assert_eq!(rejections.len(), 1);
    assert_eq!(rejections[0].name, pod_uid("web-1"));
    assert_eq!(rejections[0].problem, "addresses: an IP address has 3 bytes: want 4 or 16");
    assert_eq!(told(&mesh.lookup(&at("/10.0.0.1"), "shop")), "web-1");
    assert_eq!(told(&mesh.lookup(&at("/10.0.0.2"), "shop")), "web-2");
}

#[test]
fn every_field_that_cannot_be_understood_is_named() {
    let workload = |change: fn(&mut wire::Workload)| {
        let mut workload = pod("web-1", "10.0.0.1");
        change(&mut workload);
        update(workload)
    };
    let of_service = |change: fn(&mut wire::Service)| {
        let mut service = service("web", "10.96.0.1");
        change(&mut service);
        update(service)
    };
    let empty = ResourceUpdate { name: "x".into(), aliases: vec![], body: vec![].into() };
    for (bad, expected) in [
        (empty, "the address is neither"),
        (ResourceUpdate { name: "else".into(), ..update(pod("a", "")) }, "the resource is named `else`"),
        (workload(|w| w.tunnel_protocol = 9), "tunnel_protocol: unknown value 9"),
        (workload(|w| w.workload_type = 9), "workload_type: unknown value 9"),
        (workload(|w| w.status = 9), "status: unknown value 9"),
        (workload(|w| w.network_mode = 9), "network_mode: unknown value 9"),
        (workload(|w| w.namespace = "a/b".into()), "identity: `spiffe://cluster.local/ns/a/b/sa/web`"),
        (workload(|w| w.service_account = "x/../y".into()), "identity: "),
        (workload(|w| w.trust_domain = "A B".into()), "identity: "),
        (workload(|w| w.authorization_policies = vec!["deny".into()]), "`deny` is no policy name"),
        (workload(|w| drop(w.services.insert("web".into(), Default::default()))), "`web` is no service name"),
        (workload(|w| w.waypoint = Some(wire::GatewayAddress::default())), "waypoint: it has no destination"),
        (of_service(|s| s.hostname.clear()), "`shop/` is no service name"),
        (of_service(|s| s.ports[0].service_port = 0), "ports: a service port is 0"),
        (of_service(|s| s.ports[0].target_port = 70_000), "ports: 70000 is no TCP port"),
        (of_service(|s| s.ip_families = 9), "ip_families: unknown value 9"),
        (of_service(|s| s.visibility = 9), "visibility: unknown value 9"),
        (of_service(|s| s.addresses[0].length = Some(33)), "addresses: prefix length 33"),
        (
            of_service(|s| {
                s.load_balancing = Some(wire::LoadBalancing { mode: 9, ..Default::default() });
            }),
            "load_balancing.mode: unknown value 9",
        ),
        (
            of_service(|s| {
                s.load_balancing =
                    Some(wire::LoadBalancing { routing_preference: vec![0], ..Default::default() });
            }),
            "load_balancing.routing_preference: unknown value 0",
        ),
    ] {
        let mesh = wildcard(vec![]);
        let rejections = put(&mesh, vec![bad.clone()]);
        assert_eq!(rejections.len(), 1, "accepted what should be refused: {expected}");
        assert_eq!(rejections[0].name, bad.name);
        assert!(rejections[0].problem.starts_with(expected), "{:?}: want {expected:?}", rejections[0]);
    }
}

#[test]
fn an_update_replaces_all_that_the_old_version_said() {
    let mesh = wildcard(vec![
        update(service("web", "10.96.0.1")),
        update(service("api", "10.96.0.2")),
        update(serving(pod("web-1", "10.0.0.1"), "web")),
    ]);
    put(&mesh, vec![update(serving(pod("web-1", "10.0.0.2"), "api")), update(service("web", "10.96.0.3"))]);
    for (address, expected) in [
        ("/10.0.0.1", "negative"),
        ("/10.0.0.2", "web-1"),
        ("/10.96.0.1", "negative"),
        ("/10.96.0.3", "shop/web.shop.svc.cluster.local"),
    ] {
        assert_eq!(told(&mesh.lookup(&at(address), "shop")), expected, "{address}");
    }
    let store = mesh.store.read();
    assert_eq!(store.services[&service_key("web")].endpoints.len(), 0);
    assert_eq!(store.services[&service_key("api")].endpoints.len(), 1);
}

#[test]
fn endpoints_may_come_before_their_service_and_stay_when_it_goes() {
    let mesh = wildcard(vec![update(serving(pod("web-1", "10.0.0.1"), "web"))]);
    assert!(mesh.service(&service_key("web")).is_none());
    put(&mesh, vec![update(service("web", "10.96.0.1"))]);
    remove(&mesh, &[service_key("web").as_str()]);
    put(&mesh, vec![update(service("web", "10.96.0.1"))]);
    assert_eq!(mesh.store.read().services[&service_key("web")].endpoints.len(), 1);
    remove(&mesh, &[service_key("web").as_str(), &pod_uid("web-1")]);
    assert!(mesh.store.read().services.is_empty());
}

#[test]
fn a_name_both_updated_and_removed_is_there() {
    let mesh = wildcard(vec![]);
    let name = pod_uid("web-1");
    let rejections =
        super::apply(&mesh, ResourceType::Address, vec![update(pod("web-1", "10.0.0.1"))], &[&name]);
    assert_eq!(rejections, vec![]);
    assert!(mesh.workload(&uid("web-1")).is_some());
}

#[test]
fn the_version_tells_what_kind_of_thing_changed() {
    let mesh = wildcard(vec![]);
    let mut changes = mesh.changes();
    let before = *changes.borrow_and_update();
    put(&mesh, vec![update(pod("web-1", "10.0.0.1"))]);
    let after = *changes.borrow_and_update();
    assert!(after.workloads > before.workloads);
    assert_eq!((after.services, after.policies), (before.services, before.policies));
    remove(&mesh, &["/10.0.0.77", "Kubernetes//Pod/shop/nobody"]);
    assert!(!changes.has_changed().unwrap(), "an answer that changes nothing wakes nobody");
}

#[test]
fn what_workloads_have_in_common_is_kept_once() {
    let mesh = wildcard(vec![
        update(serving(pod("web-1", "10.0.0.1"), "web")),
        update(serving(pod("web-2", "10.0.0.2"), "web")),
    ]);
    let (one, two) = (mesh.workload(&uid("web-1")).unwrap(), mesh.workload(&uid("web-2")).unwrap());
    assert!(Arc::ptr_eq(&one.namespace, &two.namespace));
    assert!(Arc::ptr_eq(&one.services, &two.services));
    assert!(Arc::ptr_eq(&one.locality, &two.locality));
    assert!(std::ptr::eq(one.identity.uri(), two.identity.uri()));
}

#[test]
fn what_nobody_holds_any_more_is_forgotten() {
    let mesh = wildcard(vec![]);
    for round in 0..4 {
        let many = (0..5_000).map(|n| {
            let mut workload = pod(&format!("p{n}"), "");
            workload.canonical_name = format!("app-{round}-{n}");
            workload.hostname = "db.example".into();
            update(workload)
        });
        assert_eq!(put(&mesh, many.collect()), vec![]);
    }
    let names: Vec<String> = (0..5_000).map(|n| pod_uid(&format!("p{n}"))).collect();
    remove(&mesh, &names.iter().map(String::as_str).collect::<Vec<_>>());
    let held = mesh.pools.lock().len();
    assert!(held < 12_000, "{held} texts of 20,000 are still held");
}
