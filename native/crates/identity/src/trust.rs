//! Whom this node believes: the roots that the CA named last, and the trust domain.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use meltemi_types::Identity;
use parking_lot::RwLock;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use tokio::sync::watch;
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use crate::facts::{CertificateFacts, peer_identity};
use crate::tls::provider;
use crate::{Clock, PeerError};

/// Which end of the handshake the peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerRole {
    Client,
    Server,
}

/// One root.
#[derive(Clone, Debug)]
struct Root {
    certificate: CertificateDer<'static>,
    not_after: SystemTime,
}

/// A set of roots that does not change.
#[derive(Debug, Default)]
pub(crate) struct RootSet {
    roots: Vec<Root>,
    /// What the verifier needs of each, in the same order.
    anchors: Vec<TrustAnchor<'static>>,
}

impl RootSet {
    /// # Errors
    /// The position and problem of the first certificate that is no root.
    pub(crate) fn new(certificates: &[CertificateDer<'_>]) -> Result<Self, String> {
        let mut found: Vec<(Root, TrustAnchor<'static>)> = Vec::with_capacity(certificates.len());
        for (index, certificate) in certificates.iter().enumerate() {
            let wrong = |problem: String| format!("root {index}: {problem}");
            let anchor = anchor_from_trusted_cert(certificate).map_err(|e| wrong(e.to_string()))?.to_owned();
            let not_after = CertificateFacts::read(certificate).map_err(wrong)?.not_after;
            found.push((Root { certificate: certificate.clone().into_owned(), not_after }, anchor));
        }
        // Sorted, so that sets compare whatever order the CA named them in.
        found.sort_unstable_by(|(a, _), (b, _)| a.certificate.as_ref().cmp(b.certificate.as_ref()));
        found.dedup_by(|(a, _), (b, _)| a.certificate == b.certificate);
        let (roots, anchors) = found.into_iter().unzip();
        Ok(Self { roots, anchors })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.roots.is_empty()
    }

    pub(crate) fn certificates(&self) -> Vec<CertificateDer<'static>> {
        self.roots.iter().map(|root| root.certificate.clone()).collect()
    }

    pub(crate) fn same_as(&self, other: &Self) -> bool {
        self.roots.iter().map(|root| &root.certificate).eq(other.roots.iter().map(|root| &root.certificate))
    }

    /// The anchors of the roots that have not expired; copied only where one has.
    fn anchors(&self, at: SystemTime) -> Cow<'_, [TrustAnchor<'static>]> {
        if self.roots.iter().all(|root| root.not_after >= at) {
            return Cow::Borrowed(&self.anchors);
        }
        let valid = self.roots.iter().zip(&self.anchors).filter(|(root, _)| root.not_after >= at);
        Cow::Owned(valid.map(|(_, anchor)| anchor.clone()).collect())
    }

    /// Builds the path from `chain` (leaf first) to one of the roots that have not expired `at` that time.
    pub(crate) fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        role: PeerRole,
        at: SystemTime,
    ) -> Result<(), PeerError> {
        let untrusted = |problem: &str| PeerError::Untrusted(problem.to_owned());
        let (leaf, intermediates) = chain.split_first().ok_or_else(|| untrusted("it is absent"))?;
        let anchors = self.anchors(at);
        let usage = match role {
            PeerRole::Client => KeyUsage::client_auth(),
            PeerRole::Server => KeyUsage::server_auth(),
        };
        let algorithms = provider().signature_verification_algorithms.all;
        EndEntityCert::try_from(leaf)
            .and_then(|leaf| {
                leaf.verify_for_usage(algorithms, &anchors, intermediates, unix_time(at), usage, None, None)
                    .map(|_| ())
            })
            .map_err(|error| match error {
                webpki::Error::CertExpired { .. } => PeerError::Expired,
                webpki::Error::CertNotValidYet { .. } => PeerError::NotYetValid,
                webpki::Error::UnknownIssuer => untrusted("its issuer is none of the trusted roots"),
                other => PeerError::Untrusted(format!("{other:?}")),
            })
    }
}

fn unix_time(time: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// The trust in force; verifiers read it at every handshake, so that a new root counts at once.
#[derive(Debug)]
pub struct Trust {
    trust_domain: Arc<str>,
    aliases: Vec<Arc<str>>,
    roots: RwLock<Arc<RootSet>>,
    generation: watch::Sender<u64>,
    clock: Arc<dyn Clock>,
}

impl Trust {
    /// Trusts nobody until roots come.
    pub fn new(trust_domain: Arc<str>, aliases: Vec<Arc<str>>, clock: Arc<dyn Clock>) -> Arc<Self> {
        let (generation, _) = watch::channel(0);
        Arc::new(Self { trust_domain, aliases, roots: RwLock::default(), generation, clock })
    }

    pub(crate) fn roots(&self) -> Arc<RootSet> {
        Arc::clone(&self.roots.read())
    }

    /// Changes with each change of the set of roots: live connections are to be checked again.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// Grows with each change of the set of roots.
    pub fn generation(&self) -> u64 {
        *self.generation.borrow()
    }

    pub(crate) fn now(&self) -> SystemTime {
        self.clock.now()
    }

    /// Puts another set in force; true if it differs from the one before. An empty set is ignored: an answer
    /// without roots is refused before, and trust is never lost by accident.
    pub(crate) fn replace(&self, roots: RootSet) -> bool {
        {
            let mut current = self.roots.write();
            if roots.is_empty() || current.same_as(&roots) {
                return false;
            }
            *current = Arc::new(roots);
        }
        self.generation.send_modify(|generation| *generation += 1);
        true
    }

    /// The identity of a peer whose chain (leaf first) is valid now and of this trust domain or an alias.
    ///
    /// # Errors
    /// [`PeerError`]; `IdentityMismatch` is left to the caller.
    pub fn verify(&self, chain: &[CertificateDer<'_>], role: PeerRole) -> Result<Identity, PeerError> {
        self.roots().verify(chain, role, self.clock.now())?;
        let identity = peer_identity(chain)?;
        let domain = identity.trust_domain();
        if domain == &*self.trust_domain || self.aliases.iter().any(|alias| domain == &**alias) {
            Ok(identity)
        } else {
            Err(PeerError::ForeignTrustDomain { peer: identity, expected: self.trust_domain.to_string() })
        }
    }

    /// Whether the chain of a connection that is open still leads to a root. Its certificates may expire while
    /// it is open, which ends no connection: what counts is that the roots in force would have accepted it while
    /// it was valid.
    pub fn still_trusted(&self, chain: &[CertificateDer<'_>]) -> bool {
        let mut at = self.clock.now();
        for certificate in chain {
            let Ok(facts) = CertificateFacts::read(certificate) else { return false };
            at = at.min(facts.not_after.checked_sub(Duration::from_secs(1)).unwrap_or(UNIX_EPOCH));
        }
        let roots = self.roots();
        roots.verify(chain, PeerRole::Client, at).is_ok() || roots.verify(chain, PeerRole::Server, at).is_ok()
    }
}
