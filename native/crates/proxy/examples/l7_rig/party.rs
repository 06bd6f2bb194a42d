//! Callers' and endpoints' ends: tunnels as nodes make them, and mutual TLS as an Envoy has it.
use super::answer;
use http::HeaderValue;
use meltemi_identity::testing::{FixedJitter, TestCa, TokioClock};
use meltemi_identity::{Alpn, CertificateStore, Served, StoreOptions, server_name};
use meltemi_telemetry::Metrics;
use meltemi_tunnel::{ClientTunnel, Incoming, Limits, OpenRequest, TraceParent, TunnelIo, forwarded};
use meltemi_types::Identity;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::support::DEADLINE;

fn identity(account: &str) -> Identity {
    Identity::new("cluster.local", "default", account).unwrap()
}

/// An identity with its certificate.
pub(crate) struct Party {
    ca: Arc<TestCa>,
    identity: Identity,
    store: Arc<CertificateStore>,
    _served: Served,
}

impl Party {
    pub(crate) fn new(ca: &Arc<TestCa>, account: &str) -> Self {
        let options = StoreOptions {
            trust_domain: "cluster.local".into(),
            trust_domain_aliases: vec![],
            concurrent_requests: 1,
            clock: TokioClock::start(),
            jitter: Arc::new(FixedJitter(1.0)),
        };
        let store = CertificateStore::new(options, ca.clone(), Metrics::new("bench", "0"));
        let identity = identity(account);
        let served = store.serve(&identity);
        Self { ca: ca.clone(), identity, store, _served: served }
    }

    /// Key, chain and roots for an Envoy that passes for the waypoint (`wp`).
    pub(crate) async fn write_pem(&self, directory: &Path) {
        let key = rcgen::KeyPair::generate().unwrap();
        let uri = identity("wp").uri().to_owned().try_into().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.subject_alt_names = vec![rcgen::SanType::URI(uri)];
        let csr = params.serialize_request(&key).unwrap().pem().unwrap();
        let mut chain = self.ca.sign(&identity("wp"), &csr).await.unwrap();
        let roots = chain.pop().unwrap();
        std::fs::write(directory.join("chain.pem"), chain.concat()).unwrap();
        std::fs::write(directory.join("key.pem"), key.serialize_pem()).unwrap();
        std::fs::write(directory.join("root.pem"), roots).unwrap();
    }

    /// Mutual TLS with who has `expected`'s identity.
    async fn connect(&self, to: SocketAddr, expected: &str, alpn: &[&'static str]) -> TlsStream<TcpStream> {
        let alpn = Alpn::new(alpn);
        let expected = [identity(expected)];
        let config = self.store.client_config(&self.identity, &expected, &alpn, DEADLINE).await.unwrap();
        let tcp = TcpStream::connect(to).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        TlsConnector::from(config).connect(server_name(), tcp).await.unwrap()
    }

    /// A connection of its own to an Envoy (`wp`), or to the backend (`web`), whose port is never 15008.
    pub(crate) async fn tls(&self, to: SocketAddr) -> TlsStream<TcpStream> {
        let alpn = Alpn::new(&[]);
        let expected = [identity("wp"), identity("web")];
        let config = self.store.client_config(&self.identity, &expected, &alpn, DEADLINE).await.unwrap();
        let tcp = TcpStream::connect(to).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        TlsConnector::from(config).connect(server_name(), tcp).await.unwrap()
    }

    pub(crate) async fn tunnel(&self, waypoint: SocketAddr) -> ClientTunnel {
        let tls = self.connect(waypoint, "wp", &["h2"]).await;
        let (tunnel, driver) = ClientTunnel::begin(tls, Limits::default()).await.unwrap();
        tokio::spawn(driver);
        tunnel
    }
}

/// Connections of one caller's node to one destination, spread over tunnels.
#[derive(Clone)]
pub(crate) struct Callers {
    tunnels: Arc<[ClientTunnel]>,
    next: Arc<AtomicUsize>,
    authority: Arc<str>,
}

impl Callers {
    pub(crate) fn new(tunnels: Vec<ClientTunnel>, authority: String) -> Self {
        Self { tunnels: tunnels.into(), next: Arc::default(), authority: authority.into() }
    }

    pub(crate) async fn open(&self) -> TunnelIo {
        let tunnel = &self.tunnels[self.next.fetch_add(1, Relaxed) % self.tunnels.len()];
        let request = OpenRequest {
            authority: self.authority.to_string(),
            baggage: Some(HeaderValue::from_static("k8s.namespace.name=default,k8s.deployment.name=caller")),
            forwarded: forwarded(SocketAddr::from(([127, 0, 0, 1], 4711)), None),
            trace: TraceParent::new(),
        };
        tunnel.open(&request, &Limits::default()).await.unwrap().into()
    }
}

/// The endpoint's node: ends tunnels, and answers in its place.
pub(crate) async fn endpoint(party: Arc<Party>, listener: TcpListener) {
    while let Ok((tcp, _)) = listener.accept().await {
        tcp.set_nodelay(true).unwrap();
        let party = party.clone();
        tokio::spawn(async move {
            let config =
                party.store.server_config(&party.identity, &Alpn::new(&["h2"]), DEADLINE).await.unwrap();
            let Ok(tls) = TlsAcceptor::from(config).accept(tcp).await else { return };
            let (token, tasks) = (CancellationToken::new(), TaskTracker::new());
            let handle = |incoming: Incoming| async move {
                if let Ok(stream) = incoming.accept() {
                    answer::serve(TunnelIo::from(stream)).await;
                }
            };
            let _ = meltemi_tunnel::serve(tls, &Limits::default(), &token, &token, &tasks, handle).await;
        });
    }
}

/// The same behind mutual TLS.
pub(crate) async fn endpoint_tls(party: Arc<Party>, listener: TcpListener) {
    while let Ok((tcp, _)) = listener.accept().await {
        tcp.set_nodelay(true).unwrap();
        let party = party.clone();
        tokio::spawn(async move {
            let config = party.store.server_config(&party.identity, &Alpn::new(&[]), DEADLINE).await.unwrap();
            if let Ok(tls) = TlsAcceptor::from(config).accept(tcp).await {
                answer::serve(tls).await;
            }
        });
    }
}
