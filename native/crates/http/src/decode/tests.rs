use super::*;
use meltemi_types::meltemi::{http_filter, path_change, path_match, route_parent, text_match};

fn text(kind: text_match::Kind) -> Option<wire::TextMatch> {
    Some(wire::TextMatch { kind: Some(kind), ignore_case: false })
}

fn good() -> wire::HttpRoute {
    wire::HttpRoute {
        namespace: "shop".into(),
        name: "cart".into(),
        parents: vec![wire::RouteParent {
            target: Some(route_parent::Target::Service("shop/cart.shop.svc".into())),
            port: 80,
        }],
        hostnames: vec!["*.Example".into()],
        rules: vec![wire::HttpRule {
            matches: vec![wire::HttpMatch {
                path: Some(wire::PathMatch {
                    kind: Some(path_match::Kind::Segments("/a/".into())),
                    ignore_case: false,
                }),
                method: text(text_match::Kind::Exact("GET".into())),
                headers: vec![wire::HeaderMatch {
                    name: "x-a".into(),
                    value: text(text_match::Kind::Regex("v[12]".into())),
                    not: false,
                }],
                ..wire::HttpMatch::default()
            }],
            backends: vec![wire::HttpBackend {
                service: "shop/cart.shop.svc".into(),
                port: 80,
                weight: 1,
                ..wire::HttpBackend::default()
            }],
            timeouts: Some(wire::HttpTimeouts {
                request_ms: Some(500),
                idle_ms: Some(0),
                ..Default::default()
            }),
            ..wire::HttpRule::default()
        }],
        ..wire::HttpRoute::default()
    }
}

#[test]
fn a_route_is_taken_over() {
    let route = route("HTTPRoute/shop/cart", &good()).unwrap();
    assert_eq!(&*route.key, "shop/cart");
    assert_eq!(*route.hosts, [Host::Suffix(".example".into())]);
    assert_eq!(route.parents[0].port, Some(80));
    let (matches, rule) = &route.rules[0];
    assert_eq!(matches[0].path, PathMatch::Segments("/a".into()));
    assert_eq!(rule.timeouts.request, Some(Duration::from_millis(500)));
    assert_eq!(rule.timeouts.idle, Some(Duration::ZERO));
}

/// Each change makes the route one that cannot be carried out as written.
#[test]
fn what_is_not_understood_is_refused_and_named() {
    type Change = fn(&mut wire::HttpRoute);
    fn filtered(route: &mut wire::HttpRoute, kind: http_filter::Kind) {
        route.rules[0].filters = vec![wire::HttpFilter { kind: Some(kind) }];
    }
    let cases: &[(&str, Change)] = &[
        ("requires", |r| r.requires = vec!["wasm".into()]),
        ("order", |r| r.order = 7),
        ("parents[0]", |r| r.parents[0].target = None),
        ("parents[0].service", |r| {
            r.parents[0].target = Some(route_parent::Target::Service("no-slash".into()));
        }),
        ("parents[0].port", |r| r.parents[0].port = 65_536),
        ("hostnames[0]", |r| r.hostnames[0] = "a*.example".into()),
        ("hostnames[0]", |r| r.hostnames[0] = "a b".into()),
        ("rules[0].matches[0].path", |r| r.rules[0].matches[0].path = Some(wire::PathMatch::default())),
        ("rules[0].matches[0].path", |r| {
            let kind = Some(path_match::Kind::Regex("(".into()));
            r.rules[0].matches[0].path = Some(wire::PathMatch { kind, ignore_case: false });
        }),
        ("rules[0].matches[0].path", |r| {
            let kind = Some(path_match::Kind::Exact("a".into()));
            r.rules[0].matches[0].path = Some(wire::PathMatch { kind, ignore_case: false });
        }),
        ("rules[0].matches[0].method", |r| r.rules[0].matches[0].method = Some(wire::TextMatch::default())),
        ("rules[0].matches[0].headers[0].name", |r| r.rules[0].matches[0].headers[0].name = "x y".into()),
        ("rules[0].matches[0].headers[0].value", |r| r.rules[0].matches[0].headers[0].value = None),
        ("rules[0].filters[0]", |r| r.rules[0].filters = vec![wire::HttpFilter::default()]),
        ("rules[0].filters[0].backend", |r| filtered(r, http_filter::Kind::Mirror(wire::Mirror::default()))),
        ("rules[0].filters[0].per_million", |r| {
            let backend = r.rules[0].backends.first().cloned();
            let mirror = wire::Mirror { backend, per_million: 1_000_001, all: false };
            filtered(r, http_filter::Kind::Mirror(mirror));
        }),
        ("rules[0].filters[0]", |r| filtered(r, http_filter::Kind::Fault(wire::Fault::default()))),
        ("rules[0].filters[0].abort_grpc_status", |r| {
            let fault = wire::Fault { abort_grpc_status: Some(17), ..Default::default() };
            filtered(r, http_filter::Kind::Fault(fault));
        }),
        ("rules[0].filters[0].abort_status", |r| {
            filtered(r, http_filter::Kind::Fault(wire::Fault { abort_status: 99, ..Default::default() }));
        }),
        ("rules[0].filters[1]", |r| {
            let cors = wire::HttpFilter { kind: Some(http_filter::Kind::Cors(wire::Cors::default())) };
            r.rules[0].filters = vec![cors.clone(), cors];
        }),
        ("rules[0].filters[0].allow_origins[0]", |r| {
            let cors = wire::Cors { allow_origins: vec![wire::TextMatch::default()], ..Default::default() };
            filtered(r, http_filter::Kind::Cors(cors));
        }),
        ("rules[0].backends[0].filters", |r| {
            let cors = wire::HttpFilter { kind: Some(http_filter::Kind::Cors(wire::Cors::default())) };
            r.rules[0].backends[0].filters = vec![cors];
        }),
        ("rules[0].filters[0].path.regex", |r| {
            let regex = wire::RegexChange { pattern: "a".into(), substitution: r"\1".into() };
            let path = Some(wire::PathChange { kind: Some(path_change::Kind::Regex(regex)) });
            filtered(r, http_filter::Kind::Rewrite(wire::Rewrite { path, ..Default::default() }));
        }),
        ("rules[0].filters[0].set[0]", |r| {
            let pair = wire::HeaderValue { name: "Content-Length".into(), value: "1".into() };
            let change = wire::HeaderChange { set: vec![pair], ..Default::default() };
            filtered(r, http_filter::Kind::RequestHeaders(change));
        }),
        ("rules[0].filters[0].add[0]", |r| {
            let pair = wire::HeaderValue { name: "x-a".into(), value: "a\r\nb: c".into() };
            let change = wire::HeaderChange { add: vec![pair], ..Default::default() };
            filtered(r, http_filter::Kind::ResponseHeaders(change));
        }),
        ("rules[0].filters[0].status", |r| {
            filtered(r, http_filter::Kind::Redirect(wire::Redirect { status: 200, ..Default::default() }));
        }),
        ("rules[0].filters[0].path", |r| {
            let path = Some(wire::PathChange { kind: Some(path_change::Kind::Full("x".into())) });
            filtered(r, http_filter::Kind::Rewrite(wire::Rewrite { path, ..Default::default() }));
        }),
        ("rules[0].filters[0].status", |r| {
            let answer = wire::DirectResponse { status: 101, ..Default::default() };
            filtered(r, http_filter::Kind::DirectResponse(answer));
        }),
        ("rules[0].backends[0].service", |r| r.rules[0].backends[0].service = String::new()),
        ("rules[0].backends[0].port", |r| r.rules[0].backends[0].port = 0),
        ("rules[0].backends", |r| {
            r.rules[0].backends[0].weight = u32::MAX;
            let again = r.rules[0].backends[0].clone();
            r.rules[0].backends.push(again);
        }),
        ("rules[0]", |r| r.rules[0].to_parent = true),
        ("rules[0].retry.statuses", |r| {
            r.rules[0].retry = Some(wire::HttpRetry { statuses: vec![200], ..Default::default() });
        }),
        ("rules[0].retry.grpc_statuses", |r| {
            r.rules[0].retry = Some(wire::HttpRetry { grpc_statuses: vec![0], ..Default::default() });
        }),
    ];
    for (index, (field, change)) in cases.iter().enumerate() {
        let mut message = good();
        change(&mut message);
        let error = route("r", &message).expect_err(&format!("case {index}: accepted"));
        assert_eq!(error.field, *field, "case {index}: {error}");
    }
}

#[test]
fn a_consumers_route_changes_no_request() {
    let change = |kind| wire::HttpFilter { kind: Some(kind) };
    let rewrite = || change(http_filter::Kind::Rewrite(wire::Rewrite { path: None, ..Default::default() }));
    let headers = || change(http_filter::Kind::RequestHeaders(wire::HeaderChange::default()));
    let answer = || change(http_filter::Kind::ResponseHeaders(wire::HeaderChange::default()));
    for (of_rule, of_backend, refused) in [
        (vec![answer()], vec![answer()], false),
        (vec![answer(), rewrite()], vec![], true),
        (vec![headers()], vec![], true),
        (vec![], vec![rewrite()], true),
        (vec![], vec![headers()], true),
    ] {
        let mut message = good();
        message.rules[0].filters = of_rule;
        message.rules[0].backends[0].filters = of_backend;
        assert!(route("r", &message).is_ok(), "the producer's: {message:?}");
        message.consumer_namespace = "evil".into();
        let error = route("r", &message).err().map(|error| error.field);
        assert_eq!(error.as_deref(), refused.then_some("rules"), "{message:?}");
    }
}
