//! Destinations that are reached only through a waypoint. The waypoint is the test's own: it ends tunnels to it
//! and opens others.
#![allow(clippy::unwrap_used, reason = "a test")]
mod support;
use http::{HeaderMap, HeaderValue, StatusCode};
use meltemi_identity::testing::{FixedJitter, TokioClock};
use meltemi_identity::{Alpn, CertificateStore, Served, StoreOptions, peer_identity, server_name};
use meltemi_telemetry::Metrics;
use meltemi_tunnel::{
    ClientTunnel, Incoming, Limits, Meter, OpenError, OpenRequest, Patience, TraceParent, relay_tunnel, serve,
};
use meltemi_types::Identity;
use meltemi_types::workload::gateway_address::Destination;
use meltemi_types::workload::{NamespacedHostname, NetworkAddress};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use support::objects::{PodSpec, allow_account, behind, in_namespace, listed_by, service};
use support::world::{Pod, World};
use support::{DEADLINE, sandbox, soon};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 7);
const HOST: &str = "b.default.svc.cluster.local";

fn spec(name: &'static str, last: u8, node: &'static str) -> PodSpec {
    let ip = Ipv4Addr::new(10, 77, 0, last);
    PodSpec { name, ip, account: name, node, hbone: true, services: Vec::new(), policies: Vec::new() }
}

/// `a` on n1; `b` on n2, where only `a` is let in; the waypoint `w`, which is nobody's node.
fn world() -> World {
    let mut b = spec("b", 3, "n2");
    b.policies = vec!["only-a"];
    b.services = vec![(HOST, 80, 8080)];
    let w = PodSpec {
        hbone: false,
        services: vec![("w.default.svc.cluster.local", 15008, 15008)],
        ..spec("w", 4, "n3")
    };
    let world = World::make(vec![spec("a", 2, "n1"), b, w]);
    world.control.put(allow_account("only-a", "a"));
    world
}

fn at_address() -> Destination {
    let address = Ipv4Addr::new(10, 77, 0, 4).octets().to_vec().into();
    Destination::Address(NetworkAddress { network: String::new(), address, length: None })
}

struct Unmetered;
impl Meter for Unmetered {
    fn forward(&self, _: usize) {}
    fn back(&self, _: usize) {}
}

/// What came to the waypoint: who asked, for what, and on whose behalf.
#[derive(Debug, PartialEq)]
struct Asked {
    by: String,
    authority: String,
    service: Option<String>,
}

/// A waypoint with some account's certificate.
struct Waypoint {
    pod: Pod,
    to: Pod,
    identity: Identity,
    store: Arc<CertificateStore>,
    asked: mpsc::UnboundedSender<Asked>,
    _served: Served,
}

/// Certificates of an account.
fn identity_of(world: &World, account: &str) -> (Arc<CertificateStore>, Identity, Served) {
    let options = StoreOptions {
        trust_domain: "cluster.local".into(),
        trust_domain_aliases: Vec::new(),
        concurrent_requests: 1,
        clock: TokioClock::start(),
        jitter: Arc::new(FixedJitter(0.5)),
    };
    let store = CertificateStore::new(options, world.ca.clone(), Metrics::new("waypoint", "test"));
    let identity = Identity::new("cluster.local", "default", account).unwrap();
    let served = store.serve(&identity);
    (store, identity, served)
}

impl Waypoint {
    fn start(world: &World, account: &str) -> mpsc::UnboundedReceiver<Asked> {
        let (store, identity, _served) = identity_of(world, account);
        let (asked, seen) = mpsc::unbounded_channel();
        let (pod, to) = (world.pod("w").clone(), world.pod("b").clone());
        let listener = pod.listen(15008);
        let waypoint = Arc::new(Self { pod, to, identity, store, asked, _served });
        tokio::spawn(waypoint.accept(listener));
        seen
    }

    async fn accept(self: Arc<Self>, listener: TcpListener) {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(self.clone().tunnel(tcp));
        }
    }

    async fn tunnel(self: Arc<Self>, tcp: TcpStream) {
        let config = self.store.server_config(&self.identity, &Alpn::new(&["h2"]), DEADLINE).await.unwrap();
        // A caller that does not like the certificate leaves here.
        let Ok(tls) = TlsAcceptor::from(config).accept(tcp).await else { return };
        let chain = tls.get_ref().1.peer_certificates().unwrap();
        let by = peer_identity(chain).unwrap().to_string();
        let (token, tasks) = (CancellationToken::new(), TaskTracker::new());
        let handle = |incoming| self.clone().pass_on(by.clone(), incoming);
        let _ = serve(tls, &Limits::default(), &token, &token, &tasks, handle).await;
    }

    /// Opens a second tunnel, as itself, to where the first one wants to.
    async fn pass_on(self: Arc<Self>, by: String, incoming: Incoming) {
        let authority = incoming.parts.uri.authority().unwrap().to_string();
        let service = meltemi_tunnel::parse_forwarded_host(&incoming.parts.headers);
        let caller = by.clone();
        self.asked.send(Asked { by, authority: authority.clone(), service }).unwrap();
        let target = match authority.strip_prefix(&VIP.to_string()) {
            Some(_) => self.to.at(8080),
            None => authority.parse::<SocketAddr>().unwrap(),
        };
        let tcp = self.pod.connect(self.to.at(15008)).await.unwrap();
        let expected = [self.to.identity()];
        let alpn = Alpn::new(&["h2"]);
        let config = self.store.client_config(&self.identity, &expected, &alpn, DEADLINE);
        let connecting = TlsConnector::from(config.await.unwrap()).connect(server_name(), tcp);
        let (tunnel, driver) =
            ClientTunnel::begin(connecting.await.unwrap(), Limits::default()).await.unwrap();
        tokio::spawn(driver);
        let request = OpenRequest {
            authority: target.to_string(),
            baggage: None,
            forwarded: None,
            trace: TraceParent::new(),
        };
        let mut further = HeaderMap::new();
        further.insert("x-istio-source", HeaderValue::from_static("waypoint"));
        further.insert("x-meltemi-caller", HeaderValue::from_str(&caller).unwrap());
        // Refused once the destination no longer has this waypoint: the caller hears of it.
        let opened = tunnel.open_with(&request, &further, &Limits::default()).await;
        let Ok(mut second) = opened else { return incoming.refuse(StatusCode::UNAUTHORIZED, None) };
        let mut first = incoming.accept().unwrap();
        // Between the two, a socket pair stands for what a waypoint does with the bytes.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (one, other) =
            tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let (one, other) = (one.unwrap(), other.unwrap().0);
        tokio::join!(
            relay_tunnel(&one, &mut first, &Unmetered, Patience::default()),
            relay_tunnel(&other, &mut second, &Unmetered, Patience::default()),
        );
    }
}

fn echo(pod: &Pod) {
    let listener = pod.listen(8080);
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = socket.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
}

async fn echoes(from: &Pod, to: SocketAddr) -> std::io::Result<()> {
    let mut stream = from.connect(to).await?;
    stream.write_all(b"ping").await?;
    let mut answer = [0; 4];
    soon("echo", stream.read_exact(&mut answer)).await?;
    assert_eq!(&answer, b"ping");
    Ok(())
}

#[test]
fn a_workload_is_reached_through_its_waypoint() {
    sandbox::run("a_workload_is_reached_through_its_waypoint", || async {
        let world = world();
        let (a, b) = (world.pod("a"), world.pod("b"));
        world.control.put(behind(b.spec.object(), at_address()));
        let (n1, n2) = (world.proxy("n1").await, world.proxy("n2").await);
        echo(b);
        let mut asked = Waypoint::start(&world, "w");
        echoes(a, b.at(8080)).await.unwrap();
        let by = a.identity().to_string();
        let expected = Asked { by, authority: b.at(8080).to_string(), service: None };
        assert_eq!(soon("request", asked.recv()).await.unwrap(), expected);
        let record = n1.record("record", |r| r["dst_addr"] == "10.77.0.3:8080").await;
        assert_eq!(record["protocol"], "hbone");
        assert_eq!(record["dst_workload"], "w");
        let record = n2.record("record", |r| r["direction"] == "inbound").await;
        assert_eq!(record["src_identity"], "spiffe://cluster.local/ns/default/sa/a", "judged as the caller");
    });
}

/// A tunnel of a pod's own to `b`, which claims to speak for `a`.
async fn claim(world: &World, account: &str) -> Result<(), OpenError> {
    let (w, b) = (world.pod("w"), world.pod("b"));
    let (store, identity, _served) = identity_of(world, account);
    let (expected, alpn) = ([b.identity()], Alpn::new(&["h2"]));
    let config = store.client_config(&identity, &expected, &alpn, DEADLINE);
    let tcp = w.connect(b.at(15008)).await.unwrap();
    let tls = TlsConnector::from(config.await.unwrap()).connect(server_name(), tcp).await.unwrap();
    let (tunnel, driver) = ClientTunnel::begin(tls, Limits::default()).await.unwrap();
    tokio::spawn(driver);
    let request = OpenRequest {
        authority: b.at(8080).to_string(),
        baggage: None,
        forwarded: Some(HeaderValue::from_static("for=\"10.77.0.2:4000\"")),
        trace: TraceParent::new(),
    };
    let mut further = HeaderMap::new();
    further.insert("x-istio-source", HeaderValue::from_static("waypoint"));
    further.insert("x-meltemi-caller", HeaderValue::from_static("spiffe://cluster.local/ns/default/sa/a"));
    soon("answer", tunnel.open_with(&request, &further, &Limits::default())).await.map(drop)
}

#[test]
fn only_a_pods_own_waypoint_speaks_for_others() {
    sandbox::run("only_a_pods_own_waypoint_speaks_for_others", || async {
        let world = world();
        let b = world.pod("b");
        let n2 = world.proxy("n2").await;
        echo(b);
        // Without a waypoint nobody speaks for others: the claim is nothing, and d is not a.
        assert!(matches!(claim(&world, "d").await, Err(OpenError::Refused { .. })));
        n2.record("refusal", |r| {
            r["reason"] == "policy_denied" && r["src_identity"] == "spiffe://cluster.local/ns/default/sa/d"
        })
        .await;
        world.control.put(behind(b.spec.object(), at_address()));
        soon("the waypoint", async { while claim(&world, "w").await.is_err() {} }).await;
        // Its caller's address is what the waypoint says.
        n2.record("record", |r| r["src_addr"] == "10.77.0.2:4000").await;
        // Not even who is let in comes around it, in whatever words.
        assert!(matches!(claim(&world, "a").await, Err(OpenError::Refused { .. })));
        n2.record("refusal", |r| r["reason"] == "waypoint_bypassed").await;
    });
}

#[test]
fn a_service_of_another_namespace_does_not_say_who_speaks_for_a_pods_callers() {
    sandbox::run("a_service_of_another_namespace_does_not_say_who_speaks_for_a_pods_callers", || async {
        let world = world();
        let b = world.pod("b");
        echo(b);
        // Whoever may write EndpointSlices somewhere can list the address of anybody's pod.
        let theirs = service("x.evil.svc.cluster.local", Ipv4Addr::new(10, 96, 0, 9), 80, 8080);
        world.control.put(in_namespace("evil", behind(theirs, at_address())));
        world.control.put(listed_by("evil/x.evil.svc.cluster.local", 80, 8080, b.spec.object()));
        let n2 = world.proxy("n2").await;
        assert!(matches!(claim(&world, "w").await, Err(OpenError::Refused { .. })));
        n2.record("refusal", |r| {
            r["reason"] == "policy_denied" && r["src_identity"] == "spiffe://cluster.local/ns/default/sa/w"
        })
        .await;
        // The pod's own service does.
        world.control.put(behind(service(HOST, VIP, 80, 8080), at_address()));
        soon("the waypoint", async { while claim(&world, "w").await.is_err() {} }).await;
    });
}

#[test]
fn a_service_is_reached_through_a_waypoint_that_has_a_name() {
    sandbox::run("a_service_is_reached_through_a_waypoint_that_has_a_name", || async {
        let world = world();
        let (a, b) = (world.pod("a"), world.pod("b"));
        let name = |hostname: &str| {
            Destination::Hostname(NamespacedHostname {
                namespace: "default".into(),
                hostname: hostname.into(),
            })
        };
        let gateway = service("w.default.svc.cluster.local", Ipv4Addr::new(10, 96, 0, 8), 15008, 15008);
        world.control.put(gateway);
        world.control.put(behind(service(HOST, VIP, 80, 8080), name("w.default.svc.cluster.local")));
        let (_n1, _n2) = (world.proxy("n1").await, world.proxy("n2").await);
        echo(b);
        let mut asked = Waypoint::start(&world, "w");
        echoes(a, SocketAddr::from((VIP, 80))).await.unwrap();
        let asked = soon("request", asked.recv()).await.unwrap();
        assert_eq!(asked.authority, format!("{VIP}:80"), "the waypoint chooses the endpoint");
        assert_eq!(asked.service.as_deref(), Some(HOST));
        // One that does not exist is not gone around.
        world.control.put(behind(service(HOST, VIP, 80, 8080), name("gone.default.svc.cluster.local")));
        soon("refusal", async { while echoes(a, SocketAddr::from((VIP, 80))).await.is_ok() {} }).await;
    });
}

#[test]
fn a_waypoint_that_cannot_be_had_or_is_another_is_not_gone_around() {
    sandbox::run("a_waypoint_that_cannot_be_had_or_is_another_is_not_gone_around", || async {
        let world = world();
        let (a, b) = (world.pod("a"), world.pod("b"));
        world.control.put(behind(b.spec.object(), at_address()));
        let (n1, _n2) = (world.proxy("n1").await, world.proxy("n2").await);
        let application = b.listen(8080);
        assert!(echoes(a, b.at(8080)).await.is_err());
        n1.record("record", |r| r["reason"] == "upstream_connect_failed").await;
        let mut asked = Waypoint::start(&world, "impostor");
        soon("refusal", async {
            loop {
                assert!(echoes(a, b.at(8080)).await.is_err());
                if n1.records().iter().any(|r| r["reason"] == "identity_mismatch") {
                    return;
                }
            }
        })
        .await;
        assert!(asked.try_recv().is_err(), "the impostor was spoken to");
        assert!(futures::poll!(Box::pin(application.accept())).is_pending(), "it was gone around");
    });
}
