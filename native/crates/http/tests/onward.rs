//! Policies of the service that a route leads to, over real sockets.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use meltemi_http::{Cause, Mirrored};
use meltemi_types::meltemi as wire;
use prost::Message;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use support::{Proxy, backend, status};
use wire::{http_authorization::Action, http_filter, path_change, policy_target};

fn policy(proxy: &Proxy, name: &str, action: Action, rules: Vec<wire::HttpAuthorizationRule>) {
    let target = policy_target::Kind::Service("shop/orders".into());
    let message = wire::HttpAuthorization {
        namespace: "shop".into(),
        name: name.into(),
        action: action.into(),
        targets: vec![wire::PolicyTarget { kind: Some(target) }],
        rules,
        provider: if action == Action::Custom { "authz".into() } else { String::new() },
        ..Default::default()
    };
    assert_eq!(proxy.core.policies.apply([(name, &*message.encode_to_vec())], &[]), []);
}

fn path(path: &str) -> wire::HttpAuthorizationRule {
    let operation = wire::OperationMatch { paths: vec![path.into()], ..Default::default() };
    wire::HttpAuthorizationRule { operations: vec![operation], ..Default::default() }
}

fn from(source: wire::SourceMatch) -> wire::HttpAuthorizationRule {
    wire::HttpAuthorizationRule { sources: vec![source], ..Default::default() }
}

/// shop/cart and shop/orders, and how many requests the latter had.
async fn services() -> (Proxy, Arc<AtomicUsize>) {
    let proxy = Proxy::start().await;
    let (echo, _) = backend::serve(backend::echo).await;
    proxy.service("shop/cart", &[(echo, false)]);
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let (orders, _) = backend::serve(move |request| {
        counted.fetch_add(1, SeqCst);
        backend::echo(request)
    })
    .await;
    proxy.service("shop/orders", &[(orders, false)]);
    (proxy, count)
}

fn to_orders() -> wire::HttpBackend {
    wire::HttpBackend { service: "shop/orders".into(), port: 8080, weight: 1, ..Default::default() }
}

/// `/public` becomes `/admin` on the way.
fn rewritten(backends: Vec<wire::HttpBackend>) -> wire::HttpRule {
    let path = path_change::Kind::Prefix("/admin".into());
    let rewrite = wire::Rewrite { path: Some(wire::PathChange { kind: Some(path) }), ..Default::default() };
    let prefix = wire::path_match::Kind::Prefix("/public".into());
    let matched = wire::PathMatch { kind: Some(prefix), ignore_case: false };
    wire::HttpRule {
        matches: vec![wire::HttpMatch { path: Some(matched), ..Default::default() }],
        filters: vec![wire::HttpFilter { kind: Some(http_filter::Kind::Rewrite(rewrite)) }],
        to_parent: backends.is_empty(),
        backends,
        ..Default::default()
    }
}

#[tokio::test]
async fn a_route_is_no_way_past_the_policies_of_where_it_leads() {
    let (proxy, count) = services().await;
    let plain = wire::HttpRule { backends: vec![to_orders()], ..Default::default() };
    proxy.route(vec![rewritten(vec![to_orders()]), plain]);
    assert_eq!(status(&proxy.get("/public", "").await), 200, "no policy");
    proxy.told().await;
    policy(&proxy, "admin", Action::Deny, vec![path("/admin*")]);
    // As it would be sent on.
    for target in ["/public", "/public/x", "/admin"] {
        let answer = proxy.get(target, "").await;
        assert_eq!(status(&answer), 403, "{answer}");
        assert!(answer.contains("x-meltemi-refused: policy_denied; policy=shop/admin"), "{answer}");
        let told = proxy.told().await;
        assert_eq!((told.cause, told.attempts), (Some(Cause::PolicyDenied), 0));
    }
    assert_eq!(status(&proxy.get("/other", "").await), 200);
    assert_eq!(count.load(SeqCst), 2, "what was refused has not left");
    // Requests to the service itself are judged by its own alone.
    proxy.route(vec![rewritten(Vec::new())]);
    assert_eq!(status(&proxy.get("/public", "").await), 200);
}

#[tokio::test]
async fn a_caller_that_the_service_allows_gets_there_by_a_route() {
    let (proxy, _) = services().await;
    proxy.route(vec![wire::HttpRule { backends: vec![to_orders()], ..Default::default() }]);
    for (principal, port, code) in [
        ("td/ns/web/sa/front", 8080, 200),
        ("td/ns/web/sa/front", 80, 403),
        ("td/ns/web/sa/other", 8080, 403),
    ] {
        let operation = wire::OperationMatch { ports: vec![port], ..Default::default() };
        let caller = wire::SourceMatch { principals: vec![principal.into()], ..Default::default() };
        let rule = wire::HttpAuthorizationRule { operations: vec![operation], ..from(caller) };
        policy(&proxy, "allow", Action::Allow, vec![rule]);
        assert_eq!(status(&proxy.get("/", "").await), code, "{principal} at {port}");
    }
}

#[tokio::test]
async fn what_cannot_be_found_out_about_a_request_refuses_it() {
    let (proxy, count) = services().await;
    proxy.route(vec![wire::HttpRule { backends: vec![to_orders()], ..Default::default() }]);
    let token = wire::SourceMatch { request_principals: vec!["*".into()], ..Default::default() };
    policy(&proxy, "token", Action::Allow, vec![from(token)]);
    assert_eq!(status(&proxy.get("/", "").await), 403);
    proxy.core.policies.apply([], &["token".to_owned()]);
    policy(&proxy, "ask", Action::Custom, vec![path("/asked")]);
    let answer = proxy.get("/asked", "").await;
    assert!(answer.contains("x-meltemi-refused: policy_denied; policy=shop/ask"), "{answer}");
    assert_eq!(count.load(SeqCst), 0);
    assert_eq!(status(&proxy.get("/", "").await), 200);
}

#[tokio::test]
async fn a_copy_is_sent_only_where_the_caller_may() {
    let (proxy, count) = services().await;
    let mirror = wire::Mirror { backend: Some(to_orders()), per_million: 0, all: true };
    let filter = wire::HttpFilter { kind: Some(http_filter::Kind::Mirror(mirror)) };
    proxy.route(vec![wire::HttpRule { to_parent: true, filters: vec![filter], ..Default::default() }]);
    policy(&proxy, "admin", Action::Deny, vec![path("/admin")]);
    for (target, outcome, copies) in [("/admin", Mirrored::Failed, 0), ("/other", Mirrored::Answered, 1)] {
        assert_eq!(status(&proxy.get(target, "").await), 200);
        assert_eq!(proxy.mirrored().await, outcome, "{target}");
        assert_eq!(count.load(SeqCst), copies, "{target}");
    }
}
