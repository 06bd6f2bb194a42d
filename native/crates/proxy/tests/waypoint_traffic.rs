//! Which endpoints requests go to through a waypoint, and what of theirs passes. Each test is a sandbox.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "support/waypoint.rs"]
mod lab;
mod support;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use lab::{HOST, KEY, Mesh, VIP, http_echo, pod, resource, served};
use meltemi_tunnel::TunnelIo;
use meltemi_types::discovery::ResourceType;
use meltemi_types::meltemi as wire;
use meltemi_types::meltemi::served_port::Protocol;
use meltemi_types::workload::{self, Address, address};
use prost::Message;
use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::time::Duration;
use support::{sandbox, soon};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const A: Ipv4Addr = Ipv4Addr::new(127, 0, 3, 1);

/// Answers every request with a name.
fn named(
    name: &'static str,
) -> impl Fn(TunnelIo) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> + Clone {
    move |io| {
        Box::pin(async move {
            let service = hyper::service::service_fn(move |_: Request<Incoming>| async move {
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(name.as_bytes()))))
            });
            let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            let _ = builder.serve_connection(TokioIo::new(io), service).await;
        })
    }
}

/// Asks until the answer comes from one of the names, then that it stays so.
async fn only(caller: &lab::Caller, name: &str) {
    soon(name, async {
        while !caller.get("/", "").await.ends_with(name) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    for _ in 0..10 {
        let answer = caller.get("/", "").await;
        assert!(answer.ends_with(name), "{answer}");
    }
}

fn route(rule: wire::HttpRule) -> support::control::Object {
    let target = wire::route_parent::Target::Service(KEY.into());
    let message = wire::HttpRoute {
        namespace: "default".into(),
        name: "web".into(),
        parents: vec![wire::RouteParent { target: Some(target), port: 0 }],
        rules: vec![rule],
        ..Default::default()
    };
    resource(ResourceType::HttpRoute, "HTTPRoute/default/web", &message)
}

fn to(subset: &str) -> wire::HttpBackend {
    wire::HttpBackend {
        service: KEY.into(),
        port: 80,
        weight: 1,
        subset: subset.into(),
        ..Default::default()
    }
}

#[test]
fn subsets_of_a_traffic_policy_are_gone_to() {
    sandbox::run("subsets_of_a_traffic_policy_are_gone_to", || async {
        let mesh = Mesh::make();
        mesh.control.put(served(KEY, &[(80, Protocol::Http)]));
        let (one, two) = (pod("web1", 1), pod("web2", 2));
        let subset = |name: &str, uids: Vec<String>| wire::Subset { name: name.into(), workload_uids: uids };
        let policy = |v1: Vec<String>, v2: Vec<String>| {
            let message = wire::TrafficPolicy {
                subsets: vec![subset("v1", v1), subset("v2", v2)],
                ..Default::default()
            };
            resource(ResourceType::TrafficPolicy, KEY, &message)
        };
        mesh.control.put(policy(vec![one.uid()], vec![two.uid()]));
        mesh.control.put(route(wire::HttpRule { backends: vec![to("v1")], ..Default::default() }));
        let _waypoint = mesh.waypoint(&[]).await;
        let _one = mesh.endpoint(&one, named("one")).await;
        let _two = mesh.endpoint(&two, named("two")).await;
        let caller = mesh.caller("a", A).await;
        only(&caller, "one").await;
        mesh.control.put(route(wire::HttpRule { backends: vec![to("v2")], ..Default::default() }));
        only(&caller, "two").await;
        // The policy alone changes.
        mesh.control.put(policy(vec![two.uid()], vec![one.uid()]));
        only(&caller, "one").await;
        mesh.control.put(policy(vec![], vec![]));
        only(&caller, "no_endpoint\n").await;
    });
}

#[test]
fn the_nearest_endpoints_are_gone_to_and_others_when_they_are_gone() {
    sandbox::run("the_nearest_endpoints_are_gone_to_and_others_when_they_are_gone", || async {
        let mesh = Mesh::make();
        mesh.control.put(served(KEY, &[(80, Protocol::Http)]));
        let mut service = support::objects::service(HOST, VIP, 80, 8080);
        let mut message = Address::decode(service.body.as_slice()).unwrap();
        let Some(address::Type::Service(inner)) = &mut message.r#type else { panic!("no service") };
        inner.load_balancing = Some(workload::LoadBalancing {
            routing_preference: vec![workload::load_balancing::Scope::Node.into()],
            mode: workload::load_balancing::Mode::Failover.into(),
            ..Default::default()
        });
        service.body = message.encode_to_vec();
        mesh.control.put(service);
        let _waypoint = mesh.waypoint(&[]).await;
        // The waypoint's own node is n1.
        let mut far = pod("far", 2);
        far.node = "n2";
        let near = pod("near", 1);
        let _far = mesh.endpoint(&far, named("far")).await;
        let caller = mesh.caller("a", A).await;
        only(&caller, "far").await;
        let _near = mesh.endpoint(&near, named("near")).await;
        only(&caller, "near").await;
        mesh.control.remove(&near.uid());
        only(&caller, "far").await;
        // One that is near and not to be reached is passed over.
        let mut dead = pod("dead", 9);
        dead.services = vec![(HOST, 80, 8080)];
        mesh.control.put(dead.object());
        for _ in 0..20 {
            assert!(caller.get("/", "").await.ends_with("far"));
        }
    });
}

#[test]
fn copies_of_requests_are_sent_and_counted() {
    sandbox::run("copies_of_requests_are_sent_and_counted", || async {
        let mesh = Mesh::make();
        mesh.control.put(served(KEY, &[(80, Protocol::Http)]));
        let mirror = wire::Mirror { backend: Some(to("")), all: true, ..Default::default() };
        let filter = wire::HttpFilter { kind: Some(wire::http_filter::Kind::Mirror(mirror)) };
        mesh.control.put(route(wire::HttpRule {
            filters: vec![filter],
            to_parent: true,
            ..Default::default()
        }));
        let waypoint = mesh.waypoint(&[]).await;
        let _asked = mesh.endpoint(&pod("web", 1), http_echo).await;
        let caller = mesh.caller("a", A).await;
        soon("an answer", async {
            while !caller.get("/", "").await.starts_with("HTTP/1.1 200") {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        soon("the count", async {
            while !waypoint
                .get("/metrics")
                .await
                .contains("meltemi_mirrored_requests_total{outcome=\"answered\"}")
            {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    });
}

#[test]
fn a_websocket_carries_bytes_both_ways() {
    sandbox::run("a_websocket_carries_bytes_both_ways", || async {
        let mesh = Mesh::make();
        mesh.control.put(served(KEY, &[(80, Protocol::Http)]));
        let waypoint = mesh.waypoint(&[]).await;
        let socket = |mut io: TunnelIo| async move {
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                let Ok(Some(bytes)) = io.read_bytes().await else { return };
                head.push_str(std::str::from_utf8(&bytes).unwrap());
            }
            assert!(head.contains("upgrade: websocket\r\n"), "{head}");
            let answer =
                b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
            io.write_all(answer).await.unwrap();
            lab::echo(io).await;
        };
        let _asked = mesh.endpoint(&pod("web", 1), socket).await;
        let caller = mesh.caller("a", A).await;
        let mut io = caller.open(&format!("{VIP}:80")).await.unwrap();
        let ask = b"GET /ws HTTP/1.1\r\nhost: web\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";
        io.write_all(ask).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(soon("the answer", io.read_u8()).await.unwrap());
        }
        assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
        for round in 0..10_u8 {
            let sent = vec![round; 10_000];
            io.write_all(&sent).await.unwrap();
            let mut back = vec![0; sent.len()];
            soon("echo", io.read_exact(&mut back)).await.unwrap();
            assert_eq!(back, sent);
        }
        drop(io);
        let record = waypoint.record("record", |record| record["path"] == "/ws").await;
        assert_eq!(record["status"], 101);
    });
}

/// A bidirectional stream: each message is answered before the next one is sent; the status comes last.
#[test]
fn a_grpc_stream_is_a_conversation_with_a_status_at_its_end() {
    sandbox::run("a_grpc_stream_is_a_conversation_with_a_status_at_its_end", || async {
        let mesh = Mesh::make();
        let port = wire::ServedPort { port: 80, protocol: Protocol::Http2.into(), http2_backend: true };
        let ports = wire::Served { ports: vec![port], ..Default::default() };
        mesh.control.put(resource(ResourceType::Served, KEY, &ports));
        let waypoint = mesh.waypoint(&[]).await;
        let serve = |io: TunnelIo| async move {
            let service = hyper::service::service_fn(|request: Request<Incoming>| async move {
                let (frames, answered) = tokio::sync::mpsc::channel::<Result<Frame<Bytes>, Infallible>>(1);
                tokio::spawn(async move {
                    let mut body = request.into_body();
                    while let Some(Ok(frame)) = body.frame().await {
                        if let Ok(data) = frame.into_data() {
                            let _ = frames.send(Ok(Frame::data(data))).await;
                        }
                    }
                    let status = ("grpc-status".parse().unwrap(), "7".parse().unwrap());
                    let _ = frames.send(Ok(Frame::trailers(HeaderMap::from_iter([status])))).await;
                });
                let body = StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(answered));
                let response = Response::builder().header("content-type", "application/grpc");
                Ok::<_, Infallible>(response.body(body).unwrap())
            });
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ = builder.serve_connection(TokioIo::new(io), service).await;
        };
        let _asked = mesh.endpoint(&pod("web", 1), serve).await;
        let caller = mesh.caller("a", A).await;
        let io = caller.open(&format!("{VIP}:80")).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await.unwrap();
        tokio::spawn(connection);
        let (frames, sent) = tokio::sync::mpsc::channel::<Result<Frame<Bytes>, Infallible>>(1);
        let body = StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(sent));
        let request = Request::post("http://web/pkg.Chat/Talk")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(body)
            .unwrap();
        let response = soon("headers", sender.send_request(request)).await.unwrap();
        assert_eq!(response.status(), 200);
        let mut answers = response.into_body();
        for round in 0..5_u8 {
            let message = Bytes::from(vec![0, 0, 0, 0, 1, round]);
            frames.send(Ok(Frame::data(message.clone()))).await.unwrap();
            let answer = soon("answer", answers.frame()).await.unwrap().unwrap();
            assert_eq!(answer.into_data().unwrap(), message);
        }
        drop(frames);
        let last = soon("status", answers.frame()).await.unwrap().unwrap();
        assert_eq!(last.into_trailers().unwrap()["grpc-status"], "7");
        let record = waypoint.record("record", |record| record["path"] == "/pkg.Chat/Talk").await;
        assert_eq!((&record["protocol"], &record["grpc_status"]), (&"grpc".into(), &7.into()));
    });
}
