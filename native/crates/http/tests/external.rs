//! What is said of a caller, and external authorizers that are asked about bodies: over real sockets.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use http_body_util::{BodyExt, Full};
use meltemi_http::Settings;
use meltemi_types::meltemi as wire;
use prost::Message;
use std::sync::{Arc, Mutex};
use support::{Proxy, backend, soon, status};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use wire::{external_authorizer, http_authorization::Action, policy_target};

const CALLER: &str = "spiffe://td/ns/web/sa/front";
const FORGED: &str = "spiffe://td/ns/admin/sa/root";

fn if_header(name: &str, value: &str) -> wire::HttpAuthorizationRule {
    let key = format!("request.headers[{name}]");
    let condition = wire::ConditionMatch { key, values: vec![value.into()], ..Default::default() };
    wire::HttpAuthorizationRule { conditions: vec![condition], ..Default::default() }
}

fn policy(proxy: &Proxy, name: &str, action: Action, more: wire::HttpAuthorization) {
    let message = wire::HttpAuthorization {
        namespace: "shop".into(),
        name: name.into(),
        action: action.into(),
        targets: vec![wire::PolicyTarget { kind: Some(policy_target::Kind::Waypoint(true)) }],
        ..more
    };
    let key = format!("shop/{name}");
    assert_eq!(proxy.core.policies.apply([(key.as_str(), &*message.encode_to_vec())], &[]), []);
}

/// Everything is asked about, over plain HTTP, of shop/authz.
fn ask(proxy: &Proxy, max_bytes: Option<u32>, to_upstream: &[&str]) {
    let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let check = wire::HttpCheck {
        request_headers: names(&["x-caller", "x-forwarded-for"]),
        to_upstream: names(to_upstream),
        ..Default::default()
    };
    let external = wire::ExternalAuthorizer {
        service: "shop/authz".into(),
        port: 80,
        timeout_ms: 60_000,
        protocol: Some(external_authorizer::Protocol::Http(check)),
        body: max_bytes.map(|max_bytes| wire::CheckBody { max_bytes, ..Default::default() }),
        ..Default::default()
    };
    let more = wire::HttpAuthorization {
        rules: vec![wire::HttpAuthorizationRule::default()],
        provider: "authz".into(),
        external: Some(external),
        ..Default::default()
    };
    policy(proxy, "ask", Action::Custom, more);
}

async fn with_caller_header() -> Proxy {
    let proxy = Proxy::start().await;
    let caller_header = Some(http::HeaderName::from_static("x-caller"));
    proxy.core.set_settings(Settings { caller_header, ..Settings::default() });
    let (echo, _) = backend::serve(backend::echo).await;
    proxy.service("shop/cart", &[(echo, false)]);
    proxy
}

#[tokio::test]
async fn policies_and_routes_see_the_proxys_word_on_the_caller() {
    let proxy = with_caller_header().await;
    let forged = format!("x-caller: {FORGED}\r\n");
    let allow = |value: &str| {
        let rules = vec![if_header("x-caller", value)];
        policy(&proxy, "p", Action::Allow, wire::HttpAuthorization { rules, ..Default::default() });
    };
    allow(FORGED);
    assert_eq!(status(&proxy.get("/", &forged).await), 403);
    allow(CALLER);
    assert_eq!(status(&proxy.get("/", "").await), 200);
    let answer = proxy.get("/", &forged).await;
    assert_eq!(status(&answer), 200);
    assert_eq!(answer.matches("x-caller: ").count(), 1, "{answer}");
    // Who claims to be asking for another is asking for itself, too.
    let rules = vec![if_header("x-forwarded-for", "10.0.0.1")];
    policy(&proxy, "p", Action::Allow, wire::HttpAuthorization { rules, ..Default::default() });
    assert_eq!(status(&proxy.get("/", "x-forwarded-for: 10.0.0.1\r\n").await), 403);
    let rules = vec![if_header("x-forwarded-for", "10.0.0.1, 127.0.0.1")];
    policy(&proxy, "p", Action::Allow, wire::HttpAuthorization { rules, ..Default::default() });
    let answer = proxy.get("/", "x-forwarded-for: 10.0.0.1\r\n").await;
    assert!(answer.contains("x-forwarded-for: 10.0.0.1, 127.0.0.1\n"), "{answer}");
}

#[tokio::test]
async fn an_authorizer_sees_the_caller_and_cannot_make_it_another() {
    let proxy = with_caller_header().await;
    let seen: Arc<Mutex<Vec<http::HeaderMap>>> = Arc::default();
    let heard = seen.clone();
    let (authz, _) = backend::serve(move |request: http::Request<hyper::body::Incoming>| {
        heard.lock().unwrap().push(request.headers().clone());
        async {
            let body = Full::default().boxed();
            let answer = http::Response::builder().header("x-caller", FORGED).header("x-grade", "gold");
            answer.body(body).unwrap()
        }
    })
    .await;
    proxy.service("shop/authz", &[(authz, false)]);
    ask(&proxy, None, &["x-*"]);
    let rules = vec![if_header("x-caller", FORGED)];
    policy(&proxy, "p", Action::Deny, wire::HttpAuthorization { rules, ..Default::default() });
    let answer = proxy.get("/", &format!("x-caller: {FORGED}\r\n")).await;
    assert_eq!(status(&answer), 200, "{answer}");
    assert!(answer.contains(&format!("x-caller: {CALLER}\n")) && !answer.contains(FORGED), "{answer}");
    assert!(answer.contains("x-grade: gold\n"), "{answer}");
    let seen = seen.lock().unwrap();
    assert_eq!(seen[0]["x-caller"], CALLER);
    assert_eq!(seen[0]["x-forwarded-for"], "127.0.0.1");
}

/// Sends a request's headers and body, and reads until the connection ends.
async fn post(proxy: std::net::SocketAddr, framing: &str, body: &[u8]) -> String {
    let mut tcp = TcpStream::connect(proxy).await.unwrap();
    let head = format!("POST / HTTP/1.1\r\nhost: cart\r\nconnection: close\r\n{framing}\r\n\r\n");
    tcp.write_all(head.as_bytes()).await.unwrap();
    // A proxy that refuses does not read to the end.
    let _ = tcp.write_all(body).await;
    let mut answer = Vec::new();
    let _ = soon("answer", tcp.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_body_that_was_asked_about_goes_on_in_one_piece() {
    let proxy = Proxy::start().await;
    let (sender, mut bodies) = tokio::sync::mpsc::unbounded_channel();
    let cart = backend::each(move |mut tcp| {
        let sender = sender.clone();
        async move {
            backend::read_head(&mut tcp).await;
            let mut body = Vec::new();
            while !body.ends_with(b"0\r\n\r\n") && tcp.read_buf(&mut body).await.is_ok_and(|n| n > 0) {}
            let _ = sender.send(body);
            let _ = tcp.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").await;
        }
    })
    .await;
    let (authz, _) = backend::serve(|_| async { http::Response::new(Full::default().boxed()) }).await;
    proxy.service("shop/cart", &[(cart, false)]);
    proxy.service("shop/authz", &[(authz, false)]);
    ask(&proxy, Some(1000), &[]);
    let mut pieces = b"1\r\nx\r\n".repeat(1000);
    pieces.extend_from_slice(b"0\r\n\r\n");
    let chunked = "transfer-encoding: chunked";
    assert_eq!(status(&post(proxy.address, chunked, &pieces).await), 204);
    let body = soon("body", bodies.recv()).await.unwrap();
    let one = format!("3E8\r\n{}\r\n0\r\n\r\n", "x".repeat(1000));
    assert!(body.eq_ignore_ascii_case(one.as_bytes()), "{}", String::from_utf8_lossy(&body));
    let pieces = b"1\r\nx\r\n".repeat(1001);
    let answer = post(proxy.address, chunked, &pieces).await;
    assert_eq!(status(&answer), 413, "{answer}");
}

#[tokio::test]
async fn bodies_that_are_asked_about_share_a_bound() {
    const BYTES: usize = 1 << 20;
    let proxy = Proxy::start().await;
    let (release, released) = tokio::sync::watch::channel(false);
    let (sender, mut asked) = tokio::sync::mpsc::unbounded_channel();
    let (authz, _) = backend::serve(move |_| {
        sender.send(()).unwrap();
        let mut released = released.clone();
        async move {
            released.wait_for(|go| *go).await.unwrap();
            http::Response::new(Full::default().boxed())
        }
    })
    .await;
    let (echo, _) = backend::serve(backend::echo).await;
    proxy.service("shop/cart", &[(echo, false)]);
    proxy.service("shop/authz", &[(authz, false)]);
    ask(&proxy, Some(BYTES as u32), &[]);
    let sized = |bytes: usize| format!("content-length: {bytes}");
    let held: Vec<_> = (0..64)
        .map(|_| {
            let (proxy, framing) = (proxy.address, sized(BYTES));
            tokio::spawn(async move { status(&post(proxy, &framing, &vec![b'x'; BYTES]).await) })
        })
        .collect();
    for _ in &held {
        soon("question", asked.recv()).await.unwrap();
    }
    let answer = post(proxy.address, &sized(1), b"x").await;
    assert!(answer.contains("x-meltemi-refused: overloaded; policy=shop/ask\r\n"), "{answer}");
    release.send(true).unwrap();
    for held in held {
        assert_eq!(soon("answer", held).await.unwrap(), 200);
    }
    assert_eq!(status(&post(proxy.address, &sized(1), b"x").await), 200, "room again");
}

#[tokio::test]
async fn another_spelling_of_a_host_is_no_way_around_a_policy() {
    let proxy = with_caller_header().await;
    let operation = wire::OperationMatch { hosts: vec!["admin.example:8080".into()], ..Default::default() };
    let rule = wire::HttpAuthorizationRule { operations: vec![operation], ..Default::default() };
    let more = wire::HttpAuthorization { rules: vec![rule], ..Default::default() };
    policy(&proxy, "p", Action::Deny, more);
    let ask = async |host: &str| {
        let request = format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        status(&proxy.raw(request.as_bytes()).await)
    };
    for host in ["admin.example:8080", "ADMIN.example.:8080", "admin.example:08080", "admin.example..:8080"] {
        assert_eq!(ask(host).await, 403, "{host}");
    }
    assert_eq!(ask("admin.example:8081").await, 200);
}
