//! Policies of traffic over real sockets: bounds, subsets, hashes, ejection, times.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use meltemi_http::Cause;
use meltemi_types::meltemi as wire;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use support::{Proxy, backend, soon, status};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Answers with its own status, counting its requests.
async fn answering(code: u16) -> (SocketAddr, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let (address, _) = backend::serve(move |_| {
        counted.fetch_add(1, SeqCst);
        async move {
            let body = http_body_util::BodyExt::boxed(http_body_util::Full::default());
            http::Response::builder().status(code).body(body).unwrap()
        }
    })
    .await;
    (address, count)
}

/// Holds every request until it is let go.
async fn holding() -> (SocketAddr, tokio::sync::watch::Sender<bool>, Arc<AtomicUsize>) {
    let (release, released) = tokio::sync::watch::channel(false);
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let (address, _) = backend::serve(move |_| {
        counted.fetch_add(1, SeqCst);
        let mut released = released.clone();
        async move {
            released.wait_for(|go| *go).await.unwrap();
            http::Response::new(http_body_util::BodyExt::boxed(http_body_util::Full::default()))
        }
    })
    .await;
    (address, release, count)
}

async fn until(what: &str, count: &AtomicUsize, wanted: usize) {
    soon(what, async {
        while count.load(SeqCst) < wanted {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

async fn spread(proxy: &Proxy, headers: &str, times: usize) -> BTreeMap<u16, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..times {
        *counts.entry(status(&proxy.get("/", headers).await)).or_default() += 1;
    }
    counts
}

fn to_subset(subset: &str) -> Vec<wire::HttpRule> {
    let backend = wire::HttpBackend {
        service: "shop/cart".into(),
        port: 80,
        weight: 1,
        subset: subset.into(),
        ..Default::default()
    };
    vec![wire::HttpRule { backends: vec![backend], ..Default::default() }]
}

#[tokio::test]
async fn a_subset_is_its_own_endpoints_and_no_others() {
    let proxy = Proxy::start().await;
    let ((one, _), (two, _)) = (answering(201).await, answering(202).await);
    proxy.service("shop/cart", &[(one, false), (two, false)]);
    let subset = |name: &str, address: SocketAddr| wire::Subset {
        name: name.into(),
        workload_uids: vec![address.to_string()],
    };
    proxy.traffic(wire::TrafficPolicy {
        subsets: vec![subset("v1", one), subset("v2", two)],
        ..Default::default()
    });
    for (name, code) in [("v1", 201), ("v2", 202)] {
        proxy.route(to_subset(name));
        assert_eq!(spread(&proxy, "", 10).await, BTreeMap::from([(code, 10)]));
    }
    proxy.route(to_subset("v3"));
    let answer = proxy.get("/", "").await;
    assert!(answer.contains("x-meltemi-refused: no_endpoint"), "{answer}");
}

#[tokio::test]
async fn a_key_stays_where_it_is_and_a_cookie_is_made_for_it() {
    let proxy = Proxy::start().await;
    let mut endpoints = Vec::new();
    for code in 201..=204 {
        endpoints.push((answering(code).await.0, false));
    }
    proxy.service("shop/cart", &endpoints);
    let hash = |kind, cookie_ttl_s| {
        proxy.traffic(wire::TrafficPolicy {
            balance: wire::traffic_policy::Balance::ConsistentHash.into(),
            hash: Some(wire::HashKey { kind: Some(kind), cookie_ttl_s, cookie_path: "/".into() }),
            ..Default::default()
        });
    };
    hash(wire::hash_key::Kind::Header("x-user".into()), None);
    let mut homes = BTreeMap::new();
    for user in 0..30 {
        let counts = spread(&proxy, &format!("x-user: {user}\r\n"), 3).await;
        assert_eq!(counts.len(), 1, "user {user}");
        *homes.entry(*counts.keys().next().unwrap()).or_insert(0) += 1;
    }
    assert!(homes.len() > 1, "{homes:?}");
    hash(wire::hash_key::Kind::Cookie("session".into()), Some(60));
    let answer = proxy.get("/", "").await;
    let cookie = answer.split("set-cookie: ").nth(1).and_then(|rest| rest.split(';').next()).unwrap();
    assert!(answer.contains("; Max-Age=60; Path=/; HttpOnly\r\n"), "{answer}");
    let home = status(&answer);
    let again = spread(&proxy, &format!("cookie: {cookie}\r\n"), 10).await;
    assert_eq!(again, BTreeMap::from([(home, 10)]));
    assert!(!proxy.get("/", &format!("cookie: {cookie}\r\n")).await.contains("set-cookie"));
}

#[tokio::test]
async fn requests_beyond_the_bound_are_refused_at_once() {
    let proxy = Proxy::start().await;
    let (address, release, count) = holding().await;
    proxy.service("shop/cart", &[(address, false)]);
    proxy.traffic(wire::TrafficPolicy { max_requests: 2, ..Default::default() });
    let held: Vec<_> = (0..2)
        .map(|_| {
            let proxy = proxy.address;
            tokio::spawn(async move {
                let mut tcp = TcpStream::connect(proxy).await.unwrap();
                tcp.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
                let mut answer = String::new();
                tcp.read_to_string(&mut answer).await.unwrap();
                answer
            })
        })
        .collect();
    until("both requests", &count, 2).await;
    let answer = proxy.get("/", "").await;
    assert_eq!(status(&answer), 503);
    assert!(answer.contains("x-meltemi-refused: overloaded"), "{answer}");
    assert_eq!(proxy.told().await.cause, Some(Cause::Overloaded));
    release.send(true).unwrap();
    for held in held {
        assert_eq!(status(&soon("answer", held).await.unwrap()), 200);
    }
    assert_eq!(status(&proxy.get("/", "").await), 200, "room again");
}

#[tokio::test]
async fn connections_are_bounded_and_waited_for() {
    let proxy = Proxy::start().await;
    let (address, release, count) = holding().await;
    proxy.service("shop/cart", &[(address, false)]);
    proxy.traffic(wire::TrafficPolicy { max_connections: 1, max_pending_requests: 1, ..Default::default() });
    let ask = || {
        let proxy = proxy.address;
        tokio::spawn(async move {
            let mut tcp = TcpStream::connect(proxy).await.unwrap();
            tcp.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
            let mut answer = String::new();
            tcp.read_to_string(&mut answer).await.unwrap();
            status(&answer)
        })
    };
    let first = ask();
    until("the first request", &count, 1).await;
    // Of two more, one waits and one is refused.
    let (mut second, mut third) = (ask(), ask());
    let refused = soon("refusal", async {
        tokio::select! {
            refused = &mut second => (refused, third),
            refused = &mut third => (refused, second),
        }
    })
    .await;
    assert_eq!(refused.0.unwrap(), 503);
    assert_eq!(proxy.told().await.cause, Some(Cause::Overloaded));
    assert_eq!(proxy.world.connects.load(SeqCst), 1);
    release.send(true).unwrap();
    assert_eq!(soon("first", first).await.unwrap(), 200);
    assert_eq!(soon("who waited", refused.1).await.unwrap(), 200);
    assert_eq!(proxy.world.connects.load(SeqCst), 1, "the connection was used again");
}

#[tokio::test]
async fn a_connection_that_is_unused_makes_room_for_another_endpoints() {
    let proxy = Proxy::start().await;
    let ((one, _), (two, _)) = (answering(201).await, answering(202).await);
    proxy.service("shop/cart", &[(one, false), (two, false)]);
    proxy.traffic(wire::TrafficPolicy {
        balance: wire::traffic_policy::Balance::RoundRobin.into(),
        max_connections: 1,
        ..Default::default()
    });
    assert_eq!(spread(&proxy, "", 10).await, BTreeMap::from([(201, 5), (202, 5)]));
}

#[tokio::test]
async fn a_connection_carries_only_so_many_requests() {
    let proxy = Proxy::start().await;
    for http2 in [false, true] {
        let (address, connections) = backend::serve(backend::echo).await;
        proxy.service("shop/cart", &[(address, http2)]);
        proxy.traffic(wire::TrafficPolicy { max_requests_per_connection: 2, ..Default::default() });
        assert_eq!(spread(&proxy, "", 6).await, BTreeMap::from([(200, 6)]));
        assert_eq!(connections.load(SeqCst), 3, "http2: {http2}");
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed_in_time() {
    let proxy = Proxy::start().await;
    let (address, connections) = backend::serve(backend::echo).await;
    proxy.service("shop/cart", &[(address, false)]);
    proxy.traffic(wire::TrafficPolicy { idle_timeout_ms: 1, ..Default::default() });
    for round in 1..=3 {
        assert_eq!(status(&proxy.get("/", "").await), 200);
        assert_eq!(connections.load(SeqCst), round);
        let since = std::time::Instant::now();
        soon("idle time", async {
            while since.elapsed().as_millis() < 2 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

#[tokio::test]
async fn an_endpoint_that_answers_errors_is_ejected() {
    let proxy = Proxy::start().await;
    let ((good, _), (bad, bad_count)) = (answering(200).await, answering(503).await);
    proxy.service("shop/cart", &[(good, false), (bad, false)]);
    let ejection = wire::Ejection {
        consecutive_gateway_errors: 3,
        base_ejection_ms: 60_000,
        max_percent: 50,
        ..Default::default()
    };
    proxy.traffic(wire::TrafficPolicy {
        balance: wire::traffic_policy::Balance::RoundRobin.into(),
        ejection: Some(ejection),
        ..Default::default()
    });
    let counts = spread(&proxy, "", 20).await;
    assert_eq!(counts, BTreeMap::from([(200, 17), (503, 3)]));
    assert_eq!(bad_count.load(SeqCst), 3);
}

#[tokio::test]
async fn a_retry_goes_to_another_endpoint() {
    let proxy = Proxy::start().await;
    let ((good, _), (bad, _)) = (answering(200).await, answering(503).await);
    proxy.service("shop/cart", &[(good, false), (bad, false)]);
    let retry =
        wire::HttpRetry { attempts: 1, statuses: vec![503], backoff_ms: Some(1), ..Default::default() };
    proxy.route(vec![wire::HttpRule { to_parent: true, retry: Some(retry), ..Default::default() }]);
    assert_eq!(spread(&proxy, "", 20).await, BTreeMap::from([(200, 20)]));
}

#[tokio::test]
async fn a_body_is_sent_again_as_far_as_it_is_kept() {
    let proxy = Proxy::start().await;
    let turn = Arc::new(AtomicUsize::new(0));
    let counted = turn.clone();
    let (address, _) = backend::serve(move |request: http::Request<hyper::body::Incoming>| {
        let turn = counted.fetch_add(1, SeqCst);
        async move {
            let mut response = backend::echo(request).await;
            if turn == 0 {
                *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
            }
            response
        }
    })
    .await;
    proxy.service("shop/cart", &[(address, false)]);
    let retry =
        wire::HttpRetry { attempts: 2, statuses: vec![503], backoff_ms: Some(1), ..Default::default() };
    proxy.route(vec![wire::HttpRule { to_parent: true, retry: Some(retry), ..Default::default() }]);
    let chunked = |body: &str| {
        format!(
            "POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
            body.len()
        )
    };
    let sized = |body: &str| {
        let length = body.len();
        format!("POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}")
    };
    let (short, long) = ("y".repeat(50_000), "z".repeat(200_000));
    let pieces = chunked(&short[..2000]).split_once("\r\n\r\n").unwrap().0.to_owned();
    let pieces = format!("{pieces}\r\n\r\n{}0\r\n\r\n", "1\r\ny\r\n".repeat(2000));
    for (request, body, attempts, code) in [
        (sized(&short), &short, 2, 200),
        (chunked(&short), &short, 2, 200),
        // More than is kept.
        (sized(&long), &long, 1, 503),
        // So many pieces cost more than their bytes.
        (pieces, &short[..2000].to_owned(), 1, 503),
    ] {
        turn.store(0, SeqCst);
        let answer = proxy.raw(request.as_bytes()).await;
        assert_eq!(status(&answer), code);
        assert_eq!(turn.load(SeqCst), attempts);
        assert!(answer.ends_with(&format!("\n\n{body}")) || answer.contains(body.as_str()));
        proxy.told().await;
    }
}

/// The first attempt's endpoint answers at once, and then takes more of the body than is kept, before the retry.
#[tokio::test]
async fn a_retry_never_sends_the_rest_of_a_body_as_all_of_it() {
    let proxy = Proxy::start().await;
    let (sender, mut said) = tokio::sync::mpsc::unbounded_channel();
    let turn = Arc::new(AtomicUsize::new(0));
    let address = backend::each(move |mut tcp| {
        let (sender, first) = (sender.clone(), turn.fetch_add(1, SeqCst) == 0);
        async move {
            backend::read_head(&mut tcp).await;
            let mut body = Vec::new();
            if first {
                let answer = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
                tcp.write_all(answer).await.unwrap();
                let _ = sender.send(Vec::new());
                while body.len() < 150_000 && tcp.read_buf(&mut body).await.is_ok_and(|n| n > 0) {}
                let _ = sender.send(Vec::new());
            }
            while !body.ends_with(b"0\r\n\r\n") && tcp.read_buf(&mut body).await.is_ok_and(|n| n > 0) {}
            if !first {
                let _ = sender.send(body);
                let _ = tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
            }
        }
    })
    .await;
    proxy.service("shop/cart", &[(address, false)]);
    let retry =
        wire::HttpRetry { attempts: 1, statuses: vec![503], backoff_ms: Some(4000), ..Default::default() };
    proxy.route(vec![wire::HttpRule { to_parent: true, retry: Some(retry), ..Default::default() }]);
    let mut tcp = TcpStream::connect(proxy.address).await.unwrap();
    let head = b"POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n5\r\nbegin\r\n";
    tcp.write_all(head).await.unwrap();
    soon("the first answer", said.recv()).await.unwrap();
    let more = format!("{:x}\r\n{}\r\n", 200_000, "z".repeat(200_000));
    tcp.write_all(more.as_bytes()).await.unwrap();
    soon("most of the body", said.recv()).await.unwrap();
    let mut answer = String::new();
    tcp.write_all(b"3\r\nend\r\n0\r\n\r\n").await.unwrap();
    soon("answer", tcp.read_to_string(&mut answer)).await.unwrap();
    assert_eq!(status(&answer), 503, "{answer}");
    assert!(said.try_recv().is_err(), "nothing was sent again");
}

#[tokio::test]
async fn connecting_takes_no_longer_than_the_policy_says() {
    let proxy = Proxy::start().await;
    // Nobody takes connections from its queue, which is full.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut queued = Vec::new();
    loop {
        let connecting = TcpStream::connect(address);
        match tokio::time::timeout(std::time::Duration::from_millis(200), connecting).await {
            Ok(connected) => queued.push(connected.unwrap()),
            Err(_) => break,
        }
    }
    proxy.service("shop/cart", &[(address, false)]);
    proxy.traffic(wire::TrafficPolicy { connect_timeout_ms: 50, ..Default::default() });
    let begun = std::time::Instant::now();
    let answer = proxy.get("/", "").await;
    assert!(answer.contains("x-meltemi-refused: upstream_connect_failed"), "{answer}");
    assert!(begun.elapsed().as_secs() < 5, "three attempts of 50 ms");
}
