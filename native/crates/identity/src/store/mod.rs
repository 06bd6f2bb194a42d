//! The certificates of the identities that this node serves.

mod entry;
mod order;
mod renewal;
mod sealing;
mod slots;
#[cfg(test)]
mod tests;
mod view;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use meltemi_telemetry::Metrics;
use meltemi_types::Identity;
use parking_lot::Mutex;
use rustls::{ClientConfig, ServerConfig};
use tokio::sync::watch;

use self::entry::Entry;
use self::order::Order;
use self::slots::Slots;
use crate::ca::CaClient;
use crate::{Alpn, CertificateError, Clock, Jitter, Trust, WorkloadCertificate};

pub use view::{CertificateInfo, CertificateState, CertificateView, RootInfo};

/// Certificates younger than this are not asked for again because of a change of trust, so that CAs that
/// disagree about their roots are not asked in circles.
const SETTLE: Duration = Duration::from_secs(5);

/// What a store needs.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    pub trust_domain: Arc<str>,
    /// Further trust domains whose peers are accepted if their chain leads to a trusted root.
    pub trust_domain_aliases: Vec<Arc<str>>,
    /// Requests under way at a time.
    pub concurrent_requests: usize,
    pub clock: Arc<dyn Clock>,
    pub jitter: Arc<dyn Jitter>,
}

#[derive(Debug)]
struct Claims {
    references: usize,
    entry: Arc<Entry>,
}

#[derive(Debug)]
struct Shared {
    ca: Arc<dyn CaClient>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    jitter: Arc<dyn Jitter>,
    trust: Arc<Trust>,
    order: Order,
    slots: Slots,
    entries: Mutex<HashMap<Identity, Claims>>,
    /// From the sealed descriptor, until a pod claims them.
    unclaimed: Mutex<HashMap<Identity, Arc<WorkloadCertificate>>>,
    changes: watch::Sender<u64>,
}

impl Shared {
    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    fn entries(&self) -> Vec<Arc<Entry>> {
        self.entries.lock().values().map(|served| Arc::clone(&served.entry)).collect()
    }

    /// Own certificates that peers with the present roots would refuse are renewed now.
    fn renew_untrusted(&self) {
        let now = self.clock.now();
        for entry in self.entries() {
            let asked = entry.renew_if(|held| {
                now.duration_since(held.obtained_at()).is_ok_and(|age| age >= SETTLE)
                    && !self.trust.still_trusted(held.chain())
            });
            if asked {
                tracing::info!(identity = %entry.identity, "certificate leads to no trusted root, renewing");
            }
        }
    }
}

/// Keeps a valid certificate for each identity that is served, and the trust that came with them.
#[derive(Debug)]
pub struct CertificateStore {
    shared: Arc<Shared>,
}

/// A pod's claim on its identity. When the last claim is dropped, requests end and the key is wiped as soon as
/// the last connection made with it is gone.
#[derive(Debug)]
#[must_use = "the identity is served only while this lives"]
pub struct Served {
    identity: Identity,
    shared: Arc<Shared>,
}

impl Served {
    pub fn identity(&self) -> &Identity {
        &self.identity
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let removed = {
            let mut entries = self.shared.entries.lock();
            match entries.get_mut(&self.identity) {
                Some(served) if served.references > 1 => {
                    served.references -= 1;
                    None
                }
                Some(_) => entries.remove(&self.identity),
                None => None,
            }
        };
        if let Some(removed) = removed {
            removed.entry.ended.cancel();
            self.shared.changed();
        }
    }
}

impl CertificateStore {
    /// An empty store that trusts nobody yet.
    pub fn new(options: StoreOptions, ca: Arc<dyn CaClient>, metrics: Arc<Metrics>) -> Arc<Self> {
        let StoreOptions { trust_domain, trust_domain_aliases, concurrent_requests, clock, jitter } = options;
        let trust = Trust::new(trust_domain, trust_domain_aliases, Arc::clone(&clock));
        Arc::new(Self {
            shared: Arc::new(Shared {
                ca,
                metrics,
                clock,
                jitter,
                trust,
                order: Order::default(),
                slots: Slots::new(concurrent_requests),
                entries: Mutex::default(),
                unclaimed: Mutex::default(),
                changes: watch::channel(0).0,
            }),
        })
    }

    /// Serves an identity for as long as the answer lives. The first claim starts a request (or takes what the
    /// sealed descriptor held). To be called inside of a runtime.
    pub fn serve(&self, identity: &Identity) -> Served {
        let shared = &self.shared;
        let mut entries = shared.entries.lock();
        let served = entries.entry(identity.clone()).or_insert_with(|| {
            let restored = shared.unclaimed.lock().remove(identity);
            let entry = Arc::new(Entry::new(identity.clone(), restored));
            tokio::spawn(renewal::keep_fresh(Arc::clone(shared), Arc::clone(&entry)));
            Claims { references: 0, entry }
        });
        served.references += 1;
        drop(entries);
        Served { identity: identity.clone(), shared: Arc::clone(shared) }
    }

    fn entry(&self, identity: &Identity) -> Option<Arc<Entry>> {
        self.shared.entries.lock().get(identity).map(|served| Arc::clone(&served.entry))
    }

    /// The certificate if it is valid now; does not wait.
    pub fn current(&self, identity: &Identity) -> Option<Arc<WorkloadCertificate>> {
        self.entry(identity)?.valid(self.shared.clock.now())
    }

    /// The certificate; waits for it at most for `wait`, and has it requested before those that nobody waits
    /// for.
    ///
    /// # Errors
    /// `NotServed` (also when the last claim is dropped while waiting), `NotYet` with the last failure.
    pub async fn get(
        &self,
        identity: &Identity,
        wait: Duration,
    ) -> Result<Arc<WorkloadCertificate>, CertificateError> {
        let entry = self.entry(identity).ok_or_else(|| CertificateError::NotServed(identity.clone()))?;
        if let Some(certificate) = entry.valid(self.shared.clock.now()) {
            return Ok(certificate);
        }
        entry.wait(&*self.shared.clock, wait).await
    }

    /// For accepting as `identity`; cached until the certificate is renewed.
    ///
    /// # Errors
    /// As [`CertificateStore::get`], and `Tls`.
    pub async fn server_config(
        &self,
        identity: &Identity,
        alpn: &Alpn,
        wait: Duration,
    ) -> Result<Arc<ServerConfig>, CertificateError> {
        self.get(identity, wait).await?.server_config(&self.shared.trust, alpn)
    }

    /// For connecting as `identity` to one of `expected`; cached until the certificate is renewed.
    ///
    /// # Errors
    /// As [`CertificateStore::get`], and `Tls`.
    pub async fn client_config(
        &self,
        identity: &Identity,
        expected: &[Identity],
        alpn: &Alpn,
        wait: Duration,
    ) -> Result<Arc<ClientConfig>, CertificateError> {
        self.get(identity, wait).await?.client_config(&self.shared.trust, expected, alpn)
    }

    /// Requests certificates again now: those whose `not_before` is at or before the time, or all. The old ones
    /// stay in use until the answers come. How many.
    pub fn renew(&self, not_before_until: Option<SystemTime>) -> usize {
        let old =
            |held: &WorkloadCertificate| not_before_until.is_none_or(|until| held.not_before() <= until);
        self.shared.entries().iter().filter(|entry| entry.renew_if(old)).count()
    }

    pub fn trust(&self) -> &Arc<Trust> {
        &self.shared.trust
    }

    /// Changes whenever a certificate is replaced or removed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    /// Ends all requests and renewals; certificates in use stay valid.
    pub fn shut_down(&self) {
        for entry in self.shared.entries() {
            entry.ended.cancel();
        }
    }
}
