use std::sync::Arc;

use meltemi_types::discovery::ResourceType;

use super::*;
use crate::{LocalPod, Lookup, ResolveError, Resolved};

#[test]
fn addresses_lead_to_services_and_workloads() {
    let mesh = wildcard(vec![
        update(service("web", "10.96.0.1")),
        update(pod("web-1", "10.0.0.1")),
        update(pod("web-6", "fd00::6")),
    ]);
    for (address, expected) in [
        ("/10.96.0.1", "shop/web.shop.svc.cluster.local"),
        ("/10.0.0.1", "web-1"),
        ("/::ffff:10.0.0.1", "web-1"),
        ("/fd00::6", "web-6"),
        ("/10.0.0.2", "negative"),
        ("other/10.0.0.1", "negative"),
    ] {
        assert_eq!(told(&mesh.lookup(&at(address), "shop")), expected, "{address}");
    }
}

#[test]
fn before_the_first_answer_absence_is_not_negative() {
    let mesh = Mesh::new(MeshOptions { on_demand: false, ..MeshOptions::default() });
    assert_eq!(told(&mesh.lookup(&at("/10.0.0.9"), "shop")), "unknown");
    mesh.synced(ResourceType::Authorization);
    assert_eq!(told(&mesh.lookup(&at("/10.0.0.9"), "shop")), "unknown");
    mesh.synced(ResourceType::Address);
    assert_eq!(told(&mesh.lookup(&at("/10.0.0.9"), "shop")), "negative");
}

#[test]
fn of_services_at_one_address_the_own_namespace_goes_first_then_the_canonical_one() {
    let other = |namespace: &str, canonical| wire::Service {
        namespace: namespace.into(),
        canonical,
        ..service("web", "10.96.0.1")
    };
    let mesh = wildcard(vec![update(other("b", false)), update(other("a", false)), update(other("c", true))]);
    let key = |namespace: &str| told(&mesh.lookup(&at("/10.96.0.1"), namespace));
    assert_eq!(key("b"), "b/web.shop.svc.cluster.local");
    assert_eq!(key("nowhere"), "c/web.shop.svc.cluster.local");
    remove(&mesh, &["c/web.shop.svc.cluster.local"]);
    assert_eq!(key("nowhere"), "a/web.shop.svc.cluster.local");
}

#[test]
fn a_service_of_its_own_namespace_is_hidden_from_others_and_not_absent() {
    let private = wire::Service { visibility: Visibility::Namespace.into(), ..service("web", "10.96.0.1") };
    let mesh = wildcard(vec![update(private)]);
    assert_eq!(told(&mesh.lookup(&at("/10.96.0.1"), "shop")), "shop/web.shop.svc.cluster.local");
    assert_eq!(told(&mesh.lookup(&at("/10.96.0.1"), "other")), "hidden");
}

#[test]
fn the_longest_range_holds_an_address_that_no_service_has_exactly() {
    let ranged = |name: &str, ip: &str, length| {
        let mut service = service(name, "");
        service.addresses = vec![wire::NetworkAddress { length: Some(length), ..network_address(ip) }];
        update(service)
    };
    let mesh = wildcard(vec![
        ranged("wide", "192.0.2.0", 24),
        ranged("narrow", "192.0.2.128", 25),
        ranged("host", "192.0.2.200", 32),
    ]);
    for (ip, expected) in [("192.0.2.1", "wide"), ("192.0.2.129", "narrow"), ("192.0.2.200", "host")] {
        assert_eq!(told(&mesh.lookup(&at(&format!("/{ip}")), "shop")), service_key(expected).as_str());
    }
}

#[test]
fn a_pod_goes_before_a_range_around_its_address() {
    let mut around = service("around", "");
    around.addresses = vec![wire::NetworkAddress { length: Some(16), ..network_address("10.0.0.0") }];
    let mesh = wildcard(vec![update(around), update(pod("web", "10.0.0.1"))]);
    assert_eq!(told(&mesh.lookup(&at("/10.0.0.1"), "shop")), "web");
    assert_eq!(told(&mesh.lookup(&at("/10.0.0.2"), "shop")), service_key("around").as_str());
}

#[tokio::test(start_paused = true)]
async fn on_demand_a_range_is_no_answer_before_the_address_itself_was_asked_for() {
    let (mesh, asked) = on_demand();
    let mut around = service("around", "");
    around.addresses = vec![wire::NetworkAddress { length: Some(16), ..network_address("10.0.0.0") }];
    put(&mesh, vec![update(around)]);
    assert_eq!(told(&mesh.lookup(&at("/10.0.0.1"), "shop")), "unknown");
    let address = at("/10.0.0.1");
    let unanswered = mesh.resolve(&address, "shop", Instant::now()).await;
    assert!(matches!(unanswered, Err(ResolveError::NoAnswer { .. })), "{unanswered:?}");
    assert_eq!(*asked.0.lock(), ["/10.0.0.1"]);
    remove(&mesh, &["/10.0.0.1"]);
    assert_eq!(told(&mesh.lookup(&address, "shop")), service_key("around").as_str());
    put(&mesh, vec![update(pod("web", "10.0.0.1"))]);
    assert_eq!(told(&mesh.lookup(&address, "shop")), "web");
}

#[test]
fn a_pod_of_its_own_network_goes_before_those_that_share_the_hosts_address() {
    let host = |name: &str| wire::Workload {
        network_mode: wire::NetworkMode::HostNetwork.into(),
        ..pod(name, "10.0.0.1")
    };
    let mesh = wildcard(vec![update(host("a")), update(pod("z", "10.0.0.1")), update(host("b"))]);
    assert_eq!(told(&mesh.lookup(&at("/10.0.0.1"), "shop")), "z");
    remove(&mesh, &[&pod_uid("z")]);
    assert_eq!(told(&mesh.lookup(&at("/10.0.0.1"), "shop")), "a");
    remove(&mesh, &[&pod_uid("a")]);
    assert_eq!(told(&mesh.lookup(&at("/10.0.0.1"), "shop")), "b");
    remove(&mesh, &[&pod_uid("b")]);
    assert_eq!(told(&mesh.lookup(&at("/10.0.0.1"), "shop")), "negative");
}

#[test]
fn a_local_pod_is_found_only_with_its_own_account() {
    let local = wire::Workload { node: NODE.into(), ..pod("web-1", "10.0.0.1") };
    let mesh = wildcard(vec![update(local), update(pod("far", "10.0.0.2"))]);
    let find =
        |name, service_account| mesh.local_workload(LocalPod { namespace: "shop", name, service_account });
    assert_eq!(&*find("web-1", "web").unwrap().name, "web-1");
    assert!(find("web-1", "admin").is_none());
    assert!(find("far", "web").is_none());
    remove(&mesh, &[&pod_uid("web-1")]);
    assert!(find("web-1", "web").is_none());
}

#[tokio::test]
async fn what_is_not_known_is_asked_for_and_waited_for() {
    let (mesh, asked) = on_demand();
    let mesh = Arc::new(mesh);
    let waiting = tokio::spawn({
        let mesh = mesh.clone();
        async move { mesh.resolve(&at("/10.0.0.1"), "shop", soon()).await }
    });
    while asked.0.lock().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(*asked.0.lock(), ["/10.0.0.1"]);
    put(&mesh, vec![update(pod("unrelated", "10.0.0.7"))]);
    put(&mesh, vec![aliased(update(pod("web-1", "10.0.0.1")), "/10.0.0.1")]);
    match waiting.await.unwrap() {
        Ok(Resolved::Workload(workload)) => assert_eq!(&*workload.name, "web-1"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn silence_is_an_error_and_never_a_negative_answer() {
    let (mesh, _) = on_demand();
    let deadline = Instant::now() + Duration::from_secs(5);
    let error = mesh.resolve(&at("/10.0.0.1"), "shop", deadline).await.unwrap_err();
    assert_eq!(error, ResolveError::NoAnswer { name: "/10.0.0.1".into(), waited: Duration::from_secs(5) });
    let error = mesh.resolve_service(&service_key("web"), deadline).await.unwrap_err();
    assert!(matches!(error, ResolveError::NoAnswer { .. }));
    let error = mesh.resolve_workload(&uid("web-1"), deadline).await.unwrap_err();
    assert!(matches!(error, ResolveError::NoAnswer { .. }));
}

#[tokio::test]
async fn a_negative_answer_is_explicit_and_can_be_withdrawn() {
    let (mesh, asked) = on_demand();
    let mesh = Arc::new(mesh);
    let resolve = || {
        let mesh = mesh.clone();
        tokio::spawn(async move { mesh.resolve(&at("/10.0.0.1"), "shop", soon()).await })
    };
    let waiting = resolve();
    while asked.0.lock().is_empty() {
        tokio::task::yield_now().await;
    }
    remove(&mesh, &["/10.0.0.1"]);
    assert!(matches!(waiting.await.unwrap(), Ok(Resolved::Negative)));
    assert_eq!(mesh.dump().negative, ["/10.0.0.1"]);

    put(&mesh, vec![aliased(update(pod("web-1", "10.0.0.1")), "/10.0.0.1")]);
    assert!(matches!(resolve().await.unwrap(), Ok(Resolved::Workload(_))));
    assert!(mesh.dump().negative.is_empty());

    // The pod goes. Something else may have its address by now: it is asked for anew.
    remove(&mesh, &[&pod_uid("web-1")]);
    assert!(matches!(mesh.lookup(&at("/10.0.0.1"), "shop"), Lookup::Unknown));
    let waiting = resolve();
    while asked.0.lock().len() < 2 {
        tokio::task::yield_now().await;
    }
    remove(&mesh, &["/10.0.0.1"]);
    assert!(matches!(waiting.await.unwrap(), Ok(Resolved::Negative)));
}

#[tokio::test]
async fn a_removal_of_a_resource_and_of_the_asked_name_is_the_negative_answer() {
    let (mesh, _) = on_demand();
    assert!(mesh.resolve(&at("/10.0.0.1"), "shop", Instant::now()).await.is_err());
    put(&mesh, vec![aliased(update(pod("web-1", "10.0.0.1")), "/10.0.0.1")]);
    remove(&mesh, &[&pod_uid("web-1"), "/10.0.0.1"]);
    assert!(matches!(mesh.lookup(&at("/10.0.0.1"), "shop"), Lookup::Negative));
}

#[tokio::test]
async fn names_of_what_does_not_exist_are_none() {
    let (mesh, _) = on_demand();
    assert!(mesh.resolve_service(&service_key("web"), Instant::now()).await.is_err());
    assert!(mesh.resolve_workload(&uid("web-1"), Instant::now()).await.is_err());
    remove(&mesh, &[service_key("web").as_str(), &pod_uid("web-1")]);
    assert!(mesh.resolve_service(&service_key("web"), soon()).await.unwrap().is_none());
    assert!(mesh.resolve_workload(&uid("web-1"), soon()).await.unwrap().is_none());
}

#[tokio::test]
async fn a_local_pod_is_waited_for() {
    let (mesh, _) = on_demand();
    let mesh = Arc::new(mesh);
    let waiting = tokio::spawn({
        let mesh = mesh.clone();
        async move {
            let pod = LocalPod { namespace: "shop", name: "web-1", service_account: "web" };
            mesh.await_local_workload(pod, soon()).await.map(|workload| workload.uid.clone())
        }
    });
    tokio::task::yield_now().await;
    put(&mesh, vec![update(wire::Workload { node: NODE.into(), ..pod("web-1", "10.0.0.1") })]);
    assert_eq!(waiting.await.unwrap(), Some(uid("web-1")));
}
