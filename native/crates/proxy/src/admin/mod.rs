//! The data plane's two admin sockets: one that only reads, one that changes. HTTP/1.1 over Unix sockets for the
//! node agent and the CLI (docs/node-interfaces.md); never on a network.

mod control;
mod reading;
mod reply;
mod server;
mod socket;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::SystemTime;

use meltemi_identity::CertificateView;
use meltemi_telemetry::ConnectionSnapshot;
use meltemi_telemetry::logging::LogControl;

pub(crate) use server::{AdminSockets, serve, serve_metrics};

/// What keeps the process from being ready.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Readiness {
    /// Empty: ready. For instance "zds snapshot", "discovery".
    pub(crate) waiting: Vec<&'static str>,
}

/// `GET /ready`.
pub(crate) trait ReadinessView: Send + Sync {
    fn readiness(&self) -> Readiness;
}

/// `GET /config_dump`: `{version, config, workloads, services, policies, negative, pods}`.
pub(crate) trait ConfigView: Send + Sync {
    fn config_dump(&self) -> serde_json::Value;
}

/// `GET /certificates` and `POST /certificates/renew`.
pub(crate) trait CertificatesView: Send + Sync {
    fn certificates(&self) -> Vec<CertificateView>;
    /// Requests again what was issued at or before the time, or everything; how many.
    fn renew(&self, not_before_until: Option<SystemTime>) -> usize;
}

/// `GET /connections` and `POST /connections/ID/close`.
pub(crate) trait ConnectionsView: Send + Sync {
    fn connections(&self) -> Vec<ConnectionSnapshot>;
    /// False if there is none of this id.
    fn close(&self, id: u64) -> bool;
}

/// `GET /metrics`.
pub(crate) trait MetricsView: Send + Sync {
    /// Prometheus text.
    fn text(&self) -> String;
    /// Another user's process connected to the named socket and was turned away.
    fn peer_refused(&self, socket: &'static str);
}

/// `POST /drain`: starts what SIGTERM starts, and returns at once.
pub(crate) trait Drain: Send + Sync {
    fn drain(&self);
}

/// What the two servers show and do.
#[derive(Clone)]
pub(crate) struct Views {
    pub(crate) readiness: Arc<dyn ReadinessView>,
    pub(crate) config: Arc<dyn ConfigView>,
    pub(crate) certificates: Arc<dyn CertificatesView>,
    pub(crate) connections: Arc<dyn ConnectionsView>,
    pub(crate) metrics: Arc<dyn MetricsView>,
    pub(crate) drain: Arc<dyn Drain>,
    /// `/logging`.
    pub(crate) logging: LogControl,
}

impl std::fmt::Debug for Views {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Views").finish_non_exhaustive()
    }
}

impl CertificatesView for meltemi_identity::CertificateStore {
    fn certificates(&self) -> Vec<CertificateView> {
        self.certificates()
    }
    fn renew(&self, not_before_until: Option<SystemTime>) -> usize {
        self.renew(not_before_until)
    }
}

impl MetricsView for meltemi_telemetry::Metrics {
    fn text(&self) -> String {
        self.text()
    }
    fn peer_refused(&self, socket: &'static str) {
        self.peer_refused(socket);
    }
}
