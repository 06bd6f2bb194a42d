use super::*;
use crate::authorization::{Caller, Scope};
use crate::route::Parent;
use crate::world::{Candidate, Downstream, Wanted};
use http::HeaderMap;
use std::collections::BTreeMap;
use tokio::io::DuplexStream;

/// A world of names: nothing is ever sent.
#[derive(Debug)]
struct Names;

#[derive(Debug)]
struct Nobody;

impl Downstream for Nobody {
    fn caller(&self) -> &Caller {
        unreachable!("no request is made")
    }
    fn parent(&self) -> &Parent {
        unreachable!("no request is made")
    }
    fn destination(&self) -> std::net::IpAddr {
        unreachable!()
    }
    fn port(&self) -> u16 {
        80
    }
    fn scopes(&self) -> &[Scope] {
        &[]
    }
}

impl World for Names {
    type Downstream = Nobody;
    type Endpoint = &'static str;
    type Key = &'static str;
    type Io = DuplexStream;

    async fn candidates(&self, _: &Nobody, _: Wanted<'_>) -> Result<Arc<Candidates<Self>>, UpstreamError> {
        Err(none("no request is made".into()))
    }
    async fn permit(&self, _: &Nobody, _: &&'static str) -> Result<(), UpstreamError> {
        Ok(())
    }
    async fn connect(&self, _: &&'static str) -> Result<DuplexStream, UpstreamError> {
        Err(none("no request is made".into()))
    }
    fn reached(&self, _: &&'static str, _: bool) {}
    fn finished(&self, _: &crate::Exchange<Self>) {}
}

const KEY: &str = "shop/cart.shop.svc";

/// Endpoints with their weights and how far they are.
fn candidates(list: &[(&'static str, u32, u32)]) -> Arc<Candidates<Names>> {
    let list = list.iter().map(|(name, weight, steps)| Candidate {
        endpoint: Arc::new(*name),
        key: *name,
        uid: (*name).into(),
        weight: *weight,
        steps: *steps,
    });
    Arc::new(Candidates {
        service: Some(ServiceKey::new(KEY).unwrap()),
        slot: 0,
        list: list.collect(),
        http2: false,
        sticky: false,
    })
}

fn balance(policy: wire::TrafficPolicy) -> Balance<Names> {
    let balance = Balance::default();
    assert_eq!(balance.apply([(KEY, &*policy.encode_to_vec())], &[]), []);
    balance
}

struct Asking {
    subset: Option<&'static str>,
    headers: HeaderMap,
    tried: Vec<&'static str>,
}

fn asking() -> Asking {
    Asking { subset: None, headers: HeaderMap::new(), tried: Vec::new() }
}

impl Asking {
    fn choose(
        &self,
        balance: &Balance<Names>,
        among: &Arc<Candidates<Names>>,
    ) -> Result<Chosen<Names>, UpstreamError> {
        let input = HashInput { headers: &self.headers, query: None, source_ip: [10, 0, 0, 1].into() };
        balance.choose(among, Choice { subset: self.subset, input, tried: &self.tried })
    }

    fn name(&self, balance: &Balance<Names>, among: &Arc<Candidates<Names>>) -> &'static str {
        *self.choose(balance, among).unwrap().0.endpoint
    }

    fn spread(
        &self,
        balance: &Balance<Names>,
        among: &Arc<Candidates<Names>>,
    ) -> BTreeMap<&'static str, u32> {
        let mut counts = BTreeMap::new();
        for _ in 0..1_000 {
            *counts.entry(self.name(balance, among)).or_default() += 1;
        }
        counts
    }
}

fn of(algorithm: wire::traffic_policy::Balance) -> wire::TrafficPolicy {
    wire::TrafficPolicy { balance: algorithm.into(), ..Default::default() }
}

#[test]
fn the_less_busy_of_two_is_chosen() {
    let balance = Balance::default();
    let among = candidates(&[("a", 1, 0), ("b", 1, 0)]);
    // What is under way stays so.
    let held: Vec<_> = (0..100).map(|_| asking().choose(&balance, &among).unwrap()).collect();
    let at_a = held.iter().filter(|(picked, ..)| *picked.endpoint == "a").count();
    assert_eq!(at_a, 50, "of two, always the one with less");
    let (at_a, at_b): (Vec<_>, Vec<_>) = held.into_iter().partition(|(picked, ..)| *picked.endpoint == "a");
    drop(at_b);
    assert_eq!(asking().spread(&balance, &among), BTreeMap::from([("b", 1_000)]));
    drop(at_a);
    let spread = asking().spread(&balance, &among);
    assert!(spread["a"] > 350 && spread["b"] > 350, "{spread:?}");
}

#[test]
fn turns_are_taken_in_proportion_to_weights() {
    let balance = balance(of(wire::traffic_policy::Balance::RoundRobin));
    let even = candidates(&[("a", 1, 0), ("b", 1, 0), ("c", 1, 0), ("d", 1, 0)]);
    assert!(asking().spread(&balance, &even).values().all(|count| *count == 250));
    let uneven = candidates(&[("a", 1, 0), ("b", 3, 0)]);
    assert_eq!(asking().spread(&balance, &uneven), BTreeMap::from([("a", 250), ("b", 750)]));
}

#[test]
fn chance_follows_weights() {
    let among = candidates(&[("a", 1, 0), ("b", 3, 0)]);
    for algorithm in [wire::traffic_policy::Balance::Random, wire::traffic_policy::Balance::LeastRequest] {
        let spread = asking().spread(&balance(of(algorithm)), &among);
        assert!((180..320).contains(&spread["a"]), "{algorithm:?} {spread:?}");
    }
}

#[test]
fn the_same_key_goes_to_the_same_place() {
    let hash =
        wire::HashKey { kind: Some(wire::hash_key::Kind::Header("x-user".into())), ..Default::default() };
    let policy =
        wire::TrafficPolicy { hash: Some(hash), ..of(wire::traffic_policy::Balance::ConsistentHash) };
    let balance = balance(policy);
    let all = [("a", 1, 0), ("b", 1, 0), ("c", 1, 0), ("d", 1, 0)];
    let (four, three) = (candidates(&all), candidates(&all[..3]));
    let mut moved = 0;
    for user in 0..200 {
        let mut asking = asking();
        asking.headers.insert("x-user", user.to_string().parse().unwrap());
        let home = asking.name(&balance, &four);
        assert_eq!(asking.name(&balance, &four), home);
        let without_d = asking.name(&balance, &three);
        assert!(home == "d" || home == without_d);
        moved += u32::from(home == "d");
        // Who was tried is passed over, and only then.
        asking.tried = vec![home];
        assert_ne!(asking.name(&balance, &four), home);
    }
    assert!((20..90).contains(&moved), "{moved}");
    assert_eq!(asking().spread(&balance, &four).len(), 4, "without the header, by chance");
}

#[test]
fn subsets_are_kept_to() {
    let subset = |name: &str, uids: &[&str]| wire::Subset {
        name: name.into(),
        workload_uids: uids.iter().map(|uid| (*uid).into()).collect(),
    };
    let subsets = vec![subset("v1", &["a", "gone"]), subset("v2", &["b", "c"]), subset("none", &["gone"])];
    let balance = balance(wire::TrafficPolicy { subsets, ..Default::default() });
    let among = candidates(&[("a", 1, 0), ("b", 1, 0), ("c", 1, 0)]);
    let v2 = Asking { subset: Some("v2"), ..asking() };
    assert_eq!(v2.spread(&balance, &among).into_keys().collect::<Vec<_>>(), ["b", "c"]);
    assert_eq!(asking().spread(&balance, &among).len(), 3);
    for absent in ["none", "v3"] {
        let error = Asking { subset: Some(absent), ..asking() }.choose(&balance, &among).unwrap_err();
        assert_eq!(error.cause, Cause::NoEndpoint);
        assert!(error.message.contains(absent), "{}", error.message);
    }
    // A policy that changes is in force at once.
    let changed = wire::TrafficPolicy { subsets: vec![subset("v2", &["c"])], ..Default::default() };
    assert_eq!(balance.apply([(KEY, &*changed.encode_to_vec())], &[]), []);
    assert_eq!(v2.spread(&balance, &among), BTreeMap::from([("c", 1_000)]));
    balance.apply([], &[KEY.to_owned()]);
    assert!(v2.choose(&balance, &among).is_err());
}

#[tokio::test(start_paused = true)]
async fn who_fails_is_ejected_and_comes_back() {
    let ejection = wire::Ejection {
        consecutive_errors: 2,
        base_ejection_ms: 5_000,
        max_percent: 50,
        ..Default::default()
    };
    let policy =
        wire::TrafficPolicy { ejection: Some(ejection), ..of(wire::traffic_policy::Balance::RoundRobin) };
    let balance = balance(policy);
    let among = candidates(&[("a", 1, 0), ("b", 1, 0), ("c", 1, 0), ("d", 1, 1)]);
    let fail = |name: &'static str| {
        for _ in 0..2 {
            let others = ["a", "b", "c", "d"].into_iter().filter(|other| *other != name).collect();
            let (_, watch, _) = Asking { tried: others, ..asking() }.choose(&balance, &among).unwrap();
            assert_eq!(*watch.endpoint, name);
            balance.learn(&watch, Health::Error);
        }
    };
    fail("a");
    assert_eq!(asking().spread(&balance, &among).into_keys().collect::<Vec<_>>(), ["b", "c"]);
    fail("b");
    assert_eq!(asking().spread(&balance, &among).into_keys().collect::<Vec<_>>(), ["c"]);
    // Half are ejected already.
    fail("c");
    assert_eq!(asking().spread(&balance, &among).into_keys().collect::<Vec<_>>(), ["c"]);
    tokio::time::advance(Duration::from_millis(5_001)).await;
    assert_eq!(asking().spread(&balance, &among).into_keys().collect::<Vec<_>>(), ["a", "b", "c"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_far_is_for_when_nothing_near_is_left() {
    let ejection = wire::Ejection { consecutive_errors: 1, max_percent: 100, ..Default::default() };
    let eject = |min_health_percent| wire::TrafficPolicy {
        ejection: Some(wire::Ejection { min_health_percent, ..ejection }),
        ..Default::default()
    };
    let among = candidates(&[("near", 1, 0), ("far", 1, 1), ("farther", 1, 2)]);
    let balance = balance(eject(0));
    assert_eq!(asking().spread(&balance, &among), BTreeMap::from([("near", 1_000)]));
    let (_, watch, _) = asking().choose(&balance, &among).unwrap();
    balance.learn(&watch, Health::Unreached);
    assert_eq!(asking().spread(&balance, &among), BTreeMap::from([("far", 1_000)]));
    // Fewer healthy ones than the policy's least: ejections count for nothing.
    balance.apply([(KEY, &*eject(90).encode_to_vec())], &[]);
    assert_eq!(asking().spread(&balance, &among), BTreeMap::from([("near", 1_000)]));
}

#[tokio::test(start_paused = true)]
async fn who_is_not_reached_is_avoided_without_a_policy() {
    let balance = Balance::default();
    let among = candidates(&[("a", 1, 0), ("b", 1, 0)]);
    for _ in 0..2 {
        let (_, watch, _) = Asking { tried: vec!["b"], ..asking() }.choose(&balance, &among).unwrap();
        balance.learn(&watch, Health::Unreached);
    }
    assert_eq!(asking().spread(&balance, &among), BTreeMap::from([("b", 1_000)]));
    // Where all are avoided, none is.
    let (_, watch, _) = asking().choose(&balance, &among).unwrap();
    balance.learn(&watch, Health::Unreached);
    assert_eq!(asking().spread(&balance, &among).len(), 2);
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(asking().spread(&balance, &among).len(), 2);
}

#[test]
fn requests_and_retries_are_bounded() {
    let balance = balance(wire::TrafficPolicy { max_requests: 2, max_retries: 1, ..Default::default() });
    let among = candidates(&[("a", 1, 0), ("b", 1, 0)]);
    let (first, watch, _) = asking().choose(&balance, &among).unwrap();
    let _second = asking().choose(&balance, &among).unwrap();
    assert_eq!(asking().choose(&balance, &among).unwrap_err().cause, Cause::Overloaded);
    drop(first);
    assert!(asking().choose(&balance, &among).is_ok());
    let retry = balance.retry(Some(&watch)).unwrap();
    assert!(balance.retry(Some(&watch)).is_err());
    drop(retry);
    assert!(balance.retry(Some(&watch)).is_ok());
}

#[test]
fn policies_that_are_not_understood_are_refused_and_named() {
    type Change = fn(&mut wire::TrafficPolicy);
    let balance = Balance::<Names>::default();
    let cases: &[(&str, Change)] = &[
        ("requires", |p| p.requires = vec!["slow-start".into()]),
        ("balance", |p| p.balance = 9),
        ("hash", |p| p.balance = wire::traffic_policy::Balance::ConsistentHash.into()),
        ("hash", |p| p.hash = Some(wire::HashKey::default())),
        ("hash.header", |p| {
            let kind = Some(wire::hash_key::Kind::Header("a b".into()));
            p.hash = Some(wire::HashKey { kind, ..Default::default() });
        }),
        ("hash.cookie", |p| {
            let kind = Some(wire::hash_key::Kind::Cookie("a;b".into()));
            p.hash = Some(wire::HashKey { kind, ..Default::default() });
        }),
        ("hash.cookie_path", |p| {
            let kind = Some(wire::hash_key::Kind::Cookie("a".into()));
            p.hash = Some(wire::HashKey { kind, cookie_path: "/; Secure".into(), ..Default::default() });
        }),
        ("ejection.max_percent", |p| {
            p.ejection = Some(wire::Ejection { max_percent: 101, ..Default::default() });
        }),
        ("subsets[0].name", |p| p.subsets = vec![wire::Subset::default()]),
    ];
    for (field, change) in cases {
        let mut policy = wire::TrafficPolicy::default();
        change(&mut policy);
        let refused = balance.apply([(KEY, &*policy.encode_to_vec())], &[]);
        assert!(refused[0].1.starts_with(&format!("{field}: ")), "{field}: {refused:?}");
    }
    assert_eq!(balance.apply([("no-slash", &b""[..])], &[]).len(), 1);
    assert!(balance.names().is_empty());
}
