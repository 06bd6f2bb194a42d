//! Workload certificates: keys, requests, rotation, trust, TLS configurations, the sealed key descriptor.
//!
//! It stands between the CA (through the agent's relay) and every handshake: listeners and pools ask
//! [`CertificateStore`] for a configuration as a pod's identity, and look at [`Trust`] again when roots change.
//! A private key is made here, lives in this process's memory and in the sealed descriptor, and is in no log.

mod ca;
mod certificate;
mod clock;
mod connector;
mod error;
mod facts;
mod failure;
mod harden;
mod key;
mod sealed;
mod standing;
mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod tls;
mod trust;
mod trust_watch;
mod verifier;

pub use ca::{CaAnswer, CaClient, CaError, CaUri, GrpcCa, GrpcCaOptions};
pub use certificate::WorkloadCertificate;
pub use clock::{Clock, Jitter, RandomJitter, SystemClock};
pub use error::{CertificateError, PeerError};
pub use facts::peer_identity;
pub use failure::HandshakeFailure;
pub use harden::{HardenError, harden_process};
pub use sealed::{KeyKeeper, SealedError};
pub use standing::Standing;
pub use store::{
    CertificateInfo, CertificateState, CertificateStore, CertificateView, RootInfo, Served, StoreOptions,
};
pub use tls::{Alpn, server_name};
pub use trust::{PeerRole, Trust};
