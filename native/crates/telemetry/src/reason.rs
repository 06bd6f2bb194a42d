//! Why a connection ended otherwise than by its two ends: the closed set of `docs/node-interfaces.md`.

use std::fmt;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $flags:ident;)+) => {
        /// The closed set of causes; the same words in access records, metrics and `x-meltemi-refused`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[$doc])* $name,)+ }

        impl Reason {
            /// Every reason, for documentation and tests.
            pub const ALL: &'static [Reason] = &[$(Reason::$name,)+];

            /// The word on the wire and in records.
            pub const fn as_str(self) -> &'static str {
                match self { $(Reason::$name => $text,)+ }
            }

            /// Istio's `response_flags` for this cause (ztunnel's values).
            pub const fn response_flags(self) -> ResponseFlags {
                match self { $(Reason::$name => ResponseFlags::$flags,)+ }
            }

            /// The reason a word stands for; `None` outside of the set.
            pub fn parse(text: &str) -> Option<Reason> {
                match text { $($text => Some(Reason::$name),)+ _ => None }
            }
        }
    };
}

reasons! {
    /// An AuthorizationPolicy (or the lack of an ALLOW) refused it here.
    PolicyDenied = "policy_denied", PolicyDenied;
    /// STRICT PeerAuthentication and no mutual TLS.
    StrictPlaintextRefused = "strict_plaintext_refused", PolicyDenied;
    /// The service has no endpoint that may be used.
    NoEndpoint = "no_endpoint", ConnectFailure;
    /// Discovery did not say in time what the address is: never taken as "outside of the mesh".
    UnknownDestination = "unknown_destination", ConnectFailure;
    /// The upstream's address refused, or could not be reached.
    UpstreamConnectFailed = "upstream_connect_failed", ConnectFailure;
    /// The upstream did not answer in time.
    UpstreamTimeout = "upstream_timeout", ConnectFailure;
    /// The TLS handshake failed.
    TlsFailed = "tls_failed", TlsFailure;
    /// The peer proved an identity other than the expected one, or of a foreign trust domain.
    IdentityMismatch = "identity_mismatch", IdentityError;
    /// This side has no valid certificate.
    NoCertificate = "no_certificate", IdentityError;
    /// It should have come through the destination's waypoint, and did not.
    WaypointBypassed = "waypoint_bypassed", PolicyDenied;
    /// The peer answered 401: its policy refused.
    PeerRefused = "peer_refused", PolicyDenied;
    /// The peer answered 400.
    PeerBadRequest = "peer_bad_request", ConnectFailure;
    /// The peer answered 503.
    PeerUnreachable = "peer_unreachable", ConnectFailure;
    /// A policy that changed while it was open forbids it.
    PolicyChanged = "policy_changed", PolicyDenied;
    /// The peer's chain leads to no root that is still trusted.
    TrustChanged = "trust_changed", IdentityError;
    /// Its pod left.
    PodRemoved = "pod_removed", None;
    /// The data plane stops.
    Draining = "draining", None;
    /// One end reset it.
    Reset = "reset", None;
    /// No byte passed for the configured time.
    IdleTimeout = "idle_timeout", None;
    /// The destination is the proxy itself.
    Loop = "loop", ConnectFailure;
}

impl Reason {
    /// Whether it counts in `istio_tcp_connections_failed_total` and reads "connection failed": an end that
    /// was asked for, or that one of the two applications chose, is no failure.
    pub const fn is_failure(self) -> bool {
        !matches!(self, Reason::PodRemoved | Reason::Draining | Reason::Reset | Reason::IdleTimeout)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The label `response_flags`, with the values that ztunnel writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ResponseFlags {
    #[default]
    None,
    PolicyDenied,
    ConnectFailure,
    TlsFailure,
    IdentityError,
}

impl ResponseFlags {
    pub const fn as_str(self) -> &'static str {
        match self {
            ResponseFlags::None => "-",
            ResponseFlags::PolicyDenied => "DENY",
            ResponseFlags::ConnectFailure => "CONNECT",
            ResponseFlags::TlsFailure => "TLS_FAILURE",
            ResponseFlags::IdentityError => "IDENTITY_ERROR",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_unique_and_parse_back() {
        for reason in Reason::ALL {
            assert_eq!(Reason::parse(reason.as_str()), Some(*reason));
        }
        assert_eq!(Reason::parse("nonsense"), None);
        assert_eq!(Reason::ALL.len(), 20);
    }

    #[test]
    fn failures_carry_flags_and_asked_ends_do_not() {
        for reason in Reason::ALL {
            assert_eq!(reason.is_failure(), reason.response_flags() != ResponseFlags::None, "{reason}");
        }
    }
}
