//! Two nodes, real processes, real sockets: what a mesh promises.
#![allow(clippy::unwrap_used, reason = "a test")]
mod support;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use support::objects::{PodSpec, allow_account, deny_account, dry_run, passthrough_service, service, strict};
use support::sandbox;
use support::soon;
use support::world::{Pod, Proxy, World};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn spec(name: &'static str, last: u8, node: &'static str) -> PodSpec {
    PodSpec {
        name,
        ip: Ipv4Addr::new(10, 77, 0, last),
        account: name,
        node,
        hbone: true,
        services: Vec::new(),
        policies: Vec::new(),
    }
}

/// `a` on node n1, `b` on node n2 (which policies may select), `w` outside the mesh.
fn three() -> Vec<PodSpec> {
    let mut b = spec("b", 3, "n2");
    b.policies = Vec::new();
    let outside = PodSpec { hbone: false, ..spec("w", 4, "n1") };
    vec![spec("a", 2, "n1"), b, outside]
}

async fn both(world: &World) -> (Proxy, Proxy) {
    (world.proxy("n1").await, world.proxy("n2").await)
}

/// Serves every connection by sending back what comes; the first line tells the client's address.
fn echo(pod: &Pod, port: u16) {
    let listener = pod.listen(port);
    tokio::spawn(async move {
        while let Ok((mut socket, peer)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = socket.write_all(format!("{}\n", peer.ip()).as_bytes()).await;
                let (mut read, mut write) = socket.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
        }
    });
}

async fn greeting(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut line = Vec::new();
    loop {
        let byte = soon("greeting", stream.read_u8()).await?;
        if byte == b'\n' {
            return Ok(String::from_utf8(line).unwrap());
        }
        line.push(byte);
    }
}

async fn refused(pod: &Pod, to: SocketAddr) -> ErrorKind {
    let mut stream = match pod.connect(to).await {
        Ok(stream) => stream,
        Err(error) => return error.kind(),
    };
    greeting(&mut stream).await.expect_err("the connection was carried").kind()
}

#[test]
fn a_connection_is_carried_with_identity_and_address() {
    sandbox::run("a_connection_is_carried_with_identity_and_address", || async {
        let world = World::make(three());
        let (n1, n2) = both(&world).await;
        let (a, b) = (world.pod("a"), world.pod("b"));
        echo(b, 8080);
        let mut stream = a.connect(b.at(8080)).await.unwrap();
        // Server first, and the client's own address.
        assert_eq!(greeting(&mut stream).await.unwrap(), "10.77.0.2");
        stream.write_all(b"hello").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut rest = String::new();
        soon("echo", stream.read_to_string(&mut rest)).await.unwrap();
        assert_eq!(rest, "hello");

        let out = n1.record("outbound record", |r| r["direction"] == "outbound").await;
        assert_eq!(out["protocol"], "hbone");
        assert_eq!(out["dst_identity"], "spiffe://cluster.local/ns/default/sa/b");
        assert_eq!((&out["bytes_sent"], &out["bytes_received"]), (&5.into(), &15.into()));
        assert_eq!(out["reason"], serde_json::Value::Null);
        let inbound = n2.record("inbound record", |r| r["direction"] == "inbound").await;
        assert_eq!(inbound["src_identity"], "spiffe://cluster.local/ns/default/sa/a");
        assert_eq!(inbound["dst_hbone_addr"], "10.77.0.3:8080");
        assert_eq!(inbound["src_addr"], out["src_addr"], "the records of both ends cannot be matched");
        assert_eq!(n1.records().len(), 1);
        assert_eq!(n2.records().len(), 1);
    });
}

#[test]
fn large_transfers_arrive_unchanged_both_ways() {
    sandbox::run("large_transfers_arrive_unchanged_both_ways", || async {
        let world = World::make(three());
        let (_n1, _n2) = both(&world).await;
        let (a, b) = (world.pod("a"), world.pod("b"));
        echo(b, 8080);
        let mut stream = a.connect(b.at(8080)).await.unwrap();
        greeting(&mut stream).await.unwrap();
        let block: Vec<u8> =
            (0..1_000_003_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let (mut read, mut write) = stream.into_split();
        let sent = block.clone();
        let writer = tokio::spawn(async move {
            for _ in 0..100 {
                write.write_all(&sent).await.unwrap();
            }
            write.shutdown().await.unwrap();
        });
        let mut received = vec![0; block.len()];
        for round in 0..100 {
            soon("block", read.read_exact(&mut received)).await.unwrap();
            assert!(received == block, "block {round} was changed on the way");
        }
        assert_eq!(soon("end", read.read(&mut received)).await.unwrap(), 0);
        writer.await.unwrap();
    });
}

#[test]
fn a_service_is_balanced_over_its_endpoints_and_dead_ones_are_left_out() {
    sandbox::run("a_service_is_balanced_over_its_endpoints_and_dead_ones_are_left_out", || async {
        let host = "web.default.svc.cluster.local";
        let mut specs = three();
        specs.push(spec("c", 5, "n2"));
        specs.push(spec("d", 6, "n2"));
        for name in ["b", "c", "d"] {
            specs.iter_mut().find(|s| s.name == name).unwrap().services = vec![(host, 80, 8080)];
        }
        let world = World::make(specs);
        let vip = Ipv4Addr::new(10, 96, 0, 1);
        world.control.put(service(host, vip, 80, 8080));
        let (n1, _n2) = both(&world).await;
        for name in ["b", "c"] {
            let listener = world.pod(name).listen(8080);
            tokio::spawn(async move {
                while let Ok((mut socket, _)) = listener.accept().await {
                    let _ = socket.write_all(format!("{name}\n").as_bytes()).await;
                }
            });
        }
        // Nothing listens in d: it is tried, and another endpoint answers.
        let mut seen = std::collections::HashSet::new();
        for _ in 0..20 {
            let mut stream = world.pod("a").connect(SocketAddr::from((vip, 80))).await.unwrap();
            seen.insert(greeting(&mut stream).await.unwrap());
        }
        assert_eq!(seen.len(), 2, "{seen:?}");
        let record = n1.record("record", |r| r["dst_service"] == host).await;
        assert_eq!(record["dst_addr"], "10.96.0.1:80");
    });
}

#[test]
fn plaintext_passes_only_where_it_may() {
    sandbox::run("plaintext_passes_only_where_it_may", || async {
        let mut specs = three();
        specs[1].policies = vec!["istio_converted_static_strict"];
        specs.push(spec("c", 5, "n2"));
        let world = World::make(specs);
        world.control.put(strict());
        let (n1, n2) = both(&world).await;
        let (a, b, c, w) = (world.pod("a"), world.pod("b"), world.pod("c"), world.pod("w"));
        for pod in [b, c, w] {
            echo(pod, 8080);
        }
        // From outside into a permissive pod, with the client's address; into a strict one, not.
        let mut stream = w.connect(c.at(8080)).await.unwrap();
        assert_eq!(greeting(&mut stream).await.unwrap(), "10.77.0.4");
        assert_eq!(refused(w, b.at(8080)).await, ErrorKind::ConnectionReset);
        let record = n2.record("refusal", |r| r["reason"] == "strict_plaintext_refused").await;
        assert_eq!(record["policy"], "default/istio_converted_static_strict");
        // Mutual TLS into the strict one.
        let mut stream = a.connect(b.at(8080)).await.unwrap();
        assert_eq!(greeting(&mut stream).await.unwrap(), "10.77.0.2");
        // To a known workload outside the mesh, and to an address that discovery says is nobody's.
        let mut stream = a.connect(w.at(8080)).await.unwrap();
        assert_eq!(greeting(&mut stream).await.unwrap(), "10.77.0.2");
        let bridge = tokio::net::TcpListener::bind("10.77.0.1:9000").await.unwrap();
        let mut stream = a.connect("10.77.0.1:9000".parse().unwrap()).await.unwrap();
        let (mut accepted, _) = soon("accept", bridge.accept()).await.unwrap();
        accepted.write_all(b"outside\n").await.unwrap();
        assert_eq!(greeting(&mut stream).await.unwrap(), "outside");
        drop((stream, accepted));
        n1.record("passthrough", |r| r["dst_addr"] == "10.77.0.1:9000" && r["protocol"] == "tcp").await;
    });
}

#[test]
fn a_new_deny_ends_what_it_forbids() {
    sandbox::run("a_new_deny_ends_what_it_forbids", || async {
        let mut specs = three();
        specs[1].policies = vec!["deny-a"];
        specs.push(spec("c", 5, "n1"));
        let world = World::make(specs);
        // Until the policy that selects b has come, nothing is let in.
        world.control.put(deny_account("deny-a", "nobody"));
        let (n1, n2) = both(&world).await;
        let (a, b, c) = (world.pod("a"), world.pod("b"), world.pod("c"));
        echo(b, 8080);
        let mut forbidden = a.connect(b.at(8080)).await.unwrap();
        greeting(&mut forbidden).await.unwrap();
        let mut allowed = c.connect(b.at(8080)).await.unwrap();
        greeting(&mut allowed).await.unwrap();

        world.control.put(deny_account("deny-a", "a"));
        let end = soon("end", forbidden.read_u8()).await.unwrap_err();
        assert_eq!(end.kind(), ErrorKind::ConnectionReset);
        let record = n2.record("record", |r| r["reason"] == "policy_changed").await;
        assert_eq!(record["policy"], "default/deny-a");
        assert_eq!(refused(a, b.at(8080)).await, ErrorKind::ConnectionReset);
        n2.record("refusal", |r| r["reason"] == "policy_denied" && r["policy"] == "default/deny-a").await;
        let told = n1.record("peer's refusal", |r| r["reason"] == "peer_refused").await;
        assert_eq!(told["peer_policy"], "default/deny-a");

        allowed.write_all(b"x").await.unwrap();
        assert_eq!(soon("echo", allowed.read_u8()).await.unwrap(), b'x');
    });
}

#[test]
fn a_dry_run_says_whom_it_would_deny() {
    sandbox::run("a_dry_run_says_whom_it_would_deny", || async {
        let mut specs = three();
        specs[1].policies = vec!["only-c"];
        specs.push(spec("c", 5, "n1"));
        let world = World::make(specs);
        world.control.put(dry_run(allow_account("only-c", "c")));
        let (_n1, n2) = both(&world).await;
        let (a, b, c) = (world.pod("a"), world.pod("b"), world.pod("c"));
        echo(b, 8080);
        for pod in [a, c] {
            greeting(&mut pod.connect(b.at(8080)).await.unwrap()).await.unwrap();
        }
        let of = |pod: &Pod| format!("spiffe://cluster.local/ns/default/sa/{}", pod.spec.account);
        let denied = n2.record("record", |r| r["src_identity"] == of(a)).await;
        assert_eq!(denied["message"], "connection complete", "nothing is refused");
        assert_eq!(denied["dry_run_denied_by"], serde_json::json!(["default/only-c"]));
        assert!(denied["dry_run_policies"].is_null());
        let allowed = n2.record("record", |r| r["src_identity"] == of(c)).await;
        assert!(allowed["dry_run_denied_by"].is_null());
        assert_eq!(allowed["dry_run_policies"], serde_json::json!(["default/only-c"]));
        let metrics = n2.get("/metrics").await.as_str().unwrap().to_owned();
        for action in ["dry-run", "dry-run-unmet"] {
            let line = format!("policy=\"default/only-c\",action=\"{action}\"}} 1");
            assert!(metrics.contains(&line), "{line}: {metrics}");
        }
    });
}

#[test]
fn a_pod_that_leaves_takes_its_tunnels_along() {
    sandbox::run("a_pod_that_leaves_takes_its_tunnels_along", || async {
        let world = World::make(three());
        let n1 = world.proxy("n1").await;
        let n2 = world.proxy_with("n2", &["--drain-timeout-ms", "0"]).await;
        let (a, b) = (world.pod("a"), world.pod("b"));
        echo(b, 8080);
        let mut stream = a.connect(b.at(8080)).await.unwrap();
        greeting(&mut stream).await.unwrap();
        n2.session.delete(&b.spec.uid()).await.unwrap();
        let end = soon("end", stream.read_u8()).await.unwrap_err();
        assert_eq!(end.kind(), ErrorKind::ConnectionReset);
        n2.record("record", |r| r["reason"] == "pod_removed").await;
        assert_eq!(refused(a, b.at(8080)).await, ErrorKind::ConnectionReset);
        n1.record("refused", |r| r["reason"] == "upstream_connect_failed").await;
        // The same pod again, at the same address.
        n2.session.add(&b.spec.uid(), "b", "b", &b.file()).await.unwrap();
        let mut stream = a.connect(b.at(8080)).await.unwrap();
        assert_eq!(greeting(&mut stream).await.unwrap(), "10.77.0.2");
    });
}

#[test]
fn the_data_plane_itself_cannot_be_dialled() {
    sandbox::run("the_data_plane_itself_cannot_be_dialled", || async {
        let world = World::make(three());
        let (n1, n2) = both(&world).await;
        let (a, b, w) = (world.pod("a"), world.pod("b"), world.pod("w"));
        for to in [a.at(15001), a.at(15006), SocketAddr::from(([127, 0, 0, 1], 15001))] {
            assert_eq!(refused(a, to).await, ErrorKind::ConnectionReset, "{to}");
        }
        n1.record("loop", |r| r["reason"] == "loop").await;
        for port in [15001, 15006] {
            assert_eq!(refused(w, b.at(port)).await, ErrorKind::ConnectionReset, "{port}");
            // Through a tunnel it is the peer that refuses.
            assert_eq!(refused(a, b.at(port)).await, ErrorKind::ConnectionReset, "{port}");
        }
        n2.record("loop", |r| r["reason"] == "loop").await;
        n1.record("bad request", |r| r["reason"] == "peer_bad_request").await;
    });
}

#[test]
fn a_service_at_a_pods_address_makes_nothing_plaintext() {
    sandbox::run("a_service_at_a_pods_address_makes_nothing_plaintext", || async {
        let mut specs = three();
        specs[1].policies = vec!["istio_converted_static_strict"];
        let world = World::make(specs);
        world.control.put(strict());
        let (a, b) = (world.pod("a"), world.pod("b"));
        world.control.put(passthrough_service("mine.example", b.spec.ip, 8080));
        let (n1, _n2) = both(&world).await;
        echo(b, 8080);
        // Told of the workload as well, as one is told of what services have for endpoints.
        let endpoint = service("all.default.svc.cluster.local", Ipv4Addr::new(10, 96, 0, 7), 80, 8080);
        world.control.put(endpoint);
        let mut known = b.spec.clone();
        known.services = vec![("all.default.svc.cluster.local", 80, 8080)];
        world.control.put(known.object());
        let mut stream = a.connect(SocketAddr::from(([10, 96, 0, 7], 80))).await.unwrap();
        greeting(&mut stream).await.unwrap();
        let mut stream = a.connect(b.at(8080)).await.unwrap();
        assert_eq!(greeting(&mut stream).await.unwrap(), "10.77.0.2");
        drop(stream);
        let record = n1.record("record", |r| r["dst_addr"] == "10.77.0.3:8080").await;
        assert_eq!(record["protocol"], "hbone");
    });
}

#[test]
fn a_root_that_is_no_longer_trusted_ends_its_connections() {
    sandbox::run("a_root_that_is_no_longer_trusted_ends_its_connections", || async {
        let world = World::make(three());
        let (_n1, n2) = both(&world).await;
        let (a, b) = (world.pod("a"), world.pod("b"));
        echo(b, 8080);
        let mut stream = a.connect(b.at(8080)).await.unwrap();
        greeting(&mut stream).await.unwrap();
        let second = world.ca.add_root();
        world.ca.set_roots(second, &[second]);
        n2.post("/certificates/renew").await;
        let end = soon("end", stream.read_u8()).await.unwrap_err();
        assert_eq!(end.kind(), ErrorKind::ConnectionReset);
        n2.record("record", |r| r["reason"] == "trust_changed").await;
    });
}

#[test]
fn a_peer_with_another_identity_is_not_spoken_to() {
    sandbox::run("a_peer_with_another_identity_is_not_spoken_to", || async {
        let world = World::make(three());
        let (n1, _n2) = both(&world).await;
        let (a, b) = (world.pod("a"), world.pod("b"));
        echo(b, 8080);
        // Discovery says that another account is behind b's address.
        let mut other = b.spec.clone();
        other.account = "someone-else";
        other.node = "n3";
        world.control.put(other.object());
        assert_eq!(refused(a, b.at(8080)).await, ErrorKind::ConnectionReset);
        n1.record("mismatch", |r| r["reason"] == "identity_mismatch").await;
    });
}

#[test]
fn draining_lets_connections_end_and_then_ends_them() {
    sandbox::run("draining_lets_connections_end_and_then_ends_them", || async {
        let world = World::make(three());
        let _n1 = world.proxy("n1").await;
        let mut n2 = world.proxy_with("n2", &["--drain-timeout-ms", "2000"]).await;
        let (a, b) = (world.pod("a"), world.pod("b"));
        echo(b, 8080);
        let mut short = a.connect(b.at(8080)).await.unwrap();
        greeting(&mut short).await.unwrap();
        let mut long = a.connect(b.at(8080)).await.unwrap();
        greeting(&mut long).await.unwrap();
        n2.terminate();
        short.write_all(b"still carried").await.unwrap();
        short.shutdown().await.unwrap();
        let mut rest = String::new();
        soon("rest", short.read_to_string(&mut rest)).await.unwrap();
        assert_eq!(rest, "still carried");
        let end = soon("end", long.read_u8()).await.unwrap_err();
        assert_eq!(end.kind(), ErrorKind::ConnectionReset);
        let status = tokio::task::spawn_blocking(move || (n2.child.wait().unwrap(), n2)).await.unwrap();
        assert_eq!(status.0.code(), Some(0));
        let reasons: Vec<_> = status.1.records().iter().map(|r| r["reason"].clone()).collect();
        assert_eq!(reasons, [serde_json::Value::Null, "draining".into()]);
    });
}

#[test]
fn bad_messages_of_the_agent_change_nothing() {
    sandbox::run("bad_messages_of_the_agent_change_nothing", || async {
        let world = World::make(three());
        let (n1, _n2) = both(&world).await;
        let (a, b) = (world.pod("a"), world.pod("b"));
        echo(b, 8080);
        let before = n1.get("/config_dump").await["pods"].clone();
        for (what, message) in [("garbage", &b"\xff\xff\xff"[..]), ("empty content", &b"\x0a\x00"[..])] {
            assert!(n1.session.raw(message, &[]).await.is_err(), "{what}");
        }
        assert!(n1.session.raw(&[0; 2000], &[]).await.is_err(), "too long");
        let file: std::os::fd::OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
        let error = n1.session.add("other", "x", "x", &file).await.unwrap_err();
        assert!(error.contains("not a network namespace"), "{error}");
        let error = n1.session.add("other", "x", "x", &a.file()).await.unwrap_err();
        assert!(error.contains("already served"), "{error}");
        let own: std::os::fd::OwnedFd = std::fs::File::open("/proc/self/ns/net").unwrap().into();
        let error = n1.session.add("other", "x", "x", &own).await.unwrap_err();
        assert!(error.contains("own"), "{error}");
        assert_eq!(n1.get("/config_dump").await["pods"], before);
        let mut stream = a.connect(b.at(8080)).await.unwrap();
        assert_eq!(greeting(&mut stream).await.unwrap(), "10.77.0.2");
    });
}
