//! One pod: its listeners, its tunnels, its connections.
use crate::admission::Admission;
use crate::connections::Closed;
use crate::dial::Dialer;
use crate::listeners::{self, Role};
use crate::node::Node;
use crate::{inbound, labels, outbound};
use http::HeaderValue;
use meltemi_capture::{CaptureError, Listener, PodNetns};
use meltemi_identity::Served;
use meltemi_state::{LocalPod, Workload};
use meltemi_telemetry::Reason;
use meltemi_tunnel::{Limits, Pool};
use meltemi_types::Identity;
use parking_lot::Mutex;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections that one pod may have through the proxy, each way. A pod that is attacked, or leaks,
/// harms itself.
const CONNECTIONS: usize = 32_768;
/// After an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Who a pod is, as the agent says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodInfo {
    pub(crate) uid: Arc<str>,
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) service_account: String,
}

/// A pod that is served.
#[derive(Debug)]
pub(crate) struct Pod {
    pub(crate) info: PodInfo,
    pub(crate) node: Arc<Node>,
    pub(crate) identity: Identity,
    pub(crate) netns: PodNetns,
    /// What the pod's applications leave unread is held against this pod.
    pub(crate) limits: Limits,
    pub(crate) pool: Pool<Dialer>,
    pub(crate) handshakes: Arc<Admission>,
    pub(crate) tunnels: Arc<Admission>,
    /// Places for connections inside tunnels to this pod.
    pub(crate) streams: Arc<Semaphore>,
    pub(crate) tasks: TaskTracker,
    /// Nothing new is accepted; tunnels are told to go away.
    pub(crate) drain: CancellationToken,
    /// Everything ends.
    pub(crate) kill: CancellationToken,
    /// Sends away the tunnels to this pod that were made with its present certificate.
    present_tunnels: Mutex<CancellationToken>,
    reason: OnceLock<Reason>,
    /// Whether it is served over IPv6, too: where the kernel has that family.
    pub(crate) ipv6: bool,
    listeners: TaskTracker,
    baggage: Mutex<Option<(Arc<Workload>, Option<HeaderValue>)>>,
    _served: Served,
}

impl Pod {
    /// Opens the listeners in the pod's namespace and begins to serve it.
    ///
    /// # Errors
    /// If a listener cannot be opened: nothing of the pod remains then.
    pub(crate) fn start(
        node: Arc<Node>,
        info: PodInfo,
        identity: Identity,
        netns: PodNetns,
    ) -> Result<Arc<Self>, CaptureError> {
        let families = listeners::open(&netns, node.settings.keepalive)?;
        let kill = CancellationToken::new();
        let drain = CancellationToken::new();
        let dialer = Dialer { node: node.clone(), identity: identity.clone(), netns: netns.clone() };
        let limits = node.settings.limits.for_owner();
        let pool = Pool::new(dialer, limits.clone(), kill.child_token());
        let pod = Arc::new(Self {
            _served: node.certificates.serve(&identity),
            info,
            identity,
            netns,
            limits,
            pool,
            handshakes: Admission::handshakes(),
            tunnels: Admission::tunnels(),
            streams: Arc::new(Semaphore::new(CONNECTIONS)),
            tasks: TaskTracker::new(),
            present_tunnels: Mutex::new(drain.child_token()),
            drain,
            kill,
            reason: OnceLock::new(),
            ipv6: families.iter().any(|family| family.ipv6),
            listeners: TaskTracker::new(),
            baggage: Mutex::default(),
            node,
        });
        let [outbound, plaintext, hbone] = Role::ALL.map(|_| Arc::new(Semaphore::new(CONNECTIONS)));
        for family in families {
            let [out_listener, plain_listener, hbone_listener] = family.listeners;
            pod.accept(out_listener, &outbound, outbound::serve);
            pod.accept(plain_listener, &plaintext, inbound::serve_plaintext);
            pod.accept(hbone_listener, &hbone, inbound::serve_hbone);
        }
        pod.tasks.spawn(follow(Arc::downgrade(&pod), pod.kill.clone()));
        Ok(pod)
    }

    /// `places` are shared by the listeners of both families.
    fn accept<F>(
        self: &Arc<Self>,
        listener: Listener,
        places: &Arc<Semaphore>,
        serve: fn(Arc<Self>, TcpStream, SocketAddr) -> F,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let pod = self.clone();
        let places = places.clone();
        self.listeners.spawn(async move {
            // Said once, not at every attempt.
            let mut scarce = false;
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    () = pod.drain.cancelled() => return,
                };
                match accepted {
                    Ok((tcp, peer)) => {
                        scarce = false;
                        let Ok(place) = places.clone().try_acquire_owned() else {
                            // Counted; not at a level that lets any client fill the log.
                            tracing::debug!(pod = %pod.info.uid, "connection refused: the pod has too many");
                            pod.node.telemetry.metrics().connection_shed("pod_full");
                            meltemi_capture::reset_on_close(&tcp);
                            continue;
                        };
                        let serving = serve(pod.clone(), tcp, peer);
                        pod.tasks.spawn(async move {
                            serving.await;
                            drop(place);
                        });
                    }
                    // The client is gone already: nobody else is to wait for that.
                    Err(error) if !is_scarcity(&error) => {
                        tracing::debug!(%error, pod = %pod.info.uid, "connection lost before it was accepted");
                    }
                    Err(error) => {
                        if !scarce {
                            tracing::warn!(%error, pod = %pod.info.uid, "cannot accept connections");
                        }
                        scarce = true;
                        pod.node.telemetry.metrics().accept_failure();
                        tokio::select! {
                            () = tokio::time::sleep(ACCEPT_PAUSE) => {}
                            () = pod.drain.cancelled() => return,
                        }
                    }
                }
            }
        });
    }

    /// The pod as discovery knows it; waits until it does. `None` after the deadline.
    pub(crate) async fn workload(&self, deadline: Instant) -> Option<Arc<Workload>> {
        let pod = LocalPod {
            namespace: &self.info.namespace,
            name: &self.info.name,
            service_account: &self.info.service_account,
        };
        match self.node.mesh.local_workload(pod) {
            Some(workload) => Some(workload),
            None => self.node.mesh.await_local_workload(pod, deadline).await,
        }
    }

    /// The `baggage` header of the pod's tunnels, made once per version of its workload.
    pub(crate) fn baggage(&self, workload: &Arc<Workload>) -> Option<HeaderValue> {
        let mut cached = self.baggage.lock();
        match &*cached {
            Some((of, header)) if Arc::ptr_eq(of, workload) => header.clone(),
            _ => {
                let header = labels::baggage(workload);
                *cached = Some((workload.clone(), header.clone()));
                header
            }
        }
    }

    /// Sends away the tunnels that are made from now on, once the pod's certificate has been replaced.
    /// Asked before the handshake, so that none with the old certificate is missed.
    pub(crate) fn tunnel_drain(&self) -> CancellationToken {
        self.present_tunnels.lock().clone()
    }

    /// Takes tunnels with the old certificate out of use, on both sides: their streams go on, new ones get
    /// new tunnels. So no new connection depends on a root that is about to go.
    fn leave_old_certificate(&self) {
        self.pool.retire();
        let old = std::mem::replace(&mut *self.present_tunnels.lock(), self.drain.child_token());
        old.cancel();
    }

    /// Why connections end that are cut while the pod stops.
    pub(crate) fn stopped(&self) -> Reason {
        self.reason.get().copied().unwrap_or(Reason::PodRemoved)
    }

    /// Stops accepting and closes the listeners.
    pub(crate) async fn close_listeners(&self) {
        self.drain.cancel();
        self.listeners.close();
        self.listeners.wait().await;
    }

    /// Lets connections end by themselves for `grace`, then ends what is left with `reason`.
    pub(crate) async fn stop(&self, grace: Duration, reason: Reason) {
        // A pod that is removed while the node drains keeps the first reason.
        let _ = self.reason.set(reason);
        self.close_listeners().await;
        self.tasks.close();
        let ended = async {
            loop {
                let next = self.node.connections.ended();
                if self.node.connections.count_of(&self.info.uid) == 0 {
                    return;
                }
                next.await;
            }
        };
        let _ = tokio::time::timeout(grace, ended).await;
        let closed = Closed::because(self.stopped(), "the pod is no longer served");
        self.node.connections.close_pod(&self.info.uid, &closed);
        self.kill.cancel();
        // Of those that were just begun: entered before this they are closed here, after it they see `kill`.
        self.node.connections.close_pod(&self.info.uid, &closed);
        self.tasks.wait().await;
    }
}

/// Descriptors or memory are short: trying at once would fail again.
pub(crate) fn is_scarcity(error: &std::io::Error) -> bool {
    use nix::libc::{EMFILE, ENFILE, ENOBUFS, ENOMEM};
    matches!(error.raw_os_error(), Some(EMFILE | ENFILE | ENOBUFS | ENOMEM))
}

/// Keeps the pod's tunnels in step with what is known: ends those to peers that are no longer trusted
/// or whose address is another workload's now, and leaves those with an old certificate.
async fn follow(pod: std::sync::Weak<Pod>, kill: CancellationToken) {
    let Some(node) = pod.upgrade().map(|pod| pod.node.clone()) else { return };
    let mut mesh = node.mesh.changes();
    let mut certificates = node.certificates.changes();
    let mut roots = node.certificates.trust().changes();
    let mut serial = None;
    loop {
        let trusted = tokio::select! {
            () = kill.cancelled() => return,
            Ok(()) = mesh.changed() => true,
            Ok(()) = certificates.changed() => true,
            Ok(()) = roots.changed() => false,
            else => return,
        };
        let Some(pod) = pod.upgrade() else { return };
        let current = node.certificates.current(&pod.identity);
        if let Some(current) = current {
            let changed = serial.as_ref().is_some_and(|known| !Arc::ptr_eq(known, &current));
            if changed {
                pod.leave_old_certificate();
            }
            serial = Some(current);
        }
        pod.pool.retain(|key, peer| {
            (trusted || node.certificates.trust().still_trusted(peer.chain())) && !recycled(&node, key)
        });
    }
}

fn recycled(node: &Node, key: &meltemi_tunnel::PoolKey) -> bool {
    let address = meltemi_types::NetworkAddress::new(node.settings.network.clone(), key.address.ip());
    match node.mesh.lookup(&address, "") {
        meltemi_state::Lookup::Workload(workload) => *workload.uid.as_str() != *key.workload,
        _ => false,
    }
}
