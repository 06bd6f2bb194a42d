//! How a peer that has proved itself stands while its tunnel lives.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use rustls_pki_types::CertificateDer;

use crate::PeerError;
use crate::facts::CertificateFacts;
use crate::trust::{PeerRole, Trust};

/// A peer's chain, and when it was last found good. A tunnel outlives the handshake that opened it: what is
/// begun in it later is held to the roots and the time of then.
#[derive(Debug)]
pub struct Standing {
    chain: Arc<[CertificateDer<'static>]>,
    role: PeerRole,
    ends: SystemTime,
    /// The generation of the trust that the chain was last verified under.
    verified: AtomicU64,
}

impl Standing {
    /// `generation`: [`Trust::generation`] from before the handshake, so that roots that changed during it are
    /// asked again.
    ///
    /// # Errors
    /// If a certificate of the chain cannot be read.
    pub fn new(chain: &[CertificateDer<'_>], role: PeerRole, generation: u64) -> Result<Self, PeerError> {
        let chain: Arc<[_]> = chain.iter().map(|certificate| certificate.clone().into_owned()).collect();
        let mut ends = None::<SystemTime>;
        for certificate in chain.iter() {
            let read = CertificateFacts::read(certificate).map_err(PeerError::Untrusted)?;
            ends = Some(ends.map_or(read.not_after, |known| known.min(read.not_after)));
        }
        let ends = ends.ok_or_else(|| PeerError::Untrusted("there is no certificate".to_owned()))?;
        Ok(Self { chain, role, ends, verified: AtomicU64::new(generation) })
    }

    /// The leaf first.
    pub fn chain(&self) -> &Arc<[CertificateDer<'static>]> {
        &self.chain
    }

    /// Whether the peer may begin something new. Signatures are verified only where roots have changed since
    /// the last time.
    ///
    /// # Errors
    /// Why it may not: its certificate has expired, or leads to no root that is trusted now.
    pub fn check(&self, trust: &Trust) -> Result<(), PeerError> {
        if trust.now() > self.ends {
            return Err(PeerError::Expired);
        }
        // Read before the roots are: a change in between is noticed the next time.
        let generation = trust.generation();
        if self.verified.load(Ordering::Acquire) == generation {
            return Ok(());
        }
        trust.verify(&self.chain, self.role)?;
        self.verified.store(generation, Ordering::Release);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FixedJitter, TestCa, TokioClock};
    use crate::{CertificateStore, StoreOptions};
    use meltemi_telemetry::Metrics;
    use meltemi_types::Identity;
    use std::time::Duration;

    const LIFE: Duration = Duration::from_secs(600);

    #[tokio::test(start_paused = true)]
    async fn a_peer_stands_until_its_certificate_or_its_root_ends() {
        let clock = TokioClock::start();
        let ca = TestCa::new(clock.clone(), LIFE);
        let options = StoreOptions {
            trust_domain: "cluster.local".into(),
            trust_domain_aliases: Vec::new(),
            concurrent_requests: 1,
            clock,
            jitter: Arc::new(FixedJitter(0.5)),
        };
        let store = CertificateStore::new(options, ca.clone(), Metrics::new("ztunnel", "test"));
        let identity = Identity::new("cluster.local", "team", "a").unwrap();
        let _served = store.serve(&identity);
        let certificate = store.get(&identity, LIFE).await.unwrap();
        let trust = store.trust();
        let standing = || Standing::new(certificate.chain(), PeerRole::Client, trust.generation()).unwrap();
        let (expiring, outlived) = (standing(), standing());
        assert_eq!(outlived.check(trust), Ok(()));

        let second = ca.add_root();
        ca.set_roots(second, &[second]);
        let mut roots = trust.changes();
        store.renew(None);
        roots.changed().await.unwrap();
        assert!(matches!(outlived.check(trust), Err(PeerError::Untrusted(_))));

        tokio::time::advance(2 * LIFE).await;
        assert_eq!(expiring.check(trust), Err(PeerError::Expired));
        assert!(Standing::new(&[], PeerRole::Client, 0).is_err());
    }
}
