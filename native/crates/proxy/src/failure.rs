//! Why a connection was not carried.
use crate::pod::Pod;
use meltemi_capture::CaptureError;
use meltemi_state::{ResolveError, SelectError};
use meltemi_telemetry::{ConnectionRecord, Reason};
use meltemi_tunnel::{Cause, ConnectFailureKind, OpenError, Quiet, RelayEnd};
use std::sync::Arc;

/// The reason of the closed set, and the text for the access record.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) reason: Reason,
    pub(crate) error: String,
    /// The rule that a refusing peer named.
    pub(crate) peer_policy: Option<Arc<str>>,
}

impl Failure {
    pub(crate) fn new(reason: Reason, error: impl ToString) -> Self {
        Self { reason, error: error.to_string(), peer_policy: None }
    }

    /// True when another endpoint of the service may do better: this one was not reached.
    pub(crate) fn is_endpoints(&self) -> bool {
        matches!(
            self.reason,
            Reason::UpstreamConnectFailed
                | Reason::UpstreamTimeout
                | Reason::TlsFailed
                | Reason::IdentityMismatch
                | Reason::PeerUnreachable
        )
    }
}

impl From<ResolveError> for Failure {
    fn from(error: ResolveError) -> Self {
        Self::new(Reason::UnknownDestination, error)
    }
}

impl From<SelectError> for Failure {
    fn from(error: SelectError) -> Self {
        Self::new(Reason::NoEndpoint, error)
    }
}

impl From<CaptureError> for Failure {
    fn from(error: CaptureError) -> Self {
        let reason = match error {
            CaptureError::ConnectTimeout { .. } => Reason::UpstreamTimeout,
            _ => Reason::UpstreamConnectFailed,
        };
        Self::new(reason, error)
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        let mut peer_policy = None;
        let reason = match &error {
            OpenError::Connect(failure) => match failure.kind {
                ConnectFailureKind::Connect => Reason::UpstreamConnectFailed,
                ConnectFailureKind::Timeout => Reason::UpstreamTimeout,
                ConnectFailureKind::Tls => Reason::TlsFailed,
                ConnectFailureKind::IdentityMismatch => Reason::IdentityMismatch,
                ConnectFailureKind::NoCertificate => Reason::NoCertificate,
            },
            OpenError::Refused { status, refusal } => {
                peer_policy = refusal.as_ref().and_then(|r| r.policy.as_deref()).map(Arc::from);
                match status.as_u16() {
                    401 | 403 => Reason::PeerRefused,
                    500.. => Reason::PeerUnreachable,
                    _ => Reason::PeerBadRequest,
                }
            }
            OpenError::Timeout(_) => Reason::UpstreamTimeout,
            OpenError::Tunnel(_) => Reason::UpstreamConnectFailed,
        };
        Self { reason, error: error.to_string(), peer_policy }
    }
}

/// Tells a connection's record how its relay ended, if it was otherwise than in order.
pub(crate) fn relay_ended(
    pod: &Pod,
    record: &mut ConnectionRecord,
    end: &RelayEnd,
    first: &str,
    second: &str,
) {
    let told = |side: &str, cause: &Cause| format!("{side}: {cause}");
    match end {
        RelayEnd::Finished => {}
        RelayEnd::FirstReset(cause) => record.fail(Reason::Reset, told(first, cause)),
        RelayEnd::SecondReset(cause) => record.fail(Reason::Reset, told(second, cause)),
        RelayEnd::Overloaded => {
            pod.node.telemetry.metrics().connection_shed("memory");
            let error = "an application did not read, and this node holds too much for such";
            record.fail(Reason::Reset, error);
        }
        RelayEnd::Quiet(quiet) => {
            let (kind, error) = match quiet {
                Quiet::HalfClosed(limit) => {
                    ("half_closed", format!("one end had ended its output, and nothing passed for {limit:?}"))
                }
                Quiet::Idle(limit) => ("idle", format!("nothing passed for {limit:?}")),
            };
            pod.node.telemetry.metrics().connection_shed(kind);
            record.fail(Reason::IdleTimeout, error);
        }
    }
}
