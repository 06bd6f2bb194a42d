use meltemi_types::discovery::Released;

use super::*;
use crate::Lookup;

/// Demands names, and answers each as a server would.
async fn demand(mesh: &Mesh, name: &str, answer: ResourceUpdate) {
    assert!(mesh.resolve(&at(name), "shop", Instant::now()).await.is_err());
    put(mesh, vec![aliased(answer, name)]);
}

#[tokio::test(start_paused = true)]
async fn names_that_nothing_uses_are_given_up_and_used_ones_are_kept() {
    let (mesh, asked) = on_demand();
    demand(&mesh, "/10.0.0.1", update(pod("idle", "10.0.0.1"))).await;
    demand(&mesh, "/10.0.0.2", update(pod("used", "10.0.0.2"))).await;
    assert!(mesh.resolve(&at("/10.0.0.3"), "shop", Instant::now()).await.is_err());
    remove(&mesh, &["/10.0.0.3"]);
    let hour = Duration::from_secs(3600);
    tokio::time::advance(hour / 2).await;
    mesh.lookup(&at("/10.0.0.2"), "shop");
    assert_eq!(mesh.release_idle(hour), Released::default());
    tokio::time::advance(hour / 2 + Duration::from_secs(1)).await;
    let mut released = mesh.release_idle(hour);
    released.unsubscribe.sort();
    assert_eq!(released.unsubscribe, ["/10.0.0.1", "/10.0.0.3"]);
    // What was asked for by address, the server takes back.
    assert_eq!(released.dropped, Vec::<String>::new());
    assert!(matches!(mesh.lookup(&at("/10.0.0.3"), "shop"), Lookup::Unknown));
    asked.0.lock().clear();
    assert!(mesh.resolve(&at("/10.0.0.3"), "shop", Instant::now()).await.is_err());
    assert_eq!(*asked.0.lock(), ["/10.0.0.3"], "asked for anew");
}

#[tokio::test(start_paused = true)]
async fn what_was_asked_for_by_its_own_name_is_dropped_unless_something_else_covers_it() {
    let (mesh, _) = on_demand();
    let hour = Duration::from_secs(3600);
    for key in ["web", "api"] {
        assert!(mesh.resolve_service(&service_key(key), Instant::now()).await.is_err());
    }
    for pod in ["endpoint", "alone", "local"] {
        assert!(mesh.resolve_workload(&uid(pod), Instant::now()).await.is_err());
    }
    put(
        &mesh,
        vec![
            update(service("web", "10.96.0.1")),
            update(service("api", "10.96.0.2")),
            update(serving(pod("endpoint", "10.0.0.1"), "api")),
            update(pod("alone", "10.0.0.2")),
            update(wire::Workload { node: NODE.into(), ..pod("local", "10.0.0.3") }),
        ],
    );
    tokio::time::advance(hour).await;
    mesh.service(&service_key("api"));
    let mut released = mesh.release_idle(hour);
    released.unsubscribe.sort();
    released.dropped.sort();
    assert_eq!(
        released.unsubscribe,
        [&pod_uid("alone"), &pod_uid("endpoint"), &pod_uid("local"), service_key("web").as_str()]
    );
    assert_eq!(released.dropped, [&pod_uid("alone"), service_key("web").as_str()]);
    assert!(mesh.workload(&uid("endpoint")).is_some());
    assert!(mesh.workload(&uid("local")).is_some());
    assert!(mesh.workload(&uid("alone")).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_scan_of_addresses_is_bounded_and_costs_the_least_used() {
    let mesh = Mesh::new(MeshOptions { max_demands: 16, ..MeshOptions::default() });
    for host in 0..24 {
        let address = at(&format!("/10.1.0.{host}"));
        assert!(matches!(
            mesh.resolve(&address, "shop", Instant::now()).await,
            Err(crate::ResolveError::NoAnswer { .. })
        ));
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    let refused = mesh.resolve(&at("/10.1.0.32"), "shop", soon()).await;
    assert_eq!(refused.unwrap_err(), crate::ResolveError::TooMany { name: "/10.1.0.32".into(), limit: 32 });
    let released = mesh.release_idle(Duration::from_secs(3600));
    assert_eq!(released.unsubscribe.len(), 24 - 14);
    assert!(released.unsubscribe.contains(&"/10.1.0.0".to_owned()));
    assert!(!released.unsubscribe.contains(&"/10.1.0.23".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn who_scans_addresses_keeps_nobody_else_from_asking() {
    let mesh = Mesh::new(MeshOptions { max_demands: 16, ..MeshOptions::default() });
    let ask = async |asker: &str, host: usize| {
        let (asker, address) = (asker.into(), at(&format!("/10.1.0.{host}")));
        mesh.resolve_for(&asker, &address, "shop", Instant::now()).await.unwrap_err()
    };
    let scans = async |asker: &str, first: usize| {
        for host in first..first + 60 {
            ask(asker, host).await;
        }
        matches!(ask(asker, first + 60).await, crate::ResolveError::TooMany { .. })
    };
    assert!(scans("scanner", 0).await);
    assert!(scans("another", 100).await);
    for (host, asker) in ["b", "c", "d"].into_iter().enumerate() {
        assert!(matches!(ask(asker, 200 + host).await, crate::ResolveError::NoAnswer { .. }), "{asker}");
    }
    // What is released is there for others again.
    let released = mesh.release_idle(Duration::ZERO);
    assert!(!released.unsubscribe.is_empty());
    assert!(matches!(ask("another", 250).await, crate::ResolveError::NoAnswer { .. }));
}
