//! What a peer can try at a pod's tunnel port, and what comes of it.
#![allow(clippy::unwrap_used, reason = "a test")]
mod support;
use meltemi_identity::testing::{FixedJitter, TestCa, TokioClock};
use meltemi_identity::{Alpn, CertificateStore, Served, StoreOptions, server_name};
use meltemi_telemetry::Metrics;
use meltemi_tunnel::{ClientTunnel, Limits, OpenError, OpenRequest, TraceParent};
use meltemi_types::Identity;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use support::objects::{PodSpec, allow_account};
use support::world::{Pod, World};
use support::{DEADLINE, sandbox, soon};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

fn spec(name: &'static str, last: u8, hbone: bool, policies: Vec<&'static str>) -> PodSpec {
    let ip = Ipv4Addr::new(10, 77, 0, last);
    PodSpec { name, ip, account: name, node: "n1", hbone, services: Vec::new(), policies }
}

/// A peer outside the mesh's nodes with whatever certificate a CA gives it.
struct Peer {
    store: Arc<CertificateStore>,
    identity: Identity,
    _served: Served,
}

impl Peer {
    fn new(ca: &Arc<TestCa>, trust_domain: &str, account: &str) -> Self {
        let options = StoreOptions {
            trust_domain: trust_domain.into(),
            trust_domain_aliases: vec!["cluster.local".into()],
            concurrent_requests: 1,
            clock: TokioClock::start(),
            jitter: Arc::new(FixedJitter(0.5)),
        };
        let store = CertificateStore::new(options, ca.clone(), Metrics::new("peer", "test"));
        let identity = Identity::new(trust_domain, "default", account).unwrap();
        let _served = store.serve(&identity);
        Self { store, identity, _served }
    }

    async fn tls(&self, tcp: TcpStream, server: &Identity) -> std::io::Result<TlsStream<TcpStream>> {
        let (expected, alpn) = ([server.clone()], Alpn::new(&["h2"]));
        let config = self.store.client_config(&self.identity, &expected, &alpn, DEADLINE);
        let mut tls = TlsConnector::from(config.await.unwrap()).connect(server_name(), tcp).await?;
        // The server judges the client's certificate after the client is done: its answer tells.
        tls.flush().await?;
        Ok(tls)
    }

    async fn tunnel(&self, from: &Pod, to: &Pod) -> ClientTunnel {
        let tcp = from.connect(to.at(15008)).await.unwrap();
        let tls = soon("handshake", self.tls(tcp, &to.identity())).await.unwrap();
        let (tunnel, driver) = ClientTunnel::begin(tls, Limits::default()).await.unwrap();
        tokio::spawn(driver);
        tunnel
    }
}

async fn connect(tunnel: &ClientTunnel, authority: impl ToString) -> Result<(), OpenError> {
    let request = OpenRequest {
        authority: authority.to_string(),
        baggage: None,
        forwarded: None,
        trace: TraceParent::new(),
    };
    soon("answer", tunnel.open(&request, &Limits::default())).await.map(drop)
}

fn refusal(result: Result<(), OpenError>) -> (u16, String) {
    match result.expect_err("was carried") {
        OpenError::Refused { status, refusal } => {
            (status.as_u16(), refusal.map(|r| r.to_string()).unwrap_or_default())
        }
        other => panic!("no answer: {other}"),
    }
}

#[test]
fn a_tunnel_leads_only_to_its_own_pod() {
    sandbox::run("a_tunnel_leads_only_to_its_own_pod", || async {
        let world = World::make(vec![spec("b", 3, true, vec!["only-c"]), spec("w", 4, false, Vec::new())]);
        world.control.put(allow_account("only-c", "c"));
        let n1 = world.proxy("n1").await;
        let (b, w) = (world.pod("b"), world.pod("w"));
        let _application = b.listen(8080);
        let _victim = w.listen(8080);
        let friend = Peer::new(&world.ca, "cluster.local", "c").tunnel(w, b).await;
        connect(&friend, b.at(8080)).await.unwrap();
        let foreign: [SocketAddr; 3] = [w.at(8080), SocketAddr::from(([127, 0, 0, 1], 8080)), b.at(0)];
        for target in foreign.into_iter().chain([b.at(15001), b.at(15006), b.at(15008)]) {
            assert_eq!(refusal(connect(&friend, target).await).0, 400, "{target}");
        }
        assert_eq!(refusal(connect(&friend, "b.default.svc.cluster.local:8080").await).0, 400);
        // Nobody listens there.
        assert_eq!(refusal(connect(&friend, b.at(9999)).await).0, 503);
        let stranger = Peer::new(&world.ca, "cluster.local", "d").tunnel(w, b).await;
        assert_eq!(
            refusal(connect(&stranger, b.at(8080)).await),
            (401, "policy_denied; policy=default/only-c".to_owned())
        );
        n1.record("refusal", |r| {
            r["reason"] == "policy_denied" && r["src_identity"] == "spiffe://cluster.local/ns/default/sa/d"
        })
        .await;
        // The refusals harmed nothing.
        connect(&friend, b.at(8080)).await.unwrap();
    });
}

#[test]
fn a_tunnel_opened_under_an_old_root_carries_nothing_new() {
    sandbox::run("a_tunnel_opened_under_an_old_root_carries_nothing_new", || async {
        let late = PodSpec { node: "n2", ..spec("c", 5, true, Vec::new()) };
        let world = World::make(vec![spec("b", 3, true, Vec::new()), late, spec("w", 4, false, Vec::new())]);
        let n1 = world.proxy("n1").await;
        let (b, c, w) = (world.pod("b"), world.pod("c"), world.pod("w"));
        let _application = b.listen(8080);
        let tunnel = Peer::new(&world.ca, "cluster.local", "d").tunnel(w, b).await;
        connect(&tunnel, b.at(8080)).await.unwrap();
        // Another identity's certificate brings the news; b's own is not replaced.
        let second = world.ca.add_root();
        world.ca.set_roots(second, &[second]);
        n1.session.add(&c.spec.uid(), "c", "c", &c.file()).await.unwrap();
        soon("certificate", async {
            while n1
                .get("/certificates")
                .await
                .as_array()
                .unwrap()
                .iter()
                .filter(|c| c["state"] == "valid")
                .count()
                < 2
            {
                tokio::task::yield_now().await;
            }
        })
        .await;
        assert_eq!(refusal(connect(&tunnel, b.at(8080)).await), (401, "trust_changed".to_owned()));
        n1.record("refusal", |r| r["reason"] == "trust_changed").await;
    });
}

#[test]
fn headers_forge_no_address() {
    sandbox::run("headers_forge_no_address", || async {
        let world = World::make(vec![spec("b", 3, true, Vec::new()), spec("w", 4, false, Vec::new())]);
        let n1 = world.proxy("n1").await;
        let (b, w) = (world.pod("b"), world.pod("w"));
        let application = b.listen(8080);
        let tunnel = Peer::new(&world.ca, "cluster.local", "d").tunnel(w, b).await;
        for (client, port) in [("10.77.0.99:4000", None), ("10.77.0.4:4000", Some(4000)), ("garbage", None)] {
            let request = OpenRequest {
                authority: b.at(8080).to_string(),
                baggage: None,
                forwarded: Some(http::HeaderValue::from_str(&format!("for=\"{client}\"")).unwrap()),
                trace: TraceParent::new(),
            };
            let stream = soon("answer", tunnel.open(&request, &Limits::default())).await.unwrap();
            let (_, seen) = soon("accept", application.accept()).await.unwrap();
            assert_eq!(seen.ip(), w.spec.ip, "{client}");
            let before = n1.records().len();
            drop(stream);
            soon("record", async {
                while n1.records().len() == before {
                    tokio::task::yield_now().await;
                }
            })
            .await;
            let recorded: SocketAddr = n1.records()[before]["src_addr"].as_str().unwrap().parse().unwrap();
            assert_eq!(recorded.ip(), w.spec.ip, "{client}");
            assert!(
                port.is_none_or(|port| recorded.port() == port)
                    && (port.is_some() || recorded.port() != 4000)
            );
        }
    });
}

#[test]
fn without_descriptors_connections_wait_and_then_pass() {
    sandbox::run("without_descriptors_connections_wait_and_then_pass", || async {
        let world = World::make(vec![spec("b", 3, true, Vec::new()), spec("w", 4, false, Vec::new())]);
        let n1 = world.proxy("n1").await;
        let (b, w) = (world.pod("b"), world.pod("w"));
        let application = b.listen(8080);
        tokio::spawn(async move {
            let mut kept = Vec::new();
            while let Ok((mut socket, _)) = application.accept().await {
                let _ = socket.write_all(b"k").await;
                kept.push(socket);
            }
        });
        sandbox::shell(&format!("prlimit --pid {} --nofile=80:80", n1.child.id()));
        let mut first = w.connect(b.at(8080)).await.unwrap();
        // Some are carried, the others wait to be accepted or are refused: a reset may already be
        // there when connect() looks.
        let mut held = Vec::new();
        for _ in 0..200 {
            held.extend(w.connect(b.at(8080)).await.ok());
        }
        assert_eq!(soon("byte", first.read_u8()).await.unwrap(), b'k');
        soon("scarcity", async {
            while std::fs::read_dir(format!("/proc/{}/fd", n1.child.id())).unwrap().count() < 79 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        drop((held, first));
        soon("recovery", async {
            loop {
                if let Ok(mut stream) = w.connect(b.at(8080)).await
                    && stream.read_u8().await.is_ok()
                {
                    return;
                }
            }
        })
        .await;
        let metrics = n1.get("/metrics").await.as_str().unwrap().to_owned();
        let failures =
            metrics.lines().find(|line| line.starts_with("meltemi_accept_failures_total ")).unwrap();
        assert!(!failures.ends_with(" 0"), "{failures}");
    });
}

#[test]
fn other_trust_domains_and_other_roots_are_refused() {
    sandbox::run("other_trust_domains_and_other_roots_are_refused", || async {
        let world = World::make(vec![spec("b", 3, true, Vec::new()), spec("w", 4, false, Vec::new())]);
        let n1 = world.proxy("n1").await;
        let (b, w) = (world.pod("b"), world.pod("w"));
        let _application = b.listen(8080);
        // A certificate of our own roots for another trust domain, then one of other roots for ours.
        let foreign = Peer::new(&world.ca, "elsewhere.example", "c");
        let tcp = w.connect(b.at(15008)).await.unwrap();
        let ended = async {
            let mut tls = foreign.tls(tcp, &b.identity()).await?;
            tls.read_u8().await
        };
        assert!(soon("end", ended).await.is_err(), "another trust domain was let in");
        let other_ca = TestCa::new(TokioClock::start(), Duration::from_secs(3600));
        let other = Peer::new(&other_ca, "cluster.local", "c");
        let tcp = w.connect(b.at(15008)).await.unwrap();
        assert!(soon("end", other.tls(tcp, &b.identity())).await.is_err(), "other roots were let in");
        let failures = soon("metric", async {
            loop {
                let metrics = n1.get("/metrics").await.as_str().unwrap().to_owned();
                if metrics.contains("reason=\"foreign_trust_domain\"") {
                    return metrics;
                }
                tokio::task::yield_now().await;
            }
        })
        .await;
        assert!(failures.contains("meltemi_handshake_failures_total"));
    });
}

#[test]
fn handshakes_that_never_finish_keep_nobody_out() {
    sandbox::run("handshakes_that_never_finish_keep_nobody_out", || async {
        let world = World::make(vec![
            spec("b", 3, true, Vec::new()),
            spec("c", 5, true, Vec::new()),
            spec("w", 4, false, Vec::new()),
        ]);
        let n1 = world.proxy_with("n1", &["--handshake-timeout-ms", "1000"]).await;
        let (b, c, w) = (world.pod("b"), world.pod("c"), world.pod("w"));
        let application = b.listen(8080);
        let mut silent = Vec::new();
        for _ in 0..300 {
            // Past the bound for one source they are reset, some before connect returns.
            silent.extend(w.connect(b.at(15008)).await.ok());
        }
        let mut stream = c.connect(b.at(8080)).await.unwrap();
        let (mut accepted, _) = soon("accept", application.accept()).await.unwrap();
        accepted.write_all(b"k").await.unwrap();
        assert_eq!(soon("byte", stream.read_u8()).await.unwrap(), b'k');
        assert!(silent.len() >= 128, "only {} were admitted", silent.len());
        for mut connection in silent {
            assert!(soon("end", connection.read_u8()).await.is_err());
        }
        let metrics = n1.get("/metrics").await.as_str().unwrap().to_owned();
        for reason in ["timeout", "too_many"] {
            assert!(metrics.contains(&format!("reason=\"{reason}\"")), "{reason} is not counted");
        }
    });
}
