//! Clients that try to be read in two ways, backends that misbehave: over real sockets.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use meltemi_http::Cause;
use meltemi_types::meltemi as wire;
use prost::Message;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use support::{Proxy, backend, soon, status};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use wire::{http_authorization, policy_target};

/// What a client sends in one go, with a second request hidden in it as one reading has it; the backend must
/// never be asked for `/hidden`, whatever the answer is.
#[tokio::test]
async fn no_request_is_smuggled() {
    let (sender, mut asked) = tokio::sync::mpsc::unbounded_channel();
    let (echo, _) = backend::serve(move |request: http::Request<hyper::body::Incoming>| {
        let sender = sender.clone();
        async move {
            sender.send(request.uri().path().to_owned()).unwrap();
            backend::echo(request).await
        }
    })
    .await;
    let proxy = Proxy::start().await;
    proxy.service("shop/cart", &[(echo, false)]);
    let hidden = "GET /hidden HTTP/1.1\r\nhost: a\r\n\r\n";
    let length = hidden.len();
    let cases: &[(&str, String)] = &[
        (
            "length and chunked",
            format!(
                "content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n{length:x}\r\n{hidden}\r\n0\r\n\r\n"
            ),
        ),
        (
            "chunked and length",
            format!("transfer-encoding: chunked\r\ncontent-length: {length}\r\n\r\n0\r\n\r\n{hidden}"),
        ),
        ("two lengths", format!("content-length: 0\r\ncontent-length: {length}\r\n\r\n{hidden}")),
        ("a list of lengths", format!("content-length: 0, {length}\r\n\r\n{hidden}")),
        ("a signed length", format!("content-length: +{length}\r\n\r\n{hidden}")),
        ("a coding that is none", format!("transfer-encoding: xchunked\r\n\r\n{hidden}")),
        ("a coding after chunked", format!("transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n{hidden}")),
        (
            "two codings",
            format!("transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n{hidden}"),
        ),
        ("a space before the colon", format!("transfer-encoding : chunked\r\n\r\n0\r\n\r\n{hidden}")),
        ("a folded line", format!("x-a: b\r\n content-length: {length}\r\n\r\n{hidden}")),
        ("a bare carriage return", format!("x-a: b\rcontent-length: {length}\r\n\r\n{hidden}")),
        ("a chunk longer than said", format!("transfer-encoding: chunked\r\n\r\n1\r\nab{hidden}")),
        (
            "a chunk size too large",
            format!("transfer-encoding: chunked\r\n\r\nffffffffffffffff1\r\n{hidden}"),
        ),
    ];
    for (what, rest) in cases {
        // The last request closes the connection, so that the answer has an end.
        let text = format!("POST /seen HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{rest}");
        let answer = proxy.raw(text.as_bytes()).await;
        let answers = answer.matches("HTTP/1.1 ").count();
        assert!(answers <= 2, "{what}: {answer}");
    }
    // A request that is in order comes after all of them.
    assert_eq!(status(&proxy.get("/end", "").await), 200);
    loop {
        let path = soon("request", asked.recv()).await.unwrap();
        assert_ne!(path, "/hidden");
        if path == "/end" {
            break;
        }
    }
}

#[tokio::test]
async fn a_path_cannot_be_read_past_a_policy() {
    let proxy = Proxy::start().await;
    let (echo, _) = backend::serve(backend::echo).await;
    proxy.service("shop/cart", &[(echo, false)]);
    let deny = wire::HttpAuthorization {
        namespace: "shop".into(),
        name: "no-admin".into(),
        action: http_authorization::Action::Deny.into(),
        targets: vec![wire::PolicyTarget { kind: Some(policy_target::Kind::Waypoint(true)) }],
        rules: vec![wire::HttpAuthorizationRule {
            operations: vec![wire::OperationMatch {
                paths: vec!["/admin".into(), "/admin/*".into()],
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    };
    let refused = proxy.core.policies.apply([("shop/no-admin", &*deny.encode_to_vec())], &[]);
    assert_eq!(refused, []);
    for path in [
        "/admin",
        "/admin/x",
        "//admin/x",
        "/./admin/x",
        "/a/../admin/x",
        "/a/%2e%2e/admin/x",
        "/%61dmin/x",
        "/\\admin/x",
        "/a/..\\admin",
        "http://cart/admin/x",
    ] {
        let answer = proxy.get(path, "").await;
        assert_eq!(status(&answer), 403, "{path}: {answer}");
        assert!(answer.contains("x-meltemi-refused: policy_denied; policy=shop/no-admin\r\n"), "{answer}");
        let told = proxy.told().await;
        assert_eq!((told.cause, told.policy.as_deref()), (Some(Cause::PolicyDenied), Some("shop/no-admin")));
    }
    for path in ["/a%2f..%2fadmin", "/%2e%2e/admin", "/%%32%65", "/a%00"] {
        assert_eq!(status(&proxy.get(path, "").await), 400, "{path}");
    }
    assert_eq!(status(&proxy.get("/administrator", "").await), 200);
}

#[tokio::test]
async fn requests_without_one_reading_are_refused() {
    let proxy = Proxy::start().await;
    let (echo, _) = backend::serve(backend::echo).await;
    proxy.service("shop/cart", &[(echo, false)]);
    for (request, want) in [
        ("GET / HTTP/1.1\r\nconnection: close\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\nconnection: close\r\n\r\n", 400),
        ("GET http://a/ HTTP/1.1\r\nhost: b\r\nconnection: close\r\n\r\n", 400),
        ("CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\nconnection: close\r\n\r\n", 501),
        ("OPTIONS * HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: a@b\r\nconnection: close\r\n\r\n", 400),
        (
            "GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\nconnection: close\r\n\r\n0\r\n\r\n",
            501,
        ),
    ] {
        let answer = proxy.raw(request.as_bytes()).await;
        assert_eq!(status(&answer), want, "{request}: {answer}");
    }
    let many: String = (0..200).map(|i| format!("x-{i}: 1\r\n")).collect();
    assert_eq!(status(&proxy.get("/", &many).await), 431);
    let long = format!("x: {}\r\n", "a".repeat(100 << 10));
    assert_eq!(status(&proxy.get("/", &long).await), 431);
}

#[tokio::test]
async fn bodies_have_a_bound_where_one_is_set() {
    let proxy = Proxy::start().await;
    let (echo, _) = backend::serve(backend::echo).await;
    proxy.service("shop/cart", &[(echo, false)]);
    proxy.core.set_settings(meltemi_http::Settings { request_body_bytes: 10, ..Default::default() });
    let post = |body: &str| {
        format!(
            "POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    assert_eq!(status(&proxy.raw(post("0123456789").as_bytes()).await), 200);
    assert_eq!(status(&proxy.raw(post("0123456789a").as_bytes()).await), 413);
}

#[tokio::test]
async fn backends_that_break_are_told_apart() {
    let proxy = Proxy::start().await;
    let (silent, _) = backend::raw(b"").await;
    let (garbage, _) = backend::raw(b"\x16\x03\x01 no http\r\n\r\n").await;
    let (half, _) = backend::raw(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await;
    let (both, _) =
        backend::raw(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nabc").await;
    let nobody = backend::nobody().await;
    for (address, want, cause) in [
        (silent, 503, Cause::UpstreamReset),
        (garbage, 503, Cause::UpstreamReset),
        (both, 503, Cause::UpstreamReset),
        (half, 200, Cause::ResponseBroken),
        (nobody, 503, Cause::UpstreamConnectFailed),
    ] {
        proxy.service("shop/cart", &[(address, false)]);
        let answer = proxy.get("/", "").await;
        assert_eq!(status(&answer), want, "{answer}");
        let told = proxy.told().await;
        assert_eq!(told.cause, Some(cause));
        assert_eq!(told.attempts, if cause == Cause::UpstreamConnectFailed { 3 } else { 1 });
    }
    proxy.service("shop/cart", &[]);
    let answer = proxy.get("/", "").await;
    assert!(answer.contains("x-meltemi-refused: no_endpoint"), "{answer}");
}

#[tokio::test]
async fn an_endpoint_that_is_not_reached_is_passed_over_with_the_body() {
    let proxy = Proxy::start().await;
    let (echo, _) = backend::serve(backend::echo).await;
    let nobody = backend::nobody().await;
    proxy.service("shop/cart", &[(nobody, false), (echo, false)]);
    for _ in 0..4 {
        let request = b"POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 4\r\n\r\nbody";
        let answer = proxy.raw(request).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\n\nbody"), "{answer}");
    }
}

fn rule(timeouts: Option<wire::HttpTimeouts>, retry: Option<wire::HttpRetry>) -> Vec<wire::HttpRule> {
    vec![wire::HttpRule { to_parent: true, timeouts, retry, ..Default::default() }]
}

#[tokio::test]
async fn times_are_kept() {
    let proxy = Proxy::start().await;
    let stuck = backend::each(|mut tcp| async move {
        let _ = tcp.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let stalls = backend::each(|mut tcp| async move {
        backend::read_head(&mut tcp).await;
        let _ = tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await;
        let _ = tcp.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let request = Some(wire::HttpTimeouts { request_ms: Some(50), ..Default::default() });
    let attempt = Some(wire::HttpTimeouts { backend_request_ms: Some(50), ..Default::default() });
    let idle = Some(wire::HttpTimeouts { idle_ms: Some(50), ..Default::default() });
    for (address, timeouts, want, cause) in [
        (stuck, request, 504, Cause::RequestTimeout),
        (stuck, attempt, 504, Cause::UpstreamTimeout),
        (stalls, request, 200, Cause::RequestTimeout),
        (stalls, attempt, 200, Cause::RequestTimeout),
        (stalls, idle, 200, Cause::ResponseBroken),
    ] {
        proxy.service("shop/cart", &[(address, false)]);
        proxy.route(rule(timeouts, None));
        let answer = proxy.get("/", "").await;
        assert_eq!(status(&answer), want, "{answer}");
        assert_eq!(proxy.told().await.cause, Some(cause));
    }
}

#[tokio::test]
async fn retries_are_made_where_they_do_no_harm() {
    let proxy = Proxy::start().await;
    let turn = Arc::new(AtomicUsize::new(0));
    let counted = turn.clone();
    // Two answers of 503, one broken connection, then a good one.
    let address = backend::each(move |mut tcp| {
        let turn = counted.fetch_add(1, SeqCst);
        async move {
            backend::read_head(&mut tcp).await;
            let answer: &[u8] = match turn % 4 {
                0 | 1 => b"HTTP/1.1 503 no\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
                2 => b"",
                _ => b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok",
            };
            let _ = tcp.write_all(answer).await;
        }
    })
    .await;
    proxy.service("shop/cart", &[(address, false)]);
    let retry = |attempts| wire::HttpRetry {
        attempts,
        statuses: vec![503],
        reset: true,
        backoff_ms: Some(1),
        ..Default::default()
    };
    proxy.route(rule(None, Some(retry(3))));
    assert_eq!(status(&proxy.get("/", "").await), 200);
    let told = proxy.told().await;
    assert_eq!((told.attempts, told.cause), (4, None));
    proxy.route(rule(None, Some(retry(1))));
    assert_eq!(status(&proxy.get("/", "").await), 503);
    assert_eq!(proxy.told().await.attempts, 2);
    // Without a rule that says so, nothing that was sent is sent again.
    proxy.route(rule(None, None));
    turn.store(0, SeqCst);
    let post = b"POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 1\r\n\r\nx";
    assert_eq!(status(&proxy.raw(post).await), 503);
    assert_eq!(turn.load(SeqCst), 1);
}

#[tokio::test]
async fn a_client_that_goes_away_takes_its_request_along() {
    let proxy = Proxy::start().await;
    let (ended, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let address = backend::each(move |mut tcp| {
        let ended = ended.clone();
        async move {
            backend::read_head(&mut tcp).await;
            let _ = tcp.read_to_end(&mut Vec::new()).await;
            ended.send(()).unwrap();
        }
    })
    .await;
    proxy.service("shop/cart", &[(address, false)]);
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    drop(stream);
    soon("the backend's end", seen.recv()).await.unwrap();
    assert_eq!(proxy.told().await.cause, Some(Cause::ClientGone));
}

#[tokio::test]
async fn a_grpc_client_is_answered_as_grpc() {
    let proxy = Proxy::start().await;
    let request = http::Request::post("http://cart/pkg.Service/Method")
        .header("content-type", "application/grpc")
        .body(http_body_util::Full::default())
        .unwrap();
    let response = proxy.h2(request).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["grpc-status"], "14");
    assert_eq!(proxy.told().await.grpc_status, Some(14));
}
