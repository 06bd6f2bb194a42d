#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "each test binary uses its part")]
//! Two proxies without TLS on loopback: what this crate sees of a mesh.
use meltemi_tunnel::{
    Cause, ConnectFailure, ConnectFailureKind, Connector, Incoming, Limits, Meter, OpenRequest, Patience,
    Pool, PoolKey, RelayEnd, TraceParent, TunnelStream, relay_tunnel, serve,
};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Generous: a test that waits this long has failed.
pub const DEADLINE: Duration = Duration::from_secs(30);

pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("{what}: took too long"))
}

pub struct Unmetered;
impl Meter for Unmetered {
    fn forward(&self, _: usize) {}
    fn back(&self, _: usize) {}
}

/// Connects to the far proxy, and counts how often.
pub struct Dialer {
    pub dials: Arc<AtomicUsize>,
}

impl Connector for Dialer {
    type Io = TcpStream;
    type Peer = ();
    async fn connect(&self, key: &PoolKey) -> Result<(TcpStream, ()), ConnectFailure> {
        self.dials.fetch_add(1, Ordering::SeqCst);
        TcpStream::connect(key.address)
            .await
            .map(|io| (io, ()))
            .map_err(|e| ConnectFailure::new(ConnectFailureKind::Connect, e.to_string()))
    }
}

pub struct Mesh {
    pub pool: Pool<Dialer>,
    pub key: PoolKey,
    pub dials: Arc<AtomicUsize>,
    pub drain: CancellationToken,
    pub kill: CancellationToken,
}

impl Mesh {
    pub async fn start(limits: Limits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (drain, kill) = (CancellationToken::new(), CancellationToken::new());
        let server_limits = limits.clone();
        let (server_drain, server_kill) = (drain.clone(), kill.clone());
        tokio::spawn(async move {
            let tasks = TaskTracker::new();
            while let Ok((io, _)) = listener.accept().await {
                io.set_nodelay(true).unwrap();
                let (limits, drain, kill, streams) =
                    (server_limits.clone(), server_drain.clone(), server_kill.clone(), tasks.clone());
                tasks.spawn(async move {
                    let _ = serve(io, &limits, &drain, &kill, &streams, to_application).await;
                });
            }
        });
        let dials = Arc::new(AtomicUsize::new(0));
        let pool = Pool::new(Dialer { dials: dials.clone() }, limits, CancellationToken::new());
        Self { pool, key: key(address), dials, drain, kill }
    }

    pub async fn open(&self, application: SocketAddr) -> TunnelStream {
        soon("open", self.pool.open(&self.key, &request(application))).await.unwrap().0
    }

    /// A client's socket that reaches `application` through the tunnel.
    pub async fn connect(&self, application: SocketAddr) -> TcpStream {
        let (client, proxied) = pair().await;
        let mut stream = self.open(application).await;
        tokio::spawn(async move {
            relay_tunnel(&proxied, &mut stream, &Unmetered, Patience::default()).await;
        });
        client
    }
}

pub fn key(address: SocketAddr) -> PoolKey {
    PoolKey {
        source: "spiffe://td/ns/default/sa/a".into(),
        source_ip: "127.0.0.1".parse().unwrap(),
        destinations: vec!["spiffe://td/ns/default/sa/b".into()].into(),
        address,
        workload: "b-1".into(),
    }
}

pub fn request(application: SocketAddr) -> OpenRequest {
    OpenRequest {
        authority: application.to_string(),
        baggage: None,
        forwarded: None,
        trace: TraceParent::new(),
    }
}

/// Address of an application that never answers (TEST-NET-1).
pub const SILENT: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)), 9);

async fn to_application(mut incoming: Incoming) {
    let address = incoming.parts.uri.authority().unwrap().to_string();
    if address == SILENT.to_string() {
        incoming.abandoned().await;
        return;
    }
    let Ok(tcp) = TcpStream::connect(address).await else {
        incoming.refuse(http::StatusCode::SERVICE_UNAVAILABLE, None);
        return;
    };
    let mut stream = incoming.accept().unwrap();
    relay_tunnel(&tcp, &mut stream, &Unmetered, Patience::default()).await;
}

/// Two connected sockets.
pub async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (client, accepted) =
        tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (client.unwrap(), accepted.unwrap().0)
}

/// An application that listens; each accepted socket is given to `serve`.
pub async fn application<F, Fut>(serve: F) -> SocketAddr
where
    F: Fn(TcpStream) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(serve(socket));
        }
    });
    address
}

pub fn reset_cause(end: &RelayEnd) -> Option<&Cause> {
    match end {
        RelayEnd::Finished | RelayEnd::Overloaded | RelayEnd::Quiet(_) => None,
        RelayEnd::FirstReset(cause) | RelayEnd::SecondReset(cause) => Some(cause),
    }
}
