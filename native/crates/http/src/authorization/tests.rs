use super::*;
use crate::authentication::Claims;
use crate::matcher::RequestView;
use http::{HeaderMap, Method};
use meltemi_types::meltemi::{
    ConditionMatch, HttpAuthorization, HttpAuthorizationRule, OperationMatch, PolicyTarget, SourceMatch,
    http_authorization, policy_target,
};
use std::net::IpAddr;

fn texts(list: &[&str]) -> Vec<String> {
    list.iter().map(|text| (*text).to_owned()).collect()
}

fn policy(
    name: &str,
    action: http_authorization::Action,
    rules: Vec<HttpAuthorizationRule>,
) -> HttpAuthorization {
    HttpAuthorization {
        namespace: "shop".into(),
        name: name.into(),
        action: action.into(),
        targets: vec![PolicyTarget { kind: Some(policy_target::Kind::Waypoint(true)) }],
        rules,
        ..Default::default()
    }
}

fn rule(source: Option<SourceMatch>, operation: Option<OperationMatch>) -> HttpAuthorizationRule {
    HttpAuthorizationRule {
        sources: source.into_iter().collect(),
        operations: operation.into_iter().collect(),
        conditions: vec![],
    }
}

fn put(policies: &Policies, message: &HttpAuthorization) -> Vec<(String, String)> {
    let name = format!("{}/{}", message.namespace, message.name);
    policies.apply([(&*name, &*message.encode_to_vec())], &[])
}

/// A request by the account, or by nobody that is known.
fn ask(
    policies: &Policies,
    account: Option<&str>,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
) -> Decision {
    ask_with(policies, account, method, path, headers, None)
}

fn ask_with(
    policies: &Policies,
    account: Option<&str>,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
    token: Option<&Claims>,
) -> Decision {
    let ip: IpAddr = "10.0.0.7".parse().unwrap();
    let identity = account.map(|account| format!("spiffe://td/ns/web/sa/{account}").parse().unwrap());
    let caller = Caller { identity, source_ip: ip, remote_ip: ip };
    let request = RequestView {
        host: "cart.example",
        path,
        query: None,
        method,
        scheme: "http",
        headers,
        source_namespace: "web",
        port: 80,
    };
    let http = Some(HttpFacts { request, authority: "cart.example:80", token });
    let destination = "10.96.0.1".parse().unwrap();
    let facts = Facts { caller: &caller, destination, port: 80, sni: None, http };
    policies.judge(&[Scope::Waypoint], &facts).decision
}

fn get(policies: &Policies, account: Option<&str>, path: &str) -> bool {
    ask(policies, account, &Method::GET, path, &HeaderMap::new()).is_allowed()
}

use http_authorization::Action as Wire;

#[test]
fn nothing_is_allowed_before_discovery_has_answered() {
    let policies = Policies::default();
    assert!(!get(&policies, Some("a"), "/"));
    policies.synced();
    assert!(get(&policies, Some("a"), "/"));
}

#[test]
fn an_allow_excludes_what_it_does_not_name() {
    let policies = Policies::default();
    policies.synced();
    let source = SourceMatch { principals: texts(&["td/ns/web/sa/a"]), ..Default::default() };
    let operation = OperationMatch {
        methods: texts(&["GET"]),
        paths: texts(&["/public/*", "/item/{*}/view"]),
        ..Default::default()
    };
    assert!(
        put(&policies, &policy("allow", Wire::Allow, vec![rule(Some(source), Some(operation))])).is_empty()
    );
    for (account, path, want) in [
        (Some("a"), "/public/x", true),
        (Some("a"), "/item/7/view", true),
        (Some("a"), "/item/7/8/view", false),
        (Some("a"), "/item//view", false),
        (Some("a"), "/private", false),
        (Some("b"), "/public/x", false),
        (None, "/public/x", false),
    ] {
        assert_eq!(get(&policies, account, path), want, "{account:?} {path}");
    }
    let decision = ask(&policies, Some("a"), &Method::POST, "/public/x", &HeaderMap::new());
    assert_eq!(decision.explanation().as_deref(), Some("shop/allow"));
    policies.apply([], &["shop/allow".to_owned()]);
    assert!(get(&policies, None, "/private"));
}

#[test]
fn a_deny_goes_first_and_dry_runs_decide_nothing() {
    let policies = Policies::default();
    policies.synced();
    put(&policies, &policy("allow", Wire::Allow, vec![rule(None, None)]));
    let operation = OperationMatch { paths: texts(&["*/admin"]), ..Default::default() };
    let mut deny = policy("deny", Wire::Deny, vec![rule(None, Some(operation))]);
    deny.dry_run = true;
    put(&policies, &deny);
    assert!(get(&policies, Some("a"), "/x/admin"));
    deny.dry_run = false;
    put(&policies, &deny);
    assert!(!get(&policies, Some("a"), "/x/admin"));
    assert!(get(&policies, Some("a"), "/x"));
}

#[test]
fn what_was_not_proven_allows_nothing() {
    let policies = Policies::default();
    policies.synced();
    let not_b = SourceMatch { not_principals: texts(&["*/sa/b"]), ..Default::default() };
    put(&policies, &policy("p", Wire::Allow, vec![rule(Some(not_b.clone()), None)]));
    assert!(get(&policies, Some("a"), "/") && !get(&policies, Some("b"), "/") && !get(&policies, None, "/"));
    put(&policies, &policy("p", Wire::Deny, vec![rule(Some(not_b), None)]));
    assert!(!get(&policies, Some("a"), "/") && get(&policies, Some("b"), "/") && !get(&policies, None, "/"));
    // Without a verified token a rule that wants one never allows, and one that wants none for a denial denies.
    let any_token = SourceMatch { request_principals: texts(&["*"]), ..Default::default() };
    put(&policies, &policy("p", Wire::Allow, vec![rule(Some(any_token), None)]));
    assert!(!get(&policies, Some("a"), "/"));
    let no_token = SourceMatch { not_request_principals: texts(&["*"]), ..Default::default() };
    put(&policies, &policy("p", Wire::Deny, vec![rule(Some(no_token), None)]));
    assert!(!get(&policies, Some("a"), "/"));
}

#[test]
fn conditions_all_hold() {
    let policies = Policies::default();
    policies.synced();
    let condition = |key: &str, values: &[&str], not_values: &[&str]| ConditionMatch {
        key: key.into(),
        values: texts(values),
        not_values: texts(not_values),
    };
    let rule = HttpAuthorizationRule {
        conditions: vec![
            condition("request.headers[x-team]", &["red", "blu*"], &["blunt"]),
            condition("source.ip", &["10.0.0.0/8"], &["10.0.0.8"]),
            condition("destination.port", &["80"], &[]),
        ],
        ..Default::default()
    };
    assert_eq!(put(&policies, &policy("p", Wire::Allow, vec![rule])), []);
    for (team, want) in [("red", true), ("blue", true), ("blunt", false), ("green", false)] {
        let headers = HeaderMap::from_iter([("x-team".parse().unwrap(), team.parse().unwrap())]);
        assert_eq!(ask(&policies, None, &Method::GET, "/", &headers).is_allowed(), want, "{team}");
    }
    assert!(!get(&policies, None, "/"));
}

#[test]
fn a_policy_that_is_not_understood_closes_what_it_is_for() {
    type Change = fn(&mut HttpAuthorization);
    let cases: &[(&str, Change)] = &[
        ("action", |p| p.action = 9),
        ("provider", |p| p.action = Wire::Custom.into()),
        ("external.protocol", |p| {
            p.action = Wire::Custom.into();
            p.provider = "authz".into();
            p.external = Some(wire::ExternalAuthorizer::default());
        }),
        ("requires", |p| p.requires = texts(&["magic"])),
        ("targets", |p| p.targets.clear()),
        ("name", |p| p.namespace = String::new()),
        ("rules[0].sources[0]", |p| p.rules[0].sources.push(SourceMatch::default())),
        ("rules[0].operations[0]", |p| p.rules[0].operations.push(OperationMatch::default())),
        ("rules[0].sources[0].principals[0]", |p| {
            p.rules[0].sources.push(SourceMatch { principals: texts(&["a*b"]), ..Default::default() });
        }),
        ("rules[0].operations[0].not_paths[0]", |p| {
            p.rules[0].operations.push(OperationMatch { not_paths: texts(&["/{*}x"]), ..Default::default() });
        }),
        ("rules[0].operations[0].ports[0]", |p| {
            p.rules[0].operations.push(OperationMatch { ports: vec![0], ..Default::default() });
        }),
        ("rules[0].conditions[0].key", |p| {
            let condition = ConditionMatch { key: "x.y".into(), values: texts(&["a"]), not_values: vec![] };
            p.rules[0].conditions.push(condition);
        }),
        ("rules[0].conditions[0].values[0]", |p| {
            let condition = ConditionMatch {
                key: "source.ip".into(),
                values: texts(&["1.2.3.4/33"]),
                ..Default::default()
            };
            p.rules[0].conditions.push(condition);
        }),
    ];
    for (field, change) in cases {
        let policies = Policies::default();
        policies.synced();
        let mut bad = policy("p", Wire::Allow, vec![rule(None, None)]);
        put(&policies, &bad);
        assert!(get(&policies, None, "/"));
        let name = "shop/p";
        change(&mut bad);
        let apply = || policies.apply([(name, &*bad.encode_to_vec())], &[]);
        let refused = apply();
        assert!(refused[0].1.starts_with(&format!("{field}: ")), "{field}: {refused:?}");
        assert!(get(&policies, None, "/"), "{field}: the last good version is gone");
        policies.apply([], &[name.to_owned()]);
        apply();
        assert!(!get(&policies, None, "/"), "{field}: open");
    }
}

/// A connection whose requests are not seen: rules that ask for something of a request never allow it, and
/// deny it if the rest holds.
#[test]
fn connections_are_judged_by_what_is_known_of_them() {
    let ip: IpAddr = "10.0.0.7".parse().unwrap();
    let caller =
        Caller { identity: Some("spiffe://td/ns/web/sa/a".parse().unwrap()), source_ip: ip, remote_ip: ip };
    let ask = |message: &HttpAuthorization, port| {
        let policies = Policies::default();
        policies.synced();
        assert_eq!(put(&policies, message), []);
        let facts = Facts { caller: &caller, destination: ip, port, sni: None, http: None };
        policies.judge(&[Scope::Waypoint], &facts).decision.is_allowed()
    };
    let source = SourceMatch { principals: texts(&["td/ns/web/sa/a"]), ..Default::default() };
    let ports = OperationMatch { ports: vec![5432], ..Default::default() };
    let paths = OperationMatch { ports: vec![5432], paths: texts(&["/x"]), ..Default::default() };
    for (action, operation, port, want) in [
        (Wire::Allow, &ports, 5432, true),
        (Wire::Allow, &ports, 80, false),
        (Wire::Allow, &paths, 5432, false),
        (Wire::Deny, &ports, 5432, false),
        (Wire::Deny, &paths, 5432, false),
        (Wire::Deny, &paths, 80, true),
    ] {
        let message = policy("p", action, vec![rule(Some(source.clone()), Some(operation.clone()))]);
        assert_eq!(ask(&message, port), want, "{action:?} {operation:?} {port}");
    }
}

fn condition(key: &str, values: &[&str], not_values: &[&str]) -> ConditionMatch {
    ConditionMatch { key: key.into(), values: texts(values), not_values: texts(not_values) }
}

/// Every condition of Istio's list: with a token, and without one.
#[test]
fn conditions_on_tokens_and_destinations() {
    let value = serde_json::json!({
        "iss": "https://i", "sub": "ann", "aud": ["shop", "web"], "azp": "app", "scope": "read write",
        "realm": {"roles": ["admin", "dev"], "name": "main"}, "level": 7,
    });
    let token = Claims::new(value.as_object().unwrap().clone(), "");
    for (key, values, not_values, with_token, without) in [
        ("request.auth.principal", &["https://i/ann"][..], &[][..], true, false),
        ("request.auth.principal", &["https://i/*"], &["*/bob"], true, false),
        ("request.auth.principal", &["*"], &[], true, false),
        ("request.auth.principal", &[], &["https://i/ann"], false, false),
        ("request.auth.audiences", &["web"], &[], true, false),
        ("request.auth.audiences", &["bank"], &[], false, false),
        ("request.auth.presenter", &["app"], &[], true, false),
        ("request.auth.claims[scope]", &["write"], &[], true, false),
        ("request.auth.claims[scope]", &["read write"], &[], false, false),
        ("request.auth.claims[realm][roles]", &["dev"], &[], true, false),
        ("request.auth.claims[realm][roles]", &["adm*"], &["dev"], false, false),
        ("request.auth.claims[realm][name]", &["main"], &[], true, false),
        ("request.auth.claims[realm]", &["*"], &[], false, false),
        ("request.auth.claims[level]", &["7"], &[], false, false),
        ("request.auth.claims[absent]", &[], &["x"], false, false),
        ("destination.ip", &["10.96.0.0/16"], &[], true, true),
        ("destination.ip", &["10.97.0.0/16"], &[], false, false),
        ("destination.ip", &[], &["10.96.0.1"], false, false),
        ("source.serviceAccount", &["web/a"], &[], true, true),
        ("source.serviceAccount", &["web/b"], &[], false, false),
        ("source.serviceAccount", &[], &["web/a"], false, false),
        // HTTP in the clear names nothing by TLS.
        ("connection.sni", &["*"], &[], false, false),
    ] {
        let policies = Policies::default();
        policies.synced();
        let rule = HttpAuthorizationRule {
            conditions: vec![condition(key, values, not_values)],
            ..Default::default()
        };
        assert_eq!(put(&policies, &policy("p", Wire::Allow, vec![rule])), [], "{key}");
        let headers = HeaderMap::new();
        let allowed = |token| ask_with(&policies, Some("a"), &Method::GET, "/", &headers, token).is_allowed();
        assert_eq!(
            (allowed(Some(&token)), allowed(None)),
            (with_token, without),
            "{key} {values:?} {not_values:?}"
        );
    }
    for key in [
        "request.auth.claims",
        "request.auth.claims[]",
        "request.auth.claims[a",
        "request.auth.other",
        "experimental.envoy.filters.a[b]",
    ] {
        let rule =
            HttpAuthorizationRule { conditions: vec![condition(key, &["x"], &[])], ..Default::default() };
        let refused = put(&Policies::default(), &policy("p", Wire::Allow, vec![rule]));
        assert!(refused[0].1.starts_with("rules[0].conditions[0].key: "), "{key}: {refused:?}");
    }
}

/// CUSTOM, then DENY, then what is unknown, then ALLOW; AUDIT and dry runs beside.
#[test]
fn actions_come_in_their_order() {
    let paths =
        |path: &str| vec![rule(None, Some(OperationMatch { paths: texts(&[path]), ..Default::default() }))];
    let policies = Policies::default();
    policies.synced();
    let mut custom = policy("custom", Wire::Custom, paths("/ask/*"));
    custom.provider = "authz".into();
    let mut dry = policy("dry", Wire::Deny, paths("*"));
    dry.dry_run = true;
    for policy in [
        custom,
        policy("deny", Wire::Deny, paths("/deny/*")),
        policy("allow", Wire::Allow, paths("/*")),
        policy("audit", Wire::Audit, paths("/audit/*")),
        dry,
    ] {
        assert_eq!(put(&policies, &policy), []);
    }
    let headers = HeaderMap::new();
    for (path, asked, decided, reported) in [
        ("/ask/x", true, "shop/allow", &["shop/dry"][..]),
        ("/deny/x", false, "shop/deny", &["shop/dry"]),
        ("/audit/x", false, "shop/allow", &["shop/audit", "shop/dry"]),
    ] {
        let ip: IpAddr = "10.0.0.7".parse().unwrap();
        let caller = Caller { identity: None, source_ip: ip, remote_ip: ip };
        let request = RequestView {
            host: "cart.example",
            path,
            query: None,
            method: &Method::GET,
            scheme: "http",
            headers: &headers,
            source_namespace: "",
            port: 80,
        };
        let http = Some(HttpFacts { request, authority: "cart.example", token: None });
        let facts = Facts { caller: &caller, destination: ip, port: 80, sni: None, http };
        let to_be_asked = policies.to_be_asked(&[Scope::Waypoint], &facts);
        assert_eq!(!to_be_asked.is_empty(), asked, "{path}");
        let verdict = policies.judge(&[Scope::Waypoint], &facts);
        assert_eq!(verdict.decision.explanation().as_deref(), Some(decided), "{path}");
        let names: Vec<_> = verdict.reported.iter().map(|policy| policy.key.as_str()).collect();
        assert_eq!(names, reported, "{path}");
        // Of a connection nobody can be asked, and its path is not seen.
        let unseen = Facts { http: None, ..facts };
        let verdict = policies.judge(&[Scope::Waypoint], &unseen);
        assert_eq!(verdict.decision.explanation().as_deref(), Some("shop/custom"));
    }
}
