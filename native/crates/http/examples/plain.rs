//! The core as a plain reverse proxy on loopback, without tunnels: for measuring it (`npm run bench -- l7`) and for
//! tools that speak no HBONE (`npm run h2spec`). `plain BACKEND http1|http2 ROUTES [policy]`; prints its address.
#![allow(clippy::unwrap_used, reason = "a tool for people")]
#[path = "../tests/support/mod.rs"]
mod support;

use meltemi_types::meltemi as wire;
use prost::Message;
use support::Proxy;

/// Rule I takes what is below `/rI`, and says so; the last one takes everything else.
fn rules(count: usize) -> Vec<wire::HttpRule> {
    let path = |path: String| wire::HttpMatch {
        path: Some(wire::PathMatch {
            kind: Some(wire::path_match::Kind::Segments(path)),
            ..Default::default()
        }),
        ..Default::default()
    };
    let header = wire::HeaderValue { name: "x-version".into(), value: "v1".into() };
    let filter = wire::HttpFilter {
        kind: Some(wire::http_filter::Kind::ResponseHeaders(wire::HeaderChange {
            set: vec![header],
            ..Default::default()
        })),
    };
    let numbered = (0..count).map(|rule| format!("/r{rule}"));
    let rule = |prefix: String| wire::HttpRule {
        matches: vec![path(prefix)],
        filters: vec![filter.clone()],
        to_parent: true,
        ..Default::default()
    };
    numbered.chain(["/".to_owned()]).map(rule).collect()
}

/// The same as the rig's (native/crates/proxy/examples/l7_rig), without a caller: plain ones have no name.
fn policy() -> Vec<u8> {
    wire::HttpAuthorization {
        namespace: "shop".into(),
        name: "bench".into(),
        action: wire::http_authorization::Action::Allow.into(),
        targets: vec![wire::PolicyTarget { kind: Some(wire::policy_target::Kind::Waypoint(true)) }],
        rules: vec![wire::HttpAuthorizationRule {
            operations: vec![wire::OperationMatch {
                methods: vec!["GET".into(), "POST".into()],
                paths: vec!["/r*".into()],
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    }
    .encode_to_vec()
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [backend, kind, routes, rest @ ..] = &*arguments else {
        panic!("usage: plain BACKEND http1|http2 ROUTES [policy]")
    };
    let proxy = Proxy::start().await;
    proxy.service("shop/cart", &[(backend.parse().unwrap(), kind == "http2")]);
    proxy.route(rules(routes.parse().unwrap()));
    if rest.first().is_some_and(|word| word == "policy") {
        assert_eq!(proxy.core.policies.apply([("shop/bench", &*policy())], &[]), []);
    }
    println!("{}", proxy.address);
    while proxy.next().await.is_some() {}
}
