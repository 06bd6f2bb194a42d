//! A certificate with its key, checked before anything uses it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use meltemi_types::Identity;
use parking_lot::Mutex;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use crate::clock::renewal_age;
use crate::facts::CertificateFacts;
use crate::key::PrivateKey;
use crate::tls::{self, Alpn};
use crate::trust::{PeerRole, RootSet, Trust};
use crate::{CertificateError, Jitter};

/// Certificates below the root that an answer may carry.
pub(crate) const MOST_CHAIN: usize = 10;
/// Roots that an answer may carry.
pub(crate) const MOST_ROOTS: usize = 64;
/// Client configurations kept per certificate, one for each destination identity.
const MOST_CLIENT_CONFIGS: usize = 256;

/// The CA's answer, read.
#[derive(Clone, Debug)]
pub(crate) struct Chain {
    /// Leaf first, without the roots.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) roots: Vec<CertificateDer<'static>>,
}

impl Chain {
    /// Reads `IstioCertificateResponse.cert_chain`: the last element is the bundle of roots, the others are
    /// leaf and intermediates.
    pub(crate) fn read(answer: &[String]) -> Result<Self, String> {
        let Some((bundle, below)) = answer.split_last().filter(|(_, below)| !below.is_empty()) else {
            return Err(format!("want leaf, intermediates and the roots, got {} elements", answer.len()));
        };
        let chain = below.iter().map(|pem| certificates(pem)).collect::<Result<Vec<_>, _>>()?.concat();
        let roots = certificates(bundle)?;
        if chain.is_empty() || chain.len() > MOST_CHAIN {
            return Err(format!("{} certificates below the root, want 1 to {MOST_CHAIN}", chain.len()));
        }
        if roots.is_empty() || roots.len() > MOST_ROOTS {
            return Err(format!("{} roots, want 1 to {MOST_ROOTS}", roots.len()));
        }
        Ok(Self { chain, roots })
    }
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| format!("an element is not PEM: {error}"))
}

#[derive(Debug, Default)]
struct Configs {
    server: Vec<(Alpn, Arc<ServerConfig>)>,
    client: HashMap<(Alpn, Vec<Identity>), Arc<ClientConfig>>,
}

/// A checked certificate, its key, and the TLS configurations made from them. What it certifies never changes: a
/// renewal makes another.
#[derive(Debug)]
pub struct WorkloadCertificate {
    identity: Identity,
    key: PrivateKey,
    certified: Arc<CertifiedKey>,
    roots: Vec<CertificateDer<'static>>,
    not_before: SystemTime,
    not_after: SystemTime,
    obtained_at: SystemTime,
    renew_at: SystemTime,
    kept: AtomicBool,
    configs: Mutex<Configs>,
}

impl WorkloadCertificate {
    /// Checks everything that the asker can check: the key is ours, the name is what was asked for, the chain
    /// leads to the roots of the same answer for both usages, and it is valid `now`.
    ///
    /// # Errors
    /// `BadAnswer` naming the problem.
    pub(crate) fn check(
        identity: &Identity,
        key: PrivateKey,
        answer: Chain,
        obtained_at: SystemTime,
        now: SystemTime,
        jitter: &dyn Jitter,
    ) -> Result<(Self, RootSet), CertificateError> {
        let refuse = |problem: String| CertificateError::BadAnswer { identity: identity.clone(), problem };
        let facts = answer
            .chain
            .iter()
            .map(|certificate| CertificateFacts::read(certificate).map_err(refuse))
            .collect::<Result<Vec<_>, _>>()?;
        let leaf = facts.first().ok_or_else(|| refuse("there is no certificate".to_owned()))?;
        if leaf.public_key_info != key.public_key_info() {
            return Err(refuse("the certificate is for another key".to_owned()));
        }
        let named = leaf.identity().map_err(refuse)?;
        if named != *identity {
            return Err(refuse(format!("the certificate is for {named}")));
        }
        let roots = RootSet::new(&answer.roots).map_err(refuse)?;
        for role in [PeerRole::Client, PeerRole::Server] {
            roots.verify(&answer.chain, role, now).map_err(|error| refuse(error.to_string()))?;
        }
        let not_after = facts.iter().map(|facts| facts.not_after).min().unwrap_or(leaf.not_after);
        // A CA dates certificates back for the sake of slow clocks: what counts is the life that is left.
        let life = not_after.duration_since(obtained_at).unwrap_or_default();
        let certificate = Self {
            identity: identity.clone(),
            certified: Arc::new(CertifiedKey::new(answer.chain, Arc::new(key.clone()))),
            key,
            roots: roots.certificates(),
            not_before: leaf.not_before,
            not_after,
            obtained_at,
            renew_at: obtained_at + renewal_age(life, jitter),
            kept: AtomicBool::new(false),
            configs: Mutex::default(),
        };
        Ok((certificate, roots))
    }

    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Leaf first, without the roots.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    /// The roots that came with it.
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// The end of the shortest-lived certificate of the chain.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// When the CA's answer came.
    pub fn obtained_at(&self) -> SystemTime {
        self.obtained_at
    }

    /// Half of its life, spread by chance.
    pub fn renew_at(&self) -> SystemTime {
        self.renew_at
    }

    /// Whether the node agent keeps it for the next data plane.
    pub(crate) fn is_kept(&self) -> bool {
        self.kept.load(Ordering::Relaxed)
    }

    pub(crate) fn set_kept(&self, kept: bool) {
        self.kept.store(kept, Ordering::Relaxed);
    }

    pub fn is_valid_at(&self, time: SystemTime) -> bool {
        self.not_before <= time && time < self.not_after
    }

    pub(crate) fn key(&self) -> &PrivateKey {
        &self.key
    }

    /// For accepting as this identity; made once per list of protocols.
    ///
    /// # Errors
    /// `Tls` if rustls refuses the configuration.
    pub fn server_config(
        &self,
        trust: &Arc<Trust>,
        alpn: &Alpn,
    ) -> Result<Arc<ServerConfig>, CertificateError> {
        let mut configs = self.configs.lock();
        if let Some((_, config)) = configs.server.iter().find(|(known, _)| known == alpn) {
            return Ok(Arc::clone(config));
        }
        let config = Arc::new(tls::server_config(trust, &self.certified, alpn)?);
        configs.server.push((alpn.clone(), Arc::clone(&config)));
        Ok(config)
    }

    /// For connecting as this identity to one of `expected`; made once per pair.
    ///
    /// # Errors
    /// `Tls` if rustls refuses the configuration.
    pub fn client_config(
        &self,
        trust: &Arc<Trust>,
        expected: &[Identity],
        alpn: &Alpn,
    ) -> Result<Arc<ClientConfig>, CertificateError> {
        let key = (alpn.clone(), expected.to_vec());
        let mut configs = self.configs.lock();
        if let Some(config) = configs.client.get(&key) {
            return Ok(Arc::clone(config));
        }
        let config = Arc::new(tls::client_config(trust, &self.certified, expected, alpn)?);
        if configs.client.len() >= MOST_CLIENT_CONFIGS {
            configs.client.clear();
        }
        configs.client.insert(key, Arc::clone(&config));
        Ok(config)
    }
}
