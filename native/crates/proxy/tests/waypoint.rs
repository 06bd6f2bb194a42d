//! A waypoint between callers and endpoints, over real sockets, TLS and tunnels. Each test is a sandbox.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "support/waypoint.rs"]
mod lab;
mod support;

use lab::{HOST, KEY, Mesh, VIP, echo, http_echo, pod, resource, served};
use meltemi_types::discovery::ResourceType;
use meltemi_types::meltemi as wire;
use meltemi_types::meltemi::served_port::Protocol;
use std::net::Ipv4Addr;
use std::time::Duration;
use support::objects::deny_account;
use support::{sandbox, soon};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const A: Ipv4Addr = Ipv4Addr::new(127, 0, 3, 1);
const B: Ipv4Addr = Ipv4Addr::new(127, 0, 3, 2);

/// Waits until a request is answered with the status: what was changed is in force then.
async fn answered(caller: &lab::Caller, path: &str, status: u16) -> String {
    soon("the change", async {
        loop {
            let answer = caller.get(path, "").await;
            if answer.starts_with(&format!("HTTP/1.1 {status}")) {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
}

fn route(rules: Vec<wire::HttpRule>) -> support::control::Object {
    let target = wire::route_parent::Target::Service(KEY.into());
    let message = wire::HttpRoute {
        namespace: "default".into(),
        name: "web".into(),
        parents: vec![wire::RouteParent { target: Some(target), port: 0 }],
        rules,
        ..Default::default()
    };
    resource(ResourceType::HttpRoute, "HTTPRoute/default/web", &message)
}

#[test]
fn bytes_pass_with_the_callers_identity_and_address() {
    sandbox::run("bytes_pass_with_the_callers_identity_and_address", || async {
        let mesh = Mesh::make();
        mesh.control.put(served(KEY, &[(80, Protocol::Tcp)]));
        let waypoint = mesh.waypoint(&[]).await;
        let mut asked = mesh.endpoint(&pod("web", 1), echo).await;
        let caller = mesh.caller("a", A).await;
        let mut io = caller.open(&format!("{VIP}:80")).await.unwrap();
        let block: Vec<u8> =
            (0..3_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let sent = block.clone();
        let (mut read, mut write) = tokio::io::split(io);
        let writer = tokio::spawn(async move {
            write.write_all(&sent).await.unwrap();
            write.shutdown().await.unwrap();
            write
        });
        let mut received = Vec::new();
        soon("echo", read.read_to_end(&mut received)).await.unwrap();
        assert!(received == block, "{} bytes came back changed", received.len());
        io = read.unsplit(writer.await.unwrap());
        drop(io);
        let asked = asked.recv().await.unwrap();
        assert_eq!(asked.authority, "127.0.2.1:8080");
        assert_eq!(asked.headers["x-istio-source"], "waypoint");
        assert_eq!(asked.headers["x-meltemi-caller"], "spiffe://cluster.local/ns/default/sa/a");
        assert_eq!(asked.headers["forwarded"], format!("for=\"127.0.3.1:4711\";host={HOST}"));
        assert!(asked.headers["baggage"].to_str().unwrap().contains("front"));
        let record = waypoint.record("record", |record| record["direction"] == "waypoint").await;
        assert_eq!(record["src_identity"], "spiffe://cluster.local/ns/default/sa/a");
        assert_eq!(record["src_addr"], "127.0.3.1:4711");
        assert_eq!((&record["dst_workload"], &record["dst_service"]), (&"web".into(), &HOST.into()));
        assert_eq!(record["bytes_received"], 3_000_000);
        assert_eq!(record["reason"], serde_json::Value::Null);
        let metrics = waypoint.get("/metrics").await;
        assert!(metrics.contains("istio_tcp_connections_opened_total{reporter=\"waypoint\""), "{metrics}");
    });
}

#[test]
fn requests_are_routed_recorded_and_counted() {
    sandbox::run("requests_are_routed_recorded_and_counted", || async {
        let mesh = Mesh::make();
        mesh.control.put(served(KEY, &[(80, Protocol::Http)]));
        let waypoint = mesh.waypoint(&[]).await;
        let mut asked = mesh.endpoint(&pod("web", 1), http_echo).await;
        let caller = mesh.caller("a", A).await;
        let answer = caller.get("/a/../b?x=1", "").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        for part in ["GET /b?x=1\n", "x-forwarded-for: 127.0.3.1\n", "host: web\n"] {
            assert!(answer.contains(part), "{part}: {answer}");
        }
        // A shared connection is nobody's in particular.
        let first = asked.recv().await.unwrap();
        assert_eq!(first.headers["x-istio-source"], "waypoint");
        assert!(!first.headers.contains_key("x-meltemi-caller") && !first.headers.contains_key("forwarded"));
        caller.get("/again", "").await;
        assert!(asked.try_recv().is_err(), "the endpoint's connection was not used again");
        let record = waypoint.record("record", |record| record["path"] == "/b").await;
        assert_eq!((&record["status"], &record["method"]), (&200.into(), &"GET".into()));
        assert_eq!(record["src_identity"], "spiffe://cluster.local/ns/default/sa/a");
        assert_eq!((&record["dst_workload"], &record["dst_service"]), (&"web".into(), &HOST.into()));
        let teapot = wire::DirectResponse { status: 418, ..Default::default() };
        let kind = wire::http_filter::Kind::DirectResponse(teapot);
        mesh.control.put(route(vec![wire::HttpRule {
            filters: vec![wire::HttpFilter { kind: Some(kind) }],
            ..Default::default()
        }]));
        answered(&caller, "/", 418).await;
        // A route that is not understood is refused, and the last good one stays.
        mesh.control.put(route(vec![wire::HttpRule {
            filters: vec![wire::HttpFilter::default()],
            ..Default::default()
        }]));
        soon("nack", async {
            while mesh.control.nacks().is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        assert!(mesh.control.nacks()[0].contains("rules[0].filters[0]"), "{:?}", mesh.control.nacks());
        assert!(caller.get("/", "").await.starts_with("HTTP/1.1 418"));
        mesh.control.remove("http_route:HTTPRoute/default/web");
        answered(&caller, "/", 200).await;
        let metrics = waypoint.get("/metrics").await;
        let total = metrics.lines().find(|line| {
            line.starts_with("istio_requests_total{reporter=\"waypoint\"")
                && line.contains("response_code=\"418\"")
        });
        assert!(total.is_some_and(|line| line.contains("source_workload=\"front\"")), "{metrics}");
    });
}

#[test]
fn the_original_caller_is_judged_by_both_kinds_of_policy() {
    sandbox::run("the_original_caller_is_judged_by_both_kinds_of_policy", || async {
        let mesh = Mesh::make();
        mesh.control.put(served(KEY, &[(80, Protocol::Http), (81, Protocol::Tcp)]));
        // Until the policy that selects the endpoint has come, nothing is let through.
        mesh.control.put(deny_account("deny-b", "b"));
        let waypoint = mesh.waypoint(&[]).await;
        let mut spec = pod("web", 1);
        spec.policies = vec!["deny-b"];
        let _asked = mesh.endpoint(&spec, http_echo).await;
        let (a, b) = (mesh.caller("a", A).await, mesh.caller("b", B).await);
        answered(&a, "/", 200).await;
        let answer = b.get("/", "").await;
        assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
        assert!(answer.contains("x-meltemi-refused: policy_denied; policy=default/deny-b\r\n"), "{answer}");
        let operation = wire::OperationMatch {
            paths: vec!["/public/*".into()],
            methods: vec!["GET".into()],
            ..Default::default()
        };
        let rule = wire::HttpAuthorizationRule { operations: vec![operation], ..Default::default() };
        let target = wire::policy_target::Kind::Service(KEY.into());
        let allow = wire::HttpAuthorization {
            namespace: "default".into(),
            name: "public".into(),
            targets: vec![wire::PolicyTarget { kind: Some(target) }],
            rules: vec![rule],
            ..Default::default()
        };
        mesh.control.put(resource(ResourceType::HttpAuthorization, "default/public", &allow));
        let answer = answered(&a, "/private", 403).await;
        assert!(answer.contains("policy=default/public"), "{answer}");
        assert!(a.get("/public/x", "").await.starts_with("HTTP/1.1 200"));
        assert!(a.get("/public/../private", "").await.starts_with("HTTP/1.1 403"));
        let record = waypoint.record("refusal", |record| record["reason"] == "policy_denied").await;
        assert_eq!(record["policy"], "default/deny-b");
        waypoint.record("refusal", |record| record["policy"] == "default/public").await;
    });
}

#[test]
fn tcp_connections_are_judged_and_ended_when_policy_changes() {
    sandbox::run("tcp_connections_are_judged_and_ended_when_policy_changes", || async {
        let mesh = Mesh::make();
        mesh.control.put(served(KEY, &[(80, Protocol::Tcp)]));
        mesh.control.put(deny_account("deny", "b"));
        let waypoint = mesh.waypoint(&[]).await;
        let mut spec = pod("web", 1);
        spec.policies = vec!["deny"];
        let _asked = mesh.endpoint(&spec, echo).await;
        let (a, b) = (mesh.caller("a", A).await, mesh.caller("b", B).await);
        let authority = format!("{VIP}:80");
        let mut open = a.open(&authority).await.unwrap();
        open.write_all(b"x").await.unwrap();
        assert_eq!(soon("echo", open.read_u8()).await.unwrap(), b'x');
        assert_eq!(b.refused(&authority).await, (401, "policy_denied; policy=default/deny".into()));
        mesh.control.put(deny_account("deny", "a"));
        soon("end", open.read_u8()).await.unwrap_err();
        let record = waypoint.record("end", |record| record["reason"] == "policy_changed").await;
        assert_eq!(record["policy"], "default/deny");
    });
}

#[test]
fn what_is_not_served_is_refused() {
    sandbox::run("what_is_not_served_is_refused", || async {
        let mesh = Mesh::make();
        let waypoint = mesh.waypoint(&[]).await;
        let _asked = mesh.endpoint(&pod("web", 1), echo).await;
        let caller = mesh.caller("a", A).await;
        for (authority, status, reason) in [
            // Known, but not this waypoint's.
            (format!("{VIP}:80"), 400, "unknown_destination"),
            ("127.0.2.1:8080".into(), 400, "unknown_destination"),
            // Nothing of the mesh.
            ("127.0.7.7:80".into(), 400, "unknown_destination"),
            (format!("{HOST}:80"), 400, "unknown_destination"),
            ("127.0.1.1:15008".into(), 400, "loop"),
            ("nonsense:0".into(), 400, "peer_bad_request"),
        ] {
            assert_eq!(caller.refused(&authority).await, (status, reason.into()), "{authority}");
        }
        mesh.control.put(served(KEY, &[(80, Protocol::Tcp)]));
        soon("served", async {
            while caller.open(&format!("{HOST}:80")).await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        assert_eq!(caller.refused(&format!("{VIP}:99")).await.0, 400);
        drop(waypoint);
    });
}

#[test]
fn an_endpoint_that_is_gone_is_passed_over_and_none_is_said_so() {
    sandbox::run("an_endpoint_that_is_gone_is_passed_over_and_none_is_said_so", || async {
        let mesh = Mesh::make();
        mesh.control.put(served(KEY, &[(80, Protocol::Http)]));
        let waypoint = mesh.waypoint(&[]).await;
        let caller = mesh.caller("a", A).await;
        let answer = caller.get("/", "").await;
        assert!(answer.contains("x-meltemi-refused: no_endpoint"), "{answer}");
        // Nobody is at this one.
        let mut dead = pod("dead", 9);
        dead.services = vec![(HOST, 80, 8080)];
        mesh.control.put(dead.object());
        let answer = answered(&caller, "/", 503).await;
        assert!(answer.contains("x-meltemi-refused: "), "{answer}");
        let _asked = mesh.endpoint(&pod("web", 1), http_echo).await;
        answered(&caller, "/", 200).await;
        for _ in 0..10 {
            let answer = caller.get("/", "").await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
        waypoint.record("failure", |record| record["reason"] == "no_endpoint").await;
    });
}

#[test]
fn draining_finishes_requests_and_ends_in_order() {
    sandbox::run("draining_finishes_requests_and_ends_in_order", || async {
        let mesh = Mesh::make();
        mesh.control.put(served(KEY, &[(80, Protocol::Http)]));
        let mut waypoint = mesh.waypoint(&[]).await;
        let (begun, mut seen) = tokio::sync::mpsc::unbounded_channel();
        let (release, released) = tokio::sync::watch::channel(false);
        let serve = move |mut io: meltemi_tunnel::TunnelIo| {
            let (begun, mut released) = (begun.clone(), released.clone());
            async move {
                let _ = io.read_bytes().await;
                begun.send(()).unwrap();
                released.wait_for(|go| *go).await.unwrap();
                io.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
                let _ = io.read_bytes().await;
            }
        };
        let _asked = mesh.endpoint(&pod("web", 1), serve).await;
        let caller = mesh.caller("a", A).await;
        let mut io = caller.open(&format!("{VIP}:80")).await.unwrap();
        io.write_all(b"GET / HTTP/1.1\r\nhost: web\r\n\r\n").await.unwrap();
        soon("request", seen.recv()).await.unwrap();
        waypoint.terminate();
        soon("no new tunnels", async {
            let address = std::net::SocketAddr::from((lab::WAYPOINT, 15008));
            while tokio::net::TcpStream::connect(address).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        release.send(true).unwrap();
        let mut answer = String::new();
        soon("answer", io.read_to_string(&mut answer)).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok"), "{answer}");
        let status =
            tokio::task::spawn_blocking(move || (waypoint.child.wait().unwrap(), waypoint)).await.unwrap().0;
        assert_eq!(status.code(), Some(0));
    });
}
