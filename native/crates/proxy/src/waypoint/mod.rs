//! The waypoint: between a service's callers and its endpoints, where HTTP policy is asked for.
//!
//! A connection arrives in a tunnel of the caller's ([`hbone`]), asks for a service or workload ([`stream`]) that
//! this waypoint serves ([`served`]), and either passes as bytes ([`tcp`]) or request by request (crate
//! `meltemi-http`, whose [`world`] this is). Endpoints are reached through tunnels of the waypoint's own
//! ([`dial`], [`endpoint`]). The caller is judged here, by L4 and request policies: what the endpoint's node sees
//! is the waypoint. docs/waypoint.md.

mod candidates;
mod config;
mod dial;
mod discovery;
mod endpoint;
mod hbone;
mod logging;
mod records;
mod run;
mod served;
mod stream;
mod tcp;
mod views;
mod world;

pub(crate) use config::{Config, Flags};
pub(crate) use run::run;

use crate::admission::Admission;
use crate::connections::Connections;
use candidates::CandidateTable;
use dial::Dialer;
use meltemi_capture::Keepalive;
use meltemi_identity::CertificateStore;
use meltemi_state::{Mesh, Workload};
use meltemi_telemetry::{RequestTelemetry, Telemetry};
use meltemi_tunnel::{Limits, Pool};
use meltemi_types::{Identity, NetworkAddress};
use served::ServedTable;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections through the waypoint at a time.
const CONNECTIONS: usize = 32_768;

/// Times and bounds of the data path.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) network: Arc<str>,
    /// For discovery's answer, a certificate, a connection.
    pub(crate) connect_timeout: Duration,
    pub(crate) handshake_timeout: Duration,
    pub(crate) keepalive: Keepalive,
    pub(crate) limits: Limits,
}

/// What all connections through the waypoint share.
#[derive(Debug)]
pub(crate) struct Waypoint {
    /// `NAMESPACE/NAME` of its Gateway.
    pub(crate) name: Arc<str>,
    pub(crate) identity: Identity,
    pub(crate) settings: Settings,
    pub(crate) mesh: Arc<Mesh>,
    pub(crate) certificates: Arc<CertificateStore>,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) requests: Arc<RequestTelemetry>,
    logging: logging::RequestLogging,
    pub(crate) connections: Arc<Connections>,
    /// Tunnels to endpoints.
    pub(crate) pool: Pool<Dialer>,
    pub(crate) served: ServedTable,
    candidates: CandidateTable,
    handshakes: Arc<Admission>,
    tunnels: Arc<Admission>,
    streams: Arc<Semaphore>,
    /// Ids of HTTP connections in the table of open ones; those of records count from 1.
    next_http: AtomicU64,
    pub(crate) tasks: TaskTracker,
    /// Nothing new is accepted; tunnels are told to go away.
    pub(crate) drain: CancellationToken,
    /// Everything ends.
    pub(crate) kill: CancellationToken,
}

impl Waypoint {
    /// The waypoint's own workload: which endpoints are near depends on it.
    async fn own_workload(&self, ip: IpAddr, deadline: Instant) -> Option<Arc<Workload>> {
        let address = NetworkAddress::new(self.settings.network.clone(), ip);
        if let Some(own) = self.mesh.workload_at(&address) {
            return Some(own);
        }
        self.mesh.resolve(&address, self.identity.namespace(), deadline).await.ok()?;
        self.mesh.workload_at(&address)
    }
}
