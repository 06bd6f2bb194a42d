//! A proxy over loopback: clients, the core, and backends that behave or do not.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "each test binary uses its part")]

pub mod backend;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use meltemi_http::authorization::{Caller, Scope};
use meltemi_http::route::Parent;
use meltemi_http::{
    Candidate, Candidates, Cause, Core, Downstream, Exchange, Mirrored, PoolLimits, UpstreamError, Wanted,
    World,
};
use meltemi_types::ServiceKey;
use meltemi_types::meltemi as wire;
use prost::Message;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Generous: a test that waits this long has failed.
pub const DEADLINE: Duration = Duration::from_secs(30);

pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: took too long"),
    }
}

/// One request's record, as far as tests look at it.
#[derive(Debug, Clone)]
pub struct Told {
    pub status: u16,
    pub path: String,
    pub cause: Option<Cause>,
    pub policy: Option<String>,
    pub route: Option<String>,
    pub grpc_status: Option<u16>,
    pub attempts: u32,
    pub bytes: (u64, u64),
    pub endpoint: Option<SocketAddr>,
}

#[derive(Debug)]
pub struct TestWorld {
    services: Mutex<HashMap<String, Arc<Candidates<TestWorld>>>>,
    pub connects: AtomicUsize,
    told: mpsc::UnboundedSender<Told>,
    mirrored: mpsc::UnboundedSender<Mirrored>,
}

#[derive(Debug)]
pub struct Client {
    caller: Caller,
    parent: Parent,
    scopes: Vec<Scope>,
}

impl Downstream for Client {
    fn caller(&self) -> &Caller {
        &self.caller
    }
    fn parent(&self) -> &Parent {
        &self.parent
    }
    fn destination(&self) -> std::net::IpAddr {
        [127, 0, 0, 1].into()
    }
    fn port(&self) -> u16 {
        80
    }
    fn scopes(&self) -> &[Scope] {
        &self.scopes
    }
}

impl World for TestWorld {
    type Downstream = Client;
    type Endpoint = SocketAddr;
    type Key = SocketAddr;
    type Io = TcpStream;

    async fn candidates(
        &self,
        _: &Client,
        wanted: Wanted<'_>,
    ) -> Result<Arc<Candidates<Self>>, UpstreamError> {
        let name = match wanted {
            Wanted::Parent => "shop/cart",
            Wanted::Service { service, .. } => service.as_str(),
        };
        let services = self.services.lock().unwrap();
        let known = services.get(name).filter(|candidates| !candidates.list.is_empty()).cloned();
        known.ok_or_else(|| UpstreamError {
            cause: Cause::NoEndpoint,
            message: format!("{name} has no endpoint"),
            policy: None,
            another: false,
        })
    }

    async fn permit(&self, _: &Client, _: &SocketAddr) -> Result<(), UpstreamError> {
        Ok(())
    }

    async fn connect(&self, endpoint: &SocketAddr) -> Result<TcpStream, UpstreamError> {
        self.connects.fetch_add(1, SeqCst);
        let connected = TcpStream::connect(endpoint).await.and_then(|tcp| {
            tcp.set_nodelay(true)?;
            Ok(tcp)
        });
        connected.map_err(|error| UpstreamError {
            cause: Cause::UpstreamConnectFailed,
            message: error.to_string(),
            policy: None,
            another: true,
        })
    }

    fn reached(&self, _: &SocketAddr, _: bool) {}

    fn mirrored(&self, outcome: Mirrored) {
        let _ = self.mirrored.send(outcome);
    }

    fn finished(&self, exchange: &Exchange<Self>) {
        let _ = self.told.send(Told {
            status: exchange.status,
            path: exchange.path.clone(),
            cause: exchange.cause,
            policy: exchange.policy.as_deref().map(str::to_owned),
            route: exchange.route.as_deref().map(str::to_owned),
            grpc_status: exchange.grpc_status,
            attempts: exchange.attempts,
            bytes: (exchange.request_bytes(), exchange.response_bytes),
            endpoint: exchange.endpoint.as_deref().copied(),
        });
    }
}

/// A running proxy.
pub struct Proxy {
    pub core: Arc<Core<TestWorld>>,
    pub world: Arc<TestWorld>,
    pub address: SocketAddr,
    pub drain: CancellationToken,
    mirrored: tokio::sync::Mutex<mpsc::UnboundedReceiver<Mirrored>>,
    told: tokio::sync::Mutex<mpsc::UnboundedReceiver<Told>>,
}

impl Proxy {
    pub async fn start() -> Self {
        let (told, receiver) = mpsc::unbounded_channel();
        let (mirrored, outcomes) = mpsc::unbounded_channel();
        let world =
            Arc::new(TestWorld { services: Mutex::default(), connects: AtomicUsize::new(0), told, mirrored });
        let core =
            Core::new(world.clone(), PoolLimits::default(), TaskTracker::new(), CancellationToken::new());
        core.policies.synced();
        core.authentication.synced();
        core.routes.synced();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let drain = CancellationToken::new();
        let (serving, draining) = (core.clone(), drain.clone());
        tokio::spawn(async move {
            while let Ok((tcp, peer)) = listener.accept().await {
                let _ = tcp.set_nodelay(true);
                let parent = Parent::Service(ServiceKey::new("shop/cart").unwrap());
                let client = Arc::new(Client {
                    caller: Caller {
                        identity: Some("spiffe://td/ns/web/sa/front".parse().unwrap()),
                        source_ip: peer.ip(),
                        remote_ip: peer.ip(),
                    },
                    parent,
                    scopes: vec![Scope::Waypoint],
                });
                let (core, drain) = (serving.clone(), draining.clone());
                tokio::spawn(async move {
                    let _ = meltemi_http::serve(&core, tcp, client, false, &drain).await;
                });
            }
        });
        let mirrored = tokio::sync::Mutex::new(outcomes);
        Self { core, world, address, drain, mirrored, told: tokio::sync::Mutex::new(receiver) }
    }

    /// Endpoints of a service; true: HTTP/2. Their uids are their addresses.
    pub fn service(&self, name: &str, endpoints: &[(SocketAddr, bool)]) {
        let list = endpoints.iter().map(|(address, _)| Candidate {
            endpoint: Arc::new(*address),
            key: *address,
            uid: address.to_string().into(),
            weight: 1,
            steps: 0,
        });
        let candidates = Candidates {
            service: Some(ServiceKey::new(name).unwrap()),
            slot: 0,
            list: list.collect(),
            http2: endpoints.first().is_some_and(|(_, http2)| *http2),
            sticky: false,
        };
        self.world.services.lock().unwrap().insert(name.into(), Arc::new(candidates));
    }

    /// The policy of shop/cart.
    pub fn traffic(&self, policy: wire::TrafficPolicy) {
        assert_eq!(self.core.traffic.apply([("shop/cart", &*policy.encode_to_vec())], &[]), []);
    }

    pub async fn mirrored(&self) -> Mirrored {
        soon("mirror", async { self.mirrored.lock().await.recv().await }).await.unwrap()
    }

    pub fn route(&self, rules: Vec<wire::HttpRule>) {
        let target = wire::route_parent::Target::Service("shop/cart".into());
        let message = wire::HttpRoute {
            namespace: "shop".into(),
            name: "cart".into(),
            parents: vec![wire::RouteParent { target: Some(target), port: 0 }],
            rules,
            ..Default::default()
        };
        let refused = self.core.routes.apply([("HTTPRoute/shop/cart", &*message.encode_to_vec())], &[]);
        assert_eq!(refused, []);
    }

    /// The next record, whenever it comes.
    pub async fn next(&self) -> Option<Told> {
        self.told.lock().await.recv().await
    }

    pub async fn told(&self) -> Told {
        soon("record", async { self.told.lock().await.recv().await }).await.unwrap()
    }

    /// Sends bytes as they are, and reads until the connection ends.
    pub async fn raw(&self, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        // A reset ends the answer, too.
        let _ = soon("answer", stream.read_to_end(&mut answer)).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// One HTTP/1.1 request on a connection of its own.
    pub async fn get(&self, target: &str, headers: &str) -> String {
        let text = format!("GET {target} HTTP/1.1\r\nhost: cart\r\nconnection: close\r\n{headers}\r\n");
        self.raw(text.as_bytes()).await
    }

    /// One HTTP/2 request with prior knowledge.
    pub async fn h2(&self, request: Request<Full<Bytes>>) -> Response<Incoming> {
        let tcp = TokioIo::new(TcpStream::connect(self.address).await.unwrap());
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), tcp).await.unwrap();
        tokio::spawn(connection);
        soon("response", sender.send_request(request)).await.unwrap()
    }
}

pub fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
}

pub async fn text(body: Incoming) -> String {
    let bytes = soon("body", body.collect()).await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}
