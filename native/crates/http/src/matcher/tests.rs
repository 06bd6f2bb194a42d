//! Against a reference that knows no index: every entry is tried, in an order written from the text of the
//! Gateway API, comparison by comparison.

use super::*;
use crate::text::TextMatch;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::cmp::Ordering;

type Case = Entry<usize>;

/// HTTPRouteSpec: hostnames, then HTTPRouteRule.matches' list of criteria, then the ties.
fn goes_first(a: &Case, b: &Case) -> Ordering {
    let host = |entry: &Case| match &entry.host {
        Host::Exact(name) => (name.len(), name.len()),
        // The star counts as a character of the hostname.
        Host::Suffix(suffix) => (0, suffix.len() + 1),
        Host::Any => (0, 0),
    };
    let exact = |entry: &Case| matches!(entry.request.path, PathMatch::Exact(_) | PathMatch::FoldedExact(_));
    let regex = |entry: &Case| match &entry.request.path {
        PathMatch::Regex(pattern) => pattern.source().len(),
        _ => 0,
    };
    let prefix = |entry: &Case| match &entry.request.path {
        PathMatch::Segments(text) | PathMatch::FoldedSegments(text) => text.len().max(1),
        PathMatch::Prefix(text) | PathMatch::FoldedPrefix(text) => text.len().max(1),
        _ => 0,
    };
    let grpc = |entry: &Case| match &entry.request.path {
        PathMatch::GrpcMethod(method) => method.len(),
        _ => 0,
    };
    let written = |entry: &Case| (entry.created_ms, entry.route.to_string(), entry.rule, entry.index);
    let in_order = |entry: &Case| entry.order == Order::InOrder;
    let by_order = in_order(a).cmp(&in_order(b));
    let by_host = host(b).0.cmp(&host(a).0).then(host(b).1.cmp(&host(a).1));
    let specific = exact(b)
        .cmp(&exact(a))
        // Of two exact matches that hold, both are the path itself.
        .then(regex(b).cmp(&regex(a)))
        .then(prefix(b).cmp(&prefix(a)))
        .then(grpc(b).cmp(&grpc(a)))
        .then(b.request.method.is_some().cmp(&a.request.method.is_some()))
        .then(b.request.headers.len().cmp(&a.request.headers.len()))
        .then(b.request.query.len().cmp(&a.request.query.len()));
    let specific = if in_order(a) { Ordering::Equal } else { specific };
    by_order.then(by_host).then(specific).then_with(|| written(a).cmp(&written(b)))
}

fn reference<'a>(entries: &'a [Case], request: &RequestView<'_>) -> Option<&'a Case> {
    entries.iter().filter(|entry| entry.matches(request)).min_by(|a, b| goes_first(a, b))
}

fn pick<'a>(random: &mut StdRng, texts: &[&'a str]) -> &'a str {
    texts[random.random_range(0..texts.len())]
}

const HOSTS: [&str; 6] = ["a.example", "b.a.example", "c.b.a.example", "example", "other", "a.other"];
const SEGMENTS: [&str; 5] = ["a", "ab", "b", "A", "c1"];

fn path(random: &mut StdRng) -> String {
    let segments: String =
        (0..random.random_range(0..4)).map(|_| format!("/{}", pick(random, &SEGMENTS))).collect();
    match (segments.is_empty(), random.random_range(0..5)) {
        (true, _) => "/".into(),
        (false, 0) => segments + "/",
        (false, _) => segments,
    }
}

fn path_match(random: &mut StdRng) -> PathMatch {
    let text = path(random);
    let lower = || text.to_ascii_lowercase().into_boxed_str();
    let bare = || text.strip_suffix('/').unwrap_or(&text).to_ascii_lowercase().into_boxed_str();
    match random.random_range(0..12) {
        0 => PathMatch::Any,
        1 | 2 => PathMatch::Exact(text.into()),
        3..=5 => PathMatch::segments(&text),
        6 => PathMatch::Prefix(text[..random.random_range(0..=text.len())].into()),
        7 => {
            let tail = pick(random, &["", ".*", "/[a-z]+", "(/b)?", "|/b", "[0-9]"]);
            PathMatch::Regex(Box::new(crate::text::Pattern::new(&format!("{text}{tail}"), false).unwrap()))
        }
        8 => PathMatch::GrpcMethod(pick(random, &SEGMENTS).into()),
        9 => PathMatch::FoldedExact(lower()),
        10 => PathMatch::FoldedSegments(bare()),
        _ => PathMatch::FoldedPrefix(lower()),
    }
}

fn value_match(random: &mut StdRng) -> TextMatch {
    match random.random_range(0..6) {
        0 => TextMatch::Present,
        1 => TextMatch::Prefix("v".into()),
        2 => TextMatch::regex("v[12]").unwrap(),
        _ => TextMatch::Exact(pick(random, &["v1", "v2", "v3", "v4", "v5", "v6"]).into()),
    }
}

fn header_name(random: &mut StdRng) -> HeaderName {
    HeaderName::from_static(["x-a", "x-b", "x-c"][random.random_range(0..3)])
}

fn entry(random: &mut StdRng, value: usize) -> Case {
    let some = |random: &mut StdRng, one_in| random.random_range(0..one_in) == 0;
    let host = match random.random_range(0..6) {
        0 | 1 => Host::Exact(pick(random, &HOSTS).into()),
        2 => Host::Suffix(pick(random, &[".example", ".a.example", ".other"]).into()),
        _ => Host::Any,
    };
    let headers = (0..random.random_range(0..3)).map(|_| HeaderPredicate {
        name: header_name(random),
        value: value_match(random),
        not: some(random, 8),
    });
    let headers = headers.collect();
    let query = (0..random.random_range(0..2))
        .map(|_| QueryPredicate { name: pick(random, &["p", "q"]).into(), value: value_match(random) });
    let query = query.collect();
    let namespaces = if some(random, 8) { vec![pick(random, &["n1", "n2"]).into()] } else { vec![] };
    Entry {
        host,
        order: if some(random, 4) { Order::InOrder } else { Order::MostSpecific },
        created_ms: random.random_range(0..3),
        route: pick(random, &["n/a", "n/b"]).into(),
        rule: random.random_range(0..3),
        // Unique, so that there is one right answer.
        index: value as u32,
        request: RequestMatch {
            path: path_match(random),
            method: some(random, 4).then(|| TextMatch::exact(pick(random, &["GET", "POST"]))),
            authority: some(random, 12).then(|| TextMatch::Suffix("example".into())),
            scheme: some(random, 12).then(|| TextMatch::exact("http")),
            headers,
            query,
            source_namespaces: namespaces.into(),
            port: some(random, 8).then(|| random.random_range(80..82)),
        },
        value,
    }
}

#[test]
fn the_index_answers_as_the_reference_does() {
    let mut random = StdRng::seed_from_u64(20_260_801);
    let (mut found, mut not_found) = (0, 0);
    for round in 0..600 {
        let size = [1, 3, 10, 40, 200][round % 5];
        let entries: Vec<Case> = (0..size).map(|value| entry(&mut random, value)).collect();
        let matcher = Matcher::new(entries.clone());
        for _ in 0..200 {
            let mut headers = HeaderMap::new();
            for _ in 0..random.random_range(0..4) {
                let value = pick(&mut random, &["v1", "v2", "v3", "v5", "w", ""]);
                headers.append(header_name(&mut random), HeaderValue::from_static(value));
            }
            let path = path(&mut random);
            let request = RequestView {
                host: pick(&mut random, &HOSTS),
                path: &path,
                query: [None, Some("p=v1"), Some("q=v2&p=v3&q=v1")][random.random_range(0..3)],
                method: [&Method::GET, &Method::POST, &Method::PUT][random.random_range(0..3)],
                scheme: pick(&mut random, &["http", "https"]),
                headers: &headers,
                source_namespace: pick(&mut random, &["", "n1", "n2", "n3"]),
                port: random.random_range(80..82),
            };
            let got = matcher.find(&request).map(|entry| entry.value);
            let want = reference(&entries, &request).map(|entry| entry.value);
            assert_eq!(
                got,
                want,
                "{request:?}\n got {:?}\nwant {:?}",
                got.map(|i| &entries[i]),
                want.map(|i| &entries[i])
            );
            if want.is_some() { found += 1 } else { not_found += 1 }
        }
    }
    assert!(found > 20_000 && not_found > 10_000, "{found} found, {not_found} not");
}

fn simple(host: Host, path: PathMatch, value: usize) -> Case {
    Entry {
        host,
        order: Order::MostSpecific,
        created_ms: 0,
        route: "n/r".into(),
        rule: value as u32,
        index: 0,
        request: RequestMatch { path, ..RequestMatch::default() },
        value,
    }
}

fn find(matcher: &Matcher<usize>, host: &str, path: &str) -> Option<usize> {
    let headers = HeaderMap::new();
    let request = RequestView {
        host,
        path,
        query: None,
        method: &Method::GET,
        scheme: "http",
        headers: &headers,
        source_namespace: "",
        port: 80,
    };
    matcher.find(&request).map(|entry| entry.value)
}

#[test]
fn prefixes_are_of_segments() {
    let matcher = Matcher::new(vec![
        simple(Host::Any, PathMatch::segments("/foo/"), 0),
        simple(Host::Any, PathMatch::segments("/foo/bar"), 1),
        simple(Host::Any, PathMatch::Exact("/foo/bar".into()), 2),
    ]);
    for (path, want) in [
        ("/foo", Some(0)),
        ("/foo/", Some(0)),
        ("/foo/x", Some(0)),
        ("/foobar", None),
        ("/foo/bar", Some(2)),
        ("/foo/bar/", Some(1)),
        ("/foo/barn", Some(0)),
        ("/", None),
    ] {
        assert_eq!(find(&matcher, "h", path), want, "{path}");
    }
}

#[test]
fn the_more_specific_host_decides_before_the_path() {
    let matcher = Matcher::new(vec![
        simple(Host::Any, PathMatch::Exact("/x".into()), 0),
        simple(Host::Suffix(".example".into()), PathMatch::segments("/"), 1),
        simple(Host::Exact("a.example".into()), PathMatch::segments("/y"), 2),
    ]);
    assert_eq!(find(&matcher, "a.example", "/x"), Some(1));
    assert_eq!(find(&matcher, "a.example", "/y"), Some(2));
    assert_eq!(find(&matcher, "example", "/x"), Some(0));
    assert_eq!(find(&matcher, ".example", "/y"), None);
}
