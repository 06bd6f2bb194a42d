//! What can go wrong with a tunnel.
use crate::Refusal;
use http::StatusCode;

/// Why no tunnel could be made to a destination. Shared by all connections that waited for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ConnectFailure {
    pub kind: ConnectFailureKind,
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectFailureKind {
    /// TCP: refused, unreachable.
    Connect,
    /// TCP or TLS took too long.
    Timeout,
    /// The handshake failed, or HTTP/2 could not begin.
    Tls,
    /// The peer proved another identity than the destination's.
    IdentityMismatch,
    /// This side has no certificate to show.
    NoCertificate,
}

impl ConnectFailure {
    pub fn new(kind: ConnectFailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

/// Why a stream could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("no tunnel: {0}")]
    Connect(#[from] ConnectFailure),
    #[error("peer answered {status}{}", refusal.as_ref().map(|r| format!(" ({r})")).unwrap_or_default())]
    Refused { status: StatusCode, refusal: Option<Refusal> },
    #[error("peer did not answer CONNECT within {0} ms")]
    Timeout(u128),
    #[error("tunnel ended: {0}")]
    Tunnel(#[from] TunnelError),
}

/// HTTP/2 failed, or the bytes below it.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    #[error(transparent)]
    Http2(#[from] h2::Error),
    #[error("peer did not begin HTTP/2 within {0} ms")]
    Handshake(u128),
    #[error("peer did not answer a ping within {0} ms")]
    Ping(u128),
    #[error("tunnel was closed because its pod or identity ended")]
    Closed,
}

impl OpenError {
    /// True when the peer cannot have acted on the request, or only by opening a connection on which
    /// nothing was sent: it may be tried again on another tunnel.
    pub(crate) fn retryable(&self) -> bool {
        match self {
            Self::Tunnel(TunnelError::Http2(error)) => {
                error.is_go_away()
                    || error.is_io()
                    || error.reason() == Some(h2::Reason::REFUSED_STREAM)
                    || error.is_library()
            }
            Self::Tunnel(_) => true,
            Self::Connect(_) | Self::Refused { .. } | Self::Timeout(_) => false,
        }
    }
}
