//! Tunnels kept for reuse, one pool per pod of this node.
//!
//! A tunnel serves exactly one key: who connects, as whom, to which workload at which address. A pod
//! that comes back under a recycled address has another uid and never meets an old tunnel.
use crate::stream::Slot;
use crate::{ClientTunnel, ConnectFailure, ConnectFailureKind, Limits, OpenError, OpenRequest, TunnelStream};
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use http::HeaderMap;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What a tunnel is bound to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PoolKey {
    /// Identity shown to the peer.
    pub source: Arc<str>,
    /// Address the tunnel comes from: the pod's own.
    pub source_ip: IpAddr,
    /// Identities of which the peer must prove one.
    pub destinations: Arc<[Arc<str>]>,
    pub address: SocketAddr,
    /// The destination workload, so that its end is the tunnel's end.
    pub workload: Arc<str>,
}

/// Makes the encrypted stream that a tunnel runs on, and checks the peer.
pub trait Connector: Send + Sync + 'static {
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    /// What is known of the peer, kept with the tunnel.
    type Peer: Clone + Send + Sync + 'static;

    /// Connects and proves both identities. Bounded in time by the implementation.
    fn connect(
        &self,
        key: &PoolKey,
    ) -> impl Future<Output = Result<(Self::Io, Self::Peer), ConnectFailure>> + Send;
}

type Connecting = Shared<BoxFuture<'static, Result<(), ConnectFailure>>>;

struct Entry<P> {
    tunnels: Vec<(ClientTunnel, P)>,
    connecting: Option<Connecting>,
}

impl<P> Default for Entry<P> {
    fn default() -> Self {
        Self { tunnels: Vec::new(), connecting: None }
    }
}

/// The tunnels of one pod.
pub struct Pool<C: Connector>(Arc<Inner<C>>);

impl<C: Connector> std::fmt::Debug for Pool<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("tunnels", &self.len()).finish_non_exhaustive()
    }
}

impl<C: Connector> Clone for Pool<C> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

struct Inner<C: Connector> {
    connector: C,
    limits: Limits,
    entries: Mutex<HashMap<PoolKey, Entry<C::Peer>>>,
    tasks: TaskTracker,
    closed: CancellationToken,
    /// How often tunnels were retired: one whose connect began before is not taken into use after.
    retired: AtomicU64,
}

/// How often a stream is opened anew when its tunnel turns out to have ended.
const ATTEMPTS: usize = 4;

impl<C: Connector> Pool<C> {
    /// `closed` ends every tunnel when cancelled.
    pub fn new(connector: C, limits: Limits, closed: CancellationToken) -> Self {
        Self(Arc::new(Inner {
            connector,
            limits,
            entries: Mutex::new(HashMap::new()),
            tasks: TaskTracker::new(),
            closed,
            retired: AtomicU64::new(0),
        }))
    }

    /// Opens a stream on a tunnel for `key`, making one if none has a place. Cancel safe.
    pub async fn open(
        &self,
        key: &PoolKey,
        request: &OpenRequest,
    ) -> Result<(TunnelStream, C::Peer), OpenError> {
        self.open_with(key, request, &HeaderMap::new()).await
    }

    /// As [`Pool::open`], with further headers in the CONNECT: a waypoint's.
    pub async fn open_with(
        &self,
        key: &PoolKey,
        request: &OpenRequest,
        further: &HeaderMap,
    ) -> Result<(TunnelStream, C::Peer), OpenError> {
        let mut attempt = 1;
        loop {
            let (tunnel, slot, peer) = match self.reserve(key) {
                Ok(found) => found,
                Err(connecting) => {
                    connecting.await?;
                    continue;
                }
            };
            match tunnel.open_in(slot, request, further, &self.0.limits).await {
                Err(error) if error.retryable() && attempt < ATTEMPTS && !self.0.closed.is_cancelled() => {
                    tracing::debug!(%error, address = %key.address, "tunnel ended before its answer, trying another");
                    self.0.remove(key, &tunnel);
                    attempt += 1;
                }
                result => return result.map(|stream| (stream, peer)),
            }
        }
    }

    /// A place on a tunnel, or the connect that everyone without one waits for.
    fn reserve(&self, key: &PoolKey) -> Result<(ClientTunnel, Slot, C::Peer), Connecting> {
        let mut entries = self.0.entries.lock();
        let entry = entries.entry(key.clone()).or_default();
        for (tunnel, peer) in &entry.tunnels {
            if let Some(slot) = tunnel.reserve() {
                return Ok((tunnel.clone(), slot, peer.clone()));
            }
        }
        // One that has completed is seen here only if its task died before it could say so.
        if let Some(connecting) = entry.connecting.as_ref().filter(|c| c.peek().is_none()) {
            return Err(connecting.clone());
        }
        // A task of its own: the connect goes on if the connection that caused it goes away.
        let task = self.0.tasks.spawn(connect(self.0.clone(), key.clone()));
        let connecting = async move {
            task.await.unwrap_or_else(|error| {
                Err(ConnectFailure::new(ConnectFailureKind::Connect, error.to_string()))
            })
        };
        let connecting = connecting.boxed().shared();
        entry.connecting = Some(connecting.clone());
        Err(connecting)
    }

    /// Ends the tunnels that `keep` does not want, with the streams on them.
    pub fn retain(&self, keep: impl Fn(&PoolKey, &C::Peer) -> bool) {
        let mut ended = Vec::new();
        self.0.entries.lock().retain(|key, entry| {
            ended.extend(entry.tunnels.extract_if(.., |(_, peer)| !keep(key, peer)));
            !entry.tunnels.is_empty() || entry.connecting.is_some()
        });
        for (tunnel, _) in ended {
            tunnel.close();
        }
    }

    /// Takes all tunnels out of use. Streams on them go on; new streams get new tunnels, and an old one
    /// ends once it is idle. For an identity that has a new certificate.
    pub fn retire(&self) {
        let mut entries = self.0.entries.lock();
        self.0.retired.fetch_add(1, Ordering::Relaxed);
        for entry in entries.values_mut() {
            entry.tunnels.clear();
        }
    }

    /// Tunnels that streams can be opened on.
    pub fn len(&self) -> usize {
        self.0.entries.lock().values().map(|entry| entry.tunnels.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<C: Connector> Inner<C> {
    fn remove(&self, key: &PoolKey, tunnel: &ClientTunnel) {
        let mut entries = self.entries.lock();
        if let Some(entry) = entries.get_mut(key) {
            entry.tunnels.retain(|(other, _)| !other.same(tunnel));
            if entry.tunnels.is_empty() && entry.connecting.is_none() {
                entries.remove(key);
            }
        }
    }
}

async fn connect<C: Connector>(inner: Arc<Inner<C>>, key: PoolKey) -> Result<(), ConnectFailure> {
    let retired = inner.retired.load(Ordering::Relaxed);
    let closed = || ConnectFailure::new(ConnectFailureKind::Connect, "the pod left the mesh");
    let connecting = async {
        let (io, peer) = inner.connector.connect(&key).await?;
        let (tunnel, driver) = ClientTunnel::begin(io, inner.limits.clone())
            .await
            .map_err(|e| ConnectFailure::new(ConnectFailureKind::Tls, e.to_string()))?;
        Ok((tunnel, driver, peer))
    };
    let connected = tokio::select! {
        connected = connecting => connected,
        () = inner.closed.cancelled() => Err(closed()),
    };
    let mut entries = inner.entries.lock();
    let entry = entries.entry(key.clone()).or_default();
    entry.connecting = None;
    match connected {
        // Whoever waited for it looks again, and has a new one made.
        Ok(_) if inner.retired.load(Ordering::Relaxed) != retired => {
            if entry.tunnels.is_empty() {
                entries.remove(&key);
            }
            Ok(())
        }
        Ok((tunnel, driver, peer)) => {
            entry.tunnels.push((tunnel.clone(), peer));
            let watch = watch(Arc::downgrade(&inner), key, tunnel, inner.closed.clone(), inner.limits.idle);
            inner.tasks.spawn(async move {
                if let Err(error) = driver.await {
                    tracing::debug!(%error, "tunnel ended");
                }
            });
            inner.tasks.spawn(watch);
            Ok(())
        }
        Err(failure) => {
            if entry.tunnels.is_empty() {
                entries.remove(&key);
            }
            Err(failure)
        }
    }
}

/// Takes a tunnel out of the pool when it has ended or was idle for long, and ends it with the pool.
async fn watch<C: Connector>(
    inner: Weak<Inner<C>>,
    key: PoolKey,
    tunnel: ClientTunnel,
    closed: CancellationToken,
    idle: std::time::Duration,
) {
    let mut wait = idle;
    loop {
        tokio::select! {
            () = tunnel.ended() => break,
            () = closed.cancelled() => {
                tunnel.close();
                break;
            }
            () = tokio::time::sleep(wait) => match tunnel.idle() {
                Some(since) if since >= idle => break,
                Some(since) => wait = idle - since,
                None => wait = idle,
            },
        }
    }
    // Without senders left, HTTP/2 ends the connection after its last stream.
    if let Some(inner) = inner.upgrade() {
        inner.remove(&key, &tunnel);
    }
}
