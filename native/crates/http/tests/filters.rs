//! Faults, other origins, mirrors and rewrites by pattern, over real sockets.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use meltemi_http::{Cause, Mirrored};
use meltemi_types::meltemi as wire;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};
use support::{Proxy, backend, soon, status};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use wire::{http_filter, path_change, text_match};

const ALL: u32 = 1_000_000;

fn filters(kinds: Vec<http_filter::Kind>) -> Vec<wire::HttpRule> {
    let filters = kinds.into_iter().map(|kind| wire::HttpFilter { kind: Some(kind) }).collect();
    vec![wire::HttpRule { filters, to_parent: true, ..Default::default() }]
}

#[tokio::test]
async fn faults_delay_and_abort() {
    let proxy = Proxy::start().await;
    let (echo, connections) = backend::serve(backend::echo).await;
    proxy.service("shop/cart", &[(echo, false)]);
    let fault = wire::Fault { delay_ms: 200, delay_per_million: ALL, ..Default::default() };
    proxy.route(filters(vec![http_filter::Kind::Fault(fault)]));
    let begun = Instant::now();
    assert_eq!(status(&proxy.get("/", "").await), 200);
    assert!(begun.elapsed() >= Duration::from_millis(200));
    proxy.told().await;
    let before = connections.load(SeqCst);
    let abort = wire::Fault {
        abort_status: 418,
        abort_per_million: ALL,
        abort_grpc_status: Some(8),
        ..Default::default()
    };
    proxy.route(filters(vec![http_filter::Kind::Fault(abort)]));
    let answer = proxy.get("/", "").await;
    assert_eq!(status(&answer), 418, "{answer}");
    assert!(answer.contains("x-meltemi-refused: fault_injected\r\n"), "{answer}");
    assert_eq!(proxy.told().await.cause, Some(Cause::FaultInjected));
    let request = Request::post("http://cart/pkg.Service/Method")
        .header("content-type", "application/grpc")
        .body(Full::default())
        .unwrap();
    let response = proxy.h2(request).await;
    assert_eq!(
        (response.status().as_u16(), &response.headers()["grpc-status"]),
        (200, &"8".parse().unwrap())
    );
    assert_eq!(connections.load(SeqCst), before, "nothing reached the backend");
}

#[tokio::test]
async fn a_request_asks_for_faults_only_where_it_may() {
    let proxy = Proxy::start().await;
    let (echo, _) = backend::serve(backend::echo).await;
    proxy.service("shop/cart", &[(echo, false)]);
    let asked = "x-envoy-fault-abort-request: 429\r\n";
    let fault = |by_header| wire::Fault {
        abort_status: 500,
        abort_per_million: if by_header { ALL } else { 0 },
        by_header,
        ..Default::default()
    };
    for (by_header, want) in [(false, 200), (true, 429)] {
        proxy.route(filters(vec![http_filter::Kind::Fault(fault(by_header))]));
        assert_eq!(status(&proxy.get("/", asked).await), want);
    }
}

fn cors() -> wire::Cors {
    let exact = wire::TextMatch {
        kind: Some(text_match::Kind::Exact("https://shop.example".into())),
        ignore_case: false,
    };
    wire::Cors {
        allow_origins: vec![exact],
        allow_methods: vec!["GET".into(), "PUT".into()],
        allow_headers: vec!["x-a".into()],
        expose_headers: vec!["x-b".into()],
        max_age_s: 60,
        allow_credentials: true,
        forward_unmatched: false,
    }
}

#[tokio::test]
async fn preflights_are_answered_and_origins_are_named() {
    let proxy = Proxy::start().await;
    let (seen, mut asked) = mpsc::unbounded_channel();
    let (address, _) = backend::serve(move |request: Request<hyper::body::Incoming>| {
        seen.send(request.method().to_string()).unwrap();
        async move {
            let mut response = backend::echo(request).await;
            response.headers_mut().insert("access-control-allow-origin", "*".parse().unwrap());
            response
        }
    })
    .await;
    proxy.service("shop/cart", &[(address, false)]);
    proxy.route(filters(vec![http_filter::Kind::Cors(cors())]));
    let preflight = |origin: &str| {
        format!(
            "OPTIONS / HTTP/1.1\r\nhost: a\r\nconnection: close\r\norigin: {origin}\r\n\
             access-control-request-method: PUT\r\n\r\n"
        )
    };
    let answer = proxy.raw(preflight("https://shop.example").as_bytes()).await;
    assert_eq!(status(&answer), 200, "{answer}");
    for header in [
        "access-control-allow-origin: https://shop.example\r\n",
        "access-control-allow-methods: GET, PUT\r\n",
        "access-control-allow-headers: x-a\r\n",
        "access-control-expose-headers: x-b\r\n",
        "access-control-max-age: 60\r\n",
        "access-control-allow-credentials: true\r\n",
    ] {
        assert!(answer.contains(header), "{header}: {answer}");
    }
    let answer = proxy.raw(preflight("https://evil.example").as_bytes()).await;
    assert_eq!(status(&answer), 200);
    assert!(!answer.contains("access-control"), "{answer}");
    assert!(asked.try_recv().is_err(), "no preflight went on");
    let answer = proxy.get("/", "origin: https://shop.example\r\n").await;
    assert!(answer.contains("access-control-allow-origin: https://shop.example\r\n"), "{answer}");
    assert!(!answer.contains("access-control-allow-origin: *"), "{answer}");
    let answer = proxy.get("/", "origin: https://evil.example\r\n").await;
    assert!(status(&answer) == 200 && !answer.contains("access-control-allow-origin"), "{answer}");
    // A browser can read why there is no answer, too.
    proxy.service("shop/cart", &[]);
    let answer = proxy.get("/", "origin: https://shop.example\r\n").await;
    assert_eq!(status(&answer), 503);
    assert!(answer.contains("access-control-allow-origin: https://shop.example\r\n"), "{answer}");
}

#[tokio::test]
async fn paths_are_rewritten_by_a_pattern() {
    let proxy = Proxy::start().await;
    let (echo, _) = backend::serve(backend::echo).await;
    proxy.service("shop/cart", &[(echo, false)]);
    let rewrite = |pattern: &str, substitution: &str| {
        let change = wire::RegexChange { pattern: pattern.into(), substitution: substitution.into() };
        let path = Some(wire::PathChange { kind: Some(path_change::Kind::Regex(change)) });
        filters(vec![http_filter::Kind::Rewrite(wire::Rewrite { path, ..Default::default() })])
    };
    proxy.route(rewrite("^/service/([^/]+)(/.*)$", r"\2/of/\1"));
    let answer = proxy.get("/service/cart/items?q=1", "").await;
    assert!(answer.contains("GET /items/of/cart?q=1 "), "{answer}");
    // What a pattern leaves must not lead where no policy has looked.
    proxy.route(rewrite("^/pre", ""));
    let answer = proxy.get("/pre../admin", "").await;
    assert_eq!(status(&answer), 400, "{answer}");
}

fn mirror(service: &str, per_million: u32) -> http_filter::Kind {
    let backend = wire::HttpBackend { service: service.into(), port: 80, ..Default::default() };
    http_filter::Kind::Mirror(wire::Mirror { backend: Some(backend), per_million, all: false })
}

/// A backend that tells what it was sent: host, path and body.
async fn listening() -> (std::net::SocketAddr, mpsc::UnboundedReceiver<String>) {
    let (told, heard) = mpsc::unbounded_channel();
    let (address, _) = backend::serve(move |request: Request<hyper::body::Incoming>| {
        let told = told.clone();
        async move {
            let host = request.headers()["host"].to_str().unwrap().to_owned();
            let path = request.uri().path().to_owned();
            let response = backend::echo(request).await;
            let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
            let body = String::from_utf8_lossy(&body).rsplit('\n').next().unwrap_or_default().len();
            let _ = told.send(format!("{host}{path} {body}"));
            http::Response::new(http_body_util::BodyExt::boxed(Full::new(Bytes::from_static(b"unheard"))))
        }
    })
    .await;
    (address, heard)
}

#[tokio::test]
async fn mirrors_get_copies_with_bodies_and_names_of_their_own() {
    let proxy = Proxy::start().await;
    let (echo, _) = backend::serve(backend::echo).await;
    let (first, mut first_heard) = listening().await;
    let (second, mut second_heard) = listening().await;
    proxy.service("shop/cart", &[(echo, false)]);
    proxy.service("shop/first", &[(first, false)]);
    proxy.service("shop/second", &[(second, false)]);
    proxy.service("shop/never", &[]);
    proxy.route(filters(vec![
        mirror("shop/first", ALL),
        mirror("shop/second", ALL),
        mirror("shop/never", 0),
    ]));
    let body = "x".repeat(100_000);
    let post = format!(
        "POST /a HTTP/1.1\r\nhost: cart:81\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    for request in [post.as_str(), "GET /a HTTP/1.1\r\nhost: cart:81\r\nconnection: close\r\n\r\n"] {
        let answer = proxy.raw(request.as_bytes()).await;
        assert!(answer.contains("host: cart:81\n"), "the original's: {answer}");
        let length = if request.starts_with("POST") { body.len() } else { 0 };
        for heard in [&mut first_heard, &mut second_heard] {
            let heard = soon("copy", heard.recv()).await.unwrap();
            assert_eq!(heard, format!("cart-shadow:81/a {length}"));
            assert_eq!(proxy.mirrored().await, Mirrored::Answered);
        }
    }
    let told = proxy.told().await;
    assert_eq!((told.attempts, told.endpoint), (1, Some(echo)), "copies are no attempts of the original's");
}

#[tokio::test]
async fn a_share_of_requests_is_mirrored() {
    let proxy = Proxy::start().await;
    let (echo, _) = backend::serve(backend::echo).await;
    let (copies, _) = listening().await;
    proxy.service("shop/cart", &[(echo, false)]);
    proxy.service("shop/copies", &[(copies, false)]);
    proxy.route(filters(vec![mirror("shop/copies", 250_000)]));
    for _ in 0..200 {
        assert_eq!(status(&proxy.get("/", "").await), 200);
    }
    // 50 expected; 6 standard deviations of a fair draw.
    for _ in 0..14 {
        assert_eq!(proxy.mirrored().await, Mirrored::Answered);
    }
}

/// Mirrors that are away, silent, or read nothing: the original does not notice.
#[tokio::test]
async fn mirrors_never_slow_or_fail_the_original() {
    let proxy = Proxy::start().await;
    let (echo, _) = backend::serve(backend::echo).await;
    let nobody = backend::nobody().await;
    let silent = backend::each(|tcp| async move {
        // Reads nothing and says nothing for as long as it is left open.
        std::future::pending::<()>().await;
        drop(tcp);
    })
    .await;
    proxy.service("shop/cart", &[(echo, false)]);
    proxy.service("shop/nobody", &[(nobody, false)]);
    proxy.service("shop/silent", &[(silent, false)]);
    proxy.route(filters(vec![mirror("shop/nobody", ALL)]));
    assert_eq!(status(&proxy.get("/", "").await), 200);
    assert_eq!(proxy.mirrored().await, Mirrored::Failed);
    // More than sockets and the bound on what a copy may be behind can hold.
    let length = 32 << 20;
    proxy.route(filters(vec![mirror("shop/silent", ALL)]));
    let head = format!("POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
    let mut stream = tokio::net::TcpStream::connect(proxy.address).await.unwrap();
    let (mut read, mut write) = stream.split();
    let sending = async {
        write.write_all(head.as_bytes()).await.unwrap();
        for _ in 0..length >> 20 {
            write.write_all(&vec![b'x'; 1 << 20]).await.unwrap();
        }
    };
    let mut answer = Vec::new();
    let reading = read.read_to_end(&mut answer);
    let ((), read) = soon("the original", async { tokio::join!(sending, reading) }).await;
    assert!(read.unwrap() > length && answer.starts_with(b"HTTP/1.1 200"));
    assert_eq!(proxy.mirrored().await, Mirrored::Dropped);
}

#[tokio::test]
async fn retries_are_made_by_grpc_status_with_the_body() {
    let proxy = Proxy::start().await;
    let turn = Arc::new(AtomicUsize::new(0));
    let counted = turn.clone();
    let (address, _) = backend::serve(move |request: Request<hyper::body::Incoming>| {
        let turn = counted.fetch_add(1, SeqCst);
        async move {
            if turn.is_multiple_of(2) {
                let mut response = http::Response::new(http_body_util::BodyExt::boxed(Full::default()));
                response.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
                response.headers_mut().insert("grpc-status", "14".parse().unwrap());
                return response;
            }
            backend::grpc(request).await
        }
    })
    .await;
    proxy.service("shop/cart", &[(address, true)]);
    let retry = |grpc_statuses| wire::HttpRetry {
        attempts: 1,
        grpc_statuses,
        backoff_ms: Some(1),
        ..Default::default()
    };
    let request = || {
        Request::post("http://cart/pkg.Service/Method")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(Bytes::from_static(b"\0\0\0\0\x02hi")))
            .unwrap()
    };
    for (statuses, attempts, grpc_status) in [(vec![14], 2, 5), (vec![1], 1, 14)] {
        turn.store(0, SeqCst);
        let rule = wire::HttpRule { to_parent: true, retry: Some(retry(statuses)), ..Default::default() };
        proxy.route(vec![rule]);
        let response = proxy.h2(request()).await;
        let collected = http_body_util::BodyExt::collect(response.into_body()).await.unwrap();
        if attempts == 2 {
            assert_eq!(collected.to_bytes(), &b"\0\0\0\0\x02hi"[..], "the whole body came again");
        }
        let told = proxy.told().await;
        assert_eq!((told.attempts, told.grpc_status), (attempts, Some(grpc_status)));
    }
}
