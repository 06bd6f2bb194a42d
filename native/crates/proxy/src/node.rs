//! What all pods of the node share.
use crate::connections::Connections;
use meltemi_capture::{HomeNetns, Keepalive};
use meltemi_identity::{Alpn, CertificateStore};
use meltemi_state::Mesh;
use meltemi_telemetry::Telemetry;
use meltemi_tunnel::{Limits, Patience};
use std::sync::Arc;
use std::time::Duration;

/// Times and bounds of the data path.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) trust_domain: Arc<str>,
    pub(crate) network: Arc<str>,
    /// For discovery's answer, a certificate, a TCP connection.
    pub(crate) connect_timeout: Duration,
    pub(crate) handshake_timeout: Duration,
    pub(crate) drain_timeout: Duration,
    pub(crate) keepalive: Keepalive,
    /// With connections on which nothing passes.
    pub(crate) patience: Patience,
    pub(crate) limits: Limits,
}

/// The node's data plane, without its pods.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) home: HomeNetns,
    pub(crate) settings: Settings,
    pub(crate) mesh: Arc<Mesh>,
    pub(crate) certificates: Arc<CertificateStore>,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) connections: Arc<Connections>,
    pub(crate) hbone: Alpn,
}
