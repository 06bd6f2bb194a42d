//! Requests that are carried as they should, over real sockets.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use bytes::Bytes;
use http::{Request, Version};
use http_body_util::{BodyExt, Full};
use meltemi_types::meltemi as wire;
use std::sync::atomic::Ordering::SeqCst;
use support::{Proxy, backend, soon, status, text};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use wire::{http_filter, path_change, path_match};

fn filter(kind: http_filter::Kind) -> wire::HttpFilter {
    wire::HttpFilter { kind: Some(kind) }
}

fn below(prefix: &str) -> Vec<wire::HttpMatch> {
    let path = wire::PathMatch { kind: Some(path_match::Kind::Segments(prefix.into())), ignore_case: false };
    vec![wire::HttpMatch { path: Some(path), ..Default::default() }]
}

fn to(service: &str, weight: u32) -> wire::HttpBackend {
    wire::HttpBackend { service: service.into(), port: 80, weight, ..Default::default() }
}

#[tokio::test]
async fn a_request_arrives_as_it_was_meant_and_no_more() {
    let proxy = Proxy::start().await;
    let (echo, _) = backend::serve(backend::echo).await;
    proxy.service("shop/cart", &[(echo, false)]);
    let answer = proxy
        .get(
            "/a/%7Eb/../c?q=%2e",
            "x-keep: 1\r\nx-forwarded-for: 1.2.3.4\r\nx-request-id: r\r\nte: gzip\r\nconnection: x-drop\r\nx-drop: 1\r\nx-forwarded-client-cert: forged\r\n",
        )
        .await;
    assert_eq!(status(&answer), 200, "{answer}");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("x-backend: echo"), "{head}");
    assert!(!head.contains("x-meltemi-refused"), "{head}");
    assert_eq!(
        body,
        "GET /a/c?q=%2e HTTP/1.1\nhost: cart\nx-forwarded-for: 1.2.3.4, 127.0.0.1\n\
         x-forwarded-proto: http\nx-keep: 1\nx-request-id: r\n\n"
    );
    let told = proxy.told().await;
    assert_eq!((told.status, told.path.as_str(), told.cause), (200, "/a/c", None));
    assert_eq!(told.bytes, (0, body.len() as u64));
    assert_eq!(told.endpoint, Some(echo));
}

#[tokio::test]
async fn connections_to_backends_are_used_again() {
    let proxy = Proxy::start().await;
    let (echo, connections) = backend::serve(backend::echo).await;
    proxy.service("shop/cart", &[(echo, false)]);
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    let mut buffer = vec![0; 4096];
    for round in 0..50 {
        let body = "x".repeat(round);
        let request = format!("POST /{round} HTTP/1.1\r\nhost: a\r\ncontent-length: {round}\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        while !answer.ends_with(&format!("\n\n{body}")) {
            let n = soon("answer", stream.read(&mut buffer)).await.unwrap();
            assert!(n > 0, "closed after {answer}");
            answer.push_str(&String::from_utf8_lossy(&buffer[..n]));
        }
        proxy.told().await;
    }
    assert_eq!(connections.load(SeqCst), 1);
    assert_eq!(proxy.world.connects.load(SeqCst), 1);
}

#[tokio::test]
async fn http2_and_http1_are_carried_to_either() {
    let proxy = Proxy::start().await;
    let (echo, connections) = backend::serve(backend::echo).await;
    for http2 in [false, true] {
        proxy.service("shop/cart", &[(echo, http2)]);
        let request = Request::post("http://cart.example:81/p?x=1")
            .header("cookie", "a=1")
            .header("cookie", "b=2")
            .body(Full::new(Bytes::from_static(b"hello")))
            .unwrap();
        let response = proxy.h2(request).await;
        assert_eq!((response.status().as_u16(), response.version()), (200, Version::HTTP_2));
        let body = text(response.into_body()).await;
        let line = if http2 { "POST http://cart.example:81/p?x=1 HTTP/2.0" } else { "POST /p?x=1 HTTP/1.1" };
        assert!(body.starts_with(line), "{body}");
        assert!(body.contains("cookie: a=1; b=2") && body.ends_with("\n\nhello"), "{body}");
        assert!(http2 || body.contains("host: cart.example:81\n"), "{body}");
        assert!(proxy.get("/x", "").await.contains("GET "));
    }
    // Two clients each, one connection of each kind.
    assert_eq!(connections.load(SeqCst), 2);
}

#[tokio::test]
async fn trailers_and_grpc_status_pass() {
    let proxy = Proxy::start().await;
    let (grpc, _) = backend::serve(backend::grpc).await;
    proxy.service("shop/cart", &[(grpc, true)]);
    let request = Request::post("http://cart/pkg.Service/Method")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(Bytes::from_static(b"\0\0\0\0\x02hi")))
        .unwrap();
    let response = proxy.h2(request).await;
    let collected = soon("body", response.into_body().collect()).await.unwrap();
    assert_eq!(collected.trailers().unwrap()["grpc-status"], "5");
    assert_eq!(collected.to_bytes(), &b"\0\0\0\0\x02hi"[..]);
    assert_eq!(proxy.told().await.grpc_status, Some(5));
}

#[tokio::test]
async fn bodies_stream_both_ways_at_once() {
    let proxy = Proxy::start().await;
    let address = backend::each(|mut tcp| async move {
        backend::read_head(&mut tcp).await;
        tcp.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n").await.unwrap();
        // The client's chunk comes only after it has seen the first of the response.
        let mut chunk = [0; 9];
        tcp.read_exact(&mut chunk).await.unwrap();
        assert_eq!(&chunk, b"4\r\nping\r\n");
        tcp.write_all(b"4\r\nlast\r\n0\r\n\r\n").await.unwrap();
        let _ = tcp.read_to_end(&mut Vec::new()).await;
    })
    .await;
    proxy.service("shop/cart", &[(address, false)]);
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    let head = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head).await.unwrap();
    let mut answer = String::new();
    let mut buffer = [0; 1024];
    while !answer.contains("first") {
        let n = soon("first", stream.read(&mut buffer)).await.unwrap();
        assert!(n > 0, "{answer}");
        answer.push_str(std::str::from_utf8(&buffer[..n]).unwrap());
    }
    stream.write_all(b"4\r\nping\r\n0\r\n\r\n").await.unwrap();
    while !answer.contains("0\r\n\r\n") {
        let n = soon("last", stream.read(&mut buffer)).await.unwrap();
        assert!(n > 0, "{answer}");
        answer.push_str(std::str::from_utf8(&buffer[..n]).unwrap());
    }
    assert!(answer.contains("last"), "{answer}");
    assert_eq!(proxy.told().await.bytes, (4, 9));
}

#[tokio::test]
async fn rules_route_rewrite_redirect_and_answer() {
    let proxy = Proxy::start().await;
    let (echo, _) = backend::serve(backend::echo).await;
    let (other, _) = backend::raw(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n").await;
    proxy.service("shop/cart", &[(echo, false)]);
    proxy.service("shop/other", &[(other, false)]);
    let header = |name: &str, value: &str| wire::HeaderValue { name: name.into(), value: value.into() };
    let change = wire::HeaderChange {
        set: vec![header("x-set", "s")],
        add: vec![header("x-add", "a")],
        remove: vec!["x-gone".into()],
    };
    let answer = wire::HeaderChange { set: vec![header("x-answer", "1")], ..Default::default() };
    let rewrite = wire::Rewrite {
        authority: "inner.example".into(),
        path: Some(wire::PathChange { kind: Some(path_change::Kind::Prefix("/new".into())) }),
    };
    let redirect = wire::Redirect { scheme: "https".into(), status: 301, ..Default::default() };
    let direct = wire::DirectResponse { status: 418, body: b"short".to_vec(), content_type: "text/x".into() };
    proxy.route(vec![
        wire::HttpRule {
            matches: below("/old"),
            filters: vec![
                filter(http_filter::Kind::RequestHeaders(change)),
                filter(http_filter::Kind::ResponseHeaders(answer)),
                filter(http_filter::Kind::Rewrite(rewrite)),
            ],
            to_parent: true,
            ..Default::default()
        },
        wire::HttpRule {
            matches: below("/secure"),
            filters: vec![filter(http_filter::Kind::Redirect(redirect))],
            ..Default::default()
        },
        wire::HttpRule {
            matches: below("/teapot"),
            filters: vec![filter(http_filter::Kind::DirectResponse(direct))],
            ..Default::default()
        },
        wire::HttpRule {
            matches: below("/other"),
            backends: vec![to("shop/other", 1)],
            ..Default::default()
        },
        wire::HttpRule { matches: below("/nothing"), ..Default::default() },
        wire::HttpRule {
            matches: below("/dangling"),
            backends: vec![wire::HttpBackend {
                invalid: "no such service".into(),
                weight: 1,
                ..Default::default()
            }],
            ..Default::default()
        },
    ]);
    let answer = proxy.get("/old/x?q=1", "x-gone: 1\r\nx-set: 0\r\nx-add: 0\r\n").await;
    for part in
        ["GET /new/x?q=1 ", "host: inner.example\n", "x-add: 0\nx-add: a\n", "x-set: s\n", "x-answer: 1\r\n"]
    {
        assert!(answer.contains(part), "{part}: {answer}");
    }
    assert!(!answer.contains("x-gone"), "{answer}");
    assert_eq!(proxy.told().await.route.as_deref(), Some("HTTPRoute/shop/cart"));
    let answer = proxy.get("/secure/x", "").await;
    assert_eq!(status(&answer), 301);
    assert!(answer.contains("location: https://cart/secure/x\r\n"), "{answer}");
    let answer = proxy.get("/teapot", "").await;
    assert!(answer.starts_with("HTTP/1.1 418") && answer.ends_with("\r\n\r\nshort"), "{answer}");
    for (path, want) in [("/other", 202), ("/none", 404), ("/nothing", 500), ("/dangling", 500)] {
        assert_eq!(status(&proxy.get(path, "").await), want, "{path}");
    }
}

#[tokio::test]
async fn weights_share_requests() {
    let proxy = Proxy::start().await;
    let (a, _) = backend::raw(b"HTTP/1.1 201 A\r\ncontent-length: 0\r\n\r\n").await;
    let (b, _) = backend::raw(b"HTTP/1.1 202 B\r\ncontent-length: 0\r\n\r\n").await;
    proxy.service("shop/a", &[(a, false)]);
    proxy.service("shop/b", &[(b, false)]);
    proxy.route(vec![wire::HttpRule {
        backends: vec![to("shop/a", 9), to("shop/b", 1), to("shop/gone", 0)],
        ..Default::default()
    }]);
    let mut counts = std::collections::BTreeMap::new();
    for _ in 0..400 {
        *counts.entry(status(&proxy.get("/", "").await)).or_insert(0) += 1;
    }
    assert_eq!(counts.keys().copied().collect::<Vec<_>>(), [201, 202]);
    // 40 expected; 6 standard deviations of a fair draw.
    assert!((4..76).contains(&counts[&202]), "{counts:?}");
}

#[tokio::test]
async fn an_upgraded_connection_carries_bytes() {
    let proxy = Proxy::start().await;
    let address = backend::each(|mut tcp| async move {
        let head = backend::read_head(&mut tcp).await;
        assert!(
            head.contains("upgrade: websocket\r\n") && head.contains("connection: upgrade\r\n"),
            "{head}"
        );
        let answer =
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\nhi";
        tcp.write_all(answer).await.unwrap();
        let mut ping = [0; 4];
        tcp.read_exact(&mut ping).await.unwrap();
        tcp.write_all(&ping).await.unwrap();
    })
    .await;
    proxy.service("shop/cart", &[(address, false)]);
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    stream
        .write_all(b"GET /ws HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    let mut buffer = [0; 1024];
    while !answer.ends_with("\r\n\r\nhi") {
        let n = soon("answer", stream.read(&mut buffer)).await.unwrap();
        assert!(n > 0, "{answer}");
        answer.push_str(std::str::from_utf8(&buffer[..n]).unwrap());
    }
    assert!(answer.starts_with("HTTP/1.1 101") && answer.contains("upgrade: websocket\r\n"), "{answer}");
    stream.write_all(b"ping").await.unwrap();
    let mut rest = Vec::new();
    soon("pong", stream.read_to_end(&mut rest)).await.unwrap();
    assert_eq!(rest, b"ping");
    assert_eq!(proxy.told().await.status, 101);
}

#[tokio::test]
async fn draining_finishes_what_was_begun() {
    let proxy = Proxy::start().await;
    let (begun, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let (release, released) = tokio::sync::watch::channel(false);
    let address = backend::each(move |mut tcp| {
        let (begun, mut released) = (begun.clone(), released.clone());
        async move {
            backend::read_head(&mut tcp).await;
            begun.send(()).unwrap();
            released.wait_for(|go| *go).await.unwrap();
            tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        }
    })
    .await;
    proxy.service("shop/cart", &[(address, false)]);
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    soon("request", seen.recv()).await.unwrap();
    proxy.drain.cancel();
    release.send(true).unwrap();
    let mut answer = String::new();
    soon("answer and end", stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok"), "{answer}");
}
