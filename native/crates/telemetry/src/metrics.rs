//! The registry and every metric that is not a connection's.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::traffic::TrafficTable;

/// Policies shown apart in `meltemi_policy_matches_total`; what exceeds it is counted as "other".
const POLICY_SERIES_BOUND: usize = 2_000;
/// Label sets shown apart in the TCP metrics.
const TRAFFIC_SERIES_BOUND: usize = 20_000;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SocketLabel {
    socket: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TypeLabel {
    r#type: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PolicyLabel {
    policy: Arc<str>,
    action: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BuildLabel {
    component: &'static str,
    tag: &'static str,
}

/// Every metric of the data plane. Cheap to share; all methods are safe from any task and never block on I/O.
#[derive(Debug)]
pub struct Metrics {
    pub(crate) registry: Mutex<Registry>,
    pub(crate) traffic: Arc<TrafficTable>,
    peer_refused: Family<SocketLabel, Counter>,
    zds_workloads: Gauge,
    xds_connected: Gauge,
    xds_nacks: Family<TypeLabel, Counter>,
    certificate_requests: Family<ResultLabel, Counter>,
    handshake_failures: Family<ReasonLabel, Counter>,
    policy_matches: Family<PolicyLabel, Counter>,
    policies_shown: Mutex<HashSet<PolicyLabel>>,
    access_records_dropped: Counter,
    accept_failures: Counter,
    connections_shed: Family<ReasonLabel, Counter>,
    mirrored_requests: Family<OutcomeLabel, Counter>,
}

impl Metrics {
    /// `component`: the role ("ztunnel"); `tag`: the version; both for `istio_build`.
    pub fn new(component: &'static str, tag: &'static str) -> Arc<Self> {
        Self::with_bound(component, tag, TRAFFIC_SERIES_BOUND)
    }

    /// As [`Metrics::new`], with the most label sets of the TCP metrics that are kept apart.
    pub fn with_bound(component: &'static str, tag: &'static str, traffic_series_bound: usize) -> Arc<Self> {
        let mut registry = Registry::default();
        let build = Family::<BuildLabel, Gauge>::default();
        build.get_or_create(&BuildLabel { component, tag }).set(1);
        registry.register("istio_build", "Istio component build info", build);
        let metrics = Self {
            registry: Mutex::default(),
            traffic: Arc::new(TrafficTable::new(traffic_series_bound)),
            peer_refused: Family::default(),
            zds_workloads: Gauge::default(),
            xds_connected: Gauge::default(),
            xds_nacks: Family::default(),
            certificate_requests: Family::default(),
            handshake_failures: Family::default(),
            policy_matches: Family::default(),
            policies_shown: Mutex::default(),
            access_records_dropped: Counter::<u64, AtomicU64>::default(),
            accept_failures: Counter::default(),
            connections_shed: Family::default(),
            mirrored_requests: Family::default(),
        };
        registry.register(
            "meltemi_peer_refused",
            "Connections to a Unix socket closed because of the peer's user id",
            metrics.peer_refused.clone(),
        );
        registry.register(
            "meltemi_zds_workloads",
            "Pods that the data plane serves",
            metrics.zds_workloads.clone(),
        );
        registry.register(
            "meltemi_xds_connected",
            "1 while the discovery stream is open",
            metrics.xds_connected.clone(),
        );
        registry.register(
            "meltemi_xds_nacks",
            "Discovery responses rejected, the last good state kept",
            metrics.xds_nacks.clone(),
        );
        registry.register(
            "meltemi_certificate_requests",
            "Certificate requests by result",
            metrics.certificate_requests.clone(),
        );
        registry.register(
            "meltemi_handshake_failures",
            "TLS handshakes that failed, by reason",
            metrics.handshake_failures.clone(),
        );
        registry.register(
            "meltemi_policy_matches",
            "What policies decided or, not deciding, matched, by policy and action",
            metrics.policy_matches.clone(),
        );
        registry.register(
            "meltemi_access_records_dropped",
            "Access records lost because their sink was slow or gone",
            metrics.access_records_dropped.clone(),
        );
        registry.register(
            "meltemi_accept_failures",
            "Attempts to accept a connection that failed for want of descriptors or memory",
            metrics.accept_failures.clone(),
        );
        registry.register(
            "meltemi_connections_shed",
            "Connections refused or ended to keep the node within its bounds, by reason",
            metrics.connections_shed.clone(),
        );
        registry.register(
            "meltemi_mirrored_requests",
            "Copies of requests that routes mirror, by what became of them",
            metrics.mirrored_requests.clone(),
        );
        *metrics.registry.lock() = registry;
        Arc::new(metrics)
    }

    /// A connection to the named socket was closed because of its peer's user id.
    pub fn peer_refused(&self, socket: &'static str) {
        self.peer_refused.get_or_create(&SocketLabel { socket }).inc();
    }

    pub fn set_zds_workloads(&self, pods: usize) {
        self.zds_workloads.set(i64::try_from(pods).unwrap_or(i64::MAX));
    }

    pub fn set_xds_connected(&self, connected: bool) {
        self.xds_connected.set(i64::from(connected));
    }

    /// `type_url`: one of the types subscribed to, so that the label is bounded.
    pub fn xds_nack(&self, type_url: &str) {
        self.xds_nacks.get_or_create(&TypeLabel { r#type: type_url.to_owned() }).inc();
    }

    /// `result`: "ok", "failed" (the CA did not answer) or "refused" (the answer is not what was asked for).
    pub fn certificate_request(&self, result: &'static str) {
        self.certificate_requests.get_or_create(&ResultLabel { result }).inc();
    }

    /// `reason`: `meltemi_identity::HandshakeFailure::as_str`.
    pub fn handshake_failure(&self, reason: &'static str) {
        self.handshake_failures.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// `policy`: "namespace/name"; `action`: "allow", "deny", "unmet", "audit", "dry-run" or "dry-run-unmet".
    pub fn policy_match(&self, policy: &Arc<str>, action: &'static str) {
        let label = PolicyLabel { policy: Arc::clone(policy), action };
        let mut shown = self.policies_shown.lock();
        let label = if shown.contains(&label) {
            label
        } else if shown.len() < POLICY_SERIES_BOUND {
            shown.insert(label.clone());
            label
        } else {
            PolicyLabel { policy: Arc::from("other"), action }
        };
        drop(shown);
        self.policy_matches.get_or_create(&label).inc();
    }

    /// A connection could not be accepted for want of descriptors or memory. It is tried again.
    pub fn accept_failure(&self) {
        self.accept_failures.inc();
    }

    /// `reason`: "pod_full" (refused: the pod has as many as it may), "memory" (ended: its application did not
    /// read, and too much was held for such), "half_closed" or "idle" (ended: nothing passed for long).
    pub fn connection_shed(&self, reason: &'static str) {
        self.connections_shed.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// `outcome`: "answered", "failed" (nobody took the copy) or "dropped" (it fell behind the original, or too
    /// many were under way).
    pub fn mirrored_request(&self, outcome: &'static str) {
        self.mirrored_requests.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// An access record was lost.
    pub(crate) fn access_record_dropped(&self, records: u64) {
        self.access_records_dropped.inc_by(records);
    }

    /// The content type that goes with [`Metrics::text`].
    pub const CONTENT_TYPE: &'static str = "text/plain; version=0.0.4; charset=utf-8";

    /// All metrics in Prometheus' text format 0.0.4, so that the agent can join it with its own.
    pub fn text(&self) -> String {
        let mut open_metrics = String::with_capacity(16 * 1024);
        // Writing into a String cannot fail.
        let _ = encode(&mut open_metrics, &self.registry.lock());
        plain_text(&open_metrics)
    }
}

/// OpenMetrics to the older text format: a counter's family is named with its suffix, and there is no `# EOF`.
fn plain_text(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut lines = open_metrics.lines().peekable();
    while let Some(line) = lines.next() {
        if line == "# EOF" {
            continue;
        }
        let next_is_counter = |next: Option<&&str>| {
            next.is_some_and(|next| next.starts_with("# TYPE ") && next.ends_with(" counter"))
        };
        let counter =
            (line.starts_with("# HELP ") && next_is_counter(lines.peek())) || next_is_counter(Some(&line));
        let mut words = line.splitn(4, ' ');
        match (counter, words.next(), words.next(), words.next(), words.next()) {
            (true, Some(hash), Some(kind), Some(name), Some(rest)) => {
                text.extend([hash, " ", kind, " ", name, "_total ", rest]);
            }
            _ => text.push_str(line),
        }
        text.push('\n');
    }
    text
}
