use rand::{Rng, RngCore, SeedableRng, rngs::StdRng};

use super::*;

/// Everything set that a resource can have set.
fn full() -> Vec<ResourceUpdate> {
    let gateway = wire::GatewayAddress {
        destination: Some(wire::gateway_address::Destination::Address(network_address("10.96.0.9"))),
        hbone_mtls_port: 15008,
    };
    let mut workload = serving(pod("web-1", "10.0.0.1"), "web");
    workload.addresses.push(bytes("fd00::1"));
    workload.waypoint = Some(gateway.clone());
    workload.locality = Some(wire::Locality { region: "r".into(), zone: "z".into(), subzone: "s".into() });
    workload.authorization_policies = vec!["shop/p".into()];
    workload.capacity = Some(3);
    workload.application_tunnel = Some(wire::ApplicationTunnel { protocol: 1, port: 9000 });
    let mut service = service("web", "10.96.0.1");
    service.waypoint = Some(gateway.clone());
    service.weighted_waypoints = vec![wire::WeightedWaypoint { destination: Some(gateway), weight: 5 }];
    service.load_balancing =
        Some(wire::LoadBalancing { routing_preference: vec![6, 1, 2], mode: 2, health_policy: 1 });
    vec![update(workload), update(service)]
}

#[test]
fn random_and_truncated_resources_never_panic_and_leave_the_rest() {
    let mesh = wildcard(vec![update(pod("witness", "10.7.7.7"))]);
    let mut random = StdRng::seed_from_u64(11);
    let good = full();
    let (mut accepted, mut refused) = (0, 0);
    for round in 0..20_000 {
        let mut resource = good[round % 2].clone();
        let mut body = resource.body.to_vec();
        match round % 3 {
            0 => body.truncate(random.random_range(0..body.len())),
            1 => {
                for _ in 0..random.random_range(1..6) {
                    let at = random.random_range(0..body.len());
                    body[at] = random.random();
                }
            }
            _ => {
                body = vec![0; random.random_range(0..400)];
                random.fill_bytes(&mut body);
            }
        }
        resource.body = body.into();
        let kind = ResourceType::ALL[round % 2];
        match super::apply(&mesh, kind, vec![resource], &[]).len() {
            0 => accepted += 1,
            _ => refused += 1,
        }
    }
    assert!(accepted > 0 && refused > 10_000, "{accepted} accepted, {refused} refused");
    assert_eq!(told(&mesh.lookup(&at("/10.7.7.7"), "shop")), "witness");
    assert_eq!(put(&mesh, good), vec![]);
}
