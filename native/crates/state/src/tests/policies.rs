use meltemi_policy::{ConnectionFacts, Decision, DenyReason};
use meltemi_types::ClientAddress;
use meltemi_types::security::{Action, Authorization, Clause, Match, Rule, Scope};

use super::*;
use crate::Workload;

fn authorization(name: &str, scope: Scope, action: Action) -> Authorization {
    let namespace = if scope == Scope::Global { "meltemi-system" } else { "shop" };
    let matches = vec![Match { destination_ports: vec![8080], ..Match::default() }];
    Authorization {
        name: name.into(),
        namespace: namespace.into(),
        scope: scope.into(),
        action: action.into(),
        rules: vec![Rule { clauses: vec![Clause { matches }] }],
        ..Authorization::default()
    }
}

fn policy(wire: Authorization) -> ResourceUpdate {
    let name = format!("{}/{}", wire.namespace, wire.name);
    ResourceUpdate { name, aliases: vec![], body: wire.encode_to_vec().into() }
}

fn put_policies(mesh: &Mesh, updates: Vec<ResourceUpdate>, removed: &[&str]) -> Vec<Rejection> {
    super::apply(mesh, ResourceType::Authorization, updates, removed)
}

fn selected(policies: &[&str]) -> Mesh {
    let mut workload = pod("web-1", "10.0.0.1");
    workload.authorization_policies = policies.iter().map(ToString::to_string).collect();
    wildcard(vec![update(workload)])
}

fn web(mesh: &Mesh) -> Arc<Workload> {
    mesh.workload(&uid("web-1")).unwrap()
}

fn judged(mesh: &Mesh, port: u16) -> String {
    let facts = ConnectionFacts::new(
        ClientAddress::new("10.0.0.2:40000".parse().unwrap()),
        None,
        format!("10.0.0.1:{port}").parse().unwrap(),
    );
    match mesh.policies_for(&web(mesh)).evaluate(&facts).decision {
        Decision::Allow { policy } => format!("allow {:?}", policy.map(|policy| policy.key.clone())),
        Decision::Deny(DenyReason::Denied(policy)) => format!("deny {}", policy.key),
        Decision::Deny(reason) => reason.to_string(),
    }
}

#[test]
fn mesh_wide_namespaced_and_selecting_policies_apply() {
    for (scope, key) in [
        (Scope::Global, "meltemi-system/p"),
        (Scope::Namespace, "shop/p"),
        (Scope::WorkloadSelector, "shop/p"),
    ] {
        let mesh = selected(if scope == Scope::WorkloadSelector { &["shop/p"] } else { &[] });
        put_policies(&mesh, vec![policy(authorization("p", scope, Action::Deny))], &[]);
        assert_eq!(judged(&mesh, 8080), format!("deny {key}"));
        assert_eq!(judged(&mesh, 8081), "allow None");
        put_policies(&mesh, vec![], &[key]);
        if scope == Scope::WorkloadSelector {
            assert_eq!(
                judged(&mesh, 8081),
                format!("policies of the workload are missing or were refused: {key}")
            );
        } else {
            assert_eq!(judged(&mesh, 8080), "allow None");
        }
    }
}

#[test]
fn policies_of_other_namespaces_and_of_other_workloads_do_not_apply() {
    let mesh = selected(&[]);
    let elsewhere =
        Authorization { namespace: "bank".into(), ..authorization("p", Scope::Namespace, Action::Deny) };
    let of_others = authorization("q", Scope::WorkloadSelector, Action::Deny);
    put_policies(&mesh, vec![policy(elsewhere), policy(of_others)], &[]);
    assert_eq!(judged(&mesh, 8080), "allow None");
}

#[test]
fn a_change_of_scope_or_content_is_in_force_at_once() {
    let mesh = selected(&[]);
    put_policies(&mesh, vec![policy(authorization("p", Scope::Namespace, Action::Deny))], &[]);
    assert_eq!(judged(&mesh, 8080), "deny shop/p");
    put_policies(&mesh, vec![policy(authorization("p", Scope::Namespace, Action::Allow))], &[]);
    assert_eq!(judged(&mesh, 8080), "allow Some(shop/p)");
    assert_eq!(judged(&mesh, 8081), "no ALLOW policy matched: want one of shop/p");
    put_policies(&mesh, vec![policy(authorization("p", Scope::WorkloadSelector, Action::Allow))], &[]);
    assert_eq!(judged(&mesh, 8081), "allow None");
}

#[test]
fn before_policies_were_received_everything_is_refused() {
    let (mesh, _) = on_demand();
    put(&mesh, vec![update(pod("web-1", "10.0.0.1"))]);
    assert_eq!(judged(&mesh, 8080), "the policies of the workload have not been received yet");
    mesh.synced(ResourceType::Authorization);
    assert_eq!(judged(&mesh, 8080), "allow None");
}

#[tokio::test]
async fn a_selecting_policy_that_has_not_come_is_waited_for() {
    let mesh = Arc::new(selected(&["shop/p"]));
    assert!(judged(&mesh, 8081).ends_with("shop/p"));
    let waiting = tokio::spawn({
        let mesh = mesh.clone();
        async move { mesh.await_policies_for(&web(&mesh), soon()).await.is_complete() }
    });
    tokio::task::yield_now().await;
    put_policies(&mesh, vec![policy(authorization("p", Scope::WorkloadSelector, Action::Deny))], &[]);
    assert!(waiting.await.unwrap());
    assert_eq!(judged(&mesh, 8081), "allow None");
}

/// The policy goes first, then the workload that named it: whoever comes in between waits for that alone.
#[tokio::test(start_paused = true)]
async fn a_selecting_policy_that_was_removed_is_not_waited_for() {
    let mesh = Arc::new(selected(&["shop/p"]));
    put_policies(&mesh, vec![policy(authorization("p", Scope::WorkloadSelector, Action::Deny))], &[]);
    put_policies(&mesh, vec![], &["shop/p"]);
    let waiting = tokio::spawn({
        let mesh = mesh.clone();
        async move {
            let began = Instant::now();
            let complete = mesh.await_policies_for(&web(&mesh), soon()).await.is_complete();
            (complete, began.elapsed())
        }
    });
    tokio::task::yield_now().await;
    put(&mesh, vec![update(pod("web-1", "10.0.0.1"))]);
    assert_eq!(waiting.await.unwrap(), (true, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_selecting_policy_that_never_comes_keeps_refusing() {
    let mesh = selected(&["shop/p"]);
    let set = mesh.await_policies_for(&web(&mesh), soon()).await;
    assert_eq!(set.missing().iter().map(ToString::to_string).collect::<Vec<_>>(), ["shop/p"]);
}

#[test]
fn a_refused_policy_keeps_its_last_good_version() {
    let mesh = selected(&[]);
    put_policies(&mesh, vec![policy(authorization("p", Scope::Namespace, Action::Deny))], &[]);
    let unknown = Authorization { action: 7, ..authorization("p", Scope::Namespace, Action::Deny) };
    let good = authorization("q", Scope::Namespace, Action::Deny);
    let rejections = put_policies(&mesh, vec![policy(unknown), policy(good)], &[]);
    assert_eq!(rejections.len(), 1);
    assert_eq!(rejections[0].name, "shop/p");
    assert!(rejections[0].problem.starts_with("action: unknown value 7"), "{:?}", rejections[0]);
    assert_eq!(judged(&mesh, 8080), "deny shop/p");
    assert_eq!(mesh.dump().policies.len(), 2);
}

#[test]
fn a_refused_policy_without_a_last_good_version_refuses_what_it_would_cover() {
    let missing = |key: &str| format!("policies of the workload are missing or were refused: {key}");
    let unknown = |scope| Authorization { action: 7, ..authorization("p", scope, Action::Deny) };
    for (scope, key, expected) in [
        (Scope::Global, "meltemi-system/p", missing("meltemi-system/p")),
        (Scope::Namespace, "shop/p", missing("shop/p")),
        (Scope::WorkloadSelector, "shop/p", "allow None".into()),
    ] {
        let mesh = selected(&[]);
        assert_eq!(put_policies(&mesh, vec![policy(unknown(scope))], &[]).len(), 1);
        assert_eq!(judged(&mesh, 8080), expected);
        assert_eq!(mesh.dump().refused_policies.iter().map(ToString::to_string).collect::<Vec<_>>(), [key]);
        put_policies(&mesh, vec![], &[key]);
        assert_eq!(judged(&mesh, 8080), "allow None", "removed");
        put_policies(&mesh, vec![policy(unknown(scope))], &[]);
        put_policies(&mesh, vec![policy(authorization("p", scope, Action::Deny))], &[]);
        assert!(mesh.dump().refused_policies.is_empty(), "corrected");
    }
    let mesh = selected(&[]);
    put_policies(&mesh, vec![policy(Authorization { dry_run: true, ..unknown(Scope::Global) })], &[]);
    assert_eq!(judged(&mesh, 8080), "allow None", "a dry run decides nothing");
}

#[test]
fn a_truncated_policy_refuses_its_namespace_only() {
    let mesh = selected(&[]);
    let mut cut = policy(authorization("p", Scope::Namespace, Action::Deny));
    cut.body.truncate(cut.body.len() - 1);
    let elsewhere = ResourceUpdate { name: "bank/p".into(), ..cut.clone() };
    assert_eq!(put_policies(&mesh, vec![elsewhere], &[]).len(), 1);
    assert_eq!(judged(&mesh, 8080), "allow None");
    assert_eq!(put_policies(&mesh, vec![cut], &[]).len(), 1);
    assert!(judged(&mesh, 8080).ends_with("refused: shop/p"));
}

#[test]
fn workloads_to_which_the_same_applies_share_one_set_until_it_changes() {
    let mesh = wildcard(vec![update(pod("web-1", "10.0.0.1")), update(pod("web-2", "10.0.0.2"))]);
    let set = |name| mesh.policies_for(&mesh.workload(&uid(name)).unwrap());
    let before = set("web-1");
    assert!(Arc::ptr_eq(&before, &set("web-2")));
    let version = mesh.changes();
    put_policies(&mesh, vec![policy(authorization("p", Scope::Namespace, Action::Deny))], &[]);
    assert!(version.has_changed().unwrap());
    assert!(!Arc::ptr_eq(&before, &set("web-1")));
    let after = set("web-1");
    let mut version = mesh.changes();
    version.mark_unchanged();
    put_policies(&mesh, vec![policy(authorization("p", Scope::Namespace, Action::Deny))], &[]);
    assert!(Arc::ptr_eq(&after, &set("web-1")), "the same content again is no change");
    assert!(!version.has_changed().unwrap());
}
