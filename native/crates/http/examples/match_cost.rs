//! What one look-up costs with 1 and with 5,000 routes, and what the table takes: `cargo run --release
//! -p meltemi-http --example match_cost`. One line of JSON for each kind of table.

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use meltemi_http::matcher::{
    Entry, HeaderPredicate, Host, Matcher, Order, PathMatch, RequestMatch, RequestView,
};
use meltemi_http::text::{Pattern, TextMatch};
use std::hint::black_box;
use std::time::{Duration, Instant};

const LOOKUPS: u32 = 200_000;
const ROUNDS: usize = 7;

fn entry(index: usize, host: Host, path: PathMatch, header: Option<usize>) -> Entry<usize> {
    let headers = header.map(|tenant| HeaderPredicate {
        name: HeaderName::from_static("x-tenant"),
        value: TextMatch::exact(&format!("tenant-{tenant}")),
        not: false,
    });
    Entry {
        host,
        order: Order::MostSpecific,
        created_ms: 0,
        route: format!("shop/route-{index}").into(),
        rule: 0,
        index: 0,
        request: RequestMatch { path, headers: headers.into_iter().collect(), ..RequestMatch::default() },
        value: index,
    }
}

fn table(kind: &str, routes: usize) -> Vec<Entry<usize>> {
    (0..routes)
        .map(|i| match kind {
            "exact" => entry(i, Host::Any, PathMatch::Exact(format!("/api/v1/item{i}/list").into()), None),
            "prefix" => entry(i, Host::Any, PathMatch::segments(&format!("/api/v1/item{i}")), None),
            "regex" => {
                let pattern = Pattern::new(&format!("/api/v1/item{i}/[a-z]+"), false).expect("a pattern");
                entry(i, Host::Any, PathMatch::Regex(Box::new(pattern)), None)
            }
            "host" => {
                entry(i, Host::Exact(format!("host{i}.example").into()), PathMatch::segments("/"), None)
            }
            _ => entry(i, Host::Any, PathMatch::segments("/"), Some(i)),
        })
        .collect()
}

fn resident_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Nanoseconds of one look-up, the median of several rounds.
fn measure(matcher: &Matcher<usize>, routes: usize) -> f64 {
    let requests: Vec<_> = (0..64)
        .map(|step| {
            let i = step * 7_919 % routes;
            let mut headers = HeaderMap::new();
            let tenant = HeaderValue::from_str(&format!("tenant-{i}")).expect("a value");
            headers.insert("x-tenant", tenant);
            (i, format!("host{i}.example"), format!("/api/v1/item{i}/list"), headers)
        })
        .collect();
    let mut rounds: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let begun = Instant::now();
            for turn in 0..LOOKUPS as usize {
                let (i, host, path, headers) = &requests[turn % requests.len()];
                let view = RequestView {
                    host,
                    path,
                    query: None,
                    method: &Method::GET,
                    scheme: "http",
                    headers,
                    source_namespace: "shop",
                    port: 80,
                };
                let found = black_box(matcher.find(black_box(&view))).map(|entry| entry.value);
                assert_eq!(found, Some(*i));
            }
            begun.elapsed()
        })
        .collect();
    rounds.sort();
    rounds[ROUNDS / 2].as_secs_f64() * 1e9 / f64::from(LOOKUPS)
}

fn main() {
    for kind in ["exact", "prefix", "regex", "host", "header"] {
        let one = measure(&Matcher::new(table(kind, 1)), 1);
        let before = resident_kb();
        let begun = Instant::now();
        let matcher = Matcher::new(table(kind, 5_000));
        let built = begun.elapsed();
        let many = measure(&matcher, 5_000);
        println!(
            "{{\"table\":\"{kind}\",\"ns_1\":{one:.0},\"ns_5000\":{many:.0},\"build_ms\":{},\"memory_kb\":{}}}",
            built.as_millis(),
            resident_kb().saturating_sub(before)
        );
    }
}
