//! Why there is no certificate, or why a peer's is not accepted.

use std::time::Duration;

use meltemi_types::Identity;

/// Why an identity has no certificate that may be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CertificateError {
    /// No pod of this identity is served here.
    #[error("{0} is the identity of no pod of this node")]
    NotServed(Identity),
    /// It did not come in time; `last` says why, if a request failed.
    #[error("no valid certificate for {identity} after {} ms: {last}", .waited.as_millis())]
    NotYet { identity: Identity, waited: Duration, last: String },
    /// The CA could not be asked, or refused.
    #[error("certificate request failed: {0}")]
    Request(String),
    /// The CA answered something else than what was asked for; it is not used.
    #[error("the CA's answer for {identity} is refused: {problem}")]
    BadAnswer { identity: Identity, problem: String },
    /// The TLS library refuses the configuration.
    #[error("tls configuration: {0}")]
    Tls(String),
    #[error("{0}")]
    Crypto(&'static str),
}

/// Why a peer's certificate is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    #[error("the peer's certificate leads to no trusted root: {0}")]
    Untrusted(String),
    #[error("the peer's certificate has expired")]
    Expired,
    #[error("the peer's certificate is not valid yet: compare the nodes' clocks")]
    NotYetValid,
    #[error("the peer's certificate does not carry exactly one SPIFFE identity: {0}")]
    BadIdentity(String),
    #[error("the peer is {peer}, of a trust domain that is neither {expected:?} nor an alias of it")]
    ForeignTrustDomain { peer: Identity, expected: String },
    #[error("the peer is {peer}, expected {}", one_of(.expected))]
    IdentityMismatch { peer: Identity, expected: Vec<Identity> },
}

fn one_of(identities: &[Identity]) -> String {
    match identities {
        [] => "nobody: no identity is acceptable".to_owned(),
        [one] => one.to_string(),
        many => format!("one of {}", many.iter().map(Identity::uri).collect::<Vec<_>>().join(", ")),
    }
}
