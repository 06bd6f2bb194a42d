//! One connection's accounting: opened when the record is made, closed (or failed) and written exactly once
//! when it is dropped, whatever path its task took.

use std::collections::HashMap;
use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Instant, SystemTime};

use parking_lot::Mutex;
use serde::Serialize;

use crate::access_record::direction;
use crate::traffic::{Series, TrafficCollector};
use crate::{
    AccessLog, AccessRecord, Metrics, PolicyAction, Protocol, Reason, Reporter, ResponseFlags, TrafficLabels,
    rfc3339_millis,
};

/// What is known of a connection when its record is made. Direction, namespaces, identities and the service
/// come from `labels`.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    pub protocol: Protocol,
    /// When the downstream's connection (or CONNECT) was accepted.
    pub accepted: Instant,
    pub src_addr: SocketAddr,
    /// As the application dialled it (outbound); the pod's own (inbound).
    pub dst_addr: SocketAddr,
    /// The HBONE `:authority`.
    pub dst_hbone_addr: Option<Arc<str>>,
    /// Pods' names.
    pub src_workload: Option<Arc<str>>,
    pub dst_workload: Option<Arc<str>>,
    pub labels: TrafficLabels,
}

#[derive(Debug)]
struct Live {
    id: u64,
    info: ConnectionInfo,
    opened_at: SystemTime,
    from_client: AtomicU64,
    to_client: AtomicU64,
    /// What of the two is already in the series.
    flushed: Mutex<(u64, u64)>,
    series: Arc<Series>,
    policy: Mutex<Option<Arc<str>>>,
}

impl Live {
    fn flush(&self) {
        let mut flushed = self.flushed.lock();
        let (from_client, to_client) = (self.from_client.load(Relaxed), self.to_client.load(Relaxed));
        // Istio's names take the side of the service: what its client sent is "received".
        self.series.received.fetch_add(from_client - flushed.0, Relaxed);
        self.series.sent.fetch_add(to_client - flushed.1, Relaxed);
        *flushed = (from_client, to_client);
    }

    /// (sent, received) of this node's own pod: Istio's logs take the pod's side, its metrics the service's.
    fn own_bytes(&self) -> (u64, u64) {
        let (from_client, to_client) = (self.from_client.load(Relaxed), self.to_client.load(Relaxed));
        match self.info.labels.reporter {
            Reporter::Source => (from_client, to_client),
            // A waypoint speaks for the service.
            Reporter::Destination | Reporter::Waypoint => (to_client, from_client),
        }
    }
}

/// The copy loop's handle: two relaxed additions, no lock, no look-up. `client` is the side that connected,
/// on both nodes.
#[derive(Clone, Debug)]
pub struct ByteCount(Arc<Live>);

impl ByteCount {
    /// Bytes passed from the client towards the server: `istio_tcp_received_bytes_total`.
    pub fn from_client(&self, bytes: u64) {
        self.0.from_client.fetch_add(bytes, Relaxed);
    }

    /// Bytes passed from the server towards the client: `istio_tcp_sent_bytes_total`.
    pub fn to_client(&self, bytes: u64) {
        self.0.to_client.fetch_add(bytes, Relaxed);
    }

    /// So far: (from client, to client).
    pub fn totals(&self) -> (u64, u64) {
        (self.0.from_client.load(Relaxed), self.0.to_client.load(Relaxed))
    }
}

/// An open connection as `GET /connections` shows it.
#[derive(Clone, Debug, Serialize)]
pub struct ConnectionSnapshot {
    pub id: u64,
    pub direction: &'static str,
    pub protocol: Protocol,
    pub src: SocketAddr,
    pub dst: SocketAddr,
    pub src_identity: Option<Arc<str>>,
    pub dst_identity: Option<Arc<str>>,
    pub src_workload: Option<Arc<str>>,
    pub dst_workload: Option<Arc<str>>,
    pub service: Option<Arc<str>>,
    pub opened_at: String,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub policy: Option<Arc<str>>,
}

type LiveTable = Mutex<HashMap<u64, Arc<Live>>>;

/// Where connections are recorded: the metrics, the access log and the table of open connections.
#[derive(Debug)]
pub struct Telemetry {
    metrics: Arc<Metrics>,
    access_log: AccessLog,
    live: Arc<LiveTable>,
    next_id: AtomicU64,
}

impl Telemetry {
    /// Registers the TCP metrics with `metrics`: one `Telemetry` per `Metrics`.
    pub fn new(metrics: Arc<Metrics>, access_log: AccessLog) -> Arc<Self> {
        let live: Arc<LiveTable> = Arc::default();
        let open = Arc::clone(&live);
        let before = move || {
            // Cloned first: the table is not held while counters are added.
            let connections: Vec<Arc<Live>> = open.lock().values().cloned().collect();
            connections.iter().for_each(|live| live.flush());
        };
        metrics.registry.lock().register_collector(Box::new(TrafficCollector {
            table: Arc::clone(&metrics.traffic),
            before: Box::new(before),
        }));
        Arc::new(Self { metrics, access_log, live, next_id: AtomicU64::new(1) })
    }

    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    pub fn access_log(&self) -> &AccessLog {
        &self.access_log
    }

    /// Counts the connection as opened. Keep the record for as long as the connection lives.
    pub fn open(self: &Arc<Self>, info: ConnectionInfo) -> ConnectionRecord {
        let id = self.next_id.fetch_add(1, Relaxed);
        let series = self.metrics.traffic.series(&info.labels, ResponseFlags::None);
        series.opened.fetch_add(1, Relaxed);
        let now = SystemTime::now();
        let live = Arc::new(Live {
            id,
            opened_at: now.checked_sub(info.accepted.elapsed()).unwrap_or(now),
            info,
            from_client: AtomicU64::new(0),
            to_client: AtomicU64::new(0),
            flushed: Mutex::default(),
            series,
            policy: Mutex::default(),
        });
        self.live.lock().insert(id, Arc::clone(&live));
        ConnectionRecord { live, telemetry: Arc::clone(self), end: End::default() }
    }

    /// Open connections, by id.
    pub fn connections(&self) -> Vec<ConnectionSnapshot> {
        let mut open: Vec<Arc<Live>> = self.live.lock().values().cloned().collect();
        open.sort_unstable_by_key(|live| live.id);
        open.iter().map(|live| snapshot(live)).collect()
    }

    /// How many are open.
    pub fn open_connections(&self) -> usize {
        self.live.lock().len()
    }
}

fn snapshot(live: &Live) -> ConnectionSnapshot {
    let (bytes_sent, bytes_received) = live.own_bytes();
    let info = &live.info;
    ConnectionSnapshot {
        id: live.id,
        direction: direction(info.labels.reporter),
        protocol: info.protocol,
        src: info.src_addr,
        dst: info.dst_addr,
        src_identity: info.labels.source_principal.clone(),
        dst_identity: info.labels.destination_principal.clone(),
        src_workload: info.src_workload.clone(),
        dst_workload: info.dst_workload.clone(),
        service: info.labels.destination_service.as_ref().map(|service| Arc::clone(&service.hostname)),
        opened_at: rfc3339_millis(live.opened_at),
        bytes_sent,
        bytes_received,
        policy: live.policy.lock().clone(),
    }
}

/// How it ended, as far as it was told.
#[derive(Debug, Default)]
struct End {
    policy_action: Option<PolicyAction>,
    dry_run_policies: Vec<Arc<str>>,
    dry_run_denied_by: Vec<Arc<str>>,
    reason: Option<Reason>,
    peer_policy: Option<Arc<str>>,
    error: Option<String>,
}

/// The owner of one connection's accounting. Dropped without [`ConnectionRecord::fail`] it is complete.
#[derive(Debug)]
#[must_use = "dropping the record ends the connection's accounting"]
pub struct ConnectionRecord {
    live: Arc<Live>,
    telemetry: Arc<Telemetry>,
    end: End,
}

impl ConnectionRecord {
    /// Unique in this process; the `ID` of `POST /connections/ID/close`.
    pub fn id(&self) -> u64 {
        self.live.id
    }

    /// The handle for the copy loop.
    pub fn bytes(&self) -> ByteCount {
        ByteCount(Arc::clone(&self.live))
    }

    /// The policy that decided, "namespace/name".
    pub fn set_policy(&mut self, policy: Arc<str>, action: PolicyAction) {
        *self.live.policy.lock() = Some(policy);
        self.end.policy_action = Some(action);
    }

    /// Policies in dry run (or AUDIT) that matched.
    pub fn set_dry_run_policies(&mut self, policies: Vec<Arc<str>>) {
        self.end.dry_run_policies = policies;
    }

    /// Policies in dry run that would have denied it, were they enforced.
    pub fn set_dry_run_denied_by(&mut self, policies: Vec<Arc<str>>) {
        self.end.dry_run_denied_by = policies;
    }

    /// The rule that the refusing peer named (`x-meltemi-refused`).
    pub fn set_peer_policy(&mut self, policy: Arc<str>) {
        self.end.peer_policy = Some(policy);
    }

    /// Why it ends. The first reason stays: what follows is its consequence.
    pub fn fail(&mut self, reason: Reason, error: impl Display) {
        if self.end.reason.is_none() {
            self.end.reason = Some(reason);
            self.end.error = Some(error.to_string());
        }
    }

    /// The reason told so far.
    pub fn reason(&self) -> Option<Reason> {
        self.end.reason
    }
}

impl Drop for ConnectionRecord {
    fn drop(&mut self) {
        let live = &self.live;
        self.telemetry.live.lock().remove(&live.id);
        live.flush();
        let flags = self.end.reason.map_or(ResponseFlags::None, Reason::response_flags);
        let series = if flags == ResponseFlags::None {
            Arc::clone(&live.series)
        } else {
            self.telemetry.metrics.traffic.series(&live.info.labels, flags)
        };
        series.closed.fetch_add(1, Relaxed);
        if self.end.reason.is_some_and(Reason::is_failure) {
            series.failed.fetch_add(1, Relaxed);
        }
        if self.telemetry.access_log.is_on() {
            self.telemetry.access_log.write(access_record(live, std::mem::take(&mut self.end)));
        }
    }
}

fn access_record(live: &Live, end: End) -> AccessRecord {
    let (info, labels) = (&live.info, &live.info.labels);
    let (bytes_sent, bytes_received) = live.own_bytes();
    AccessRecord {
        time: SystemTime::now(),
        reporter: labels.reporter,
        protocol: info.protocol,
        src_addr: info.src_addr,
        src_workload: info.src_workload.clone(),
        src_namespace: labels.source.as_ref().map(|workload| Arc::clone(&workload.namespace)),
        src_identity: labels.source_principal.clone(),
        dst_addr: info.dst_addr,
        dst_hbone_addr: info.dst_hbone_addr.clone(),
        dst_service: labels.destination_service.as_ref().map(|service| Arc::clone(&service.hostname)),
        dst_workload: info.dst_workload.clone(),
        dst_namespace: labels.destination.as_ref().map(|workload| Arc::clone(&workload.namespace)),
        dst_identity: labels.destination_principal.clone(),
        bytes_sent,
        bytes_received,
        duration: info.accepted.elapsed(),
        policy: live.policy.lock().clone(),
        policy_action: end.policy_action,
        dry_run_policies: end.dry_run_policies,
        dry_run_denied_by: end.dry_run_denied_by,
        reason: end.reason,
        peer_policy: end.peer_policy,
        error: end.error,
    }
}
