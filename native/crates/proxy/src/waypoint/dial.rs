//! Opens the mutual TLS that the waypoint's tunnels to endpoints run on.
use super::Settings;
use meltemi_capture::set_access_options;
use meltemi_identity::{Alpn, CertificateStore, HandshakeFailure, PeerRole, Standing, server_name};
use meltemi_telemetry::{Metrics, Reason};
use meltemi_tunnel::{ALPN_H2, ConnectFailure, ConnectFailureKind, Connector, PoolKey};
use meltemi_types::Identity;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Connects as the waypoint.
#[derive(Debug)]
pub(crate) struct Dialer {
    pub(crate) identity: Identity,
    pub(crate) settings: Settings,
    pub(crate) certificates: Arc<CertificateStore>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) alpn: Alpn,
}

/// A TCP connection of the waypoint's own.
pub(super) async fn connect(settings: &Settings, address: SocketAddr) -> Result<TcpStream, ConnectFailure> {
    let tcp = tokio::time::timeout(settings.connect_timeout, TcpStream::connect(address)).await;
    let tcp = tcp
        .map_err(|_| {
            ConnectFailure::new(ConnectFailureKind::Timeout, format!("{address}: connecting took too long"))
        })?
        .map_err(|error| ConnectFailure::new(ConnectFailureKind::Connect, format!("{address}: {error}")))?;
    set_access_options(&tcp, settings.keepalive)
        .map_err(|error| ConnectFailure::new(ConnectFailureKind::Connect, error.to_string()))?;
    Ok(tcp)
}

impl Connector for Dialer {
    type Io = TlsStream<TcpStream>;
    type Peer = Arc<Standing>;

    async fn connect(&self, key: &PoolKey) -> Result<(Self::Io, Self::Peer), ConnectFailure> {
        let failure = ConnectFailure::new;
        let expected = key.destinations.iter().map(|text| text.parse::<Identity>());
        let expected = expected
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| failure(ConnectFailureKind::IdentityMismatch, error.to_string()))?;
        let config = self
            .certificates
            .client_config(&self.identity, &expected, &self.alpn, self.settings.connect_timeout)
            .await
            .map_err(|error| failure(ConnectFailureKind::NoCertificate, error.to_string()))?;
        let tcp = connect(&self.settings, key.address).await?;
        // Before the handshake: roots that change during it are asked again when the tunnel is used.
        let generation = self.certificates.trust().generation();
        let handshake = TlsConnector::from(config).connect(server_name(), tcp);
        let mut tls = tokio::time::timeout(self.settings.handshake_timeout, handshake)
            .await
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
        session.set_buffer_limit(Some(crate::dial::TLS_BUFFER_BYTES));
        let chain = session.peer_certificates().unwrap_or_default();
        let standing = Standing::new(chain, PeerRole::Server, generation)
            .map_err(|error| failure(ConnectFailureKind::Tls, error.to_string()))?;
        Ok((tls, Arc::new(standing)))
    }
}

impl Dialer {
    fn failed(&self, failure: HandshakeFailure) {
        self.metrics.handshake_failure(failure.as_str());
    }
}
