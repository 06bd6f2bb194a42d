use super::*;
use http::{HeaderMap, Method};
use meltemi_types::ServiceKey;
use meltemi_types::meltemi::{path_match, route_parent};

fn parent() -> Parent {
    Parent::Service(ServiceKey::new("shop/cart").unwrap())
}

/// A route of one rule: requests below `prefix` of any host.
fn route(name: &str, prefix: &str, consumer: &str) -> wire::HttpRoute {
    let path = wire::PathMatch { kind: Some(path_match::Kind::Segments(prefix.into())), ignore_case: false };
    wire::HttpRoute {
        namespace: "shop".into(),
        name: name.into(),
        parents: vec![wire::RouteParent {
            target: Some(route_parent::Target::Service("shop/cart".into())),
            port: 0,
        }],
        consumer_namespace: consumer.into(),
        rules: vec![wire::HttpRule {
            name: name.into(),
            matches: vec![wire::HttpMatch { path: Some(path), ..Default::default() }],
            to_parent: true,
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn put(table: &RouteTable, name: &str, message: &wire::HttpRoute) -> Vec<(String, String)> {
    table.apply([(name, &*message.encode_to_vec())], &[])
}

fn find(table: &RouteTable, path: &str, namespace: &str, port: u16) -> String {
    let headers = HeaderMap::new();
    let request = RequestView {
        host: "cart",
        path,
        query: None,
        method: &Method::GET,
        scheme: "http",
        headers: &headers,
        source_namespace: namespace,
        port,
    };
    match table.find(&parent(), &request) {
        Found::Rule { rule, .. } => rule.name.to_string(),
        other => format!("{other:?}"),
    }
}

#[test]
fn routes_come_change_and_go() {
    let table = RouteTable::default();
    assert_eq!(find(&table, "/a", "", 80), "NotReceived");
    table.synced();
    assert_eq!(find(&table, "/a", "", 80), "NoRoutes");
    assert!(put(&table, "r1", &route("one", "/a", "")).is_empty());
    assert_eq!(find(&table, "/a", "", 80), "one");
    assert_eq!(find(&table, "/b", "", 80), "NoMatch");
    put(&table, "r1", &route("one", "/b", ""));
    assert_eq!(find(&table, "/a", "", 80), "NoMatch");
    table.apply([], &["r1".to_owned()]);
    assert_eq!(find(&table, "/b", "", 80), "NoRoutes");
    assert!(table.names().is_empty());
}

#[test]
fn a_consumer_route_replaces_the_producers_for_its_namespace() {
    let table = RouteTable::default();
    table.synced();
    put(&table, "p", &route("producer", "/a", ""));
    put(&table, "c", &route("consumer", "/b", "team"));
    assert_eq!(find(&table, "/a", "", 80), "producer");
    assert_eq!(find(&table, "/a", "team", 80), "NoMatch");
    assert_eq!(find(&table, "/b", "team", 80), "consumer");
    table.apply([], &["p".to_owned()]);
    assert_eq!(find(&table, "/a", "other", 80), "NoRoutes");
}

#[test]
fn a_route_is_attached_to_its_parents_port_alone() {
    let table = RouteTable::default();
    table.synced();
    let mut message = route("one", "/a", "");
    message.parents[0].port = 80;
    put(&table, "r", &message);
    assert_eq!(find(&table, "/a", "", 80), "one");
    assert_eq!(find(&table, "/b", "", 80), "NoMatch");
    assert_eq!(find(&table, "/a", "", 81), "NoRoutes");
}

#[test]
fn a_refused_route_keeps_its_last_good_version_or_breaks_what_it_was_for() {
    let table = RouteTable::default();
    table.synced();
    let mut bad = route("one", "/a", "");
    bad.rules[0].filters = vec![wire::HttpFilter::default()];
    let refused = put(&table, "r", &bad);
    assert_eq!(refused.len(), 1);
    assert!(refused[0].1.contains("rules[0].filters[0]"), "{refused:?}");
    assert_eq!(find(&table, "/a", "", 80), "Broken");
    put(&table, "other", &route("two", "/b", ""));
    assert_eq!(find(&table, "/b", "", 80), "two");
    assert_eq!(find(&table, "/a", "", 80), "Broken");
    put(&table, "r", &route("one", "/a", ""));
    assert_eq!(find(&table, "/c", "", 80), "NoMatch");
    assert_eq!(put(&table, "r", &bad).len(), 1);
    assert_eq!(find(&table, "/a", "", 80), "one");
    assert_eq!(table.apply([("x", &b"\xff"[..])], &[]).len(), 1);
}

#[test]
fn a_refused_consumer_route_is_the_affair_of_its_namespace_alone() {
    let table = RouteTable::default();
    table.synced();
    let mut bad = route("consumer", "/a", "team");
    bad.rules[0].filters = vec![wire::HttpFilter::default()];
    assert_eq!(put(&table, "c", &bad).len(), 1);
    assert_eq!(find(&table, "/a", "team", 80), "Broken");
    assert_eq!(find(&table, "/a", "other", 80), "NoRoutes");
    put(&table, "p", &route("producer", "/a", ""));
    assert_eq!(find(&table, "/a", "team", 80), "Broken", "not the producer's, whose place it would take");
    assert_eq!(find(&table, "/a", "other", 80), "producer");
    assert_eq!(find(&table, "/b", "other", 80), "NoMatch");
    put(&table, "c2", &route("another", "/b", "team"));
    assert_eq!(find(&table, "/b", "team", 80), "another");
    assert_eq!(find(&table, "/a", "team", 80), "Broken");
    table.apply([], &["c".to_owned(), "c2".to_owned()]);
    assert_eq!(find(&table, "/a", "team", 80), "producer");
}
