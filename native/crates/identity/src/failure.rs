//! Failed handshakes as a closed set, for `meltemi_handshake_failures_total` and the access record.

use std::io;

use meltemi_telemetry::Reason;
use rustls::{AlertDescription, CertificateError as TlsCertificateError, Error as TlsError};

use crate::PeerError;

/// Why a TLS handshake failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HandshakeFailure {
    /// The peer offered no certificate.
    NoPeerCertificate,
    Untrusted,
    Expired,
    NotYetValid,
    BadIdentity,
    ForeignTrustDomain,
    IdentityMismatch,
    /// The peer sent an alert: it refused this side's certificate.
    RefusedByPeer,
    /// No common application protocol.
    Alpn,
    /// Not TLS 1.3, or not TLS at all.
    Protocol,
    /// The connection ended, or broke, before the handshake did.
    Closed,
    /// The handshake took longer than allowed; set by whoever holds the timer.
    Timeout,
}

impl HandshakeFailure {
    /// The metric's label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoPeerCertificate => "no_peer_certificate",
            Self::Untrusted => "untrusted",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::BadIdentity => "bad_identity",
            Self::ForeignTrustDomain => "foreign_trust_domain",
            Self::IdentityMismatch => "identity_mismatch",
            Self::RefusedByPeer => "refused_by_peer",
            Self::Alpn => "alpn",
            Self::Protocol => "protocol",
            Self::Closed => "closed",
            Self::Timeout => "timeout",
        }
    }

    /// The access record's reason.
    pub const fn reason(self) -> Reason {
        match self {
            Self::BadIdentity | Self::ForeignTrustDomain | Self::IdentityMismatch => Reason::IdentityMismatch,
            _ => Reason::TlsFailed,
        }
    }

    /// Of what `tokio_rustls` returned from `accept` or `connect`.
    pub fn of_io(error: &io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>()) {
            Some(tls) => Self::of_tls(tls),
            None if error.kind() == io::ErrorKind::TimedOut => Self::Timeout,
            None => Self::Closed,
        }
    }

    pub fn of_tls(error: &TlsError) -> Self {
        match error {
            TlsError::NoCertificatesPresented => Self::NoPeerCertificate,
            TlsError::InvalidCertificate(TlsCertificateError::Other(other)) => {
                other.0.downcast_ref::<PeerError>().map_or(Self::Untrusted, Self::of_peer)
            }
            TlsError::InvalidCertificate(_) => Self::Untrusted,
            TlsError::NoApplicationProtocol
            | TlsError::AlertReceived(AlertDescription::NoApplicationProtocol) => Self::Alpn,
            TlsError::AlertReceived(
                AlertDescription::ProtocolVersion
                | AlertDescription::HandshakeFailure
                | AlertDescription::DecodeError,
            ) => Self::Protocol,
            TlsError::AlertReceived(_) => Self::RefusedByPeer,
            _ => Self::Protocol,
        }
    }

    /// Of a refused certificate.
    pub const fn of_peer(error: &PeerError) -> Self {
        match error {
            PeerError::Untrusted(_) => Self::Untrusted,
            PeerError::Expired => Self::Expired,
            PeerError::NotYetValid => Self::NotYetValid,
            PeerError::BadIdentity(_) => Self::BadIdentity,
            PeerError::ForeignTrustDomain { .. } => Self::ForeignTrustDomain,
            PeerError::IdentityMismatch { .. } => Self::IdentityMismatch,
        }
    }
}
