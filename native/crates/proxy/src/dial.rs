//! Opens the mutual TLS that a pod's tunnels run on.
use crate::node::Node;
use meltemi_capture::{CaptureError, PodNetns, Upstream, UpstreamKind};
use meltemi_identity::{HandshakeFailure, PeerRole, Standing, server_name};
use meltemi_telemetry::Reason;
use meltemi_tunnel::{ALPN_H2, ConnectFailure, ConnectFailureKind, Connector, PoolKey};
use meltemi_types::Identity;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Bytes of plaintext and of records that TLS holds before it makes the writer wait.
pub(crate) const TLS_BUFFER_BYTES: usize = 256 << 10;

/// Connects as one pod.
#[derive(Debug)]
pub(crate) struct Dialer {
    pub(crate) node: Arc<Node>,
    pub(crate) identity: Identity,
    pub(crate) netns: PodNetns,
}

impl Connector for Dialer {
    type Io = TlsStream<TcpStream>;
    type Peer = Arc<Standing>;

    async fn connect(&self, key: &PoolKey) -> Result<(Self::Io, Self::Peer), ConnectFailure> {
        let settings = &self.node.settings;
        let failure = ConnectFailure::new;
        let expected = key
            .destinations
            .iter()
            .map(|text| text.parse::<Identity>())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| failure(ConnectFailureKind::IdentityMismatch, e.to_string()))?;
        let config = self
            .node
            .certificates
            .client_config(&self.identity, &expected, &self.node.hbone, settings.connect_timeout)
            .await
            .map_err(|e| failure(ConnectFailureKind::NoCertificate, e.to_string()))?;
        let upstream = Upstream {
            destination: key.address,
            // A pod without an address of the peer's family leaves the choice to routing.
            source: Some(key.source_ip).filter(|own| own.is_ipv4() == key.address.is_ipv4()),
            apart: false,
            kind: UpstreamKind::Tunnel,
            timeout: settings.connect_timeout,
            keepalive: settings.keepalive,
        };
        let tcp = upstream.connect(&self.netns).await.map_err(|e| {
            let kind = match e {
                CaptureError::ConnectTimeout { .. } => ConnectFailureKind::Timeout,
                _ => ConnectFailureKind::Connect,
            };
            failure(kind, e.to_string())
        })?;
        // Before the handshake: roots that change during it are asked again when the tunnel is used.
        let generation = self.node.certificates.trust().generation();
        let handshake = TlsConnector::from(config).connect(server_name(), tcp);
        let tls = tokio::time::timeout(settings.handshake_timeout, handshake).await;
        let mut tls = tls
            .map_err(|_| {
                self.failed(HandshakeFailure::Timeout);
                failure(ConnectFailureKind::Timeout, format!("{}: TLS handshake took too long", key.address))
            })?
            .map_err(|error| {
                let cause = HandshakeFailure::of_io(&error);
                self.failed(cause);
                let kind = match cause.reason() {
                    Reason::IdentityMismatch => ConnectFailureKind::IdentityMismatch,
                    _ => ConnectFailureKind::Tls,
                };
                failure(kind, format!("TLS with {}: {error}", key.address))
            })?;
        let session = tls.get_mut().1;
        if session.alpn_protocol() != Some(ALPN_H2) {
            self.failed(HandshakeFailure::Alpn);
            return Err(failure(ConnectFailureKind::Tls, format!("{} speaks no h2", key.address)));
        }
        session.set_buffer_limit(Some(TLS_BUFFER_BYTES));
        let chain = session.peer_certificates().unwrap_or_default();
        let standing = Standing::new(chain, PeerRole::Server, generation)
            .map_err(|error| failure(ConnectFailureKind::Tls, error.to_string()))?;
        Ok((tls, Arc::new(standing)))
    }
}

impl Dialer {
    fn failed(&self, failure: HandshakeFailure) {
        self.node.telemetry.metrics().handshake_failure(failure.as_str());
    }
}
